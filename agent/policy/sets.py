"""Sets of rules, and the rows that they are in the table `policies`. Pure but for its own state.

A set is what all policies that select a pod allow it in one direction; pods with the same policies (and the same numbers for the ports
that these name) share it. For each class that one of its terms holds for it has a *block*, the rows of that class, and one block for
everybody.

Of a block's rows the longest that covers a packet is found, and the block for everybody is asked only if there is none. Every row therefore
names all the rules that allow what it covers: those of shorter rows, and those for everybody. Where a class may do more than everybody,
what everybody may do has rows of its own in the class' block, so that those rules are named too; but no more than `NAMED_INSIDE` of them,
as that is many rows for a name in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from agent.datapath.policy_rows import CLASS_ANY, PREFIX_ANY, Direction, PolicyKey, PolicyRow
from agent.policy.classes import Class
from agent.policy.groups import TERM_MASK, port_number
from agent.policy.portprefix import PROTOCOL_BITS, Span, covering, one_port
from agent.policy.terms import Entry, PortName, RuleRef
from agent.watch.policy_records import Selector
from agent.watch.records import Key

Block = Mapping[Span, PolicyRow]
Refs = frozenset[RuleRef]
Member = tuple[Key, Selector]
EVERYBODY = Class(CLASS_ANY, frozenset())
"""Stands for POLICY_CLASS_ANY where a block's class is asked for."""
NO_BLOCK: Block = {}
NAMED_INSIDE = 32


@dataclass(frozen=True, slots=True)
class SetName:
    """What makes two sets the same. A policy whose own selector changes is another member, so that a pod that leaves it keeps what it had
    until its row says otherwise."""

    direction: Direction
    members: tuple[Member, ...]
    numbers: tuple[tuple[PortName, int], ...] = ()


@dataclass(eq=False, slots=True)
class RuleSet:
    """`blocks` without the empty ones. `users`: rows of local pods that lead here."""

    id: int
    name: SetName
    users: int = 0
    everybody: dict[Key, tuple[Entry, ...]] = field(default_factory=dict)
    by_term: dict[int, dict[Key, tuple[Entry, ...]]] = field(default_factory=dict)
    blocks: dict[Class, Block] = field(default_factory=dict)
    size: int = 0
    closed: bool = False
    """It has too many rows, and so none in the table."""
    memo: dict[frozenset[int], Block] = field(default_factory=dict)
    open_spans: dict[Span, set[RuleRef]] = field(default_factory=dict)

    def contribute(self, policy: Key, everybody: tuple[Entry, ...], by_term: Mapping[int, tuple[Entry, ...]]) -> tuple[set[int], bool]:
        """Take up what a policy allows now, in place of what it did: the terms for which that differs, and whether it does for
        everybody."""
        self.memo = {}
        changed = set[int]()
        for term in [t for t, entries in self.by_term.items() if policy in entries and by_term.get(t) != entries[policy]]:
            changed.add(term)
            del self.by_term[term][policy]
            if not self.by_term[term]:
                del self.by_term[term]
        for term, entries in by_term.items():
            if self.by_term.get(term, {}).get(policy) != entries:
                changed.add(term)
                self.by_term.setdefault(term, {})[policy] = entries
        if self.everybody.get(policy, ()) == everybody:
            return changed, False
        self.everybody.pop(policy, None)
        if everybody:
            self.everybody[policy] = everybody
        self.open_spans = _spans((entry, 0) for entries in self.everybody.values() for entry in entries)
        return changed, True

    def block(self, of: Class, row: Callable[[Refs], PolicyRow]) -> Block:
        """The rows of a class."""
        if of is EVERYBODY:
            return _block(self.open_spans, {}, row)
        atoms = frozenset(atom for atom in of.atoms if atom & TERM_MASK in self.by_term)
        found = self.memo.get(atoms)
        if found is None:
            entries = ((entry, atom) for atom in atoms for part in self.by_term[atom & TERM_MASK].values() for entry in part)
            found = self.memo[atoms] = _block(_spans(entries), self.open_spans, row)
        return found

    def replace(self, of: Class, block: Block) -> None:
        """Put a block in its place."""
        self.size += len(block) - len(self.blocks.get(of, NO_BLOCK))
        if block:
            self.blocks[of] = block
        else:
            self.blocks.pop(of, None)

    def written(self, of: Class) -> Block:
        """The rows of a class that the table has."""
        return NO_BLOCK if self.closed else self.blocks.get(of, NO_BLOCK)

    def key(self, of: Class, span: Span) -> PolicyKey:
        """A row's place in the table."""
        length, value = span
        port = value & 0xFFFF if length > PROTOCOL_BITS else 0
        return PolicyKey(self.id, of.id, value >> 16, port, PREFIX_ANY + length)


def _spans(entries: Iterable[tuple[Entry, int]]) -> dict[Span, set[RuleRef]]:
    """Who allows what; with each entry the atom that it holds for."""
    found: dict[Span, set[RuleRef]] = {}
    for entry, atom in entries:
        for span in (one_port(entry.protocol, port_number(atom)),) if entry.protocol else entry.spans:
            found.setdefault(span, set()).add(entry.ref)
    return found


def _block(own: Mapping[Span, set[RuleRef]], everybody: Mapping[Span, set[RuleRef]], row: Callable[[Refs], PolicyRow]) -> Block:
    """Rows for what is allowed a class, and for those parts of it that more rules allow than the rest; a row that says the same as the next
    shorter one is left out."""
    own_lengths = sorted({length for length, _ in own})
    few = everybody if len(everybody) <= NAMED_INSIDE else ()
    inside = [span for span in few if span not in own and any(outer in own for outer in covering(span, own_lengths))]
    lengths = sorted({*own_lengths, *(length for length, _ in everybody)})
    kept: dict[Span, Refs] = {}
    for span in sorted([*own, *inside]):
        refs: set[RuleRef] = set()
        shorter: Refs = frozenset()
        for outer in covering(span, lengths):
            refs |= own.get(outer, _NOBODY)
            refs |= everybody.get(outer, _NOBODY)
            shorter = kept.get(outer, shorter)
        if refs != shorter:
            kept[span] = frozenset(refs)
    return {span: row(refs) for span, refs in kept.items()}


_NOBODY: frozenset[RuleRef] = frozenset()


def differences(old: Block, new: Block) -> Iterator[tuple[Span, PolicyRow | None]]:
    """The rows to put, and (None) those to delete, from one block to another."""
    if old is new:
        return
    for span, row in new.items():
        if old.get(span) != row:
            yield span, row
    for span in old:
        if span not in new:
            yield span, None
