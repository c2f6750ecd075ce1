"""What the stand-in knows of Google's provider, as tables.

An argument is written as its type and its marks: `!` required, `?` optional, `=` computed, `*` a change replaces the resource. A block has the
same, below its own name; `max` is how many may be given, 0 for any number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

STRING, NUMBER, BOOL = "string", "number", "bool"


@dataclass(frozen=True)
class Block:
    """Arguments and nested blocks, both by name."""

    arguments: Mapping[str, str] = field(default_factory=dict)
    blocks: Mapping[str, Block] = field(default_factory=dict)
    max: int = 1
    replaces: bool = False
    conflicts: tuple[tuple[str, str], ...] = ()


_ENABLED = Block({"enabled": "bool !"})
_DISABLED = Block({"disabled": "bool !"})
_NODE_CONFIG = Block(
    {
        "machine_type": "string ?=",
        "disk_size_gb": "number ?=",
        "disk_type": "string ?=",
        "image_type": "string ?=",
        "labels": "map(string) ?=",
        "resource_labels": "map(string) ?",
        "tags": "list(string) ?",
        "metadata": "map(string) ?=",
        "spot": "bool ?*",
        "service_account": "string ?=",
        "oauth_scopes": "set(string) ?=",
    },
    {
        "taint": Block({"key": "string !", "value": "string !", "effect": "string !"}, max=0),
        "workload_metadata_config": Block({"mode": "string !"}),
        "shielded_instance_config": Block({"enable_secure_boot": "bool ?", "enable_integrity_monitoring": "bool ?"}),
    },
)

PROVIDER = Block({"project": "string ?", "region": "string ?", "zone": "string ?", "credentials": "string ?"})

RESOURCES: Mapping[str, Block] = {
    "google_container_cluster": Block(
        {
            "id": "string =",
            "name": "string !*",
            "project": "string ?=*",
            "location": "string ?=*",
            "node_locations": "set(string) ?=",
            "description": "string ?*",
            "resource_labels": "map(string) ?",
            "deletion_protection": "bool ?",
            "initial_node_count": "number ?*",
            "remove_default_node_pool": "bool ?",
            "enable_autopilot": "bool ?*",
            "network": "string ?*",
            "subnetwork": "string ?=*",
            "networking_mode": "string ?=*",
            "default_max_pods_per_node": "number ?=*",
            "min_master_version": "string ?",
            "datapath_provider": "string ?=*",
            "enable_fqdn_network_policy": "bool ?",
            "enable_cilium_clusterwide_network_policy": "bool ?",
            "in_transit_encryption_config": "string ?",
            "enable_multi_networking": "bool ?",
            "enable_l4_ilb_subsetting": "bool ?",
            "disable_l4_lb_firewall_reconciliation": "bool ?",
            "enable_intranode_visibility": "bool ?=",
            "endpoint": "string =",
            "self_link": "string =",
            "master_version": "string =",
            "services_ipv4_cidr": "string =",
        },
        {
            "network_policy": Block({"enabled": "bool !", "provider": "string ?"}),
            "ip_allocation_policy": Block(
                {
                    "cluster_secondary_range_name": "string ?=*",
                    "services_secondary_range_name": "string ?=*",
                    "cluster_ipv4_cidr_block": "string ?=*",
                    "services_ipv4_cidr_block": "string ?=*",
                    "stack_type": "string ?",
                },
                replaces=True,
            ),
            "addons_config": Block(
                {}, {"network_policy_config": _DISABLED, "dns_cache_config": _ENABLED, "gcs_fuse_csi_driver_config": _ENABLED}
            ),
            "release_channel": Block({"channel": "string !"}),
            "workload_identity_config": Block({"workload_pool": "string ?"}),
            "private_cluster_config": Block(
                {
                    "enable_private_nodes": "bool ?*",
                    "enable_private_endpoint": "bool ?",
                    "master_ipv4_cidr_block": "string ?=*",
                    "private_endpoint": "string =",
                }
            ),
            "master_authorized_networks_config": Block(
                {}, {"cidr_blocks": Block({"cidr_block": "string !", "display_name": "string ?"}, max=0)}
            ),
            "dns_config": Block({"cluster_dns": "string ?", "cluster_dns_scope": "string ?", "cluster_dns_domain": "string ?"}),
            "gateway_api_config": Block({"channel": "string !"}),
            "logging_config": Block({"enable_components": "list(string) !"}),
            "monitoring_config": Block(
                {"enable_components": "list(string) ?="},
                {
                    "managed_prometheus": _ENABLED,
                    "advanced_datapath_observability_config": Block({"enable_metrics": "bool !", "enable_relay": "bool !"}),
                },
            ),
            "master_auth": Block(
                {"cluster_ca_certificate": "string =", "client_certificate": "string ="},
                {"client_certificate_config": Block({"issue_client_certificate": "bool !*"})},
            ),
            "node_config": _NODE_CONFIG,
            "timeouts": Block({"create": "string ?", "update": "string ?", "delete": "string ?"}),
        },
        conflicts=(
            ("enable_autopilot", "network_policy"),
            ("enable_autopilot", "enable_intranode_visibility"),
            ("enable_autopilot", "remove_default_node_pool"),
        ),
    ),
    "google_container_node_pool": Block(
        {
            "id": "string =",
            "name": "string ?=*",
            "project": "string ?=*",
            "location": "string ?=*",
            "cluster": "string !*",
            "version": "string ?=",
            "node_locations": "set(string) ?=",
            "initial_node_count": "number ?=*",
            "node_count": "number ?=",
            "max_pods_per_node": "number ?=*",
        },
        {
            "autoscaling": Block(
                {
                    "min_node_count": "number ?",
                    "max_node_count": "number ?",
                    "total_min_node_count": "number ?",
                    "total_max_node_count": "number ?",
                    "location_policy": "string ?=",
                }
            ),
            "management": Block({"auto_repair": "bool ?", "auto_upgrade": "bool ?"}),
            "upgrade_settings": Block({"max_surge": "number ?=", "max_unavailable": "number ?=", "strategy": "string ?"}),
            "node_config": _NODE_CONFIG,
            "timeouts": Block({"create": "string ?", "update": "string ?", "delete": "string ?"}),
        },
        conflicts=(("autoscaling", "node_count"),),
    ),
}
