"""A thread per resource: drives a `Reflector` over a `Connection` and keeps the records.

Invariants: `on_change` is called after the records changed, from the watcher's thread, and must not block; nothing that the API
server does or fails to do removes a record before a later list says that the object is gone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from agent.watch.records import Key
from agent.watch.reflector import Change, ProtocolViolationError, Reflector, Remove, Replace, Resource, Upsert
from agent.watch.transport import Access, Connection, StatusError, TransportError

T = TypeVar("T")
log = logging.getLogger(__name__)


class Watcher(Generic[T]):
    """The records of one resource, kept current."""

    def __init__(self, name: str, resource: Resource[T], access: Access, on_change: Callable[[], None]) -> None:
        self.name = name
        self._reflector = Reflector(resource)
        self._optional = resource.optional
        self._connection = Connection(access)
        self._on_change = on_change
        self._lock = threading.Lock()
        self._records: dict[Key, T] = {}
        self._changed: set[Key] = set()
        self._stop = threading.Event()
        self._connected = False
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name=f"watch-{name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, also in the middle of an answer."""
        self._stop.set()
        self._connection.close()

    @property
    def synced(self) -> bool:
        """Whether a whole list has been seen since the start."""
        return self._reflector.synced

    @property
    def connected(self) -> bool:
        """Whether the last request was answered."""
        return self._connected

    def get(self, key: Key) -> T | None:
        """A record as it is now."""
        with self._lock:
            return self._records.get(key)

    def snapshot(self) -> dict[Key, T]:
        """The records as they are now."""
        with self._lock:
            return dict(self._records)

    def take(self) -> dict[Key, T | None]:
        """What changed since this was last asked, as it is now; None for what is gone."""
        with self._lock:
            changed, self._changed = self._changed, set()
            return {key: self._records.get(key) for key in changed}

    def _run(self) -> None:
        while not self._stop.wait(self._reflector.wait()):
            try:
                self._turn()
            except (TransportError, ProtocolViolationError) as error:
                self._connection.close()
                self._fail(0, str(error))
            except StatusError as error:
                if error.status in {403, 404} and self._optional:
                    self._live()
                    self._apply(self._reflector.missing())
                else:
                    self._fail(error.status, str(error))
            except Exception as error:
                # Whatever it is, the last state goes on being served, and the next request puts things right.
                if not self._stop.is_set():
                    log.exception("a watch failed for a reason that nobody foresaw", extra={"resource": self.name})
                self._connection.close()
                self._fail(0, repr(error))

    def _turn(self) -> None:
        ask = self._reflector.ask()
        if not ask.watch:
            body = self._connection.get(ask.target, ask.seconds)
            self._live()
            self._apply(self._reflector.page(body))
            return
        lines = self._connection.lines(ask.target, ask.seconds)
        self._live()
        for line in lines:
            self._apply(self._reflector.line(line))
            if self._stop.is_set():
                return
        self._reflector.ended()

    def _apply(self, changes: list[Change[T]]) -> None:
        listed = False
        changed: set[Key] = set()
        with self._lock:
            for change in changes:
                match change:
                    case Replace(records):
                        listed = True
                        changed |= {key for key, record in records.items() if self._records.get(key) != record}
                        changed |= self._records.keys() - records.keys()
                        self._records = dict(records)
                    case Upsert(key, record):
                        if self._records.get(key) != record:
                            changed.add(key)
                        self._records[key] = record
                    case Remove(key):
                        if self._records.pop(key, None) is not None:
                            changed.add(key)
            self._changed |= changed
        if changed or listed:
            self._on_change()

    def _live(self) -> None:
        self._connected = True
        if self._trouble:
            log.info("the API server answers again", extra={"resource": self.name})
            self._trouble = ""

    def _fail(self, status: int, reason: str) -> None:
        if self._stop.is_set():
            return
        self._reflector.failed(status)
        if status == 410:
            return
        self._connected = False
        if not self._trouble:
            # Once an outage: what the pods have stays as it is, and there is nothing to say until it ends.
            log.warning("the API server does not answer; running pods keep their network", extra={"resource": self.name, "error": reason})
        self._trouble = reason
