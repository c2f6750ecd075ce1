"""NetworkPolicies in words: selectors, peers, ports and rules, as they are explained. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from agent.datapath.policy_rows import Direction
from agent.policy.portprefix import HIGHEST_PORT
from agent.watch.policy_records import Operator, Peer, PolicyPort, Requirement, Rule, Selector
from agent.watch.records import PROTOCOL_NAMES

_NAMES = {**PROTOCOL_NAMES, 1: "ICMP", 58: "ICMPv6"}


def protocol_name(number: int) -> str:
    return _NAMES.get(number, f"protocol {number}")


def selector(given: Selector) -> str:
    """As kubectl writes label selectors."""
    return ",".join(map(requirement, given.requirements))


def requirement(given: Requirement) -> str:
    """As in a label selector of kubectl."""
    values = ",".join(given.values)
    if given.operator is Operator.IN:
        return f"{given.key}={values}" if len(given.values) == 1 else f"{given.key} in ({values})"
    if given.operator is Operator.NOT_IN:
        return f"{given.key}!={values}" if len(given.values) == 1 else f"{given.key} notin ({values})"
    return given.key if given.operator is Operator.EXISTS else f"!{given.key}"


def peer(given: Peer, namespace: str) -> str:
    """`namespace`: the policy's."""
    if given.block is not None:
        excepts = ", ".join(map(str, given.block.excepts))
        return f"{given.block.network}{f' except {excepts}' if excepts else ''}"
    pods = f"pods with {selector(given.pods)}" if given.pods is not None and given.pods.requirements else "all pods"
    if given.namespaces is None:
        return f"{pods} of namespace {namespace}"
    if not given.namespaces.requirements:
        return f"{pods} of all namespaces"
    return f"{pods} of namespaces with {selector(given.namespaces)}"


def port(given: PolicyPort) -> str:
    """With its protocol."""
    name = protocol_name(given.protocol)
    if given.port is None:
        return f"all {name}"
    return f"{name} {given.port}" if given.end is None or given.end == given.port else f"{name} {given.port}-{given.end}"


def rule(given: Rule, direction: Direction, namespace: str) -> str:
    """What a rule allows."""
    way = "from" if direction is Direction.INGRESS else "to"
    ports = "everything" if given.ports is None else " or ".join(map(port, given.ports)) or "no port"
    everybody = "everybody"
    peers = everybody if given.peers is None else " or ".join(peer(each, namespace) for each in given.peers) or "nobody"
    return f"{ports} {way} {peers}"


def interval(first: int, last: int) -> str:
    """A part of protocols and ports: both ends are protocol << 16 | port."""
    protocol, low, high = first >> 16, first & HIGHEST_PORT, last & HIGHEST_PORT
    if last >> 16 != protocol:
        return "everything"
    if (low, high) == (0, HIGHEST_PORT):
        return f"all {protocol_name(protocol)}"
    return f"{protocol_name(protocol)} {low}" if low == high else f"{protocol_name(protocol)} {low}-{high}"


def names(given: Iterable[object]) -> str:
    """a, b and c."""
    texts = [str(each) for each in given]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}" if texts else "none"
