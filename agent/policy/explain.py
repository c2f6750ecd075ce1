"""Whether a packet between two ends passes, which policies and rules say so, and what would have to change. Pure.

The verdict and the rules that allow are the compiler's, for a node that has just these two pods; the reasons for a denial are read from the
records (`agent.policy.lacks`).
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.datapath.policy_rows import Direction
from agent.policy import words
from agent.policy.compiler import Compiler
from agent.policy.inputs import Changes
from agent.policy.lacks import peer_lack, port_lack
from agent.policy.objects import Objects
from agent.policy.parties import Party
from agent.policy.terms import RuleRef, rules_of
from agent.policy.verdict import Tables
from agent.watch.policy_records import NetworkPolicy
from agent.watch.records import Key

_WAYS = {Direction.INGRESS: "from", Direction.EGRESS: "to"}


@dataclass(frozen=True, slots=True)
class Change:
    """A rule that could allow it and does not: `lacks` is of "peer", "port" or, where the policy has none, "rule"."""

    policy: Key
    index: int | None
    lacks: tuple[str, ...]
    words: str


@dataclass(frozen=True, slots=True)
class Deciding:
    """A rule that allows it."""

    ref: RuleRef
    words: str


@dataclass(frozen=True, slots=True)
class Side:
    """One end's policies. `judged` False: policies have no say here, and `why` tells the reason."""

    direction: Direction
    party: Party
    judged: bool
    allowed: bool
    why: str
    isolated: bool = False
    policies: tuple[Key, ...] = ()
    rules: tuple[Deciding, ...] = ()
    changes: tuple[Change, ...] = ()
    rule: int = 0
    """The number that the row has, in the kernel too."""


@dataclass(frozen=True, slots=True)
class Path:
    """A packet's way from one address to another."""

    source: Party
    destination: Party
    protocol: int
    egress: Side
    ingress: Side

    @property
    def allowed(self) -> bool:
        return self.egress.allowed and self.ingress.allowed


def explain(objects: Objects, source: Party, destination: Party, protocol: int) -> Path:
    """`destination.port` 0 where the protocol has none."""
    return Path(
        source,
        destination,
        protocol,
        _side(objects, Direction.EGRESS, source, destination, protocol, destination.port),
        _side(objects, Direction.INGRESS, destination, source, protocol, destination.port),
    )


def exemption(own: Party, other: Party) -> str:
    """Why policies have no say over traffic of one end with the other; "" if they have."""
    if own.pod is None:
        return f"{own} is no pod of the cluster"
    if own.pod.host_network:
        return f"{own} is on the host's network, which policies do not isolate"
    if own.pod.finished:
        return f"{own} has ended"
    if other.pod is not None and other.pod.key == own.pod.key:
        return "a pod always reaches itself"
    if not other.is_peer and other.node and other.node == own.pod.node:
        return f"a pod and its own node {other.node} always reach each other"
    return ""


def _side(objects: Objects, direction: Direction, own: Party, other: Party, protocol: int, port: int) -> Side:
    exempt = exemption(own, other)
    if exempt or own.pod is None:
        return Side(direction, own, judged=False, allowed=True, why=exempt)
    compiler, tables = _compile(objects, own, other)
    policies = compiler.policies_of(own.pod.key, direction)
    found = tables.judge(own.address, other.address, direction, protocol, port)
    name = direction.name.lower()
    if not found.set:
        return Side(direction, own, judged=True, allowed=True, why=f"no policy isolates {own} for {name}")
    by = words.names(policies)
    if found.row is not None:
        rules = tuple(Deciding(ref, _rule_words(objects, ref)) for ref in compiler.rule(found.row.rule))
        allowing = words.names(each.ref for each in rules)
        why = f"allowed by {allowing}; {by} isolate{'s' if len(policies) == 1 else ''} {own} for {name}"
        return Side(direction, own, True, True, why, True, policies, rules, rule=found.row.rule)
    changes = [change for key in policies for change in _changes(objects, objects.policies[key], direction, own, other, protocol, port)]
    changes.sort(key=lambda change: len(change.lacks))
    why = f"{by} isolate{'s' if len(policies) == 1 else ''} {own} for {name}, and no rule allows it"
    return Side(direction, own, True, False, why, True, policies, changes=tuple(changes))


def _compile(objects: Objects, own: Party, other: Party) -> tuple[Compiler, Tables]:
    """What the node of a pod has in its tables, as far as these two ends go."""
    compiler, tables = Compiler(), Tables()
    pods = [party.pod for party in (own, other) if party.pod is not None]
    policies = {key: each for key, each in objects.policies.items() if own.pod is not None and key.namespace == own.pod.key.namespace}
    endpoints = {own.pod.key: (own.address,)} if own.pod is not None else {}
    namespaces = {pod.key.namespace: objects.namespaces.get(pod.key.namespace) for pod in pods}
    known = {name: record for name, record in namespaces.items() if record is not None}
    tables.apply(compiler.apply(Changes({pod.key: pod for pod in pods}, known, policies, endpoints)))
    return compiler, tables


def _rule_words(objects: Objects, ref: RuleRef) -> str:
    rules = rules_of(objects.policies[ref.policy], ref.direction) or ()
    return words.rule(rules[ref.index], ref.direction, ref.policy.namespace)


def _changes(
    objects: Objects, policy: NetworkPolicy, direction: Direction, own: Party, other: Party, protocol: int, port: int
) -> list[Change]:
    rules = rules_of(policy, direction) or ()
    if not rules:
        return [Change(policy.key, None, ("rule",), f"{policy.key} has no rule for {direction.name.lower()}: it allows nothing")]
    found = []
    for index, rule in enumerate(rules):
        peer = peer_lack(rule, policy.key, other, objects.namespaces)
        lacking = port_lack(rule, direction, own, other, protocol, port)
        reasons = [f"no peer of it is {other}: {peer}"] if peer else []
        reasons += [f"no port of it is meant: {lacking}"] if lacking else []
        lacks = tuple(name for name, reason in (("peer", peer), ("port", lacking)) if reason)
        ref = RuleRef(policy.key, direction, index)
        text = words.rule(rule, direction, policy.key.namespace)
        found.append(Change(policy.key, index, lacks, f"{ref} allows {text}, but {', and '.join(reasons)}"))
    return found
