"""What can be told of a spec for GKE without asking it: the checks that gcloud makes on the command line. Pure.

Which features go together is not looked at here: that is for the compatibility gates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from provisioner.spec.fields import Model
from provisioner.spec.gke import Gke, NodePool, Nodes
from provisioner.spec.networks import Problem

if TYPE_CHECKING:
    from provisioner.spec.models import ClusterSpec

_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")

# What only an alias cluster can have (Autopilot is always one), in gcloud's own checks.
_NEED_ALIAS = (
    "services_ipv4_cidr", "create_subnetwork", "cluster_secondary_range_name", "services_secondary_range_name", "ipv6_access_type",
    "enable_private_nodes", "default_max_pods_per_node", "max_pods_per_node", "disable_default_snat",
)  # fmt: skip
_NEED_PRIVATE_NODES = ("enable_private_endpoint", "master_ipv4_cidr", "disable_default_snat")
_NEED_AUTOSCALING = ("min_nodes", "max_nodes", "total_min_nodes", "total_max_nodes", "location_policy")
# create-auto has no words for these: the nodes are GKE's.
_AUTOPILOT_LACKS = (
    *(name for name in Nodes.model_fields if name not in {"service_account", "scopes"}),
    "node_pools", "node_locations", "enable_ip_alias", "default_max_pods_per_node",
)  # fmt: skip
# Of the rest of the document, what is for clusters on this machine.
_LOCAL_ONLY = {
    "kubernetes_version": ("kubernetesVersion", "spec.gke.clusterVersion (--cluster-version)"),
    "pod_cidr": ("podCIDR", "spec.gke.clusterIpv4Cidr (--cluster-ipv4-cidr)"),
    "service_cidr": ("serviceCIDR", "spec.gke.servicesIpv4Cidr (--services-ipv4-cidr)"),
    "pod_cidr_v6": ("podCIDRv6", ""),
    "service_cidr_v6": ("serviceCIDRv6", ""),
    "node_subnet": ("nodeSubnet", "spec.gke.subnetwork (--subnetwork)"),
}


def gke_problems(spec: ClusterSpec) -> Iterable[Problem]:
    """Everything that gcloud would refuse, and what of the document is not for GKE."""
    yield from _names(spec)
    yield from _not_for_gke(spec)
    yield from _prerequisites(spec)
    if spec.gke.autopilot:
        yield from _autopilot(spec)
    if spec.gke.node_pools is not None:
        yield from _pools(spec, _given(spec.gke))
    yield from _exclusive(spec.gke)
    for name, components in (("logging", spec.gke.logging), ("monitoring", spec.gke.monitoring)):
        yield from _components(name, components)


def _prerequisites(spec: ClusterSpec) -> Iterable[Problem]:
    gke, given = spec.gke, _given(spec.gke)
    for there, names, prerequisite in (
        (gke.enable_ip_alias or gke.autopilot, _NEED_ALIAS, "enableIpAlias"),
        (gke.enable_private_nodes, _NEED_PRIVATE_NODES, "enablePrivateNodes"),
        (gke.enable_autoscaling, _NEED_AUTOSCALING, "enableAutoscaling"),
        (gke.enable_master_authorized_networks, ("master_authorized_networks",), "enableMasterAuthorizedNetworks"),
        (gke.cluster_dns is not None, ("cluster_dns_scope", "cluster_dns_domain"), "clusterDns"),
    ):
        if not there:
            yield from _needs(given, names, prerequisite)
    if "stack_type" in spec.body.model_fields_set and not (gke.enable_ip_alias or gke.autopilot):
        yield Problem(("spec", "stackType"), "needs enableIpAlias", "Set spec.gke.enableIpAlias: true (--enable-ip-alias).")


def _autopilot(spec: ClusterSpec) -> Iterable[Problem]:
    for name in _AUTOPILOT_LACKS:
        if name in _given(spec.gke):
            yield _problem(name, "is not for an Autopilot cluster, whose nodes GKE makes", "Leave it out, or leave autopilot out.")
    if "num_nodes" in spec.body.model_fields_set:
        yield Problem(("spec", "numNodes"), "is not for an Autopilot cluster, whose nodes GKE makes", "Leave it out.")


def _exclusive(gke: Gke) -> Iterable[Problem]:
    if gke.subnetwork is not None and gke.create_subnetwork is not None:
        yield _problem("create_subnetwork", "and subnetwork exclude each other", "Leave one of them out.")
    if "ConfigConnector" in (gke.addons or ()) and gke.workload_pool is None:
        yield _problem("addons", "has ConfigConnector, which needs workloadPool", "Set spec.gke.workloadPool: PROJECT.svc.id.goog.")
    if (gke.shielded_secure_boot is None) != (gke.shielded_integrity_monitoring is None):
        yield _problem("shielded_secure_boot", "and shieldedIntegrityMonitoring go together", "Give both, or none.")


def _given(model: Model) -> set[str]:
    """What was said and means something: gcloud lets a prerequisite be missing for a switch that is off."""
    return {name for name in model.model_fields_set if getattr(model, name) not in (None, False)}


def _problem(name: str, reason: str, remedy: str) -> Problem:
    return Problem(("spec", "gke", Gke.model_fields[name].alias or name), reason, remedy)


def _needs(given: set[str], names: Sequence[str], prerequisite: str) -> Iterable[Problem]:
    flag = "--" + re.sub(r"([A-Z])", lambda match: "-" + match[1].lower(), prerequisite)
    for name in names:
        if name in given:
            yield _problem(name, f"needs {prerequisite}", f"Set spec.gke.{prerequisite} ({flag}), or leave it out.")


def _names(spec: ClusterSpec) -> Iterable[Problem]:
    if not spec.name[0].isalpha():
        yield Problem(("metadata", "name"), f"{spec.name!r} begins with a digit", "Begin it with a letter: GKE asks for one.")
    for key, value in spec.labels.items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            yield Problem(
                ("metadata", "labels", key),
                f"{key}={value} is not a label of Google Cloud",
                "Use lower-case letters, digits, '-' and '_', at most 63, the name beginning with a letter.",
            )


def _not_for_gke(spec: ClusterSpec) -> Iterable[Problem]:
    for name, (field, instead) in _LOCAL_ONLY.items():
        if name in spec.body.model_fields_set:
            yield Problem(("spec", field), "has no effect with provider gke", f"Use {instead}." if instead else "Leave it out.")
    for name in sorted(spec.dataplane.model_fields_set - {"version"}):
        field = type(spec.dataplane).model_fields[name].alias or name
        yield Problem(("spec", "dataplane", field), "has no effect with provider gke: the dataplane is Google's", "Leave it out.")


def _pools(spec: ClusterSpec, given: set[str]) -> Iterable[Problem]:
    for name in sorted(given & set(Nodes.model_fields)):
        yield _problem(name, "is the default pool's, and nodePools says which pools there are", "Put it into the pools.")
    if "num_nodes" in spec.body.model_fields_set:
        yield Problem(("spec", "numNodes"), "is the default pool's, and nodePools says which pools there are", "Put it into the pools.")
    seen: set[str] = set()
    for index, pool in enumerate(spec.gke.node_pools or ()):
        path = ("spec", "gke", "nodePools", index)
        if pool.name in seen:
            yield Problem((*path, "name"), f"{pool.name!r} is given twice", "Give each pool a name of its own.")
        seen.add(pool.name)
        if pool.max_pods_per_node is not None and not spec.gke.enable_ip_alias:
            yield Problem((*path, "maxPodsPerNode"), "needs enableIpAlias", "Set spec.gke.enableIpAlias: true (--enable-ip-alias).")
        if not pool.enable_autoscaling:
            for name in _NEED_AUTOSCALING:
                if name in _given(pool):
                    field = NodePool.model_fields[name].alias or name
                    yield Problem((*path, field), "needs enableAutoscaling", "Set enableAutoscaling: true in the pool.")


def _components(name: str, components: Sequence[str] | None) -> Iterable[Problem]:
    if components is None:
        return
    if "NONE" in components and len(components) > 1:
        yield _problem(name, "has NONE and more", "Leave NONE out, or all else.")
    elif not {"NONE", "SYSTEM"} & set(components):
        yield _problem(name, "lacks SYSTEM, without which there is no other", "Add SYSTEM, or say NONE.")
