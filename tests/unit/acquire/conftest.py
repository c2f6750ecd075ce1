"""A cache of the test's own, a deadline that a test can let pass, and progress lines to look at."""

from __future__ import annotations

import pytest

from provisioner import errors


class FakeDeadline:
    def __init__(self) -> None:
        self.over = False

    def remaining(self) -> float:
        return 0.0 if self.over else 60.0

    def check(self, doing: str) -> None:
        if self.over:
            raise errors.Timeout(f"{doing} took too long")


@pytest.fixture
def deadline() -> FakeDeadline:
    return FakeDeadline()


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    directory = tmp_path / "xdg"
    monkeypatch.setenv("XDG_CACHE_HOME", str(directory))
    return directory / "provisioner"
