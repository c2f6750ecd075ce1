"""Kubernetes Events: what people should hear of although the agent goes on. One API object a trouble, with a count.

`Ledger` decides what to write (pure); `EventSink` writes it, from a thread of its own. Invariants: telling never blocks and never raises;
what happens again within `SERIES_SECONDS` is counted, not written anew; an API server that is away costs nothing but the events of
that time, and says nothing of itself; a flood of different troubles ends at `MAX_SERIES`.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from agent.watch.records import Key
from agent.watch.transport import Access, Connection, StatusError, TransportError

log = logging.getLogger(__name__)

CONTROLLER = "anetd"
WARNING, NORMAL = "Warning", "Normal"
"""Kinds of events, in the API's words."""
SERIES_SECONDS = 600.0
REWRITE_SECONDS = 30.0
"""At least so long between two writes of one event: its count may be behind by as much."""
MAX_SERIES = 64
QUEUE = 256
_NOTE_LIMIT = 1024
_REQUEST_SECONDS = 10.0
_IDLE_SECONDS = 60.0
_MERGE_PATCH = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Subject:
    """The object that an event is about. Without `uid` the event stands in `kubectl get events` alone, not in the object's description."""

    kind: str
    key: Key
    uid: str = ""
    api_version: str = "v1"


class Events(Protocol):
    """Where troubles are told."""

    def warn(self, subject: Subject, reason: str, message: str) -> None:
        """Tell of a trouble: `reason` is one word in CamelCase, `message` a sentence for people."""

    def inform(self, subject: Subject, reason: str, message: str) -> None:
        """Tell of a change that is no trouble, likewise."""


class NoEvents:
    """Tells nobody."""

    def warn(self, subject: Subject, reason: str, message: str) -> None:
        """Say nothing."""

    def inform(self, subject: Subject, reason: str, message: str) -> None:
        """Say nothing."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What makes two events the same."""

    subject: Subject
    reason: str
    message: str
    kind: str = WARNING


@dataclass(slots=True)
class _Series:
    name: str
    first: float
    last: float
    count: int = 1
    written: int = 0
    not_before: float = 0.0


@dataclass(frozen=True, slots=True)
class Write:
    """One request: a POST of the whole event where `count` is 1 or it was never written, else a PATCH of its series."""

    trouble: Trouble
    name: str
    first: float
    last: float
    count: int
    is_new: bool


class Ledger:
    """Troubles -> requests. Times are seconds since the epoch. Not for two threads at a time."""

    def __init__(self) -> None:
        self._series: dict[Trouble, _Series] = {}

    def add(self, trouble: Trouble, now: float) -> bool:
        """Count a trouble; whether there was room for it."""
        for old in [each for each, series in self._series.items() if now - series.last > SERIES_SECONDS]:
            del self._series[old]
        series = self._series.get(trouble)
        if series is not None:
            series.count += 1
            series.last = now
            return True
        if len(self._series) >= MAX_SERIES:
            return False
        # As client-go names its events: the object's name and a number that is never the same again.
        self._series[trouble] = _Series(f"{trouble.subject.key.name[:236]}.{int(now * 1e9):016x}", now, now)
        return True

    def due(self, now: float) -> list[Write]:
        """What is to be written now."""
        return [
            Write(trouble, series.name, series.first, series.last, series.count, is_new=not series.written)
            for trouble, series in self._series.items()
            if series.count > series.written and series.not_before <= now
        ]

    def wait(self, now: float) -> float | None:
        """Seconds until something is due; None when nothing will be."""
        times = [series.not_before for series in self._series.values() if series.count > series.written]
        return max(0.0, min(times) - now) if times else None

    def written(self, write: Write, now: float) -> None:
        """`write` is done."""
        if series := self._series.get(write.trouble):
            series.written = write.count
            series.not_before = now + REWRITE_SECONDS

    def postponed(self, write: Write, now: float) -> None:
        """`write` could not be done now."""
        if series := self._series.get(write.trouble):
            series.not_before = now + REWRITE_SECONDS

    def refused(self, write: Write) -> None:
        """`write` will never be done: its object, its namespace or the event itself is gone."""
        self._series.pop(write.trouble, None)


def new_event(write: Write, node_name: str) -> dict[str, Any]:
    """The object to POST, of events.k8s.io/v1."""
    subject = write.trouble.subject
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": write.name, "namespace": namespace_of(subject)},
        "eventTime": _micro_time(write.first),
        "reportingController": CONTROLLER,
        "reportingInstance": node_name[:128],
        "action": "Programming",
        "reason": write.trouble.reason,
        "type": write.trouble.kind,
        "note": _shortened(write.trouble.message),
        "regarding": {
            "apiVersion": subject.api_version,
            "kind": subject.kind,
            "name": subject.key.name,
            **({"namespace": subject.key.namespace} if subject.key.namespace else {}),
            **({"uid": subject.uid} if subject.uid else {}),
        },
        **(series_of(write) if write.count > 1 else {}),
    }


def series_of(write: Write) -> dict[str, Any]:
    """The part that a PATCH changes."""
    return {"series": {"count": write.count, "lastObservedTime": _micro_time(write.last)}}


def namespace_of(subject: Subject) -> str:
    """Where the event is kept: beside its object; of one that has no namespace, in `default`."""
    return subject.key.namespace or "default"


def _micro_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _shortened(text: str) -> str:
    data = text.encode()
    return text if len(data) <= _NOTE_LIMIT else data[: _NOTE_LIMIT - 3].decode(errors="ignore") + "..."


class EventSink:
    """Writes events through a connection of its own, open while there is something to write."""

    def __init__(self, access: Access, node_name: str) -> None:
        self.lost = 0
        """Troubles for which there was no room."""
        self._node_name = node_name
        self._connection = Connection(access)
        self._queue: queue.Queue[Trouble] = queue.Queue(QUEUE)
        self._ledger = Ledger()
        self._started = False
        self._starting = threading.Lock()

    def warn(self, subject: Subject, reason: str, message: str) -> None:
        """See `Events`."""
        self._tell(Trouble(subject, reason, message))

    def inform(self, subject: Subject, reason: str, message: str) -> None:
        """See `Events`."""
        self._tell(Trouble(subject, reason, message, NORMAL))

    def _tell(self, trouble: Trouble) -> None:
        try:
            self._queue.put_nowait(trouble)
        except queue.Full:
            self.lost += 1
            return
        with self._starting:
            if not self._started:
                # Most agents never have anything to tell.
                self._started = True
                threading.Thread(target=self._run, name="events", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                self._turn()
            except Exception:
                log.exception("an event was lost for a reason that nobody foresaw")

    def _turn(self) -> None:
        wait = self._ledger.wait(time.time())
        try:
            trouble = self._queue.get(timeout=_IDLE_SECONDS if wait is None else min(wait, _IDLE_SECONDS))
            if not self._ledger.add(trouble, time.time()):
                self.lost += 1
        except queue.Empty:
            if wait is None:
                self._connection.close()
        for write in self._ledger.due(time.time()):
            self._write(write)

    def _write(self, write: Write) -> None:
        path = f"/apis/events.k8s.io/v1/namespaces/{namespace_of(write.trouble.subject)}/events"
        try:
            if write.is_new:
                self._send("POST", path, new_event(write, self._node_name), "application/json")
            else:
                self._send("PATCH", f"{path}/{write.name}", series_of(write), _MERGE_PATCH)
        except TransportError:
            self._ledger.postponed(write, time.time())
        except StatusError as error:
            if error.status == 409 and write.is_new:
                self._ledger.written(write, time.time())  # the answer to an earlier request was lost on its way
                return
            if error.status == 429 or error.status >= 500:
                self._ledger.postponed(write, time.time())
                return
            if error.status not in {403, 404}:  # a namespace that goes, an event that has expired
                log.warning("an event was refused", extra={"reason": write.trouble.reason, "status": error.status})
            self._ledger.refused(write)
        else:
            self._ledger.written(write, time.time())

    def _send(self, method: str, target: str, document: Mapping[str, Any], content_type: str) -> None:
        self._connection.send(method, target, json.dumps(document).encode(), content_type, _REQUEST_SECONDS)
