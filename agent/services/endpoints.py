"""Which endpoints of a Service's port are used on a node, and why the others are not. Pure.

The rules are those of kube-proxy 1.34 (`CategorizeEndpoints`): ready endpoints; where there are none, those that end but still serve,
decided apart for all endpoints and for this node's; hints count only if every ready endpoint has them and one of them means this node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from agent.services.vantage import Vantage
from agent.watch.records import Endpoint, EndpointSlice, ServicePort


class Topology(Enum):
    """What endpoints are narrowed to by their hints."""

    ANY = "any"
    SAME_ZONE = "zone"
    SAME_NODE = "node"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An endpoint, and its port for one port of the Service."""

    endpoint: Endpoint
    port: int


@dataclass(frozen=True, slots=True)
class Choice:
    """`cluster` and `local` are what the policies Cluster and Local use on this node; `any`: whether some node has something to use."""

    cluster: Sequence[Candidate]
    local: Sequence[Candidate]
    any: bool
    topology: Topology = Topology.ANY


def candidates(port: ServicePort, family: int, slices: Iterable[EndpointSlice], node: str) -> list[Candidate]:
    """The endpoints of a family that have the port, by address and port. One that is in several slices counts once, as its best."""
    found: dict[tuple[int, int], Candidate] = {}
    for each in slices:
        if each.family != family:
            continue
        for target in each.ports:
            number = target.port
            if not number or target.name != port.name or target.protocol != port.protocol:
                continue
            for endpoint in each.endpoints:
                if endpoint.address.version != family:
                    continue
                place = int(endpoint.address), number
                known = found.get(place)
                if known is None or _merit(endpoint, node) > _merit(known.endpoint, node):
                    found[place] = Candidate(endpoint, number)
    return [found[place] for place in sorted(found)]


def _merit(endpoint: Endpoint, node: str) -> tuple[bool, bool, bool]:
    return endpoint.node == node, endpoint.ready, is_fading(endpoint)


def is_ready(endpoint: Endpoint, *, regardless: bool = False) -> bool:
    """Whether it is used first. `regardless`: the Service publishes addresses that are not ready."""
    return regardless or endpoint.ready


def is_fading(endpoint: Endpoint) -> bool:
    """Whether it ends but still serves: used where nothing is ready."""
    return endpoint.serving and endpoint.terminating


def categorise(found: Sequence[Candidate], here: Vantage, *, regardless: bool = False) -> Choice:
    """What each policy uses."""
    ready = [each for each in found if regardless or each.endpoint.ready]
    if not ready:
        fading = [each for each in found if is_fading(each.endpoint)]
        return Choice(fading, [each for each in fading if each.endpoint.node == here.node], bool(fading))
    topology = _topology(ready, here)
    local = [each for each in ready if each.endpoint.node == here.node]
    if not local:
        local = [each for each in found if each.endpoint.node == here.node and is_fading(each.endpoint)]
    return Choice([each for each in ready if _is_meant(each.endpoint, topology, here)], local, True, topology)


def _topology(ready: Sequence[Candidate], here: Vantage) -> Topology:
    for topology, hints in (
        (Topology.SAME_NODE, [each.endpoint.node_hints for each in ready]),
        (Topology.SAME_ZONE, [each.endpoint.zone_hints for each in ready]),
    ):
        mine = here.node if topology is Topology.SAME_NODE else here.zone
        if all(hints) and any(mine in names for names in hints):
            return topology
    return Topology.ANY


def _is_meant(endpoint: Endpoint, topology: Topology, here: Vantage) -> bool:
    if topology is Topology.ANY:
        return True
    return here.node in endpoint.node_hints if topology is Topology.SAME_NODE else here.zone in endpoint.zone_hints


def left_out(found: Sequence[Candidate], choice: Choice, here: Vantage, *, local: bool, regardless: bool) -> Mapping[Candidate, str]:
    """Why each candidate that a policy (`local` or not) does not use is not used."""
    used = set(choice.local if local else choice.cluster)
    return {each: _reason(each.endpoint, choice, here, local=local, regardless=regardless) for each in found if each not in used}


def _reason(endpoint: Endpoint, choice: Choice, here: Vantage, *, local: bool, regardless: bool) -> str:
    ready = is_ready(endpoint, regardless=regardless)
    if not ready and not is_fading(endpoint):
        return "terminating and not serving" if endpoint.terminating else "not ready"
    if local and endpoint.node != here.node:
        return f"not on this node but on {endpoint.node}" if endpoint.node else "on no node that is known"
    if not ready:
        return "terminating, and others are ready"
    if choice.topology is Topology.SAME_NODE:
        return f"hints keep it for {_list('node', endpoint.node_hints)}"
    return f"hints keep it for {_list('zone', endpoint.zone_hints)}"


def _list(what: str, names: Sequence[str]) -> str:
    return f"{what}{'s' if len(names) > 1 else ''} {', '.join(names)}"
