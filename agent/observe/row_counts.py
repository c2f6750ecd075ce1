"""How many rows of a synchronizer's tables were written and deleted since the agent started, as numbers and as Prometheus' text."""

from __future__ import annotations

import threading
from collections import Counter

from agent.observe.metrics import family
from agent.reconcile.diff import Put, Step


class RowCounts:
    """By table. Counted by who writes them, read by whoever renders them, each from a thread of their own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._written: Counter[str] = Counter()
        self._deleted: Counter[str] = Counter()

    def count(self, step: Step) -> None:
        """A step that is in the kernel, as a whole."""
        with self._lock:
            if isinstance(step, Put):
                self._written[step.table] += len(step.rows)
            else:
                self._deleted[step.table] += len(step.keys)

    @property
    def written(self) -> dict[str, int]:
        """Rows that were added or replaced."""
        with self._lock:
            return dict(self._written)

    @property
    def deleted(self) -> dict[str, int]:
        with self._lock:
            return dict(self._deleted)

    def render(self, prefix: str, whose: str) -> list[str]:
        """Lines of Prometheus' text, for `PREFIX_written_total` and `PREFIX_deleted_total` of the tables of whom."""
        lines: list[str] = []
        for word, text, counts in (("written", "added or replaced", self.written), ("deleted", "deleted", self.deleted)):
            samples = [({"table": table}, rows) for table, rows in sorted(counts.items())]
            lines += family(f"{prefix}_{word}_total", "counter", f"Rows of {whose} tables {text}.", samples)
        return lines
