"""From a spec to the request that GKE is asked with: CreateClusterRequest in the API's JSON form. Pure.

For the same words it is gcloud's request, field by field (the node pool's defaults among them). One exception to asking for the dataplane
by name: an Autopilot cluster has no other, and gcloud has no word for it there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from provisioner.spec import ClusterSpec
from provisioner.spec.gke import (
    ADDONS,
    ADDONS_OFF_UNLESS_NAMED,
    DEFAULT_NUM_NODES,
    DEFAULT_POOL,
    LOGGING_COMPONENTS,
    MONITORING_COMPONENTS,
    WORDS,
    Gke,
    NodePool,
)

Json = dict[str, Any]

_SCOPES = "https://www.googleapis.com/auth/"
# What gke-default stands for: least rights for a node without an account of its own, and IAM decides for one that has it.
_DEFAULT_SCOPES = (
    "devstorage.read_only", "logging.write", "monitoring", "service.management.readonly", "servicecontrol", "trace.append",
)  # fmt: skip
_ACCOUNT_SCOPES = ("cloud-platform", "userinfo.email")
_GKE_DEFAULT = "gke-default"

# Field of the spec -> path in the cluster. What needs more than a copy is below.
_PLAIN: Mapping[str, str] = {
    "network": "network",
    "subnetwork": "subnetwork",
    "cluster_version": "initialClusterVersion",
    "enable_private_nodes": "networkConfig.defaultEnablePrivateNodes",
    "enable_fqdn_network_policy": "networkConfig.enableFqdnNetworkPolicy",
    "enable_cilium_clusterwide_network_policy": "networkConfig.enableCiliumClusterwideNetworkPolicy",
    "enable_multi_networking": "networkConfig.enableMultiNetworking",
    "enable_intra_node_visibility": "networkConfig.enableIntraNodeVisibility",
    "disable_l4_lb_firewall_reconciliation": "networkConfig.disableL4LbFirewallReconciliation",
    "enable_service_externalips": "networkConfig.serviceExternalIpsConfig.enabled",
    "cluster_dns_domain": "networkConfig.dnsConfig.clusterDnsDomain",
    "workload_pool": "workloadIdentityConfig.workloadPool",
    "enable_managed_prometheus": "monitoringConfig.managedPrometheusConfig.enabled",
    "enable_dataplane_v2_metrics": "monitoringConfig.advancedDatapathObservabilityConfig.enableMetrics",
    "enable_dataplane_v2_flow_observability": "monitoringConfig.advancedDatapathObservabilityConfig.enableRelay",
    "enable_shielded_nodes": "shieldedNodes.enabled",
    "enable_vertical_pod_autoscaling": "verticalPodAutoscaling.enabled",
    "enable_image_streaming": "nodePoolDefaults.nodeConfigDefaults.gcfsConfig.enabled",
    "enable_dns_access": "controlPlaneEndpointsConfig.dnsEndpointConfig.allowExternalTraffic",
    "enable_master_authorized_networks": "controlPlaneEndpointsConfig.ipEndpointsConfig.authorizedNetworksConfig.enabled",
}
# The same for words that the API has enumerations for.
_WORDS: Mapping[str, str] = {
    "in_transit_encryption": "networkConfig.inTransitEncryptionConfig",
    "cluster_dns": "networkConfig.dnsConfig.clusterDns",
    "cluster_dns_scope": "networkConfig.dnsConfig.clusterDnsScope",
    "gateway_api": "networkConfig.gatewayApiConfig.channel",
    "release_channel": "releaseChannel.channel",
}
# The same for switches of which gcloud sends only the one position.
_ONLY_ON: Mapping[str, str] = {
    "enable_l4_ilb_subsetting": "networkConfig.enableL4ilbSubsetting",
    "disable_default_snat": "networkConfig.defaultSnatStatus.disabled",
}
_NODE_PLAIN: Mapping[str, str] = {
    "machine_type": "machineType",
    "disk_size": "diskSizeGb",
    "disk_type": "diskType",
    "image_type": "imageType",
    "min_cpu_platform": "minCpuPlatform",
    "node_labels": "labels",
    "metadata": "metadata",
    "service_account": "serviceAccount",
    "shielded_secure_boot": "shieldedInstanceConfig.enableSecureBoot",
    "shielded_integrity_monitoring": "shieldedInstanceConfig.enableIntegrityMonitoring",
    "enable_gvnic": "gvnic.enabled",
}
_AUTOSCALING: Mapping[str, str] = {
    "min_nodes": "minNodeCount",
    "max_nodes": "maxNodeCount",
    "total_min_nodes": "totalMinNodeCount",
    "total_max_nodes": "totalMaxNodeCount",
}


def parent(project: str, location: str) -> str:
    """The name of a place as the API writes it."""
    return f"projects/{project}/locations/{location}"


def create_request(spec: ClusterSpec, project: str, location: str) -> Json:
    """CreateClusterRequest: {"parent", "cluster"}."""
    return {"parent": parent(project, location), "cluster": cluster(spec)}


def cluster(spec: ClusterSpec) -> Json:
    """The cluster asked for."""
    gke = spec.gke
    body: Json = {"name": spec.name, "nodePools": [_pool(spec, pool) for pool in _pools(spec)]}
    if not gke.autopilot:
        _put(body, "networkConfig.datapathProvider", "ADVANCED_DATAPATH")
    _copy(gke, _PLAIN, body)
    for name, path in _WORDS.items():
        _put(body, path, _word(gke, name))
    for name, path in _ONLY_ON.items():
        _put(body, path, getattr(gke, name) or None)
    if gke.autopilot:
        _put(body, "autopilot.enabled", True)
    if gke.enable_network_policy:
        body["networkPolicy"] = {"enabled": True, "provider": "CALICO"}
    if gke.node_locations:
        body["locations"] = sorted(gke.node_locations)
    if gke.default_max_pods_per_node is not None:
        _put(body, "defaultMaxPodsConstraint.maxPodsPerNode", str(gke.default_max_pods_per_node))
    if spec.labels:
        body["resourceLabels"] = dict(sorted(spec.labels.items()))
    _addresses(spec, body)
    _control_plane(gke, body)
    _components(body, "loggingConfig", gke.logging, LOGGING_COMPONENTS)
    _components(body, "monitoringConfig", gke.monitoring, MONITORING_COMPONENTS)
    if gke.addons is not None:
        body["addonsConfig"] = _addons(gke.addons, autopilot=gke.autopilot)
    return body


def _addresses(spec: ClusterSpec, body: Json) -> None:
    gke = spec.gke
    if gke.enable_ip_alias or gke.autopilot:
        made = gke.create_subnetwork
        policy: Json = {"useIpAliases": True, "createSubnetwork": made is not None}
        _put(policy, "subnetworkName", made.name if made else None)
        _put(policy, "nodeIpv4CidrBlock", made.range if made else None)
        _put(policy, "clusterIpv4CidrBlock", gke.cluster_ipv4_cidr)
        _put(policy, "servicesIpv4CidrBlock", gke.services_ipv4_cidr)
        _put(policy, "clusterSecondaryRangeName", gke.cluster_secondary_range_name)
        _put(policy, "servicesSecondaryRangeName", gke.services_secondary_range_name)
        if "stack_type" in spec.body.model_fields_set:
            policy["stackType"] = WORDS["stackType"][spec.stack_type.value]
        _put(policy, "ipv6AccessType", _word(gke, "ipv6_access_type"))
        body["ipAllocationPolicy"] = policy
        return
    _put(body, "clusterIpv4Cidr", gke.cluster_ipv4_cidr)
    if gke.enable_ip_alias is False:
        body["ipAllocationPolicy"] = {"useRoutes": True}


def _control_plane(gke: Gke, body: Json) -> None:
    if gke.master_ipv4_cidr is not None:
        private: Json = {"enablePrivateNodes": gke.enable_private_nodes, "masterIpv4CidrBlock": gke.master_ipv4_cidr}
        _put(private, "enablePrivateEndpoint", gke.enable_private_endpoint)
        body["privateClusterConfig"] = private
    endpoints = "controlPlaneEndpointsConfig.ipEndpointsConfig"
    if gke.enable_private_endpoint is not None:
        _put(body, f"{endpoints}.enablePublicEndpoint", not gke.enable_private_endpoint)
    if gke.master_authorized_networks:
        blocks = [{"cidrBlock": network} for network in gke.master_authorized_networks]
        _put(body, f"{endpoints}.authorizedNetworksConfig.cidrBlocks", blocks)


def _components(body: Json, config: str, given: Sequence[str] | None, names: Mapping[str, str]) -> None:
    if given is None:
        return
    enabled = [name for word, name in names.items() if word in given]
    _put(body, f"{config}.componentConfig", {"enableComponents": enabled} if enabled else {})


def _addons(given: Sequence[str], *, autopilot: bool) -> Json:
    kept_by_autopilot = {"HttpLoadBalancing", "HorizontalPodAutoscaling"} if autopilot else set()
    off = {field: {"disabled": word not in given and word not in kept_by_autopilot} for word, field in ADDONS_OFF_UNLESS_NAMED.items()}
    return off | {field: {"enabled": True} for word, field in ADDONS.items() if word in given}


def _pools(spec: ClusterSpec) -> Iterable[NodePool | Gke]:
    return spec.gke.node_pools or (spec.gke,)


def _pool(spec: ClusterSpec, pool: NodePool | Gke) -> Json:
    body: Json = {"name": DEFAULT_POOL, "config": _node_config(spec, pool)}
    if spec.gke.autopilot:
        return body | {"initialNodeCount": 1}
    if isinstance(pool, NodePool):
        body |= {"name": pool.name, "initialNodeCount": pool.num_nodes}
        if pool.node_locations:
            body["locations"] = sorted(pool.node_locations)
    else:
        body["initialNodeCount"] = spec.num_nodes if "num_nodes" in spec.body.model_fields_set else DEFAULT_NUM_NODES
    _put(body, "version", pool.node_version)
    body["management"] = {"autoRepair": pool.enable_autorepair is not False, "autoUpgrade": pool.enable_autoupgrade is not False}
    body["upgradeSettings"] = {"maxSurge": 1 if pool.max_surge_upgrade is None else pool.max_surge_upgrade}
    _put(body, "upgradeSettings.maxUnavailable", pool.max_unavailable_upgrade)
    if pool.enable_autoscaling:
        body["autoscaling"] = {"enabled": True}
        _copy(pool, _AUTOSCALING, body["autoscaling"])
        _put(body, "autoscaling.locationPolicy", _word(pool, "location_policy"))
    if pool.max_pods_per_node is not None:
        _put(body, "maxPodsConstraint.maxPodsPerNode", str(pool.max_pods_per_node))
    return body


def _node_config(spec: ClusterSpec, pool: NodePool | Gke) -> Json:
    config: Json = {"oauthScopes": _scopes(pool)}
    _copy(pool, _NODE_PLAIN, config)
    for name in ("spot", "preemptible"):
        _put(config, name, getattr(pool, name) or None)
    if pool.tags:
        config["tags"] = list(pool.tags)
    if pool.node_taints:
        config["taints"] = [_taint(text) for text in pool.node_taints]
    _put(config, "workloadMetadataConfig.mode", _word(pool, "workload_metadata"))
    if spec.labels:
        config["resourceLabels"] = dict(sorted(spec.labels.items()))
    return config


def _scopes(pool: NodePool | Gke) -> list[str]:
    default = _ACCOUNT_SCOPES if pool.service_account else _DEFAULT_SCOPES
    expanded = [scope for name in pool.scopes or (_GKE_DEFAULT,) for scope in (default if name == _GKE_DEFAULT else (name,))]
    return sorted({name if "/" in name else _SCOPES + name for name in expanded})


def _taint(text: str) -> Json:
    key, _, rest = text.partition("=")
    value, _, effect = rest.partition(":")
    return {"key": key, "value": value, "effect": WORDS["taintEffect"].get(effect, effect)}


def _word(model: NodePool | Gke, name: str) -> str | int | None:
    """The API's name for gcloud's word, or the number that was given for one that is not known here."""
    value = getattr(model, name)
    return WORDS[type(model).model_fields[name].alias or name][value] if isinstance(value, str) else value


def _copy(model: NodePool | Gke, paths: Mapping[str, str], body: Json) -> None:
    for name, path in paths.items():
        value = getattr(model, name)
        _put(body, path, dict(value) if isinstance(value, Mapping) else value)


def _put(body: Json, path: str, value: Any) -> None:
    """Set a.b.c, unless the value is None: what is not said is not sent."""
    if value is None:
        return
    *outer, last = path.split(".")
    for part in outer:
        body = body.setdefault(part, {})
    body[last] = value
