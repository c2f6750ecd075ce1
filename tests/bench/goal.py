"""A figure beside what was wanted of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Goal:
    """A figure with what was wanted of it. `at_most` tells which side of the goal is good."""

    what: str
    measured: float
    goal: float
    unit: str
    at_most: bool = True

    @property
    def met(self) -> bool:
        return self.measured <= self.goal if self.at_most else self.measured >= self.goal

    def row(self) -> str:
        sign = "≤" if self.at_most else "≥"
        return f"| {self.what} | {self.measured:g} {self.unit} | {sign} {self.goal:g} {self.unit} | {'yes' if self.met else '**no**'} |"


SHAPES = {"stream": "stream, Gb/s", "rr": "request/response p50, µs", "crr": "connect-request-close p50, µs"}


def shape_name(shape: str) -> str:
    """A shape without what it is measured in."""
    return SHAPES[shape].split(",")[0].removesuffix(" p50")


def percentiles(row: dict[str, Any]) -> str:
    """p50 / p99 / max, in ms; "-" where nothing was measured."""
    return " / ".join(f"{row[key]:.1f}" for key in ("p50_ms", "p99_ms", "max_ms")) if row.get("count") else "-"
