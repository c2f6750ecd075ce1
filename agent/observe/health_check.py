"""healthCheckNodePort: tells load balancers whether this node has ready endpoints of a Service whose externalTrafficPolicy is Local.

The words are kube-proxy's. Invariant: a port that another process has is told (an event on the Service, a metric) and tried again;
all others are served.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Mapping

from agent.observe.events import Events, Subject
from agent.observe.httpd import JSON, Answer, Handler, HttpLoop
from agent.services.healthchecks import HealthCheck

log = logging.getLogger(__name__)

REASON = "FailedToStartServiceHealthcheck"


def answer(check: HealthCheck, *, healthy: bool) -> Answer:
    """200 when the node has endpoints and its tables are kept, else 503."""
    body = {
        "service": {"namespace": check.service.namespace, "name": check.service.name},
        "localEndpoints": check.local_endpoints,
        "serviceProxyHealthy": healthy,
    }
    headers = {"X-Content-Type-Options": "nosniff", "X-Load-Balancing-Endpoint-Weight": str(check.local_endpoints)}
    return Answer(200 if check.local_endpoints and healthy else 503, json.dumps(body, indent="\t"), JSON, headers)


class HealthChecks:
    """The ports that are answered. Call `follow` from one thread at a time."""

    def __init__(self, loop: HttpLoop, node_name: str, events: Events, healthy: Callable[[], bool]) -> None:
        self._loop = loop
        self._node_name = node_name
        self._events = events
        self._healthy = healthy
        self._checks: Mapping[int, HealthCheck] = {}
        self._listeners: dict[int, socket.socket] = {}
        self._refused: dict[int, str] = {}

    @property
    def refused(self) -> Mapping[int, str]:
        """Ports that cannot be answered, and why."""
        return dict(self._refused)

    def follow(self, checks: Mapping[int, HealthCheck]) -> None:
        """From now on answer these ports, with these numbers. What could not be opened before is tried again."""
        self._checks = dict(checks)
        for port in self._listeners.keys() - checks.keys():
            self._loop.close(self._listeners.pop(port))
        for port in checks.keys() - self._listeners.keys():
            self._open(port, checks[port])
        self._refused = {port: why for port, why in self._refused.items() if port in checks}

    def _open(self, port: int, check: HealthCheck) -> None:
        try:
            self._listeners[port] = self._loop.listen(port, self._handler(port))
            self._refused.pop(port, None)
        except OSError as error:
            why = error.strerror or str(error)
            if self._refused.get(port) != why:
                message = f"node {self._node_name} failed to start healthcheck {str(check.service)!r} on port {port}: {why}"
                log.warning("a health check cannot be served", extra={"service": str(check.service), "port": port, "error": why})
                self._events.warn(Subject("Service", check.service, check.uid), REASON, message)
            self._refused[port] = why

    def _handler(self, port: int) -> Handler:
        def handle(_path: str) -> Answer:
            check = self._checks.get(port)
            return answer(check, healthy=self._healthy()) if check is not None else Answer(404, "no such health check\n")

        return handle
