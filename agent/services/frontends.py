"""A Service and its slices, or a host port -> where it answers, for whom, and with which backends. Pure.

Invariants: a frontend has backends of its own family, and a Service has frontends of the families of its cluster addresses alone; the
same objects give the same result whatever order they come in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple

from agent.datapath.abi import ANY_IPV4, ANY_IPV6, Backend, FrontendFlag, FrontendKey, FrontendScope
from agent.services.announce import announces
from agent.services.endpoints import Candidate, Choice, candidates, categorise
from agent.services.hostports import HostPort
from agent.services.vantage import Vantage
from agent.watch.records import Address, EndpointSlice, Network, Service, ServicePort

MAX_BACKENDS = (1 << 16) - 1
"""Slots of one group: its count has 16 bits."""


class Kind(StrEnum):
    """How a frontend's address came about."""

    CLUSTER_IP = "ClusterIP"
    LOAD_BALANCER = "LoadBalancer"
    EXTERNAL_IP = "ExternalIP"
    NODE_PORT = "NodePort"
    HOST_PORT = "HostPort"


_NO_FLAGS = FrontendFlag(0)
EXTERNAL = frozenset({Kind.LOAD_BALANCER, Kind.EXTERNAL_IP, Kind.NODE_PORT})


class Policy(IntEnum):
    """Whose endpoints: every node's, or this node's alone."""

    CLUSTER = 0
    LOCAL = 1


class GroupName(NamedTuple):
    """A group of backends among those of its Service."""

    port: str
    protocol: int
    family: int
    policy: Policy


@dataclass(frozen=True, slots=True)
class Wanted:
    """A frontend. `outside` None: as `inside`. `affinity_timeout` is in the unit of the tables' clock."""

    key: FrontendKey
    kind: Kind
    inside: GroupName
    outside: GroupName | None = None
    flags: FrontendFlag = _NO_FLAGS
    affinity_timeout: int = 0
    source_ranges: tuple[Network, ...] = ()

    @property
    def maglev(self) -> GroupName | None:
        """The group whose choice every node has to make alike."""
        return (self.outside or self.inside) if self.kind in EXTERNAL else None


@dataclass(frozen=True, slots=True)
class Resolved:
    """`groups` have their backends sorted; `markers` are the addresses that are nothing but the Service's, with `announces`' answer."""

    frontends: Sequence[Wanted] = ()
    groups: Mapping[GroupName, tuple[Backend, ...]] | None = None
    markers: Mapping[Address, bool | None] | None = None


def resolve(service: Service, slices: Sequence[EndpointSlice], here: Vantage) -> Resolved:
    """Everything that a Service needs in the tables."""
    found: dict[FrontendKey, Wanted] = {}
    groups: dict[GroupName, tuple[Backend, ...]] = {}
    for port in service.ports:
        for family in sorted({address.version for address in service.addresses}):
            ends = candidates(port, family, slices, here.node)
            choice = categorise(ends, here, regardless=service.publish_not_ready)
            for wanted in _frontends(service, port, family, choice):
                found.setdefault(wanted.key, wanted)
                for name in (wanted.inside, wanted.outside):
                    if name is not None and name not in groups:
                        members = choice.cluster if name.policy is Policy.CLUSTER else choice.local
                        groups[name] = _backends(members, port.protocol)
    return Resolved(tuple(found.values()), groups, _markers(service, slices, here))


def resolve_host_port(port: HostPort) -> Resolved:
    """Everything that a host port needs in the tables. Its address is the node's: it has no marker."""
    version = port.pod_address.version
    name = GroupName("", port.protocol, version, Policy.CLUSTER)
    if port.host_ip is not None and port.host_ip.version != version:
        return Resolved()
    if port.host_ip is None:
        key = FrontendKey(_any(version), port.host_port, port.protocol, FrontendScope.HOST_PORT)
    else:
        key = FrontendKey(port.host_ip, port.host_port, port.protocol)
    wanted = Wanted(key, Kind.HOST_PORT, name, flags=FrontendFlag.SOCKET)
    return Resolved((wanted,), {name: (Backend(port.pod_address, port.pod_port, port.protocol),)}, {})


def _backends(members: Sequence[Candidate], protocol: int) -> tuple[Backend, ...]:
    return tuple(Backend(each.endpoint.address, each.port, protocol) for each in members[:MAX_BACKENDS])


def _any(version: int) -> Address:
    return ANY_IPV4 if version == 4 else ANY_IPV6


def _frontends(service: Service, port: ServicePort, family: int, choice: Choice) -> Iterator[Wanted]:
    """In the order in which one address that is there twice is taken: a guarded one before an open one."""
    cluster = GroupName(port.name, port.protocol, family, Policy.CLUSTER)
    local = cluster._replace(policy=Policy.LOCAL)
    timeout = _ticks(service.affinity_seconds)
    flags = _NO_FLAGS if timeout else FrontendFlag.SOCKET
    starved = choice.any and not choice.local
    for address in _of(family, service.addresses):
        key = FrontendKey(address, port.port, port.protocol)
        if service.internal_local:
            dropped = FrontendFlag.DROP_INSIDE | FrontendFlag.DROP_OUTSIDE if starved else _NO_FLAGS
            yield Wanted(key, Kind.CLUSTER_IP, local, None, flags | dropped, timeout)
        else:
            yield Wanted(key, Kind.CLUSTER_IP, cluster, None, flags, timeout)
    outside = local if service.external_local else None
    if outside and starved:
        flags |= FrontendFlag.DROP_OUTSIDE
    ranges = tuple(network for network in service.source_ranges if network.version == family)
    guarded = (flags & ~FrontendFlag.SOCKET) | FrontendFlag.SOURCE_RANGES if ranges else flags
    for address in _of(family, service.load_balancer_ips):
        key = FrontendKey(address, port.port, port.protocol)
        yield Wanted(key, Kind.LOAD_BALANCER, cluster, outside, guarded, timeout, ranges)
    for address in _of(family, service.external_ips):
        yield Wanted(FrontendKey(address, port.port, port.protocol), Kind.EXTERNAL_IP, cluster, outside, flags, timeout)
    if port.node_port:
        key = FrontendKey(_any(family), port.node_port, port.protocol, FrontendScope.NODE_PORT)
        yield Wanted(key, Kind.NODE_PORT, cluster, outside, flags, timeout)


def _of(family: int, addresses: Iterable[Address]) -> Iterator[Address]:
    return (address for address in addresses if address.version == family)


def _ticks(seconds: int) -> int:
    """Seconds in the unit of the tables' clock, 2^30 ns, rounded up."""
    return -(-seconds * 1_000_000_000 // (1 << 30))


def _markers(service: Service, slices: Sequence[EndpointSlice], here: Vantage) -> dict[Address, bool | None]:
    """A node's own address has other ports, which are none of the Service's business."""
    families = {address.version for address in service.addresses}
    found: dict[Address, bool | None] = dict.fromkeys(service.addresses)
    for address in (*service.external_ips, *service.load_balancer_ips):
        if address.version in families and address not in here.node_addresses:
            found.setdefault(address, None)
    for address in service.load_balancer_ips:
        if address in found:
            found[address] = announces(address, service, slices, here)
    return found
