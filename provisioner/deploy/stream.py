"""Several commands at once, one a node or pod, and what they print as one stream of lines.

    with Streams({"node-0": lambda: Execution(...), ...}) as streams:
        for event in streams.events():
            ...  # Line(source, text), or Ended(source, ...) once for each source

Invariants: a slow reader slows the commands down and loses nothing; one source that fails ends alone, as an `Ended` that says why; after
the `with` no thread reads any more and every connection is closed, so the commands' standard inputs have ended.
"""

from __future__ import annotations

import contextlib
import heapq
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from provisioner.deploy.client import ApiError, UnavailableError

_AHEAD = 4096
_LOOK_SECONDS = 0.2
T = TypeVar("T")


class Running(Protocol):
    """What of `execute.Execution` is used, so that tests may stand in for it."""

    exit_code: int | None
    errors: str

    def lines(self) -> Iterator[str]: ...
    def stop(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


@dataclass(frozen=True, slots=True)
class Line:
    """One line that a source printed, without its end."""

    source: str
    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A source has ended: `exit_code` if the command ended by itself, else the `failure` of its connection; `errors`: of its stderr."""

    source: str
    exit_code: int | None
    errors: str = ""
    failure: Exception | None = None


class Streams:
    """Commands that run side by side: source -> what opens one."""

    def __init__(self, opening: Mapping[str, Callable[[], Running]] | None = None) -> None:
        self._opening = dict(opening or {})
        self._queue: queue.Queue[Line | Ended] = queue.Queue(_AHEAD)
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._running: list[Running] = []
        self._left = 0
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        for source, opener in self._opening.items():
            self.add(source, opener)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        for thread in self._threads:
            thread.join()

    def add(self, source: str, opener: Callable[[], Running]) -> None:
        """One more, from the thread that reads `events`."""
        thread = threading.Thread(target=self._read, args=(source, opener), name=f"stream-{source}", daemon=True)
        self._threads = [old for old in self._threads if old.is_alive()] + [thread]
        self._left += 1
        thread.start()

    def stop(self) -> None:
        """End every command. `events` then ends too; what was not yet taken is dropped."""
        self._stopped.set()
        with self._lock:
            for running in self._running:
                running.stop()

    def events(self, idle: float | None = None, *, forever: bool = False) -> Iterator[Line | Ended | None]:
        """Lines as they come, and the end of each source, until all have ended (`forever`: until `stop`).

        With `idle`: None whenever so many seconds were silent.
        """
        while (self._left or forever) and not self._stopped.is_set():
            try:
                event = self._queue.get(timeout=idle)
            except queue.Empty:
                yield None
                continue
            if isinstance(event, Ended):
                self._left -= 1
            yield event

    def _read(self, source: str, opener: Callable[[], Running]) -> None:
        try:
            with opener() as running:
                with self._lock:
                    self._running.append(running)
                try:
                    if self._stopped.is_set():
                        return
                    for line in running.lines():
                        self._put(Line(source, line))
                finally:
                    with self._lock:
                        self._running.remove(running)
                self._put(Ended(source, running.exit_code, running.errors))
        except (ApiError, UnavailableError) as error:
            self._put(Ended(source, None, failure=error))

    def _put(self, event: Line | Ended) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(event, timeout=_LOOK_SECONDS)
                return


@dataclass(slots=True)
class Reorder(Generic[T]):
    """Puts what comes from several sources in order, if it is not late by more than `seconds`. Pure: the caller tells the time."""

    seconds: float
    _heap: list[tuple[int, int, float, T]] = field(default_factory=list)
    _count: int = 0

    def add(self, key: int, item: T, now: float) -> None:
        """`key` is what the order is by; equal ones stay as they came."""
        self._count += 1
        heapq.heappush(self._heap, (key, self._count, now, item))

    def due(self, now: float) -> Iterator[T]:
        """What has waited long enough for others to overtake it."""
        while self._heap and self._heap[0][2] + self.seconds <= now:
            yield heapq.heappop(self._heap)[3]

    def rest(self) -> Iterator[T]:
        """Everything."""
        while self._heap:
            yield heapq.heappop(self._heap)[3]
