"""The policy compiler's part of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tests.bench.goal import Goal

Document = dict[str, Any]
COMPILE_SECONDS, CHANGE_MS = 3.0, 10.0
ONE_OBJECT = (
    "label change, pod elsewhere",
    "label change, local pod",
    "new pod elsewhere, and gone",
    "new local pod, and gone",
    "policy edited",
    "policy gone, and new",
)
"""The changes that the goal is meant for; the others touch many rows by what they are."""


def goals(found: Document) -> Iterable[Goal]:
    largest = found["sizes"][-1]
    at = f"{largest['pods']} pods and {largest['policies']} policies"
    yield Goal(f"Policies compiled from nothing, {at}", largest["seconds"]["compile"], COMPILE_SECONDS, "s")
    for name in ONE_OBJECT:
        yield Goal(f"Policy compiler, {name}, p99, {at}", largest["changes"][name]["p99Ms"], CHANGE_MS, "ms")


def section(found: Document) -> Iterator[str]:
    yield "## The policy compiler"
    yield ""
    yield "One node with 110 of the pods. Rows are the kernel's; times are of one core, without the kernel's part. Memory is what the compiler adds to the objects."
    yield ""
    yield "| pods | policies | rows of policies | of classes | of isolation | sets | classes | compile, s | MiB |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for one in found["sizes"]:
        rows = one["rows"]
        yield (
            f"| {one['pods']} | {one['policies']} | {rows['policies']} | {rows['classes']} | {rows['isolation']} | {one['sets']} "
            f"| {one['peerClasses']} | {one['seconds']['compile']} | {one['mib']} |"
        )
    largest, crowd = found["sizes"][-1], found["thousandOnOnePod"]
    yield ""
    yield f"One change at {largest['pods']} pods and {largest['policies']} policies:"
    yield ""
    yield "| change | p50, ms | p99, ms | max, ms | rows, median |"
    yield "|---|---|---|---|---|"
    for name, figures in [
        *largest["changes"].items(),
        ("one edited of 1000 policies on one pod", crowd["edit"]),
        ("label change of that pod", crowd["label"]),
    ]:
        yield f"| {name} | {figures['p50Ms']} | {figures['p99Ms']} | {figures['maxMs']} | {figures['rows']:g} |"
