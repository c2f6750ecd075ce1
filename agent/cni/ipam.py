"""Which address a pod gets. Pure: time is handed in, nothing is read or written.

Invariants: an address is held by one attachment at a time; network, broadcast and the first host address of a pod CIDR (taken for a
gateway by much software) are never given; a released address rests for `REST_SECONDS`, and when the pool has nothing
else, the one released longest ago is given first. Allocation walks the pool upwards, so addresses come back late by themselves.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

REST_SECONDS = 60.0
_WALK_LIMIT = 1 << 16
"""Addresses of one CIDR that are ever given: more pods than a node can run, and an IPv6 /64 must not be walked."""


class UsedUpError(Exception):
    """`network` has no address left; `capacity` is how many it has."""

    def __init__(self, network: Network, capacity: int) -> None:
        super().__init__(
            f"no address left in {network}: all {capacity} of the node's pod CIDR are in use; "
            "delete pods of this node, lower kubelet's maxPods, or give nodes a larger pod CIDR"
        )
        self.network = network
        self.capacity = capacity


@dataclass(frozen=True, slots=True)
class Span:
    """The addresses of a CIDR that pods may have: `capacity` of them, from `first` on."""

    network: Network
    first: int
    capacity: int

    def at(self, offset: int) -> Address:
        """The address at an offset."""
        return ipaddress.ip_address(self.network[0].packed) + (self.first + offset)

    def offset_of(self, address: Address) -> int | None:
        """Where an address is in the span, None if it is not."""
        if address.version != self.network.version or address not in self.network:
            return None
        offset = int(address) - int(self.network.network_address) - self.first
        return offset if 0 <= offset < self.capacity else None


def span(network: Network) -> Span:
    """What of `network` pods may have. A network too small for its special addresses has nothing."""
    total = network.num_addresses
    last_taken = 1 if network.version == 4 else 0
    return Span(network, first=2, capacity=min(max(total - 2 - last_taken, 0), _WALK_LIMIT))


class Pool:
    """The addresses of one pod CIDR."""

    def __init__(self, network: Network) -> None:
        self._span = span(network)
        self._taken: set[int] = set()
        self._resting: OrderedDict[int, float] = OrderedDict()
        self._next = 0

    @property
    def network(self) -> Network:
        """The pod CIDR."""
        return self._span.network

    @property
    def capacity(self) -> int:
        """How many pods can have an address at once."""
        return self._span.capacity

    @property
    def taken(self) -> int:
        """How many have one."""
        return len(self._taken)

    def contains(self, address: Address) -> bool:
        """Whether the pool could give `address`."""
        return self._span.offset_of(address) is not None

    def reserve(self, address: Address) -> bool:
        """Take a given address (of a pod that is there already); False when it is taken or not of this pool."""
        offset = self._span.offset_of(address)
        if offset is None or offset in self._taken:
            return False
        self._take(offset)
        return True

    def allocate(self, now: float) -> Address:
        """The next address that is free and rested. Raises `UsedUpError`."""
        self._wake(now)
        if len(self._taken) >= self.capacity:
            raise UsedUpError(self.network, self.capacity)
        if len(self._taken) + len(self._resting) >= self.capacity:
            offset = next(iter(self._resting))
        else:
            offset = self._next
            while offset in self._taken or offset in self._resting:
                offset = (offset + 1) % self.capacity
        self._take(offset)
        return self._span.at(offset)

    def release(self, address: Address, now: float) -> None:
        """Give an address back; it rests. One that is not taken is ignored."""
        offset = self._span.offset_of(address)
        if offset is not None and offset in self._taken:
            self._taken.discard(offset)
            self._resting[offset] = now

    def rest(self, address: Address, now: float) -> None:
        """An address that an earlier process released at `now` rests here too. To be called in order of time."""
        offset = self._span.offset_of(address)
        if offset is not None and offset not in self._taken:
            self._resting[offset] = now

    def _take(self, offset: int) -> None:
        self._taken.add(offset)
        self._resting.pop(offset, None)
        self._next = (offset + 1) % self.capacity

    def _wake(self, now: float) -> None:
        for offset, released in list(self._resting.items()):
            if now - released < REST_SECONDS:
                break
            del self._resting[offset]


class Allocator:
    """One pool per pod CIDR of the node: an attachment gets one address of each."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self.pools = [Pool(network) for network in networks]

    def allocate(self, now: float) -> tuple[Address, ...]:
        """One address of every pool, or none at all. Raises `UsedUpError`."""
        got: list[Address] = []
        for pool in self.pools:
            try:
                got.append(pool.allocate(now))
            except UsedUpError:
                self.release(got, now)
                raise
        return tuple(got)

    def reserve(self, addresses: Iterable[Address]) -> None:
        """Take what is in use already; addresses of other networks (an earlier pod CIDR) are left alone."""
        for address in addresses:
            for pool in self.pools:
                pool.reserve(address)

    def rest(self, released: Mapping[Address, float]) -> None:
        """What an earlier process released, and when (on the clock of `allocate`)."""
        for address, when in sorted(released.items(), key=lambda item: item[1]):
            for pool in self.pools:
                pool.rest(address, when)

    def release(self, addresses: Iterable[Address], now: float) -> None:
        """Give back; unknown addresses are ignored."""
        for address in addresses:
            for pool in self.pools:
                pool.release(address, now)
