"""The data source `provisioner_compatibility`: what the feature matrix of the installed command says of features and documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tf import iface, schema, types

from terraform_provider_provisioner.command import CommandFailed
from terraform_provider_provisioner.diagnostics import add_failure

if TYPE_CHECKING:
    from terraform_provider_provisioner.provider import Provisioner

DATAPLANES = ("gke", "anetd", "cilium")
GOOD = frozenset({"supported", "opt-in"})
ERROR = "error"
CHECK_REFUSES = 2  # exit code of a check that found an error

_ATTRIBUTES = [
    schema.Attribute("dataplane", types.String(), f"Whose verdicts count: {', '.join(DATAPLANES)}.", required=True),
    schema.Attribute(
        "features",
        types.Set(types.String()),
        "Features that are needed, by id or by a word of `provisioner recommend --need`.",
        optional=True,
    ),
    schema.Attribute(
        "documents",
        types.String(),
        'Manifests or cluster specs, YAML or JSON, which the rules judge as `provisioner check` does: `file("policies.yaml")`.',
        optional=True,
    ),
    schema.Attribute("ok", types.Bool(), "Whether nothing is refused: the condition of a precondition.", computed=True),
    schema.Attribute("message", types.String(), "The refusals, a line each: the error_message of a precondition.", computed=True),
    schema.Attribute("refusals", types.List(types.String()), "What is refused, why, and the way out.", computed=True),
    schema.Attribute("warnings", types.List(types.String()), "What may not work, and what nobody knows.", computed=True),
    schema.Attribute("verdicts", types.Map(types.String()), "Feature -> verdict, by the features' ids.", computed=True),
]
_NAMES = frozenset(attribute.name for attribute in _ATTRIBUTES)


class Compatibility(iface.DataSource):
    """Verdicts on features, findings on documents."""

    def __init__(self, provider: Provisioner) -> None:
        self._provider = provider

    @classmethod
    def get_name(cls) -> str:
        return "compatibility"

    @classmethod
    def get_schema(cls) -> schema.Schema:
        return schema.Schema(
            description="What a dataplane can do, from the feature matrix of the installed command.", attributes=_ATTRIBUTES
        )

    def validate(self, diags: Any, type_name: str, config: iface.Config) -> None:
        super().validate(diags, type_name, config)
        if isinstance(config.get("dataplane"), str) and config["dataplane"] not in DATAPLANES:
            diags.add_error(f"dataplane {config['dataplane']!r} is not known", f"Use {', '.join(DATAPLANES)}.", path=["dataplane"])

    def read(self, ctx: iface.ReadDataContext, config: iface.Config) -> iface.State | None:
        dataplane = config["dataplane"]
        try:
            features = [self._provider.commands.run("features", name) for name in sorted(config["features"] or ())]
            findings = self._findings(config["documents"], dataplane)
        except CommandFailed as failure:
            add_failure(ctx.diagnostics, "asking the feature matrix", failure, _NAMES)
            return None
        refusals = [sentence_of(feature, dataplane) for feature in features if verdict_of(feature, dataplane) not in GOOD]
        refusals += [text_of(finding) for finding in findings if finding["severity"] == ERROR]
        return {
            "dataplane": dataplane,
            "features": config["features"],
            "documents": config["documents"],
            "ok": not refusals,
            "message": "\n".join(refusals) or "Nothing is refused.",
            "refusals": refusals,
            "warnings": [text_of(finding) for finding in findings if finding["severity"] != ERROR],
            "verdicts": {feature["id"]: verdict_of(feature, dataplane) for feature in features},
        }

    def _findings(self, documents: str | None, dataplane: str) -> Sequence[Mapping[str, Any]]:
        if not documents:
            return ()
        answer = self._provider.commands.run("check", "-", "--dataplane", dataplane, stdin=documents, also_good=CHECK_REFUSES)
        findings: Sequence[Mapping[str, Any]] = answer["findings"]
        return findings


def verdict_of(feature: Mapping[str, Any], dataplane: str) -> str:
    return str(feature["verdicts"][dataplane]["verdict"])


def sentence_of(feature: Mapping[str, Any], dataplane: str) -> str:
    """Verdict, reason and way out of what is refused."""
    cell = feature["verdicts"][dataplane]
    return f"{feature['id']}: {feature['title']} is {cell['verdict']} on {dataplane}. {cell['reason']} {feature['wayOut']}"


def text_of(finding: Mapping[str, Any]) -> str:
    """Where, what and the way out."""
    return f"{finding['rule']}: {finding['object']} {finding['field']}: {finding['reason']} {finding['remedy']}"
