"""The labs that tests of single programs share: one a routing mode and test file, emptied before each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .lab import Lab, lab


@pytest.fixture(scope="module")
def native() -> Iterator[Lab]:
    with lab("native") as found:
        yield found


@pytest.fixture(scope="module")
def vxlan() -> Iterator[Lab]:
    with lab("vxlan", mtu=1450) as found:
        yield found


@pytest.fixture(params=["native", "vxlan"])
def either(request: pytest.FixtureRequest) -> Lab:
    found: Lab = request.getfixturevalue(request.param)
    found.forget()
    return found


@pytest.fixture
def net(native: Lab) -> Lab:
    native.forget()
    return native
