"""The API objects that a question about policies is asked of: a document of them into records. Pure.

The document has any of these keys, each a list of objects as the API server gives them (or a List of them):

    {"pods": [...], "namespaces": [...], "networkpolicies": [...], "services": [...], "endpointslices": [...], "nodes": [...]}

Instead of it, or after it, there may be single objects and Lists with their `kind`, as `kubectl get -o json` prints them, one after the
other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.datapath.abi import IPAddress
from agent.watch import policy_records, records
from agent.watch.network_policies import network_policy, problems
from agent.watch.policy_records import Namespace, NetworkPolicy, Pod
from agent.watch.records import EndpointSlice, Key, Node, Service

KINDS = {
    "Pod": "pods",
    "Namespace": "namespaces",
    "NetworkPolicy": "networkpolicies",
    "Service": "services",
    "EndpointSlice": "endpointslices",
    "Node": "nodes",
}
"""Objects of other kinds are left out."""


_BETWEEN = re.compile(r"(\s|^---$)*", re.MULTILINE)


class DocumentError(ValueError):
    """What was given is no such document; the text says where and why."""


@dataclass(slots=True)
class Objects:
    """Records by name. `problems`: what the API server would refuse, by policy."""

    pods: dict[Key, Pod] = field(default_factory=dict)
    namespaces: dict[str, Namespace] = field(default_factory=dict)
    policies: dict[Key, NetworkPolicy] = field(default_factory=dict)
    services: dict[Key, Service] = field(default_factory=dict)
    slices: dict[Key, EndpointSlice] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    problems: dict[Key, list[str]] = field(default_factory=dict)

    def owner(self, address: IPAddress) -> Pod | None:
        """The pod that an address stands for as a peer; the youngest, if there are several."""
        found = [pod for pod in self.pods.values() if address in pod.addresses and is_peer(pod)]
        return max(found, key=lambda pod: (pod.created, pod.uid), default=None)

    def node_at(self, address: IPAddress) -> Node | None:
        """The node that an address is of."""
        return next((node for node in self.nodes.values() if address in (*node.addresses, *node.other_addresses)), None)


def is_peer(pod: Pod) -> bool:
    """Whether policies know its addresses as a pod's."""
    return not pod.host_network and not pod.finished


def read(text: str) -> Objects:
    """Raises `DocumentError`."""
    found = Objects()
    decoder, place = json.JSONDecoder(), 0
    while (place := _first(text, place)) < len(text):
        try:
            value, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise DocumentError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
        for table, document in _listed(value):
            _add(found, table, document)
    return found


def _first(text: str, place: int) -> int:
    """Where the next value begins."""
    found = _BETWEEN.match(text, place)
    return found.end() if found else place


def _listed(value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not isinstance(value, dict):
        raise DocumentError("an object was expected: lists of API objects by kind, or API objects")
    kind = value.get("kind")
    if isinstance(kind, str):
        if kind.endswith("List") and isinstance(value.get("items"), list):
            for item in value["items"]:
                # In a typed list the items do not say what they are.
                yield from _listed({"kind": kind.removesuffix("List"), **item})
        elif kind in KINDS:
            yield KINDS[kind], value
        return
    for table in KINDS.values():
        items = value.get(table) or ()
        for item in items.get("items") or () if isinstance(items, dict) else items:
            if not isinstance(item, dict):
                raise DocumentError(f"{table}: each is to be an object")
            yield table, item


def _add(found: Objects, table: str, document: Mapping[str, Any]) -> None:
    key = records.key_of(document)
    if table == "pods":
        found.pods[key] = policy_records.pod(document)
    elif table == "namespaces":
        found.namespaces[key.name] = policy_records.namespace(document)
    elif table == "networkpolicies":
        found.policies[key] = network_policy(document)
        wrong = problems({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", **document})
        if wrong:
            found.problems[key] = wrong
    elif table == "services":
        found.services[key] = records.service(document)
    elif table == "endpointslices":
        found.slices[key] = records.endpoint_slice(document)
    else:
        found.nodes[key.name] = records.node(document)
