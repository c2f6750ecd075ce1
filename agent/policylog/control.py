"""Follows the NetworkLogging objects, and tells of them in Events: one agent does, that of the first Ready node by name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from agent.observe.events import Events, Subject
from agent.policylog.settings import API_VERSION, KIND, RESOURCE, UPDATED, NetworkLogging, Notice, settle
from agent.watch.policy_records import Logging
from agent.watch.records import Key, Node
from agent.watch.transport import Access
from agent.watch.watcher import Watcher

log = logging.getLogger(__name__)


class LoggingControl:
    """What is to be logged. `follow` is called with it when the objects are known, and whenever it is another thing."""

    def __init__(
        self, access: Access, node_name: str, nodes: Callable[[], Mapping[Key, Node]], events: Events, follow: Callable[[Logging], None]
    ) -> None:
        self.watcher: Watcher[NetworkLogging] = Watcher("networkloggings", RESOURCE, access, self._take)
        self.logging = Logging()
        """What is in force."""
        self._follow = follow
        self._node_name = node_name
        self._nodes = nodes
        self._events = events
        self._begun = False

    def _take(self) -> None:
        before = self.logging
        self.logging, notices = settle(before, self.watcher.take())
        for notice in notices:
            # That an agent has read at its start what is as it was, is no news.
            if self._begun or notice.reason != UPDATED:
                self._tell(notice)
        if self.logging != before or not self._begun:
            self._follow(self.logging)
        self._begun = True

    def _tell(self, notice: Notice) -> None:
        log.info(notice.message, extra={"networkLogging": notice.subject.name, "reason": notice.reason})
        if min((node.name for node in self._nodes().values() if node.ready), default=self._node_name) != self._node_name:
            return
        subject = Subject(KIND, notice.subject, notice.uid, API_VERSION)
        tell = self._events.inform if notice.reason == UPDATED else self._events.warn
        tell(subject, notice.reason, notice.message)
