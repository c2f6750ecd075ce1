"""The part of a document that is for GKE alone, in gcloud's words: `--enable-fqdn-network-policy` is `enableFqdnNetworkPolicy`. Pure.

A field that is left out is left out of the request, and GKE's default holds; so `None` and `False` differ. A word that GKE has and this
project has not met yet can be given by its number in the API, and is passed on. `gke_problems` says what gcloud itself would refuse
before it asks GKE; which features go together is for the compatibility gates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_network
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, StrictStr

from provisioner.spec.fields import Model, invalid
from provisioner.spec.networks import Problem

if TYPE_CHECKING:
    from provisioner.spec.models import ClusterSpec

DEFAULT_POOL: Final = "default-pool"
DEFAULT_NUM_NODES: Final = 3

# Field -> gcloud's word -> the API's name.
WORDS: Final[Mapping[str, Mapping[str, str]]] = {
    "stackType": {"ipv4": "IPV4", "ipv4-ipv6": "IPV4_IPV6"},
    "ipv6AccessType": {"internal": "INTERNAL", "external": "EXTERNAL"},
    "inTransitEncryption": {
        "inter-node-transparent": "IN_TRANSIT_ENCRYPTION_INTER_NODE_TRANSPARENT",
        "none": "IN_TRANSIT_ENCRYPTION_DISABLED",
    },
    "clusterDns": {"clouddns": "CLOUD_DNS", "kubedns": "KUBE_DNS", "default": "PLATFORM_DEFAULT"},
    "clusterDnsScope": {"cluster": "CLUSTER_SCOPE", "vpc": "VPC_SCOPE"},
    "gatewayApi": {"standard": "CHANNEL_STANDARD", "disabled": "CHANNEL_DISABLED"},
    "releaseChannel": {"rapid": "RAPID", "regular": "REGULAR", "stable": "STABLE", "extended": "EXTENDED", "None": "UNSPECIFIED"},
    "workloadMetadata": {"GKE_METADATA": "GKE_METADATA", "GCE_METADATA": "GCE_METADATA"},
    "locationPolicy": {"BALANCED": "BALANCED", "ANY": "ANY"},
    "taintEffect": {"NoSchedule": "NO_SCHEDULE", "PreferNoSchedule": "PREFER_NO_SCHEDULE", "NoExecute": "NO_EXECUTE"},
}
# In the order in which gcloud sends them.
LOGGING_COMPONENTS: Final[Mapping[str, str]] = {
    "SYSTEM": "SYSTEM_COMPONENTS",
    "WORKLOAD": "WORKLOADS",
    "API_SERVER": "APISERVER",
    "SCHEDULER": "SCHEDULER",
    "CONTROLLER_MANAGER": "CONTROLLER_MANAGER",
    "KCP_SSHD": "KCP_SSHD",
    "KCP_CONNECTION": "KCP_CONNECTION",
    "KCP_HPA": "KCP_HPA",
}
MONITORING_COMPONENTS: Final[Mapping[str, str]] = {
    "SYSTEM": "SYSTEM_COMPONENTS",
    "WORKLOAD": "WORKLOADS",
    "API_SERVER": "APISERVER",
    "SCHEDULER": "SCHEDULER",
    "CONTROLLER_MANAGER": "CONTROLLER_MANAGER",
    **{name: name for name in ("STORAGE", "HPA", "POD", "DAEMONSET", "DEPLOYMENT", "STATEFULSET", "CADVISOR", "KUBELET", "DCGM", "JOBSET")},
}
# gcloud's word -> the field of AddonsConfig. The first three are switched off by a list that does not name them, as in gcloud.
ADDONS_OFF_UNLESS_NAMED: Final[Mapping[str, str]] = {
    "HttpLoadBalancing": "httpLoadBalancing",
    "HorizontalPodAutoscaling": "horizontalPodAutoscaling",
    "KubernetesDashboard": "kubernetesDashboard",
    "NetworkPolicy": "networkPolicyConfig",
}
ADDONS: Final[Mapping[str, str]] = {
    "NodeLocalDNS": "dnsCacheConfig",
    "ConfigConnector": "configConnectorConfig",
    "GcePersistentDiskCsiDriver": "gcePersistentDiskCsiDriverConfig",
    "GcpFilestoreCsiDriver": "gcpFilestoreCsiDriverConfig",
    "BackupRestore": "gkeBackupAgentConfig",
    "GcsFuseCsiDriver": "gcsFuseCsiDriverConfig",
    "StatefulHA": "statefulHaConfig",
    "ParallelstoreCsiDriver": "parallelstoreCsiDriverConfig",
    "HighScaleCheckpointing": "highScaleCheckpointingConfig",
    "LustreCsiDriver": "lustreCsiDriverConfig",
    "RayOperator": "rayOperatorConfig",
}

_LOCATION = re.compile(r"[a-z]+(-[a-z0-9]+){1,3}")
_PROJECT = re.compile(r"([a-z0-9.-]+:)?[a-z0-9-]+")
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
_TAINT = re.compile(r"([^=:]+)=([^=:]*):([A-Za-z]+)")
_SCOPE = re.compile(r"https://\S+|gke-default|cloud-platform")
_DISK = re.compile(r"(\d+)(GB|GiB|TB|TiB)?")


def _word(field: str) -> BeforeValidator:
    words = WORDS[field]

    def check(value: object) -> object:
        if (isinstance(value, str) and value in words) or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        raise invalid(f"is {value!r}", f"Use {' or '.join(words)}, or the value's number in the API.")

    return BeforeValidator(check)


def _listed(names: Iterable[str]) -> BeforeValidator:
    known = list(names)

    def check(value: object) -> object:
        for item in _list(value):
            if item not in known:
                raise invalid(f"has {item!r}", f"Use of these: {', '.join(known)}.")
        return _list(value)

    return BeforeValidator(check)


def _list(value: object) -> list[Any]:
    if isinstance(value, list | tuple):
        return list(value)
    raise invalid(f"is {value!r}, which is not a list", "Write one `- item` a line.")


def _matching(pattern: re.Pattern[str], what: str, example: str) -> BeforeValidator:
    def check(value: object) -> object:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise invalid(f"is {value!r}, which is not {what}", f"Write it as in {example}.")
        return value

    return BeforeValidator(check)


def _range(value: object) -> object:
    """A network, or a prefix length alone: GKE picks the network then."""
    if isinstance(value, str):
        try:
            if re.fullmatch(r"/\d{1,2}", value) and 8 <= int(value[1:]) <= 32:
                return value
            return str(ip_network(value))
        except ValueError:
            pass
    raise invalid(f"is {value!r}, which is not a network", "Write address/length, as in 10.0.0.0/14, or /14 for any of that size.")


def _network(value: object) -> object:
    if isinstance(value, str) and "/" in value:
        try:
            return str(ip_network(value))
        except ValueError:
            pass
    raise invalid(f"is {value!r}, which is not a network", "Write address/length, as in 203.0.113.0/24.")


def _gigabytes(value: object) -> object:
    match = _DISK.fullmatch(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None
    if match is None:
        raise invalid(f"is {value!r}, which is not a size", "Write gigabytes, as in 100 or 100GB.")
    return int(match[1]) * (1024 if (match[2] or "").startswith("T") else 1)


Word = StrictStr | StrictInt
Text = StrictStr | None
Switch = StrictBool | None
Range = Annotated[StrictStr, BeforeValidator(_range)]
Network = Annotated[StrictStr, BeforeValidator(_network)]
Taint = Annotated[StrictStr, _matching(_TAINT, "a taint", "dedicated=infra:NoSchedule")]
Scope = Annotated[StrictStr, _matching(_SCOPE, "a scope", "gke-default, cloud-platform or https://www.googleapis.com/auth/NAME")]
Gigabytes = Annotated[StrictInt, BeforeValidator(_gigabytes)]


class _Nodes(Model):
    """What the nodes of a pool are; said for GKE as a whole, it is the default pool's."""

    machine_type: Text = Field(None, description="Compute Engine's machine type.")
    disk_size: Gigabytes | None = Field(None, description="Of the boot disk, in GB.")
    disk_type: Text = Field(None, description="pd-standard, pd-balanced, pd-ssd, hyperdisk-balanced.")
    image_type: Text = Field(None, description="COS_CONTAINERD, UBUNTU_CONTAINERD, WINDOWS_LTSC_CONTAINERD.")
    min_cpu_platform: Text = Field(None, description="The least CPU platform.")
    node_labels: dict[StrictStr, StrictStr] | None = Field(None, description="Kubernetes labels of the nodes.")
    node_taints: tuple[Taint, ...] | None = Field(None, description="KEY=VALUE:EFFECT.")
    tags: tuple[StrictStr, ...] | None = Field(None, description="Compute Engine's network tags.")
    metadata: dict[StrictStr, StrictStr] | None = Field(None, description="Compute Engine's instance metadata.")
    spot: Switch = Field(None, description="Spot machines.")
    preemptible: Switch = Field(None, description="Preemptible machines.")
    service_account: Text = Field(None, description="That the nodes run as.")
    scopes: tuple[Scope, ...] | None = Field(None, description="OAuth scopes: full URLs, or gke-default.")
    workload_metadata: Annotated[Word, _word("workloadMetadata")] | None = Field(None, description="What pods see as metadata server.")
    shielded_secure_boot: Switch = Field(None, description="Secure boot of shielded nodes.")
    shielded_integrity_monitoring: Switch = Field(None, description="Integrity monitoring of shielded nodes.")
    enable_gvnic: Switch = Field(None, description="Google's virtual network interface.")
    enable_autoscaling: Switch = Field(None, description="The cluster autoscaler for this pool.")
    min_nodes: StrictInt | None = Field(None, ge=0, description="Of an autoscaled pool, in each zone.")
    max_nodes: StrictInt | None = Field(None, ge=0, description="Of an autoscaled pool, in each zone.")
    total_min_nodes: StrictInt | None = Field(None, ge=0, description="Of an autoscaled pool, over all zones.")
    total_max_nodes: StrictInt | None = Field(None, ge=0, description="Of an autoscaled pool, over all zones.")
    location_policy: Annotated[Word, _word("locationPolicy")] | None = Field(None, description="How the autoscaler spreads over zones.")
    max_pods_per_node: StrictInt | None = Field(None, ge=8, le=512, description="Of this pool's nodes.")
    enable_autorepair: Switch = Field(None, description="Repair nodes that are not well. On by default.")
    enable_autoupgrade: Switch = Field(None, description="Upgrade nodes with the control plane. On by default.")
    max_surge_upgrade: StrictInt | None = Field(None, ge=0, description="Nodes more than the pool's size during an upgrade.")
    max_unavailable_upgrade: StrictInt | None = Field(None, ge=0, description="Nodes away at once during an upgrade.")
    node_version: Text = Field(None, description="Kubernetes of the nodes; by default the control plane's.")


class NodePool(_Nodes):
    """One of `nodePools`."""

    name: StrictStr = Field(description="Unique in the cluster.", pattern=r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$")
    num_nodes: StrictInt = Field(DEFAULT_NUM_NODES, ge=0, description="In each zone.")
    node_locations: tuple[StrictStr, ...] | None = Field(None, description="Zones of this pool.")


class CreateSubnetwork(Model):
    """A subnetwork that GKE makes for the cluster."""

    name: Text = Field(None, description="By default one that GKE makes up.")
    range: Range | None = Field(None, description="The nodes' addresses.")


class LogRule(Model):
    """One half of NetworkLogging's `cluster`."""

    log: StrictBool = Field(default=False, description="Whether such connections are logged.")
    delegate: StrictBool = Field(default=False, description="Whether an annotation of the policy (allow) or namespace (deny) decides.")


class NetworkLogging(Model):
    """Network policy logging: applied to the cluster once it is there, for the API has no field for it."""

    allow: LogRule = Field(default_factory=LogRule, description="Connections that a policy allows.")
    deny: LogRule = Field(default_factory=LogRule, description="Connections that policies deny.")


class Gke(_Nodes):
    """Where the cluster is made, and with which of GKE's features. Each field is the flag of `gcloud container clusters create`."""

    project: Annotated[StrictStr, _matching(_PROJECT, "a project's id", "my-project-1")] | None = Field(
        None, description="The project's id; by default that of the credentials."
    )
    location: Annotated[StrictStr, _matching(_LOCATION, "a region or zone", "europe-west1 or europe-west1-b")] | None = Field(
        None, description="A region or a zone."
    )
    autopilot: StrictBool = Field(default=False, description="An Autopilot cluster: GKE makes and keeps the nodes.")
    node_locations: tuple[StrictStr, ...] | None = Field(None, description="Zones of the nodes.")
    node_pools: tuple[NodePool, ...] | None = Field(None, min_length=1, description="Instead of one default pool.")

    network: Text = Field(None, description="The VPC network.")
    subnetwork: Text = Field(None, description="A subnetwork of it.")
    create_subnetwork: CreateSubnetwork | None = Field(None, description="A subnetwork made with the cluster.")
    enable_ip_alias: Switch = Field(None, description="Pods' addresses from alias ranges (VPC-native), or by routes.")
    cluster_ipv4_cidr: Range | None = Field(None, description="Pods' addresses.")
    services_ipv4_cidr: Range | None = Field(None, description="Services' addresses.")
    cluster_secondary_range_name: Text = Field(None, description="The subnetwork's range for pods.")
    services_secondary_range_name: Text = Field(None, description="The subnetwork's range for Services.")
    ipv6_access_type: Annotated[Word, _word("ipv6AccessType")] | None = Field(None, description="internal or external.")
    default_max_pods_per_node: StrictInt | None = Field(None, ge=8, le=512, description="Of all pools that do not say.")

    enable_private_nodes: Switch = Field(None, description="Nodes without external addresses.")
    enable_private_endpoint: Switch = Field(None, description="A control plane without an external address.")
    master_ipv4_cidr: Network | None = Field(None, description="The control plane's addresses.")
    enable_master_authorized_networks: Switch = Field(None, description="Only the networks named reach the control plane.")
    master_authorized_networks: tuple[Network, ...] | None = Field(None, description="Which networks.")
    enable_dns_access: Switch = Field(None, description="The control plane is reached by its DNS name from anywhere.")
    disable_default_snat: Switch = Field(None, description="Pods keep their addresses towards the outside.")

    enable_network_policy: Switch = Field(None, description="The Calico add-on; not with Dataplane V2, which enforces policies itself.")
    enable_fqdn_network_policy: Switch = Field(None, description="FQDNNetworkPolicy.")
    enable_cilium_clusterwide_network_policy: Switch = Field(None, description="CiliumClusterwideNetworkPolicy.")
    in_transit_encryption: Annotated[Word, _word("inTransitEncryption")] | None = Field(None, description="Between nodes, by WireGuard.")
    enable_dataplane_v2_metrics: Switch = Field(None, alias="enableDataplaneV2Metrics", description="Dataplane V2 metrics.")
    enable_dataplane_v2_flow_observability: Switch = Field(
        None, alias="enableDataplaneV2FlowObservability", description="Hubble relay."
    )
    enable_multi_networking: Switch = Field(None, description="Pods with several networks.")
    enable_intra_node_visibility: Switch = Field(None, description="Traffic within a node passes the VPC's flow logs and firewall.")
    enable_l4_ilb_subsetting: Switch = Field(None, description="Internal load balancers over a subset of nodes. Cannot be undone.")
    disable_l4_lb_firewall_reconciliation: Switch = Field(None, description="Leave the firewall of load balancers alone.")
    enable_service_externalips: Switch = Field(None, description="externalIPs of Services.")
    network_logging: NetworkLogging | None = Field(None, description="Network policy logging.")

    cluster_dns: Annotated[Word, _word("clusterDns")] | None = Field(None, description="clouddns, kubedns or default.")
    cluster_dns_scope: Annotated[Word, _word("clusterDnsScope")] | None = Field(None, description="cluster or vpc.")
    cluster_dns_domain: Text = Field(None, description="Instead of cluster.local.")
    gateway_api: Annotated[Word, _word("gatewayApi")] | None = Field(None, description="standard or disabled.")
    addons: Annotated[tuple[StrictStr, ...], _listed([*ADDONS_OFF_UNLESS_NAMED, *ADDONS])] | None = Field(
        None, description="All add-ons that are wanted: a list switches off those of gcloud's defaults that it does not name."
    )
    release_channel: Annotated[Word, _word("releaseChannel")] | None = Field(None, description="rapid, regular, stable, extended, None.")
    cluster_version: Text = Field(None, description="Kubernetes of the control plane: 1.34, 1.34.1-gke.1000000, latest.")
    workload_pool: Text = Field(None, description="Workload identity: PROJECT.svc.id.goog.")
    logging: Annotated[tuple[StrictStr, ...], _listed(["NONE", *LOGGING_COMPONENTS])] | None = Field(
        None, description="Components whose logs go to Cloud Logging."
    )
    monitoring: Annotated[tuple[StrictStr, ...], _listed(["NONE", *MONITORING_COMPONENTS])] | None = Field(
        None, description="Components whose metrics go to Cloud Monitoring."
    )
    enable_managed_prometheus: Switch = Field(None, description="Managed Service for Prometheus.")
    enable_shielded_nodes: Switch = Field(None, description="Shielded nodes.")
    enable_vertical_pod_autoscaling: Switch = Field(None, description="Vertical Pod Autoscaling.")
    enable_image_streaming: Switch = Field(None, description="Image streaming.")


# What only an alias cluster can have (Autopilot is always one), in gcloud's own checks.
_NEED_ALIAS = (
    "services_ipv4_cidr", "create_subnetwork", "cluster_secondary_range_name", "services_secondary_range_name", "ipv6_access_type",
    "enable_private_nodes", "default_max_pods_per_node", "max_pods_per_node", "disable_default_snat",
)  # fmt: skip
_NEED_PRIVATE_NODES = ("enable_private_endpoint", "master_ipv4_cidr", "disable_default_snat")
_NEED_AUTOSCALING = ("min_nodes", "max_nodes", "total_min_nodes", "total_max_nodes", "location_policy")
# create-auto has no words for these: the nodes are GKE's.
_AUTOPILOT_LACKS = (
    *(name for name in _Nodes.model_fields if name not in {"service_account", "scopes"}),
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
    """What can be told of a spec for GKE without asking it: the checks that gcloud makes."""
    yield from _names(spec)
    yield from _not_for_gke(spec)
    gke = spec.gke
    given = _given(gke)
    stack = {"stack_type"} if "stack_type" in spec.body.model_fields_set else set()
    if gke.autopilot:
        for name in _AUTOPILOT_LACKS:
            if name in given:
                yield _problem(name, "is not for an Autopilot cluster, whose nodes GKE makes", "Leave it out, or leave autopilot out.")
        if "num_nodes" in spec.body.model_fields_set:
            yield Problem(("spec", "numNodes"), "is not for an Autopilot cluster, whose nodes GKE makes", "Leave it out.")
    elif not gke.enable_ip_alias:
        yield from _needs(given, _NEED_ALIAS, "enableIpAlias")
        if stack:
            yield Problem(("spec", "stackType"), "needs enableIpAlias", "Set spec.gke.enableIpAlias: true (--enable-ip-alias).")
    if not gke.enable_private_nodes:
        yield from _needs(given, _NEED_PRIVATE_NODES, "enablePrivateNodes")
    if not gke.enable_autoscaling:
        yield from _needs(given, _NEED_AUTOSCALING, "enableAutoscaling")
    if not gke.enable_master_authorized_networks:
        yield from _needs(given, ("master_authorized_networks",), "enableMasterAuthorizedNetworks")
    if gke.cluster_dns is None:
        yield from _needs(given, ("cluster_dns_scope", "cluster_dns_domain"), "clusterDns")
    if gke.subnetwork is not None and gke.create_subnetwork is not None:
        yield _problem("create_subnetwork", "and subnetwork exclude each other", "Leave one of them out.")
    if gke.node_pools is not None:
        yield from _pools(spec, given)
    if "ConfigConnector" in (gke.addons or ()) and gke.workload_pool is None:
        yield _problem("addons", "has ConfigConnector, which needs workloadPool", "Set spec.gke.workloadPool: PROJECT.svc.id.goog.")
    if (gke.shielded_secure_boot is None) != (gke.shielded_integrity_monitoring is None):
        yield _problem("shielded_secure_boot", "and shieldedIntegrityMonitoring go together", "Give both, or none.")
    for name, components in (("logging", gke.logging), ("monitoring", gke.monitoring)):
        yield from _components(name, components)


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
    for name in sorted(given & set(_Nodes.model_fields)):
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
