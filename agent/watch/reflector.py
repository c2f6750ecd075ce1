"""List and watch as a state machine without I/O: what to ask next, and what an answer means.

    LISTING --page--> LISTING --last page--> WATCHING --410--> LISTING
       ^ failure: wait, begin again             | end or failure: wait, watch again from the last version

Invariants: a list replaces the store as a whole and only when its last page is in, so a half-read list deletes nothing; a watch
goes on from the last version that was handled; every failure waits longer than the one before it, with jitter, up to a limit; an
answer that shows life ends the waiting. Source: the Kubernetes API's "efficient detection of changes".
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode

from agent.watch.records import Key, key_of

T = TypeVar("T")

PAGE_SIZE = 500
WATCH_SECONDS = (300, 600)
FIRST_WAIT, LAST_WAIT = 0.25, 30.0
_AS_LATE_AS_CAN_BE = 16
"""Failures after which the wait is the longest."""


@dataclass(frozen=True, slots=True)
class Resource(Generic[T]):
    """What is watched: the collection's path, how an object becomes a record, a label selector and a field selector.

    `optional`: a cluster may lack the kind, which then counts as a list without objects, and is asked for again by and by.
    """

    path: str
    decode: Callable[[Mapping[str, Any]], T]
    selector: str = ""
    fields: str = ""
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """GET `target` (path and query). `watch`: the answer is a stream of lines. `seconds`: how long it may take in all."""

    target: str
    watch: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Replace(Generic[T]):
    """These are all objects there are."""

    records: Mapping[Key, T]


@dataclass(frozen=True, slots=True)
class Upsert(Generic[T]):
    """This object is new or changed."""

    key: Key
    record: T


@dataclass(frozen=True, slots=True)
class Remove:
    """This object is gone."""

    key: Key


Change = Replace[T] | Upsert[T] | Remove


class _Phase(Enum):
    LISTING = auto()
    WATCHING = auto()


class ProtocolViolationError(Exception):
    """The server's answer is not what the API promises; the connection is of no use any more."""


@dataclass(slots=True)
class Reflector(Generic[T]):
    """One resource. Drive it: `wait()` seconds, then `ask()`, then feed the answer to `page`, `line`, `ended` or `failed`."""

    resource: Resource[T]
    random: random.Random = field(default_factory=random.Random)
    _phase: _Phase = _Phase.LISTING
    _version: str = ""
    _continue: str = ""
    _pages: dict[Key, T] = field(default_factory=dict)
    _failures: int = 0
    _stirred: bool = False
    synced: bool = False

    def wait(self) -> float:
        """Seconds to wait before the next `ask`."""
        if not self._failures:
            return 0.0
        limit = min(FIRST_WAIT * 2.0 ** (self._failures - 1), LAST_WAIT)
        return limit * self.random.uniform(0.5, 1.0)

    def ask(self) -> Ask:
        """The next request."""
        query: dict[str, str | int] = {}
        if self.resource.selector:
            query["labelSelector"] = self.resource.selector
        if self.resource.fields:
            query["fieldSelector"] = self.resource.fields
        if self._phase is _Phase.LISTING:
            query["limit"] = PAGE_SIZE
            if self._continue:
                query["continue"] = self._continue
            return Ask(f"{self.resource.path}?{urlencode(query)}", watch=False, seconds=60.0)
        self._stirred = False
        seconds = self.random.randint(*WATCH_SECONDS)
        query |= {"watch": 1, "allowWatchBookmarks": "true", "resourceVersion": self._version, "timeoutSeconds": seconds}
        return Ask(f"{self.resource.path}?{urlencode(query)}", watch=True, seconds=seconds + 15.0)

    def page(self, body: bytes) -> list[Change[T]]:
        """A page of a list."""
        try:
            document = json.loads(body)
            metadata = document["metadata"]
            for item in document.get("items") or ():
                self._pages[key_of(item)] = self.resource.decode(item)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ProtocolViolationError(f"a list of {self.resource.path} cannot be read: {error!r}") from error
        self._continue = metadata.get("continue") or ""
        if self._continue:
            return []
        self._version = metadata.get("resourceVersion") or ""
        records, self._pages = self._pages, {}
        self._phase, self._failures, self.synced = _Phase.WATCHING, 0, True
        return [Replace(records)]

    def line(self, line: bytes) -> list[Change[T]]:
        """A line of a watch."""
        try:
            event = json.loads(line)
            kind, item = event["type"], event["object"]
            if kind == "ERROR":
                return self._error_event(item)
            version = item["metadata"]["resourceVersion"]
            changes: list[Change[T]] = []
            if kind in {"ADDED", "MODIFIED"}:
                changes.append(Upsert(key_of(item), self.resource.decode(item)))
            elif kind == "DELETED":
                changes.append(Remove(key_of(item)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ProtocolViolationError(f"a watch event of {self.resource.path} cannot be read: {error!r}") from error
        self._version = version
        self._failures, self._stirred = 0, True
        return changes

    def ended(self) -> None:
        """The watch ended as it should. One that ends without a word is a failure of sorts: not asked again in haste."""
        if self._stirred:
            self._failures = 0
        else:
            self._failures = max(self._failures, 1)

    def failed(self, status: int = 0) -> None:
        """No answer (0), or one that says no. 410 Gone: what we know is too old, a new list is needed."""
        self._failures += 1
        self._pages, self._continue = {}, ""
        if status == 410 or (status == 400 and self._phase is _Phase.WATCHING):
            self._relist()

    def missing(self) -> list[Change[T]]:
        """The server does not know the kind, which is `optional`: there are no objects. Asked for again after the longest wait."""
        self._relist()
        self._failures, self._pages, self._continue, self.synced = _AS_LATE_AS_CAN_BE, {}, "", True
        return [Replace({})]

    def _error_event(self, status: Mapping[str, Any]) -> list[Change[T]]:
        self.failed(int(status.get("code") or 0))
        return []

    def _relist(self) -> None:
        # At once the first time: being too old is no sign of an overloaded server. A list that fails then waits as ever.
        self._failures -= 1 if self._failures == 1 else 0
        self._phase, self._version = _Phase.LISTING, ""
