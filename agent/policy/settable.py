"""All sets of this node: which rows of `policies` they want, and what differs from the rows that stand. Pure but for its own state.

A round goes in this order: sets come into use and policies change, then classes are born, then `emit` tells the rows, then `sweep` takes
away what nothing leads to any more. Until then even sets and classes that are about to go have all their rows: a packet may still be led
to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from agent.datapath.policy_rows import Direction, PolicyKey, PolicyRow
from agent.policy.classes import AddressSpace, Class
from agent.policy.groups import terms_in
from agent.policy.rules import Rules
from agent.policy.sets import EVERYBODY, NO_BLOCK, Block, RuleSet, SetName, differences
from agent.policy.terms import Entry, PortName
from agent.reconcile.ids import free_number
from agent.watch.records import Key

Contributed = tuple[tuple[Entry, ...], Mapping[int, tuple[Entry, ...]]]
"""Of a policy: entries for everybody, and by term."""
Contribute = Callable[[Key, Direction, Mapping[PortName, int]], Contributed]
REMEMBERED = 1024
"""Sets that are gone and whose policies are known yet, at most: the log may ask."""


@dataclass(slots=True)
class RowChanges:
    """Rows of `policies`. A row may be in both: it is needed on the way."""

    puts: dict[PolicyKey, PolicyRow] = field(default_factory=dict)
    deletes: dict[PolicyKey, None] = field(default_factory=dict)


class SetTable:
    """`contribute` says what a policy allows a pod with these named ports; `set_limit` and `limit`: rows that one set may have, and all
    together."""

    def __init__(self, space: AddressSpace, rules: Rules, contribute: Contribute, set_limit: int, limit: int) -> None:
        self.sets: dict[int, RuleSet] = {}
        self.oversized: set[Key] = set()
        """Policies that allow nothing, as their networks do not fit; their sets are closed."""
        self._space, self._rules, self._contribute = space, rules, contribute
        self._set_limit, self._limit = set_limit, limit
        self.closed: set[RuleSet] = set()
        self._names: dict[SetName, RuleSet] = {}
        self._by_policy: dict[Key, dict[RuleSet, None]] = {}
        self._by_term: dict[int, dict[RuleSet, None]] = {}
        self._new: list[RuleSet] = []
        self._idle: dict[RuleSet, None] = {}
        self._touched: dict[tuple[RuleSet, Class], Block] = {}
        self._old: dict[int, tuple[Key, ...]] = {}

    def acquire(self, name: SetName) -> RuleSet:
        """A set, which one more row leads to."""
        found = self._names.get(name)
        if found is None:
            number = free_number(repr(name).encode(), self.sets.__contains__)
            found = self._names[name] = self.sets[number] = RuleSet(number, name)
            self._old.pop(number, None)
            self._new.append(found)
            for policy, _ in name.members:
                self._by_policy.setdefault(policy, {})[found] = None
                self._fill(found, policy)
        found.users += 1
        return found

    def release(self, each: RuleSet) -> None:
        """Undo one `acquire`."""
        each.users -= 1
        if not each.users:
            self._idle[each] = None

    def policies(self, number: int) -> tuple[Key, ...]:
        """The policies of a set that is or was lately."""
        found = self.sets.get(number)
        return tuple(policy for policy, _ in found.name.members) if found is not None else self._old.get(number, ())

    def change(self, policy: Key, is_member: Callable[[SetName], bool], *, all_of_it: bool) -> None:
        """A policy allows something else now. Sets in which it is no member in this form any more are left as they are. `all_of_it`: look
        at all its rows, whether they differ in what they allow or not."""
        for each in self._by_policy.get(policy, ()):
            if each in self._new or not is_member(each.name):
                continue
            terms, everybody = self._fill(each, policy)
            if all_of_it:
                terms |= {term for term, entries in each.by_term.items() if policy in entries}
                everybody = everybody or policy in each.everybody
            classes = {of: None for term in terms for of in self._space.by_term[term]}
            if everybody:
                classes |= dict.fromkeys(each.blocks) | {EVERYBODY: None}
            self._refresh(each, classes)

    def refresh_all(self) -> None:
        """What rows are logged is another thing now."""
        for each in self.sets.values():
            each.memo = {}
            self._refresh(each, list(each.blocks))

    def classes_born(self, born: Iterable[Class]) -> None:
        """Give each set that a new class is about its rows."""
        for of in born:
            for each in {each: None for term in terms_in(of.atoms) for each in self._by_term.get(term, ())}:
                if each not in self._new:
                    self._refresh(each, (of,))

    @property
    def rows(self) -> int:
        """In the table."""
        return sum(each.size for each in self.sets.values() if not each.closed)

    def heaviest(self, each: RuleSet) -> Key:
        """The policy of a set with the most rows."""
        weights = {policy: sum(_weight(entry) for entry in each.everybody.get(policy, ())) for policy, _ in each.name.members}
        for term, parts in each.by_term.items():
            for policy, entries in parts.items():
                weights[policy] += len(self._space.by_term[term]) * sum(map(_weight, entries))
        return max(weights, key=lambda policy: (weights[policy], policy.namespace, policy.name))

    def emit(self, changes: RowChanges) -> None:
        """Tell what the round changed so far."""
        for each in self._new:
            classes = {of: None for term in each.by_term for of in self._space.by_term[term]}
            self._refresh(each, [EVERYBODY, *classes])
        self._new = []
        self._close()
        for (each, of), old in self._touched.items():
            for span, row in differences(old, each.written(of)):
                if row is None:
                    changes.deletes[each.key(of, span)] = None
                else:
                    changes.puts[each.key(of, span)] = row
        self._touched = {}

    def sweep(self, dead: Iterable[Class], changes: RowChanges) -> None:
        """Delete the rows of classes that are gone, and of sets that nothing leads to."""
        for of in dead:
            for each in {each: None for term in terms_in(of.atoms) for each in self._by_term.get(term, ())}:
                self._delete(each, of, changes)
                each.memo = {}
        for each in [each for each in self._idle if not each.users]:
            for of in list(each.blocks):
                self._delete(each, of, changes)
            del self.sets[each.id], self._names[each.name]
            self.closed.discard(each)
            for policy, _ in each.name.members:
                self._by_policy[policy].pop(each)
                if not self._by_policy[policy]:
                    del self._by_policy[policy]
            self._unlink(each, set(each.by_term))
            self._old[each.id] = tuple(policy for policy, _ in each.name.members)
        self._idle = {}
        for number in list(self._old)[: max(0, len(self._old) - REMEMBERED)]:
            del self._old[number]

    def _fill(self, each: RuleSet, policy: Key) -> tuple[set[int], bool]:
        before = set(each.by_term)
        result = each.contribute(policy, *self._contribute(policy, each.name.direction, dict(each.name.numbers)))
        self._unlink(each, before - each.by_term.keys())
        for term in each.by_term.keys() - before:
            self._by_term.setdefault(term, {})[each] = None
        return result

    def _unlink(self, each: RuleSet, terms: Iterable[int]) -> None:
        for term in terms:
            self._by_term[term].pop(each)
            if not self._by_term[term]:
                del self._by_term[term]

    def _refresh(self, each: RuleSet, classes: Iterable[Class]) -> None:
        for of in classes:
            self._touched.setdefault((each, of), each.written(of))
            each.replace(of, each.block(of, self._rules.row))

    def _delete(self, each: RuleSet, of: Class, changes: RowChanges) -> None:
        changes.deletes |= {each.key(of, span): None for span in each.written(of)}
        each.replace(of, NO_BLOCK)

    def _has_oversized(self, each: RuleSet) -> bool:
        return bool(self.oversized) and any(policy in self.oversized for policy, _ in each.name.members)

    def _close(self) -> None:
        """Close the sets that do not fit, the largest first; open those that do. What goes anyway is left as it is."""
        used = [each for each in self.sets.values() if each.users]
        closed = {each for each in used if each.size > self._set_limit or self._has_oversized(each)}
        room = self._limit - sum(each.size for each in used if each not in closed)
        for each in sorted(used, key=lambda each: (-each.size, each.id)) if room < 0 else ():
            if room < 0 and each not in closed:
                closed.add(each)
                room += each.size
        if not closed and not self.closed:
            return
        self.closed = closed
        for each in used:
            if each.closed != (each in closed):
                for of in each.blocks:
                    self._touched.setdefault((each, of), each.written(of))
                each.closed = each in closed


def _weight(entry: Entry) -> int:
    """Rows for each class."""
    return 1 if entry.protocol else len(entry.spans)
