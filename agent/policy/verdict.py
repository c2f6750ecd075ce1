"""What the kernel makes of the policy tables' rows: the lookup of bpf/lib/policy.h in Python. Pure.

For tests, and to hold what `explain` says against what is in the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.datapath.abi import IPAddress, IPNetwork
from agent.datapath.policy_rows import CLASS_ANY, CLASS_NONE, PREFIX_ANY, Direction, Isolation, PolicyKey, PolicyRow
from agent.policy.inputs import POLICY_TABLES, Rows
from agent.policy.networks import MAPPED_BITS, mapped
from agent.policy.portprefix import PROTOCOL_BITS, SPAN_BITS, cut

_LENGTHS = (*range(SPAN_BITS, PROTOCOL_BITS - 1, -1), 0)
"""No row ends within the protocol."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """`set` 0: the pod is not isolated in that direction. `row` None: denied, if it is."""

    allowed: bool
    set: int = 0
    peer_class: int = 0
    row: PolicyRow | None = None


@dataclass(slots=True)
class Tables:
    """The three tables as the kernel has them."""

    policies: dict[PolicyKey, PolicyRow] = field(default_factory=dict)
    classes: dict[IPNetwork, int] = field(default_factory=dict)
    isolation: dict[IPAddress, Isolation] = field(default_factory=dict)

    def apply(self, rows: Rows) -> None:
        """Write a round."""
        for table in POLICY_TABLES:
            getattr(self, table).update(rows.puts.get(table, {}))
        for table in reversed(POLICY_TABLES):
            for key in rows.deletes.get(table, ()):
                getattr(self, table).pop(key, None)

    def class_of(self, address: IPAddress) -> int:
        """Of the longest row that covers an address, IPv4 in its place among IPv6 as in the kernel."""
        return _longest(self.classes, address)

    def judge(self, pod: IPAddress, peer: IPAddress, direction: Direction, protocol: int, port: int = 0) -> Judgement:
        """Whether a packet between a local pod and a peer passes, in the direction seen from the pod. `port` is the destination's."""
        isolation = self.isolation.get(pod, Isolation(0, 0))
        number = isolation.ingress_set if direction is Direction.INGRESS else isolation.egress_set
        if not number:
            return Judgement(allowed=True)
        peer_class = self.class_of(peer)
        for each in (peer_class, CLASS_ANY):
            row = self._row(number, each, protocol << 16 | port)
            if row is not None:
                return Judgement(True, number, peer_class, row)
        return Judgement(False, number, peer_class)

    def _row(self, number: int, peer_class: int, value: int) -> PolicyRow | None:
        for length in _LENGTHS:
            bits = cut(value, length)
            row = self.policies.get(PolicyKey(number, peer_class, bits >> 16, bits & 0xFFFF, PREFIX_ANY + length))
            if row is not None:
                return row
        return None


def _longest(classes: Mapping[IPNetwork, int], address: IPAddress) -> int:
    best, found = -1, CLASS_NONE
    value = mapped(address)
    for network, number in classes.items():
        length = network.prefixlen + MAPPED_BITS[network.version]
        if length > best and value >> (128 - length) == mapped(network.network_address) >> (128 - length):
            best, found = length, number
    return found
