"""The node itself: its device, the tunnel device, and the host's routes to other nodes' pods.

Invariants: nothing here touches a route, neighbour or device that the agent did not make, except forwarding, which is switched on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from agent.datapath import links, routes
from agent.datapath.errors import DatapathError
from agent.datapath.links import Link
from agent.datapath.netlink import Netlink
from agent.datapath.routes import KernelRoute, Neighbour, PodRoute

Address = IPv4Address | IPv6Address
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Host:
    """The node's device, and the tunnel's in vxlan mode."""

    device: Link
    overlay: Link | None = None


def find_device(nl: Netlink, name: str, own: Iterable[Address]) -> Link:
    """The node's device: `name` if given, else the one with a node address, else that of the default route. Raises `DatapathError`."""
    if name:
        link = links.find(nl, name)
        if link is None:
            raise DatapathError(f"device: there is no network device {name!r} on this node; name one that exists, or leave it empty")
        return link
    wanted = list(own)
    holders = dict(routes.list_addresses(nl))
    index = next((holders[address] for address in wanted if address in holders), None)
    if index is None:
        index = routes.default_device(nl, 4) or routes.default_device(nl, 6)
    found = next((link for link in links.list_all(nl) if link.index == index), None)
    if found is None:
        shown = ", ".join(map(str, wanted)) or "no address"
        raise DatapathError(f"device: no network device has the node's address ({shown}) nor a default route; set `device` in anetd-config")
    return found


def local_addresses(nl: Netlink) -> list[Address]:
    """Every address of the host's own."""
    return sorted({address for address, _ in routes.list_addresses(nl)}, key=lambda each: (each.version, int(each)))


def overlay_mac(tunnel: Address) -> str:
    """The MAC of the tunnel device on the node that takes tunnelled packets at `tunnel`: known to every other node unasked."""
    return links.derived_mac(f"overlay {tunnel}")


def ensure_overlay(nl: Netlink, tunnel: Address, mtu: int) -> Link:
    """The tunnel device of this node."""
    return links.ensure_overlay(nl, mtu=mtu, mac=overlay_mac(tunnel))


def remove_overlay(nl: Netlink) -> None:
    """No tunnel device: what vxlan mode left behind when the cluster's mode was changed."""
    links.delete(nl, links.OVERLAY_NAME)


def ensure_pod_routes(nl: Netlink, host: Host, wanted: Iterable[PodRoute], *, prune: bool) -> None:
    """Routes (and in vxlan mode neighbours) to other nodes' pods; with `prune`, those of nodes that are gone are deleted."""
    desired: dict[KernelRoute, PodRoute] = {_kernel_route(host, route): route for route in wanted}
    existing = {route for version in (4, 6) for route in routes.list_routes(nl, version) if route.gateway is not None}
    neighbours = {_neighbour(host.overlay, route) for route in desired.values()} if host.overlay is not None else set()
    for neighbour in neighbours:
        routes.ensure_neighbour(nl, neighbour)
    for route, reason in desired.items():
        if route in existing:
            continue
        try:
            routes.ensure_route(nl, route)
        except OSError as error:
            log.error(
                "a node's pods cannot be reached from this host: are both nodes on one network? if not, use routing mode vxlan",
                extra={"node": reason.node, "network": str(reason.network), "via": str(reason.via), "error": str(error)},
            )
    if not prune:
        return
    replaced = {route.destination for route in desired}
    for route in existing - set(desired):
        # One to the same destination was replaced above, and is gone already.
        if route.destination not in replaced:
            routes.delete_route(nl, route)
    if host.overlay is not None:
        for neighbour in set(routes.list_neighbours(nl, host.overlay.index)) - neighbours:
            routes.delete_neighbour(nl, neighbour)


def _kernel_route(host: Host, route: PodRoute) -> KernelRoute:
    if host.overlay is None:
        return KernelRoute(route.network, host.device.index, route.via)
    return KernelRoute(route.network, host.overlay.index, route.network.network_address, onlink=True)


def _neighbour(overlay: Link, route: PodRoute) -> Neighbour:
    return Neighbour(route.network.network_address, overlay.index, overlay_mac(route.via))
