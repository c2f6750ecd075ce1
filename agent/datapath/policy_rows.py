"""The rows of NetworkPolicy's tables as Python values: the counterpart of that part of bpf/abi.h.

The invariants of `agent.datapath.abi` hold. Pure.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from agent.datapath.abi import Codec, IPAddress, pack_address, unpack_address

CLASS_ANY = 0xFFFFFFFF
CLASS_NONE = 0
PREFIX_ANY, PREFIX_PROTOCOL, PREFIX_PORT = 64, 80, 96
"""Of policies' keys: all protocols, all of a protocol, one port."""


class Direction(IntEnum):
    """`enum policy_direction`, from the pod that is isolated."""

    INGRESS = 0
    EGRESS = 1


class IsolationFlag(IntFlag):
    """`enum isolation_flag`."""

    LOG_INGRESS = 1
    LOG_EGRESS = 2


_NO_ISOLATION_FLAGS = IsolationFlag(0)


@dataclass(frozen=True, slots=True)
class Isolation:
    """The sets of rules that judge a local pod; 0: it is not isolated in that direction."""

    ingress_set: int
    egress_set: int
    flags: IsolationFlag = _NO_ISOLATION_FLAGS


@dataclass(frozen=True, slots=True)
class PolicyKey:
    """A set, a peer's class, and so much of protocol and port as `prefix` (64, 80, or up to 96 bits) says; the rest is 0."""

    set: int
    peer_class: int
    protocol: int = 0
    port: int = 0
    prefix: int = PREFIX_ANY


class PolicyFlag(IntFlag):
    """`enum policy_flag`."""

    LOG = 1


_NO_POLICY_FLAGS = PolicyFlag(0)


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """The rule that allows; never 0."""

    rule: int
    flags: PolicyFlag = _NO_POLICY_FLAGS


@dataclass(frozen=True, slots=True)
class PolicyCountKey:
    """`rule` 0: what the set denied."""

    set: int
    rule: int


@dataclass(frozen=True, slots=True)
class PolicyCount:
    """What was judged: a flow's first packet and one after each change; of what is denied every packet."""

    packets: int
    bytes: int


def sum_policy_counts(counts: Iterable[PolicyCount]) -> PolicyCount:
    """One count out of one a CPU."""
    parts = list(counts)
    return PolicyCount(sum(c.packets for c in parts), sum(c.bytes for c in parts))


@dataclass(frozen=True, slots=True)
class Verdict:
    """A record of `verdicts`. `time`: CLOCK_MONOTONIC in ns. `count`: packets that it stands for. ICMP's ports are as in conntrack."""

    time: int
    source: IPAddress
    destination: IPAddress
    source_port: int
    destination_port: int
    protocol: int
    direction: Direction
    allowed: bool
    set: int
    rule: int
    count: int


@dataclass(frozen=True, slots=True)
class DenialKey:
    """What is denied again and again: a connection without its source port."""

    source: IPAddress
    destination: IPAddress
    destination_port: int
    protocol: int
    direction: Direction


@dataclass(frozen=True, slots=True)
class Denial:
    """One CPU's, or the sum: when it was last told (CLOCK_MONOTONIC, ns; 0: never), how many packets since then were not and when the
    first of them was, and the set that denied."""

    told_at: int
    untold: int
    untold_since: int = 0
    set: int = 0


def sum_denials(parts: Iterable[Denial]) -> Denial:
    """One out of one a CPU."""
    found = list(parts)
    waiting = [d.untold_since for d in found if d.untold]
    return Denial(
        max(d.told_at for d in found), sum(d.untold for d in found), min(waiting, default=0), next((d.set for d in found if d.set), 0)
    )


@dataclass(frozen=True, slots=True)
class LastDrop:
    """What a CPU's programs dropped last. `time`: CLOCK_MONOTONIC in ns, 0 before the first; reason and direction as in `abi.DropKey`."""

    time: int
    policy_set: int
    reason: int
    direction: int


class VerdictLoss(IntEnum):
    """`enum verdict_loss`."""

    RING_FULL = 0
    OVER_BUDGET = 1


_ISOLATION = struct.Struct("=IIII")
_POLICY_KEY = struct.Struct("=III")
_PAIR = struct.Struct("=II")
_COUNT = struct.Struct("=QQ")
_VERDICT = struct.Struct("=Q16s16s2s2sBBBxIIIxxxx")
_DENIAL = struct.Struct("=QQII")
_LAST_DROP = struct.Struct("=QIBBxx")


def _pack_policy_key(k: PolicyKey) -> bytes:
    return _POLICY_KEY.pack(k.prefix, k.set, k.peer_class) + k.protocol.to_bytes(2, "big") + k.port.to_bytes(2, "big")


def _unpack_policy_key(data: bytes) -> PolicyKey:
    prefix, set_, peer_class = _POLICY_KEY.unpack(data[:12])
    return PolicyKey(set_, peer_class, int.from_bytes(data[12:14], "big"), int.from_bytes(data[14:16], "big"), prefix)


def _unpack_isolation(data: bytes) -> Isolation:
    ingress, egress, flags, _ = _ISOLATION.unpack(data)
    return Isolation(ingress, egress, IsolationFlag(flags))


def unpack_verdict(data: bytes) -> Verdict:
    """A record as the ring has it. Raises `struct.error` for one of another size."""
    time, source, destination, source_port, destination_port, protocol, direction, allowed, set_, rule, count = _VERDICT.unpack(data)
    return Verdict(
        time,
        unpack_address(source),
        unpack_address(destination),
        int.from_bytes(source_port, "big"),
        int.from_bytes(destination_port, "big"),
        protocol,
        Direction(direction),
        bool(allowed),
        set_,
        rule,
        count,
    )


def _pack_denial_key(k: DenialKey) -> bytes:
    return (
        pack_address(k.source)
        + pack_address(k.destination)
        + k.destination_port.to_bytes(2, "big")
        + bytes((k.protocol, k.direction, 0, 0, 0, 0))
    )


def _unpack_denial_key(data: bytes) -> DenialKey:
    port = int.from_bytes(data[32:34], "big")
    return DenialKey(unpack_address(data[:16]), unpack_address(data[16:32]), port, data[34], Direction(data[35]))


def _unpack_denial(told_at: int, untold_since: int, untold: int, set_: int) -> Denial:
    return Denial(told_at, untold, untold_since, set_)


ISOLATION: Codec[Isolation] = Codec("isolation", 16, lambda r: _ISOLATION.pack(r.ingress_set, r.egress_set, r.flags, 0), _unpack_isolation)
CLASS: Codec[int] = Codec("", 4, lambda value: value.to_bytes(4, sys.byteorder), lambda data: int.from_bytes(data, sys.byteorder))
POLICY_KEY: Codec[PolicyKey] = Codec("policy_key", 16, _pack_policy_key, _unpack_policy_key)
POLICY_ROW: Codec[PolicyRow] = Codec(
    "policy_row",
    8,
    lambda r: _PAIR.pack(r.rule, r.flags),
    lambda data: PolicyRow(_PAIR.unpack(data)[0], PolicyFlag(_PAIR.unpack(data)[1])),
)
POLICY_COUNT_KEY: Codec[PolicyCountKey] = Codec(
    "policy_count_key", 8, lambda k: _PAIR.pack(k.set, k.rule), lambda data: PolicyCountKey(*_PAIR.unpack(data))
)
POLICY_COUNT: Codec[PolicyCount] = Codec(
    "policy_count", 16, lambda c: _COUNT.pack(c.packets, c.bytes), lambda data: PolicyCount(*_COUNT.unpack(data))
)
DENIAL_KEY: Codec[DenialKey] = Codec("denial_key", 40, _pack_denial_key, _unpack_denial_key)
DENIAL: Codec[Denial] = Codec(
    "denial", 24, lambda d: _DENIAL.pack(d.told_at, d.untold_since, d.untold, d.set), lambda data: _unpack_denial(*_DENIAL.unpack(data))
)
LAST_DROP: Codec[LastDrop] = Codec(
    "last_drop", 16, lambda d: _LAST_DROP.pack(d.time, d.policy_set, d.reason, d.direction), lambda data: LastDrop(*_LAST_DROP.unpack(data))
)
LOSS_KEY: Codec[int] = CLASS
LOSS_COUNT: Codec[int] = Codec("", 8, lambda value: value.to_bytes(8, sys.byteorder), lambda data: int.from_bytes(data, sys.byteorder))
VERDICT_SIZE = _VERDICT.size
