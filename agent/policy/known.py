"""The policies that there are: which of them select a pod, what each allows, and whether their networks fit. Pure but for its own state.

Terms are held in the address space for as long as a policy uses them. Where the networks of all policies are too many, those that name
the fewest come first; the others hold nothing and allow nothing, so that one policy's endless list takes nothing from the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.datapath.abi import IPNetwork
from agent.datapath.policy_rows import Direction
from agent.policy.classes import AddressSpace
from agent.policy.selectors import SelectorIndex
from agent.policy.settable import Contributed
from agent.policy.terms import PortName, Term, contribution, named_ports, terms_of
from agent.watch.policy_records import NetworkPolicy
from agent.watch.records import Key


@dataclass(eq=False, slots=True)
class Policy:
    """`names`: of ports in ingress rules. `networks`: how many its blocks name."""

    record: NetworkPolicy
    terms: frozenset[Term]
    names: frozenset[PortName]
    networks: int
    is_held: bool = False
    cache: dict[object, Contributed] = field(default_factory=dict)


class Policies:
    """`limit`: networks of all policies together."""

    def __init__(self, space: AddressSpace, limit: int) -> None:
        self.oversized: set[Key] = set()
        """Policies whose networks do not fit."""
        self.by_key: dict[Key, Policy] = {}
        self._space, self._limit = space, limit
        self._selecting: dict[str, SelectorIndex[Key]] = {}

    def take(self, changed: Mapping[Key, NetworkPolicy | None]) -> dict[Key, Policy | None]:
        """The policies that differ, or fit now or no more, with what they were."""
        old: dict[Key, Policy | None] = {}
        for key, record in changed.items():
            before = self.by_key.get(key)
            if record != (before.record if before is not None else None):
                old[key] = before
                self._replace(key, before, record)
        if old:
            oversized = self._oversized()
            old |= {key: self.by_key[key] for key in oversized ^ self.oversized if key in self.by_key and key not in old}
            self.oversized = oversized
            self._hold(old)
        return old

    def selecting(self, namespace: str, labels: Mapping[str, str]) -> tuple[Key, ...]:
        """The policies that select a pod, in the order of their names."""
        index = self._selecting.get(namespace)
        return tuple(sorted(index.match(labels), key=lambda key: key.name)) if index is not None else ()

    def is_logged(self, key: Key) -> bool:
        """Whether a policy's annotation asks for the log of what it allows."""
        policy = self.by_key.get(key)
        return policy is not None and policy.record.log_allowed

    def contributed(self, key: Key, direction: Direction, numbers: Mapping[PortName, int]) -> Contributed:
        """What a policy allows a pod with these named ports, with terms' ids for terms."""
        policy = self.by_key[key]
        if not policy.is_held:
            return (), {}
        asked = {name: number for name, number in numbers.items() if name in policy.names}
        cached = direction, tuple(sorted(asked.items()))
        found = policy.cache.get(cached)
        if found is None:
            part = contribution(policy.record, direction, asked)
            found = policy.cache[cached] = part.everybody, {self._space.id_of(term): entries for term, entries in part.by_term.items()}
        return found

    def _replace(self, key: Key, before: Policy | None, record: NetworkPolicy | None) -> None:
        index = self._selecting.setdefault(key.namespace, SelectorIndex())
        if before is not None:
            del self.by_key[key]
            index.discard(before.record.pods, key)
        if record is not None:
            terms = frozenset(terms_of(record))
            names = frozenset(named_ports(record, Direction.INGRESS))
            self.by_key[key] = Policy(record, terms, names, len(_networks(terms)))
            index.add(record.pods, key)
        elif not len(index):
            del self._selecting[key.namespace]

    def _oversized(self) -> set[Key]:
        if sum(policy.networks for policy in self.by_key.values()) <= self._limit:
            return set()
        found, seen = set[Key](), set[IPNetwork]()
        for key, policy in sorted(self.by_key.items(), key=lambda item: (item[1].networks, item[0].namespace, item[0].name)):
            more = _networks(policy.terms) | seen if policy.networks else seen
            if len(more) <= self._limit:
                seen = more
            else:
                found.add(key)
        return found

    def _hold(self, old: Mapping[Key, Policy | None]) -> None:
        """Terms that are still meant are held before they are let go."""
        for key in old:
            now = self.by_key.get(key)
            if now is not None and not now.is_held and key not in self.oversized:
                now.is_held, now.cache = True, {}
                for term in now.terms:
                    self._space.hold(term)
        for key, before in old.items():
            if before is not None and before.is_held and (self.by_key.get(key) is not before or key in self.oversized):
                before.is_held = False
                for term in before.terms:
                    self._space.release(term)


def _networks(terms: Iterable[Term]) -> set[IPNetwork]:
    return {network for term in terms if term.block is not None for network in (term.block.network, *term.block.excepts)}
