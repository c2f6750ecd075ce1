"""Numbers for the rules that rows name. Pure but for its own state.

A number follows from the rules that it names, so that a new process gives the same ones. It is remembered for a while after no row has it:
a record of the log is read a moment after its packet was judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from agent.datapath.policy_rows import PolicyFlag, PolicyRow
from agent.policy.terms import RuleRef
from agent.reconcile.ids import free_number

REMEMBERED = 4096
"""Numbers that no row has any more and that are known yet, at most."""


class Rules:
    """`is_logged`: whether connections that these rules allow are told."""

    def __init__(self, is_logged: Callable[[Iterable[RuleRef]], bool]) -> None:
        self._is_logged = is_logged
        self._numbers: dict[frozenset[RuleRef], int] = {}
        self._refs: dict[int, frozenset[RuleRef]] = {}
        self._rows: dict[frozenset[RuleRef], PolicyRow] = {}
        self._old: dict[int, None] = {}

    def row(self, refs: frozenset[RuleRef]) -> PolicyRow:
        """The row of what these rules allow."""
        found = self._rows.get(refs)
        if found is None:
            flags = PolicyFlag.LOG if self._is_logged(refs) else PolicyFlag(0)
            found = self._rows[refs] = PolicyRow(self._number(refs), flags)
        return found

    def refs(self, number: int) -> tuple[RuleRef, ...]:
        """The rules of a number, in order; () if it is not known."""
        return tuple(sorted(self._refs.get(number, ()), key=_order))

    def __len__(self) -> int:
        return len(self._numbers)

    def flags_changed(self) -> None:
        """What is logged is another thing now."""
        self._rows = {}

    def keep(self, used: set[int]) -> None:
        """Forget the numbers that no row has, but for the latest."""
        self._rows = {refs: row for refs, row in self._rows.items() if row.rule in used}
        for number in self._refs:
            if number in used:
                self._old.pop(number, None)
            else:
                self._old.setdefault(number)
        for number in list(self._old)[: max(0, len(self._old) - REMEMBERED)]:
            del self._old[number]
            del self._numbers[self._refs.pop(number)]

    def _number(self, refs: frozenset[RuleRef]) -> int:
        number = self._numbers.get(refs)
        if number is None:
            seed = "\n".join(str(ref) for ref in sorted(refs, key=_order)).encode()
            number = self._numbers[refs] = free_number(seed, self._refs.__contains__)
            self._refs[number] = refs
        return number


def _order(ref: RuleRef) -> tuple[str, str, int, int]:
    return ref.policy.namespace, ref.policy.name, ref.direction, ref.index
