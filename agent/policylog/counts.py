"""What the log took in, wrote and did not write, under the names of GKE's agent. No record goes without being counted.

Counted by the log's thread, rendered by whoever is asked; single numbers, so nobody waits for the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.observe import histogram
from agent.observe.histogram import Histogram
from agent.observe.metrics import family

RATE_LIMIT, AGGREGATION_LIMIT = "rate_limit", "aggregation_limit"
RING_FULL, OVER_BUDGET = "ring_full", "kernel_limit"
DISK_FULL, READ_ONLY, NOT_WRITTEN = "disk_full", "read_only", "write_error"
DROP_REASONS = (RATE_LIMIT, AGGREGATION_LIMIT, RING_FULL, OVER_BUDGET, DISK_FULL, READ_ONLY, NOT_WRITTEN)
UNREADABLE, NO_POLICY = "unreadable", "unknown_policy"
ERROR_REASONS = (UNREADABLE, NO_POLICY)
ALLOW_BUCKETS = (1000, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000, 10_000_000)
"""µs from the packet to the line."""
DENY_BUCKETS = (5.0, 5.1, 5.25, 5.5, 6.0, 7.0, 10.0, 30.0)
"""Seconds likewise; of an aggregate from its first packet."""


@dataclass(slots=True)
class Counts:
    """By disposition (allow, deny) or by reason."""

    enabled: bool = False
    ready: bool = False
    events: Counter[str] = field(default_factory=Counter)
    """Records that came out of the kernel."""
    lines: Counter[str] = field(default_factory=Counter)
    """Lines that were written."""
    dropped: Counter[str] = field(default_factory=Counter)
    """What was to be logged and was not: lines, or where it never came to a line, records."""
    errors: Counter[str] = field(default_factory=Counter)
    flows: Counter[str] = field(default_factory=Counter)
    """Allowed connections by what came of them: logged, or skipped since no policy that asks for the log allowed them."""
    allow_latency: Histogram = field(default_factory=lambda: Histogram(ALLOW_BUCKETS))
    deny_latency: Histogram = field(default_factory=lambda: Histogram(DENY_BUCKETS))

    def render(self) -> list[str]:
        """Lines of Prometheus' text."""
        return [
            *family("policy_logging_enabled", "gauge", "Whether anything is to be logged.", [({}, int(self.enabled))]),
            *family("policy_logging_ready", "gauge", "Whether verdicts are being read.", [({}, int(self.ready))]),
            *_by("policy_logging_event_count", "Verdicts that the kernel told.", "disposition", self.events, ("allow", "deny")),
            *_by("policy_logging_log_count", "Records that were written.", "disposition", self.lines, ("allow", "deny")),
            *_by("policy_logging_drop_count", "Records that were not written, by reason.", "reason", self.dropped, DROP_REASONS),
            *_by("policy_logging_error_count", "What could not be done, by reason.", "reason", self.errors, ERROR_REASONS),
            *_by(
                "policy_logging_allowed_flow_processed_count",
                "Allowed connections that the kernel told, by what came of them.",
                "result",
                self.flows,
                ("logged", "skipped"),
            ),
            *histogram.render("policy_logging_allow_latency_microseconds", "From the first packet to its line.", self.allow_latency),
            *histogram.render("policy_logging_deny_latency_seconds", "From the first packet to its line.", self.deny_latency),
        ]


def _by(name: str, text: str, label: str, counts: Counter[str], known: Sequence[str]) -> list[str]:
    return family(name, "counter", text, [({label: value}, counts[value]) for value in known])
