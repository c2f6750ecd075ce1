"""The part of docs/benchmarks.md about Services: anetd beside kube-proxy. Pure.

The document is the one of `tests.bench.services`. A figure that it does not have is named among what fell short, never left out in silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.bench.goal import SHAPES, Goal, percentiles, shape_name

_NAMES = {"anetd": "anetd", "nftables": "kube-proxy, nftables", "iptables": "kube-proxy, iptables"}
# Of the direct address: a latency within 1.05 or 1.02 of it is a share of so much, as is a stream's rate.
_SHARES = {"crr": 100 / 1.05, "rr": 100 / 1.02, "stream": 100 / 1.02}


def _at(services: dict[str, Any], plane: str, scale: int, *keys: str) -> Any:
    """What was measured, or None."""
    found: Any = services["planes"][plane].get(str(scale), {})
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def goals(services: dict[str, Any]) -> Iterator[Goal]:
    """Every figure that has a goal and was measured."""
    scales = services["scales"]
    for scale in scales:
        ratios = _at(services, "anetd", scale, "pod", "clusterip_to_direct") or {}
        for shape, ratio in ratios.items():
            share = round(_SHARES[shape], 1)
            yield Goal(
                f"ClusterIP, {scale} Services: {shape_name(shape)}, of the direct address", round(ratio * 100, 1), share, "%", at_most=False
            )
    least, most = (_at(services, "anetd", scale, "pod", "clusterip_to_direct", "crr") for scale in (scales[0], scales[-1]))
    if least and most and scales[0] != scales[-1]:
        what = f"ClusterIP, connect-request-close against the direct address: {scales[-1]} Services to {scales[0]}"
        yield Goal(what, round(least / most, 3), 1.05, "times")
    for where in ("local", "remote"):
        ours, theirs = (_at(services, plane, scales[0], "nodeport", "to_node", where) for plane in ("anetd", "nftables"))
        for shape in SHAPES if ours and theirs else ():
            what = f"NodePort, {where} backend: {shape_name(shape)}, of the node's own port (goal: kube-proxy, nftables)"
            yield Goal(what, round(ours[shape] * 100, 1), round(theirs[shape] * 100, 1), "%", at_most=False)
    for scale in scales:
        program = _at(services, "anetd", scale, "program")
        if program and program["count"] and not program["unanswered"]:
            for share, limit in (("p50", 20), ("p99", 100)):
                what = f"a new EndpointSlice, {scale} Services, {share}"
                yield Goal(f"{what}, from the request to the first answer", program[f"{share}_ms"], limit, "ms")
                yield Goal(f"{what}, from the API's answer", program["since"][f"{share}_ms"], limit, "ms")
    if cold := services.get("cold_start"):
        yield Goal(f"agent in step from nothing, {cold['services']} Services", cold["synced_s"], 5, "s")
        yield Goal(f"agent, resident with {cold['services']} Services", cold["resident_mib"], 143, "MiB")


def missing(services: dict[str, Any]) -> Iterator[str]:
    """What has no figure, and why."""
    if services["cut_short"]:
        yield "- The Service benchmark was stopped by its own time limit; what is missing below was not reached."
    for plane, scales in services["planes"].items():
        yield from (f"- {_NAMES[plane]}, {scale} Services: not reached." for scale in services["scales"] if str(scale) not in scales)
        for scale, found in scales.items():
            for part, why in found["missing"].items():
                yield f"- {_NAMES[plane]}, {scale} Services: no figures for `{part}`: {why}"
            if unanswered := (found.get("program") or {}).get("unanswered"):
                yield f"- {_NAMES[plane]}, {scale} Services: {unanswered} new EndpointSlices were never answered."
    if "cold_start" not in services:
        yield "- The agent's start from nothing with many Services was not reached."
    if services.get("rows_of_one_change") is None:
        yield "- The rows that one change among many Services writes were not counted."


def section(services: dict[str, Any]) -> Iterator[str]:
    """The section of the page, line by line."""
    yield "## Services"
    yield ""
    yield (
        "anetd, and the real kube-proxy in both modes, on the same two nodes in the same run; kube-proxy's pods are wired by the ptp plugin and "
        f"static routes. {services['nft']}, {services['iptables']}. Every Service but the measured ones has four endpoints. "
        "`direct` and `ClusterIP`: medians of alternating rounds, both ends on one CPU, from a pod to a server on the other node. `ratio`: ClusterIP to direct, "
        "1.00 for the same, less for worse. The slice columns, p50 / p99 / max in ms: from the request that creates an EndpointSlice to the first "
        "answer through its Service, ten such requests a second; the same from the API server's answer, when the slice is there for everybody; and "
        "between the two the API server, with the disk under etcd. NodePorts are asked from a namespace on the nodes' "
        "bridge, in turn with a process of the node itself (`none`)."
    )
    yield ""
    yield from _pod_table(services)
    yield ""
    yield from _program_table(services)
    yield ""
    yield from _node_port_table(services)
    yield ""
    if cold := services.get("cold_start"):
        yield f"- anetd in step from nothing with {cold['services']} Services: {cold['synced_s']} s, then {cold['resident_mib']} MiB resident."
    if (rows := services.get("rows_of_one_change")) is not None:
        listed = ", ".join(f"{count} {what}" for what, count in sorted(rows.items()))
        yield f"- One endpoint replaced among {services['scales'][-1]} Services, rows: {listed}."


def _pod_table(services: dict[str, Any]) -> Iterator[str]:
    shapes = ("crr", "rr", "stream")
    yield "| dataplane | Services | " + " | ".join(f"{SHAPES[shape]}: direct, ClusterIP, ratio" for shape in shapes) + " |"
    yield "|---|---|---|---|---|"
    for plane, name in _NAMES.items():
        for scale in services["scales"]:
            if found := _at(services, plane, scale, "pod"):
                medians, ratios = found["medians"], found["clusterip_to_direct"]
                cells = (f"{medians['direct'][s]:.1f}, {medians['clusterip'][s]:.1f}, {ratios[s]:.2f}" for s in shapes)
                yield f"| {name} | {scale} | " + " | ".join(cells) + " |"


def _program_table(services: dict[str, Any]) -> Iterator[str]:
    yield "| dataplane | Services | slice to answer | from the API's answer | API server | first synchronisation | resident |"
    yield "|---|---|---|---|---|---|---|"
    for plane, name in _NAMES.items():
        for scale in services["scales"]:
            found, program = _at(services, plane, scale), _at(services, plane, scale, "program") or {}
            if found:
                times = [percentiles(each) for each in (program, program.get("since", {}), program.get("created", {}))]
                synced = f"{found['synced_s']} s" if found.get("synced_s") is not None else "-"
                resident = f"{found['resident_mib']} MiB" if "resident_mib" in found else "-"
                yield f"| {name} | {scale} | " + " | ".join([*times, synced, resident]) + " |"


def _node_port_table(services: dict[str, Any]) -> Iterator[str]:
    yield "| NodePort from outside of the nodes | backend | " + " | ".join(SHAPES.values()) + " |"
    yield "|---|---|---|---|---|"
    for plane, name in _NAMES.items():
        found = _at(services, plane, services["scales"][0], "nodeport") or {"medians": {}}
        for where, shapes in found["medians"].items():
            ratios = found["to_node"].get(where, {})
            cells = (f"{shapes[shape]:.1f}" + (f" (ratio {ratios[shape]:.2f})" if ratios else "") for shape in SHAPES)
            yield f"| {name} | {'none' if where == 'node' else where} | " + " | ".join(cells) + " |"
