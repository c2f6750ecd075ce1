"""Keeps the kernel's policy tables as the compiler wants them.

Invariants: `begin` compares all that is wanted with what the kernel has, adds what is missing, then deletes what is stale; `apply` writes
one round's changes in the same order; after either, also where it failed half way, the generation moves on, so that flows are judged anew.
After a failure only `begin` helps. What is deleted too early denies and never allows (without its row of `policies` or `classes` a peer is
allowed less, and a stale row of `isolation` judges a pod that nothing isolates), so where a table is too full for the usual order the
deletions go first. Rounds come from one thread; everything else may be asked from any.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from agent.datapath.abi import IPAddress
from agent.observe.policy_documents import View
from agent.observe.policy_metrics import PolicyMetrics
from agent.policy.adoption import compare, standing
from agent.policy.compiler import Compiler, Limits
from agent.policy.inputs import POLICY_TABLES, Changes, Rows, Trouble
from agent.ports import AgentDatapath, Table
from agent.reconcile.applier import ApplyError, apply
from agent.reconcile.diff import Delete, Put, Step
from agent.watch.records import Key

log = logging.getLogger(__name__)


Warn = Callable[[Trouble], None]


class Follower(Protocol):
    """Who hears of each round between its compiling and its writing."""

    def take(self, changes: Changes, rows: Rows, compiled: Compiler, /, *, everything: bool) -> None:
        """What changed (`everything`: and there is no more than that), and the rows that follow. The compiler is asked here or never."""


class PolicySynchronizer:
    """One node's policy tables."""

    def __init__(
        self, datapath: AgentDatapath, metrics: PolicyMetrics, warn: Warn = lambda _: None, follower: Follower | None = None
    ) -> None:
        self.metrics = metrics
        self._datapath = datapath
        self._warn = warn
        self._follower = follower
        self._tables: Mapping[str, Table] = {name: getattr(datapath, name) for name in POLICY_TABLES}
        metrics.revision = datapath.policy_generation()
        metrics.capacity = {name: table.max_entries for name, table in self._tables.items()}
        self._lock = threading.RLock()
        self._compiler: Compiler | None = None
        self._crowded = False
        self._told: tuple[Trouble, ...] = ()
        self._pods: dict[Key, tuple[IPAddress, ...]] = {}
        self._rows: dict[str, dict[Any, Any]] = {name: {} for name in POLICY_TABLES}

    @property
    def unsettled(self) -> bool:
        """Whether `tidy` has something to do."""
        with self._lock:
            return self._compiler is not None and self._compiler.unsettled

    def begin(self, everything: Changes) -> None:
        """Bring the tables from whatever they are to what follows from `everything`. Raises `ApplyError`, `OSError`."""
        with self._lock:
            self._compiler = compiler = Compiler(self._limits())
            self._pods = {}
            self._remember(everything)
            wanted = self._compile(compiler, everything, everything=True)
            self._rows = {name: standing(wanted, name) for name in POLICY_TABLES}
            self._write(compare(wanted, {name: dict(table.items()) for name, table in self._tables.items()}))
            self._report(compiler)

    def apply(self, changes: Changes) -> None:
        """Take up changes and write what follows from them. Raises `ApplyError`, `OSError`; only `begin` helps then."""
        with self._lock:
            if self._compiler is None:
                raise ApplyError("the policy tables were never compared with what is wanted")
            self._remember(changes)
            rows = self._compile(self._compiler, changes)
            for name, kept in self._rows.items():
                kept.update(rows.puts.get(name, {}))
                for key in rows.deletes.get(name, ()):
                    kept.pop(key, None)
            self._write(rows)
            self._report(self._compiler)

    def tidy(self) -> None:
        """Let the compiler put away what it keeps for what may come back. For a quiet moment. Raises `ApplyError`, `OSError`."""
        if self.unsettled:
            self.apply(Changes())

    @contextmanager
    def looking(self) -> Iterator[View | None]:
        """What the tables say, None before `begin`. It stays as it is for so long, and rounds wait: be brief."""
        with self._lock:
            if self._compiler is None:
                yield None
                return
            rows = Counter(key.set for key in self._rows["policies"])
            yield View(self._compiler, dict(self._pods), rows, dict(self._datapath.policy_counts.items()), self.metrics.revision)

    def keep_house(self) -> None:
        """Delete the counters of sets and rules that are gone. Call it about once a minute. Raises `OSError`."""
        with self._lock:
            sets = {number for row in self._rows["isolation"].values() for number in (row.ingress_set, row.egress_set)}
            rules = {(key.set, row.rule) for key, row in self._rows["policies"].items()}
        counts = self._datapath.policy_counts
        gone = [key for key, _ in counts.items() if (key.set not in sets if key.rule == 0 else (key.set, key.rule) not in rules)]
        counts.delete_many(gone)

    def _remember(self, changes: Changes) -> None:
        self._pods |= {pod: addresses for pod, addresses in changes.endpoints.items() if addresses}
        for pod in [pod for pod, addresses in changes.endpoints.items() if not addresses]:
            self._pods.pop(pod, None)

    def _compile(self, compiler: Compiler, changes: Changes, *, everything: bool = False) -> Rows:
        began = time.monotonic()
        rows = compiler.apply(changes)
        self.metrics.compiled(time.monotonic() - began)
        if self._follower is not None:
            self._follower.take(changes, rows, compiler, everything=everything)
        return rows

    def _write(self, rows: Rows) -> None:
        if not rows:
            return
        began = time.monotonic()
        try:
            apply(_steps(rows, deletions_first=self._crowded), self._tables.__getitem__, self.metrics.row_counts.count)
        except ApplyError as error:
            self._crowded = error.is_full
            self.metrics.failed()
            raise
        finally:
            # Also of a part: what was judged by the rows before has to be judged by those that are there now.
            self.metrics.revision = self._datapath.advance_policy_generation()
        self._crowded = False
        self.metrics.applied(time.monotonic() - began, {name: len(kept) for name, kept in self._rows.items()})

    def _report(self, compiler: Compiler) -> None:
        troubles = compiler.troubles
        for trouble in troubles:
            if trouble not in self._told:
                self._warn(trouble)
        for trouble in self._told:
            if all(trouble.policy != each.policy for each in troubles):
                log.info("a policy that did not fit does now, or is gone", extra={"policy": str(trouble.policy)})
        self._told = troubles
        in_force = {policy for pod in self._pods for policy in compiler.policies_of(pod)}
        self.metrics.stands(len(in_force), len(troubles), len({pod for trouble in troubles for pod in trouble.pods}))

    def _limits(self) -> Limits:
        """Three quarters of the tables: while a round lasts, what comes and what goes stand side by side."""
        policies, classes = (self._tables[name].max_entries * 3 // 4 for name in ("policies", "classes"))
        return Limits(set_rows=min(Limits().set_rows, policies), policies=policies, classes=classes)


def _steps(rows: Rows, *, deletions_first: bool) -> Iterable[Step]:
    puts: list[Step] = [Put(name, rows.puts[name]) for name in POLICY_TABLES if rows.puts.get(name)]
    deletes: list[Step] = [Delete(name, rows.deletes[name]) for name in reversed(POLICY_TABLES) if rows.deletes.get(name)]
    return [*deletes, *puts] if deletions_first else [*puts, *deletes]
