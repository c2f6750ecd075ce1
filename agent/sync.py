"""Keeps the tables `routes`, `frontends`, `backend_slots`, `backends` and the host's routes as Nodes, Services and slices want them.

Invariants: what is written is read from the kernel once (that is how rows of an earlier process are adopted) and after every failure;
with `prune` false nothing is deleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network

from agent import nodes
from agent.config import Config
from agent.datapath import host as host_network
from agent.datapath.abi import FrontendKey, Route
from agent.datapath.host import Host
from agent.datapath.netlink import Netlink
from agent.ports import AgentDatapath, Table
from agent.reconcile.applier import apply
from agent.reconcile.diff import Put, service_steps, table_steps
from agent.services.frontends import Resolved, resolve
from agent.services.rows import Rows, desired_rows
from agent.watch.records import EndpointSlice, Node, Service


class Synchronizer:
    """One node's tables. Not for two threads at a time."""

    def __init__(self, config: Config, own: Node, host: Host, datapath: AgentDatapath, nl: Netlink) -> None:
        self.resolved: Mapping[FrontendKey, Resolved] = {}
        self.written: Rows | None = None
        self._config = config
        self._own = own
        self._host = host
        self._nl = nl
        self._datapath = datapath
        self._tables: Mapping[str, Table] = {
            "routes": datapath.routes,
            "frontends": datapath.frontends,
            "backend_slots": datapath.backend_slots,
            "backends": datapath.backends,
        }
        self._routes: dict[IPv4Network | IPv6Network, Route] | None = None

    def forget(self) -> None:
        """Read the tables anew next time: something failed in the middle."""
        self.written = self._routes = None

    def apply_routes(self, others: Iterable[Node], *, prune: bool) -> None:
        """Routes to other nodes and their pods, in the table and in the kernel. Raises `ApplyError`, `OSError`."""
        known = list(others)
        desired = nodes.route_rows(self._config, self._own, known, host_network.local_addresses(self._nl))
        if self._routes is None:
            self._routes = dict(self._datapath.routes.items())
        steps = table_steps("routes", desired, self._routes)
        apply((step for step in steps if prune or isinstance(step, Put)), self._tables.__getitem__)
        self._routes = desired if prune else {**self._routes, **desired}
        host_network.ensure_pod_routes(self._nl, self._host, nodes.pod_routes(self._config, known), prune=prune)

    def apply_services(self, services: Iterable[Service], slices: Iterable[EndpointSlice]) -> None:
        """Frontends, slots and backends. Raises `ApplyError`."""
        if self.written is None:
            self.written = Rows(
                dict(self._datapath.frontends.items()), dict(self._datapath.backend_slots.items()), dict(self._datapath.backends.items())
            )
        resolved = resolve(services, slices)
        desired = desired_rows(resolved, self.written)
        apply(service_steps(desired, self.written), self._tables.__getitem__)
        self.resolved, self.written = resolved, desired
