"""What the agent keeps of API objects: frozen, slotted, and no field that it does not use. Pure.

Invariants: two records are equal exactly when the agent would do the same with both, so an object whose other fields changed makes
no work; a malformed part of an object is left out with the rest kept, never an exception that stops the watch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, TypeVar

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
T = TypeVar("T")

PROTOCOLS = {"TCP": 6, "UDP": 17}
SERVICE_NAME_LABEL = "kubernetes.io/service-name"


@dataclass(frozen=True, slots=True)
class Key:
    """Namespace ("" for objects that have none) and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class Node:
    """A node: the CIDRs that its pods are in, and its InternalIPs."""

    name: str
    pod_cidrs: tuple[Network, ...]
    addresses: tuple[Address, ...]

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
    """A port of a Service; `protocol` is the IP protocol number."""

    name: str
    protocol: int
    port: int


@dataclass(frozen=True, slots=True)
class Service:
    """A Service with cluster addresses (none if it is headless or an ExternalName)."""

    key: Key
    addresses: tuple[Address, ...]
    ports: tuple[ServicePort, ...]


@dataclass(frozen=True, slots=True)
class EndpointPort:
    """A port of a slice; `port` None means every port, which no Service with addresses has."""

    name: str
    protocol: int
    port: int | None


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """The ready addresses of one slice of a Service."""

    key: Key
    service: Key
    addresses: tuple[Address, ...]
    ports: tuple[EndpointPort, ...]


def key_of(document: Mapping[str, Any]) -> Key:
    """Namespace and name of an object."""
    metadata = document.get("metadata") or {}
    return Key(metadata.get("namespace") or "", metadata.get("name") or "")


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
    cidrs = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
    internal = [row.get("address", "") for row in status.get("addresses") or () if row.get("type") == "InternalIP"]
    return Node(key_of(document).name, _parsed(cidrs, ip_network), _parsed(internal, ip_address))


def service(document: Mapping[str, Any]) -> Service:
    """A Service from its JSON."""
    spec = document.get("spec") or {}
    addresses: tuple[Address, ...] = ()
    if spec.get("type", "ClusterIP") != "ExternalName":
        listed = spec.get("clusterIPs") or [spec.get("clusterIP") or "None"]
        addresses = _parsed([text for text in listed if text and text != "None"], ip_address)
    ports = tuple(
        ServicePort(row.get("name") or "", PROTOCOLS[protocol], int(row["port"]))
        for row in spec.get("ports") or ()
        if (protocol := row.get("protocol") or "TCP") in PROTOCOLS and row.get("port")
    )
    return Service(key_of(document), addresses, ports if addresses else ())


def endpoint_slice(document: Mapping[str, Any]) -> EndpointSlice:
    """An EndpointSlice from its JSON. An endpoint that does not say whether it is ready is."""
    key = key_of(document)
    labels = (document.get("metadata") or {}).get("labels") or {}
    addresses: list[str] = []
    if document.get("addressType") in {"IPv4", "IPv6"}:
        for row in document.get("endpoints") or ():
            ready = (row.get("conditions") or {}).get("ready")
            if ready is None or ready:
                # All addresses of one endpoint are the same pod's: the API says to use the first.
                addresses += (row.get("addresses") or ())[:1]
    ports = tuple(
        EndpointPort(row.get("name") or "", PROTOCOLS[protocol], row.get("port"))
        for row in document.get("ports") or ()
        if (protocol := row.get("protocol") or "TCP") in PROTOCOLS
    )
    return EndpointSlice(key, Key(key.namespace, labels.get(SERVICE_NAME_LABEL) or ""), _parsed(addresses, ip_address), ports)
