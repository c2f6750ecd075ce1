"""From where Services are looked at: this node, and what of the others matters to it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent.watch.records import Address, Network, Node


@dataclass(frozen=True, slots=True)
class Vantage:
    """`nodes` are those that may announce addresses of `pool`; `node_addresses` are the nodes' own, whose other ports are not ours."""

    node: str
    zone: str = ""
    nodes: tuple[str, ...] = ()
    node_addresses: frozenset[Address] = frozenset()
    pool: tuple[Network, ...] = ()


def vantage(own: Node, others: Iterable[Node], local_addresses: Iterable[Address], pool: tuple[Network, ...]) -> Vantage:
    """As this node's object and the others' have it. When no node is Ready the trouble is elsewhere, and all of them may announce."""
    nodes = sorted((own, *others), key=lambda node: node.name)
    ready = tuple(node.name for node in nodes if node.ready) or tuple(node.name for node in nodes)
    addresses = {address for node in nodes for address in (*node.addresses, *node.other_addresses)}
    return Vantage(own.name, own.zone, ready if pool else (), frozenset(addresses.union(local_addresses)), pool)
