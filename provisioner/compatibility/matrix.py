"""The feature matrix: read once from the data beside this module, checked for sense, and given out again as plain data.

The data are the only place that a verdict, a reason or a rule is written: the command line, the gates, the admission policy, the
documentation and the Terraform modules are made from what `load` returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from provisioner import errors
from provisioner.compatibility import documents
from provisioner.compatibility.conditions import OPERATORS
from provisioner.compatibility.model import Admission, Cell, Citation, Condition, Dataplane, Feature, Rule, Severity, Verdict

# Of the shape of `export`: goes up when a reader of the former shape would go wrong.
EXPORT_VERSION = 1
_DATA = Path(__file__).resolve().parent / "data"
_UNKNOWN_REASON = "No source was found that says so or otherwise."
_FLOORS = "since"  # in a condition: the versions from which the feature is there


@dataclass(frozen=True, slots=True)
class Matrix:
    """Features and rules in the order of the data; `by_kind` finds the rules that concern a kind of document."""

    features: Mapping[str, Feature]
    rules: Mapping[str, Rule]
    by_kind: Mapping[str, Sequence[Rule]]

    def rules_for(self, kind: str) -> Sequence[Rule]:
        """`kind` is GROUP/Kind, or Kind of the core group. Rules for a whole group are for the kinds that have none of their own."""
        return self.by_kind.get(kind) or self.by_kind.get(f"{kind.rpartition('/')[0]}/*", ())

    def feature(self, name: str) -> Feature:
        """By id, or by one of the words of `needs`. Raises `errors.NotFound` with the nearest names."""
        wanted = name.strip().lower().replace("_", "-").replace(" ", "-")
        words = {word: feature for feature in self.features.values() for word in (*feature.needs, feature.id)}
        if wanted in words:
            return words[wanted]
        import difflib

        close = difflib.get_close_matches(wanted, words, n=3, cutoff=0.5) or [word for word in words if wanted and wanted in word][:3]
        remedy = f"Did you mean {' or '.join(dict.fromkeys(words[word].id for word in close))}?" if close else "See `provisioner features`."
        raise errors.NotFound(f"there is no feature {name!r} in the matrix", remedy=remedy)

    def rule(self, name: str) -> Rule:
        """Raises `errors.Usage` with the nearest names."""
        if name in self.rules:
            return self.rules[name]
        import difflib

        close = difflib.get_close_matches(name, self.rules, n=3, cutoff=0.5)
        remedy = (
            f"Did you mean {' or '.join(close)}?"
            if close
            else "Findings carry their rule's name; `provisioner features --rules` lists them."
        )
        raise errors.Usage(f"there is no rule {name!r}", remedy=remedy, field="--allow")


@cache
def load() -> Matrix:
    """The matrix of this version."""
    sources = _read("sources.yaml")
    features = {item["id"]: _feature(item, sources) for item in _read("features.yaml")}
    rules = {item["id"]: _rule(item, features, sources) for item in _read("rules.yaml")}
    by_kind: dict[str, list[Rule]] = {}
    for rule in rules.values():
        for kind in rule.kinds:
            by_kind.setdefault(kind, []).append(rule)
    return Matrix(features, rules, by_kind)


def export(matrix: Matrix) -> dict[str, Any]:
    """The whole matrix in JSON's types, for other tools: see docs/compatibility.md for its shape."""
    return {
        "exportVersion": EXPORT_VERSION,
        "dataplanes": [dataplane.value for dataplane in Dataplane],
        "verdicts": [verdict.value for verdict in Verdict],
        "features": [feature_data(feature) for feature in matrix.features.values()],
        "rules": [rule_data(rule) for rule in matrix.rules.values()],
    }


def feature_data(feature: Feature) -> dict[str, Any]:
    return {
        "id": feature.id,
        "title": feature.title,
        "area": feature.area,
        "verdicts": {
            dataplane.value: {
                "verdict": cell.verdict.value,
                "reason": cell.reason,
                "since": list(cell.since),
                "sources": _sources_data(cell.sources),
            }
            for dataplane, cell in feature.cells.items()
        },
        "wayOut": feature.way_out,
        "needs": list(feature.needs),
    }


def rule_data(rule: Rule) -> dict[str, Any]:
    """`severity` and `admission` are what the rule has on each of its dataplanes; null where it has nothing to say."""
    return {
        "id": rule.id,
        "feature": rule.feature.id,
        "kinds": list(rule.kinds),
        "each": list(rule.each),
        "when": [{"path": condition.path, "op": condition.op, "value": condition.value} for condition in rule.when],
        "severity": {name.value: (found.value if (found := rule.severity_on(name)) else None) for name in rule.dataplanes},
        "admission": {name.value: rule.admission_on(name).value for name in rule.dataplanes},
        "reason": {name.value: rule.reason(name) for name in rule.dataplanes},
        "remedy": rule.remedy,
        "sources": {name.value: _sources_data(rule.sources(name)) for name in rule.dataplanes},
    }


def _sources_data(sources: Iterable[Citation]) -> list[dict[str, str]]:
    return [{"title": source.title, "url": source.url, "place": source.place} for source in sources]


def _read(name: str) -> Any:
    ((_, data),) = documents.read((_DATA / name).read_text(encoding="utf-8"))
    return data


def _citations(texts: Iterable[str], sources: Mapping[str, Mapping[str, str]]) -> tuple[Citation, ...]:
    found = []
    for text in texts:
        key, _, place = text.partition(" ")
        found.append(Citation(key, sources[key]["title"], sources[key]["url"], place))
    return tuple(found)


def _feature(item: Mapping[str, Any], sources: Mapping[str, Mapping[str, str]]) -> Feature:
    cells = {}
    for dataplane in Dataplane:
        cell = item.get(dataplane.value, {"is": "unknown"})
        verdict = Verdict(cell["is"])
        cited = _citations(cell.get("from", ()), sources)
        if (verdict is Verdict.UNKNOWN) == bool(cited):
            raise ValueError(f"{item['id']}, {dataplane}: {verdict} with {len(cited)} sources")
        reason = cell.get("why") or (_UNKNOWN_REASON if verdict is Verdict.UNKNOWN else "")
        cells[dataplane] = Cell(verdict, reason, tuple(cell.get("since", ())), cited)
    return Feature(item["id"], item["title"], item["area"], cells, item["way-out"], tuple(item.get("needs", ())))


def _rule(item: Mapping[str, Any], features: Mapping[str, Feature], sources: Mapping[str, Mapping[str, str]]) -> Rule:
    feature = features[item["feature"]]
    dataplanes = tuple(Dataplane(name) for name in item.get("dataplanes", list(Dataplane)))
    conditions = tuple(_condition(part, feature) for part in item.get("when", ()))
    each = item.get("each", ())
    severity, admission = item.get("severity"), item.get("admission")
    return Rule(
        id=item["id"],
        feature=feature,
        kinds=tuple(item["kinds"]),
        dataplanes=dataplanes,
        each=(each,) if isinstance(each, str) else tuple(each),
        when=conditions,
        severity=Severity(severity) if severity else None,
        admission=Admission(admission) if admission else None,
        defines=bool(item.get("defines", False)),
        own_reason=item.get("reason", ""),
        own_remedy=item.get("remedy", ""),
        own_sources=_citations(item.get("from", ()), sources),
    )


def _condition(part: Mapping[str, Any], feature: Feature) -> Condition:
    (op,) = part.keys() - {"path"}
    if op not in OPERATORS:
        raise ValueError(f"there is no operator {op}")
    if op in {"differs", "unlike"} and "*" in part.get("path", ""):
        raise ValueError(f"{part}: whether all or any of them differ cannot be said")
    value = part[op]
    if op == "older" and value == _FLOORS:
        value = feature.cell(Dataplane.GKE).since
    return Condition(part.get("path", ""), op, list(value) if isinstance(value, list | tuple) else value)
