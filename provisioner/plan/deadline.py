"""The time limit of a command, and the clock that it reads. Tests give a clock of their own and never sleep."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field
from typing import Protocol

from provisioner import errors


class Clock(Protocol):
    """Two readings of time: one to measure with, one to write down."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""

    def wall(self) -> float:
        """Seconds since 1970, UTC."""


class SystemClock:
    """The machine's."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """A `Deadline` at a fixed moment of a clock; `seconds` None means no limit."""

    ends_at: float
    seconds: float | None
    clock: Clock

    @classmethod
    def after(cls, seconds: float | None, clock: Clock | None = None) -> TimeLimit:
        """A limit that begins now."""
        clock = clock or SystemClock()
        return cls(math.inf if seconds is None else clock.monotonic() + seconds, seconds, clock)

    def remaining(self) -> float:
        return max(0.0, self.ends_at - self.clock.monotonic())

    def check(self, doing: str) -> None:
        if self.remaining() <= 0:
            raise errors.Timeout(
                f"the time limit of {self.seconds:g} s passed: {doing}",
                remedy="Run the same command again, it continues; or give it more with --timeout.",
            )


@dataclass(frozen=True, slots=True)
class Cancellable:
    """A `Deadline` that also ends when told to: how running steps learn that another failed or that the user wants out."""

    inner: TimeLimit
    cancelled: threading.Event = field(default_factory=threading.Event)

    def remaining(self) -> float:
        return 0.0 if self.cancelled.is_set() else self.inner.remaining()

    def check(self, doing: str) -> None:
        if self.cancelled.is_set():
            raise errors.Interrupted(f"interrupted: {doing}", remedy="Run the same command again, it continues.")
        self.inner.check(doing)
