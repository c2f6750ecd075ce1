"""The part of docs/benchmarks.md about the tracer. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.bench.goal import Goal

KINDS = ("drops", "connect")


def goals(found: dict[str, Any]) -> Iterator[Goal]:
    """Every figure of the tracer that has a goal."""
    for kind in KINDS:
        yield Goal(f"`trace {kind}`: from the command to its first line (median)", found[kind]["first_s"]["median"], 3, "s")


def section(found: dict[str, Any]) -> Iterator[str]:
    """From the command to its first line, and from its end to nothing left."""
    yield "## Tracing"
    yield ""
    yield "A cluster of two nodes, both traced, with a lost packet and a refused connection every 20 ms."
    yield ""
    yield "| | min | median | max |"
    yield "|---|---|---|---|"
    for kind in KINDS:
        for key, what in (("first_s", "to its first line"), ("gone_s", "killed by SIGKILL, to nothing left")):
            one = found[kind][key]
            yield f"| `trace {kind}`, {what} | {one['min']} s | {one['median']} s | {one['max']} s |"
    yield ""
    yield f"The first trace of a cluster, which loads the image into its nodes, took {found['loading_s']} s, a second of them tracing."
