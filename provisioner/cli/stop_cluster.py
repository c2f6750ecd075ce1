"""`stop-cluster`: end a cluster's processes, keep its data."""

from __future__ import annotations

import typer

from provisioner.cli import backend, options
from provisioner.cli.output import Format, emit


def stop_cluster(
    name: options.NameArgument,
    dry_run: options.DryRun = False,
    timeout: options.TimeoutOption = "5m",
    output: options.Output = Format.TABLE,
) -> None:
    """Stop a cluster and keep its data; create-cluster starts it again."""
    seconds = options.duration(timeout)
    provider = backend.open_provider()
    plan = provider.plan_stop(name)
    if dry_run:
        raise typer.Exit(backend.show_plan(plan, output))
    from provisioner.plan.deadline import TimeLimit

    backend.carry_out(provider, plan, TimeLimit.after(seconds))
    emit({"name": name, "stopped": True}, output, f"{name} is stopped. create-cluster {name} --dataplane-v2 starts it again.")
