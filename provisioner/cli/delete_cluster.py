"""`delete-cluster`: remove everything of a cluster, whatever state it is in."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from provisioner import errors
from provisioner.cli import backend, credentials, options
from provisioner.cli.output import Format, emit, note


def delete_cluster(
    name: options.NameArgument,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not ask.")] = False,
    kubeconfig: options.Kubeconfig = None,
    dry_run: options.DryRun = False,
    timeout: options.TimeoutOption = "5m",
    output: options.Output = Format.TABLE,
) -> None:
    """Remove every process, link, mount, cgroup, file and kubeconfig entry of a cluster. Asks first on a terminal."""
    seconds = options.duration(timeout)
    provider = backend.open_provider()
    plan = provider.plan_delete(name)
    if dry_run:
        raise typer.Exit(backend.show_plan(plan, output))
    if not quiet and sys.stdin.isatty() and sys.stderr.isatty():
        _ask(name)
    from provisioner.plan.deadline import TimeLimit

    own = credentials.Target(kubeconfig.absolute()) if kubeconfig is not None else credentials.default_target()
    targets = [*credentials.remembered(provider, name), own]
    # First: what is interrupted after this leaves a cluster without an entry, which get-credentials mends; not an entry without a cluster.
    for path in credentials.forget(name, targets):
        note(f"removed context {credentials.context_name(name)} from {path}")
    backend.carry_out(provider, plan, TimeLimit.after(seconds))
    emit({"name": name, "deleted": True}, output, f"{name} is deleted.")


def _ask(name: str) -> None:
    sys.stderr.write(f"Delete the cluster {name} and all of its data? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise errors.Interrupted("nothing was deleted", remedy="Answer y, or give --quiet.")
