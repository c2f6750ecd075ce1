"""What the world around sees of an agent besides its packets: HTTP ports, Events, and addresses of load balancers.

Invariant: none of it is needed to run pods. What fails here is told and tried again; the agent goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from agent.config import Config
from agent.datapath.maps import Usage
from agent.observe.events import EventSink, Subject
from agent.observe.health_check import HealthChecks
from agent.observe.httpd import HttpLoop, Page, by_path
from agent.observe.kube_proxy import KubeProxyPorts, ProxyState, render
from agent.observe.metrics import family
from agent.observe.policy_metrics import PolicyMetrics
from agent.observe.service_metrics import ServiceMetrics
from agent.observe.table_metrics import TableMetrics
from agent.policy.inputs import Trouble
from agent.reconcile.compiler import Notice
from agent.services.healthchecks import HealthCheck
from agent.watch.records import Key, Node
from agent.watch.transport import Access

if TYPE_CHECKING:
    from agent.loadbalancer.controller import Controller

log = logging.getLogger(__name__)

HEALTH_ADDRESS = ("127.0.0.1", 9879)


class Edges:
    """Made at once, begun by `start`."""

    def __init__(
        self,
        config: Config,
        node_name: str,
        access: Access,
        state: Callable[[], ProxyState],
        nodes: Callable[[], Mapping[Key, Node]],
    ) -> None:
        self.events = EventSink(access, node_name)
        self.services = ServiceMetrics()
        self.policy = PolicyMetrics()
        self.tables = TableMetrics(node_name, self.events)
        self._state = state
        self._loop = HttpLoop()
        self._kube_proxy = KubeProxyPorts(self._loop, node_name, self.events, state, self._kube_proxy_page)
        self._health_checks = HealthChecks(self._loop, node_name, self.events, self._kube_proxy.healthy)
        self._load_balancers: Controller | None = None
        if config.load_balancer_pool:
            from agent.loadbalancer.controller import Controller

            self._load_balancers = Controller(config, node_name, access, nodes, self.events)

    def start(self, pages: Mapping[str, Page]) -> None:
        """Serve `pages` to the node itself, and whatever kube-proxy serves. Raises `OSError` when the first cannot be."""
        address, port = HEALTH_ADDRESS
        self._loop.listen(port, by_path(pages), address)
        self._loop.start()
        self._kube_proxy.open()
        if self._load_balancers is not None:
            self._load_balancers.start()

    def stop(self) -> None:
        """Close every port and give no more addresses."""
        if self._load_balancers is not None:
            self._load_balancers.stop()
        self._loop.stop()

    def synced(self, checks: Mapping[int, HealthCheck]) -> None:
        """The tables are as the API says; these are the health checks that follow."""
        self._health_checks.follow(checks)

    def keep_house(self, usage: Mapping[str, Usage]) -> None:
        """Once a minute: try again what was refused, look at how full the tables are."""
        self._kube_proxy.open()
        self.tables.looked_at({**usage, **self.policy.usage()}, self.services)

    def notice(self, notice: Notice) -> None:
        """Something about a Service that cannot be programmed as it asks."""
        log.warning(notice.message, extra={"service": str(notice.service), "reason": notice.reason})
        self.events.warn(Subject("Service", notice.service, notice.uid), notice.reason, notice.message)

    def misfit(self, trouble: Trouble) -> None:
        """A policy that does not fit."""
        log.warning(trouble.message, extra={"policy": str(trouble.policy), "pods": [str(pod) for pod in trouble.pods]})
        self.events.warn(Subject("NetworkPolicy", trouble.policy, trouble.uid, "networking.k8s.io/v1"), "PolicyDoesNotFit", trouble.message)

    def used_up(self, pod: Key, uid: str, message: str) -> None:
        """A pod could not be given an address."""
        self.events.warn(Subject("Pod", pod, uid), "AddressesUsedUp", message)

    @property
    def refused(self) -> dict[int, str]:
        """Ports that should be answered and cannot be, and why."""
        return {**self._kube_proxy.refused, **self._health_checks.refused}

    def render(self) -> list[str]:
        """Lines of Prometheus' text: everything that is counted here."""
        refused = [({"port": str(port)}, 1) for port in sorted(self.refused)]
        return [
            *render(self.services, self._state().families, self._kube_proxy.answered),
            *self.tables.render(self.services, self.policy),
            *self.policy.render(),
            *family("anetd_ports_refused", "gauge", "Ports that another process has.", refused),
            *family("anetd_events_lost_total", "counter", "Events for which there was no room.", [({}, self.events.lost)]),
        ]

    def _kube_proxy_page(self) -> str:
        return "\n".join(render(self.services, self._state().families, self._kube_proxy.answered)) + "\n"
