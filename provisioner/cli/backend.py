"""Find the provider of a command, and walk its plans. Tests put a provider of their own in `open_provider`'s place."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner import errors
from provisioner.cli.output import Format, emit

if TYPE_CHECKING:
    from provisioner.plan.deadline import TimeLimit
    from provisioner.plan.steps import Plan
    from provisioner.providers.base import Provider

DEFAULT_PROVIDER = "local"
PLAN_HAS_CHANGES = 2


def open_provider(name: str = DEFAULT_PROVIDER, kubernetes_bin_dir: Path | None = None) -> Provider:
    """The provider called `name`. Raises `errors.PermissionMissing` when it needs root and the caller is not."""
    if name != DEFAULT_PROVIDER:
        raise errors.SpecInvalid(f"there is no provider {name!r}", remedy=f"Use {DEFAULT_PROVIDER}.", field="spec.provider")
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


def carry_out(provider: Provider, plan: Plan, limit: TimeLimit) -> None:
    """Walk the plan, journalled and shown on stderr. Only a create makes the journal's file."""
    from provisioner.plan.engine import walk
    from provisioner.plan.journal import FileJournal
    from provisioner.plan.reporter import reporter_for

    with FileJournal(provider.journal(plan.cluster), create=plan.verb == "create") as journal:
        walk(plan, limit, journal=journal, reporter=reporter_for(sys.stderr))


def show_plan(plan: Plan, output: Format) -> int:
    """Print what a walk would do; the exit code: 0 when that is nothing."""
    from provisioner.plan.engine import Status, survey

    surveyed = survey(plan)
    steps = [{"id": step.id, "title": step.title, "status": status.value, "details": list(step.details)} for step, status in surveyed]
    data = {"verb": plan.verb, "cluster": plan.cluster, "steps": steps}
    words = {Status.TODO: "to do", Status.DONE: "already there", Status.UNKNOWN: "to do, if needed then"}
    lines = []
    for step, status in surveyed:
        lines.append(f"  {step.title}: {words[status]}")
        lines += [f"      {detail}" for detail in step.details] if status is not Status.DONE else []
    todo = sum(status is not Status.DONE for _, status in surveyed)
    head = f"{plan.verb} {plan.cluster}: {todo} of {len(surveyed)} steps to do; nothing was changed"
    emit(data, output, "\n".join([head, *lines]))
    return PLAN_HAS_CHANGES if todo else 0
