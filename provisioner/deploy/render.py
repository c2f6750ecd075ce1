"""Render what runs in a cluster from `templates/`. Pure but for reading the templates, and the same for create and `render`.

The order of manifests is the order of application; within a manifest, of its objects. An undefined name in a template is an
error, never an empty string. Values go into YAML as JSON, so no value can change a document's structure.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioner import errors
from provisioner.spec import ClusterSpec

NAMESPACE = "kube-system"
AGENT = "anetd"
DNS = "coredns"
HEALTH_PORT = 9879
CLUSTER_DOMAIN = "cluster.local"
_DNS_HOST_NUMBER = 10  # the place in the service CIDR that the field's tools give to DNS
_BACKSLASH_OR_SURROGATES = re.compile(r"\\\\|\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})")
_TEMPLATES = ("05-policy-logging.yaml", "10-anetd.yaml", "20-coredns.yaml", "30-admission.yaml", "40-policy-logging.yaml")


@dataclass(frozen=True, slots=True)
class DeployContext:
    """What the provider knows and the spec does not.

    api_server    https://172.30.0.2:6443, as the nodes reach it; the agent cannot use the Service that it makes itself.
    cluster_dns   the kube-dns Service's addresses, the primary family's first: `cluster_dns_addresses(spec)`.
    load_balancer_pool  addresses for Services of type LoadBalancer, as CIDRs; empty where something else gives them.
    upstream_dns  resolvers that pods reach, for names outside of the cluster; empty where there are none, and such names are refused.
    """

    api_server: str
    cluster_dns: Sequence[str]
    anetd_image: str
    coredns_image: str
    upstream_dns: Sequence[str] = ()
    layout: str = "v2"
    attach_mode: str = "auto"
    device: str = ""
    load_balancer_pool: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """One file of rendered objects. `name` ends in .yaml and sorts in the order of application."""

    name: str
    text: str
    objects: Sequence[Mapping[str, Any]]


def cluster_dns_addresses(spec: ClusterSpec) -> tuple[str, ...]:
    """The kube-dns Service's addresses: the tenth of each service CIDR."""
    return tuple(str(network[_DNS_HOST_NUMBER]) for network in spec.service_cidrs)


def agent_config(spec: ClusterSpec, context: DeployContext) -> dict[str, Any]:
    """/etc/anetd/config.json, as the architecture describes it."""
    return {
        "clusterName": spec.name,
        "apiServer": context.api_server,
        "podCIDRs": [str(network) for network in spec.pod_cidrs],
        "serviceCIDRs": [str(network) for network in spec.service_cidrs],
        "routingMode": spec.dataplane.routing_mode.value,
        "device": context.device,
        "mtu": spec.dataplane.mtu or 0,
        "masquerade": spec.dataplane.masquerade,
        "nonMasqueradeCIDRs": [str(network) for network in spec.dataplane.non_masquerade_cidrs],
        "attachMode": context.attach_mode,
        "socketLB": spec.dataplane.socket_lb,
        "loadBalancerMode": spec.dataplane.load_balancer_mode.value,
        "layout": context.layout,
        "loadBalancerPool": list(context.load_balancer_pool),
        "policyLogDenyPolicies": spec.dataplane.policy_log_deny_policies,
    }


def render_all(spec: ClusterSpec, context: DeployContext) -> list[Manifest]:
    """Every manifest of the cluster, in the order of application."""
    import jinja2
    import yaml

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template_directory()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - the templates are YAML; every value goes through `json`
    )
    environment.filters["json"] = as_flow_yaml
    environment.filters["digest"] = lambda text: hashlib.sha256(str(text).encode()).hexdigest()
    values = _values(spec, context)
    manifests = []
    for name in _TEMPLATES:
        text = environment.get_template(f"{name}.j2").render(values)
        objects = [document for document in yaml.safe_load_all(text) if document]
        manifests.append(Manifest(name, text, objects))
    return manifests


def as_flow_yaml(value: object) -> str:
    """A value as JSON, which is YAML but for one thing: YAML writes what lies beyond 16 bits as one escape, JSON as two surrogates."""
    return _BACKSLASH_OR_SURROGATES.sub(_join_surrogates, json.dumps(value, sort_keys=True))


def _join_surrogates(match: re.Match[str]) -> str:
    if match[1] is None:
        return match[0]
    return f"\\U{0x10000 + ((int(match[1], 16) - 0xD800) << 10) + int(match[2], 16) - 0xDC00:08x}"


def _values(spec: ClusterSpec, context: DeployContext) -> dict[str, Any]:
    config = json.dumps(agent_config(spec, context), indent=2, sort_keys=True)
    return {
        "namespace": NAMESPACE,
        "agent": AGENT,
        "dns": DNS,
        "anetd_image": context.anetd_image,
        "coredns_image": context.coredns_image,
        "agent_config": config,
        "agent_config_digest": hashlib.sha256(config.encode()).hexdigest(),
        "health_port": HEALTH_PORT,
        "gives_load_balancers": bool(context.load_balancer_pool),
        "cluster_dns": list(context.cluster_dns),
        "ip_families": ["IPv6" if ":" in address else "IPv4" for address in context.cluster_dns],
        "upstream_dns": list(context.upstream_dns),
        "cluster_domain": CLUSTER_DOMAIN,
        "dns_replicas": min(2, spec.num_nodes),
        "gates": _gates(spec),
    }


def _gates(spec: ClusterSpec) -> dict[str, Any]:
    """What the admission policies say; whoever deploys anetd has its verdicts."""
    from provisioner.compatibility import admission, matrix
    from provisioner.compatibility.model import Dataplane

    mode = spec.dataplane.admission
    policies = admission.policies(matrix.load(), Dataplane.ANETD, mode=mode.value, allowed=spec.allow)
    allowed = json.dumps(dict(spec.allow), sort_keys=True)
    return {"dataplane": Dataplane.ANETD.value, "admission": mode.value, "allowed": allowed, "policies": policies}


def template_directory() -> Path:
    """In an installed distribution the templates lie inside of the package, in a checkout beside it."""
    package = Path(__file__).resolve().parents[1]
    for directory in (package / "templates", package.parent / "templates"):
        if (directory / f"{_TEMPLATES[0]}.j2").is_file():
            return directory
    raise errors.ProvisionerError("the templates are missing", remedy="Install the distribution again.")
