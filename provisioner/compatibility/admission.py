"""The rules that an API server can judge, as the validations of ValidatingAdmissionPolicies. Pure.

Two policies: one for what the dataplane would ignore or break, which is denied (or, by the cluster's setting, warned about), and one for
what is only warned about. Each validation carries its rule's name and the matrix's own words; its expression holds for what may pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provisioner.compatibility import cel
from provisioner.compatibility.matrix import Matrix
from provisioner.compatibility.model import Admission, Dataplane, Rule

# Kind -> resource, for the kinds that Kubernetes serves itself; those of other makers are matched by their whole group.
_RESOURCES: Mapping[str, str] = {
    "Namespace": "namespaces",
    "Pod": "pods",
    "Service": "services",
    "apps/DaemonSet": "daemonsets",
    "apps/Deployment": "deployments",
    "apps/ReplicaSet": "replicasets",
    "apps/StatefulSet": "statefulsets",
    "batch/CronJob": "cronjobs",
    "batch/Job": "jobs",
    "networking.k8s.io/NetworkPolicy": "networkpolicies",
}
_CRD = "apiextensions.k8s.io/CustomResourceDefinition"
_SERVED_GROUPS = frozenset(kind.rpartition("/")[0] for kind in _RESOURCES)
_ACTIONS: Mapping[str, Sequence[str]] = {"deny": ("Deny",), "warn": ("Warn",), "off": ("Audit",)}
# Of messages the API server takes this many characters.
_LONGEST = 1000


@dataclass(frozen=True, slots=True)
class Policy:
    """What a ValidatingAdmissionPolicy and its binding need. `resources` is the JSON of spec.matchConstraints.resourceRules."""

    name: str
    actions: Sequence[str]
    resources: Sequence[Mapping[str, Any]]
    validations: Sequence[Mapping[str, str]]


def policies(matrix: Matrix, dataplane: Dataplane, *, mode: str = "deny", allowed: Mapping[str, str] | None = None) -> Sequence[Policy]:
    """Those with at least one rule. `mode` is deny, warn or off; what `allowed` names is neither denied nor warned about.

    Off is not nothing: what is applied over an earlier deny has to take its place, and a binding has to do something.
    """
    rules = [rule for rule in matrix.rules.values() if rule.id not in (allowed or {})]
    found = []
    for admission, name, actions in (
        (Admission.DENY, "provisioner-unsupported", _ACTIONS[mode]),
        (Admission.WARN, "provisioner-ignored", _ACTIONS["off" if mode == "off" else "warn"]),
    ):
        chosen = [rule for rule in rules if rule.admission_on(dataplane) is admission and any(_is_served(kind) for kind in rule.kinds)]
        if chosen:
            validations = [validation for rule in chosen for validation in _validations(rule, matrix, dataplane)]
            found.append(Policy(name, actions, _resources(chosen), validations))
    return found


def message(rule: Rule, dataplane: Dataplane) -> str:
    """What the user of kubectl reads."""
    return f"[{rule.id}] {rule.reason(dataplane)} {rule.remedy}".replace("\n", " ").strip()[:_LONGEST]


def _is_served(kind: str) -> bool:
    """Whether an API server ever sees objects of the kind, and may ask: a spec or a plan is no object, and a Node is the kubelet's."""
    return kind in _RESOURCES or (kind.rpartition("/")[0] not in _SERVED_GROUPS and not kind.startswith("provisioner.dev/"))


def _resources(rules: Sequence[Rule]) -> Sequence[Mapping[str, Any]]:
    wanted: dict[str, set[str]] = {}
    for rule in rules:
        for kind in rule.kinds:
            group = kind.rpartition("/")[0]
            if _is_served(kind):
                wanted.setdefault(group, set()).add(_RESOURCES.get(kind, "*"))
        if rule.defines:
            wanted.setdefault("apiextensions.k8s.io", set()).add("customresourcedefinitions")
    return [
        {"apiGroups": [group], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": sorted(resources)}
        for group, resources in sorted(wanted.items())
    ]


def _validations(rule: Rule, matrix: Matrix, dataplane: Dataplane) -> Iterator[Mapping[str, str]]:
    text = message(rule, dataplane)
    kinds = [kind for kind in rule.kinds if _is_served(kind)]
    bare = [kind for kind in kinds if cel.expression(rule, kind) == "true"]
    tripped = [_is_kind(group, names, matrix, "request.kind") for group, names in _by_group(bare)]
    for kind in kinds:
        if kind not in bare:
            group, _, name = kind.rpartition("/")
            tripped.append(f"{_is_kind(group, [name], matrix, 'request.kind')} && ({cel.expression(rule, kind)})")
    if rule.defines:
        for group, names in _by_group(kinds):
            tripped.append(f'request.kind.kind == "CustomResourceDefinition" && {_is_kind(group, names, matrix, "object.spec")}')
    yield from ({"expression": f"!({text_of})", "message": text} for text_of in tripped)


def _by_group(kinds: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {}
    for kind in kinds:
        group, _, name = kind.rpartition("/")
        groups.setdefault(group, []).append(name)
    yield from groups.items()


def _is_kind(group: str, names: Sequence[str], matrix: Matrix, place: str) -> str:
    """A rule for a whole group leaves out the kinds that have rules of their own, as `Matrix.rules_for` does."""
    head = f"{place}.group == {cel.literal(group)}"
    name = f"{place}.names.kind" if place == "object.spec" else f"{place}.kind"
    if "*" not in names:
        return f"{head} && {name} in {cel.literal(list(names))}"
    own = sorted(kind.rpartition("/")[2] for kind in matrix.by_kind if kind.rpartition("/")[0] == group and not kind.endswith("*"))
    return f"{head} && !({name} in {cel.literal(own)})" if own else head
