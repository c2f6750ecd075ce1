"""`deploy`: put anetd on a cluster that exists already, is new, and has no network yet."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from provisioner import errors
from provisioner.cli import gates, live, options
from provisioner.cli.output import Format, columns, emit, note
from provisioner.cli.render import images_named
from provisioner.cli.specs import spec_from

if TYPE_CHECKING:
    from provisioner.compatibility.model import Finding
    from provisioner.deploy import DeployContext, Manifest
    from provisioner.deploy.client import Client
    from provisioner.deploy.observe import Facts
    from provisioner.plan.deadline import TimeLimit
    from provisioner.spec import ClusterSpec

_HAS_CHANGES = 2
_DNS_MANIFEST = "20-coredns.yaml"


def deploy(
    name: options.OptionalName = "",
    context: Annotated[str, typer.Option("--context", metavar="NAME", help="Of the kubeconfig. [default: its current]")] = "",
    kubeconfig: options.Kubeconfig = None,
    config: options.Config = None,
    stack_type: options.StackTypeOption = None,
    pod_cidr: options.PodCIDR = None,
    service_cidr: options.ServiceCIDR = None,
    pod_cidr_v6: options.PodCIDRv6 = None,
    service_cidr_v6: options.ServiceCIDRv6 = None,
    routing_mode: options.RoutingModeOption = None,
    mtu: options.Mtu = None,
    masquerade: options.Masquerade = None,
    non_masquerade_cidrs: options.NonMasqueradeCIDRs = None,
    admission: options.AdmissionOption = None,
    allow: options.Allow = None,
    kubernetes_bin_dir: options.BinDir = None,
    api_server: Annotated[
        str | None,
        typer.Option("--api-server", metavar="URL", help="As the nodes reach it. [default: as the cluster says]", show_default=False),
    ] = None,
    anetd_image: Annotated[
        str | None, typer.Option("--anetd-image", help="As the nodes pull it. [default: the one built here]", show_default=False)
    ] = None,
    coredns_image: Annotated[
        str | None, typer.Option("--coredns-image", help="Likewise; unused where the cluster has DNS.", show_default=False)
    ] = None,
    dry_run: options.DryRun = False,
    timeout: options.TimeoutOption = "10m",
    output: options.Output = Format.TABLE,
) -> None:
    """Deploy anetd on the cluster of a kubeconfig context: new, without kube-proxy and without another network.

    The gates look at the cluster first, and refuse (exit code 4) before anything is applied. Deploying again changes what differs.
    """
    flags: dict[str, Any] = dict(locals())
    from provisioner.deploy.client import ApiError, Client, UnavailableError
    from provisioner.deploy.observe import facts, settings
    from provisioner.plan.deadline import TimeLimit

    limit = TimeLimit.after(options.duration(timeout))
    reached = live.access(context, kubeconfig)
    with Client(reached, limit) as client:
        try:
            found, before = facts(client), settings(client)
            spec = _spec(client, found, before, config, flags)
            gates.require(_findings(client, found, spec, config or ""), f"deploying to {spec.name}")
        except (ApiError, UnavailableError) as error:
            raise live.require_reachable(error, context or "(current)") from error
    manifests = _manifests(spec, found, before, api_server, images_named(spec, anetd_image, coredns_image, kubernetes_bin_dir, limit))
    if dry_run:
        raise typer.Exit(_show(manifests, output))
    _roll_out(reached, manifests, found, limit)
    data = {
        "name": spec.name,
        "context": context,
        "kubernetesVersion": found.version,
        "nodes": found.nodes,
        "objects": sum(len(manifest.objects) for manifest in manifests),
        "allowed": dict(spec.allow),
    }
    header = ("NAME", "VERSION", "NODES", "OBJECTS")
    emit(data, output, columns(header, [(spec.name, found.version, found.nodes, data["objects"])]))


def _spec(client: Client, found: Facts, before: Mapping[str, Any], config: str | None, flags: Mapping[str, Any]) -> ClusterSpec:
    """As it is asked for. Of what neither a file nor a flag says, an anetd that is there keeps its own, and the rest is the cluster's."""
    from provisioner.deploy import observe
    from provisioner.spec.models import API_VERSION, KIND, Dataplane

    pods = before.get("podCIDRs") or observe.pod_ranges(client)
    # The pool belongs to nodes' networks that the local provider makes; here it is kept as it is.
    fields = [field.alias or name for name, field in Dataplane.model_fields.items() if name != "load_balancer_pool"]
    dataplane = {name: before[name] for name in fields if name in before and (name != "mtu" or before[name])}
    mode = observe.admission_mode(client)
    spec: dict[str, Any] = {"dataplane": dataplane | ({"admission": mode} if mode else {})}
    for family, suffix in ((4, ""), (6, "v6")):
        own = {"podCIDR": _of_family(pods, family), "serviceCIDR": _of_family(found.service_cidrs, family)}
        if own["podCIDR"] or family == 4:
            spec |= {f"{name}{suffix}": network for name, network in own.items() if network}
            spec |= {"stackType": "ipv4-ipv6"} if family == 6 else {}
    document = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": before.get("clusterName", "cluster")}, "spec": spec}
    return spec_from(config, {**flags, "dataplane_v2": True}, document)


def _of_family(ranges: Sequence[str], family: int) -> str | None:
    return next((text for text in ranges if (":" in text) == (family == 6)), None)


def _findings(client: Client, found: Facts, spec: ClusterSpec, file: str) -> Sequence[Finding]:
    from provisioner.compatibility import allowances, check, matrix
    from provisioner.compatibility.model import Dataplane

    known = matrix.load()
    gate = check.Gate(known, Dataplane.ANETD, allowed=allowances.known(spec.allow, known))
    checked = check.Checked()
    live.check_cluster(client, found, gate, checked, (spec.pod_cidrs, spec.service_cidrs))
    return [*gates.check_spec(spec, file), *checked.all_findings()]


def _manifests(
    spec: ClusterSpec, found: Facts, before: Mapping[str, Any], api_server: str | None, images: tuple[str, str]
) -> list[Manifest]:
    from provisioner.deploy import DeployContext, cluster_dns_addresses, host_resolvers, render_all

    server = api_server or found.api_server
    if not server:
        raise errors.UpstreamFailure(
            "the cluster does not say where its nodes reach the API server", remedy="Give it with --api-server.", field="--api-server"
        )
    pool = spec.dataplane.load_balancer_pool
    context: DeployContext = DeployContext(
        api_server=server,
        cluster_dns=found.dns_addresses or cluster_dns_addresses(spec),
        anetd_image=images[0],
        coredns_image=images[1],
        upstream_dns=host_resolvers(),
        load_balancer_pool=before.get("loadBalancerPool", ()) if pool is None else [str(network) for network in pool],
        attach_mode=before.get("attachMode", "auto"),
        device=before.get("device", ""),
    )
    manifests = render_all(spec, context)
    return [manifest for manifest in manifests if not (found.foreign_dns and manifest.name == _DNS_MANIFEST)]


def _show(manifests: Sequence[Manifest], output: Format) -> int:
    names = [(document["kind"], document["metadata"]["name"]) for manifest in manifests for document in manifest.objects]
    data = {"objects": [{"kind": kind, "name": name} for kind, name in names]}
    emit(data, output, "would be applied; nothing was changed:\n" + "".join(f"  {kind} {name}\n" for kind, name in names))
    return _HAS_CHANGES


def _roll_out(reached: Any, manifests: Sequence[Manifest], found: Facts, limit: TimeLimit) -> None:
    from provisioner import deploy as deployment

    deployment.apply_all(reached, manifests, limit, note)
    deployment.wait_agent_ready(reached, found.nodes, limit, note)
    deployment.wait_nodes_ready(reached, found.nodes, limit, note)
    if not found.foreign_dns:
        deployment.wait_dns_ready(reached, limit, note)
    sys.stderr.flush()
