"""How full the kernel's tables are, and what keeping house in them costs. An event says so before one of them is full."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from agent.datapath.maps import Usage
from agent.observe.events import Events, Subject
from agent.observe.metrics import family
from agent.observe.policy_metrics import PolicyMetrics
from agent.observe.service_metrics import ServiceMetrics
from agent.watch.records import Key

PRESSURE = 0.9
"""The share of its rows from which a table is said to be nearly full."""
RELIEF = 0.8
"""Below it, it is said anew when the table fills up again."""

_REMEDIES = {
    "conntrack": "the oldest flows make room for new ones",
    "masquerade": "the oldest flows to the outside make room for new ones",
    "affinity": "clients that were silent longest may be sent to another endpoint",
    "fragments": "packets in fragments may be lost",
    "socket_flows": "the oldest sockets may see an endpoint's address for a Service's",
    "policies": "pods whose policies find no room are closed",
    "classes": "peers of policies that find no room are denied",
    "isolation": "no further pod of the node can be isolated, and none is started that should be",
}


class TableMetrics:
    """Put in by the housekeeping once a minute, read by whoever renders."""

    def __init__(self, node_name: str, events: Events) -> None:
        self._node_name = node_name
        self._events = events
        self._lock = threading.Lock()
        self._usage: Mapping[str, Usage] = {}
        self._full: set[str] = set()
        self._runs = self._removed = 0
        self._seconds = 0.0

    def collected(self, removed: int, seconds: float) -> None:
        """Garbage was collected."""
        with self._lock:
            self._runs += 1
            self._removed += removed
            self._seconds += seconds

    def looked_at(self, usage: Mapping[str, Usage], services: ServiceMetrics) -> None:
        """This is how full the tables are, beside those of `services`; tells of those that are nearly full, once until they are emptier."""
        with self._lock:
            self._usage = dict(usage)
        for table, each in {**usage, **kept_rows(services)}.items():
            if each.pressure >= PRESSURE and table not in self._full:
                self._full.add(table)
                self._events.warn(Subject("Node", Key("", self._node_name), self._node_name), "TableNearlyFull", _sentence(table, each))
            elif each.pressure < RELIEF:
                self._full.discard(table)

    def render(self, services: ServiceMetrics, policies: PolicyMetrics) -> list[str]:
        """Lines of Prometheus' text."""
        kept = kept_rows(services) | policies.usage()
        with services.lock:
            left_out, conflicts, failed = len(services.left_out), sum(services.conflicts.values()), services.failed_syncs
        with self._lock:
            usage = sorted({**self._usage, **kept}.items())
            runs, removed, seconds = self._runs, self._removed, self._seconds
        return [
            *family("anetd_table_rows", "gauge", "Rows of a table.", [({"table": name}, each.rows) for name, each in usage]),
            *family(
                "anetd_table_capacity", "gauge", "Rows that a table has room for.", [({"table": n}, each.capacity) for n, each in usage]
            ),
            *family(
                "anetd_table_pressure",
                "gauge",
                "Rows of a table over its capacity.",
                [({"table": n}, round(e.pressure, 4)) for n, e in usage],
            ),
            *services.row_counts.render("anetd_table_rows", "Services'"),
            *family("anetd_services_left_out", "gauge", "Services for which a table has no room.", [({}, left_out)]),
            *family("anetd_frontend_conflicts", "gauge", "Frontends that an older Service has.", [({}, conflicts)]),
            *family("anetd_sync_failures_total", "counter", "Rounds that did not get to their end.", [({}, failed)]),
            *family("anetd_conntrack_gc_runs_total", "counter", "Garbage collections of flows.", [({}, runs)]),
            *family("anetd_conntrack_gc_removed_total", "counter", "Rows that they removed.", [({}, removed)]),
            *family("anetd_conntrack_gc_seconds_total", "counter", "Time that they took.", [({}, round(seconds, 6))]),
        ]


def kept_rows(services: ServiceMetrics) -> dict[str, Usage]:
    """How full the tables are that are kept as Services want them."""
    with services.lock:
        return {table: Usage(rows, services.rows_limit.get(table, 0)) for table, rows in services.rows.items()}


def _sentence(table: str, usage: Usage) -> str:
    consequence = _REMEDIES.get(table, "what finds no room is left out")
    return f"table {table} has {usage.rows} of {usage.capacity} rows; when it is full {consequence}"
