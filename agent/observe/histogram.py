"""Observations by upper bounds, and as Prometheus' text."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence

from agent.observe.metrics import header, sample

RECENT = 1024


class Histogram:
    """Observations by upper bounds, and the last `RECENT` of them. Not for two threads at a time."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Of each bound alone, not of all below it; the last is above every bound."""
        self.sum = 0.0
        self.recent: deque[float] = deque(maxlen=RECENT)

    def observe(self, value: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
        self.recent.append(value)

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)


def render(name: str, text: str, histogram: Histogram, labels: Sequence[Mapping[str, str]] = ({},)) -> list[str]:
    """Lines of text, the same numbers under each of `labels`."""
    lines = header(name, "histogram", text)
    for label in labels:
        total = 0
        for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
            total += count
            lines.append(sample(f"{name}_bucket", {**label, "le": bound}, total))
        lines.append(sample(f"{name}_sum", label, round(histogram.sum, 6)))
        lines.append(sample(f"{name}_count", label, total))
    return lines
