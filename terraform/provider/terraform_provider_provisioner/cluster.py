"""The resource `provisioner_cluster`. create is `create-cluster`, which ensures: what an interrupted apply left is continued.

A spec is given as the document's `spec`, in JSON. What the cluster has, with every default written out, is in `effective_spec`; a read
compares that with what is found, and the command itself judges whether a changed spec is still the same cluster. So neither a default that
is now written down nor another spelling of a version replaces anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tf import iface, schema, types

from terraform_provider_provisioner.command import BUSY, CONFLICT, NOT_FOUND, PLAN_HAS_CHANGES, CommandFailed
from terraform_provider_provisioner.diagnostics import add_failure

if TYPE_CHECKING:
    from tf.utils import Diagnostics

    from terraform_provider_provisioner.provider import Provisioner

API_VERSION, KIND = "provisioner.dev/v1alpha1", "Cluster"
LOCAL = "local"
RUNNING = "RUNNING"
KEEP, DELETE = "keep", "delete"
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")
# Known when the cluster is there, and anew after each change.
_OBSERVED = ("effective_spec", "state", "endpoint", "kubernetes_version", "num_nodes", "created")
_SPECIFIED = frozenset({"spec", "labels"})

_ATTRIBUTES = [
    schema.Attribute("id", types.String(), "The cluster's name; not known before the cluster is there.", computed=True),
    schema.Attribute("name", types.String(), "The cluster's name, a DNS-1123 label.", required=True, requires_replace=True),
    schema.Attribute(
        "spec",
        types.NormalizedJson(),
        "The `spec` of the cluster's document (`provisioner schema` describes it), as `jsonencode({ numNodes = 3 })`. "
        "A spec that the cluster does not have replaces it.",
        optional=True,
    ),
    schema.Attribute("labels", types.Map(types.String()), "The document's labels; other ones replace the cluster.", optional=True),
    schema.Attribute(
        "create_timeout", types.String(), "For a whole create: `90s`, `30m`, `1h30m`.", optional=True, computed=True, default="30m"
    ),
    schema.Attribute("delete_timeout", types.String(), "For a whole delete.", optional=True, computed=True, default="5m"),
    schema.Attribute(
        "on_failure",
        types.String(),
        "`keep` what a failed create has made, so that the next apply continues it, or `delete` it.",
        optional=True,
        computed=True,
        default=KEEP,
    ),
    schema.Attribute(
        "kubeconfig_path",
        types.String(),
        "A kubeconfig that the credentials are merged into (mode 0600); without it, none is written.",
        optional=True,
    ),
    schema.Attribute(
        "kubernetes_bin_dir", types.String(), "A directory with the Kubernetes, etcd and CoreDNS programs to use.", optional=True
    ),
    schema.Attribute("effective_spec", types.NormalizedJson(), "What the cluster has, with every default written out.", computed=True),
    schema.Attribute("state", types.String(), "RUNNING, STOPPED, INCOMPLETE or DEGRADED; an apply brings it to RUNNING.", computed=True),
    schema.Attribute("endpoint", types.String(), "The API server: https://address:port.", computed=True),
    schema.Attribute("kubernetes_version", types.String(), "The version that runs.", computed=True),
    schema.Attribute("num_nodes", types.Number(), "The nodes that run pods.", computed=True),
    schema.Attribute("created", types.String(), "When, in RFC 3339.", computed=True),
]
_NAMES = frozenset(attribute.name for attribute in _ATTRIBUTES)


class Cluster(iface.Resource):
    """One cluster."""

    def __init__(self, provider: Provisioner) -> None:
        self._provider = provider

    @classmethod
    def get_name(cls) -> str:
        return "cluster"

    @classmethod
    def get_schema(cls) -> schema.Schema:
        return schema.Schema(
            version=1,
            description="A Kubernetes cluster whose dataplane is eBPF, made by `provisioner create-cluster`.",
            attributes=_ATTRIBUTES,
        )

    def validate(self, diags: Diagnostics, type_name: str, config: iface.Config) -> None:
        super().validate(diags, type_name, config)
        for name in ("create_timeout", "delete_timeout"):
            value = config.get(name)
            if isinstance(value, str) and not seconds_of(value):
                diags.add_error(f"{name} {value!r} is not a time", "Write 90s, 30m or 1h30m.", path=[name])
        if config.get("on_failure") not in {None, types.Unknown, KEEP, DELETE}:
            diags.add_error(f"on_failure {config['on_failure']!r} is not known", f"Use {KEEP} or {DELETE}.", path=["on_failure"])
        if isinstance(config.get("spec"), str):
            problem, remedy = spec_problem(config["spec"])
            if problem:
                diags.add_error(problem, remedy, path=["spec"])

    def plan_create(self, diags: Diagnostics, planned: iface.State) -> None:
        """What create-cluster would refuse is refused when it is planned. `planned` may hold unknown values."""
        if any(planned[name] is types.Unknown for name in ("name", "spec", "labels", "kubernetes_bin_dir")):
            return
        try:
            self._would_create(planned)
        except CommandFailed as failure:
            # A cluster of that name that is being replaced in this very plan is no conflict; any other shows when it is applied.
            if failure.exit_code != CONFLICT:
                add_failure(diags, f"planning the cluster {planned['name']}", failure, _NAMES)

    def plan(self, ctx: iface.PlanContext, current: iface.State | None, planned: iface.State) -> iface.State | None:
        if current is None:
            return planned
        changed = set(ctx.changed_fields)
        specified = changed & _SPECIFIED
        if "name" in changed:
            return planned | dict.fromkeys(("id", *_OBSERVED), types.Unknown)
        if specified:
            # What is not known yet replaces it, as everywhere in Terraform: the kind of change cannot be chosen when it is applied.
            if any(planned[name] is types.Unknown for name in _SPECIFIED) or self._is_another(ctx.diagnostics, planned):
                self._provider.require_replacement(sorted(specified))
            return planned | dict.fromkeys(_OBSERVED, types.Unknown)
        if current["state"] != RUNNING:
            return planned | dict.fromkeys(("state", "endpoint"), types.Unknown)
        return planned

    def create(self, ctx: iface.CreateContext, planned: iface.State) -> iface.State | None:
        name = planned["name"]
        advice = (
            f"Run terraform apply again: it continues. Until a create has ended, terraform destroy does not know the cluster; "
            f"`provisioner delete-cluster {name}` removes what is there of it."
        )
        try:
            found = self._create(planned)
        except CommandFailed as failure:
            if failure.exit_code == CONFLICT and failure.id != BUSY:
                advice = f"If it is yours, import it: terraform import ADDRESS {name}."
            elif planned["on_failure"] == DELETE and failure.id != "interrupted":
                advice = ""
            add_failure(ctx.diagnostics, f"creating the cluster {name}", failure, _NAMES, advice)
            return None
        return planned | observed(found)

    def read(self, ctx: iface.ReadContext, current: iface.State) -> iface.State | None:
        found = self._describe(ctx.diagnostics, current["name"])
        if found is None:
            return current if ctx.diagnostics.has_errors() else None
        state = current | observed(found)
        # Only what was asked for can be missing; a field that a newer version of the tool knows is no difference.
        if not has_all(state["effective_spec"], current["effective_spec"] or {}):
            state |= specified(found)
        return state

    def update(self, ctx: iface.UpdateContext, current: iface.State, planned: iface.State) -> iface.State | None:
        """Bring it to RUNNING, and its files to where they are wanted. A cluster of another spec was planned to be replaced."""
        try:
            return planned | observed(self._create(planned))
        except CommandFailed as failure:
            add_failure(ctx.diagnostics, f"updating the cluster {current['name']}", failure, _NAMES, "Apply again: it continues.")
            return current

    def delete(self, ctx: iface.DeleteContext, current: iface.State) -> None:
        name, limit = current["name"], current["delete_timeout"] or "5m"
        try:
            self._provider.commands.run("delete-cluster", name, "--quiet", "--timeout", limit, seconds=seconds_of(limit))
        except CommandFailed as failure:
            if failure.exit_code != NOT_FOUND:
                add_failure(ctx.diagnostics, f"deleting the cluster {name}", failure, _NAMES, "Run it again: it removes what is left.")

    def import_(self, ctx: iface.ImportContext, id: str) -> iface.State | None:  # noqa: A002 -- the interface's name
        found = self._describe(ctx.diagnostics, id)
        if found is None:
            if not ctx.diagnostics.has_errors():
                ctx.diagnostics.add_error(f"There is no cluster {id}", "Give the name of one that `provisioner list-clusters` shows.")
            return None
        defaults = {attribute.name: None if attribute.default is types.Unknown else attribute.default for attribute in _ATTRIBUTES}
        return defaults | {"name": id} | specified(found) | observed(found)

    def upgrade(self, ctx: iface.UpgradeContext, version: int, old: iface.State) -> iface.State | None:
        return old

    def _create(self, planned: iface.State) -> Mapping[str, Any]:
        limit = planned["create_timeout"]
        arguments = [*_create_arguments(planned), "--timeout", limit, "--on-failure", planned["on_failure"]]
        arguments += ["--kubeconfig", planned["kubeconfig_path"]] if planned["kubeconfig_path"] else ["--no-kubeconfig"]
        answer: Mapping[str, Any] = self._provider.commands.run(*arguments, stdin=document(planned), seconds=seconds_of(limit))
        return answer

    def _would_create(self, planned: iface.State) -> None:
        self._provider.commands.run(*_create_arguments(planned), "--dry-run", stdin=document(planned), also_good=PLAN_HAS_CHANGES)

    def _is_another(self, diags: Diagnostics, planned: iface.State) -> bool:
        """Whether the cluster that is there would have to be replaced to become what is planned."""
        try:
            self._would_create(planned)
        except CommandFailed as failure:
            if failure.exit_code == CONFLICT:
                return True
            add_failure(diags, f"planning the cluster {planned['name']}", failure, _NAMES)
        return False

    def _describe(self, diags: Diagnostics, name: str) -> Mapping[str, Any] | None:
        """None when it is not there, and when that could not be asked, which is then said."""
        try:
            answer: Mapping[str, Any] = self._provider.commands.run("describe-cluster", name)
        except CommandFailed as failure:
            if failure.exit_code != NOT_FOUND:
                add_failure(diags, f"reading the cluster {name}", failure, _NAMES)
            return None
        return answer


def _create_arguments(planned: iface.State) -> list[str]:
    arguments = ["create-cluster", planned["name"], "--config", "-"]
    return arguments + (["--kubernetes-bin-dir", planned["kubernetes_bin_dir"]] if planned["kubernetes_bin_dir"] else [])


def spec_problem(text: str) -> tuple[str, str]:
    """What is wrong with a spec before the command sees it, and the way out; empty when nothing is."""
    example = "Write spec = jsonencode({ numNodes = 3 })."
    try:
        spec = json.loads(text)
    except ValueError as error:
        return f"spec is not JSON: {error}", example
    if not isinstance(spec, dict):
        return "spec is not an object", example
    if spec.get("provider", LOCAL) != LOCAL:
        return f"this resource makes {LOCAL} clusters", "For GKE use Google's provider, as the module gke-dataplane-v2 does."
    return "", ""


def document(state: Mapping[str, Any]) -> str:
    """The cluster's document, for the command's stdin; JSON is YAML too. It asks for Dataplane V2 unless it says something else itself."""
    metadata = {"name": state["name"], "labels": state["labels"] or {}}
    spec = dict(state["spec"] or {})
    if isinstance(spec.setdefault("dataplane", {}), dict):
        spec["dataplane"] = {"version": "v2"} | spec["dataplane"]
    return json.dumps({"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec})


def observed(found: Mapping[str, Any]) -> dict[str, Any]:
    """What describe-cluster and create-cluster print, as the computed attributes."""
    return {
        "id": found["name"],
        "effective_spec": {"labels": found["spec"]["metadata"].get("labels", {}), "spec": found["spec"]["spec"]},
        "state": found["state"],
        "endpoint": found["endpoint"],
        "kubernetes_version": found["kubernetesVersion"],
        "num_nodes": found["numNodes"],
        "created": found["created"],
    }


def specified(found: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that would make what was found."""
    return {"spec": found["spec"]["spec"], "labels": found["spec"]["metadata"].get("labels") or None}


def has_all(found: Any, wanted: Any) -> bool:
    """Whether `found` has every value of `wanted`, and perhaps more fields."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        return all(key in found and has_all(found[key], value) for key, value in wanted.items())
    return bool(found == wanted)


def seconds_of(text: str) -> float:
    """Of `90s`, `5m`, `1h30m` or a number; 0 for what is none of them."""
    match = _DURATION.fullmatch(text)
    return float(sum(int(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True))) if match else 0.0
