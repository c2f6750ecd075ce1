"""The agent's life: what is started in which order, the loop that keeps the tables as they should be, and the end.

Order of a start: the node's device, tunnel and settings; the datapath, opened on what is pinned; what the store knows of pods; the
CNI server; the API's view of Nodes, Services and NetworkPolicies, applied when every watch has synced and not before; last the plugin and
the CNI configuration, for from then on kubelet sends pods. Invariants: losing the API server changes nothing; ending changes nothing:
whatever is in the kernel goes on working and the next start adopts it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from agent import facts, nodes
from agent.cni.commands import PodNetwork, PublishHostPorts
from agent.cni.install import install_config, install_plugin
from agent.cni.ipam import Allocator
from agent.cni.protocol import CniError, Code, Request
from agent.cni.server import Server
from agent.cni.store import Store
from agent.config import Config
from agent.datapath import host as host_network
from agent.datapath import links, socketlb
from agent.datapath.announce import announce
from agent.datapath.errors import DatapathError
from agent.datapath.host import Host
from agent.datapath.netlink import Netlink
from agent.datapath.programs import AttachMode, DatapathConfig, MapSizes, RoutingMode
from agent.datapath.socketlb import SocketLB
from agent.edges import Edges
from agent.observe.kube_proxy import ProxyState
from agent.policylog.control import LoggingControl
from agent.policylog.logger import PolicyLog
from agent.policylog.writer import DIRECTORY as POLICY_LOG
from agent.policylog.writer import Writer
from agent.policyloop import PolicyLoop
from agent.policysync import PolicySynchronizer
from agent.ports import AgentDatapath, OpenDatapath, Verdicts
from agent.reconcile.applier import ApplyError
from agent.services.hostports import HostPort
from agent.sync import Synchronizer
from agent.watch import records
from agent.watch.records import EndpointSlice, Key, Node, Service
from agent.watch.reflector import Resource
from agent.watch.transport import SERVICE_ACCOUNT, Access
from agent.watch.watcher import Watcher

log = logging.getLogger(__name__)

_SETTLE_SECONDS = 0.02
"""A change is taken up at once, those that follow it (a rollout, a list) together, so long after it."""
_HOUSEKEEPING_SECONDS = 60.0
_RETRY_SECONDS = (1.0, 30.0)
"""Between attempts to bring the tables up to date: the first wait, doubled up to the last."""
_STALLED_SECONDS = 300.0
_M_ARENA_MAX = -8
_SWITCH_SECONDS = 0.001
# Objects between two garbage collections until the start is over: what comes in then stays, and to look through it again and again took
# a fifth of a start with ten thousand Services.
_STARTING_THRESHOLD = 200_000
_SERVING_THRESHOLDS = gc.get_threshold()

_NOT_HEADLESS = "!service.kubernetes.io/headless"
NODES: Resource[Node] = Resource("/api/v1/nodes", records.node)
SERVICES: Resource[Service] = Resource("/api/v1/services", records.service, f"{_NOT_HEADLESS},!service.kubernetes.io/service-proxy-name")
SLICES: Resource[EndpointSlice] = Resource("/apis/discovery.k8s.io/v1/endpointslices", records.endpoint_slice, _NOT_HEADLESS)

Observe = Callable[[str, int, float], None]


@dataclass(frozen=True, slots=True)
class Paths:
    """Where things are; the defaults are the container's, tests have their own."""

    run: Path = Path("/run/anetd")
    state: Path = Path("/var/lib/anetd")
    cni_config: Path = Path("/etc/cni/net.d")
    cni_bin: Path = Path("/opt/cni/bin")
    bpffs: Path = Path("/sys/fs/bpf")
    cgroups: Path = socketlb.CGROUP_MOUNT
    service_account: Path = SERVICE_ACCOUNT
    policy_log: Path = POLICY_LOG
    objects: Path = field(default_factory=lambda: Path(__file__).resolve().parent / "objects")


class NodeChangedError(Exception):
    """The node has other addresses or pod CIDRs than the programs were loaded with: the agent has to begin anew."""


@dataclass(frozen=True, slots=True)
class Serving:
    """All that exists once pods can be served."""

    own: Node
    host: Host
    mtu: int
    datapath: AgentDatapath
    pods: PodNetwork
    tables: Synchronizer
    policies: PolicySynchronizer
    verdicts: Verdicts


class Agent:
    """One agent. `run` returns when `stop` was called, and raises when it cannot go on."""

    def __init__(self, config: Config, node_name: str, paths: Paths, open_datapath: OpenDatapath, observe: Observe) -> None:
        access = Access(config.api_server, paths.service_account / "token", paths.service_account / "ca.crt")
        self.config = config
        self.node_name = node_name
        self.started = time.monotonic()
        self.startup_seconds = 0.0
        """From the process's exec to its first readiness; 0 before that."""
        self.serving: Serving | None = None
        self.ready = False
        self.waiting_for = "the start"
        self.socket_lb = SocketLB(on=False, reason="the agent is starting")
        self._beat = self.started
        self._paths = paths
        self._open_datapath = open_datapath
        self._observe = observe
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._routes_due = True
        self.nodes = Watcher("nodes", NODES, access, self._wake.set)
        self.services = Watcher("services", SERVICES, access, self._wake.set)
        self.slices = Watcher("endpointslices", SLICES, access, self._wake.set)
        self.policy = PolicyLoop(access, self._wake.set)
        self.edges = Edges(config, node_name, access, self._proxy_state, self.nodes.snapshot)
        self.policy_log = PolicyLog(node_name, self.edges.events, Writer(paths.policy_log), deny_policies=config.policy_log_deny_policies)
        self.logging = LoggingControl(access, node_name, self.nodes.snapshot, self.edges.events, self.policy.set_logging)
        self.policy.await_logging()

    @property
    def watchers(self) -> tuple[Watcher[Any], ...]:
        """Every watch."""
        return (*self._mine, *self.policy.watchers, self.logging.watcher)

    @property
    def _mine(self) -> tuple[Watcher[Any], ...]:
        """Those of the main loop."""
        return (self.nodes, self.services, self.slices)

    @property
    def stalled(self) -> bool:
        """Whether the main loop or that of policies, which come round every minute, has not for a long time."""
        beat = min(self._beat, self.policy.beat) if self.serving is not None else self._beat
        return time.monotonic() - beat > _STALLED_SECONDS

    def stop(self) -> None:
        """Make `run` return. May be called from a signal handler."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Start, serve, and end when told."""
        _few_arenas()
        # Between the loops and the watches: a policy waits for no thread that computes longer than that.
        sys.setswitchinterval(_SWITCH_SECONDS)
        gc.set_threshold(_STARTING_THRESHOLD)
        with contextlib.ExitStack() as stack:
            stack.callback(self.edges.stop)
            for watcher in self.watchers:
                watcher.start()
                stack.callback(watcher.stop)
            own = self._await_own_node()
            if own is None:
                return
            self.serving = serving = self._begin(own, stack)
            stack.callback(self.policy_log.stop)
            stack.callback(self.policy.stop)
            self.policy.start(serving.policies)
            server = Server(self._paths.run / "cni.sock", self._perform, self._observe)
            stack.callback(server.stop)
            server.start()
            self.waiting_for = "the API server: Nodes, Services, EndpointSlices, Pods, Namespaces and NetworkPolicies"
            self._serve(serving)

    def _await_own_node(self) -> Node | None:
        """This node as the API has it, or as it was when the agent last ran; None when told to end."""
        self.waiting_for = f"pod CIDRs and an InternalIP of node {self.node_name}"
        remembered = facts.recall(self._paths.state / "node.json", self.node_name)
        if remembered is not None:
            return remembered
        said = time.monotonic()
        while not self._stop.is_set():
            self._beat = time.monotonic()
            found = self.nodes.snapshot().get(Key("", self.node_name))
            if found is not None and facts.is_complete(found):
                return found
            if time.monotonic() - said > 10.0:
                said = time.monotonic()
                log.info("still waiting", extra={"for": self.waiting_for, "apiServer": self.config.api_server})
            self._wake.wait(1.0)
            self._wake.clear()
        return None

    def _begin(self, own: Node, stack: contextlib.ExitStack) -> Serving:
        nl = stack.enter_context(Netlink())
        self.waiting_for = "the node's devices"
        device = host_network.find_device(nl, self.config.device, own.addresses)
        links.ensure_forwarding(device.name, ipv6=any(network.version == 6 for network in own.pod_cidrs))
        mtu = nodes.pod_mtu(self.config, device.mtu, own)
        host = Host(device, self._overlay(nl, own, mtu))
        self.waiting_for = "the programs to be loaded"
        datapath = self._open_datapath(self._datapath_config(own, host, mtu), self._paths.bpffs, self._paths.objects)
        stack.callback(datapath.close)
        tables = Synchronizer(
            self.config,
            own,
            host,
            datapath,
            nl,
            metrics=self.edges.services,
            warn=self.edges.notice,
            destroy_sockets=datapath.destroy_sockets,
            announce=partial(announce, device.name, device.mac),
        )
        # A device whose programs know no route would pass everything to the host's stack: the rows come first.
        tables.apply_routes(own, self._other_nodes(), prune=False)
        datapath.attach_device()
        datapath.attach_overlay()
        self.socket_lb = self._attach_sockets(datapath)
        store = Store(self._paths.state / "endpoints.jsonl")
        stack.callback(store.close)
        pods = PodNetwork(store, Allocator(own.pod_cidrs), datapath, nl, mtu=mtu, gate=self.policy.gate, publish=_publisher(tables))
        datapath.pod_namespaces = lambda: [record.netns for record in pods.records()]
        pods.restore()
        verdicts = datapath.read_verdicts()
        stack.callback(verdicts.close)
        policies = PolicySynchronizer(datapath, self.edges.policy, self.edges.misfit, self.policy_log)
        return Serving(own, host, mtu, datapath, pods, tables, policies, verdicts)

    def _attach_sockets(self, datapath: AgentDatapath) -> SocketLB:
        if not self.config.socket_lb:
            datapath.detach_sockets()
            return SocketLB(on=False, reason="switched off in the configuration")
        try:
            datapath.attach_sockets(socketlb.find_cgroup(self._paths.cgroups))
        except DatapathError as error:
            log.warning("no load balancing at the socket; packets are translated one by one", extra={"reason": str(error)})
            return SocketLB(on=False, reason=str(error).partition("\n")[0])
        return SocketLB(on=True)

    def _overlay(self, nl: Netlink, own: Node, mtu: int) -> links.Link | None:
        tunnel = nodes.tunnel_address(own)
        if self.config.routing_mode != "vxlan" or tunnel is None:
            host_network.remove_overlay(nl)
            return None
        return host_network.ensure_overlay(nl, tunnel, mtu)

    def _datapath_config(self, own: Node, host: Host, mtu: int) -> DatapathConfig:
        return DatapathConfig(
            node_ipv4=own.ipv4,
            node_ipv6=own.ipv6,
            device=host.device.name,
            device_ifindex=host.device.index,
            device_mac=host.device.mac,
            overlay_ifindex=host.overlay.index if host.overlay is not None else 0,
            routing_mode=RoutingMode(self.config.routing_mode),
            masquerade=self.config.masquerade,
            direct_return=self.config.load_balancer_mode == "dsr",
            attach_mode=AttachMode(self.config.attach_mode),
            mtu=mtu,
            layout=self.config.layout,
            map_sizes=MapSizes.for_memory(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
        )

    def _serve(self, serving: Serving) -> None:
        housekeeping = time.monotonic() + _HOUSEKEEPING_SECONDS
        settled, retry = 0.0, _RETRY_SECONDS[0]
        while not self._stop.wait(max(0.0, settled - time.monotonic())):
            self._beat = time.monotonic()
            settled = self._beat + _SETTLE_SECONDS
            self._wake.clear()
            if all(watcher.synced for watcher in self._mine):
                if self._reconcile(serving):
                    retry = _RETRY_SECONDS[0]
                else:
                    settled, retry = time.monotonic() + retry, min(retry * 2, _RETRY_SECONDS[1])
                    self._wake.set()
            if time.monotonic() >= housekeeping:
                housekeeping = time.monotonic() + _HOUSEKEEPING_SECONDS
                _keep_house(serving, self.edges)
                self._routes_due = True  # the host's own addresses are no API object: looked at again by and by
                self._wake.set()
            self._wake.wait(max(0.0, housekeeping - time.monotonic()))

    def _reconcile(self, serving: Serving) -> bool:
        changed = self.nodes.take()
        self.policy_log.take_nodes(changed)
        if changed or self._routes_due or not self.ready:
            self._routes_due = True
            self._check_own_node(serving.own)
        try:
            if self._routes_due:
                own = self.nodes.snapshot().get(Key("", self.node_name), serving.own)
                serving.tables.apply_routes(own, self._other_nodes(), prune=True)
                self._routes_due = False
            serving.tables.apply_services(self.services.take(), self.slices.take())
            if not self.ready and self.policy.in_force:
                self._open_for_business(serving)
        except (ApplyError, DatapathError, OSError) as error:
            log.error("the node cannot be brought up to date; trying again", extra={"error": str(error)})
            serving.tables.forget()
            self._routes_due = True
            return False
        self.edges.synced(serving.tables.health_checks)
        return True

    def _proxy_state(self) -> ProxyState:
        own = self.nodes.snapshot().get(Key("", self.node_name))
        services = self.edges.services
        return ProxyState(
            last_sync=services.last_sync,
            pending_since=services.pending_since,
            stalled=self.stalled,
            eligible=own is not None and not own.leaving,
            families=sorted({network.version for network in self.config.service_cidrs}),
        )

    def _check_own_node(self, own: Node) -> None:
        found = self.nodes.snapshot().get(Key("", self.node_name))
        if found is None or not facts.is_complete(found):
            return
        changed = (found.pod_cidrs, found.addresses) != (own.pod_cidrs, own.addresses)
        if changed or not self.ready:
            facts.remember(self._paths.state / "node.json", found)
        if changed:
            raise NodeChangedError(f"node {self.node_name} has changed from {own} to {found}: the agent starts anew")

    def _other_nodes(self) -> list[Node]:
        return [node for key, node in self.nodes.snapshot().items() if key.name != self.node_name]

    def _open_for_business(self, serving: Serving) -> None:
        install_plugin(self._paths.objects / "anetd-cni", self._paths.cni_bin / "anetd-cni")
        install_config(self._paths.cni_config)
        self.policy_log.start(serving.verdicts, serving.datapath.verdict_losses)
        self.ready = True
        self.waiting_for = ""
        # What lives now lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_SERVING_THRESHOLDS)
        self.startup_seconds = round(_since_exec(), 3)
        log.info("ready", extra={"seconds": self.startup_seconds, "pods": len(serving.pods.records())})

    def _perform(self, request: Request) -> dict[str, Any] | None:
        if self.serving is None or self._stop.is_set():
            raise CniError(Code.TRY_AGAIN_LATER, "anetd is starting or ending: try again later", version=request.version)
        try:
            return self.serving.pods.perform(request)
        except CniError as error:
            if error.code is Code.ADDRESSES_USED_UP and request.pod:
                pod = Key(request.args.get("K8S_POD_NAMESPACE", ""), request.args.get("K8S_POD_NAME", ""))
                self.edges.used_up(pod, request.args.get("K8S_POD_UID", ""), error.message)
            raise


def _publisher(tables: Synchronizer) -> PublishHostPorts:
    """What pods' host ports are told to."""

    def publish(ports: Collection[HostPort]) -> None:
        try:
            tables.set_host_ports(ports)
        except ApplyError as error:
            raise DatapathError(str(error)) from error

    return publish


def _since_exec() -> float:
    """Seconds since this process began, its imports included; the kernel counts it in ticks of 10 ms."""
    began = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began / os.sysconf("SC_CLK_TCK")


def _keep_house(serving: Serving, edges: Edges) -> None:
    try:
        began = time.monotonic()
        edges.tables.collected(serving.datapath.collect_garbage(), time.monotonic() - began)
        serving.datapath.settle()
        serving.pods.sweep()
        serving.tables.keep_house()
        edges.keep_house(serving.datapath.usage())
    except (DatapathError, OSError) as error:
        log.warning("housekeeping failed; it is tried again in a minute", extra={"error": str(error)})


def _few_arenas() -> None:
    """glibc gives threads memory pools of their own, 64 MiB of address space each and never quite empty: two are enough."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
