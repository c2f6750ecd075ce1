"""The part of docs/benchmarks.md about packets between pods: anetd's programs beside the least that could be done. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.bench.goal import SHAPES, Goal, shape_name

POLICY_GOALS = {"stream": 1.02, "rr": 1.03, "crr": 1.05}
"""What 500 policies on every pod may cost, as a ratio."""

_RATIOS = {"ours_to_limit": "ours to the limit, less is worse", "policy_to_ours": "500 policies to none, more is worse"}


def goals(datapath: dict[str, Any]) -> Iterator[Goal]:
    """Every figure that has a goal."""
    for where, ratios in datapath["ours_to_limit"].items():
        for shape, ratio in ratios.items():
            yield Goal(f"pod to pod, {where}: {shape_name(shape)}, of the limit", round(ratio * 100, 1), 95, "%", at_most=False)
    for where, ratios in datapath["policy_to_ours"].items():
        for shape, ratio in ratios.items():
            yield Goal(f"pod to pod, {where}: {shape_name(shape)}, 500 policies to none", ratio, POLICY_GOALS[shape], "times")


def section(datapath: dict[str, Any]) -> Iterator[str]:
    """The section of the page, line by line."""
    figures = next(iter(datapath["all"].values()))
    rounds, streams = len(figures["crr"]), len(figures["stream"])
    yield "## Pod to pod"
    yield ""
    yield (
        f"Medians of {rounds} alternating rounds, of {streams} short streams, in namespaces on one bridge; both ends on one CPU. `nodes`: node to node. `stack`: pods through the kernel's own "
        "forwarding with static routes, as with the ptp plugin. `limit`: nothing but two programs of a few lines, `bpf_redirect_neigh` out of "
        "the pod and `bpf_redirect_peer` into it. `ours`: anetd's programs, with source check, connection tracking and service lookup. "
        "`policy`: the same with all pods isolated both ways by what 500 policies become. "
        "A ratio is rate to rate for a stream, and limit to ours for a latency."
    )
    yield ""
    yield from path_table(datapath)
    yield ""
    yield "The ratios, with the bounds between which 95 of 100 such runs would have them:"
    yield ""
    yield "| ratio | " + " | ".join(map(shape_name, SHAPES)) + " |"
    yield "|---|---|---|---|"
    for name, text in _RATIOS.items():
        for where, ratios in datapath[name].items():
            bounds = datapath["intervals"][name][where]
            cells = (f"{ratios[shape]:.3f} ({bounds[shape][0]:.3f} to {bounds[shape][1]:.3f})" for shape in SHAPES)
            yield f"| {text}, {where} | " + " | ".join(cells) + " |"


def path_table(datapath: dict[str, Any]) -> Iterator[str]:
    """Medians of every path, the machine's own limits first."""
    yield "| path | " + " | ".join(SHAPES.values()) + " |"
    yield "|---|---|---|---|"
    for path, shapes in datapath["medians"].items():
        yield f"| {path} | " + " | ".join(f"{shapes[shape]:.1f}" for shape in SHAPES) + " |"
