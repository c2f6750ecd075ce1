"""Services and their slices -> which address answers for which backends. Pure.

ClusterIP of TCP and UDP in both families, ready endpoints alone. Invariants: a frontend has backends of its own family; the same
objects give the same rows whatever order they come in; of two Services that claim one address and port the first by name has it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.datapath.abi import Backend, FrontendKey
from agent.watch.records import EndpointSlice, Key, Service, ServicePort


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a frontend stands for: the Service, the port's name, and the backends, sorted."""

    service: Key
    port_name: str
    backends: tuple[Backend, ...]


def resolve(services: Iterable[Service], slices: Iterable[EndpointSlice]) -> dict[FrontendKey, Resolved]:
    """Every frontend of every Service."""
    by_service: Mapping[Key, list[EndpointSlice]] = _group(slices)
    found: dict[FrontendKey, Resolved] = {}
    for service in sorted(services, key=lambda each: (each.key.namespace, each.key.name)):
        for port in service.ports:
            ends = _backends(port, by_service.get(service.key, ()))
            for address in service.addresses:
                own = tuple(end for end in ends if end.address.version == address.version)
                found.setdefault(FrontendKey(address, port.port, port.protocol), Resolved(service.key, port.name, own))
    return found


def _group(slices: Iterable[EndpointSlice]) -> dict[Key, list[EndpointSlice]]:
    grouped: dict[Key, list[EndpointSlice]] = defaultdict(list)
    for each in slices:
        grouped[each.service].append(each)
    return grouped


def _backends(port: ServicePort, slices: Iterable[EndpointSlice]) -> list[Backend]:
    found = {
        Backend(address, target.port, target.protocol)
        for each in slices
        for target in each.ports
        if target.name == port.name and target.protocol == port.protocol and target.port
        for address in each.addresses
    }
    return sorted(found, key=lambda end: (end.address.version, int(end.address), end.port))
