"""The gates: documents in, findings out. Pure.

Everything that can be checked is a document of some kind: an object of Kubernetes in a manifest or from the API server, a cluster's spec,
and, made up by whoever observed them, a cluster's facts and what a Terraform plan would change. The rules of the matrix find their kinds.
What cannot be checked is a finding as well, so that silence means that all was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from provisioner.compatibility import conditions, documents, versions
from provisioner.compatibility.matrix import Matrix
from provisioner.compatibility.model import Cell, Citation, Dataplane, Finding, Place, Rule, Severity

UNREADABLE = "unreadable"
NOT_KUBERNETES = "not-kubernetes"
UNKNOWN_KIND = "unknown-kind"
NOT_CHECKED = "not-checked"
SPEC_KIND = "provisioner.dev/Cluster"
_CRD = "apiextensions.k8s.io/CustomResourceDefinition"
_LIST_SUFFIX = "List"
_HOOK = "helm.sh/hook"
# Groups whose kinds are known not to concern the dataplane, unless a rule says otherwise; any other group's may.
_KNOWN_GROUPS = frozenset(
    {"", "apps", "batch", "autoscaling", "policy", "extensions", "provisioner.dev", "kustomize.config.k8s.io", "apiregistration.k8s.io"}
    | {f"{name}.k8s.io" for name in ("admissionregistration", "apiextensions", "authentication", "authorization", "certificates")}
    | {f"{name}.k8s.io" for name in ("coordination", "discovery", "events", "flowcontrol.apiserver", "metrics", "networking", "node")}
    | {f"{name}.k8s.io" for name in ("rbac.authorization", "resource", "scheduling", "storage", "gateway.networking")}
)


@dataclass(frozen=True, slots=True)
class Gate:
    """What documents are judged by.

    version  the dataplane's (GKE's, Cilium's), empty when unknown: then no floor is asked for.
    allowed  rule -> the reason for which it lets pass.
    """

    matrix: Matrix
    dataplane: Dataplane
    version: str = ""
    allowed: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Checked:
    """What a check has come to so far: findings, how many objects there were, and the kinds that nobody knows."""

    findings: list[Finding] = field(default_factory=list)
    objects: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    _first: dict[str, Place] = field(default_factory=dict)

    def note_unknown(self, kind: str, place: Place) -> None:
        self.unknown[kind] += 1
        self._first.setdefault(kind, place)

    def all_findings(self) -> list[Finding]:
        """With one note for each unknown kind; the worst first."""
        notes = [
            Finding(
                UNKNOWN_KIND,
                Severity.NOTE,
                f"{count} of {kind}",
                self._first[kind],
                "",
                "The matrix does not know this kind: nothing in it was checked.",
                "Ask whoever made it whether it concerns the network.",
            )
            for kind, count in sorted(self.unknown.items())
        ]
        order = list(Severity)
        return sorted([*self.findings, *notes], key=lambda found: order.index(found.severity))


def check_stream(stream: str | bytes | documents.Readable, file: str, gate: Gate, checked: Checked, *, strict: bool = True) -> None:
    """Every document of a text. `strict`: what is not Kubernetes is an error rather than a note, since it was named to be checked."""
    found = False
    try:
        for line, value in documents.read(stream):
            if value is not None:
                found = True
                _check_value(value, Place(file, getattr(value, "line", line)), gate, checked, strict=strict)
    except documents.Unreadable as problem:
        checked.findings.append(unreadable(Place(file, problem.line), problem.reason))
        return
    if strict and not found:
        checked.findings.append(nothing(Place(file)))


def nothing(place: Place) -> Finding:
    """An empty target is no clean one: whatever should have written it may have failed."""
    remedy = "See that what writes it succeeds (`set -o pipefail`), or name another target."
    return Finding(NOT_CHECKED, Severity.ERROR, "", place, "", "There is nothing to check in this.", remedy)


def unreadable(place: Place, reason: str) -> Finding:
    return Finding(
        UNREADABLE,
        Severity.ERROR,
        "",
        place,
        "",
        f"This {reason}; it was not checked, nor was what follows.",
        "Give YAML or JSON, as `kubectl apply -f` takes it (of a chart, what `helm template` prints).",
    )


def check_document(document: Mapping[str, Any], place: Place, gate: Gate, checked: Checked) -> None:
    """One document that is known to be an object."""
    _check_value(document, place, gate, checked, strict=True)


def _check_value(value: Any, place: Place, gate: Gate, checked: Checked, *, strict: bool) -> None:
    kind = kind_of(value)
    if kind is None:
        checked.findings.append(_not_kubernetes(place, strict=strict))
        return
    if kind.endswith(_LIST_SUFFIX) and isinstance(value.get("items"), list):
        for item in value["items"]:
            _check_value(_item(value, item), Place(place.file, getattr(item, "line", place.line)), gate, checked, strict=strict)
        return
    checked.objects += 1
    if kind.rpartition("/")[0] not in _KNOWN_GROUPS and not gate.matrix.rules_for(kind):
        checked.note_unknown(kind, place)
    checked.findings += judge(kind, value, place, gate)


def _item(container: Mapping[str, Any], item: Any) -> Any:
    """What an API server lists leaves out the items' kind, which the list's own gives."""
    if isinstance(item, dict) and "kind" not in item and container["kind"] != _LIST_SUFFIX:
        item["apiVersion"], item["kind"] = container["apiVersion"], container["kind"].removesuffix(_LIST_SUFFIX)
    return item


def kind_of(value: Any) -> str | None:
    """GROUP/Kind, Kind for the core group; None for what is no object of Kubernetes."""
    if not isinstance(value, dict):
        return None
    version, kind = value.get("apiVersion"), value.get("kind")
    if not isinstance(version, str) or not isinstance(kind, str) or not kind:
        return None
    group = version.rpartition("/")[0]
    return f"{group}/{kind}" if group else kind


def dataplane_of_spec(document: Mapping[str, Any]) -> Dataplane:
    """A cluster's dataplane follows from its provider."""
    spec = document.get("spec")
    return Dataplane.GKE if isinstance(spec, dict) and spec.get("provider") == "gke" else Dataplane.ANETD


def judge(kind: str, document: Mapping[str, Any], place: Place, gate: Gate) -> Iterator[Finding]:
    """The findings of one object."""
    if kind == SPEC_KIND:
        gate = replace(gate, dataplane=dataplane_of_spec(document))
    for rule in gate.matrix.rules_for(kind):
        severity, floor = _severity(rule, gate)
        if severity is not None:
            for path in conditions.trips(rule, kind, document):
                line = documents.line_of(document, path) or place.line
                yield _finding(rule, severity, floor, document, Place(place.file, line), conditions.dotted(path), gate)
    if kind == _CRD:
        yield from _of_definition(document, place, gate)


def _severity(rule: Rule, gate: Gate) -> tuple[Severity | None, str]:
    """With the versions that the feature needs, where the gate's is older."""
    severity = rule.severity_on(gate.dataplane)
    cell = rule.feature.cell(gate.dataplane)
    is_old = severity is None and gate.dataplane in rule.dataplanes and versions.is_older(gate.version, cell.since) is True
    return (Severity.ERROR, " or ".join(cell.since)) if is_old else (severity, "")


def _of_definition(document: Mapping[str, Any], place: Place, gate: Gate) -> Iterator[Finding]:
    spec = document.get("spec")
    names = spec.get("names") if isinstance(spec, dict) else None
    if not isinstance(spec, dict) or not isinstance(names, dict):
        return
    for rule in gate.matrix.rules_for(f"{spec.get('group')}/{names.get('kind')}"):
        severity, floor = _severity(rule, gate)
        if rule.defines and severity is not None:
            line = documents.line_of(document, ("spec", "names", "kind")) or place.line
            yield _finding(rule, severity, floor, document, Place(place.file, line), "spec.names.kind", gate)


def _finding(rule: Rule, severity: Severity, floor: str, document: Mapping[str, Any], place: Place, where: str, gate: Gate) -> Finding:
    cell: Cell = rule.feature.cell(gate.dataplane)
    reason = f"{rule.feature.title}: there from {floor} on, and this is {gate.version}." if floor else rule.reason(gate.dataplane)
    remedy = f"Use a newer version. {rule.remedy}" if floor else rule.remedy
    cited: Iterable[Citation] = cell.sources if floor else rule.sources(gate.dataplane)
    allowed = gate.allowed.get(rule.id, "")
    return Finding(rule.id, severity, subject(document), place, where, reason, remedy, [str(source) for source in cited], allowed)


def subject(document: Mapping[str, Any]) -> str:
    """Kind namespace/name, as a person looks for it."""
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    name = metadata.get("name") or metadata.get("generateName") or ""
    namespace = metadata.get("namespace")
    annotations = metadata.get("annotations")
    hook = annotations.get(_HOOK) if isinstance(annotations, dict) else None
    text = f"{document.get('kind', '')} {f'{namespace}/' if namespace else ''}{name}".rstrip()
    return f"{text} (Helm hook {hook})" if hook else text


def _not_kubernetes(place: Place, *, strict: bool) -> Finding:
    return Finding(
        NOT_KUBERNETES,
        Severity.ERROR if strict else Severity.NOTE,
        "",
        place,
        "",
        "This is no object of Kubernetes (apiVersion and kind are missing): it was not checked.",
        "Give manifests; of a chart, what `helm template` prints, and of an overlay, what `kustomize build` prints.",
    )
