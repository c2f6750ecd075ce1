"""Whose an address is: pods, Services and nodes, from the API's objects. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

Frontend = tuple[str, int, str]
"""Address, port, protocol."""


@dataclass(frozen=True, slots=True)
class Names:
    """Pods and Services are "namespace/name"; addresses are as Python's ipaddress writes them. `ranges`: of the nodes' pods."""

    pods: Mapping[str, str] = field(default_factory=dict)
    services: Mapping[Frontend, str] = field(default_factory=dict)
    nodes: Mapping[str, str] = field(default_factory=dict)
    ranges: Sequence[IPv4Network | IPv6Network] = ()

    def lacks(self, address: str) -> bool:
        """Whether this is an address of the pods' ranges, and of no pod that is known."""
        if not address or address in self.pods:
            return False
        return any(ip_address(address) in network for network in self.ranges)


def gather(pods: Iterable[Mapping[str, Any]], services: Iterable[Mapping[str, Any]], nodes: Iterable[Mapping[str, Any]]) -> Names:
    """Of the objects' JSON. Of two pods with one address, one of which has ended, the other has it."""
    nodes = list(nodes)
    by_node = {address: node["metadata"]["name"] for node in nodes for address in _node_addresses(node)}
    frontends = {frontend: _name(service) for service in services for frontend in _frontends(service, by_node)}
    ranges = [ip_network(cidr) for node in nodes for cidr in (node.get("spec") or {}).get("podCIDRs") or ()]
    return Names({address: _name(pod) for pod in pods for address in pod_addresses(pod)}, frontends, by_node, ranges)


def pod_addresses(pod: Mapping[str, Any]) -> list[str]:
    """None where the pod has the node's, or has ended."""
    status = pod.get("status") or {}
    if pod["spec"].get("hostNetwork") or status.get("phase") in {"Succeeded", "Failed"}:
        return []
    return [_plain(entry["ip"]) for entry in status.get("podIPs") or () if entry.get("ip")]


def _frontends(service: Mapping[str, Any], nodes: Iterable[str]) -> Iterator[Frontend]:
    spec = service["spec"]
    balancers = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    addresses = [*(spec.get("clusterIPs") or ()), *(spec.get("externalIPs") or ()), *(entry.get("ip", "") for entry in balancers)]
    own = [_plain(address) for address in addresses if address not in {"", "None"}]
    for port in spec.get("ports") or ():
        protocol = port.get("protocol", "TCP")
        yield from ((address, port["port"], protocol) for address in own)
        if port.get("nodePort"):
            yield from ((address, port["nodePort"], protocol) for address in nodes)


def _node_addresses(node: Mapping[str, Any]) -> list[str]:
    entries = (node.get("status") or {}).get("addresses") or ()
    return [_plain(entry["address"]) for entry in entries if entry.get("type") in {"InternalIP", "ExternalIP"}]


def _name(item: Mapping[str, Any]) -> str:
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"


def _plain(address: str) -> str:
    try:
        return str(ip_address(address))
    except ValueError:
        return address


def name_ends(document: dict[str, Any], names: Names) -> dict[str, Any]:
    """A tracer's line with what only the cluster knows: `pod`, `service` and `node` of each end. What the node said of a pod stands."""
    for side in ("source", "asked", "destination"):
        end = document.get(side)
        if end is not None:
            end["pod"] = end.get("pod") or names.pods.get(end["address"], "")
            end["service"] = names.services.get((end["address"], end["port"], document["protocol"]), "") if side != "source" else ""
            end["node"] = names.nodes.get(end["address"], "")
    return document
