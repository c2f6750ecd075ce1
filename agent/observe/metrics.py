"""Counters and histograms in Prometheus' text format, and nothing more than is looked at.

Pure but for the lock: numbers are put in by whoever has them and rendered when asked for.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping

BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


RECENT = 1024
"""Requests of a kind whose durations are kept for `CniMetrics.recent`."""


class CniMetrics:
    """How many CNI requests there were, with what end, and how long they took."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))
        self._counts: dict[tuple[str, int], int] = defaultdict(int)
        self._buckets: dict[str, list[int]] = {}
        self._sums: dict[str, float] = defaultdict(float)

    def observe(self, command: str, code: int, seconds: float) -> None:
        """Count one request. Only those that succeeded go into the histogram."""
        with self._lock:
            self._counts[command or "unknown", code] += 1
            if code == 0:
                self._buckets.setdefault(command, [0] * (len(BUCKETS) + 1))[bisect_left(BUCKETS, seconds)] += 1
                self._sums[command] += seconds
                self._recent[command].append(seconds)

    def recent(self) -> dict[str, dict[str, float]]:
        """Command -> count, and median, 90th percentile and maximum in milliseconds, of the last `RECENT` that succeeded."""
        with self._lock:
            kept = {command: sorted(values) for command, values in self._recent.items()}
        return {
            command: {
                "count": len(values),
                "p50Ms": round(values[len(values) // 2] * 1000, 2),
                "p90Ms": round(values[len(values) * 9 // 10] * 1000, 2),
                "maxMs": round(values[-1] * 1000, 2),
            }
            for command, values in kept.items()
        }

    def render(self) -> list[str]:
        """Lines of text."""
        with self._lock:
            lines = header("anetd_cni_requests_total", "counter", "CNI requests by command and error code (0 is success).")
            lines += [sample("anetd_cni_requests_total", {"command": c, "code": str(n)}, v) for (c, n), v in sorted(self._counts.items())]
            name = "anetd_cni_request_duration_seconds"
            lines += header(name, "histogram", "Time in the agent for CNI requests that succeeded.")
            for command, buckets in sorted(self._buckets.items()):
                total = 0
                for bound, count in zip((*map(str, BUCKETS), "+Inf"), buckets, strict=True):
                    total += count
                    lines.append(sample(f"{name}_bucket", {"command": command, "le": bound}, total))
                lines.append(sample(f"{name}_sum", {"command": command}, round(self._sums[command], 6)))
                lines.append(sample(f"{name}_count", {"command": command}, total))
            return lines


def header(name: str, kind: str, text: str) -> list[str]:
    """The two lines that open a metric."""
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def sample(name: str, labels: Mapping[str, str], value: float) -> str:
    """One line."""
    inner = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
    return f"{name}{{{inner}}} {value}" if inner else f"{name} {value}"


def family(name: str, kind: str, text: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> list[str]:
    """A whole metric."""
    return header(name, kind, text) + [sample(name, labels, value) for labels, value in samples]


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def resident_bytes() -> int:
    """What the process has in memory."""
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 (read on every scrape)
        return int(statm.read().split()[1]) * 4096
