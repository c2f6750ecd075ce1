"""The log's thread: reads the kernel's records ten times a second, and writes what the pipeline makes of them.

Invariants: the agent's loop tells it what changed and never waits for a disk; nothing that goes wrong here ends the thread or reaches the
agent; it sleeps while nothing is logged; a turn takes no more than `READ_AT_ONCE` records, so that no flood costs more than a few
per cent of a CPU, and what that leaves in the ring is counted by the kernel when the ring is full.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from agent.datapath.policy_rows import PolicyFlag, VerdictLoss
from agent.observe.events import Events, Subject
from agent.policy.inputs import Changes, Rows
from agent.policy.terms import RuleRef
from agent.policylog.counts import OVER_BUDGET, RING_FULL, Counts
from agent.policylog.form import DISPOSITIONS, Clock
from agent.policylog.names import Annotations, Directory, Numbers
from agent.policylog.pipeline import Line, Pipeline
from agent.policylog.writer import Writer
from agent.ports import Verdicts
from agent.watch.policy_records import Logging
from agent.watch.records import Key, Node

log = logging.getLogger(__name__)

TURN_SECONDS = 0.1
READ_AT_ONCE = 500
_FORGET_SECONDS = 10.0
_LOSSES = {VerdictLoss.RING_FULL: RING_FULL, VerdictLoss.OVER_BUDGET: OVER_BUDGET}


class Compiled(Protocol):
    """What of `agent.policy.compiler.Compiler` names policies."""

    def rule(self, number: int) -> Sequence[RuleRef]: ...
    def policies_in(self, number: int) -> Sequence[Key]: ...


class PolicyLog:
    """One node's log. `deny_policies`: whether denials name the policies that isolate the pod."""

    def __init__(self, node_name: str, events: Events, writer: Writer, *, deny_policies: bool = False) -> None:
        self.counts = Counts()
        self._node_name = node_name
        self._events = events
        self._writer = writer
        self._directory, self._annotations, self._sets = Directory(), Annotations(), Numbers() if deny_policies else None
        self._pipeline = Pipeline(node_name, self._directory, self._annotations, self.counts, sets=self._sets, untold=self._untold)
        self._verdicts: Verdicts | None = None
        self._losses: Callable[[], Mapping[VerdictLoss, int]] = dict
        self._lock = threading.Lock()
        """Over the names and the pipeline: held for a turn, but not while lines are written."""
        self._wake, self._stop = threading.Event(), threading.Event()
        self._forget_at = 0.0
        self.trouble = ""
        """What is wrong with the file, in words."""
        self._thread = threading.Thread(target=self._run, name="policylog", daemon=True)

    def start(self, verdicts: Verdicts, losses: Callable[[], Mapping[VerdictLoss, int]]) -> None:
        """Begin to read. What the loop knows by now names what an earlier agent left in the ring. `losses`: packets that no record stands
        for, since the tables were made."""
        self._verdicts, self._losses = verdicts, losses
        self._thread.start()

    def stop(self) -> None:
        """Write what there is, and end."""
        self._stop.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=5.0)
        self._writer.close()

    def take(self, changes: Changes, rows: Rows, compiled: Compiled, *, everything: bool = False) -> None:
        """A round of the policy loop, between compiling and writing: what changed (`everything`: and there is no more than that), the rows
        that follow, and the compiler, which is not asked after this has returned."""
        now = time.monotonic_ns()
        rules = {row.rule for row in rows.puts.get("policies", {}).values() if row.flags & PolicyFlag.LOG}
        with self._lock:
            if everything:
                self._directory.keep_pods({*changes.pods, *changes.endpoints}, now)
            self._directory.take_pods(changes.pods, changes.endpoints, now)
            self._annotations.take_policies(changes.policies)
            self._annotations.rules.learn(rules, lambda number: (ref.policy for ref in compiled.rule(number)))
            if self._sets is not None:
                sets = {number for row in rows.puts.get("isolation", {}).values() for number in (row.ingress_set, row.egress_set)}
                self._sets.learn(sets - {0}, compiled.policies_in)
            if changes.logging is not None:
                self._configure(changes.logging)

    def take_nodes(self, nodes: Mapping[Key, Node | None]) -> None:
        """Nodes that are new, changed or gone."""
        with self._lock:
            self._directory.take_nodes(nodes, time.monotonic_ns())

    def _configure(self, wanted: Logging) -> None:
        self._pipeline.configure(wanted)
        self.counts.enabled = wanted.allow or wanted.deny
        if self.counts.enabled:
            self._wake.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            if not self.counts.enabled and not self._pipeline.open_windows:
                self.counts.ready = False
                self._wake.wait()
            self._wake.clear()
            self.counts.ready = self.counts.enabled
            try:
                self._turn()
            except Exception:
                log.exception("the policy log lost records for a reason that nobody foresaw")
            self._stop.wait(TURN_SECONDS)
        with self._lock:
            last = self._pipeline.finish(time.monotonic_ns(), _clock())
        self._write(last)

    def _turn(self) -> None:
        if self._verdicts is None:
            return
        records = self._verdicts.records(READ_AT_ONCE)
        for loss, count in self._losses().items():
            self.counts.dropped[_LOSSES[loss]] = count
        with self._lock:
            now = time.monotonic_ns()
            lines = self._pipeline.feed(records, now, _clock())
            if now / 1e9 >= self._forget_at:
                self._forget_at = now / 1e9 + _FORGET_SECONDS
                self._directory.forget(now)
        self._write(lines)

    def _write(self, lines: Sequence[Line]) -> None:
        if not lines:
            return
        written, reason = self._writer.write([line.text.encode() for line in lines])
        for line in lines[:written]:
            self.counts.lines[DISPOSITIONS[line.allowed]] += 1
        if reason:
            self.counts.dropped[reason] += len(lines) - written
        if self._writer.trouble != self.trouble:
            self.trouble = self._writer.trouble
            if self.trouble:
                log.warning("the policy log cannot be written; what is lost is counted", extra={"error": self.trouble})
                message = f"The network policy log of node {self._node_name} cannot be written: {self.trouble}"
                self._events.warn(Subject("Node", Key("", self._node_name), self._node_name), "PolicyLogNotWritten", message)
            else:
                log.info("the policy log is written again")

    def _untold(self, key: bytes) -> tuple[int, int, int]:
        return self._verdicts.untold(key) if self._verdicts is not None else (0, 0, 0)


def _clock() -> Clock:
    return Clock(time.time_ns() - time.monotonic_ns())
