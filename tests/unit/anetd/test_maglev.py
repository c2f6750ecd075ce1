"""Maglev's table: the same on every node, in fair shares, and little changed by a backend that goes."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address, IPv6Address
from random import Random

import pytest

from agent.datapath.abi import MAGLEV_SIZE, Backend
from agent.services.maglev import populate


def backends(count: int) -> list[Backend]:
    return [Backend(IPv4Address(0x0A010000 + number), 8080, 6) for number in range(count)]


def meanings(members: list[Backend], seed: int) -> list[Backend]:
    """The table in terms of backends, for a node that knows them in some order by some numbers."""
    shuffled = list(members)
    Random(seed).shuffle(shuffled)
    numbered = {1000 * seed + number: backend for number, backend in enumerate(shuffled, 1)}
    return [numbered[number] for number in populate(numbered.items())]


@pytest.mark.parametrize("count", [1, 2, 3, 20, 100])
def test_nodes_with_other_numbers_and_another_order_have_the_same_table_with_fair_shares(count: int) -> None:
    members = backends(count)
    table = meanings(members, 1)
    assert table == meanings(members, 2)
    assert len(table) == MAGLEV_SIZE
    shares = Counter(table)
    assert set(shares) == set(members)
    assert max(shares.values()) - min(shares.values()) <= 1


def test_a_backend_that_goes_changes_little_for_the_others() -> None:
    members = backends(10)
    before, after = meanings(members, 1), meanings(members[1:], 1)
    moved = sum(a != b for a, b in zip(before, after, strict=True) if a != members[0])
    assert moved < MAGLEV_SIZE * 0.1


def test_the_port_and_the_family_are_part_of_what_is_hashed() -> None:
    one, two = Backend(IPv4Address("10.1.0.1"), 80, 6), Backend(IPv4Address("10.1.0.1"), 81, 6)
    six = Backend(IPv6Address("fd00::1"), 80, 6)
    assert len(Counter(meanings([one, two, six], 1))) == 3


def test_more_backends_than_places_is_no_trouble() -> None:
    assert len(set(meanings(backends(MAGLEV_SIZE + 10), 1))) == MAGLEV_SIZE
