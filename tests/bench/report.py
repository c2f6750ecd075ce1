"""docs/benchmarks.md out of what the benchmarks measured.

    python -m tests.bench.report build > docs/benchmarks.md

Pure but for reading `<directory>/bench-NAME.json` and naming the machine: each figure stands beside its goal, what fell short is said first,
and so is what was not measured.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import (
    report_cluster,
    report_datapath,
    report_policy_compiler,
    report_policy_latency,
    report_policy_logging,
    report_services,
    report_tool,
    report_trace,
)
from tests.bench.goal import Goal

Document = dict[str, Any]


def _nothing(_: Document) -> Iterable[str]:
    return ()


@dataclass(frozen=True)
class Part:
    """What is made of the document `bench-<name>.json`: figures with goals, lines of the page, and lines for what was not reached in it."""

    name: str
    goals: Callable[[Document], Iterable[Goal]]
    section: Callable[[Document], Iterable[str]]
    missing: Callable[[Document], Iterable[str]] = _nothing


PARTS = (
    Part("datapath", report_datapath.goals, report_datapath.section),
    Part("services", report_services.goals, report_services.section, report_services.missing),
    Part("cluster", report_cluster.goals, report_cluster.section),
    Part("policy-compiler", report_policy_compiler.goals, report_policy_compiler.section),
    Part("policy-latency", report_policy_latency.goals, report_policy_latency.section),
    Part("policy-logging", report_policy_logging.goals, report_policy_logging.section, report_policy_logging.missing),
    Part("trace", report_trace.goals, report_trace.section),
    Part("check", report_tool.check_goals, report_tool.gate_section),
    Part("gke", report_tool.gke_goals, report_tool.gke_section),
    Part("terraform", report_tool.provider_goals, report_tool.provider_section),
)
"""In the order of the page."""


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def render(documents: Mapping[str, Document]) -> Iterator[str]:
    """The page, line by line, of documents by their parts' names."""
    there = [(part, documents[part.name]) for part in PARTS if part.name in documents]
    found = [goal for part, document in there for goal in part.goals(document)]
    fell_short = [f"- {goal.what}: {goal.measured:g} {goal.unit}, wanted {goal.goal:g}." for goal in found if not goal.met]
    fell_short += [line for part, document in there for line in part.missing(document)]
    fell_short += [f"- `{part.name}` was not measured in this run." for part in PARTS if part.name not in documents]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield "# Benchmarks"
    yield ""
    yield "Made by `make bench`, which runs `tests/bench` and writes this page. No test asserts a time; these are distributions from one run."
    yield f"Machine: {os.cpu_count()} CPUs ({processor()}), {memory:.0f} GiB, Linux {platform.release()}."
    yield ""
    yield "## What fell short"
    yield ""
    yield from fell_short or ["Nothing in this run."]
    yield ""
    yield "## Goals"
    yield ""
    yield "| what | measured | goal | met |"
    yield "|---|---|---|---|"
    yield from (goal.row() for goal in found)
    for part, document in there:
        yield ""
        yield from part.section(document)


def main(arguments: Sequence[str]) -> None:
    (directory,) = arguments
    paths = {part.name: Path(directory) / f"bench-{part.name}.json" for part in PARTS}
    documents = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.is_file()}
    print("\n".join(render(documents)))


if __name__ == "__main__":
    main(sys.argv[1:])
