"""What healthCheckNodePorts say: of each Service that has one, how many ready endpoints are on this node. Pure.

As kube-proxy counts: addresses, not ports; of endpoints that are ready, whether or not traffic falls back to terminating ones. Two
Services cannot have one port: the API server allocates it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent.watch.records import EndpointSlice, Key, Service


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A Service and how many ready endpoints of it this node has."""

    service: Key
    local_endpoints: int
    uid: str = ""


def health_check(service: Service, slices: Iterable[EndpointSlice], node: str) -> HealthCheck | None:
    """What is said on `service.health_check_node_port`, given the Service's slices; None when nothing is."""
    if not service.health_check_node_port:
        return None
    found = {end.address for each in slices for end in each.endpoints if end.ready and end.node == node}
    return HealthCheck(service.key, len(found), service.uid)
