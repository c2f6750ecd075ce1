"""Carries out steps on the kernel's tables.

Invariant: steps are done in their order, and the first that fails ends the walk: what follows relied on it. The caller reads the
tables anew before it plans again.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from agent.reconcile.diff import Put, Step


class Rows(Protocol):
    """What of a table the applier uses."""

    def put_many(self, rows: Mapping[Any, Any], /) -> None: ...
    def delete_many(self, keys: Iterable[Any], /) -> int: ...


_NO_ROOM = {errno.E2BIG, errno.ENOSPC}
"""What hash tables say when they are full, and longest-prefix tables."""


class ApplyError(Exception):
    """A table refused a change. `is_full`: for lack of room."""

    def __init__(self, message: str, *, is_full: bool = False) -> None:
        super().__init__(message)
        self.is_full = is_full


def apply(steps: Iterable[Step], tables: Callable[[str], Rows], done: Callable[[Step], None] = lambda _: None) -> None:
    """Do every step, and say so after each. Raises `ApplyError`."""
    for step in steps:
        try:
            if isinstance(step, Put):
                tables(step.table).put_many(step.rows)
            else:
                tables(step.table).delete_many(step.keys)
        except OSError as error:
            is_full = error.errno in _NO_ROOM
            why = "it is full: give it more rows" if is_full else str(error)
            raise ApplyError(f"table {step.table} refused a change: {why}", is_full=is_full) from error
        done(step)
