"""The flags for GKE, in gcloud's words: one table, from which create-cluster gets its options and the document its values.

Nothing of the spec is imported here: `--help` must not wait for it. A test holds the table against the fields of `provisioner.spec.gke`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer

from provisioner import errors


class Kind(StrEnum):
    """How a flag's value is written."""

    TEXT = "text"
    WORD = "word"  # a word of gcloud, or the number of one that is not known here
    NUMBER = "number"
    SWITCH = "switch"  # --name and --no-name
    OPPOSED = "opposed"  # --enable-x and --disable-x
    LIST = "list"  # a,b,c
    PAIRS = "pairs"  # k=v,k=v
    RULES = "rules"  # allow,deny,allow-delegate,deny-delegate


@dataclass(frozen=True, slots=True)
class Flag:
    """`name` is the spec's field in snake_case; `names` the flags, if they are not its kebab-case."""

    name: str
    kind: Kind
    text: str
    names: tuple[str, ...] = ()
    metavar: str | None = None

    @property
    def flags(self) -> tuple[str, ...]:
        kebab = self.name.replace("_", "-")
        if self.kind is Kind.SWITCH:
            return (f"--{kebab}/--no-{kebab}",)
        if self.kind is Kind.OPPOSED:
            return (f"--{kebab}/--{kebab.replace('enable-', 'disable-', 1)}",)
        return self.names or (f"--{kebab}",)

    @property
    def shown(self) -> str:
        """As errors name it."""
        return self.flags[0].partition("/")[0]

    @property
    def field(self) -> str:
        head, *rest = self.name.split("_")
        return head + "".join(part[:1].upper() + part[1:] for part in rest)

    def parameter(self) -> inspect.Parameter:
        """For Typer."""
        types: Mapping[Kind, Any] = {Kind.NUMBER: int | None, Kind.SWITCH: bool | None, Kind.OPPOSED: bool | None}
        option = typer.Option(*self.flags, help=self.text, metavar=self.metavar, show_default=False)
        annotation: Any = Annotated[types.get(self.kind, str | None), option]
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


GKE_FLAGS = (
    Flag("project", Kind.TEXT, "GKE: the project's id. [default: that of the credentials]"),
    Flag("location", Kind.TEXT, "GKE: a region or a zone.", ("--location", "--region", "--zone")),
    Flag("autopilot", Kind.SWITCH, "GKE: an Autopilot cluster."),
    Flag("cluster_version", Kind.TEXT, "GKE: 1.34, 1.34.1-gke.1000000, latest.", metavar="VERSION"),
    Flag("release_channel", Kind.WORD, "GKE: rapid, regular, stable, extended, None.", metavar="CHANNEL"),
    Flag("node_version", Kind.TEXT, "GKE: Kubernetes of the nodes.", metavar="VERSION"),
    Flag("node_locations", Kind.LIST, "GKE: zones of the nodes.", metavar="ZONE,..."),
    Flag("network", Kind.TEXT, "GKE: the VPC network."),
    Flag("subnetwork", Kind.TEXT, "GKE: a subnetwork of it."),
    Flag("create_subnetwork", Kind.PAIRS, "GKE: make a subnetwork with the cluster.", metavar="[name=NAME][,range=CIDR]"),
    Flag("enable_ip_alias", Kind.SWITCH, "GKE: pods' addresses from alias ranges (VPC-native), or by routes."),
    Flag("cluster_ipv4_cidr", Kind.TEXT, "GKE: pods' addresses.", metavar="CIDR"),
    Flag("services_ipv4_cidr", Kind.TEXT, "GKE: Services' addresses.", metavar="CIDR"),
    Flag("cluster_secondary_range_name", Kind.TEXT, "GKE: the subnetwork's range for pods.", metavar="NAME"),
    Flag("services_secondary_range_name", Kind.TEXT, "GKE: the subnetwork's range for Services.", metavar="NAME"),
    Flag("ipv6_access_type", Kind.WORD, "GKE: internal or external.", metavar="TYPE"),
    Flag("default_max_pods_per_node", Kind.NUMBER, "GKE: for all pools that do not say.", metavar="N"),
    Flag("enable_private_nodes", Kind.SWITCH, "GKE: nodes without external addresses."),
    Flag("enable_private_endpoint", Kind.SWITCH, "GKE: a control plane without an external address."),
    Flag("master_ipv4_cidr", Kind.TEXT, "GKE: the control plane's addresses.", metavar="CIDR"),
    Flag("enable_master_authorized_networks", Kind.SWITCH, "GKE: only the networks named reach the control plane."),
    Flag("master_authorized_networks", Kind.LIST, "GKE: which networks.", metavar="CIDR,..."),
    Flag("enable_dns_access", Kind.SWITCH, "GKE: the control plane is reached by its DNS name."),
    Flag("disable_default_snat", Kind.SWITCH, "GKE: pods keep their addresses towards the outside."),
    Flag("enable_network_policy", Kind.SWITCH, "GKE: the Calico add-on."),
    Flag("enable_fqdn_network_policy", Kind.SWITCH, "GKE: FQDNNetworkPolicy."),
    Flag("enable_cilium_clusterwide_network_policy", Kind.SWITCH, "GKE: CiliumClusterwideNetworkPolicy."),
    Flag("in_transit_encryption", Kind.WORD, "GKE: inter-node-transparent or none.", metavar="MODE"),
    Flag("enable_dataplane_v2_metrics", Kind.OPPOSED, "GKE: Dataplane V2 metrics."),
    Flag("enable_dataplane_v2_flow_observability", Kind.OPPOSED, "GKE: Hubble relay."),
    Flag("network_logging", Kind.RULES, "GKE: network policy logging: allow, deny, allow-delegate, deny-delegate.", metavar="RULE,..."),
    Flag("enable_multi_networking", Kind.SWITCH, "GKE: pods with several networks."),
    Flag("enable_intra_node_visibility", Kind.SWITCH, "GKE: the VPC sees traffic within a node."),
    Flag("enable_l4_ilb_subsetting", Kind.SWITCH, "GKE: internal load balancers over a subset of nodes."),
    Flag("disable_l4_lb_firewall_reconciliation", Kind.SWITCH, "GKE: leave the firewall of load balancers alone."),
    Flag("enable_service_externalips", Kind.SWITCH, "GKE: externalIPs of Services."),
    Flag("cluster_dns", Kind.WORD, "GKE: clouddns, kubedns or default.", metavar="PROVIDER"),
    Flag("cluster_dns_scope", Kind.WORD, "GKE: cluster or vpc.", metavar="SCOPE"),
    Flag("cluster_dns_domain", Kind.TEXT, "GKE: instead of cluster.local.", metavar="DOMAIN"),
    Flag("gateway_api", Kind.WORD, "GKE: standard or disabled.", metavar="CHANNEL"),
    Flag("addons", Kind.LIST, "GKE: all add-ons that are wanted.", metavar="NAME,..."),
    Flag("workload_pool", Kind.TEXT, "GKE: workload identity, PROJECT.svc.id.goog.", metavar="POOL"),
    Flag("logging", Kind.LIST, "GKE: SYSTEM,WORKLOAD,..., or NONE.", metavar="COMPONENT,..."),
    Flag("monitoring", Kind.LIST, "GKE: SYSTEM,POD,..., or NONE.", metavar="COMPONENT,..."),
    Flag("enable_managed_prometheus", Kind.SWITCH, "GKE: Managed Service for Prometheus."),
    Flag("enable_shielded_nodes", Kind.SWITCH, "GKE: shielded nodes."),
    Flag("enable_vertical_pod_autoscaling", Kind.SWITCH, "GKE: Vertical Pod Autoscaling."),
    Flag("enable_image_streaming", Kind.SWITCH, "GKE: image streaming."),
    Flag("machine_type", Kind.TEXT, "GKE: of the nodes.", ("--machine-type", "-m")),
    Flag("disk_size", Kind.TEXT, "GKE: of the nodes, in GB.", metavar="SIZE"),
    Flag("disk_type", Kind.TEXT, "GKE: of the nodes."),
    Flag("image_type", Kind.TEXT, "GKE: of the nodes."),
    Flag("min_cpu_platform", Kind.TEXT, "GKE: of the nodes."),
    Flag("node_labels", Kind.PAIRS, "GKE: of the nodes.", metavar="KEY=VALUE,..."),
    Flag("node_taints", Kind.LIST, "GKE: of the nodes.", metavar="KEY=VALUE:EFFECT,..."),
    Flag("tags", Kind.LIST, "GKE: network tags of the nodes.", metavar="TAG,..."),
    Flag("metadata", Kind.PAIRS, "GKE: instance metadata of the nodes.", metavar="KEY=VALUE,..."),
    Flag("spot", Kind.SWITCH, "GKE: Spot machines."),
    Flag("preemptible", Kind.SWITCH, "GKE: preemptible machines."),
    Flag("service_account", Kind.TEXT, "GKE: that the nodes run as."),
    Flag("scopes", Kind.LIST, "GKE: OAuth scopes of the nodes.", metavar="SCOPE,..."),
    Flag("workload_metadata", Kind.WORD, "GKE: GKE_METADATA or GCE_METADATA."),
    Flag("shielded_secure_boot", Kind.SWITCH, "GKE: of shielded nodes."),
    Flag("shielded_integrity_monitoring", Kind.SWITCH, "GKE: of shielded nodes."),
    Flag("enable_gvnic", Kind.SWITCH, "GKE: Google's virtual network interface."),
    Flag("enable_autoscaling", Kind.SWITCH, "GKE: the cluster autoscaler."),
    Flag("min_nodes", Kind.NUMBER, "GKE: in each zone, autoscaled.", metavar="N"),
    Flag("max_nodes", Kind.NUMBER, "GKE: in each zone, autoscaled.", metavar="N"),
    Flag("total_min_nodes", Kind.NUMBER, "GKE: over all zones, autoscaled.", metavar="N"),
    Flag("total_max_nodes", Kind.NUMBER, "GKE: over all zones, autoscaled.", metavar="N"),
    Flag("location_policy", Kind.WORD, "GKE: BALANCED or ANY.", metavar="POLICY"),
    Flag("max_pods_per_node", Kind.NUMBER, "GKE: of the default pool.", metavar="N"),
    Flag("enable_autorepair", Kind.SWITCH, "GKE: repair nodes that are not well."),
    Flag("enable_autoupgrade", Kind.SWITCH, "GKE: upgrade nodes with the control plane."),
    Flag("max_surge_upgrade", Kind.NUMBER, "GKE: nodes more during an upgrade.", metavar="N"),
    Flag("max_unavailable_upgrade", Kind.NUMBER, "GKE: nodes away during an upgrade.", metavar="N"),
)  # fmt: skip

_RULES = {
    "allow": ("allow", "log"),
    "deny": ("deny", "log"),
    "allow-delegate": ("allow", "delegate"),
    "deny-delegate": ("deny", "delegate"),
}


def with_gke_flags(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with the flags of the table; it receives those that were given as `gke`: name -> value."""
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "gke"]

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        gke = {flag.name: value for flag in GKE_FLAGS if (value := values.pop(flag.name)) is not None}
        command(**values, gke=gke)

    wrapped.__signature__ = signature.replace(parameters=[*own, *(flag.parameter() for flag in GKE_FLAGS)])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {"return": None}
    del wrapped.__wrapped__
    return wrapped


def document_values(given: Mapping[str, Any]) -> Mapping[str, tuple[Any, str]]:
    """Field of the document -> value and the flag it came from. Raises `errors.Usage` for what cannot be read."""
    return {flag.field: (_read(flag, given[flag.name]), flag.shown) for flag in GKE_FLAGS if flag.name in given}


def _read(flag: Flag, value: Any) -> Any:
    match flag.kind:
        case Kind.WORD:
            return int(value) if value.isdigit() else value
        case Kind.LIST:
            return [part for part in value.split(",") if part]
        case Kind.PAIRS:
            return _pairs(flag, value)
        case Kind.RULES:
            return _rules(flag, value)
        case _:
            return value


def _pairs(flag: Flag, text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in text.split(",") if text else ():
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise errors.Usage(f"{flag.shown} {text!r}: {part!r} is not KEY=VALUE", remedy="Separate pairs by commas.", field=flag.shown)
        pairs[key] = value
    return pairs


def _rules(flag: Flag, text: str) -> dict[str, dict[str, bool]]:
    rules: dict[str, dict[str, bool]] = {}
    for word in text.split(","):
        if word not in _RULES:
            raise errors.Usage(f"{flag.shown}: there is no rule {word!r}", remedy=f"Use of these: {', '.join(_RULES)}.", field=flag.shown)
        side, switch = _RULES[word]
        rules.setdefault(side, {})[switch] = True
    return rules
