"""What bringing the tables of Services up to date costs and how long it takes, as plain numbers.

Put in by the synchronizer and read by whoever renders them, each from a thread of their own. Source of the last measure's meaning:
kube-proxy's `network_programming_duration_seconds`, from the change that an EndpointSlice tells of to the rows that follow from it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

from agent.observe.histogram import Histogram
from agent.observe.row_counts import RowCounts

SYNC_BUCKETS = tuple(0.001 * 2**n for n in range(15))
"""Seconds; the bounds of kube-proxy's `sync_proxy_rules_duration_seconds`."""
LATENCY_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, *map(float, range(1, 60)), *(float(n) for n in range(60, 301, 30)))
"""Seconds; kube-proxy's bounds, with finer ones below half a second."""


class ServiceMetrics:
    """Counters and observations; hold `lock` while reading more than one of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.row_counts = RowCounts()
        self.syncs = Histogram(SYNC_BUCKETS)
        """Seconds that a round of compiling and writing took."""
        self.failed_syncs = 0
        self.last_sync = 0.0
        """When the tables were last brought up to date, in seconds since 1970."""
        self.last_queued = 0.0
        """When a change was last heard of."""
        self.pending_since = 0.0
        """When the oldest change that is not in the tables yet was heard of; 0 when there is none."""
        self.latencies = Histogram(LATENCY_BUCKETS)
        """Seconds from the change that a slice tells of to its rows."""
        self.service_changes = 0
        self.endpoint_changes = 0
        self.pending_services = 0
        """Changes heard of that are not in the tables yet."""
        self.pending_endpoints = 0
        self.left_out: Mapping[str, str] = {}
        """Service -> the table that has no room for it."""
        self.conflicts: Mapping[str, int] = {}
        """Service -> how many of its frontends an older Service has."""
        self.no_local_endpoints: Mapping[str, int] = {}
        """`internal`, `external` -> Services of that traffic policy Local whose usable endpoints are all elsewhere."""
        self.rows: Mapping[str, int] = {}
        """Rows by table, as they stand."""
        self.rows_limit: Mapping[str, int] = {}

    def heard(self, now: float, services: int, endpoints: int) -> None:
        """Changes were taken up."""
        if not services and not endpoints:
            return
        with self.lock:
            self.service_changes += services
            self.endpoint_changes += endpoints
            self.pending_services += services
            self.pending_endpoints += endpoints
            self.last_queued = now
            self.pending_since = self.pending_since or now

    def unaffected(self) -> None:
        """What was heard of changes no row."""
        with self.lock:
            self.pending_services = self.pending_endpoints = 0
            self.pending_since = 0.0

    def synced(self, now: float, seconds: float, triggers: Iterable[float]) -> None:
        """A round succeeded; `triggers` are the times, in seconds since 1970, of what it brought about."""
        with self.lock:
            self.syncs.observe(seconds)
            self.last_sync = now
            self.pending_services = self.pending_endpoints = 0
            self.pending_since = 0.0
            for trigger in triggers:
                self.latencies.observe(max(0.0, now - trigger))

    def failed(self) -> None:
        """A round did not get to its end."""
        with self.lock:
            self.failed_syncs += 1

    def stands(self, rows: Mapping[str, int], limits: Mapping[str, int], left_out: Mapping[str, str], conflicts: Mapping[str, int]) -> None:
        """How full the tables are and who is not in them."""
        with self.lock:
            self.rows, self.rows_limit, self.left_out, self.conflicts = rows, limits, left_out, conflicts
