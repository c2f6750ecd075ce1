"""The datapath as one object: programs loaded, maps pinned, devices attached."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from agent.datapath import abi, conntrack, maps, netns, policy_rows, socketlb, sockets, syscalls
from agent.datapath.abi import (
    AffinityKey,
    AffinityRow,
    Backend,
    Codec,
    ConfigFlag,
    ConfigRecord,
    ConntrackRow,
    DropCount,
    DropKey,
    Endpoint,
    FlowKey,
    FragmentKey,
    FragmentRow,
    Frontend,
    FrontendKey,
    IPAddress,
    IPNetwork,
    MaglevRow,
    MasqueradeRow,
    Route,
    SlotKey,
    SocketFlow,
    SocketFlowKey,
    SourceRange,
)
from agent.datapath.attach import POD_PREFIX, Attacher, ClsactAttacher, Pair, SettlingAttacher, TcxAttacher
from agent.datapath.errors import DatapathError
from agent.datapath.libbpf import LoadedObject, load
from agent.datapath.maps import PerCpuTable, RouteTable, Table, Usage
from agent.datapath.policy_rows import (
    Denial,
    DenialKey,
    Isolation,
    LastDrop,
    PolicyCount,
    PolicyCountKey,
    PolicyKey,
    PolicyRow,
    VerdictLoss,
)
from agent.datapath.probe import probe
from agent.datapath.verdicts import VerdictReader


class RoutingMode(StrEnum):
    """How packets reach pods of other nodes."""

    NATIVE = "native"
    VXLAN = "vxlan"


class AttachMode(StrEnum):
    """AUTO: links where the kernel has them, pods' programs first as filters (see `SettlingAttacher`)."""

    AUTO = "auto"
    TCX = "tcx"
    CLSACT = "clsact"


_MEMORY_PER_FLOW = 160_000
"""A row of conntrack takes some 160 bytes: key, value, and the kernel's part."""
_FEWEST_FLOWS, _MOST_FLOWS = 65_536, 1_048_576


@dataclass(frozen=True, slots=True)
class MapSizes:
    """Rows at most. A pinned table keeps its size until the layout version changes.

    The defaults are a small node's. Tables of flows are there as a whole from the start, so their size follows from the node's memory.
    """

    endpoints: int = 4096
    routes: int = 16384
    frontends: int = 65536
    backend_slots: int = 262144
    backends: int = 131072
    maglev: int = 8192
    source_ranges: int = 65536
    affinity: int = 32768
    socket_flows: int = 32768
    socket_backends: int = 8192
    conntrack: int = 65536
    masquerade: int = 32768
    fragments: int = 8192
    isolation: int = 8192
    classes: int = 131072
    policies: int = 262144
    policy_counts: int = 16384
    denials: int = 8192
    verdicts: int = 1 << 20
    """Bytes of the ring, a power of two and of whole pages."""

    @classmethod
    def for_memory(cls, node_bytes: int) -> MapSizes:
        """For a node with that much memory: about a thousandth of it for `conntrack`, half as many rows for what hangs on it."""
        flows = min(max(node_bytes // _MEMORY_PER_FLOW, _FEWEST_FLOWS), _MOST_FLOWS)
        return cls(conntrack=flows, masquerade=flows // 2, affinity=flows // 2, socket_flows=flows // 2, socket_backends=flows // 8)


@dataclass(frozen=True, slots=True)
class DatapathConfig:
    """What the programs are loaded with. `mtu` is the largest IP packet that fits a pod's route to a remote pod."""

    node_ipv4: IPv4Address | None
    node_ipv6: IPv6Address | None
    device: str
    device_ifindex: int
    device_mac: str = "00:00:00:00:00:00"
    overlay_ifindex: int = 0
    routing_mode: RoutingMode = RoutingMode.NATIVE
    masquerade: bool = True
    masquerade_ports: range = abi.MASQUERADE_PORTS
    direct_return: bool = False
    attach_mode: AttachMode = AttachMode.AUTO
    mtu: int = 1500
    layout: str = abi.LAYOUT
    map_sizes: MapSizes = field(default_factory=MapSizes)


LoadObject = Callable[[str], LoadedObject]
"""Loads the object of that name with the node's configuration."""

_OBJECTS = ("pod", "host", "overlay")
_CODECS: Mapping[str, tuple[Codec[Any], Codec[Any]]] = {
    "endpoints": (abi.ADDRESS, abi.ENDPOINT),
    "routes": (abi.ROUTE_KEY, abi.ROUTE),
    "frontends": (abi.FRONTEND_KEY, abi.FRONTEND),
    "backend_slots": (abi.SLOT_KEY, abi.BACKEND_ID),
    "backends": (abi.BACKEND_ID, abi.BACKEND),
    "maglev": (abi.BACKEND_ID, abi.MAGLEV_ROW),
    "source_ranges": (abi.SOURCE_RANGE_KEY, abi.SOURCE_RANGE_ROW),
    "affinity": (abi.AFFINITY_KEY, abi.AFFINITY_ROW),
    "conntrack": (abi.FLOW_KEY, abi.CONNTRACK_ROW),
    "masquerade": (abi.FLOW_KEY, abi.MASQUERADE_ROW),
    "fragments": (abi.FRAGMENT_KEY, abi.FRAGMENT_ROW),
    "socket_flows": (abi.SOCKET_FLOW_KEY, abi.SOCKET_FLOW),
    "socket_backends": (abi.COOKIE, abi.BACKEND),
    "isolation": (abi.ADDRESS, policy_rows.ISOLATION),
    "classes": (abi.ROUTE_KEY, policy_rows.CLASS),
    "policies": (policy_rows.POLICY_KEY, policy_rows.POLICY_ROW),
    "policy_counts": (policy_rows.POLICY_COUNT_KEY, policy_rows.POLICY_COUNT),
    "denials": (policy_rows.DENIAL_KEY, policy_rows.DENIAL),
    "verdict_losses": (policy_rows.LOSS_KEY, policy_rows.LOSS_COUNT),
}


class Datapath:
    """Use `open`; the tables are ready then, and the devices are attached one by one.

    Everything that a packet needs is pinned: programs by their links, tables by name. A process that ends, however, changes nothing.
    """

    def __init__(
        self,
        config: DatapathConfig,
        root: Path,
        load_object: LoadObject,
        loaded: dict[str, LoadedObject],
        attachers: tuple[Attacher, Attacher],
    ) -> None:
        self.config = config
        self.pod_namespaces: Callable[[], Iterable[str]] = tuple
        """Paths of the namespaces whose sockets `destroy_sockets` looks at, beside this process's own."""
        self._root = root
        self._load_object = load_object
        self._loaded = loaded
        self._device_attacher, self._pod_attacher = attachers
        fds = {name: fd for loaded_object in loaded.values() for name, fd in loaded_object.maps.items()}
        self.endpoints: Table[IPAddress, Endpoint] = _table("endpoints", fds)
        self.routes: Table[IPNetwork, Route] = RouteTable("routes", fds["routes"], *_CODECS["routes"], fds["route_generation"])
        self.frontends: Table[FrontendKey, Frontend] = _table("frontends", fds)
        self.backend_slots: Table[SlotKey, int] = _table("backend_slots", fds)
        self.backends: Table[int, Backend] = _table("backends", fds)
        self.maglev: Table[int, MaglevRow] = _table("maglev", fds)
        self.source_ranges: Table[SourceRange, int] = _table("source_ranges", fds)
        self.affinity: Table[AffinityKey, AffinityRow] = _table("affinity", fds)
        self.conntrack: Table[FlowKey, ConntrackRow] = _table("conntrack", fds)
        self.masquerade: Table[FlowKey, MasqueradeRow] = _table("masquerade", fds)
        self.fragments: Table[FragmentKey, FragmentRow] = _table("fragments", fds)
        self.isolation: Table[IPAddress, Isolation] = _table("isolation", fds)
        self.classes: Table[IPNetwork, int] = _table("classes", fds)
        self.policies: Table[PolicyKey, PolicyRow] = _table("policies", fds)
        self.policy_counts: PerCpuTable[PolicyCountKey, PolicyCount] = PerCpuTable(
            "policy_counts", fds["policy_counts"], *_CODECS["policy_counts"], policy_rows.sum_policy_counts
        )
        self.denials: PerCpuTable[DenialKey, Denial] = PerCpuTable("denials", fds["denials"], *_CODECS["denials"], policy_rows.sum_denials)
        self._verdict_losses: PerCpuTable[int, int] = PerCpuTable("verdict_losses", fds["verdict_losses"], *_CODECS["verdict_losses"], sum)
        self._last_drops: PerCpuTable[int, LastDrop] = PerCpuTable(
            "last_drops", fds["last_drops"], policy_rows.LOSS_KEY, policy_rows.LAST_DROP, lambda parts: max(parts, key=lambda d: d.time)
        )
        self._verdicts_fd, self._policy_generation_fd = fds["verdicts"], fds["policy_generation"]
        if not maps.generation(self._policy_generation_fd):
            self.advance_policy_generation()
        self.drops: PerCpuTable[DropKey, DropCount] = PerCpuTable("drops", fds["drops"], abi.DROP_KEY, abi.DROP_COUNT, abi.sum_drops)
        self.socket_flows: Table[SocketFlowKey, SocketFlow] | None = None
        self.socket_backends: Table[int, Backend] | None = None
        """These two are there once sockets were attached."""

    @classmethod
    def open(cls, config: DatapathConfig, bpffs: Path, objects: Path) -> Datapath:
        """Load the programs of `objects`, adopting the maps and links pinned below `<bpffs>/anetd/<layout>`.

        Links that an earlier process pinned run the newly loaded programs when this returns. Raises `DatapathError`.
        """
        root = bpffs / "anetd" / config.layout
        if not syscalls.is_bpffs(bpffs):
            raise DatapathError(f"{bpffs} is not a bpffs: mount one there (mount -t bpf bpf {bpffs})")
        try:
            for directory in ("maps", "links"):
                (root / directory).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DatapathError(f"{root} cannot be made: {error}") from error
        use_links = _wants_links(config.attach_mode)
        load_object = _loader(config, root / "maps", objects)
        loaded: dict[str, LoadedObject] = {}
        try:
            for name in _OBJECTS:
                if name != "overlay" or config.overlay_ifindex:
                    loaded[name] = load_object(name)
            links, filters = TcxAttacher(root / "links"), ClsactAttacher()
            links.update(_pairs(loaded))
            filters.update(_pairs(loaded))
        except OSError as error:
            raise DatapathError(f"adopting what is pinned below {root} failed: {error}") from error
        except DatapathError:
            for loaded_object in loaded.values():
                loaded_object.close()
            raise
        if not use_links:
            return cls(config, root, load_object, loaded, (filters, filters))
        pods = links if config.attach_mode is AttachMode.TCX else SettlingAttacher(links, filters)
        return cls(config, root, load_object, loaded, (links, pods))

    def attach_device(self) -> None:
        """Attach from_netdev and to_netdev to the node's device."""
        self._attach("device", self.config.device, self.config.device_ifindex)

    def detach_device(self) -> None:
        """Detach what `attach_device` attached; no error if nothing is."""
        self._device_attacher.detach("device", self.config.device)

    def attach_overlay(self) -> None:
        """Attach from_overlay and to_overlay to the tunnel device; nothing in native mode."""
        if self.config.overlay_ifindex:
            self._attach("overlay", "the tunnel's device", self.config.overlay_ifindex)

    def attach_pod(self, ifname: str, ifindex: int) -> None:
        """Attach from_pod and to_pod to a pod's host end. Idempotent."""
        self._attach(POD_PREFIX + ifname, ifname, ifindex)

    def detach_pod(self, ifname: str) -> None:
        """Detach what `attach_pod` attached; no error if nothing is."""
        self._pod_attacher.detach(POD_PREFIX + ifname, ifname)
        self._leave_other_places(POD_PREFIX + ifname, self._pod_attacher)

    def attach_sockets(self, cgroup: Path) -> None:
        """Translate at the sockets of all processes below `cgroup`, a directory of a cgroup2 file system. Idempotent; an earlier
        process's programs are swapped. Raises `DatapathError`; nothing is attached then, and the packet path serves every Service.
        """
        try:
            if "socket" not in self._loaded:
                hooks = probe("socket-hooks")
                if not hooks.present:
                    raise DatapathError(f"this kernel has no such programs ({hooks.reason}), which Linux {hooks.since} brought")
                self._loaded["socket"] = self._load_object("socket")
            socketlb.attach(self._root / "links", cgroup, self._loaded["socket"].programs)
        except DatapathError:
            self.detach_sockets()
            raise
        self.socket_flows = _table("socket_flows", self._loaded["socket"].maps)
        self.socket_backends = _table("socket_backends", self._loaded["socket"].maps)
        self._detach_sockets_of({*self._root.parent.glob("*/links")} - {self._root / "links"})

    def detach_sockets(self) -> None:
        """Detach what `attach_sockets` attached, or an earlier process; no error if nothing is. Connections that exist go on."""
        self._detach_sockets_of(self._root.parent.glob("*/links"))

    def destroy_sockets(self, backends: Collection[Backend]) -> int:
        """End the UDP sockets of this node that a Service connected to one of `backends`, so that their owners notice; how many there were.

        Raises `DatapathError` if some namespace could not be searched, after the others were.
        """
        gone = {(backend.address, backend.port) for backend in backends if backend.protocol == socket.IPPROTO_UDP}
        if not gone or self.socket_backends is None:
            return 0
        given = {cookie: (backend.address, backend.port) for cookie, backend in self.socket_backends.items()}
        return sockets.destroy_udp({cookie: end for cookie, end in given.items() if end in gone}, self.pod_namespaces())

    def attached(self) -> frozenset[str]:
        """Host ends that have both programs."""
        return frozenset(slot.removeprefix(POD_PREFIX) for slot in self._pod_attacher.slots() if slot.startswith(POD_PREFIX))

    def remove_endpoint_state(self, address: IPAddress) -> None:
        """Remove a deleted pod's endpoint row and its rows of conntrack and masquerade."""
        self.endpoints.delete(address)
        conntrack.remove_pod(self.conntrack, self.masquerade, address)

    def forget_backends(self, removed: Mapping[int, Backend]) -> int:
        """Remove what still leads to backends whose rows were removed, by their ids; how many rows went."""
        datagrams = [number for number, backend in removed.items() if backend.protocol == socket.IPPROTO_UDP]
        return conntrack.remove_backends(self.conntrack, self.affinity, removed, datagrams)

    def advance_policy_generation(self) -> int:
        """After a change of `isolation`, `classes` or `policies`: every flow is judged anew by its next packet. The new number, never 0."""
        return maps.advance(self._policy_generation_fd)

    def policy_generation(self) -> int:
        """In which flows that are allowed are stamped now."""
        return maps.generation(self._policy_generation_fd)

    def verdict_losses(self) -> dict[VerdictLoss, int]:
        """How many packets no record stands for, since the tables were made."""
        return {why: self._verdict_losses.get(why) or 0 for why in VerdictLoss}

    def last_drops(self) -> list[LastDrop]:
        """What each possible CPU dropped last."""
        return self._last_drops.parts(0)

    def read_verdicts(self) -> VerdictReader:
        """The records of NetworkPolicy's verdicts. One reader at a time; the caller closes it. Raises `OSError`."""
        return VerdictReader(self._verdicts_fd, self.denials)

    def collect_garbage(self) -> int:
        """Remove expired rows of conntrack and what hangs on them; the number of rows removed. Call it about once a minute."""
        return conntrack.collect(self.conntrack, self.masquerade)

    def usage(self) -> dict[str, Usage]:
        """How full the tables are whose rows nobody else counts. A scan of each: call it about once a minute."""
        counted = (
            *(self.endpoints, self.routes, self.affinity, self.conntrack, self.masquerade, self.fragments),
            *(self.policy_counts, self.denials),
        )
        found = {table.name: Usage(len(table), table.max_entries) for table in counted}
        if self.socket_flows is not None:
            found["socket_flows"] = Usage(len(self.socket_flows), self.socket_flows.max_entries)
        return found

    def settle(self, at_most: int = 8) -> int:
        """Move some pods' programs from filters to links, when nobody waits for the routing lock; how many were moved."""
        if not isinstance(self._pod_attacher, SettlingAttacher):
            return 0
        return self._pod_attacher.settle(_pairs(self._loaded), at_most)

    def close(self) -> None:
        """Close file descriptors; everything that is pinned goes on working."""
        for loaded_object in self._loaded.values():
            loaded_object.close()

    def program_fd(self, name: str) -> int:
        """The file descriptor of a loaded program, for test runs. Raises `KeyError`."""
        for loaded_object in self._loaded.values():
            if name in loaded_object.programs:
                return loaded_object.programs[name]
        raise KeyError(name)

    @staticmethod
    def _detach_sockets_of(directories: Iterable[Path]) -> None:
        for directory in directories:
            socketlb.detach(directory)

    def _attach(self, slot: str, ifname: str, ifindex: int) -> None:
        is_pod = slot.startswith(POD_PREFIX)
        attacher = self._pod_attacher if is_pod else self._device_attacher
        attacher.attach(slot, ifname, ifindex, _pairs(self._loaded)[POD_PREFIX if is_pod else slot])
        self._leave_other_places(slot, attacher)

    def _leave_other_places(self, slot: str, attacher: Attacher) -> None:
        """Links of another layout, or links where filters are wanted now, would go before what was just attached."""
        for links in self._root.parent.glob("*/links"):
            if links.parent != self._root or isinstance(attacher, ClsactAttacher):
                TcxAttacher(links).detach(slot, "")


def _table(name: str, fds: Mapping[str, int]) -> Table[Any, Any]:
    return Table(name, fds[name], *_CODECS[name])


def _loader(config: DatapathConfig, pins: Path, objects: Path) -> LoadObject:
    record, sizes = _record(config).pack(), asdict(config.map_sizes)
    return lambda name: load(objects / f"{name}.bpf.o", config=record, pins=pins, max_entries=sizes)


def _pairs(loaded: Mapping[str, LoadedObject]) -> dict[str, Pair]:
    pod, host = loaded["pod"].programs, loaded["host"].programs
    pairs = {POD_PREFIX: Pair(pod["from_pod"], pod["to_pod"]), "device": Pair(host["from_netdev"], host["to_netdev"])}
    if "overlay" in loaded:
        overlay = loaded["overlay"].programs
        pairs["overlay"] = Pair(overlay["from_overlay"], overlay["to_overlay"])
    return pairs


def _wants_links(wanted: AttachMode) -> bool:
    if wanted is AttachMode.CLSACT:
        return False
    tcx = probe("tcx")
    if tcx.present or wanted is AttachMode.AUTO:
        return tcx.present
    raise DatapathError(f"this kernel has no tcx ({tcx.reason}), which Linux {tcx.since} brought: set attachMode to auto or clsact")


def _record(config: DatapathConfig) -> ConfigRecord:
    flags = ConfigFlag(0)
    for flag, wanted in (
        (ConfigFlag.VXLAN, config.routing_mode is RoutingMode.VXLAN),
        (ConfigFlag.MASQUERADE, config.masquerade),
        (ConfigFlag.COARSE_CLOCK, probe("coarse-clock").present),
        (ConfigFlag.IPV4, config.node_ipv4 is not None),
        (ConfigFlag.IPV6, config.node_ipv6 is not None),
        (ConfigFlag.DIRECT_RETURN, config.direct_return),
        (ConfigFlag.SET_RETVAL, probe("set-retval").present),
    ):
        if wanted:
            flags |= flag
    return ConfigRecord(
        config.node_ipv4,
        config.node_ipv6,
        config.device_ifindex,
        config.overlay_ifindex,
        config.mtu,
        flags,
        device_mac=config.device_mac,
        masquerade_ports=config.masquerade_ports,
        host_netns_cookie=netns.cookie(),
    )
