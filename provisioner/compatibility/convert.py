"""A CiliumNetworkPolicy as the NetworkPolicies that mean the same, or the fields for which there are none. Pure.

Exact or not at all: a policy is converted when every packet gets the same verdict. Where the two languages look alike and differ:

- A rule without peers and ports (`ingress: [{}]`) allows nothing in Cilium's language and everything in Kubernetes'.
- A selector without a namespace means the policy's own namespace, but in a clusterwide policy every namespace.
- A CIDR never selects a pod or node of the cluster in Cilium's language; an ipBlock may. Told which ranges are the cluster's, they are
  written as exceptions; not told, a CIDR has no equal.
- Without a protocol, a port is meant for TCP and UDP (and SCTP where Cilium has it, which is off by default).

Source: Cilium's Documentation/security/policy/language.rst, and the CRD's own descriptions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from provisioner.compatibility.conditions import Path, dotted

KINDS = frozenset({"CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"})
GROUP = "cilium.io"
_CLUSTERWIDE = "CiliumClusterwideNetworkPolicy"
_NAMESPACE = "io.kubernetes.pod.namespace"
_NAMESPACE_LABELS = "io.cilium.k8s.namespace.labels."
_NAMESPACE_NAME = "kubernetes.io/metadata.name"
# Labels that Cilium makes up, and Kubernetes has no selector for.
_MADE_UP = ("io.cilium.k8s.policy.", "io.kubernetes.pod.")
_SOURCES = ("k8s:", "any:")
_DROPPED_ANNOTATIONS = frozenset({"kubectl.kubernetes.io/last-applied-configuration"})
_PROTOCOLS: Mapping[str, Sequence[str]] = {"TCP": ("TCP",), "UDP": ("UDP",), "SCTP": ("SCTP",), "ANY": ("TCP", "UDP"), "": ("TCP", "UDP")}
_EVERYTHING = ("0.0.0.0/0", "::/0")
_SPEC_FIELDS = frozenset({"endpointSelector", "ingress", "egress", "description"})
_NO_RULE = object()
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class NoEqual:
    """A field of the policy that no NetworkPolicy can carry, and why."""

    path: Path
    reason: str

    @property
    def field(self) -> str:
        return dotted(self.path)


@dataclass(frozen=True, slots=True)
class Conversion:
    """`policies` means what the original means when `lacks` is empty; it is empty otherwise."""

    policies: Sequence[Mapping[str, Any]]
    lacks: Sequence[NoEqual]


@dataclass(slots=True)
class _Work:
    """One policy: where selectors without a namespace look, the cluster's own ranges, and what has been found to have no equal."""

    clusterwide: bool
    cluster: Sequence[Network]
    lacks: list[NoEqual] = field(default_factory=list)

    def lack(self, path: Path, reason: str) -> None:
        self.lacks.append(NoEqual(path, reason))


def convert(policy: Mapping[str, Any], cluster_ranges: Sequence[Network] = ()) -> Conversion:
    """`cluster_ranges` are those of the pods' and nodes' addresses, if known."""
    work = _Work(policy.get("kind") == _CLUSTERWIDE, cluster_ranges)
    metadata = policy.get("metadata") if isinstance(policy.get("metadata"), dict) else {}
    specs: list[tuple[Path, Any]] = [(("spec",), policy["spec"])] if policy.get("spec") is not None else []
    listed = policy.get("specs") or []
    specs += [(("specs", index), spec) for index, spec in enumerate(listed if isinstance(listed, list) else [])]
    for key in policy.keys() - {"apiVersion", "kind", "metadata", "spec", "specs", "status"}:
        work.lack((key,), "is not a field of the kind")
    if not specs:
        work.lack(("spec",), "is missing")
    made = []
    for number, (path, spec) in enumerate(specs):
        found = _policy(spec, path, work)
        if found is not None:
            namespace, body = found
            suffix = f"-{number}" if len(specs) > 1 else ""
            made.append(_object(metadata or {}, namespace, suffix, body))
    return Conversion([] if work.lacks else made, work.lacks)


def _object(metadata: Mapping[str, Any], namespace: str, suffix: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
    kept: dict[str, Any] = {"name": f"{metadata.get('name', '')}{suffix}"}
    if namespace or metadata.get("namespace"):
        kept["namespace"] = namespace or metadata["namespace"]
    if metadata.get("labels"):
        kept["labels"] = dict(metadata["labels"])
    annotations = {key: value for key, value in (metadata.get("annotations") or {}).items() if key not in _DROPPED_ANNOTATIONS}
    if annotations:
        kept["annotations"] = annotations
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": kept, "spec": dict(body)}


def _policy(spec: Any, path: Path, work: _Work) -> tuple[str, Mapping[str, Any]] | None:
    """The namespace that a clusterwide policy names (else empty), and a NetworkPolicy's spec."""
    if not isinstance(spec, dict):
        work.lack(path, "is not a mapping")
        return None
    for key in spec.keys() - _SPEC_FIELDS:
        if spec[key] not in (None, [], {}) or key == "nodeSelector":
            work.lack((*path, key), _WHY.get(key, "has no equal in a NetworkPolicy"))
    if "endpointSelector" not in spec:
        work.lack((*path, "endpointSelector"), "is missing: the policy selects no pods")
        return None
    selector = _Selector.of(spec["endpointSelector"], (*path, "endpointSelector"), work)
    namespace = _own_namespace(selector, (*path, "endpointSelector"), work)
    types: list[str] = []
    body: dict[str, Any] = {}
    for direction, title, peers in (("ingress", "Ingress", "from"), ("egress", "Egress", "to")):
        rules = spec.get(direction)
        if not rules:  # absent or empty: Cilium leaves the direction alone
            continue
        types.append(title)
        made = [_rule(rule, (*path, direction, index), peers, work) for index, rule in enumerate(_list(rules, (*path, direction), work))]
        kept = [rule for rule in made if rule is not _NO_RULE]
        if kept:
            body[direction] = kept
    if not types:
        work.lack(path, "has neither ingress nor egress rules, so it changes nothing; a NetworkPolicy would isolate the pods")
    return namespace, {"podSelector": selector.pods, "policyTypes": types, **body}


def _own_namespace(selector: _Selector, path: Path, work: _Work) -> str:
    if not work.clusterwide:
        if selector.namespaces is not None:
            work.lack(path, "selects by namespace, which a namespaced policy's subject cannot")
        return ""
    labels = (selector.namespaces or {}).get("matchLabels", {})
    if selector.namespaces is None or set(selector.namespaces) != {"matchLabels"} or set(labels) != {_NAMESPACE_NAME}:
        work.lack(path, f"selects pods of more than one namespace: a NetworkPolicy is in one. Name it by the label k8s:{_NAMESPACE}")
        return ""
    return str(labels[_NAMESPACE_NAME])


@dataclass(frozen=True, slots=True)
class _Selector:
    """A NetworkPolicy's two selectors; `namespaces` None where the Cilium selector names no namespace."""

    pods: Mapping[str, Any]
    namespaces: Mapping[str, Any] | None

    @classmethod
    def of(cls, selector: Any, path: Path, work: _Work) -> _Selector:
        pods: dict[str, Any] = {}
        namespaces: dict[str, Any] = {}
        names_namespace = False
        selector = selector if isinstance(selector, dict) else {}
        for key in selector.keys() - {"matchLabels", "matchExpressions"}:
            work.lack((*path, key), "is not part of a selector")
        for key, value in (selector.get("matchLabels") or {}).items():
            found = _label(key, (*path, "matchLabels", key), work)
            if found is not None:
                is_namespace, name = found
                names_namespace = names_namespace or is_namespace
                (namespaces if is_namespace else pods).setdefault("matchLabels", {})[name] = value
        for index, expression in enumerate(selector.get("matchExpressions") or []):
            found = _label(expression.get("key", ""), (*path, "matchExpressions", index, "key"), work)
            if found is None:
                continue
            is_namespace, name = found
            names_namespace = names_namespace or is_namespace
            (namespaces if is_namespace else pods).setdefault("matchExpressions", []).append({**expression, "key": name})
        return cls(pods, namespaces if names_namespace else None)


def _label(key: str, path: Path, work: _Work) -> tuple[bool, str] | None:
    """Whether it is a label of the namespace, and its name for Kubernetes."""
    for source in _SOURCES:
        if key.startswith(source):
            key = key.removeprefix(source)
            break
    else:
        if ":" in key:
            work.lack(path, f"selects by {key!r}: only Kubernetes' labels have an equal")
            return None
    if key == _NAMESPACE:
        return True, _NAMESPACE_NAME
    if key.startswith(_NAMESPACE_LABELS):
        return True, key.removeprefix(_NAMESPACE_LABELS)
    if key.startswith(_MADE_UP):
        work.lack(path, f"selects by {key!r}, a label that Cilium makes up")
        return None
    return False, key


def _rule(rule: Any, path: Path, peers: str, work: _Work) -> Any:
    """A rule of a NetworkPolicy, or _NO_RULE for one that allows nothing."""
    if not isinstance(rule, dict):
        work.lack(path, "is not a mapping")
        return _NO_RULE
    known = {f"{peers}Endpoints", f"{peers}CIDR", f"{peers}CIDRSet", f"{peers}Entities", "toPorts"}
    for key in rule.keys() - known:
        work.lack((*path, key), _WHY.get(key, "has no equal in a NetworkPolicy"))
    given = [key for key in sorted(known - {"toPorts"}) if key in rule]
    for key in given:
        if not rule[key]:
            work.lack((*path, key), "is an empty list, of which Cilium's versions do not agree whether it selects nothing or everything")
            return _NO_RULE
    if f"{peers}Endpoints" in given and len(given) > 1:
        work.lack((*path, given[-1]), f"cannot be combined with {peers}Endpoints in one rule: Cilium refuses it")
    if not given and not rule.get("toPorts"):
        return _NO_RULE  # an empty rule: the direction is denied, and nothing is allowed
    made: dict[str, Any] = {}
    found = [peer for key in given for peer in _peers(key.removeprefix(peers), rule[key], (*path, key), work)]
    if given and not any(peer is None for peer in found):  # None stands for everything, which is no peer list at all
        if not found:
            return _NO_RULE
        made[peers] = found
    if rule.get("toPorts"):
        made["ports"] = _ports(rule["toPorts"], (*path, "toPorts"), work)
    return made


def _peers(kind: str, values: Any, path: Path, work: _Work) -> Iterator[Mapping[str, Any] | None]:
    for index, value in enumerate(_list(values, path, work)):
        here = (*path, index)
        match kind:
            case "Endpoints":
                selector = _Selector.of(value, here, work)
                namespaces = selector.namespaces if selector.namespaces is not None else ({} if work.clusterwide else None)
                yield (
                    {"podSelector": selector.pods}
                    if namespaces is None
                    else {"namespaceSelector": namespaces, "podSelector": selector.pods}
                )
            case "CIDR":
                yield from _block(value, (), here, work)
            case "CIDRSet":
                for key in value.keys() - {"cidr", "except"} if isinstance(value, dict) else ():
                    work.lack((*here, key), "has no equal in a NetworkPolicy")
                if isinstance(value, dict) and "cidr" in value:
                    yield from _block(value["cidr"], value.get("except") or (), (*here, "cidr"), work)
            case _:
                yield from _entity(value, here, work)


def _entity(value: Any, path: Path, work: _Work) -> Iterator[Mapping[str, Any] | None]:
    if value == "all":
        yield None
    elif value == "world":
        families = {network.version for network in work.cluster} or {4, 6}
        for everything in _EVERYTHING:
            if ip_network(everything).version in families:
                yield from _block(everything, (), path, work)
    else:
        work.lack(path, f"names the entity {value!r}: a NetworkPolicy has peers by label and by address only")


def _block(cidr: Any, exceptions: Sequence[str], path: Path, work: _Work) -> Iterator[Mapping[str, Any]]:
    try:
        network = ip_network(cidr if "/" in str(cidr) else f"{cidr}/{128 if ':' in str(cidr) else 32}")
        excluded = [ip_network(text) for text in exceptions]
    except ValueError as error:
        work.lack(path, f"is not a network: {error}")
        return
    if not work.cluster:
        work.lack(
            path,
            f"{network}: a CIDR never selects pods or nodes in Cilium's language, an ipBlock may; give the cluster's own ranges "
            "with --cluster-cidr, and they are left out",
        )
        return
    own = [other for other in work.cluster if other.version == network.version]
    if any(network.subnet_of(other) for other in own):  # type: ignore[arg-type]  # one family
        return
    excluded += [other for other in own if other.subnet_of(network)]  # type: ignore[arg-type]
    block: dict[str, Any] = {"cidr": str(network)}
    if excluded:
        block["except"] = [str(other) for other in dict.fromkeys(excluded)]
    yield {"ipBlock": block}


def _ports(values: Any, path: Path, work: _Work) -> list[Mapping[str, Any]]:
    made: list[Mapping[str, Any]] = []
    for index, item in enumerate(_list(values, path, work)):
        here = (*path, index)
        for key in item.keys() - {"ports"}:
            if item[key] not in (None, [], {}):
                work.lack((*here, key), _WHY.get(key, "has no equal in a NetworkPolicy"))
        for number, port in enumerate(item.get("ports") or []):
            made += _port(port, (*here, "ports", number), work)
        if not item.get("ports"):
            work.lack(here, "has no ports")
    return made


def _port(port: Mapping[str, Any], path: Path, work: _Work) -> Iterator[Mapping[str, Any]]:
    protocols = _PROTOCOLS.get(str(port.get("protocol") or "").upper())
    if protocols is None:
        work.lack((*path, "protocol"), f"is {port.get('protocol')!r}: a NetworkPolicy has TCP, UDP and SCTP")
        return
    text = str(port.get("port", ""))
    for protocol in protocols:
        made: dict[str, Any] = {"protocol": protocol}
        if text not in {"", "0"}:
            made["port"] = int(text) if text.isdigit() else text
            if port.get("endPort"):
                made["endPort"] = port["endPort"]
        yield made


def _list(value: Any, path: Path, work: _Work) -> Sequence[Any]:
    if isinstance(value, list):
        return value
    work.lack(path, "is not a list")
    return ()


_WHY: Mapping[str, str] = {
    "rules": "judges the payload (L7): a NetworkPolicy ends at the port",
    "toFQDNs": "selects by DNS name: a NetworkPolicy knows addresses only",
    "toServices": "selects by Service: name the pods behind it",
    "toGroups": "selects by a cloud's groups",
    "fromGroups": "selects by a cloud's groups",
    "toNodes": "selects nodes",
    "fromNodes": "selects nodes",
    "fromRequires": "narrows other rules: NetworkPolicies only add",
    "toRequires": "narrows other rules: NetworkPolicies only add",
    "ingressDeny": "denies: NetworkPolicies only allow",
    "egressDeny": "denies: NetworkPolicies only allow",
    "icmps": "allows ICMP types: a NetworkPolicy has TCP, UDP and SCTP",
    "nodeSelector": "selects nodes: a NetworkPolicy selects pods",
    "enableDefaultDeny": "takes the isolation away: a NetworkPolicy always isolates what it selects",
    "authentication": "asks for mutual authentication",
    "terminatingTLS": "ends TLS in the proxy",
    "originatingTLS": "begins TLS in the proxy",
    "serverNames": "judges the TLS server name",
    "listener": "redirects to an Envoy listener",
}
