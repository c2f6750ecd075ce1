"""docs/benchmarks.md out of what the benchmarks measured.

    python -m tests.bench.report build/bench-{datapath,cluster,services,check,gke,terraform}.json > docs/benchmarks.md

Pure but for reading the files and naming the machine: each figure stands beside its goal, and what fell short is said first.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.bench import report_services
from tests.bench.goal import SHAPES, Goal


def goals(datapath: dict[str, Any], cluster: dict[str, Any], check: dict[str, Any], gke: dict[str, Any]) -> Iterator[Goal]:
    """Every figure that has a goal."""
    yield Goal(
        "create-cluster, two nodes, warm cache, to a DNS answer from a pod (median)", cluster["creation"]["create"]["median"], 30, "s"
    )
    yield Goal("delete-cluster (median)", cluster["creation"]["delete"]["median"], 5, "s")
    for where, ratios in datapath["ours_to_limit"].items():
        for shape, ratio in ratios.items():
            name = SHAPES[shape].split(",")[0].removesuffix(" p50")
            yield Goal(f"pod to pod, {where}: {name}, of the limit", round(ratio * 100, 1), 95, "%", at_most=False)
    agent = cluster["agent"]
    yield Goal("CNI ADD in the agent, pods one after the other (median)", agent["cni_add_alone_ms"]["p50Ms"], 30, "ms")
    yield Goal(f"CNI ADD in the agent, {agent['pods']} pods at once (median)", agent["cni_add_ms"]["p50Ms"], 30, "ms")
    yield Goal("the CNI plugin's process (median)", agent["plugin_ms"]["plugin"], 5, "ms")
    yield Goal(f"agent, resident with {agent['pods']} pods on the node", agent["resident_mib"], 64, "MiB")
    yield Goal("agent, exec to ready (median)", agent["exec_to_ready_s"]["median"], 2, "s")
    yield Goal("agent image, unpacked", cluster["image_mib"]["anetd"], 150, "MiB")
    yield Goal("create-cluster on gke, beyond the API's own time (median)", gke["added_s"]["median"], 2, "s")
    yield Goal("`provisioner --help` (median)", round(cluster["help"]["median"] * 1000), 200, "ms")
    yield Goal(f"`provisioner check` on {check['check']['manifests']} manifests (median)", check["check"]["median"], 5, "s")
    yield Goal("`provisioner check` on them, resident", check["check"]["mib"], 200, "MiB")
    yield Goal("`provisioner features` (median)", round(check["features"]["median"] * 1000), 250, "ms")


def path_table(datapath: dict[str, Any]) -> Iterator[str]:
    """Medians of every path, the machine's own limits first."""
    yield "| path | " + " | ".join(SHAPES.values()) + " |"
    yield "|---|---|---|---|"
    for path, shapes in datapath["medians"].items():
        yield f"| {path} | " + " | ".join(f"{shapes[shape]:.1f}" for shape in SHAPES) + " |"


def step_table(cluster: dict[str, Any]) -> Iterator[str]:
    """Steps overlap: their sum is more than the whole."""
    yield "| step | min | median | max |"
    yield "|---|---|---|---|"
    for step, times in cluster["creation"]["steps"].items():
        yield f"| {step} | {times['min']:.2f} s | {times['median']:.2f} s | {times['max']:.2f} s |"
    for whole in ("create", "delete"):
        times = cluster["creation"][whole]
        yield f"| **{whole}-cluster, the whole command** | {times['min']:.2f} s | {times['median']:.2f} s | {times['max']:.2f} s |"


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def render(
    datapath: dict[str, Any], cluster: dict[str, Any], services: dict[str, Any], check: dict[str, Any], gke: dict[str, Any]
) -> Iterator[str]:
    """The page, line by line."""
    found = [*goals(datapath, cluster, check, gke), *report_services.goals(services)]
    short = [goal for goal in found if not goal.met]
    rounds = len(next(iter(datapath["all"].values()))["stream"])
    agent = cluster["agent"]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield "# Benchmarks"
    yield ""
    yield "Made by `make bench`, which runs `tests/bench` and writes this page. No test asserts a time; these are distributions from one run."
    yield f"Machine: {os.cpu_count()} CPUs ({processor()}), {memory:.0f} GiB, Linux {platform.release()}."
    yield ""
    yield "## What fell short"
    yield ""
    fell_short = [f"- {goal.what}: {goal.measured:g} {goal.unit}, wanted {goal.goal:g}." for goal in short]
    yield from ([*fell_short, *report_services.missing(services)] or ["Nothing in this run."])
    yield ""
    yield "## Goals"
    yield ""
    yield "| what | measured | goal | met |"
    yield "|---|---|---|---|"
    yield from (goal.row() for goal in found)
    yield ""
    yield "## Pod to pod"
    yield ""
    yield (
        f"Medians of {rounds} alternating rounds in namespaces on one bridge. `nodes`: node to node. `stack`: pods through the kernel's own "
        "forwarding with static routes, as with the ptp plugin. `limit`: nothing but two programs of a few lines, `bpf_redirect_neigh` out of "
        "the pod and `bpf_redirect_peer` into it. `ours`: anetd's programs, with source check, connection tracking and service lookup. "
        "A ratio is rate to rate for a stream, and limit to ours for a latency."
    )
    yield ""
    yield from path_table(datapath)
    yield ""
    yield from report_services.section(services)
    yield ""
    yield "## A cluster's life"
    yield ""
    yield f"Two nodes, warm cache, {cluster['creation']['create']['runs']} creations and deletions in turn. Steps run side by side where they can."
    yield ""
    yield from step_table(cluster)
    yield ""
    yield "## The agent"
    yield ""
    add, plugin, start = agent["cni_add_ms"], agent["plugin_ms"], agent["exec_to_ready_s"]
    yield f"- {agent['pods']} pods applied at once to one node were all ready after {agent['pods_ready_s']} s."
    alone = agent["cni_add_alone_ms"]
    yield f"- CNI ADD in the agent, {alone['count']} pods one after the other: p50 {alone['p50Ms']} ms, p90 {alone['p90Ms']} ms, max {alone['maxMs']} ms."
    yield f"- CNI ADD in the agent, {add['count']} requests, many at once on busy CPUs: p50 {add['p50Ms']} ms, p90 {add['p90Ms']} ms, max {add['maxMs']} ms."
    yield f"- The plugin as a process, asked for its versions: {plugin['plugin']} ms; `/bin/true` started the same way: {plugin['bin_true']} ms."
    yield f"- Killed and started again with {agent['pods']} pods: exec to ready {start['min']}, {start['median']}, {start['max']} s (min, median, max)."
    yield "- Images, unpacked: " + ", ".join(f"{name} {size} MiB" for name, size in cluster["image_mib"].items()) + "."
    yield "- Streams over a killed agent lose nothing: that is a test (`tests/cluster/test_agent_life.py`), not a figure."


def gate_section(check: dict[str, Any]) -> Iterator[str]:
    """Beside --help, which says how fast the machine was just then."""
    yield ""
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
    yield ""
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


def main(arguments: Sequence[str]) -> None:
    datapath, cluster, services, check, gke, provider = (json.loads(Path(path).read_text(encoding="utf-8")) for path in arguments)
    print("\n".join([*render(datapath, cluster, services, check, gke), *gate_section(check), *provider_section(provider)]))


if __name__ == "__main__":
    main(sys.argv[1:])
