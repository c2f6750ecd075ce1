"""A Terraform plan (`terraform show -json`) as the documents that the rules know: specs, and what the plan would change. Pure.

The format's major version is 1 since Terraform 0.12; its minor versions only add. Of another major version nothing is assumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from provisioner.compatibility.check import NOT_CHECKED
from provisioner.compatibility.conditions import UNKNOWN
from provisioner.compatibility.model import Finding, Place, Severity

API_VERSION = "provisioner.dev/v1alpha1"
CLUSTER_TYPE = "google_container_cluster"
POOL_TYPE = "google_container_node_pool"
FORMAT_MAJOR = "1"
_ADVANCED = "ADVANCED_DATAPATH"
# Argument of google_container_cluster -> field of spec.gke.
_FLAGS: Mapping[Sequence[str], str] = {
    ("enable_autopilot",): "autopilot",
    ("enable_fqdn_network_policy",): "enableFqdnNetworkPolicy",
    ("enable_cilium_clusterwide_network_policy",): "enableCiliumClusterwideNetworkPolicy",
    ("enable_multi_networking",): "enableMultiNetworking",
    ("network_policy", "enabled"): "enableNetworkPolicy",
    ("monitoring_config", "advanced_datapath_observability_config", "enable_metrics"): "enableDataplaneV2Metrics",
    ("monitoring_config", "advanced_datapath_observability_config", "enable_relay"): "enableDataplaneV2FlowObservability",
    ("min_master_version",): "clusterVersion",
}
_ENCRYPTION = {"IN_TRANSIT_ENCRYPTION_INTER_NODE_TRANSPARENT": "inter-node-transparent"}
_ROUTES = "ROUTES"


def is_plan(value: Any) -> bool:
    """Whether a JSON document is a plan rather than a manifest."""
    return isinstance(value, dict) and "kind" not in value and ("resource_changes" in value or "terraform_version" in value)


def documents_of(plan: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A spec and a change for each cluster that the plan touches."""
    for item in plan.get("resource_changes") or ():
        if not isinstance(item, dict) or item.get("type") != CLUSTER_TYPE or not isinstance(item.get("change"), dict):
            continue
        address, change = str(item.get("address", "")), item["change"]
        actions = change.get("actions") or []
        if "create" in actions or "update" in actions:
            yield _spec(address, _merged(change.get("after"), change.get("after_unknown")), _pools(plan))
        if set(actions) & {"update", "delete"}:
            yield _change(address, change)


def format_problem(plan: Mapping[str, Any], place: Place) -> Finding | None:
    """Why a plan cannot be read, if so."""
    version = plan.get("format_version")
    if isinstance(version, str) and version.partition(".")[0] == FORMAT_MAJOR and isinstance(plan.get("resource_changes", []), list):
        return None
    return Finding(
        NOT_CHECKED,
        Severity.ERROR,
        "Terraform plan",
        place,
        "format_version",
        f"The plan's format is {version!r}, written by Terraform {plan.get('terraform_version', 'of an unknown version')}: only "
        "format 1.x is understood, so nothing of it was checked.",
        "Write it with `terraform show -json PLANFILE` of Terraform 1.x, or a newer provisioner.",
    )


def _merged(after: Any, unknown: Any) -> Any:
    """The planned values, with UNKNOWN where only an apply will tell."""
    if unknown is True:
        return UNKNOWN
    if isinstance(after, dict):
        marks = unknown if isinstance(unknown, dict) else {}
        return {key: _merged(after.get(key), marks.get(key)) for key in after.keys() | marks.keys()}
    if isinstance(after, list):
        each = unknown if isinstance(unknown, list) else []
        return [_merged(item, each[index] if index < len(each) else None) for index, item in enumerate(after)]
    if after is None and isinstance(unknown, dict) and unknown:
        return {key: _merged(None, mark) for key, mark in unknown.items()}
    return after


def _at(values: Any, path: Sequence[str]) -> Any:
    """The value of an argument; a nested block is a list of one."""
    for name in path:
        if isinstance(values, list):
            values = values[0] if values else None
        if values is UNKNOWN or not isinstance(values, dict):
            return values if values is UNKNOWN else None
        values = values.get(name)
    return values


def _spec(address: str, after: Any, pools: Sequence[Any]) -> dict[str, Any]:
    gke = {field: found for path, field in _FLAGS.items() if (found := _at(after, path)) is not None}
    encryption = _at(after, ("in_transit_encryption_config",))
    if encryption is not None:
        gke["inTransitEncryption"] = encryption if encryption is UNKNOWN else _ENCRYPTION.get(encryption, encryption)
    if _at(after, ("networking_mode",)) == _ROUTES:
        gke["enableIpAlias"] = False
    gke["nodePools"] = [{"imageType": _at(pool, ("node_config", "image_type")), "numNodes": _at(pool, ("node_count",))} for pool in pools]
    spec: dict[str, Any] = {"provider": "gke", "gke": gke}
    stack = _at(after, ("ip_allocation_policy", "stack_type"))
    if stack is not None:
        spec["stackType"] = "ipv4-ipv6" if stack == "IPV4_IPV6" else stack if stack is UNKNOWN else "ipv4"
    nodes = _at(after, ("initial_node_count",))
    if nodes is not None:
        spec["numNodes"] = nodes
    datapath = _at(after, ("datapath_provider",))
    # Autopilot clusters have Dataplane V2 whatever the argument says.
    version = UNKNOWN if datapath is UNKNOWN else "v2" if datapath == _ADVANCED or gke.get("autopilot") is True else "v1"
    spec["dataplane"] = {"version": version}
    return {"apiVersion": API_VERSION, "kind": "Cluster", "metadata": {"name": address}, "spec": spec}


def _pools(plan: Mapping[str, Any]) -> list[Any]:
    """Planned node pools. Which cluster they belong to is often known after the apply only, so they count for every cluster of the plan."""
    changes = (item for item in plan.get("resource_changes") or () if isinstance(item, dict) and item.get("type") == POOL_TYPE)
    return [change["after"] for item in changes if isinstance(change := item.get("change"), dict) and isinstance(change.get("after"), dict)]


def _change(address: str, change: Mapping[str, Any]) -> dict[str, Any]:
    actions = change.get("actions") or []
    before, after = change.get("before"), _merged(change.get("after"), change.get("after_unknown"))
    replaced = "delete" in actions and "create" in actions
    forcing = {str(path[0]) for path in change.get("replace_paths") or () if isinstance(path, list) and path}
    old, new = _at(before, ("datapath_provider",)), _at(after, ("datapath_provider",))
    fqdn_old, fqdn_new = _at(before, ("enable_fqdn_network_policy",)), _at(after, ("enable_fqdn_network_policy",))
    # What a replacement makes anew may be unknown until then: only Terraform's own list says that it is the cause.
    datapath_changed = "datapath_provider" in forcing or (
        new is not UNKNOWN and new is not None and (old or new) != new and actions != ["delete"]
    )
    return {
        "apiVersion": API_VERSION,
        "kind": "PlannedChange",
        "metadata": {"name": address},
        "actions": list(actions),
        "replaced": replaced,
        "destroyed": actions == ["delete"],
        "datapathChanged": datapath_changed,
        "fqdnSwitchedOff": replaced and fqdn_old is True and fqdn_new is not UNKNOWN and fqdn_new is not True,
        "becauseOf": sorted(forcing),
    }
