"""Denials that the kernel counted and told nobody of, since no packet followed that would have brought the sum. Pure.

The programs tell of a denied connection at once and then, with a later packet, in sums, once a second at most. The last packets of one that
gives up therefore stay in `denials`. They are looked up when a window ends, and once more a second later: nothing is untold for longer
without a packet that tells it. What was added here the kernel will still tell if the connection goes on, so it is taken off then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

AGAIN = 10**9 + 2 * 10**8
"""ns: the programs' second, and the time that a record takes to be read."""
_MOST = 8192

Untold = Callable[[bytes], tuple[int, int, int]]
"""Of a key of `denials` without its padding: packets that no record stands for, when the first was, and the set that denied; or zeros."""


@dataclass(slots=True)
class Leftovers:
    """By the key of a window."""

    untold: Untold
    _added: dict[bytes, int] = field(default_factory=dict)
    _look: deque[tuple[int, bytes]] = field(default_factory=deque)

    def told(self, key: bytes, time: int, count: int, now: int) -> tuple[int, int]:
        """A record of the kernel: the time and the count of what in it is news."""
        added = self._added.get(key, 0)
        # A smaller sum is that of another CPU, or of a row that was made anew.
        if not 0 < added < count:
            return time, count
        del self._added[key]
        return now, count - added

    def more(self, key: bytes, now: int) -> int:
        """A window ends: packets that belong to it besides those that were told."""
        self._look.append((now + AGAIN, key))
        return self._take(key)[0]

    def late(self, now: int) -> Iterator[tuple[bytes, int, int, int]]:
        """Keys whose window ended a while ago and that were denied again since: since when, how many packets, and by which set."""
        while self._look and self._look[0][0] <= now:
            _, key = self._look.popleft()
            count, since, number = self._take(key)
            if count:
                yield key, since, count, number

    def _take(self, key: bytes) -> tuple[int, int, int]:
        untold, since, number = self.untold(key)
        added = self._added.get(key, 0)
        fresh = untold - added
        if fresh <= 0:
            return 0, 0, 0
        if added == 0 and len(self._added) >= _MOST:
            del self._added[next(iter(self._added))]
        self._added[key] = untold
        return fresh, since, number
