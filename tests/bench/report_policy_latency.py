"""The part of docs/benchmarks.md about the time from the API to the packet. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.bench.goal import Goal, percentiles

P50_MS, P99_MS = 20, 100
KINDS = {
    "policy_allows": "a policy that lets a pod be reached",
    "policy_denies": "a policy that isolates a pod",
    "label": "a peer's label",
    "peer": "a new peer's address",
}


def goals(found: dict[str, Any]) -> Iterator[Goal]:
    """Every figure that has a goal."""
    for kind, what in KINDS.items():
        if found.get(kind, {}).get("count"):
            answered = found[kind]["answered"]
            yield Goal(f"from the API's answer to the packet: {what}, p50", answered["p50_ms"], P50_MS, "ms")
            yield Goal(f"from the API's answer to the packet: {what}, p99", answered["p99_ms"], P99_MS, "ms")


def section(found: dict[str, Any]) -> Iterator[str]:
    """The section of the page, line by line."""
    yield "## NetworkPolicy, from the API to the packet"
    yield ""
    yield f"A real cluster with {found['pods']} pods and {found['policies']} policies, where {found['changes_per_second']:g} others change a second."
    yield "To the first packet that is judged by the change, from the moment the request is sent, and from the moment it is answered, when the object is"
    yield "there for everybody; in ms, p50 / p99 / max. Between the two is the API server, and the disk under etcd, which makes the tail."
    yield ""
    yield "| what changes | from the request | from the answer | API server |"
    yield "|---|---|---|---|"
    for kind, what in KINDS.items():
        if row := found.get(kind):
            yield f"| {what} | {percentiles(row)} | {percentiles(row['answered'])} | {percentiles(row['request_ms'])} |"
    yield ""
    yield "The agents' own share, mean over all their rounds:"
    yield ""
    for node, parts in found["agents"].items():
        words = (f"{name.removeprefix('anetd_policy_').removesuffix('_seconds')} {each['mean_ms']} ms" for name, each in parts.items())
        yield f"- {node}: {', '.join(words)}"
