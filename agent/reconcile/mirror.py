"""What stands in one of the kernel's tables, and what a round of changes will make of it. Pure but for its own state.

A round is a run of additions followed by a run of deletions, so while it lasts a table holds both the rows that come and those that go:
`standing` counts them all. Invariant: `limit` is never passed by `standing` in a round that is closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class _Untouched:
    """No change of this round."""


_UNTOUCHED = _Untouched()


@dataclass(slots=True)
class Mirror(Generic[K, V]):
    """`rows` are what the kernel has. A change to None is a deletion."""

    table: str
    rows: dict[K, V]
    limit: int
    standing: int = 0
    deletions: int = 0
    _changes: dict[K, V | None] = field(default_factory=dict)
    _journal: list[tuple[K, V | _Untouched | None]] = field(default_factory=list)
    _mark: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.standing = len(self.rows)

    def __contains__(self, key: K) -> bool:
        """Whether the kernel has or will have a row at some time of this round."""
        return key in self.rows or key in self._changes

    def get(self, key: K) -> V | None:
        """The row as it will be after the round."""
        change = self._changes.get(key, _UNTOUCHED)
        return self.rows.get(key) if isinstance(change, _Untouched) else change

    def put(self, key: K, row: V) -> None:
        """Add or replace."""
        change, old = self._changes.get(key, _UNTOUCHED), self.rows.get(key)
        if change == row or (isinstance(change, _Untouched) and old == row):
            return
        self._journal.append((key, change))
        self.deletions -= change is None
        self.standing += old is None and isinstance(change, _Untouched)
        if old == row:
            del self._changes[key]
        else:
            self._changes[key] = row

    def drop(self, key: K) -> None:
        """Delete, if it is there."""
        change, stands = self._changes.get(key, _UNTOUCHED), key in self.rows
        if change is None or (isinstance(change, _Untouched) and not stands):
            return
        self._journal.append((key, change))
        if stands:
            self._changes[key] = None
            self.deletions += 1
        else:
            del self._changes[key]
            self.standing -= 1

    def mark(self) -> None:
        """From here `rollback` may be asked for."""
        self._journal.clear()
        self._mark = self.standing, self.deletions

    def rollback(self) -> None:
        """Undo everything since `mark`."""
        for key, change in reversed(self._journal):
            if isinstance(change, _Untouched):
                self._changes.pop(key, None)
            else:
                self._changes[key] = change
        self._journal.clear()
        self.standing, self.deletions = self._mark

    def close(self) -> tuple[Mapping[K, V], Mapping[K, V]]:
        """End the round: the rows to write, and those to delete as they were. They count as done from now on."""
        written = {key: row for key, row in self._changes.items() if row is not None}
        deleted = {key: self.rows.pop(key) for key, row in self._changes.items() if row is None}
        self.rows.update(written)
        self._changes, self._journal = {}, []
        self.standing, self.deletions = len(self.rows), 0
        return written, deleted
