"""`sweep`: delete the clusters whose time is over."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from provisioner import errors
from provisioner.cli import backend, options
from provisioner.cli.output import Format, columns, emit, note

if TYPE_CHECKING:
    from provisioner.plan.deadline import TimeLimit
    from provisioner.plan.steps import Plan
    from provisioner.providers.gke.provider import GkeProvider


def sweep(
    expired: Annotated[bool, typer.Option("--expired", help="Clusters that create-cluster --ttl gave an end that has passed.")] = False,
    project: options.Project = None,
    location: options.Location = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List them, delete none; exit code 2 when there are some.")] = False,
    timeout: options.TimeoutOption = "30m",
    output: options.Output = Format.TABLE,
) -> None:
    """Delete GKE clusters whose time is over. Clusters without an end, or made without --ttl, are never touched."""
    if not expired:
        raise errors.Usage("say which clusters to sweep", remedy="Give --expired.", field="--expired")
    from provisioner.plan.deadline import TimeLimit

    limit = TimeLimit.after(options.duration(timeout))
    provider = backend.open_gke(project, location, limit)
    found = sorted(provider.expired(time.time()), key=lambda item: -item[1])
    rows = [
        {"name": info.name, "location": info.details["location"], "expired": info.details["expires"], "deleted": False} for info, _ in found
    ]
    if dry_run or not rows:
        _print(rows, output)
        raise typer.Exit(backend.PLAN_HAS_CHANGES if rows else 0)
    if not quiet and sys.stdin.isatty() and sys.stderr.isatty():
        sys.stderr.write(f"Delete {', '.join(row['name'] for row in rows)} and all of their data? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            raise errors.Interrupted("nothing was deleted", remedy="Answer y, or give --quiet.")
    failures: list[errors.ProvisionerError] = []
    doomed = [(row, replace(provider, location=str(row["location"]))) for row in rows]
    plans = [(row, there, plan) for row, there in doomed if (plan := _plan(there, row, failures)) is not None]
    # First all requests, then all waits: GKE deletes side by side.
    asked = [each for each in plans if _walk(each[1], replace(each[2], steps=each[2].steps[:1]), limit, failures)]
    for row, there, plan in asked:
        row["deleted"] = _walk(there, replace(plan, steps=plan.steps[1:]), limit, failures)
    _print(rows, output)
    if failures:
        raise failures[0]


def _plan(provider: GkeProvider, row: dict[str, object], failures: list[errors.ProvisionerError]) -> Plan | None:
    try:
        return provider.plan_delete(str(row["name"]))
    except errors.NotFound:
        row["deleted"] = True  # somebody else was faster
    except errors.ProvisionerError as error:
        failures.append(error)
    return None


def _walk(provider: GkeProvider, plan: Plan, limit: TimeLimit, failures: list[errors.ProvisionerError]) -> bool:
    try:
        backend.carry_out(provider, plan, limit)
    except errors.Interrupted:
        raise
    except errors.ProvisionerError as error:
        note(f"{plan.cluster}: {error.message}")
        failures.append(error)
        return False
    return True


def _print(rows: list[dict[str, object]], output: Format) -> None:
    if not rows and output is Format.TABLE:
        note("no cluster's time is over")
        return
    table = columns(("NAME", "LOCATION", "EXPIRED", "DELETED"), [tuple(row.values()) for row in rows])
    emit({"items": rows}, output, table)
