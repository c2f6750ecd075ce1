"""What the log took in, wrote and did not write, under the names of GKE's agent. No record goes without being counted.

Counted by the log's thread, rendered by whoever is asked; single numbers, so nobody waits for the other.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.observe.metrics import family, header, sample

RATE_LIMIT, AGGREGATION_LIMIT = "rate_limit", "aggregation_limit"
RING_FULL, OVER_BUDGET = "ring_full", "kernel_limit"
DISK_FULL, READ_ONLY, NOT_WRITTEN = "disk_full", "read_only", "write_error"
DROP_REASONS = (RATE_LIMIT, AGGREGATION_LIMIT, RING_FULL, OVER_BUDGET, DISK_FULL, READ_ONLY, NOT_WRITTEN)
UNREADABLE, NO_POLICY = "unreadable", "unknown_policy"
ERROR_REASONS = (UNREADABLE, NO_POLICY)
ALLOW_BUCKETS = (1e3, 5e3, 1e4, 2.5e4, 5e4, 1e5, 2.5e5, 5e5, 1e6, 5e6, 1e7)
"""µs from the packet to the line."""
DENY_BUCKETS = (5.0, 5.1, 5.25, 5.5, 6.0, 7.0, 10.0, 30.0)
"""Seconds likewise; of an aggregate from its first packet."""


@dataclass(slots=True)
class Distribution:
    """Observations by upper bounds."""

    bounds: Sequence[float]
    sum: float = 0.0
    counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


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
    allow_latency: Distribution = field(default_factory=lambda: Distribution(ALLOW_BUCKETS))
    deny_latency: Distribution = field(default_factory=lambda: Distribution(DENY_BUCKETS))

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
            *_histogram("policy_logging_allow_latency_microseconds", "From a connection's first packet to its line.", self.allow_latency),
            *_histogram("policy_logging_deny_latency_seconds", "From the first packet of a line to the line.", self.deny_latency),
        ]


def _by(name: str, text: str, label: str, counts: Counter[str], known: Sequence[str]) -> list[str]:
    return family(name, "counter", text, [({label: value}, counts[value]) for value in known])


def _histogram(name: str, text: str, found: Distribution) -> list[str]:
    lines, total = header(name, "histogram", text), 0
    for bound, count in zip((*(f"{bound:g}" for bound in found.bounds), "+Inf"), found.counts, strict=True):
        total += count
        lines.append(sample(f"{name}_bucket", {"le": bound}, total))
    return [*lines, sample(f"{name}_sum", {}, round(found.sum, 6)), sample(f"{name}_count", {}, total)]
