"""`create-cluster`: make a cluster, or continue one, or say that all is there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from provisioner import errors
from provisioner.cli import backend, credentials, gates, options
from provisioner.cli.gke_flags import with_gke_flags
from provisioner.cli.output import Format, cluster_data, cluster_table, emit, note
from provisioner.cli.report import GATES, Report, reported
from provisioner.cli.specs import spec_from

if TYPE_CHECKING:
    from provisioner.plan.deadline import TimeLimit
    from provisioner.plan.steps import Plan
    from provisioner.providers.base import Provider
    from provisioner.spec import ClusterSpec

# A failed create's time limit may be over: deleting has one of its own.
_CLEANUP_SECONDS = {backend.GKE: 900.0, backend.DEFAULT_PROVIDER: 120.0}


class OnFailure(StrEnum):
    """What becomes of what a failed create has made."""

    KEEP = "keep"
    DELETE = "delete"


@with_gke_flags
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
    name_prefix: Annotated[
        str | None, typer.Option("--name-prefix", metavar="PREFIX", help="Instead of NAME: a name of this CI run.", show_default=False)
    ] = None,
    unique_from: Annotated[
        str | None,
        typer.Option("--unique-from", metavar="TEXT", help="What the name's suffix is made from. [default: the run]", show_default=False),
    ] = None,
    ttl: Annotated[
        str | None,
        typer.Option("--ttl", metavar="TIME", help="GKE: label the cluster with its end, for sweep --expired.", show_default=False),
    ] = None,
    result_file: Annotated[
        Path | None, typer.Option("--result-file", metavar="PATH", help="JSON with all that was created.", show_default=False)
    ] = None,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="PATH", help="JUnit of gates and steps.", show_default=False)] = None,
    asynchronous: options.Async = False,
    dry_run: options.DryRun = False,
    timeout: options.TimeoutOption = "30m",
    output: options.Output = Format.TABLE,
    gke: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Make a Kubernetes cluster whose pod network is the eBPF dataplane.

    Run again, it continues what was interrupted or starts what was stopped, and says so when all is there.
    """
    flags = {**locals(), "dataplane_v2": dataplane_v2 or enable_dataplane_v2}
    if no_kubeconfig and kubeconfig is not None:
        raise errors.Usage("--no-kubeconfig and --kubeconfig exclude each other", remedy="Leave one of them out.", field="--kubeconfig")
    with reported(junit, result_file) as report:
        flags["name"] = report.name = _name(name, name_prefix, unique_from)
        from provisioner.plan.deadline import TimeLimit

        limit = TimeLimit.after(options.duration(timeout))
        flags["expires_at"] = None if ttl is None else int(time.time() + options.duration(ttl, "--ttl"))
        spec = spec_from(config, flags)
        report.name, report.provider = spec.name, spec.provider.value
        _require_dataplane(spec)
        gates.require(gates.check_spec(spec, config or ""), f"creating {spec.name}")
        report.add(GATES, "spec")
        used = backend.open_provider(spec.provider.value, kubernetes_bin_dir, limit=limit)
        if asynchronous:
            backend.refuse_async(used)
        if ttl is not None:
            backend.refuse_ttl(used)
        plan = used.plan_create(spec)
        if dry_run:
            raise typer.Exit(backend.show_plan(plan, output))
        if asynchronous:
            plan = replace(plan, steps=plan.steps[:1])
        _carry_out(used, plan, limit, on_failure, report)
        if not no_kubeconfig and not asynchronous:
            where = credentials.write(used, spec.name, kubeconfig)
            note(f"kubectl uses it from {where}, context {used.context(spec.name)}.")
            report.created.append({"kind": "KubeconfigContext", "path": str(where), "context": used.context(spec.name)})
        info = used.describe(spec.name)
        report.cluster, report.outcome = cluster_data(info), "requested" if asynchronous else "running"
        emit(report.cluster, output, cluster_table([info]))


def _name(name: str, prefix: str | None, unique_from: str | None) -> str:
    if prefix is None:
        if unique_from is not None:
            raise errors.Usage("--unique-from needs --name-prefix", remedy="Add it, or leave this out.", field="--unique-from")
        return name
    if name:
        raise errors.Usage("NAME and --name-prefix exclude each other", remedy="Leave one of them out.", field="--name-prefix")
    from provisioner.cli.names import unique_name

    return unique_name(prefix, unique_from)


def _require_dataplane(spec: ClusterSpec) -> None:
    """The flag or the document must ask for it: a default would promise that leaving it out gives something else."""
    if "version" not in spec.dataplane.model_fields_set:
        raise errors.RefusedByGate(
            "a cluster without --dataplane-v2 is not offered: there is no other dataplane here",
            remedy="Add --dataplane-v2, or spec.dataplane.version: v2 in the document.",
            field="--dataplane-v2",
        )


def _carry_out(provider: Provider, plan: Plan, limit: TimeLimit, on_failure: OnFailure, report: Report) -> None:
    cluster = {"kind": "Cluster", "name": plan.cluster, "provider": provider.name}
    report.created.append(cluster)
    try:
        backend.carry_out(provider, plan, limit, report)
    except errors.Interrupted as error:
        going_on = provider.going_on(plan.cluster)
        if going_on:
            raise errors.Interrupted(error.message, remedy=going_on, field=error.field) from None
        raise
    except Exception:
        made_here = provider.made_here(plan.cluster)
        if not made_here and on_failure is OnFailure.DELETE:
            note(f"the create failed; {plan.cluster} is kept in spite of --on-failure=delete, for it was not made by this command")
        if not made_here or (on_failure is OnFailure.DELETE and _clean_up(provider, plan.cluster)):
            report.created.remove(cluster)
        raise


def _clean_up(provider: Provider, cluster: str) -> bool:
    """Delete what a failed create made; whether that went well. Why the create failed matters more than what kept this from working."""
    from provisioner.plan.deadline import TimeLimit

    note("the create failed; deleting what it made, as --on-failure=delete says")
    try:
        backend.carry_out(provider, provider.plan_delete(cluster), TimeLimit.after(_CLEANUP_SECONDS.get(provider.name)))
    except errors.Interrupted:
        raise
    except errors.ProvisionerError as error:
        note(f"{cluster} was not deleted: {error.message}")
        return False
    return True
