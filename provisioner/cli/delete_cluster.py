"""`delete-cluster`: remove everything of a cluster, whatever state it is in."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Annotated

import typer

from provisioner import errors
from provisioner.cli import backend, credentials, options
from provisioner.cli.output import Format, emit, note


def delete_cluster(
    name: options.NameArgument,
    provider: options.ProviderOption = None,
    project: options.Project = None,
    location: options.Location = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not ask.")] = False,
    ignore_not_found: Annotated[bool, typer.Option("--ignore-not-found", help="A cluster that is not there is deleted well.")] = False,
    asynchronous: options.Async = False,
    kubeconfig: options.Kubeconfig = None,
    dry_run: options.DryRun = False,
    timeout: options.TimeoutOption = "15m",
    output: options.Output = Format.TABLE,
) -> None:
    """Remove every process, link, mount, cgroup, file and kubeconfig entry of a cluster. Asks first on a terminal."""
    from provisioner.plan.deadline import TimeLimit

    seconds = options.duration(timeout)
    used = backend.provider_of(name, provider, project, location, TimeLimit.after(seconds))
    if asynchronous:
        backend.refuse_async(used)
    try:
        plan = used.plan_delete(name)
    except errors.NotFound:
        if not ignore_not_found:
            raise
        emit({"name": name, "deleted": False}, output, f"{name} is not there.")
        return
    if dry_run:
        raise typer.Exit(backend.show_plan(plan, output))
    if not quiet and sys.stdin.isatty() and sys.stderr.isatty():
        _ask(name)
    certain = [*credentials.remembered(used, name)]
    context = used.context(name)
    if kubeconfig is not None:
        certain.append(credentials.Target(kubeconfig.absolute()))
    # First: what is interrupted after this leaves a cluster without an entry, which get-credentials mends; not an entry without a cluster.
    touched, failures = credentials.forget(context, certain)
    # Nobody said that the default holds an entry: a fault of that file is not one of this command.
    touched_too, _ = credentials.forget(context, [credentials.default_target()])
    for path in (*touched, *touched_too):
        note(f"removed context {context} from {path}")
    if asynchronous:
        plan = replace(plan, steps=plan.steps[:1])
    backend.carry_out(used, plan, TimeLimit.after(seconds))
    if failures:
        note(f"{name} is deleted, but for its entry in a kubeconfig")
        raise failures[0]
    emit({"name": name, "deleted": not asynchronous}, output, f"{name} is being deleted." if asynchronous else f"{name} is deleted.")


def _ask(name: str) -> None:
    sys.stderr.write(f"Delete the cluster {name} and all of its data? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise errors.Interrupted("nothing was deleted", remedy="Answer y, or give --quiet.")
