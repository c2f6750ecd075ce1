"""What asks a node for its kube-proxy finds us: /healthz and /livez on port 10256, /metrics and /proxyMode on 127.0.0.1:10249.

Words, status codes and names of metrics are those of kube-proxy 1.34. A port that another process has (a kube-proxy that is still
there) is told and tried again every minute; the agent does its work without it. Source: k8s.io/kubernetes pkg/proxy/healthcheck
and pkg/proxy/metrics.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from agent.observe import histogram
from agent.observe.events import Events, Subject
from agent.observe.httpd import JSON, METRICS, Answer, Handler, HttpLoop, by_path
from agent.observe.metrics import family
from agent.observe.service_metrics import ServiceMetrics
from agent.watch.records import Key

log = logging.getLogger(__name__)

HEALTH_PORT, STATUS_PORT = 10256, 10249
STATUS_ADDRESS = "127.0.0.1"
PROXY_MODE = "ebpf"
"""What /proxyMode says: none of kube-proxy's own modes, so that nobody looks for iptables or nftables rules."""
LATE_SECONDS = 60.0
"""kube-proxy's limit: a change that is not in the tables after so long makes the node unhealthy."""


@dataclass(frozen=True, slots=True)
class ProxyState:
    """What health follows from. `last_sync` and `pending_since` are seconds since 1970, 0 for never and for nothing pending.

    `eligible`: nobody is about to take the node out of the cluster. `families` as in the node's pods: 4 and 6.
    """

    last_sync: float
    pending_since: float
    stalled: bool
    eligible: bool
    families: Sequence[int]

    def healthy(self, now: float) -> bool:
        """Whether the tables are as they should be, or have been lately."""
        late = self.pending_since > 0 and now - self.pending_since >= LATE_SECONDS
        return self.last_sync > 0 and not self.stalled and not late


def healthz(state: ProxyState, now: float) -> Answer:
    """For load balancers: may new connections come to this node?"""
    healthy = state.healthy(now)
    document = _health(state, now) | {"nodeEligible": state.eligible}
    if healthy and state.eligible:
        document["lastUpdated"] = _time(now)  # as kube-proxy, for whoever measures its age
    return _answer(document, good=healthy and state.eligible)


def livez(state: ProxyState, now: float) -> Answer:
    """For whoever would restart us: are the tables kept? What is planned for the node does not matter."""
    healthy = state.healthy(now)
    document = _health(state, now)
    if healthy:
        document["lastUpdated"] = _time(now)
    return _answer(document, good=healthy)


def _health(state: ProxyState, now: float) -> dict[str, object]:
    one = {"lastUpdated": _time(state.last_sync), "healthy": state.healthy(now)}
    status = {f"IPv{version}": one for version in state.families}
    return {"lastUpdated": _time(state.last_sync), "currentTime": _time(now), "healthy": state.healthy(now), "status": status}


def _answer(document: Mapping[str, object], *, good: bool) -> Answer:
    return Answer(200 if good else 503, json.dumps(document), JSON, {"X-Content-Type-Options": "nosniff"})


def _time(seconds: float) -> str:
    if not seconds:
        return "0001-01-01T00:00:00Z"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class KubeProxyPorts:
    """The two ports. `open` may be called again and again: what was refused is tried again."""

    def __init__(self, loop: HttpLoop, node_name: str, events: Events, state: Callable[[], ProxyState], metrics: Callable[[], str]) -> None:
        self._loop = loop
        self._node_name = node_name
        self._events = events
        self._state = state
        self._answered: Counter[tuple[str, int]] = Counter()
        health = by_path({"/healthz": lambda: self._count("healthz", healthz), "/livez": lambda: self._count("livez", livez)})
        status = by_path(
            {
                "/healthz": lambda: Answer(200, "ok"),
                "/proxyMode": lambda: Answer(200, PROXY_MODE),
                "/metrics": lambda: Answer(200, metrics(), METRICS),
            }
        )
        self._missing: dict[int, tuple[Handler, str | None]] = {HEALTH_PORT: (health, None), STATUS_PORT: (status, STATUS_ADDRESS)}
        self._refused: dict[int, str] = {}

    @property
    def refused(self) -> Mapping[int, str]:
        """Ports that cannot be answered, and why."""
        return dict(self._refused)

    @property
    def answered(self) -> Counter[tuple[str, int]]:
        """How often each page (healthz, livez) was answered, by status."""
        return self._answered

    def healthy(self) -> bool:
        """Whether the node's tables are kept."""
        return self._state().healthy(time.time())

    def open(self) -> None:
        """Begin to answer on what is not answered yet."""
        for port, (handler, address) in list(self._missing.items()):
            try:
                self._loop.listen(port, handler, address)
            except OSError as error:
                self._refuse(port, error.strerror or str(error))
            else:
                del self._missing[port]
                if self._refused.pop(port, None):
                    log.info("kube-proxy's port is free now and answered", extra={"port": port})

    def _refuse(self, port: int, why: str) -> None:
        if port not in self._refused:
            message = f"port {port} of kube-proxy cannot be opened on node {self._node_name}: {why}; does a kube-proxy run there?"
            log.warning(message)
            self._events.warn(Subject("Node", Key("", self._node_name), self._node_name), "PortInUse", message)
        self._refused[port] = why

    def _count(self, page: str, judge: Callable[[ProxyState, float], Answer]) -> Answer:
        answer = judge(self._state(), time.time())
        self._answered[page, answer.status] += 1
        return answer


def render(metrics: ServiceMetrics, families: Iterable[int], answered: Mapping[tuple[str, int], int]) -> list[str]:
    """kube-proxy's metrics, in Prometheus' text format.

    One round of ours programs every family of the node, so what is measured of rounds stands under each `ip_family`.
    """
    labels = [{"ip_family": f"IPv{version}"} for version in families]
    with metrics.lock:
        policies = [({"traffic_policy": name} | label, n) for name, n in sorted(metrics.no_local_endpoints.items()) for label in labels]
        lines = [
            *histogram.render("kubeproxy_sync_proxy_rules_duration_seconds", "Seconds that a round took.", metrics.syncs, labels),
            *histogram.render(
                "kubeproxy_network_programming_duration_seconds", "Seconds from a change to its rows.", metrics.latencies, labels
            ),
        ]
        lines += [
            line
            for name, kind, text, samples in (
                ("last_timestamp_seconds", "gauge", "When a round last succeeded.", [(label, metrics.last_sync) for label in labels]),
                ("last_queued_timestamp_seconds", "gauge", "When a change last came.", [(label, metrics.last_queued) for label in labels]),
                ("endpoint_changes_pending", "gauge", "Changed slices that are not in the tables yet.", [({}, metrics.pending_endpoints)]),
                ("endpoint_changes_total", "counter", "Changed slices.", [({}, metrics.endpoint_changes)]),
                ("service_changes_pending", "gauge", "Changed Services that are not in the tables yet.", [({}, metrics.pending_services)]),
                ("service_changes_total", "counter", "Changed Services.", [({}, metrics.service_changes)]),
                ("no_local_endpoints_total", "gauge", "Services of a Local traffic policy without endpoints on this node.", policies),
            )
            for line in family(f"kubeproxy_sync_proxy_rules_{name}", kind, text, samples)
        ]
    for page in ("healthz", "livez"):
        counts = [({"code": str(status)}, count) for (name, status), count in sorted(answered.items()) if name == page]
        lines += family(f"kubeproxy_proxy_{page}_total", "counter", f"Answers of /{page} by status.", counts)
    return lines
