"""The parts of docs/benchmarks.md about the command line: the gates, GKE and the Terraform provider. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.bench.goal import Goal


def check_goals(check: dict[str, Any]) -> Iterator[Goal]:
    """Every figure of the gates that has a goal."""
    yield Goal(f"`provisioner check` on {check['check']['manifests']} manifests (median)", check["check"]["median"], 5, "s")
    yield Goal("`provisioner check` on them, resident", check["check"]["mib"], 200, "MiB")
    yield Goal("`provisioner features` (median)", round(check["features"]["median"] * 1000), 250, "ms")


def gke_goals(gke: dict[str, Any]) -> Iterator[Goal]:
    """What the tool adds to GKE's own time."""
    yield Goal("create-cluster on gke, beyond the API's own time (median)", gke["added_s"]["median"], 2, "s")


def gke_section(gke: dict[str, Any]) -> Iterator[str]:
    """Beside the API's own time."""
    added = gke["added_s"]
    yield "## create-cluster on gke"
    yield ""
    yield (
        f"Against a server that speaks GKE's protocol on this machine: {added['min']}, {added['median']}, {added['max']} s "
        "(min, median, max) beyond what the API itself takes."
    )


def provider_goals(provider: dict[str, Any]) -> Iterator[Goal]:
    """Every figure of the Terraform provider that has a goal."""
    yield Goal("the Terraform provider's handshake (median)", provider["handshake"]["median"], 1, "s")


def gate_section(check: dict[str, Any]) -> Iterator[str]:
    """Beside --help, which says how fast the machine was just then."""
    yield "## The gates"
    yield ""
    yield "| command | min | median | max | CPU | resident |"
    yield "|---|---|---|---|---|---|"
    large = f"`check` on {check['check_large']['manifests']} manifests, {check['check_large']['bytes'] // 1_000_000} MB"
    names = {
        "help": "`--help`",
        "features": "`features`",
        "check": f"`check` on {check['check']['manifests']} manifests",
        "check_large": large,
    }
    for key, name in names.items():
        one = check[key]
        yield f"| {name} | {one['min']} s | {one['median']} s | {one['max']} s | {one['cpu']} s | {one['mib']} MiB |"


def provider_section(provider: dict[str, Any]) -> Iterator[str]:
    """Beside its bare interpreter, which says how fast the machine was just then."""
    yield "## The Terraform provider"
    yield ""
    yield "| from its start to | min | median | max |"
    yield "|---|---|---|---|"
    names = {
        "interpreter": "the end of its bare interpreter",
        "handshake": "the handshake (wanted: 1 s)",
        "schema": "its schema, over gRPC",
    }
    for key, name in names.items():
        one = provider[key]
        yield f"| {name} | {one['min']} s | {one['median']} s | {one['max']} s |"
