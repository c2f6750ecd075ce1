"""What the agent keeps of Pods, Namespaces, NetworkPolicies and NetworkLogging. Pure.

The invariants of `agent.watch.records` hold. What is malformed in a policy narrows it, never widens: a rule or a peer that cannot be read
allows nothing, a selector that cannot be read selects nothing as a peer and, as the policy's own, everything of its namespace. (The API
server admits none of that; a file may hold it, and is told.)
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from agent.watch.records import PROTOCOLS, Address, Key, Network, key_of

DENY_LOG_ANNOTATION = "policy.network.gke.io/enable-deny-logging"
ALLOW_LOG_ANNOTATION = "policy.network.gke.io/enable-logging"
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
"""On the API's image of a pod that kubelet has from a file: the uid by which kubelet and the runtime know it."""
TEMPLATE_HASH_LABEL = "pod-template-hash"
_OF_CRON_JOB = re.compile(r"(?P<name>.+)-\d{8,}")
"""Whoever made the Job: a CronJob adds the minutes since 1970 to its name."""

Labels = tuple[tuple[str, str], ...]
"""Sorted pairs, so that equal labels are equal values."""


class Operator(StrEnum):
    """Of a label selector's requirement, in the API's words."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on labels. NotIn and DoesNotExist hold where the key is absent. `values` are sorted, () for the last two operators."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Selector:
    """All of its requirements (sorted; a matchLabels entry is an In of one value). () selects everything."""

    requirements: tuple[Requirement, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """An ipBlock: the addresses of `network` that are in none of `excepts`."""

    network: Network
    excepts: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Peer:
    """`block`, or else pods: those that `pods` selects (None: all) in the namespaces that `namespaces` selects (None: the policy's)."""

    pods: Selector | None = None
    namespaces: Selector | None = None
    block: Block | None = None


@dataclass(frozen=True, slots=True)
class PolicyPort:
    """`port`: a number, a name, or None for all of the protocol; `end`: the last of a range that begins at the number."""

    protocol: int
    port: int | str | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Peers and ports that are allowed together. `peers` None: everybody; `ports` None: everything, ports or not. An empty tuple of either
    is left by what could not be read, and allows nothing."""

    peers: tuple[Peer, ...] | None = None
    ports: tuple[PolicyPort, ...] | None = None


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """`ingress` and `egress`: None where the policy does not isolate in that direction, () where it isolates and allows nothing.
    `log_allowed`: its annotation asks for the log where that is left to policies."""

    key: Key
    uid: str
    pods: Selector
    ingress: tuple[Rule, ...] | None
    egress: tuple[Rule, ...] | None
    log_allowed: bool = False


@dataclass(frozen=True, slots=True)
class ContainerPort:
    """A named port of a pod's container."""

    name: str
    protocol: int
    port: int


@dataclass(frozen=True, slots=True)
class Pod:
    """`ports` are the named ones; of two of one name and protocol the first counts. `workload`: kind and name of what runs it, or
    ("Pod", its name)."""

    key: Key
    uid: str
    labels: Labels
    addresses: tuple[Address, ...]
    node: str
    ports: tuple[ContainerPort, ...] = ()
    host_network: bool = False
    finished: bool = False
    """Succeeded or Failed: its address may be another's by now, so it is nobody's peer and has no policy."""
    workload: tuple[str, str] = ("", "")
    created: str = ""
    """The API's text, which sorts as time does: of two pods with one address the younger has it."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """`log_denied`: its annotation asks for the log of what its pods are denied, where that is left to namespaces."""

    name: str
    labels: Labels
    log_denied: bool = False


@dataclass(frozen=True, slots=True)
class Logging:
    """What of verdicts is logged: NetworkLogging's spec.cluster. With `delegate_*`, annotations decide."""

    allow: bool = False
    delegate_allow: bool = False
    deny: bool = False
    delegate_deny: bool = False


_container_port = lru_cache(4096)(ContainerPort)


def pod(document: Mapping[str, Any]) -> Pod:
    """A Pod from its JSON."""
    metadata, spec, status = (document.get(part) or {} for part in ("metadata", "spec", "status"))
    key, names = key_of(document), metadata.get("labels") or {}
    listed = status.get("podIPs") or [{"ip": status.get("podIP")}]
    return Pod(
        key,
        (metadata.get("annotations") or {}).get(MIRROR_ANNOTATION) or metadata.get("uid") or "",
        labels(names),
        tuple(_addresses(row.get("ip") for row in listed)),
        sys.intern(spec.get("nodeName") or ""),
        tuple(_named_ports(spec)),
        host_network=bool(spec.get("hostNetwork")),
        finished=status.get("phase") in {"Succeeded", "Failed"},
        workload=_workload(key.name, metadata, names),
        created=metadata.get("creationTimestamp") or "",
    )


def labels(given: Any) -> Labels:
    """Labels in their order."""
    if not isinstance(given, Mapping):
        return ()
    return tuple(
        sorted((sys.intern(key), sys.intern(value)) for key, value in given.items() if isinstance(key, str) and isinstance(value, str))
    )


def _addresses(texts: Iterator[Any]) -> Iterator[Address]:
    for text in texts:
        try:
            yield ip_address(text)
        except ValueError:
            continue


def _named_ports(spec: Mapping[str, Any]) -> Iterator[ContainerPort]:
    """Of containers, and of init containers that stay beside them."""
    sidecars = [row for row in spec.get("initContainers") or () if row.get("restartPolicy") == "Always"]
    for row in [*(spec.get("containers") or ()), *sidecars]:
        for port in row.get("ports") or ():
            name, number = port.get("name"), port.get("containerPort")
            protocol = PROTOCOLS.get(port.get("protocol") or "TCP")
            if name and isinstance(number, int) and 0 < number < 65536 and protocol is not None:
                yield _container_port(sys.intern(name), protocol, number)


def _workload(name: str, metadata: Mapping[str, Any], names: Mapping[str, Any]) -> tuple[str, str]:
    owner = next((row for row in metadata.get("ownerReferences") or () if row.get("controller")), None)
    if owner is None or owner.get("kind") == "Node":
        return "Pod", name
    kind, of = sys.intern(owner.get("kind") or ""), owner.get("name") or ""
    template = names.get(TEMPLATE_HASH_LABEL)
    if kind == "ReplicaSet" and template and of.endswith(f"-{template}"):
        return "Deployment", sys.intern(of.removesuffix(f"-{template}"))
    cron = _OF_CRON_JOB.fullmatch(of) if kind == "Job" else None
    return ("CronJob", sys.intern(cron["name"])) if cron else (kind, sys.intern(of))


def namespace(document: Mapping[str, Any]) -> Namespace:
    """A Namespace from its JSON."""
    metadata = document.get("metadata") or {}
    return Namespace(key_of(document).name, labels(metadata.get("labels")), is_annotated(metadata, DENY_LOG_ANNOTATION))


def is_annotated(metadata: Mapping[str, Any], annotation: str) -> bool:
    """Whether an annotation is there and says "true"."""
    return (metadata.get("annotations") or {}).get(annotation) == "true"
