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

    certain = [*credentials.remembered(provider, name)]
    if kubeconfig is not None:
        certain.append(credentials.Target(kubeconfig.absolute()))
    # First: what is interrupted after this leaves a cluster without an entry, which get-credentials mends; not an entry without a cluster.
    touched, failures = credentials.forget(name, certain)
    # Nobody said that the default holds an entry: a fault of that file is not one of this command.
    touched_too, _ = credentials.forget(name, [credentials.default_target()])
    for path in (*touched, *touched_too):
        note(f"removed context {credentials.context_name(name)} from {path}")
    backend.carry_out(provider, plan, TimeLimit.after(seconds))
    if failures:
        note(f"{name} is deleted, but for its entry in a kubeconfig")
        raise failures[0]
    emit({"name": name, "deleted": True}, output, f"{name} is deleted.")


def _ask(name: str) -> None:
    sys.stderr.write(f"Delete the cluster {name} and all of its data? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise errors.Interrupted("nothing was deleted", remedy="Answer y, or give --quiet.")
