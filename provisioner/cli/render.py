"""`render`: the manifests that create-cluster would apply."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from provisioner import errors
from provisioner.cli import options
from provisioner.cli.output import Format, emit, note
from provisioner.cli.specs import spec_from

if TYPE_CHECKING:
    from provisioner.deploy import DeployContext
    from provisioner.plan.deadline import TimeLimit
    from provisioner.spec import ClusterSpec


def render(
    name: options.OptionalName = "",
    config: options.Config = None,
    num_nodes: options.NumNodes = None,
    kubernetes_version: options.KubernetesVersion = None,
    stack_type: options.StackTypeOption = None,
    pod_cidr: options.PodCIDR = None,
    service_cidr: options.ServiceCIDR = None,
    pod_cidr_v6: options.PodCIDRv6 = None,
    service_cidr_v6: options.ServiceCIDRv6 = None,
    node_subnet: options.NodeSubnet = None,
    routing_mode: options.RoutingModeOption = None,
    mtu: options.Mtu = None,
    masquerade: options.Masquerade = None,
    non_masquerade_cidrs: options.NonMasqueradeCIDRs = None,
    admission: options.AdmissionOption = None,
    allow: options.Allow = None,
    labels: options.Labels = None,
    kubernetes_bin_dir: options.BinDir = None,
    api_server: Annotated[
        str | None, typer.Option("--api-server", metavar="URL", help="As the nodes reach it.", show_default=False)
    ] = None,
    anetd_image: Annotated[str | None, typer.Option("--anetd-image", help="Instead of the one built here.", show_default=False)] = None,
    coredns_image: Annotated[str | None, typer.Option("--coredns-image", help="Instead of the one built here.", show_default=False)] = None,
    output_dir: Annotated[Path | None, typer.Option("--output-dir", metavar="DIR", help="One file a manifest.", show_default=False)] = None,
    timeout: options.TimeoutOption = "30m",
    output: options.Output = Format.YAML,
) -> None:
    """Print the manifests that create-cluster would apply, or write them to a directory."""
    flags = dict(locals())
    seconds = options.duration(timeout)
    spec = spec_from(config, flags)
    from provisioner.deploy import render_all

    manifests = render_all(spec, _context(spec, api_server, anetd_image, coredns_image, kubernetes_bin_dir, seconds))
    if output_dir is not None:
        _write(output_dir, {manifest.name: manifest.text for manifest in manifests})
        return
    if output is Format.JSON:
        items = [dict(item) for manifest in manifests for item in manifest.objects]
        emit({"apiVersion": "v1", "kind": "List", "items": items}, Format.JSON, "")
        return
    for manifest in manifests:
        text = manifest.text.rstrip("\n")
        sys.stdout.write((text if text.startswith("---") else f"---\n{text}") + "\n")


def _context(
    spec: ClusterSpec, server: str | None, anetd: str | None, coredns: str | None, bin_dir: Path | None, seconds: float
) -> DeployContext:
    from provisioner.deploy import DeployContext, cluster_dns_addresses, host_resolvers
    from provisioner.plan.deadline import TimeLimit
    from provisioner.providers.local.layout import NODE_SUBNETS, Addresses, load_balancer_pool

    # Without a subnet in the spec, what the local provider takes when nothing else is there; a real one is in describe-cluster.
    subnet = spec.node_subnet or next(NODE_SUBNETS.subnets(new_prefix=24))
    addresses = Addresses.of(subnet, dual_stack=spec.dual_stack)
    anetd, coredns = images_named(spec, anetd, coredns, bin_dir, TimeLimit.after(seconds))
    return DeployContext(
        api_server=server or addresses.server,
        cluster_dns=cluster_dns_addresses(spec),
        anetd_image=anetd,
        coredns_image=coredns,
        upstream_dns=host_resolvers(),
        load_balancer_pool=list(map(str, load_balancer_pool(spec, addresses))),
    )


def images_named(spec: ClusterSpec, anetd: str | None, coredns: str | None, bin_dir: Path | None, limit: TimeLimit) -> tuple[str, str]:
    """anetd's and CoreDNS's names, as given or of those built here."""
    if anetd is None or coredns is None:
        from provisioner import binaries, images

        built = images.ensure_images(binaries.ensure(spec.kubernetes_version, bin_dir, limit, note), limit, note)
        anetd, coredns = anetd or built.anetd.name, coredns or built.coredns.name
    return anetd, coredns


def _write(directory: Path, texts: dict[str, str]) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (directory / name).write_text(text, encoding="utf-8")
            note(f"wrote {directory / name}")
    except OSError as error:
        raise errors.PermissionMissing(
            f"{directory} cannot be written: {error.strerror}", remedy="Give another --output-dir.", field="--output-dir"
        ) from None
