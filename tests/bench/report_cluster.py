"""The part of docs/benchmarks.md about a local cluster's life and its agent. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.bench.goal import Goal


def goals(cluster: dict[str, Any]) -> Iterator[Goal]:
    """Every figure that has a goal."""
    creation, agent = cluster["creation"], cluster["agent"]
    yield Goal("create-cluster, two nodes, warm cache, to a DNS answer from a pod (median)", creation["create"]["median"], 30, "s")
    yield Goal("delete-cluster (median)", creation["delete"]["median"], 5, "s")
    yield Goal("CNI ADD in the agent, pods one after the other (median)", agent["cni_add_alone_ms"]["p50Ms"], 30, "ms")
    yield Goal(f"CNI ADD in the agent, {agent['pods']} pods at once (median)", agent["cni_add_ms"]["p50Ms"], 30, "ms")
    yield Goal("the CNI plugin's process (median)", agent["plugin_ms"]["plugin"], 5, "ms")
    yield Goal(f"agent, resident with {agent['pods']} pods on the node", agent["resident_mib"], 64, "MiB")
    yield Goal("agent, exec to ready (median)", agent["exec_to_ready_s"]["median"], 2, "s")
    yield Goal("agent image, unpacked", cluster["image_mib"]["anetd"], 150, "MiB")
    yield Goal("`provisioner --help` (median)", round(cluster["help"]["median"] * 1000), 200, "ms")


def section(cluster: dict[str, Any]) -> Iterator[str]:
    """The section of the page, line by line."""
    agent = cluster["agent"]
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


def step_table(cluster: dict[str, Any]) -> Iterator[str]:
    """Steps overlap: their sum is more than the whole."""
    yield "| step | min | median | max |"
    yield "|---|---|---|---|"
    for step, times in cluster["creation"]["steps"].items():
        yield f"| {step} | {times['min']:.2f} s | {times['median']:.2f} s | {times['max']:.2f} s |"
    for whole in ("create", "delete"):
        times = cluster["creation"][whole]
        yield f"| **{whole}-cluster, the whole command** | {times['min']:.2f} s | {times['median']:.2f} s | {times['max']:.2f} s |"
