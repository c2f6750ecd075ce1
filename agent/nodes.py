"""Nodes -> rows of the `routes` table, and the host's own routes to other nodes' pods. Pure.

Invariants: where two kinds claim the same CIDR the more particular one has it (the order in `route_rows`, last wins); a node
without pod CIDRs or without an address of the family needed has no route, and gets one when its object has what was missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from agent.config import Config
from agent.datapath.abi import Route, RouteKind
from agent.datapath.routes import PodRoute
from agent.watch.records import Node

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

OVERHEAD = {4: 50, 6: 70}
"""What vxlan adds to an inner IP packet: outer IP, UDP, vxlan and inner Ethernet headers, by the outer family."""


def tunnel_address(node: Node) -> Address | None:
    """Where a node takes tunnelled packets: one address for both inner families, IPv4 if it has one."""
    return node.address(4) or node.address(6)


def route_rows(config: Config, own: Node, others: Iterable[Node], local_addresses: Iterable[Address]) -> dict[Network, Route]:
    """Every row of the `routes` table."""
    rows: dict[Network, Route] = {}
    # Pods of nodes that are not known yet are no outside either: better their own address than the node's.
    for network in (*config.non_masquerade_cidrs, *config.pod_cidrs):
        rows[network] = Route(RouteKind.NOT_MASQUERADED)
    for network in config.service_cidrs:
        rows[network] = Route(RouteKind.SERVICES)
    for node in sorted(others, key=lambda each: each.name):
        for network in node.pod_cidrs:
            hop = _hop(config, node, network.version)
            if hop is not None:
                rows[network] = Route(RouteKind.REMOTE_PODS, hop)
        for address in node.addresses:
            rows[ip_network(address)] = Route(RouteKind.NODE, _hop(config, node, address.version) or address)
    for network in own.pod_cidrs:
        rows[network] = Route(RouteKind.LOCAL_PODS)
    for address in (*own.addresses, *local_addresses):
        if not (address.is_loopback or address.is_link_local):
            rows[ip_network(address)] = Route(RouteKind.THIS_NODE)
    return rows


def pod_routes(config: Config, others: Iterable[Node]) -> list[PodRoute]:
    """What the host's own stack needs to know to reach other nodes' pods."""
    found = []
    for node in others:
        for network in node.pod_cidrs:
            hop = _hop(config, node, network.version)
            if hop is not None:
                found.append(PodRoute(network, node.name, hop))
    return found


def _hop(config: Config, node: Node, version: int) -> Address | None:
    return tunnel_address(node) if config.routing_mode == "vxlan" else node.address(version)


def pod_mtu(config: Config, device_mtu: int, own: Node) -> int:
    """The MTU of pods: as configured, else the device's less what the tunnel adds."""
    if config.mtu:
        return config.mtu
    if config.routing_mode != "vxlan":
        return device_mtu
    outer = tunnel_address(own)
    return device_mtu - OVERHEAD[outer.version if outer is not None else 6]


def families(own: Node, pod_cidrs: Sequence[Network]) -> frozenset[int]:
    """The families that this node's pods have."""
    return frozenset(network.version for network in pod_cidrs) & frozenset(address.version for address in own.addresses)
