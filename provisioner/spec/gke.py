"""The part of a document that is for GKE alone, in gcloud's words: `--enable-fqdn-network-policy` is `enableFqdnNetworkPolicy`. Pure.

A field that is left out is left out of the request, and GKE's default holds; so `None` and `False` differ. A word that GKE has and this
project has not met yet can be given by its number in the API, and is passed on. What gcloud itself would refuse before it asks GKE
is in `gke_checks`; which features go together is for the compatibility gates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, StrictStr

from provisioner.spec.fields import Model, invalid

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


class Nodes(Model):
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


class NodePool(Nodes):
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


class Gke(Nodes):
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
    enable_dataplane_v2_flow_observability: Switch = Field(None, alias="enableDataplaneV2FlowObservability", description="Hubble relay.")
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
