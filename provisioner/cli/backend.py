"""Find the provider of a command, and walk its plans. Tests put a provider of their own in `open_provider`'s place."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provisioner import errors
from provisioner.cli.output import Format, emit

if TYPE_CHECKING:
    from provisioner.cli.report import Report
    from provisioner.plan.deadline import TimeLimit
    from provisioner.plan.steps import Plan
    from provisioner.providers.base import Provider
    from provisioner.providers.gke.provider import GkeProvider

DEFAULT_PROVIDER = "local"
GKE = "gke"
PLAN_HAS_CHANGES = 2


def open_provider(
    name: str = DEFAULT_PROVIDER,
    kubernetes_bin_dir: Path | None = None,
    *,
    project: str | None = None,
    location: str | None = None,
    limit: TimeLimit | None = None,
) -> Provider:
    """The provider called `name`; `project` and `location` are for gke, whose questions take no longer than `limit`.

    Raises `errors.PermissionMissing` when it needs root, or credentials, and there is none.
    """
    if name == GKE:
        return open_gke(project, location, limit)
    if name != DEFAULT_PROVIDER:
        raise errors.SpecInvalid(f"there is no provider {name!r}", remedy=f"Use {DEFAULT_PROVIDER} or {GKE}.", field="spec.provider")
    if project is not None or location is not None:
        flag = "--project" if project is not None else "--location"
        raise errors.Usage(f"{flag} is for provider gke", remedy="Add --provider gke, or leave it out.", field=flag)
    if os.geteuid() != 0:
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        raise errors.PermissionMissing(
            "the local provider makes namespaces, links and cgroups, which only root may", remedy=f"Run: sudo {command}"
        )
    if kubernetes_bin_dir is not None and not kubernetes_bin_dir.is_dir():
        raise errors.NotFound(
            f"--kubernetes-bin-dir {kubernetes_bin_dir} is not a directory",
            remedy="Give a directory that holds the Kubernetes programs, or leave the flag out.",
            field="--kubernetes-bin-dir",
        )
    from provisioner.providers.local.provider import LocalProvider

    return LocalProvider(kubernetes_bin_dir=kubernetes_bin_dir)


def open_gke(project: str | None, location: str | None, limit: TimeLimit | None) -> GkeProvider:
    from provisioner.providers.gke.api import open_api
    from provisioner.providers.gke.provider import GkeProvider

    return GkeProvider(open_api(limit=limit), project or "", location or "")


def provider_of(cluster: str, provider: str | None, project: str | None, location: str | None, limit: TimeLimit | None = None) -> Provider:
    """The provider of a cluster that is named: the one given, or gke where only this user's memory of GKE knows the name, else local."""
    if provider == GKE or (provider is None and (project is not None or os.geteuid() != 0)):
        from provisioner.providers.gke import memory

        known = memory.remembered(memory.state_root(), cluster)
        fitting = [r for r in known if (project is None or r.project == project) and (location is None or r.location == location)]
        if len(fitting) > 1 and location is None:
            places = ", ".join(f"{record.location} of project {record.project}" for record in fitting)
            raise errors.Usage(
                f"{cluster} is in several places: {places}", remedy="Say which with --project and --location.", field="--location"
            )
        if len(fitting) == 1:
            return open_provider(GKE, project=fitting[0].project, location=fitting[0].location, limit=limit)
    return open_provider(provider or DEFAULT_PROVIDER, project=project, location=location, limit=limit)


def refuse_async(provider: Provider) -> None:
    """What this machine makes, it makes while the command runs."""
    if provider.name != GKE:
        raise errors.Usage("--async is for provider gke", remedy="Leave it out.", field="--async")


def refuse_ttl(provider: Provider) -> None:
    """Nobody sweeps this machine."""
    if provider.name != GKE:
        raise errors.Usage("--ttl is for provider gke", remedy="Leave it out.", field="--ttl")


def carry_out(provider: Provider, plan: Plan, limit: TimeLimit, report: Report | None = None) -> None:
    """Walk the plan, journalled, shown on stderr and kept in `report`. Only a create makes the journal's file."""
    from provisioner.cli.report import Recording
    from provisioner.plan.engine import walk
    from provisioner.plan.journal import FileJournal
    from provisioner.plan.reporter import reporter_for

    shown = reporter_for(sys.stderr)
    with FileJournal(provider.journal(plan.cluster), create=plan.verb == "create") as journal:
        walk(plan, limit, journal=journal, reporter=Recording(shown, report) if report is not None else shown)


def show_plan(plan: Plan, output: Format) -> int:
    """Print what a walk would do; the exit code: 0 when that is nothing."""
    from provisioner.plan.engine import Status, survey

    surveyed = survey(plan)
    steps = [{"id": step.id, "title": step.title, "status": status.value, "details": list(step.details)} for step, status in surveyed]
    data: dict[str, Any] = {"verb": plan.verb, "cluster": plan.cluster, "steps": steps}
    if plan.request is not None:
        data["request"] = plan.request
    words = {Status.TODO: "to do", Status.DONE: "already there", Status.UNKNOWN: "to do, if needed then"}
    lines = []
    for step, status in surveyed:
        lines.append(f"  {step.title}: {words[status]}")
        lines += [f"      {detail}" for detail in step.details] if status is not Status.DONE else []
    todo = sum(status is not Status.DONE for _, status in surveyed)
    head = f"{plan.verb} {plan.cluster}: {todo} of {len(surveyed)} steps to do; nothing was changed"
    emit(data, output, "\n".join([head, *lines]))
    return PLAN_HAS_CHANGES if todo else 0
