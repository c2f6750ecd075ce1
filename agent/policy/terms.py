"""What NetworkPolicies say of peers, as terms, and which term each of their rules allows at which ports. Pure.

A term is one condition on a peer that is the same wherever it is written: `podSelector: {}` in two policies of a namespace is one term.
What a named port of an egress rule wants depends on the peer, so it is a part of the term: "such a peer, and it has a port of that name".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from agent.datapath.policy_rows import Direction
from agent.policy.portprefix import ALL, Span, one_port, port_range, whole_protocol
from agent.policy.selectors import EVERYTHING
from agent.watch.policy_records import Block, NetworkPolicy, Peer, Pod, PolicyPort, Rule, Selector
from agent.watch.records import Key

PortName = tuple[str, int]
"""A container port's name and its protocol's number."""


@dataclass(frozen=True, slots=True)
class RuleRef:
    """A rule of a policy: the place in its list `ingress` or `egress`, from 0."""

    policy: Key
    direction: Direction
    index: int

    def __str__(self) -> str:
        return f"{self.policy} {self.direction.name.lower()}[{self.index}]"


@dataclass(frozen=True, slots=True)
class Term:
    """The addresses of `block`, or else of the pods that `pods` selects in the namespaces that a selector selects, or in the one that is
    named. With `port` only those of pods that have a port of this name."""

    block: Block | None = None
    namespaces: str | Selector = EVERYTHING
    pods: Selector = EVERYTHING
    port: PortName | None = None

    def digest(self) -> bytes:
        """16 bytes that only this term has, in every process."""
        return hashlib.blake2b(repr(self).encode(), digest_size=16).digest()


ANY_POD = Term()


@dataclass(frozen=True, slots=True)
class Entry:
    """Ports that a rule allows. With `protocol` it is one port of that protocol, whose number the peer's named port says."""

    ref: RuleRef
    spans: tuple[Span, ...]
    protocol: int = 0


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one policy allows a pod in one direction: to everybody, and to those for whom a term holds."""

    everybody: tuple[Entry, ...]
    by_term: Mapping[Term, tuple[Entry, ...]]


def term_of(peer: Peer, namespace: str) -> Term:
    """`namespace`: the policy's."""
    if peer.block is not None:
        return Term(Block(peer.block.network, tuple(sorted(set(peer.block.excepts), key=lambda n: (n.version, n)))))
    return Term(None, namespace if peer.namespaces is None else peer.namespaces, peer.pods or EVERYTHING)


def rules_of(policy: NetworkPolicy, direction: Direction) -> tuple[Rule, ...] | None:
    """None: the policy does not isolate in that direction."""
    return policy.ingress if direction is Direction.INGRESS else policy.egress


def terms_of(policy: NetworkPolicy) -> set[Term]:
    """All terms that the policy's rules are about, whatever pods there are."""
    return {term for direction in Direction for term in contribution(policy, direction, {}).by_term}


def named_ports(policy: NetworkPolicy, direction: Direction) -> set[PortName]:
    """The names of ports that rules of a direction use."""
    rules = rules_of(policy, direction) or ()
    return {(port.port, port.protocol) for rule in rules for port in rule.ports or () if isinstance(port.port, str)}


def port_numbers(pod: Pod) -> dict[PortName, int]:
    """A pod's named ports; of two of one name and protocol the first."""
    found: dict[PortName, int] = {}
    for port in pod.ports:
        found.setdefault((port.name, port.protocol), port.port)
    return found


def contribution(policy: NetworkPolicy, direction: Direction, numbers: Mapping[PortName, int]) -> Contribution:
    """`numbers`: the named ports of the pod that is isolated; those that it lacks allow nothing. Egress asks the peer for its own."""
    everybody: list[Entry] = []
    by_term: dict[Term, list[Entry]] = {}
    for index, rule in enumerate(rules_of(policy, direction) or ()):
        ref = RuleRef(policy.key, direction, index)
        peers = None if rule.peers is None else list(dict.fromkeys(term_of(peer, policy.key.namespace) for peer in rule.peers))
        ports = rule.ports
        by_name = [p for p in ports or () if direction is Direction.EGRESS and isinstance(p.port, str)]
        spans = (ALL,) if ports is None else tuple(_spans([p for p in ports if p not in by_name], numbers))
        if ports is None or len(by_name) < len(ports):
            entry = Entry(ref, spans)
            if peers is None:
                everybody.append(entry)
            for term in peers or ():
                by_term.setdefault(term, []).append(entry)
        for port in dict.fromkeys(by_name):
            for term in [ANY_POD] if peers is None else peers:
                named = Term(term.block, term.namespaces, term.pods, (str(port.port), port.protocol))
                by_term.setdefault(named, []).append(Entry(ref, (), port.protocol))
    return Contribution(tuple(everybody), {term: tuple(entries) for term, entries in by_term.items()})


def _spans(ports: Iterable[PolicyPort], numbers: Mapping[PortName, int]) -> Iterator[Span]:
    for each in ports:
        if each.port is None:
            yield whole_protocol(each.protocol)
        elif isinstance(each.port, str):
            number = numbers.get((each.port, each.protocol))
            if number is not None:
                yield one_port(each.protocol, number)
        else:
            yield from port_range(each.protocol, each.port, each.port if each.end is None else each.end)
