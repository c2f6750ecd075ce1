"""What the agent says about itself: JSON documents for the control socket, and the health and metrics pages."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

from agent.cni.ipam import Pool
from agent.datapath.abi import DropDirection, DropReason, clock
from agent.observe import policy_documents
from agent.observe.flows import flows
from agent.observe.httpd import METRICS, Answer, Page
from agent.observe.metrics import CniMetrics, family, resident_bytes
from agent.policylog.settings import describe
from agent.runtime import Agent


def status(agent: Agent, cni: CniMetrics) -> dict[str, Any]:
    """`anetd status`. Durations are in seconds, but for CNI requests, in milliseconds."""
    serving = agent.serving
    pods = serving.pods.records() if serving else []
    return {
        "node": agent.node_name,
        "ready": agent.ready,
        "waitingFor": agent.waiting_for,
        "uptimeSeconds": round(time.monotonic() - agent.started, 1),
        "startupSeconds": agent.startup_seconds,
        "memoryBytes": resident_bytes(),
        "routingMode": agent.config.routing_mode,
        "masquerade": agent.config.masquerade,
        "socketLB": {"on": agent.socket_lb.on, "reason": agent.socket_lb.reason},
        "device": serving.host.device.name if serving else "",
        "mtu": serving.mtu if serving else 0,
        "podCIDRs": [str(network) for network in serving.own.pod_cidrs] if serving else [],
        "api": {watcher.name: {"connected": watcher.connected, "synced": watcher.synced} for watcher in agent.watchers},
        "ipam": {
            "allocated": sorted(str(address) for record in pods for address in record.addresses),
            "pools": [{"cidr": str(pool.network), "taken": pool.taken, "capacity": pool.capacity} for pool in _pools(agent)],
        },
        "cni": cni.recent(),
        "endpoints": endpoints(agent),
        "nodes": [
            {"name": node.name, "podCIDRs": list(map(str, node.pod_cidrs)), "addresses": list(map(str, node.addresses))}
            for node in sorted(agent.nodes.snapshot().values(), key=lambda each: each.name)
        ],
        "refusedPorts": {str(port): why for port, why in sorted(agent.edges.refused.items())},
        "frontends": serving.tables.frontends if serving else 0,
        "policies": _policies(agent),
        "policyLog": _policy_log(agent),
        "drops": [
            {"reason": reason, "direction": direction, "packets": packets, "bytes": size}
            for reason, direction, packets, size in _drops(agent)
        ],
    }


def _policy_log(agent: Agent) -> dict[str, Any]:
    counts = agent.policy_log.counts
    return {
        "logged": describe(agent.logging.logging),
        "reading": counts.ready,
        "written": sum(counts.lines.values()),
        "lost": {reason: count for reason, count in counts.dropped.items() if count},
        "trouble": agent.policy_log.trouble,
    }


def endpoints(agent: Agent) -> list[dict[str, Any]]:
    """`anetd endpoints`: the rows that are in the kernel, with what the store knows of them."""
    serving = agent.serving
    if serving is None:
        return []
    by_id = {record.id: record for record in serving.pods.records()}
    links = serving.datapath.attached()
    with serving.policies.looking() as view:
        judged = {str(pod): policy_documents.of_pod(view, pod) for pod in view.pods} if view is not None else {}
    found = []
    for address, row in serving.datapath.endpoints.items():
        record = by_id.get(row.id)
        name = serving.pods.link_name(record) if record else ""
        found.append(
            {
                "address": str(address),
                "pod": record.pod if record else "",
                "id": row.id,
                "link": name,
                "attached": name in links,
                "ifindex": row.ifindex,
                "mac": row.pod_mac,
                "hostPorts": [str(each) for each in record.port_mappings] if record else [],
                "policy": judged.get(record.pod) if record else None,
            }
        )
    return sorted(found, key=lambda row: (row["id"], row["address"]))


def services(agent: Agent, name: str = "") -> list[dict[str, Any]]:
    """`anetd services`: of one Service (NAMESPACE/NAME), or of all. See `agent.observe.explain`."""
    return agent.serving.tables.explain(name) if agent.serving is not None else []


def policy(agent: Agent, name: str = "") -> dict[str, Any]:
    """`anetd policy`: those that select pods of this node, or the one of that name (NAMESPACE/NAME), and how the tables stand."""
    serving = agent.serving
    loop = agent.policy
    found: dict[str, Any] = {
        "inForce": loop.in_force,
        "trouble": loop.trouble,
        "known": {
            "pods": len(loop.pods.snapshot()),
            "namespaces": len(loop.namespaces.snapshot()),
            "policies": len(loop.policies.snapshot()),
        },
    }
    if serving is None:
        return {**found, "revision": 0, "tables": {}, "policies": [], "troubles": []}
    usage = serving.policies.metrics.usage()
    found["tables"] = {table: {"rows": each.rows, "capacity": each.capacity} for table, each in usage.items()}
    with serving.policies.looking() as view:
        found["revision"] = view.revision if view is not None else 0
        found["policies"] = policy_documents.policies(view, name) if view is not None else []
        found["troubles"] = policy_documents.troubles(view.compiler.troubles) if view is not None else []
    if name and not found["policies"]:
        return {"error": f"no pod of this node is selected by a NetworkPolicy {name}; the name is NAMESPACE/NAME"}
    return found


def _policies(agent: Agent) -> dict[str, Any]:
    metrics = agent.edges.policy
    return {
        "inForce": agent.policy.in_force,
        "trouble": agent.policy.trouble,
        "revision": metrics.revision,
        "selectingPods": metrics.in_force,
        "doNotFit": metrics.troubles,
        "podsClosed": metrics.closed,
    }


def conntrack(agent: Agent, about: str) -> dict[str, Any]:
    """`anetd conntrack`: `about` is a JSON object with `pod` (names), `address` (texts) and `limit`, all of which may be missing."""
    serving = agent.serving
    asked = json.loads(about or "{}")
    if serving is None:
        return {"matching": 0, "flows": []}
    pods = {address: record.pod for record in serving.pods.records() for address in record.addresses}
    names = set(asked.get("pod", ()))
    strange = names - set(pods.values())
    if strange:
        return {"error": f"this node has no pod {', '.join(sorted(strange))}; the name is NAMESPACE/NAME"}
    wanted = [ip_address(text) for text in asked.get("address", ())] + [address for address, pod in pods.items() if pod in names]
    now = clock(time.monotonic_ns())
    return flows(serving.datapath.conntrack.raw_items(), now, lambda address: pods.get(address, ""), wanted, int(asked.get("limit", 100)))


def healthz(agent: Agent) -> Page:
    """200 as long as the main loop comes round. The API server's absence is no reason to restart an agent whose pods run."""
    return lambda: Answer(503, "the main loop has stalled\n") if agent.stalled else Answer(200, "ok\n")


def readyz(agent: Agent) -> Page:
    """200 once pods are served."""
    return lambda: Answer(200, "ok\n") if agent.ready else Answer(503, f"not ready: waiting for {agent.waiting_for}\n")


def metrics(agent: Agent, cni: CniMetrics) -> Page:
    """The metrics page."""

    def page() -> Answer:
        drops = list(_drops(agent))
        labels: Callable[[str, str], dict[str, str]] = lambda reason, direction: {"reason": reason, "direction": direction}  # noqa: E731
        lines = [
            *family("anetd_ready", "gauge", "Whether pods are served.", [({}, int(agent.ready))]),
            *family("anetd_resident_memory_bytes", "gauge", "Memory of the process.", [({}, resident_bytes())]),
            *family(
                "anetd_api_connected",
                "gauge",
                "Whether the last request of a watch was answered.",
                [({"resource": watcher.name}, int(watcher.connected)) for watcher in agent.watchers],
            ),
            *family("anetd_endpoints", "gauge", "Pods of this node.", [({}, len(agent.serving.pods.records()) if agent.serving else 0)]),
            *family(
                "anetd_ipam_addresses",
                "gauge",
                "Addresses in use by pod CIDR.",
                [({"cidr": str(pool.network)}, pool.taken) for pool in _pools(agent)],
            ),
            *family("anetd_drop_packets_total", "counter", "Packets dropped.", [(labels(r, d), packets) for r, d, packets, _ in drops]),
            *family("anetd_drop_bytes_total", "counter", "Bytes dropped.", [(labels(r, d), size) for r, d, _, size in drops]),
            *cni.render(),
            *agent.edges.render(),
            *agent.policy_log.counts.render(),
        ]
        return Answer(200, "\n".join(lines) + "\n", METRICS)

    return page


def _pools(agent: Agent) -> list[Pool]:
    return agent.serving.pods.allocator.pools if agent.serving else []


def _drops(agent: Agent) -> Iterator[tuple[str, str, int, int]]:
    if agent.serving is None:
        return
    totals: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for key, count in agent.serving.datapath.drops.items():
        entry = totals[_enum_name(DropReason, key.reason), _enum_name(DropDirection, key.direction)]
        entry[0] += count.packets
        entry[1] += count.bytes
    for (reason, direction), (packets, size) in sorted(totals.items()):
        yield reason, direction, packets, size


def _enum_name(kind: type[DropReason | DropDirection], value: int) -> str:
    try:
        return kind(value).name
    except ValueError:
        return str(value)
