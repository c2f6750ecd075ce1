"""Render what runs in the cluster, apply it, wait for it."""

from __future__ import annotations

from provisioner.deploy.apply import apply_all
from provisioner.deploy.client import Access
from provisioner.deploy.render import DeployContext, Manifest, agent_config, cluster_dns_addresses, render_all
from provisioner.deploy.resolvers import host_resolvers
from provisioner.deploy.wait import wait_agent_ready, wait_dns_ready, wait_nodes_ready

__all__ = [
    "Access",
    "DeployContext",
    "Manifest",
    "agent_config",
    "apply_all",
    "cluster_dns_addresses",
    "host_resolvers",
    "render_all",
    "wait_agent_ready",
    "wait_dns_ready",
    "wait_nodes_ready",
]
