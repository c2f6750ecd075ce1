"""Which node answers on the link for an address of the load balancers' pool. Pure.

Every node comes to the same answer without asking: the highest hash of node and address wins (rendezvous hashing), so a node that goes
moves its own addresses alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from agent.services.endpoints import is_ready
from agent.services.vantage import Vantage
from agent.watch.records import Address, EndpointSlice, Service


def announces(address: Address, service: Service, slices: Iterable[EndpointSlice], here: Vantage) -> bool | None:
    """Whether this node does; None when the address is not of the pool, and nobody does."""
    if not any(address in network for network in here.pool):
        return None
    return announcer(address, _holders(address, service, slices, here)) == here.node


def announcer(address: Address, nodes: Sequence[str]) -> str | None:
    """The one among `nodes`; None when there is none."""
    return max(nodes, key=lambda node: (hashlib.sha256(f"{node}\0{address}".encode()).digest(), node), default=None)


def _holders(address: Address, service: Service, slices: Iterable[EndpointSlice], here: Vantage) -> Sequence[str]:
    """Under policy Local another node's answer would be to drop: those with a ready endpoint, if there are any."""
    if not service.external_local:
        return here.nodes
    ready = {
        endpoint.node
        for each in slices
        if each.family == address.version
        for endpoint in each.endpoints
        if is_ready(endpoint, regardless=service.publish_not_ready)
    }
    return [node for node in here.nodes if node in ready] or here.nodes
