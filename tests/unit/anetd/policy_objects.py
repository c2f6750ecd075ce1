"""Pods, namespaces and policies for tests, as the API server gives them; and an oracle written from the API's documentation.

The oracle works on the documents alone, one packet at a time. It knows nothing of records, terms, classes or rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address, ip_network
from typing import Any

from agent.policy.compiler import Compiler
from agent.policy.inputs import POLICY_TABLES, Changes, Limits, Rows
from agent.policy.verdict import Tables
from agent.policylog.settings import network_logging
from agent.watch import policy_records
from agent.watch.network_policies import network_policy
from agent.watch.records import Key, key_of

Document = dict[str, Any]
NUMBERS = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1}


def pod(name: str, *addresses: str, labels: Mapping[str, str] | None = None, **also: Any) -> Document:
    """`name`: NAMESPACE/NAME. `ports`: (name, protocol, number) each; `created`, `phase`, `host` (hostNetwork), `node`."""
    namespace, _, bare = name.partition("/")
    ports = [{"name": n, "protocol": protocol, "containerPort": number} for n, protocol, number in also.get("ports", ())]
    created = also.get("created", "2026-01-01T00:00:00Z")
    return {
        "metadata": {
            "namespace": namespace,
            "name": bare,
            "uid": f"uid-{name}-{created}",
            "labels": dict(labels or {}),
            "creationTimestamp": created,
        },
        "spec": {"nodeName": also.get("node", "node-1"), "hostNetwork": also.get("host", False), "containers": [{"ports": ports}]},
        "status": {"phase": also.get("phase", "Running"), "podIPs": [{"ip": address} for address in addresses]},
    }


def namespace(name: str, labels: Mapping[str, str] | None = None, *, log: bool = False) -> Document:
    annotations = {policy_records.DENY_LOG_ANNOTATION: "true"} if log else {}
    return {"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name, **(labels or {})}, "annotations": annotations}}


def policy(name: str, *, log: bool = False, **spec: Any) -> Document:
    """`name`: NAMESPACE/NAME; the rest is the spec."""
    namespace, _, bare = name.partition("/")
    annotations = {policy_records.ALLOW_LOG_ANNOTATION: "true"} if log else {}
    metadata = {"namespace": namespace, "name": bare, "uid": f"uid-{name}", "annotations": annotations}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": {"podSelector": {}, **spec}}


def name_of(document: Document) -> str:
    return str(key_of(document))


@dataclass
class Cluster:
    """Documents by name, and the pods that CNI gave an address on this node."""

    pods: dict[str, Document] = field(default_factory=dict)
    namespaces: dict[str, Document] = field(default_factory=dict)
    policies: dict[str, Document] = field(default_factory=dict)
    local: dict[str, tuple[str, ...]] = field(default_factory=dict)
    logging: Document = field(default_factory=dict)

    def everything(self) -> Changes:
        return changes(self.pods, self.namespaces, self.policies, self.local, self.logging)


def changes(
    pods: Mapping[str, Document | None] | None = None,
    namespaces: Mapping[str, Document | None] | None = None,
    policies: Mapping[str, Document | None] | None = None,
    local: Mapping[str, tuple[str, ...] | None] | None = None,
    logging: Document | None = None,
) -> Changes:
    """What the watches would tell the compiler. None: it is gone."""
    return Changes(
        {key(n): policy_records.pod(d) if d else None for n, d in (pods or {}).items()},
        {n: policy_records.namespace(d) if d else None for n, d in (namespaces or {}).items()},
        {key(n): network_policy(d) if d else None for n, d in (policies or {}).items()},
        {key(n): tuple(map(ip_address, a)) if a is not None else None for n, a in (local or {}).items()},
        network_logging(logging).logging if logging is not None else None,
    )


def key(name: str) -> Key:
    return Key(*name.split("/"))


class Node:
    """A compiler and the tables that it fills."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.compiler = Compiler(limits)
        self.tables = Tables()

    def apply(self, given: Changes) -> Rows:
        rows = self.compiler.apply(given)
        self.tables.apply(rows)
        return rows

    def change(self, **given: Any) -> Rows:
        return self.apply(changes(**given))


def walk(tables: Tables, rows: Rows) -> Iterator[tuple[str, str, Any]]:
    """Write a round one row after the other; what was done, each time."""
    for table in POLICY_TABLES:
        for each, row in rows.puts.get(table, {}).items():
            getattr(tables, table)[each] = row
            yield "put", table, each
    for table in reversed(POLICY_TABLES):
        for each in rows.deletes.get(table, ()):
            del getattr(tables, table)[each]
            yield "delete", table, each


# The oracle.


@dataclass(frozen=True)
class Answer:
    """`by`: policy, direction and index of each rule that allows it; `isolated` False: nothing was asked."""

    allowed: bool
    isolated: bool = True
    by: frozenset[tuple[str, str, int]] = frozenset()
    policies: tuple[str, ...] = ()


def ask(cluster: Cluster, name: str, peer: str, direction: str, protocol: str, port: int) -> Answer:
    """Whether the policies let a packet pass between a pod and an address; `port` is the destination's."""
    isolated = cluster.pods[name]
    selecting = [p for p in cluster.policies.values() if isolates(p, isolated, direction)]
    if not selecting:
        return Answer(allowed=True, isolated=False)
    other = pod_at(cluster, peer)
    destination = isolated if direction == "ingress" else other
    by = {
        (name_of(p), direction, index)
        for p in selecting
        for index, rule in enumerate(p["spec"].get(direction) or ())
        if peers_match(cluster, p, rule.get("from" if direction == "ingress" else "to"), peer, other)
        and ports_match(rule.get("ports"), destination, protocol, port)
    }
    return Answer(bool(by), True, frozenset(by), tuple(sorted(map(name_of, selecting))))


def isolates(policy: Document, isolated: Document, direction: str) -> bool:
    spec = policy["spec"]
    types = spec.get("policyTypes") or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])
    if direction.capitalize() not in types or policy["metadata"]["namespace"] != isolated["metadata"]["namespace"]:
        return False
    return selects(spec.get("podSelector"), isolated["metadata"]["labels"])


def selects(selector: Document | None, labels: Mapping[str, str]) -> bool:
    selector = selector or {}
    if any(labels.get(k) != v for k, v in (selector.get("matchLabels") or {}).items()):
        return False
    for one in selector.get("matchExpressions") or ():
        there, value = one["key"] in labels, labels.get(one["key"])
        if not {
            "In": there and value in one.get("values", ()),
            "NotIn": not there or value not in one.get("values", ()),
            "Exists": there,
            "DoesNotExist": not there,
        }[one["operator"]]:
            return False
    return True


def pod_at(cluster: Cluster, address: str) -> Document | None:
    """Whose address it is: no pod's of the host's network, no finished one's; of this node's pods CNI knows, else the youngest has it."""
    found = [
        (name in cluster.local, p["metadata"]["creationTimestamp"], p["metadata"]["uid"], p)
        for name, p in cluster.pods.items()
        if not p["spec"]["hostNetwork"] and p["status"]["phase"] not in {"Succeeded", "Failed"}
        if address in {*(row["ip"] for row in p["status"]["podIPs"]), *cluster.local.get(name, ())}
    ]
    return max(found, key=lambda row: row[:3])[3] if found else None


def peers_match(cluster: Cluster, policy: Document, peers: Iterable[Document] | None, address: str, other: Document | None) -> bool:
    if not peers:
        return True
    for peer in peers:
        if peer.get("ipBlock") is not None:
            block = peer["ipBlock"]
            if _within(address, block["cidr"]) and not any(_within(address, each) for each in block.get("except") or ()):
                return True
            continue
        if other is None:
            continue
        where = other["metadata"]["namespace"]
        if peer.get("namespaceSelector") is None:
            in_scope = where == policy["metadata"]["namespace"]
        else:
            labels = cluster.namespaces[where]["metadata"]["labels"] if where in cluster.namespaces else None
            in_scope = selects(peer["namespaceSelector"], labels) if labels is not None else not any(peer["namespaceSelector"].values())
        if in_scope and selects(peer.get("podSelector"), other["metadata"]["labels"]):
            return True
    return False


@cache
def _within(address: str, network: str) -> bool:
    return ip_address(address).version == ip_network(network).version and ip_address(address) in ip_network(network)


def ports_match(ports: Iterable[Document] | None, destination: Document | None, protocol: str, port: int) -> bool:
    if not ports:
        return True
    for each in ports:
        wanted = each.get("port")
        if each.get("protocol", "TCP") != protocol:
            continue
        if isinstance(wanted, str):
            named = (
                [c for c in destination["spec"]["containers"][0]["ports"] if (c["name"], c["protocol"]) == (wanted, protocol)]
                if destination
                else []
            )
            if named and named[0]["containerPort"] == port:
                return True
        elif wanted is None or wanted <= port <= (each.get("endPort") or wanted):
            return True
    return False
