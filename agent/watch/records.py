"""What the agent keeps of API objects: frozen, slotted, and no field that it does not use. Pure.

Invariants: two records are equal exactly when the agent would do the same with both, so an object whose other fields changed makes
no work; a malformed part of an object is left out with the rest kept, never an exception that stops the watch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, TypeVar

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
T = TypeVar("T")

PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
SERVICE_NAME_LABEL = "kubernetes.io/service-name"
TO_BE_DELETED_TAINT = "ToBeDeletedByClusterAutoscaler"
ZONE_LABEL = "topology.kubernetes.io/zone"
SOURCE_RANGES_ANNOTATION = "service.beta.kubernetes.io/load-balancer-source-ranges"
TRIGGER_ANNOTATION = "endpoints.kubernetes.io/last-change-trigger-time"
AFFINITY_SECONDS = 10800
_FAMILIES = {"IPv4": 4, "IPv6": 6}


@dataclass(frozen=True, slots=True)
class Key:
    """Namespace ("" for objects that have none) and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class Node:
    """A node: the CIDRs that its pods are in, its InternalIPs, other addresses that it says it has, its zone, and whether it is Ready."""

    name: str
    pod_cidrs: tuple[Network, ...]
    addresses: tuple[Address, ...]
    other_addresses: tuple[Address, ...] = ()
    zone: str = ""
    ready: bool = False
    leaving: bool = False
    """Whether it is being deleted, or about to be: load balancers should send nothing new."""

    @property
    def ipv4(self) -> IPv4Address | None:
        """Its first IPv4 address."""
        return next((address for address in self.addresses if isinstance(address, IPv4Address)), None)

    @property
    def ipv6(self) -> IPv6Address | None:
        """Its first IPv6 address."""
        return next((address for address in self.addresses if isinstance(address, IPv6Address)), None)

    def address(self, version: int) -> Address | None:
        """Its first address of a family."""
        return self.ipv4 if version == 4 else self.ipv6


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of a Service; `protocol` is the IP protocol number, `node_port` 0 where there is none."""

    name: str
    protocol: int
    port: int
    node_port: int = 0


@dataclass(frozen=True, slots=True)
class Service:
    """A Service with cluster addresses (none if it is headless or an ExternalName, and then nothing else either).

    `created` is the API's text, which sorts as time does. `load_balancer_ips` are those whose ipMode is VIP. `affinity_seconds` 0: none.
    """

    key: Key
    addresses: tuple[Address, ...]
    ports: tuple[ServicePort, ...]
    kind: str = "ClusterIP"
    uid: str = ""
    created: str = ""
    external_ips: tuple[Address, ...] = ()
    load_balancer_ips: tuple[Address, ...] = ()
    source_ranges: tuple[Network, ...] = ()
    external_local: bool = False
    internal_local: bool = False
    health_check_node_port: int = 0
    affinity_seconds: int = 0
    publish_not_ready: bool = False
    traffic_distribution: str = ""
    load_balancer_class: str = ""


@dataclass(frozen=True, slots=True)
class EndpointPort:
    """A port of a slice; `port` None means every port, which no Service with addresses has."""

    name: str
    protocol: int
    port: int | None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint of a slice. The hints name the zones and the nodes that it is meant for; empty: no hint."""

    address: Address
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str = ""
    zone: str = ""
    zone_hints: tuple[str, ...] = ()
    node_hints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """A slice of a Service. `triggered`: when what it tells of happened, in seconds since 1970; no part of what the slice says."""

    key: Key
    service: Key
    family: int
    endpoints: tuple[Endpoint, ...]
    ports: tuple[EndpointPort, ...]
    triggered: float | None = field(default=None, compare=False)


def key_of(document: Mapping[str, Any]) -> Key:
    """Namespace and name of an object."""
    metadata = document.get("metadata") or {}
    return _key(metadata.get("namespace"), metadata.get("name"))


def _key(namespace: str | None, name: str | None) -> Key:
    # A Service's name stands in its slices too: one copy serves all.
    return Key(sys.intern(namespace or ""), sys.intern(name or ""))


def _parsed(values: Any, parse: Callable[[str], T]) -> tuple[T, ...]:
    found = []
    for value in values or ():
        try:
            found.append(parse(value))
        except ValueError:
            continue
    return tuple(found)


def node(document: Mapping[str, Any]) -> Node:
    """A Node from its JSON."""
    spec, status = document.get("spec") or {}, document.get("status") or {}
    labels = (document.get("metadata") or {}).get("labels") or {}
    cidrs = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
    internal = [row.get("address", "") for row in status.get("addresses") or () if row.get("type") == "InternalIP"]
    other = [row.get("address", "") for row in status.get("addresses") or () if row.get("type") == "ExternalIP"]
    return Node(
        key_of(document).name,
        _parsed(cidrs, ip_network),
        _parsed(internal, ip_address),
        _parsed(other, ip_address),
        zone=labels.get(ZONE_LABEL) or "",
        ready=any(row.get("type") == "Ready" and row.get("status") == "True" for row in status.get("conditions") or ()),
        leaving="deletionTimestamp" in (document.get("metadata") or {})
        or any(row.get("key") == TO_BE_DELETED_TAINT for row in spec.get("taints") or ()),
    )


_service_port = lru_cache(4096)(ServicePort)
_endpoint_port = lru_cache(4096)(EndpointPort)


def service(document: Mapping[str, Any]) -> Service:
    """A Service from its JSON."""
    spec, key = document.get("spec") or {}, key_of(document)
    metadata = document.get("metadata") or {}
    kind = sys.intern(spec.get("type") or "ClusterIP")
    listed = spec.get("clusterIPs") or [spec.get("clusterIP") or "None"]
    addresses = _parsed([text for text in listed if text and text != "None"], ip_address) if kind != "ExternalName" else ()
    if not addresses:
        return Service(key, (), (), kind)
    ports = tuple(
        _service_port(row.get("name") or "", PROTOCOLS[protocol], int(row["port"]), int(row.get("nodePort") or 0))
        for row in spec.get("ports") or ()
        if (protocol := row.get("protocol") or "TCP") in PROTOCOLS and row.get("port")
    )
    external_ips = _parsed(spec.get("externalIPs"), ip_address)
    reachable_from_outside = kind in {"NodePort", "LoadBalancer"} or bool(external_ips)
    return Service(
        key,
        addresses,
        ports,
        kind,
        uid=metadata.get("uid") or "",
        created=metadata.get("creationTimestamp") or "",
        external_ips=external_ips,
        load_balancer_ips=_load_balancer_ips(document),
        source_ranges=_source_ranges(spec, metadata) if kind == "LoadBalancer" else (),
        external_local=reachable_from_outside and spec.get("externalTrafficPolicy") == "Local",
        internal_local=spec.get("internalTrafficPolicy") == "Local",
        health_check_node_port=int(spec.get("healthCheckNodePort") or 0),
        affinity_seconds=_affinity_seconds(spec),
        publish_not_ready=bool(spec.get("publishNotReadyAddresses")),
        traffic_distribution=sys.intern(spec.get("trafficDistribution") or ""),
        load_balancer_class=sys.intern(spec.get("loadBalancerClass") or ""),
    )


def _load_balancer_ips(document: Mapping[str, Any]) -> tuple[Address, ...]:
    rows = ((document.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return _parsed([row["ip"] for row in rows if row.get("ip") and row.get("ipMode") in {None, "", "VIP"}], ip_address)


def _source_ranges(spec: Mapping[str, Any], metadata: Mapping[str, Any]) -> tuple[Network, ...]:
    texts = spec.get("loadBalancerSourceRanges") or ()
    if not texts:
        texts = ((metadata.get("annotations") or {}).get(SOURCE_RANGES_ANNOTATION) or "").split(",")
    return _parsed([text.strip() for text in texts], lambda text: ip_network(text, strict=False))


def _affinity_seconds(spec: Mapping[str, Any]) -> int:
    if spec.get("sessionAffinity") != "ClientIP":
        return 0
    return int(((spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}).get("timeoutSeconds") or AFFINITY_SECONDS)


def endpoint_slice(document: Mapping[str, Any]) -> EndpointSlice:
    """An EndpointSlice from its JSON; one of host names (FQDN) has no endpoints."""
    key = key_of(document)
    metadata = document.get("metadata") or {}
    family = _FAMILIES.get(document.get("addressType") or "", 0)
    ports = tuple(
        _endpoint_port(row.get("name") or "", PROTOCOLS[protocol], row.get("port"))
        for row in document.get("ports") or ()
        if (protocol := row.get("protocol") or "TCP") in PROTOCOLS
    )
    return EndpointSlice(
        key,
        _key(key.namespace, (metadata.get("labels") or {}).get(SERVICE_NAME_LABEL)),
        family,
        tuple(_endpoints(document.get("endpoints") or ())) if family else (),
        ports,
        _time((metadata.get("annotations") or {}).get(TRIGGER_ANNOTATION)),
    )


def _endpoints(rows: Iterable[Mapping[str, Any]]) -> Iterable[Endpoint]:
    for row in rows:
        hints, said = row.get("hints") or {}, row.get("conditions") or {}
        try:
            # All addresses of one endpoint are the same pod's: the API says to use the first.
            address = ip_address((row.get("addresses") or ("",))[0])
        except ValueError:
            continue
        yield Endpoint(
            address,
            # Ready and serving unless it says otherwise, terminating only if it says so.
            said.get("ready") in {None, True},
            said.get("serving") in {None, True},
            bool(said.get("terminating")),
            sys.intern(row.get("nodeName") or ""),
            sys.intern(row.get("zone") or ""),
            _names(hints.get("forZones")),
            _names(hints.get("forNodes")),
        )


def _names(rows: Iterable[Mapping[str, str]] | None) -> tuple[str, ...]:
    return tuple(sorted(sys.intern(row.get("name") or "") for row in rows)) if rows else ()


def _time(text: str | None) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None
