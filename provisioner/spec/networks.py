"""Arithmetic of a cluster's networks: do they overlap, are they large enough, can they be used at all. Pure.

A check returns `Problem`s rather than raising, so that all of them can be told at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import combinations
from typing import TYPE_CHECKING

from provisioner import errors

if TYPE_CHECKING:
    from provisioner.spec.models import ClusterSpec

IPNetwork = IPv4Network | IPv6Network
Path = tuple[str | int, ...]

NODE_PREFIX_V4 = 24
NODE_PREFIX_V6 = 64
# The controller manager refuses an IPv6 cluster CIDR more than 16 bits wider than a node's.
WIDEST_POD_CIDR_V6 = NODE_PREFIX_V6 - 16
# The API server allocates from at most 20 bits; the cluster's DNS Service takes the tenth address, so 16 are the least.
WIDEST_SERVICE_BITS = 20
NARROWEST_SERVICE_BITS = 4
# Bridge and control plane take .1 and .2, nodes follow from .10, and the last address is the broadcast's.
FIRST_NODE_OFFSET = 10

_UNUSABLE = tuple(
    (ip_network(cidr), use)
    for cidr, use in (
        ("0.0.0.0/8", "this network"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local; pods have their gateway there"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/96", "unspecified, loopback and IPv4-compatible"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("fe80::/10", "link-local; pods have their gateway there"),
        ("ff00::/8", "multicast"),
    )
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong: where in the document, why, and what to do."""

    path: Path
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class HostRoute:
    """A route or an address's network that the machine already has; `device` is where it leads."""

    network: IPNetwork
    device: str


def overlap(one: IPNetwork, other: IPNetwork) -> bool:
    """Whether two networks share an address; of two families they never do."""
    if isinstance(one, IPv4Network):
        return isinstance(other, IPv4Network) and one.overlaps(other)
    return isinstance(other, IPv6Network) and one.overlaps(other)


def named_networks(spec: ClusterSpec) -> Sequence[tuple[Path, IPNetwork]]:
    """The networks that a cluster takes, with their place in the document."""
    found: list[tuple[Path, IPNetwork]] = [(("spec", "podCIDR"), spec.pod_cidr), (("spec", "serviceCIDR"), spec.service_cidr)]
    if spec.dual_stack:
        found += [(("spec", "podCIDRv6"), spec.pod_cidr_v6), (("spec", "serviceCIDRv6"), spec.service_cidr_v6)]
    if spec.node_subnet is not None:
        found.append((("spec", "nodeSubnet"), spec.node_subnet))
    return found


def network_problems(spec: ClusterSpec) -> Sequence[Problem]:
    """Everything that can be told about a spec's networks without looking at the machine."""
    networks = named_networks(spec)
    return [*_unusable(networks), *_overlaps(networks), *_too_small(spec), *_pool_problems(spec)]


def check_host_routes(spec: ClusterSpec, routes: Iterable[HostRoute]) -> None:
    """Raise `errors.SpecInvalid` when a network of the cluster overlaps one that the machine uses.

    Default routes say nothing about what is behind them and are passed over. The caller leaves out the cluster's own routes.
    """
    taken = [route for route in routes if route.network.prefixlen > 0]
    for path, network in named_networks(spec):
        for route in taken:
            if overlap(network, route.network):
                field = dotted(path)
                raise errors.SpecInvalid(
                    f"{field} {network} overlaps {route.network}, which this machine reaches through {route.device}",
                    remedy=f"Set {field} to a network that this machine does not use.",
                    field=field,
                )


def dotted(path: Path) -> str:
    """A path as people write it: ("spec", "dataplane", "nonMasqueradeCIDRs", 0) -> spec.dataplane.nonMasqueradeCIDRs[0]."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _unusable(networks: Sequence[tuple[Path, IPNetwork]]) -> Iterable[Problem]:
    for path, network in networks:
        for reserved, use in _UNUSABLE:
            if overlap(network, reserved):
                example = "10.244.0.0/16" if network.version == 4 else "fd00:10:244::/56"
                yield Problem(path, f"{network} overlaps {reserved} ({use})", f"Use a private network such as {example}.")
                break


def _overlaps(networks: Sequence[tuple[Path, IPNetwork]]) -> Iterable[Problem]:
    for (path, network), (other_path, other) in combinations(networks, 2):
        if overlap(network, other):
            yield Problem(other_path, f"{other} overlaps {dotted(path)} {network}", "Give each its own, disjoint network.")


def _too_small(spec: ClusterSpec) -> Iterable[Problem]:
    yield from _pods_too_small(("spec", "podCIDR"), spec.pod_cidr, NODE_PREFIX_V4, spec.num_nodes)
    yield from _service_size(("spec", "serviceCIDR"), spec.service_cidr)
    if spec.dual_stack:
        yield from _pods_too_small(("spec", "podCIDRv6"), spec.pod_cidr_v6, NODE_PREFIX_V6, spec.num_nodes)
        if spec.pod_cidr_v6.prefixlen < WIDEST_POD_CIDR_V6:
            yield Problem(
                ("spec", "podCIDRv6"),
                f"{spec.pod_cidr_v6} is too large: a node takes a /{NODE_PREFIX_V6}, and Kubernetes allows 16 bits of nodes",
                f"Use a /{WIDEST_POD_CIDR_V6} or a longer prefix.",
            )
        yield from _service_size(("spec", "serviceCIDRv6"), spec.service_cidr_v6)
    subnet = spec.node_subnet
    if subnet is not None and subnet.num_addresses < FIRST_NODE_OFFSET + spec.num_nodes + 1:
        needed = 32 - (FIRST_NODE_OFFSET + spec.num_nodes).bit_length()
        yield Problem(
            ("spec", "nodeSubnet"),
            f"{subnet} is too small for {spec.num_nodes} nodes, whose addresses begin at the {FIRST_NODE_OFFSET}th",
            f"Use a /{needed} or a shorter prefix.",
        )


def _pool_problems(spec: ClusterSpec) -> Iterable[Problem]:
    """Of the networks that load balancers' addresses come from: each inside the nodes' network, and no node's address in it."""
    for number, network in enumerate(spec.dataplane.load_balancer_pool or ()):
        path: Path = ("spec", "dataplane", "loadBalancerPool", number)
        subnet = spec.node_subnet
        if isinstance(network, IPv6Network) and not spec.dual_stack:
            yield Problem(path, f"{network} is IPv6, and spec.stackType is ipv4", "Set spec.stackType to ipv4-ipv6, or leave it out.")
        elif subnet is None:
            yield Problem(path, f"{network} is to be inside the nodes' network, and spec.nodeSubnet is not set", "Set spec.nodeSubnet too.")
        elif isinstance(network, IPv6Network):
            continue  # the nodes' IPv6 network is the provider's choice
        elif not network.subnet_of(subnet):
            yield Problem(path, f"{network} is outside of spec.nodeSubnet {subnet}", "Use a part of it: the machine reaches no other.")
        elif network.network_address < (first := subnet.network_address + FIRST_NODE_OFFSET + spec.num_nodes):
            yield Problem(
                path,
                f"{network} begins below {first}, and the addresses before that are the bridge's, the control plane's and the nodes'",
                f"Use a part of {subnet} that begins at {first} or later.",
            )


def _pods_too_small(path: Path, network: IPNetwork, node_prefix: int, num_nodes: int) -> Iterable[Problem]:
    room = 1 << (node_prefix - network.prefixlen) if network.prefixlen <= node_prefix else 0
    if room < num_nodes:
        needed = node_prefix - (num_nodes - 1).bit_length()
        yield Problem(
            path,
            f"{network} has room for {room} nodes of a /{node_prefix} each, and spec.numNodes is {num_nodes}",
            f"Use a /{needed} or a shorter prefix, or fewer nodes.",
        )


def _service_size(path: Path, network: IPNetwork) -> Iterable[Problem]:
    bits = network.max_prefixlen - network.prefixlen
    widest, narrowest = network.max_prefixlen - WIDEST_SERVICE_BITS, network.max_prefixlen - NARROWEST_SERVICE_BITS
    if bits > WIDEST_SERVICE_BITS:
        yield Problem(path, f"{network} is too large for Service addresses", f"Use a /{widest} or a longer prefix.")
    elif bits < NARROWEST_SERVICE_BITS:
        yield Problem(path, f"{network} is too small for Service addresses", f"Use a /{narrowest} or a shorter prefix.")
