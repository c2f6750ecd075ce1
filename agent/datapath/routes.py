"""Addresses, routes and neighbours: the kernel's own tables, for what the programs leave to the host's stack.

Invariants: every route made here carries `PROTOCOL`, and only routes that carry it are ever deleted; a route with a gateway
belongs to another node, one without to a local pod.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from agent.datapath import netlink
from agent.datapath.links import mac_bytes
from agent.datapath.netlink import Netlink, NetlinkError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

PROTOCOL = 173
"""Marks our routes (`ip route show proto 173`); no routing daemon in iproute2's list has it."""

_RTMSG = struct.Struct("=BBBBBBBBI")
_IFADDR = struct.Struct("=BBBBI")
_NDMSG = struct.Struct("=BxHiHBB")
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC, _RTA_TABLE = 1, 4, 5, 7, 15
_RT_TABLE_MAIN, _RTN_UNICAST, _SCOPE_UNIVERSE, _SCOPE_LINK = 254, 1, 0, 253
_RTNH_F_ONLINK = 4
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS, _IFA_F_NODAD = 1, 2, 8, 0x02
_NDA_DST, _NDA_LLADDR, _NUD_PERMANENT = 1, 2, 0x80
_REPLACE = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
_GONE = {errno.ESRCH, errno.ENOENT, errno.ENODEV, errno.EADDRNOTAVAIL}


@dataclass(frozen=True, slots=True)
class KernelRoute:
    """`gateway` None: on the link. `onlink`: take the gateway for a neighbour whatever its address."""

    destination: Network
    device: int
    gateway: Address | None = None
    onlink: bool = False


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A permanent entry: `address` on `device` has `mac`."""

    address: Address
    device: int
    mac: str


@dataclass(frozen=True, slots=True)
class PodRoute:
    """A remote pod CIDR and the node that has it. `via` is the node's address: the next hop, or the tunnel's far end."""

    network: Network
    node: str
    via: Address


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def _route_body(route: KernelRoute, protocol: int) -> bytes:
    network = route.destination
    scope = _SCOPE_UNIVERSE if route.gateway is not None or network.version == 6 else _SCOPE_LINK
    flags = _RTNH_F_ONLINK if route.onlink else 0
    body = _RTMSG.pack(_family(network.version), network.prefixlen, 0, 0, _RT_TABLE_MAIN, protocol, scope, _RTN_UNICAST, flags)
    if network.prefixlen:
        body += netlink.attribute(_RTA_DST, network.network_address.packed)
    if route.gateway is not None:
        body += netlink.attribute(_RTA_GATEWAY, route.gateway.packed)
    return body + netlink.u32(_RTA_OIF, route.device)


def ensure_route(nl: Netlink, route: KernelRoute) -> None:
    """Add the route, or replace the one to the same destination."""
    what = f"route {route.destination}" + (f" via {route.gateway}" if route.gateway else "")
    nl.request(netlink.RTM_NEWROUTE, _REPLACE, _route_body(route, PROTOCOL), f"set {what}")


def delete_route(nl: Netlink, route: KernelRoute) -> bool:
    """Delete our route; whether it was there."""
    try:
        nl.request(netlink.RTM_DELROUTE, 0, _route_body(route, PROTOCOL), f"delete route {route.destination}")
    except NetlinkError as error:
        if error.errno in _GONE:
            return False
        raise
    return True


def list_routes(nl: Netlink, version: int) -> list[KernelRoute]:
    """Our routes of one family."""
    found = []
    for answer in nl.dump(netlink.RTM_GETROUTE, _RTMSG.pack(_family(version), 0, 0, 0, 0, 0, 0, 0, 0), "list routes"):
        _, length, _, _, _, protocol, _, kind, flags = _RTMSG.unpack_from(answer)
        if protocol != PROTOCOL or kind != _RTN_UNICAST:
            continue
        rows = netlink.attributes(answer[_RTMSG.size :])
        destination = ip_network((rows.get(_RTA_DST, bytes(4 if version == 4 else 16)), length))
        gateway = ip_address(rows[_RTA_GATEWAY]) if _RTA_GATEWAY in rows else None
        device = int.from_bytes(rows.get(_RTA_OIF, bytes(4)), sys.byteorder)
        found.append(KernelRoute(destination, device, gateway, bool(flags & _RTNH_F_ONLINK)))
    return found


def default_device(nl: Netlink, version: int) -> int | None:
    """The device index of the main table's default route, None without one."""
    for answer in nl.dump(netlink.RTM_GETROUTE, _RTMSG.pack(_family(version), 0, 0, 0, 0, 0, 0, 0, 0), "list routes"):
        _, length, _, _, table, _, _, kind, _ = _RTMSG.unpack_from(answer)
        rows = netlink.attributes(answer[_RTMSG.size :])
        if length == 0 and table == _RT_TABLE_MAIN and kind == _RTN_UNICAST and _RTA_OIF in rows:
            return int.from_bytes(rows[_RTA_OIF], sys.byteorder)
    return None


def list_addresses(nl: Netlink) -> list[tuple[Address, int]]:
    """(address, device index) of the namespace."""
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for answer in nl.dump(netlink.RTM_GETADDR, _IFADDR.pack(family, 0, 0, 0, 0), "list addresses"):
            index = _IFADDR.unpack_from(answer)[4]
            rows = netlink.attributes(answer[_IFADDR.size :])
            packed = rows.get(_IFA_LOCAL) or rows.get(_IFA_ADDRESS)
            if packed:
                found.append((ip_address(packed), index))
    return found


def ensure_address(nl: Netlink, index: int, address: Address) -> None:
    """Give a device an address of its full length, usable at once: an IPv6 address skips duplicate detection."""
    length = address.max_prefixlen
    body = _IFADDR.pack(_family(address.version), length, 0, _SCOPE_UNIVERSE, index)
    body += netlink.attribute(_IFA_LOCAL, address.packed) + netlink.attribute(_IFA_ADDRESS, address.packed)
    if address.version == 6:
        body += netlink.u32(_IFA_FLAGS, _IFA_F_NODAD)
    nl.request(netlink.RTM_NEWADDR, _REPLACE, body, f"set address {address}")


def _neighbour_body(row: Neighbour) -> bytes:
    head = _NDMSG.pack(_family(row.address.version), 0, row.device, _NUD_PERMANENT, 0, 0)
    return head + netlink.attribute(_NDA_DST, row.address.packed)


def ensure_neighbour(nl: Netlink, row: Neighbour) -> None:
    """Set a permanent neighbour."""
    body = _neighbour_body(row) + netlink.attribute(_NDA_LLADDR, mac_bytes(row.mac))
    nl.request(netlink.RTM_NEWNEIGH, _REPLACE, body, f"set neighbour {row.address}")


def delete_neighbour(nl: Netlink, row: Neighbour) -> bool:
    """Delete a neighbour; whether it was there."""
    try:
        nl.request(netlink.RTM_DELNEIGH, 0, _neighbour_body(row), f"delete neighbour {row.address}")
    except NetlinkError as error:
        if error.errno in _GONE:
            return False
        raise
    return True


def list_neighbours(nl: Netlink, device: int) -> list[Neighbour]:
    """The permanent neighbours of a device."""
    found = []
    for answer in nl.dump(netlink.RTM_GETNEIGH, _NDMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0, 0), "list neighbours"):
        family, _, index, state, _, _ = _NDMSG.unpack_from(answer)
        rows = netlink.attributes(answer[_NDMSG.size :])
        if index == device and state == _NUD_PERMANENT and family in {socket.AF_INET, socket.AF_INET6} and _NDA_LLADDR in rows:
            found.append(Neighbour(ip_address(rows[_NDA_DST]), index, rows[_NDA_LLADDR].hex(":")))
    return found
