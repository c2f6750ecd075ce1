"""The networks that ipBlocks name, as a partition of the address space. Pure.

Every network and every exception of a block is a node. Addresses below the same longest node are in the same blocks, so a node's row in the
table of classes answers for all of them.

An IPv4 address is ::ffff:a.b.c.d in the kernel, where a row of `::/0` would answer for it too. So a node above ::ffff:0:0/96 brings
0.0.0.0/0 along, which says what IPv4 addresses that are in no other node have, namely nothing.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network

from agent.datapath.abi import IPAddress, IPNetwork
from agent.watch.policy_records import Block

WIDTH = {4: 32, 6: 128}
MAPPED_BITS = {4: 96, 6: 0}
"""What the kernel's prefix has before that of the family."""
MAPPED = IPv6Network("::ffff:0:0/96")
ALL_IPV4 = IPv4Network("0.0.0.0/0")


@dataclass(eq=False, slots=True)
class Node:
    """`terms`: ids of the blocks that all its addresses have but those of nodes below it; `uses`: how many blocks name it."""

    network: IPNetwork
    uses: int = 0
    terms: frozenset[int] = frozenset()
    inside: set[int] = field(default_factory=set)
    outside: set[int] = field(default_factory=set)


class _Family:
    """Nodes of one IP version by prefix length and the bits of the prefix."""

    def __init__(self, version: int) -> None:
        self.width = WIDTH[version]
        self.nodes: dict[tuple[int, int], Node] = {}
        self.lengths: list[int] = []
        self._counts = Counter[int]()
        self._order: list[tuple[int, int]] = []

    def at(self, network: IPNetwork) -> Node:
        """Raises `KeyError` where there is none."""
        length = network.prefixlen
        return self.nodes[length, int(network.network_address) >> (self.width - length)]

    def make(self, network: IPNetwork, again: Node | None) -> Node:
        length, value = network.prefixlen, int(network.network_address)
        node = self.nodes[length, value >> (self.width - length)] = again or Node(network)
        insort(self._order, (value, length))
        self._counts[length] += 1
        self.lengths = sorted(self._counts)
        return node

    def drop(self, network: IPNetwork) -> None:
        length, value = network.prefixlen, int(network.network_address)
        del self.nodes[length, value >> (self.width - length)]
        del self._order[bisect_left(self._order, (value, length))]
        self._counts[length] -= 1
        self.lengths = sorted(+self._counts)

    def above(self, value: int, length: int) -> Iterator[Node]:
        """From the shortest to the longest prefix of an address' first bits."""
        for each in self.lengths:
            if each > length:
                return
            node = self.nodes.get((each, value >> (self.width - each)))
            if node is not None:
                yield node

    def below(self, network: IPNetwork) -> Iterator[Node]:
        """The nodes in a network, itself included."""
        first, length = int(network.network_address), network.prefixlen
        end = first + (1 << (self.width - length))
        for place in range(bisect_left(self._order, (first, length)), len(self._order)):
            value, each = self._order[place]
            if value >= end:
                return
            yield self.nodes[each, value >> (self.width - each)]


class Networks:
    """The nodes of both families."""

    def __init__(self) -> None:
        self._families = {4: _Family(4), 6: _Family(6)}
        self._dirty: set[Node] = set()
        self._gone: dict[IPNetwork, Node] = {}

    def add(self, term: int, block: Block) -> None:
        """Have a block cut the space."""
        for network in _named(block):
            self._use(network)
        self._mark(term, block, set.add)

    def remove(self, term: int, block: Block) -> None:
        """Undo `add`."""
        self._mark(term, block, set.discard)
        for network in _named(block):
            self._unuse(network)

    def take(self) -> tuple[set[Node], list[Node]]:
        """The nodes that are new or may be in other blocks, and those that are gone, since the last time."""
        dirty, gone = self._dirty, list(self._gone.values())
        self._dirty, self._gone = set(), {}
        return dirty, gone

    def _mark(self, term: int, block: Block, change: Callable[[set[int], int], None]) -> None:
        family = self._families[block.network.version]
        for number, network in enumerate((block.network, *block.excepts)):
            node = self._families[network.version].at(network)
            change(node.outside if number else node.inside, term)
        self._dirty.update(family.below(block.network))

    def _use(self, network: IPNetwork) -> None:
        family = self._families[network.version]
        try:
            node = family.at(network)
        except KeyError:
            # One that went in the same round comes back as it was: its row stands.
            node = family.make(network, self._gone.pop(network, None))
            self._dirty.add(node)
            if _is_above_ipv4(network):
                self._use(ALL_IPV4)
        node.uses += 1

    def _unuse(self, network: IPNetwork) -> None:
        family = self._families[network.version]
        node = family.at(network)
        node.uses -= 1
        if not node.uses:
            family.drop(network)
            self._dirty.discard(node)
            self._gone[network] = node
            if _is_above_ipv4(network):
                self._unuse(ALL_IPV4)

    def resolve(self, node: Node) -> frozenset[int]:
        """The blocks that a node's addresses are in."""
        family, length = self._families[node.network.version], node.network.prefixlen
        return _blocks(family.above(int(node.network.network_address), length))

    def find(self, address: IPAddress) -> Node | None:
        """The longest node that an address is in."""
        family, value = self._families[address.version], int(address)
        for length in reversed(family.lengths):
            node = family.nodes.get((length, value >> (family.width - length)))
            if node is not None:
                return node
        return None

    def __len__(self) -> int:
        return sum(len(family.nodes) for family in self._families.values())


def _blocks(nodes: Iterable[Node]) -> frozenset[int]:
    inside, outside = set[int](), set[int]()
    for node in nodes:
        inside |= node.inside
        outside |= node.outside
    return frozenset(inside - outside)


def _named(block: Block) -> list[IPNetwork]:
    return list(dict.fromkeys((block.network, *block.excepts)))


def _is_above_ipv4(network: IPNetwork) -> bool:
    return isinstance(network, IPv6Network) and network.supernet_of(MAPPED)


def mapped(address: IPAddress) -> int:
    """An address as the kernel orders it, IPv4 as ::ffff:a.b.c.d."""
    return int(address) | 0xFFFF << 32 if address.version == 4 else int(address)


def host_network(address: IPAddress) -> IPNetwork:
    """The network of one address."""
    return ip_network((address, WIDTH[address.version]))
