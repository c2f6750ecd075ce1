"""The rows of the kernel's tables as Python values: the counterpart of bpf/abi.h.

Invariants: each `Codec` packs to exactly the size of its C structure (a test compares them through BTF); ports are host-order
integers here and network order in the kernel; IPv4 addresses are ::ffff:a.b.c.d in the kernel and `IPv4Address` here. Pure.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Generic, TypeVar

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

T = TypeVar("T")

LAYOUT = "v2"
"""The version of all these layouts: a part of the path where tables are pinned, so that those of another are left alone."""
_MAPPED = b"\0" * 10 + b"\xff\xff"
MASQUERADE_PORTS = range(1024, 30000)
"""Beside those that only root may have, the node ports, and those that the kernel gives to processes which ask."""
HAIRPIN_IPV4, HAIRPIN_IPV6 = IPv4Address("169.254.1.1"), IPv6Address("fd61:6e65:7464::1")
"""The source that a pod sees when it reaches itself through a service."""


@dataclass(frozen=True, slots=True)
class Codec(Generic[T]):
    """How a value of T stands in a table. `name` is the C type ("" for bare integers)."""

    name: str
    size: int
    pack: Callable[[T], bytes]
    unpack: Callable[[bytes], T]


def pack_address(address: IPAddress) -> bytes:
    return address.packed if isinstance(address, IPv6Address) else _MAPPED + address.packed


def unpack_address(data: bytes) -> IPAddress:
    return IPv4Address(data[12:16]) if data[:12] == _MAPPED else IPv6Address(data)


def _pack_optional(address: IPAddress | None) -> bytes:
    return bytes(16) if address is None else pack_address(address)


def _unpack_optional(data: bytes) -> IPAddress | None:
    return unpack_address(data) if any(data) else None


def _port(port: int) -> bytes:
    return port.to_bytes(2, "big")


def _unport(data: bytes) -> int:
    return int.from_bytes(data, "big")


class ConfigFlag(IntFlag):
    """`enum config_flag`."""

    VXLAN = 1
    MASQUERADE = 2
    COARSE_CLOCK = 4
    IPV4 = 8
    IPV6 = 16
    SET_RETVAL = 32
    DIRECT_RETURN = 64


@dataclass(frozen=True, slots=True)
class ConfigRecord:
    """The programs' read-only configuration, `struct datapath_config`."""

    node_ipv4: IPv4Address | None
    node_ipv6: IPv6Address | None
    device_ifindex: int
    overlay_ifindex: int
    mtu: int
    flags: ConfigFlag
    device_mac: str = "00:00:00:00:00:00"
    host_netns_cookie: int = 0
    masquerade_ports: range = MASQUERADE_PORTS

    def pack(self) -> bytes:
        return (
            _pack_optional(self.node_ipv4)
            + _pack_optional(self.node_ipv6)
            + struct.pack("=IIIIHH", self.device_ifindex, self.overlay_ifindex, self.mtu, self.flags, *self._port_bounds())
            + struct.pack("=6s6xQ", _mac(self.device_mac), self.host_netns_cookie)
        )

    def _port_bounds(self) -> tuple[int, int]:
        return self.masquerade_ports[0], self.masquerade_ports[-1]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A local pod. `ifindex` is the host end's; MACs are "aa:bb:cc:dd:ee:ff"."""

    ifindex: int
    id: int
    pod_mac: str
    host_mac: str
    flags: int = 0


class RouteKind(IntEnum):
    """`enum route_kind`."""

    LOCAL_PODS = 1
    REMOTE_PODS = 2
    NODE = 3
    THIS_NODE = 4
    SERVICES = 5
    NOT_MASQUERADED = 6


@dataclass(frozen=True, slots=True)
class Route:
    """Where a destination is. `next_hop`: for REMOTE_PODS and NODE the other node's address, of the destination's own family in
    native mode, of any family (the tunnel's) in vxlan mode; None for the other kinds."""

    kind: RouteKind
    next_hop: IPAddress | None = None
    flags: int = 0


class FrontendScope(IntEnum):
    """`enum frontend_scope`."""

    ADDRESS = 0
    NODE_PORT = 1
    HOST_PORT = 2


ANY_IPV4, ANY_IPV6 = IPv4Address(0), IPv6Address(0)
"""The addresses of keys whose scope is not ADDRESS."""


@dataclass(frozen=True, slots=True)
class FrontendKey:
    """`protocol` is the IP protocol number: 6 TCP, 17 UDP, 132 SCTP. Port 0 and protocol 0: the address belongs to a Service."""

    address: IPAddress
    port: int
    protocol: int
    scope: FrontendScope = FrontendScope.ADDRESS


class FrontendFlag(IntFlag):
    """`enum frontend_flag`."""

    SOCKET = 1
    DROP_INSIDE = 2
    DROP_OUTSIDE = 4
    SOURCE_RANGES = 8
    MAGLEV = 16
    ANNOUNCED = 32


_NO_FLAGS = FrontendFlag(0)


@dataclass(frozen=True, slots=True)
class Frontend:
    """`count` slots, numbered from 0, must exist in backend_slots before this row says so. 0 means no endpoints. `outside_id` 0: clients
    outside of the cluster have the same group. `affinity_timeout` is in the unit of `clock()`, 0 for none."""

    service_id: int
    count: int
    flags: FrontendFlag = _NO_FLAGS
    outside_id: int = 0
    outside_count: int = 0
    affinity_timeout: int = 0


@dataclass(frozen=True, slots=True)
class SlotKey:
    """The place of one backend in a service; slots count from 0."""

    service_id: int
    slot: int


@dataclass(frozen=True, slots=True)
class Backend:
    """Where a group of a service leads; its id belongs to that group alone. `protocol` as in the frontend."""

    address: IPAddress
    port: int
    protocol: int
    flags: int = 0


MAGLEV_SIZE = 2039
"""Entries of a Maglev table, a prime: a backend's share is right to a hundredth for up to twenty backends."""

MaglevRow = tuple[int, ...]
"""`MAGLEV_SIZE` ids of backends."""


@dataclass(frozen=True, slots=True)
class SourceRange:
    """A network from which a Service's frontends may be reached: a key of `source_ranges`, whose value says nothing."""

    service_id: int
    network: IPNetwork


@dataclass(frozen=True, slots=True)
class AffinityKey:
    """A client of a Service with session affinity."""

    client: IPAddress
    service_id: int


@dataclass(frozen=True, slots=True)
class AffinityRow:
    """The backend's id; `last_used` is as `clock()`."""

    backend: int
    last_used: int


@dataclass(frozen=True, slots=True)
class SocketFlowKey:
    """A socket, by its cookie, and the backend that it sends to."""

    cookie: int
    backend: IPAddress
    port: int


@dataclass(frozen=True, slots=True)
class SocketFlow:
    """The frontend that the socket was told to send to."""

    frontend: IPAddress
    port: int


@dataclass(frozen=True, slots=True)
class FlowKey:
    """Two ends of a flow; see `struct flow_key` for what ICMP has as ports."""

    a: IPAddress
    a_port: int
    b: IPAddress
    b_port: int
    protocol: int


class ConntrackState(IntEnum):
    """`enum conntrack_state`."""

    NEW = 0
    ESTABLISHED = 1
    HALF_CLOSED = 2
    CLOSED = 3


class ConntrackFlag(IntFlag):
    """`enum conntrack_flag`."""

    INITIATOR_B = 1
    SERVICE_ROW = 2
    TRANSLATED = 4
    VIA_TUNNEL = 8
    FIN_A = 16
    FIN_B = 32
    HAIRPIN = 64
    NEXT_HOP = 128


@dataclass(frozen=True, slots=True)
class ConntrackRow:
    """`last_seen` is as `clock()`; an interface index is that of a local pod's host end, if it has sent. `translated_address` is the
    next hop where the flags say NEXT_HOP. `backend_id`: the backend chosen, where they say SERVICE_ROW; else 0, and `policy_generation` is
    that in which the flow was last allowed, 0 if it was never judged."""

    last_seen: int
    state: ConntrackState
    flags: ConntrackFlag
    masquerade_port: int
    translated_address: IPAddress | None
    translated_port: int
    backend_id: int
    a_ifindex: int = 0
    b_ifindex: int = 0
    next_hop_generation: int = 0
    policy_generation: int = 0


@dataclass(frozen=True, slots=True)
class MasqueradeRow:
    """The pod behind an address and port of the node."""

    pod_address: IPAddress
    pod_port: int


@dataclass(frozen=True, slots=True)
class FragmentKey:
    """What the fragments of one packet have in common."""

    source: IPAddress
    destination: IPAddress
    id: int
    protocol: int


@dataclass(frozen=True, slots=True)
class FragmentRow:
    """What only the first fragment carries."""

    source_port: int
    destination_port: int


class DropReason(IntEnum):
    """`enum drop_reason`."""

    MALFORMED = 1
    SPOOFED_SOURCE = 2
    NO_SUCH_POD = 3
    NO_SUCH_SERVICE = 4
    NO_BACKEND = 5
    SERVICE_COLLISION = 6
    FRAGMENT_WITHOUT_FIRST = 7
    MASQUERADE_EXHAUSTED = 8
    UNSUPPORTED_PROTOCOL = 9
    CONNTRACK_FULL = 10
    REWRITE_FAILED = 11
    NO_TUNNEL = 12
    UNSUPPORTED_LAYER2 = 13
    NO_LOCAL_BACKEND = 14
    NOT_IN_SOURCE_RANGES = 15
    TOO_BIG = 16
    NOBODY_BEHIND = 17
    EGRESS_DENIED = 18
    INGRESS_DENIED = 19


class DropDirection(IntEnum):
    """`enum drop_direction`: the program that dropped."""

    FROM_POD = 1
    TO_POD = 2
    FROM_NETDEV = 3
    TO_NETDEV = 4
    FROM_OVERLAY = 5
    TO_OVERLAY = 6


@dataclass(frozen=True, slots=True)
class DropKey:
    """Plain numbers: a newer program may count what this Python does not know. `str()` gives names where they are known."""

    reason: int
    direction: int

    def __str__(self) -> str:
        return f"{_name(DropReason, self.reason)} {_name(DropDirection, self.direction)}"


@dataclass(frozen=True, slots=True)
class DropCount:
    """Since the tables were made."""

    packets: int
    bytes: int


def sum_drops(counts: Iterable[DropCount]) -> DropCount:
    """One count out of one a CPU."""
    parts = list(counts)
    return DropCount(sum(c.packets for c in parts), sum(c.bytes for c in parts))


def _name(enum: type[IntEnum], value: int) -> str:
    try:
        return enum(value).name
    except ValueError:
        return str(value)


def _mac(text: str) -> bytes:
    data = bytes.fromhex(text.replace(":", ""))
    if len(data) != 6:
        raise ValueError(f"{text!r} is not a MAC address of six bytes")
    return data


def _pack_endpoint(e: Endpoint) -> bytes:
    return struct.pack("=II6s6sI", e.ifindex, e.id, _mac(e.pod_mac), _mac(e.host_mac), e.flags)


def _unpack_endpoint(data: bytes) -> Endpoint:
    ifindex, id_, pod_mac, host_mac, flags = struct.unpack("=II6s6sI", data)
    return Endpoint(ifindex, id_, pod_mac.hex(":"), host_mac.hex(":"), flags)


def _pack_network(network: IPNetwork) -> bytes:
    length = network.prefixlen + (96 if isinstance(network, IPv4Network) else 0)
    return struct.pack("=I", length) + pack_address(network.network_address)


def _unpack_network(data: bytes) -> IPNetwork:
    (length,) = struct.unpack("=I", data[:4])
    address = unpack_address(data[4:])
    if isinstance(address, IPv4Address) and length >= 96:
        return ip_network((address, length - 96))
    return ip_network((IPv6Address(data[4:]), length))


def _pack_route(r: Route) -> bytes:
    return struct.pack("=II", r.kind, r.flags) + _pack_optional(r.next_hop)


def _unpack_route(data: bytes) -> Route:
    kind, flags = struct.unpack("=II", data[:8])
    return Route(RouteKind(kind), _unpack_optional(data[8:]), flags)


def _pack_frontend_key(k: FrontendKey) -> bytes:
    return pack_address(k.address) + _port(k.port) + bytes((k.protocol, k.scope, 0, 0, 0, 0))


def _unpack_frontend_key(data: bytes) -> FrontendKey:
    return FrontendKey(unpack_address(data[:16]), _unport(data[16:18]), data[18], FrontendScope(data[19]))


def _pack_frontend(f: Frontend) -> bytes:
    return struct.pack("=IIHHHHI", f.service_id, f.outside_id, f.count, f.outside_count, f.flags, 0, f.affinity_timeout)


def _unpack_frontend(data: bytes) -> Frontend:
    service_id, outside_id, count, outside_count, flags, _, timeout = struct.unpack("=IIHHHHI", data)
    return Frontend(service_id, count, FrontendFlag(flags), outside_id, outside_count, timeout)


_MAGLEV = struct.Struct(f"={MAGLEV_SIZE}I")


def _pack_source_range(r: SourceRange) -> bytes:
    prefix = _pack_network(r.network)
    return struct.pack("=II", 32 + int.from_bytes(prefix[:4], sys.byteorder), r.service_id) + prefix[4:]


def _unpack_source_range(data: bytes) -> SourceRange:
    length, service_id = struct.unpack("=II", data[:8])
    return SourceRange(service_id, _unpack_network(struct.pack("=I", length - 32) + data[8:]))


def _pack_affinity_key(k: AffinityKey) -> bytes:
    return pack_address(k.client) + struct.pack("=II", k.service_id, 0)


def _unpack_affinity_key(data: bytes) -> AffinityKey:
    return AffinityKey(unpack_address(data[:16]), _unpack_u32(data[16:20]))


def _pack_socket_flow_key(k: SocketFlowKey) -> bytes:
    return struct.pack("=Q", k.cookie) + pack_address(k.backend) + _port(k.port) + bytes(6)


def _unpack_socket_flow_key(data: bytes) -> SocketFlowKey:
    return SocketFlowKey(int.from_bytes(data[:8], sys.byteorder), unpack_address(data[8:24]), _unport(data[24:26]))


def _pack_backend(b: Backend) -> bytes:
    return pack_address(b.address) + _port(b.port) + bytes((b.protocol, b.flags, 0, 0, 0, 0))


def _unpack_backend(data: bytes) -> Backend:
    return Backend(unpack_address(data[:16]), _unport(data[16:18]), data[18], data[19])


def _pack_flow(k: FlowKey) -> bytes:
    return pack_address(k.a) + pack_address(k.b) + _port(k.a_port) + _port(k.b_port) + bytes((k.protocol, 0, 0, 0))


def _unpack_flow(data: bytes) -> FlowKey:
    return FlowKey(unpack_address(data[:16]), _unport(data[32:34]), unpack_address(data[16:32]), _unport(data[34:36]), data[36])


def clock(nanoseconds: int) -> int:
    """CLOCK_MONOTONIC in the unit of `last_seen`, a little more than a second."""
    return nanoseconds >> 30


def _pack_conntrack(r: ConntrackRow) -> bytes:
    head = struct.pack("=IBB", r.last_seen, r.state, r.flags) + _port(r.masquerade_port) + _port(r.translated_port)
    tail = struct.pack("=II", r.a_ifindex, r.b_ifindex)
    either = r.backend_id if r.flags & ConntrackFlag.SERVICE_ROW else r.policy_generation
    return head + struct.pack("=HI", r.next_hop_generation, either) + _pack_optional(r.translated_address) + tail


def _unpack_conntrack(data: bytes) -> ConntrackRow:
    last_seen, state, flags = struct.unpack("=IBB", data[:6])
    generation, either = struct.unpack("=HI", data[10:16])
    is_choice = bool(flags & ConntrackFlag.SERVICE_ROW)
    a_ifindex, b_ifindex = struct.unpack("=II", data[32:40])
    return ConntrackRow(
        last_seen,
        ConntrackState(state),
        ConntrackFlag(flags),
        _unport(data[6:8]),
        _unpack_optional(data[16:32]),
        _unport(data[8:10]),
        either if is_choice else 0,
        a_ifindex,
        b_ifindex,
        generation,
        0 if is_choice else either,
    )


def _pack_masquerade(r: MasqueradeRow) -> bytes:
    return pack_address(r.pod_address) + _port(r.pod_port) + bytes(6)


def _unpack_masquerade(data: bytes) -> MasqueradeRow:
    return MasqueradeRow(unpack_address(data[:16]), _unport(data[16:18]))


def _pack_fragment_key(k: FragmentKey) -> bytes:
    return pack_address(k.source) + pack_address(k.destination) + k.id.to_bytes(4, "big") + bytes((k.protocol, 0, 0, 0))


def _unpack_fragment_key(data: bytes) -> FragmentKey:
    return FragmentKey(unpack_address(data[:16]), unpack_address(data[16:32]), int.from_bytes(data[32:36], "big"), data[36])


def _pack_u32(value: int) -> bytes:
    return struct.pack("=I", value)


def _unpack_u32(data: bytes) -> int:
    return int(struct.unpack("=I", data)[0])


ADDRESS: Codec[IPAddress] = Codec("address", 16, pack_address, unpack_address)
ENDPOINT: Codec[Endpoint] = Codec("endpoint", 24, _pack_endpoint, _unpack_endpoint)
ROUTE_KEY: Codec[IPNetwork] = Codec("route_key", 20, _pack_network, _unpack_network)
ROUTE: Codec[Route] = Codec("route", 24, _pack_route, _unpack_route)
FRONTEND_KEY: Codec[FrontendKey] = Codec("frontend_key", 24, _pack_frontend_key, _unpack_frontend_key)
FRONTEND: Codec[Frontend] = Codec("frontend", 20, _pack_frontend, _unpack_frontend)
SLOT_KEY: Codec[SlotKey] = Codec(
    "slot_key", 8, lambda k: struct.pack("=II", k.service_id, k.slot), lambda data: SlotKey(*struct.unpack("=II", data))
)
BACKEND_ID: Codec[int] = Codec("", 4, _pack_u32, _unpack_u32)
BACKEND: Codec[Backend] = Codec("backend", 24, _pack_backend, _unpack_backend)
MAGLEV_ROW: Codec[MaglevRow] = Codec("maglev_row", _MAGLEV.size, lambda row: _MAGLEV.pack(*row), _MAGLEV.unpack)
SOURCE_RANGE_KEY: Codec[SourceRange] = Codec("source_range_key", 24, _pack_source_range, _unpack_source_range)
SOURCE_RANGE_ROW: Codec[int] = Codec("", 4, _pack_u32, _unpack_u32)
AFFINITY_KEY: Codec[AffinityKey] = Codec("affinity_key", 24, _pack_affinity_key, _unpack_affinity_key)
AFFINITY_ROW: Codec[AffinityRow] = Codec(
    "affinity_row", 8, lambda r: struct.pack("=II", r.backend, r.last_used), lambda data: AffinityRow(*struct.unpack("=II", data))
)
COOKIE: Codec[int] = Codec("", 8, lambda cookie: cookie.to_bytes(8, sys.byteorder), lambda data: int.from_bytes(data, sys.byteorder))
SOCKET_FLOW_KEY: Codec[SocketFlowKey] = Codec("socket_flow_key", 32, _pack_socket_flow_key, _unpack_socket_flow_key)
SOCKET_FLOW: Codec[SocketFlow] = Codec(
    "socket_flow",
    24,
    lambda f: pack_address(f.frontend) + _port(f.port) + bytes(6),
    lambda data: SocketFlow(unpack_address(data[:16]), _unport(data[16:18])),
)
FLOW_KEY: Codec[FlowKey] = Codec("flow_key", 40, _pack_flow, _unpack_flow)
CONNTRACK_ROW: Codec[ConntrackRow] = Codec("conntrack_row", 40, _pack_conntrack, _unpack_conntrack)
MASQUERADE_ROW: Codec[MasqueradeRow] = Codec("masquerade_row", 24, _pack_masquerade, _unpack_masquerade)
FRAGMENT_KEY: Codec[FragmentKey] = Codec("fragment_key", 40, _pack_fragment_key, _unpack_fragment_key)
FRAGMENT_ROW: Codec[FragmentRow] = Codec(
    "fragment_row",
    4,
    lambda r: _port(r.source_port) + _port(r.destination_port),
    lambda data: FragmentRow(_unport(data[:2]), _unport(data[2:])),
)
DROP_KEY: Codec[DropKey] = Codec("drop_key", 4, lambda k: bytes((k.reason, k.direction, 0, 0)), lambda data: DropKey(data[0], data[1]))
DROP_COUNT: Codec[DropCount] = Codec(
    "drop_count", 16, lambda c: struct.pack("=QQ", c.packets, c.bytes), lambda data: DropCount(*struct.unpack("=QQ", data))
)
