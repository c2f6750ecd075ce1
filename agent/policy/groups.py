"""Which selectors' terms hold for which pods. Pure but for its own state.

Pods of one namespace with the same labels and named ports are a *group* and matched once. Terms are found by their *scope*: the pod
selectors that are asked in the namespaces that a selector selects, or in the one that is named. An *atom* is a term's id, and in the
upper 32 bits the number that a named port has at this pod.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.policy.selectors import EVERYTHING, SelectorIndex, matches
from agent.policy.terms import PortName, Term, port_numbers
from agent.watch.policy_records import ContainerPort, Labels, Pod, Selector

Atoms = frozenset[int]
Shape = tuple[Labels, tuple[ContainerPort, ...]]
"""Labels and named ports: what pods of a namespace are told apart by."""

NUMBER_SHIFT = 32
TERM_MASK = (1 << NUMBER_SHIFT) - 1
NO_ATOMS: Atoms = frozenset()
SCAN_AT_MOST = 50_000
"""Comparisons of new selectors with groups, above which it is cheaper to look up every group anew."""


@dataclass(eq=False, slots=True)
class Group:
    """`members`: what its owner keeps of the pods' addresses."""

    namespace: str
    shape: Shape
    labels: dict[str, str]
    ports: dict[PortName, int]
    atoms: Atoms = NO_ATOMS
    members: dict[Any, None] = field(default_factory=dict)
    pods: int = 0

    def atom(self, number: int, term: Term) -> int:
        """Of a term that holds but for its port; 0 if the group lacks that."""
        if term.port is None:
            return number
        port = self.ports.get(term.port, 0)
        return port << NUMBER_SHIFT | number if port else 0


@dataclass(eq=False, slots=True)
class _Scope:
    which: str | Selector
    terms: SelectorIndex[int] = field(default_factory=SelectorIndex)


def terms_in(atoms: Iterable[int]) -> set[int]:
    """The terms, each once."""
    return {atom & TERM_MASK for atom in atoms}


def port_number(atom: int) -> int:
    """What the peer's named port is, of a term that asks for one."""
    return atom >> NUMBER_SHIFT


class Groups:
    """Terms of selectors, namespaces and pods in; groups and their atoms out."""

    def __init__(self) -> None:
        self._terms: dict[int, Term] = {}
        self._scopes: dict[str | Selector, _Scope] = {}
        self._scope_index: SelectorIndex[_Scope] = SelectorIndex()
        self._namespaces: dict[str, tuple[Mapping[str, str], list[_Scope]]] = {}
        self._groups: dict[str, dict[Shape, Group]] = {}
        self._new: list[int] = []
        self._unmatched: dict[Group, None] = {}
        self._changed: dict[Group, None] = {}

    def add(self, number: int, term: Term) -> None:
        """Have a term hold for pods."""
        self._terms[number] = term
        self._scope(term.namespaces).terms.add(term.pods, number)
        self._new.append(number)

    def remove(self, gone: Collection[int]) -> None:
        """Have terms hold for nobody."""
        for groups in self._groups.values() if gone else ():
            for group in groups.values():
                if any(atom & TERM_MASK in gone for atom in group.atoms):
                    self._set(group, frozenset(atom for atom in group.atoms if atom & TERM_MASK not in gone))
        for number in gone:
            term = self._terms.pop(number)
            scope = self._scopes[term.namespaces]
            scope.terms.discard(term.pods, number)
            if not len(scope.terms):
                self._drop_scope(scope)

    def set_namespace(self, namespace: str, labels: Mapping[str, str] | None) -> None:
        """None: it is not known, and then nothing that is said of namespaces' labels holds for it."""
        known = self._namespaces.get(namespace)
        if labels is None:
            self._namespaces.pop(namespace, None)
        elif known is None or known[0] != labels:
            self._namespaces[namespace] = (labels, list(self._scope_index.match(labels)))
        else:
            return
        self._unmatched.update(dict.fromkeys(self._groups.get(namespace, {}).values()))

    def join(self, pod: Pod) -> Group:
        """The group of a pod, which is one more of it."""
        shape = (pod.labels, pod.ports)
        groups = self._groups.setdefault(pod.key.namespace, {})
        group = groups.get(shape)
        if group is None:
            group = groups[shape] = Group(pod.key.namespace, shape, dict(pod.labels), port_numbers(pod))
            self._unmatched[group] = None
        group.pods += 1
        return group

    def leave(self, group: Group) -> None:
        """Undo one `join`."""
        group.pods -= 1
        if not group.pods:
            del self._groups[group.namespace][group.shape]
            if not self._groups[group.namespace]:
                del self._groups[group.namespace]

    def settle(self) -> Iterable[Group]:
        """The groups whose atoms are others than the last time."""
        self._match_new()
        for group in self._unmatched:
            self._set(group, self._match(group))
        changed, self._changed, self._unmatched = self._changed, {}, {}
        return changed

    def _set(self, group: Group, atoms: Atoms) -> None:
        if atoms != group.atoms:
            group.atoms = atoms
            self._changed[group] = None

    def _match_new(self) -> None:
        new, self._new = [n for n in self._new if n in self._terms], []
        if len(new) * sum(map(len, self._groups.values())) > SCAN_AT_MOST:
            for groups in self._groups.values():
                self._unmatched.update(dict.fromkeys(groups.values()))
            return
        for number in new:
            term = self._terms[number]
            for group in self._groups_in(term.namespaces):
                atom = group.atom(number, term) if group not in self._unmatched and matches(term.pods, group.labels) else 0
                if atom:
                    self._set(group, group.atoms | {atom})

    def _match(self, group: Group) -> Atoms:
        known = self._namespaces.get(group.namespace)
        scopes = [self._scopes.get(group.namespace), *(known[1] if known is not None else [self._scopes.get(EVERYTHING)])]
        numbers = {number for scope in scopes if scope is not None for number in scope.terms.match(group.labels)}
        return frozenset(atom for number in numbers if (atom := group.atom(number, self._terms[number])))

    def _groups_in(self, which: str | Selector) -> Iterator[Group]:
        if isinstance(which, str):
            yield from self._groups.get(which, {}).values()
            return
        for namespace, groups in self._groups.items():
            known = self._namespaces.get(namespace)
            if matches(which, known[0]) if known is not None else which == EVERYTHING:
                yield from groups.values()

    def _scope(self, which: str | Selector) -> _Scope:
        scope = self._scopes.get(which)
        if scope is None:
            scope = self._scopes[which] = _Scope(which)
            if isinstance(which, Selector):
                self._scope_index.add(which, scope)
                for labels, scopes in self._namespaces.values():
                    if matches(which, labels):
                        scopes.append(scope)
        return scope

    def _drop_scope(self, scope: _Scope) -> None:
        del self._scopes[scope.which]
        if isinstance(scope.which, Selector):
            self._scope_index.discard(scope.which, scope)
            for _, scopes in self._namespaces.values():
                if scope in scopes:
                    scopes.remove(scope)
