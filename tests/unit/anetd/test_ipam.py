"""The allocator against its promises, under whatever order of ADDs and DELs."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from agent.cni.ipam import REST_SECONDS, Address, Allocator, Pool, UsedUpError


def test_special_addresses_are_never_given() -> None:
    pool = Pool(ip_network("10.0.0.0/29"))
    assert [str(pool.allocate(0.0)) for _ in range(pool.capacity)] == [f"10.0.0.{n}" for n in range(2, 7)]


@pytest.mark.parametrize("cidr", ["10.0.0.0/31", "10.0.0.0/32", "10.0.0.0/30", "fd00::/127", "fd00::/126"])
def test_small_networks_give_what_they_have_and_then_say_so(cidr: str) -> None:
    pool = Pool(ip_network(cidr))
    for _ in range(pool.capacity):
        pool.allocate(0.0)
    with pytest.raises(UsedUpError, match=cidr):
        pool.allocate(0.0)


def test_a_large_ipv6_network_costs_nothing() -> None:
    pool = Pool(ip_network("fd00::/64"))
    assert str(pool.allocate(0.0)) == "fd00::2"


def test_a_released_address_rests_while_there_are_others() -> None:
    pool = Pool(ip_network("10.0.0.0/28"))
    first = pool.allocate(0.0)
    pool.release(first, 1.0)
    given_out = [pool.allocate(2.0) for _ in range(pool.capacity - 1)]
    assert first not in given_out


def test_when_the_pool_is_short_the_longest_rested_comes_first() -> None:
    pool = Pool(ip_network("10.0.0.0/29"))
    held = [pool.allocate(0.0) for _ in range(5)]
    for when, address in enumerate((held[3], held[0], held[4])):
        pool.release(address, float(when))
    assert [pool.allocate(3.0) for _ in range(3)] == [held[3], held[0], held[4]]


def test_one_family_used_up_takes_nothing_of_the_other() -> None:
    allocator = Allocator([ip_network("fd00::/64"), ip_network("10.0.0.0/30")])
    allocator.allocate(0.0)
    with pytest.raises(UsedUpError):
        allocator.allocate(0.0)
    assert [pool.taken for pool in allocator.pools] == [1, 1]


def test_what_another_process_released_rests_too() -> None:
    allocator = Allocator([ip_network("10.0.0.0/28")])
    allocator.rest({ip_address("10.0.0.2"): -5.0, ip_address("10.9.9.9"): -5.0})
    assert allocator.allocate(0.0) == (ip_address("10.0.0.3"),)


class PoolMachine(RuleBasedStateMachine):
    """A pool of thirteen addresses and a clock that only goes forward."""

    held: Bundle[Address] = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(ip_network("10.0.0.0/28"))
        self.now = 0.0
        self.taken: set[Address] = set()
        self.released: dict[Address, float] = {}

    @rule(seconds=st.floats(0, 100))
    def passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=held)
    def allocate(self) -> Address:
        try:
            address = self.pool.allocate(self.now)
        except UsedUpError:
            assert len(self.taken) == self.pool.capacity
            return multiple()
        assert address not in self.taken
        assert address in self.pool.network
        rested = self.now - self.released.get(address, float("-inf"))
        fresh = [
            other
            for other in map(ip_address, range(int(ip_address("10.0.0.2")), int(ip_address("10.0.0.15"))))
            if other not in self.taken and self.now - self.released.get(other, float("-inf")) >= REST_SECONDS
        ]
        assert rested >= REST_SECONDS or not fresh
        self.taken.add(address)
        return address

    @rule(address=consumes(held))
    def release(self, address: Address) -> None:
        self.pool.release(address, self.now)
        self.taken.discard(address)
        self.released[address] = self.now

    @invariant()
    def counts(self) -> None:
        assert self.pool.taken == len(self.taken)


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.lists(st.integers(0, 300), max_size=20))
def test_reserving_takes_each_address_once_and_only_its_own(numbers: list[int]) -> None:
    pool = Pool(ip_network("10.0.0.0/24"))
    for number in numbers:
        pool.reserve(ip_address("10.0.0.0") + number)
    assert pool.taken == len({number for number in numbers if 2 <= number <= 254})
