"""The network policy logs of all nodes as one, in the order of time, read by `anetd policy-log` in the agents' pods.

A node's lines stand in the order of their writing; a denied connection's is written when its five seconds are over. So a node's lines are
put in order as far as `_LATE` goes, and the nodes are merged by time. What comes while one follows is shown as it comes, ordered among what
is about as old. Invariants: no record is shown twice or missed because an agent is replaced, or because reading becomes following.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from provisioner.deploy.client import ApiError, UnavailableError
from provisioner.deploy.execute import Container
from provisioner.deploy.stream import Ended, Line, Reorder, Running, Streams

_LATE = 10 * 10**9
"""ns that a line may be older than one that was written before it."""
_HOLD_SECONDS = 0.4
_LOOK_SECONDS = 2.0
_IDLE_SECONDS = 0.1
_OPENERS = 16

Open = Callable[[Container, Sequence[str]], Running]
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records; "" is all. `pod` and `namespace` are of one end, whichever. `since` is in RFC 3339, in UTC."""

    namespace: str = ""
    pod: str = ""
    disposition: str = ""
    since: str = ""
    nodes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Entry:
    """One record: the node that has it, its line as it stands in the file, and its time in ns since 1970."""

    node: str
    text: str
    time: int


@dataclass(slots=True)
class Failures:
    """Nodes whose log could not be read to its end, and why."""

    by_node: dict[str, str] = field(default_factory=dict)


def timestamp(text: str) -> int:
    """ns since 1970 of a record's line; 0 where it has no time."""
    _, _, rest = text.rpartition('"timestamp":"')
    moment, _, _ = rest.partition('"')
    seconds, _, fraction = moment.removesuffix("Z").partition(".")
    try:
        return int(datetime.fromisoformat(f"{seconds}+00:00").timestamp()) * 10**9 + int(f"{fraction:0<9}"[:9] or 0)
    except ValueError:
        return 0


def moment(nanoseconds: int) -> str:
    """As the agents read it."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def command(wanted: Wanted, *, follow: bool) -> list[str]:
    """What is run on a node."""
    words = ["anetd", "policy-log"]
    for name in ("namespace", "pod", "disposition", "since"):
        if value := getattr(wanted, name):
            words += [f"--{name}", value]
    return [*words, "--follow", "--until-stdin-ends"] if follow else words


def stored(where: Mapping[str, Container], start: Open, wanted: Wanted, failures: Failures) -> Iterator[Entry]:
    """Every record that there is, in the order of time."""
    words = command(wanted, follow=False)

    def begin(node: str) -> Running | None:
        try:
            return start(where[node], words)
        except (ApiError, UnavailableError) as error:
            failures.by_node[node] = str(error)
            return None

    with ExitStack() as stack, ThreadPoolExecutor(_OPENERS) as pool:
        opened = [(node, running) for node, running in zip(where, pool.map(begin, where), strict=True) if running is not None]
        for _, running in opened:
            stack.enter_context(running)
        yield from heapq.merge(*(_in_order(node, running, failures) for node, running in opened), key=lambda entry: entry.time)


def _in_order(node: str, running: Running, failures: Failures) -> Iterator[Entry]:
    waiting: list[tuple[int, int, Entry]] = []
    newest = 0
    try:
        for count, text in enumerate(running.lines()):
            entry = Entry(node, text, timestamp(text))
            heapq.heappush(waiting, (entry.time, count, entry))
            newest = max(newest, entry.time)
            while waiting[0][0] + _LATE < newest:
                yield heapq.heappop(waiting)[2]
        if running.exit_code:
            failures.by_node[node] = running.errors.strip() or f"anetd policy-log ended with {running.exit_code}"
    except (ApiError, UnavailableError) as error:
        failures.by_node[node] = str(error)
    while waiting:
        yield heapq.heappop(waiting)[2]


@dataclass(slots=True)
class Seen:
    """What was shown of a node last, to go on from there."""

    newest: int = 0
    _lines: dict[str, int] = field(default_factory=dict)

    def add(self, entry: Entry) -> bool:
        """Whether it was not shown before."""
        if entry.text in self._lines:
            return False
        self._lines[entry.text] = entry.time
        self.newest = max(self.newest, entry.time)
        if len(self._lines) > 1000 and next(iter(self._lines.values())) + 3 * _LATE < self.newest:
            self._lines = {text: at for text, at in self._lines.items() if at + 2 * _LATE >= self.newest}
        return True

    def since(self, otherwise: str) -> str:
        """From when on to ask for what was not shown."""
        return moment(self.newest - _LATE) if self.newest else otherwise


def following(
    look: Callable[[], Mapping[str, Container]],
    start: Open,
    wanted: Wanted,
    tell: Tell,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Entry]:
    """What there is, and then what comes, for ever. `look` says where agents run; it is asked again by and by.

    Raises what `look` raises at first; later it is told, like a node that is lost and found again.
    """
    seen: dict[str, Seen] = {}
    where, failures = look(), Failures()
    for entry in stored(where, start, wanted, failures):
        if seen.setdefault(entry.node, Seen()).add(entry):
            yield entry
    order: Reorder[Entry] = Reorder(_HOLD_SECONDS)
    running: set[str] = set()
    lost: set[str] = set()
    look_at = 0.0
    with Streams() as streams:
        for event in streams.events(idle=_IDLE_SECONDS, forever=True):
            now = clock()
            if isinstance(event, Line):
                entry = Entry(event.source, event.text, timestamp(event.text))
                if seen.setdefault(event.source, Seen()).add(entry):
                    order.add(entry.time, entry, now)
                if event.source in lost:
                    lost.discard(event.source)
                    tell(f"{event.source}: read again")
            elif isinstance(event, Ended):
                running.discard(event.source)
                if event.source not in lost:
                    lost.add(event.source)
                    tell(f"{event.source}: lost ({event.failure or event.errors.strip() or 'the agent ended'}); trying again")
            yield from order.due(now)
            if now >= look_at:
                look_at = now + _LOOK_SECONDS
                where = _looked(look, where, tell)
                for node in where.keys() - running:
                    running.add(node)
                    since = seen.setdefault(node, Seen()).since(wanted.since)
                    words = command(Wanted(wanted.namespace, wanted.pod, wanted.disposition, since), follow=True)
                    streams.add(node, lambda container=where[node], words=words: start(container, words))  # type: ignore[misc]


def _looked(look: Callable[[], Mapping[str, Container]], before: Mapping[str, Container], tell: Tell) -> Mapping[str, Container]:
    try:
        return look()
    except (ApiError, UnavailableError) as error:
        tell(f"the agents' pods cannot be listed: {error}")
        return before
