"""`create-cluster`: make a cluster, or continue one, or say that all is there."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from provisioner import errors
from provisioner.cli import backend, credentials, gates, options
from provisioner.cli.output import Format, cluster_data, cluster_table, emit, note
from provisioner.cli.specs import spec_from

if TYPE_CHECKING:
    from provisioner.plan.deadline import TimeLimit
    from provisioner.plan.steps import Plan
    from provisioner.providers.base import Provider
    from provisioner.spec import ClusterSpec

_CLEANUP_SECONDS = 120.0


class OnFailure(StrEnum):
    """What becomes of what a failed create has made."""

    KEEP = "keep"
    DELETE = "delete"


def create_cluster(
    name: options.OptionalName = "",
    dataplane_v2: Annotated[bool, typer.Option("--dataplane-v2", help="The eBPF dataplane. Required: there is no other.")] = False,
    enable_dataplane_v2: Annotated[bool, typer.Option("--enable-dataplane-v2", hidden=True)] = False,
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
    provider: options.ProviderOption = None,
    kubernetes_bin_dir: options.BinDir = None,
    kubeconfig: options.Kubeconfig = None,
    no_kubeconfig: Annotated[bool, typer.Option("--no-kubeconfig", help="Do not write the credentials anywhere.")] = False,
    on_failure: Annotated[
        OnFailure, typer.Option("--on-failure", help="Keep what a failed create has made, or delete it.")
    ] = OnFailure.KEEP,
    dry_run: options.DryRun = False,
    timeout: options.TimeoutOption = "30m",
    output: options.Output = Format.TABLE,
) -> None:
    """Make a Kubernetes cluster whose pod network is the eBPF dataplane.

    Run again, it continues what was interrupted or starts what was stopped, and says so when all is there.
    """
    flags = {**locals(), "dataplane_v2": dataplane_v2 or enable_dataplane_v2}
    if no_kubeconfig and kubeconfig is not None:
        raise errors.Usage("--no-kubeconfig and --kubeconfig exclude each other", remedy="Leave one of them out.", field="--kubeconfig")
    from provisioner.plan.deadline import TimeLimit

    limit = TimeLimit.after(options.duration(timeout))
    spec = spec_from(config, flags)
    _require_dataplane(spec)
    gates.require(gates.check_spec(spec, config or ""), f"creating {spec.name}")
    used = backend.open_provider(spec.provider.value, kubernetes_bin_dir)
    plan = used.plan_create(spec)
    if dry_run:
        raise typer.Exit(backend.show_plan(plan, output))
    _carry_out(used, plan, limit, on_failure)
    if not no_kubeconfig:
        where = credentials.write(used, spec.name, kubeconfig)
        note(f"kubectl uses it from {where}, context {credentials.context_name(spec.name)}.")
    info = used.describe(spec.name)
    emit(cluster_data(info), output, cluster_table([info]))


def _require_dataplane(spec: ClusterSpec) -> None:
    """The flag or the document must ask for it: a default would promise that leaving it out gives something else."""
    if "version" not in spec.dataplane.model_fields_set:
        raise errors.RefusedByGate(
            "a cluster without --dataplane-v2 is not offered: there is no other dataplane here",
            remedy="Add --dataplane-v2, or spec.dataplane.version: v2 in the document.",
            field="--dataplane-v2",
        )


def _carry_out(provider: Provider, plan: Plan, limit: TimeLimit, on_failure: OnFailure) -> None:
    from provisioner.plan.deadline import TimeLimit

    try:
        backend.carry_out(provider, plan, limit)
    except errors.Interrupted:
        raise
    except Exception:
        if on_failure is OnFailure.DELETE:
            note("the create failed; deleting what it made, as --on-failure=delete says")
            backend.carry_out(provider, provider.plan_delete(plan.cluster), TimeLimit.after(_CLEANUP_SECONDS))
        raise
