"""Writes what `allocate` decides into the Services' status. One agent does it: that of the first Ready node by name.

No lease is needed for that: two agents that think it is they (a moment's difference of view) work by the same rule on the same
objects, each write is refused if the object has changed since it was read, and whatever came of it is put right by the next turn.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from agent.config import Config
from agent.loadbalancer.allocator import Address, Claim, Problem, allocate, claim
from agent.observe.events import Events, Subject
from agent.watch.records import Key, Node
from agent.watch.reflector import Resource
from agent.watch.transport import Access, Connection, StatusError, TransportError
from agent.watch.watcher import Watcher

log = logging.getLogger(__name__)

CLAIMS: Resource[Claim] = Resource("/api/v1/services", claim, "!service.kubernetes.io/service-proxy-name", "spec.type=LoadBalancer")
LOOK_SECONDS = 5.0
"""A node that is Ready no more makes no noise here: looked at again by and by."""
_SETTLE_SECONDS = 0.05
_REQUEST_SECONDS = 10.0


def allocating_node(nodes: Iterable[Node]) -> str:
    """The name of the node whose agent gives addresses, "" while none is Ready."""
    return min((node.name for node in nodes if node.ready), default="")


class Controller:
    """Gives addresses while this node is the one to do so."""

    def __init__(self, config: Config, node_name: str, access: Access, nodes: Callable[[], Mapping[Key, Node]], events: Events) -> None:
        self._pool = config.load_balancer_pool
        self._node_name = node_name
        self._nodes = nodes
        self._events = events
        self._connection = Connection(access)
        self._wake, self._stop = threading.Event(), threading.Event()
        self.claims: Watcher[Claim] = Watcher("loadbalancers", CLAIMS, access, self._wake.set)
        self._told: frozenset[Problem] = frozenset()
        self._thread = threading.Thread(target=self._run, name="loadbalancer", daemon=True)

    def start(self) -> None:
        """Begin."""
        self.claims.start()
        self._thread.start()

    def stop(self) -> None:
        """End; addresses stay as they are."""
        self._stop.set()
        self._wake.set()
        self.claims.stop()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(LOOK_SECONDS)
            self._stop.wait(_SETTLE_SECONDS)
            self._wake.clear()
            try:
                if self.claims.synced and allocating_node(self._nodes().values()) == self._node_name:
                    self._turn()
            except Exception:
                log.exception("load balancer addresses could not be given for a reason that nobody foresaw")

    def _turn(self) -> None:
        claims = self.claims.snapshot()
        plan = allocate(claims.values(), self._pool)
        for key, addresses in plan.addresses.items():
            if claims[key].held != addresses and not self._stop.is_set():
                self._write(claims[key], addresses)
        for problem in plan.problems:
            if problem not in self._told:
                self._events.warn(Subject("Service", problem.key, problem.uid), problem.reason, problem.message)
        self._told = frozenset(plan.problems)

    def _write(self, seen: Claim, addresses: tuple[Address, ...]) -> None:
        path = f"/api/v1/namespaces/{seen.key.namespace}/services/{seen.key.name}"
        try:
            document = json.loads(self._connection.get(path, _REQUEST_SECONDS))
            if claim(document) != seen:
                return  # the watch will say so in a moment, and what follows from it is another thing
            patch = status_patch(document["metadata"]["resourceVersion"], addresses)
            self._connection.send("PATCH", f"{path}/status", json.dumps(patch).encode(), "application/merge-patch+json", _REQUEST_SECONDS)
        except TransportError:
            return  # the watchers tell of it; tried again at the next look
        except StatusError as error:
            if error.status not in {404, 409}:  # gone or changed since it was read
                log.warning("a load balancer's address was refused", extra={"service": str(seen.key), "status": error.status})
            return
        log.info("load balancer", extra={"service": str(seen.key), "addresses": list(map(str, addresses))})


def status_patch(version: str, addresses: Iterable[Address]) -> dict[str, Any]:
    """A merge patch of a Service's status that only fits the object as it was at `version`."""
    ingress = [{"ip": str(address), "ipMode": "VIP"} for address in addresses]
    return {"metadata": {"resourceVersion": version}, "status": {"loadBalancer": {"ingress": ingress}}}
