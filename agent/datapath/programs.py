"""The datapath as one object: programs loaded, maps pinned, devices attached."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from agent.datapath.abi import (
    Backend,
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
    MasqueradeRow,
    Route,
    SlotKey,
)
from agent.datapath.maps import PerCpuTable, Table


class RoutingMode(StrEnum):
    NATIVE = "native"
    VXLAN = "vxlan"


class AttachMode(StrEnum):
    AUTO = "auto"
    TCX = "tcx"
    CLSACT = "clsact"


@dataclass(frozen=True, slots=True)
class MapSizes:
    """Rows at most. A pinned table keeps its size until the layout version changes."""

    endpoints: int = 4096
    routes: int = 16384
    frontends: int = 65536
    backend_slots: int = 262144
    backends: int = 131072
    conntrack: int = 131072
    masquerade: int = 65536
    fragments: int = 8192


@dataclass(frozen=True, slots=True)
class DatapathConfig:
    """What the programs are loaded with. `mtu` is the largest IP packet that fits a pod's route to a remote pod."""

    node_ipv4: IPv4Address | None
    node_ipv6: IPv6Address | None
    device: str
    device_ifindex: int
    overlay_ifindex: int = 0
    routing_mode: RoutingMode = RoutingMode.NATIVE
    masquerade: bool = True
    attach_mode: AttachMode = AttachMode.AUTO
    mtu: int = 1500
    layout: str = "v1"
    map_sizes: MapSizes = field(default_factory=MapSizes)


class Datapath:
    """Use `open`; the tables are ready then, and the devices are attached one by one."""

    endpoints: Table[IPAddress, Endpoint]
    routes: Table[IPNetwork, Route]
    frontends: Table[FrontendKey, Frontend]
    backend_slots: Table[SlotKey, int]
    backends: Table[int, Backend]
    conntrack: Table[FlowKey, ConntrackRow]
    masquerade: Table[FlowKey, MasqueradeRow]
    fragments: Table[FragmentKey, FragmentRow]
    drops: PerCpuTable[DropKey, DropCount]

    @classmethod
    def open(cls, config: DatapathConfig, bpffs: Path, objects: Path) -> Datapath:
        """Load the programs of `objects`, adopting the maps and links pinned below `<bpffs>/anetd/<layout>`.

        Raises `DatapathError`.
        """
        raise NotImplementedError

    def attach_device(self) -> None:
        """Attach from_netdev and to_netdev to the node's device."""
        raise NotImplementedError

    def attach_overlay(self) -> None:
        """Attach from_overlay and to_overlay to the tunnel device; nothing in native mode."""
        raise NotImplementedError

    def attach_pod(self, ifname: str, ifindex: int) -> None:
        """Attach from_pod and to_pod to a pod's host end. Idempotent."""
        raise NotImplementedError

    def detach_pod(self, ifname: str) -> None:
        """Detach what `attach_pod` attached; no error if nothing is."""
        raise NotImplementedError

    def attached(self) -> frozenset[str]:
        """Host ends that have both programs."""
        raise NotImplementedError

    def remove_endpoint_state(self, address: IPAddress) -> None:
        """Remove a deleted pod's endpoint row and its rows of conntrack and masquerade."""
        raise NotImplementedError

    def collect_garbage(self) -> int:
        """Remove expired rows of conntrack and what hangs on them; the number of rows removed. Call it about once a minute."""
        raise NotImplementedError

    def close(self) -> None:
        """Close file descriptors; everything that is pinned goes on working."""
        raise NotImplementedError
