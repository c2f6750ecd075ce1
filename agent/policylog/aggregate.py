"""What is denied again and again within five seconds is one record with a count; and so many lines a second and no more. Pure.

A window of a connection without its source port begins with its first packet. All windows are of one length, so they end in the order in
which they began. Times are ns of CLOCK_MONOTONIC.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

WINDOW = 5 * 10**9
MOST_KEYS = 3000
LINES_PER_SECOND = 500


@dataclass(slots=True)
class Denied:
    """A connection's denials: when the first was, how many there were, and who isolates the pod (JSON, as `names` makes it)."""

    key: bytes
    first: int
    count: int
    policies: str = ""


class Aggregator:
    """Open windows by key."""

    def __init__(self, window: int = WINDOW, most: int = MOST_KEYS) -> None:
        self._window, self._most = window, most
        self._open: dict[bytes, Denied] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, key: bytes, time: int, count: int) -> Denied | None:
        """The window that `count` packets were added to; None when there is no room for one more."""
        found = self._open.get(key)
        if found is not None:
            found.count += count
            return found
        if len(self._open) >= self._most:
            return None
        self._open[key] = found = Denied(key, time, count)
        return found

    def due(self, now: int) -> Iterator[Denied]:
        """The windows that have ended; they are closed by this."""
        while self._open:
            key, oldest = next(iter(self._open.items()))
            if oldest.first + self._window > now:
                return
            del self._open[key]
            yield oldest

    def rest(self) -> Iterator[Denied]:
        """All of them, when there will be no later."""
        while self._open:
            yield self._open.pop(next(iter(self._open)))


class Budget:
    """Lines that may be written: `rate` a second, and no more at once. Begins full."""

    def __init__(self, rate: int = LINES_PER_SECOND) -> None:
        self._rate = rate
        self._tokens = float(rate)
        self._filled = 0

    def refill(self, now: int) -> None:
        """Before lines are taken."""
        if now > self._filled:
            self._tokens = min(float(self._rate), self._tokens + (now - self._filled) * self._rate / 1e9)
            self._filled = now

    def take(self) -> bool:
        """Whether one more may be written."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
