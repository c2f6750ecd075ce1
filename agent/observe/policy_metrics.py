"""What bringing the policy tables up to date costs and how long it takes, as plain numbers and as Prometheus' text.

Put in by the policy loop and its synchronizer, read by whoever renders them, each from a thread of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from agent.datapath.maps import Usage
from agent.observe import histogram
from agent.observe.histogram import Histogram
from agent.observe.metrics import family
from agent.observe.row_counts import RowCounts

BUCKETS = tuple(0.00025 * 2**n for n in range(16))
"""Seconds: from a quarter of a millisecond to eight."""


class PolicyMetrics:
    """Counters and observations; hold `lock` while reading more than one of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.compiles = Histogram(BUCKETS)
        """Seconds that the compiler took for a round."""
        self.applies = Histogram(BUCKETS)
        """Seconds that a round's rows took to be written; rounds without any are not counted."""
        self.latencies = Histogram(BUCKETS)
        """Seconds from the API server's word of a change to the rows that follow from it."""
        self.failures = 0
        self.revision = 0
        """The generation of the tables, as flows are stamped with it; 0: nothing was written since the start."""
        self.rows: Mapping[str, int] = {}
        self.capacity: Mapping[str, int] = {}
        self.row_counts = RowCounts()
        self.in_force = 0
        """Policies that select a pod of this node."""
        self.troubles = 0
        """Policies that do not fit."""
        self.closed = 0
        """Pods that are closed because of them."""

    def compiled(self, seconds: float) -> None:
        """The compiler took up a round's changes."""
        with self.lock:
            self.compiles.observe(seconds)

    def applied(self, seconds: float, rows: Mapping[str, int]) -> None:
        """A round's rows are in the kernel, which has so many of them now."""
        with self.lock:
            self.applies.observe(seconds)
            self.rows = rows

    def failed(self) -> None:
        """A round did not get to its end."""
        with self.lock:
            self.failures += 1

    def in_step(self, latency: float | None) -> None:
        """All that was heard of is in force; `latency` is that of the change that waited longest, None for what was there before."""
        with self.lock:
            if latency is not None:
                self.latencies.observe(latency)

    def stands(self, in_force: int, troubles: int, closed: int) -> None:
        """How many policies select pods of this node, how many do not fit, and how many pods are closed because of the last."""
        with self.lock:
            self.in_force, self.troubles, self.closed = in_force, troubles, closed

    def usage(self) -> dict[str, Usage]:
        """How full the tables are."""
        with self.lock:
            return {table: Usage(rows, self.capacity.get(table, 0)) for table, rows in self.rows.items()}

    def render(self) -> list[str]:
        """Lines of Prometheus' text. The tables' rows, capacity and pressure stand beside all other tables'."""
        with self.lock:
            gauges = (
                ("revision", "Generation of the policy tables; flows of an older one are judged anew.", self.revision),
                ("in_force", "NetworkPolicies that select a pod of this node.", self.in_force),
                ("troubles", "NetworkPolicies that do not fit.", self.troubles),
                ("pods_closed", "Pods of this node that are closed in a direction because their policies do not fit.", self.closed),
            )
            lines = [line for name, text, value in gauges for line in family(f"anetd_policy_{name}", "gauge", text, [({}, value)])]
            lines += family("anetd_policy_failures_total", "counter", "Rounds that did not get to their end.", [({}, self.failures)])
            lines += self.row_counts.render("anetd_policy_rows", "the policy")
            lines += histogram.render("anetd_policy_compile_seconds", "Time to compile a round's changes.", self.compiles)
            lines += histogram.render("anetd_policy_apply_seconds", "Time to write a round's rows.", self.applies)
            return lines + histogram.render(
                "anetd_policy_latency_seconds", "Time from the API server's word of a change to the rows that follow.", self.latencies
            )
