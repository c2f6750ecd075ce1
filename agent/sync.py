"""Keeps the kernel's tables and the host's routes as Nodes, Services, slices and host ports want them.

Invariants: what is written is read from the kernel once (that is how rows of an earlier process are adopted) and after every failure;
with `prune` false nothing is deleted, and Services are not touched before all of them are known. `set_host_ports` and `explain` may be
called from any thread, everything else from one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from agent import nodes
from agent.config import Config
from agent.datapath import host as host_network
from agent.datapath.abi import Backend, FrontendFlag, IPAddress, Route
from agent.datapath.errors import DatapathError
from agent.datapath.host import Host
from agent.datapath.netlink import Netlink
from agent.observe.explain import explain, explain_host_ports
from agent.observe.service_metrics import ServiceMetrics
from agent.ports import AgentDatapath, Table
from agent.reconcile.applier import ApplyError, apply
from agent.reconcile.compiler import Compiler, Notice
from agent.reconcile.diff import Put, Step, table_steps
from agent.reconcile.tables import KernelRows, Limits
from agent.services.healthchecks import HealthCheck, health_check
from agent.services.hostports import HostPort
from agent.services.inputs import Inputs
from agent.services.vantage import vantage
from agent.watch.records import EndpointSlice, Key, Node, Service

log = logging.getLogger(__name__)

_UDP = 17

Warn = Callable[[Notice], None]


def log_notice(notice: Notice) -> None:
    """Where there are no Events."""
    log.warning(notice.message, extra={"service": str(notice.service), "reason": notice.reason})


class Synchronizer:
    """One node's tables."""

    def __init__(
        self,
        config: Config,
        own: Node,
        host: Host,
        datapath: AgentDatapath,
        nl: Netlink,
        *,
        metrics: ServiceMetrics | None = None,
        warn: Warn = log_notice,
        destroy_sockets: Callable[[Collection[Backend]], object] = lambda _: None,
        announce: Callable[[Collection[IPAddress]], object] = lambda _: None,
    ) -> None:
        self.metrics = metrics or ServiceMetrics()
        self._config = config
        self._own = own
        self._host = host
        self._nl = nl
        self._datapath = datapath
        self._warn = warn
        self._destroy_sockets = destroy_sockets
        self._announce = announce
        self._tables: Mapping[str, Table] = {
            "routes": datapath.routes,
            "frontends": datapath.frontends,
            "backend_slots": datapath.backend_slots,
            "backends": datapath.backends,
            "maglev": datapath.maglev,
            "source_ranges": datapath.source_ranges,
        }
        self._routes: dict[IPv4Network | IPv6Network, Route] | None = None
        self._lock = threading.RLock()
        self._inputs = Inputs(vantage(own, (), (), ()))
        self._compiler: Compiler | None = None
        self._services_known = False
        self._gone: dict[int, Backend] = {}

    @property
    def health_checks(self) -> dict[int, HealthCheck]:
        """What is to be said on each healthCheckNodePort."""
        found = {}
        with self._lock:
            for key, service in self._inputs.services.items():
                if service.health_check_node_port:
                    check = health_check(service, self._inputs.slices(key), self._inputs.here.node)
                    if check is not None:
                        found[service.health_check_node_port] = check
        return found

    @property
    def frontends(self) -> int:
        """How many there are, without the rows that mark addresses."""
        with self._lock:
            return sum(len(placed.frontends) for placed in self._compiler.placed.values()) if self._compiler else 0

    def forget(self) -> None:
        """Read the tables anew next time: something failed in the middle."""
        with self._lock:
            self._routes = self._compiler = None

    def apply_routes(self, own: Node, others: Iterable[Node], *, prune: bool) -> None:
        """Routes to other nodes and their pods, in the table and in the kernel. Raises `ApplyError`, `OSError`."""
        known = list(others)
        local = host_network.local_addresses(self._nl)
        desired = nodes.route_rows(self._config, self._own, known, local)
        if self._routes is None:
            self._routes = dict(self._datapath.routes.items())
        steps = table_steps("routes", desired, self._routes)
        apply((step for step in steps if prune or isinstance(step, Put)), self._tables.__getitem__)
        self._routes = desired if prune else {**self._routes, **desired}
        host_network.ensure_pod_routes(self._nl, self._host, nodes.pod_routes(self._config, known), prune=prune)
        with self._lock:
            self._inputs.move(vantage(own, known, local, self._config.load_balancer_pool))

    def apply_services(self, services: Mapping[Key, Service | None], slices: Mapping[Key, EndpointSlice | None]) -> None:
        """Take up changes (None: the object is gone) and bring the tables up to date. Raises `ApplyError`, `OSError`.

        What was taken up is not lost by a failure: `forget`, and call again.
        """
        with self._lock:
            self.metrics.heard(time.time(), len(services), len(slices))
            self._inputs.take_services(services)
            self._inputs.take_slices(slices)
            first, self._services_known = not self._services_known, True
            if first:
                self._inputs.triggers.clear()  # the past's changes, seen by a list
            if first or self._inputs.changed or self._compiler is None:
                self._write()
            else:
                self.metrics.unaffected()

    def set_host_ports(self, ports: Collection[HostPort]) -> None:
        """These are all host ports of this node's pods; they are in the tables when this returns.

        Raises `ApplyError`, also when there is no room for one that is new, and `OSError`.
        """
        with self._lock:
            new = set(ports).difference(self._inputs.host_ports.values())
            self._inputs.take_host_ports(ports)
            if self._inputs.changed or self._compiler is None:
                try:
                    self._write()
                except (ApplyError, OSError):
                    self.forget()
                    raise
            for port in new:
                if self._compiler is not None and port in self._compiler.left_out:
                    raise ApplyError(f"table {self._compiler.left_out[port].table} has no room for host port {port.host_port}")

    def keep_house(self) -> None:
        """Forget the flows of backends that are gone and whose flows end by themselves. Call it about once a minute. Raises `OSError`."""
        with self._lock:
            compiler = self._compiler
            gone = {number: end for number, end in self._gone.items() if compiler is None or not compiler.has_backend(number)}
            self._gone = {}
        if gone:
            self._datapath.forget_backends(gone)

    def explain(self, name: str = "") -> list[dict[str, Any]]:
        """`anetd services`: of one Service (NAMESPACE/NAME), or of all."""
        with self._lock:
            keys = [key for key in self._inputs.services if not name or str(key) == name]
        found: list[dict[str, Any]] = []
        for key in sorted(keys, key=lambda each: (each.namespace, each.name)):
            with self._lock:  # for each anew: whoever asks for all of ten thousand holds nobody up
                found += explain(key, self._inputs, self._compiler)
        if not name:
            with self._lock:
                found += explain_host_ports(self._inputs, self._compiler)
        return found

    def _write(self) -> None:
        began = time.monotonic()
        try:
            if self._compiler is None:
                self._compiler = Compiler(self._inputs, self._found(), self._limits())
            plan = self._compiler.plan(prune=self._services_known)
            apply(plan.steps, self._tables.__getitem__, self.metrics.row_counts.count)
        except (ApplyError, OSError):
            self.metrics.failed()
            raise
        now = time.time()
        self._gone |= plan.gone
        self._tell_the_link(plan.steps)
        self._report(plan.notices)
        if self._services_known:
            triggers, self._inputs.triggers = self._inputs.triggers, []
            self.metrics.synced(now, time.monotonic() - began, triggers)
        self._forget_datagrams()

    def _tell_the_link(self, steps: Iterable[Step]) -> None:
        """Of the addresses that are announced from here as of now."""
        rows = (item for step in steps if isinstance(step, Put) and step.table == "frontends" for item in step.rows.items())
        addresses = [key.address for key, row in rows if row.flags & FrontendFlag.ANNOUNCED]
        try:
            self._announce(addresses)
        except OSError as error:
            # Whoever asks is answered all the same.
            log.warning("the link could not be told of addresses that came to this node", extra={"error": str(error)})

    def _forget_datagrams(self) -> None:
        """UDP has no end of its own: flows go at once. TCP's find out by themselves that their backend is gone, so theirs can wait."""
        gone = {number: backend for number, backend in self._gone.items() if backend.protocol == _UDP}
        if gone:
            self._datapath.forget_backends(gone)
            try:
                self._destroy_sockets(gone.values())
            except DatapathError as error:
                # The tables are right: whoever is connected to a backend that is gone will find out by itself, if late.
                log.warning("some sockets that a Service connected could not be ended", extra={"error": str(error)})
            self._gone = {number: backend for number, backend in self._gone.items() if number not in gone}

    def _report(self, notices: Iterable[Notice]) -> None:
        for notice in notices:
            self._warn(notice)
        compiler = self._compiler
        if compiler is not None:
            left_out = {str(claimant): out.table for claimant, out in compiler.left_out.items()}
            conflicts = {str(claimant): len(placed.lost) for claimant, placed in compiler.conflicts.items()}
            self.metrics.stands(compiler.rows, compiler.limits, left_out, conflicts)
            self.metrics.no_local_endpoints = {place: len(claimants) for place, claimants in compiler.starved.items()}

    def _found(self) -> KernelRows:
        return KernelRows(
            dict(self._datapath.frontends.items()),
            dict(self._datapath.backend_slots.items()),
            dict(self._datapath.backends.items()),
            {group: tuple(sorted(set(row))) for group, row in self._datapath.maglev.items()},
            [key for key, _ in self._datapath.source_ranges.items()],
        )

    def _limits(self) -> Limits:
        tables = self._tables
        return Limits(**{name: tables[name].max_entries for name in ("frontends", "backend_slots", "backends", "maglev", "source_ranges")})
