"""A pod's network as docs/architecture.md §3.1 has it: what is set on each end of its veth pair.

Order matters: the pair is made down, the programs are attached, then `connect_host_end` and `connect_pod_end` bring it up, so no
packet passes a link without its programs.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from agent.datapath import links, netns, routes, sysctl
from agent.datapath.netlink import Netlink, NetlinkError
from agent.datapath.routes import KernelRoute, Neighbour

Address = IPv4Address | IPv6Address

GATEWAYS: dict[int, Address] = {4: IPv4Address("169.254.1.1"), 6: IPv6Address("fe80::1")}
_EVERYTHING: dict[int, IPv4Network | IPv6Network] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}


@dataclass(frozen=True, slots=True)
class PodLink:
    """A pod's pair: `host_name` and `ifname` with their MACs, the pod's addresses, the MTU of both ends."""

    host_name: str
    ifname: str
    host_mac: str
    pod_mac: str
    addresses: tuple[Address, ...]
    mtu: int


def plan_pod_link(container_id: str, ifname: str, addresses: Sequence[Address], mtu: int) -> PodLink:
    """Names and MACs follow from the container and the interface alone: a second attempt makes the same pair."""
    return PodLink(
        host_name=links.pod_link_name(container_id, ifname),
        ifname=ifname,
        host_mac=links.derived_mac(f"host {container_id} {ifname}"),
        pod_mac=links.derived_mac(f"pod {container_id} {ifname}"),
        addresses=tuple(addresses),
        mtu=mtu,
    )


def create(nl: Netlink, namespace: int, pod: PodLink) -> int:
    """Make the pair, both ends down; the host end's index."""
    link = links.create_pod_link(
        nl, namespace, name=pod.host_name, ifname=pod.ifname, host_mac=pod.host_mac, pod_mac=pod.pod_mac, mtu=pod.mtu
    )
    links.quiet_host_end(pod.host_name)
    return link.index


def connect_host_end(nl: Netlink, index: int, pod: PodLink) -> None:
    """Up, with a route and a permanent neighbour for each of the pod's addresses."""
    links.set_up(nl, index)
    for address in pod.addresses:
        routes.ensure_neighbour(nl, Neighbour(address, index, pod.pod_mac))
        routes.ensure_route(nl, KernelRoute(ip_network(address), index))


def connect_pod_end(namespace: int, pod: PodLink) -> None:
    """Up, with its addresses, and a default route per family through a gateway that is a permanent neighbour."""

    def work() -> None:
        links.quiet_ipv6(pod.ifname)
        if any(address.version == 6 for address in pod.addresses):
            sysctl.ensure(f"ipv6/conf/{pod.ifname}/disable_ipv6", "0")
        with Netlink() as nl:
            link = links.find(nl, pod.ifname)
            if link is None:
                raise NetlinkError(errno.ENODEV, f"{pod.ifname} vanished from the pod while it was being set up")
            links.set_up(nl, link.index)
            for address in pod.addresses:
                gateway = GATEWAYS[address.version]
                routes.ensure_address(nl, link.index, address)
                routes.ensure_neighbour(nl, Neighbour(gateway, link.index, pod.host_mac))
                if gateway.version == 4:
                    routes.ensure_route(nl, KernelRoute(ip_network(gateway), link.index))
                routes.ensure_route(nl, KernelRoute(_EVERYTHING[address.version], link.index, gateway))

    netns.run_in(namespace, work)


def problems(nl: Netlink, namespace: int, pod: PodLink) -> list[str]:
    """What is not as it was made, one sentence each; empty when all is."""
    host = links.find(nl, pod.host_name)
    if host is None:
        return [f"the host end {pod.host_name} is gone"]
    found = [] if host.up else [f"the host end {pod.host_name} is down"]
    found += [
        f"the host has no route to {address} on {pod.host_name}"
        for version in sorted({address.version for address in pod.addresses})
        for address in _missing_routes(nl, version, host.index, pod.addresses)
    ]

    def work() -> list[str]:
        with Netlink() as inside:
            link = links.find(inside, pod.ifname)
            if link is None:
                return [f"the pod has no interface {pod.ifname}"]
            have = {address for address, index in routes.list_addresses(inside) if index == link.index}
            wrong = [] if link.up else [f"the pod's interface {pod.ifname} is down"]
            wrong += (
                [] if link.mac == pod.pod_mac else [f"the pod's interface {pod.ifname} has the MAC {link.mac} instead of {pod.pod_mac}"]
            )
            wrong += [f"the pod's interface {pod.ifname} lacks the address {address}" for address in pod.addresses if address not in have]
            return wrong

    return found + netns.run_in(namespace, work)


def _missing_routes(nl: Netlink, version: int, index: int, addresses: Sequence[Address]) -> list[Address]:
    have = {(route.destination, route.device) for route in routes.list_routes(nl, version)}
    return [address for address in addresses if address.version == version and (ip_network(address), index) not in have]
