"""The policy log's part of docs/benchmarks.md. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tests.bench.goal import Goal

Document = dict[str, Any]
CONNECTIONS_PERCENT, FLOOD_PERCENT = 2.0, 5.0
LOADS = {
    ("connections", "silent"): "1 000 connections a second that are not logged",
    ("connections", "logged"): "1 000 connections a second, logged",
    ("flood", "one"): "100 000 denied packets a second, one connection",
    ("flood", "many"): "100 000 denied packets a second, to 4 000 ports",
}


def goals(found: Document) -> Iterable[Goal]:
    what = "policy log, of a core of the agent"
    yield Goal(f"{what}: {LOADS['connections', 'logged']}", found["connections"]["logged"]["cpu_percent"], CONNECTIONS_PERCENT, "%")
    for name in ("one", "many"):
        yield Goal(f"{what}: {LOADS['flood', name]}", found["flood"][name]["cpu_percent"], FLOOD_PERCENT, "%")


def missing(found: Document) -> Iterable[str]:
    for name, one in found["flood"].items():
        if one["per_second"] < 95_000:
            yield f"- The flood of denied packets ({name}) was of {one['per_second']} a second: the machine sent no more."


def section(found: Document) -> Iterator[str]:
    yield "## The policy log"
    yield ""
    yield (
        f"The agent's threads over {found['seconds']:g} s, the log on; with nothing to do {found['idle']['cpu_percent']} % of a core. "
        "A node writes 500 lines a second: what is beyond that, and what else is not written, is counted."
    )
    yield ""
    yield "| load | a second | of a core | records from the kernel | lines | not written |"
    yield "|---|---|---|---|---|---|"
    for (kind, name), text in LOADS.items():
        one = found[kind][name]
        events, lines = sum(one["events"].values()), sum(one["lines"].values())
        lost = ", ".join(f"{count} {reason}" for reason, count in one["lost"].items()) or "-"
        yield f"| {text} | {one['per_second']} | {one['cpu_percent']} % | {events} | {lines} | {lost} |"
    silent, logged = found["latency"]["silent"], found["latency"]["logged"]
    yield ""
    yield (
        f"connect(): p50 {silent['p50_us']} µs, p99 {silent['p99_us']} µs without the log, {logged['p50_us']} µs and {logged['p99_us']} µs "
        f"with it; the median of the differences in one turn {found['latency']['difference_us']} µs."
    )
