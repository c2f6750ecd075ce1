"""What the agent says about itself: JSON documents for the control socket, and the health and metrics pages."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from agent.cni.ipam import Pool
from agent.datapath.abi import DropDirection, DropReason
from agent.observe.metrics import CniMetrics, family, resident_bytes
from agent.runtime import Agent

_PROTOCOLS = {6: "TCP", 17: "UDP"}


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
        "frontends": len(serving.tables.resolved) if serving else 0,
        "drops": [
            {"reason": reason, "direction": direction, "packets": packets, "bytes": size}
            for reason, direction, packets, size in _drops(agent)
        ],
    }


def endpoints(agent: Agent) -> list[dict[str, Any]]:
    """`anetd endpoints`: the rows that are in the kernel, with what the store knows of them."""
    serving = agent.serving
    if serving is None:
        return []
    by_id = {record.id: record for record in serving.pods.records()}
    links = serving.datapath.attached()
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
            }
        )
    return sorted(found, key=lambda row: (row["id"], row["address"]))


def services(agent: Agent) -> list[dict[str, Any]]:
    """`anetd services`."""
    if agent.serving is None:
        return []
    tables = agent.serving.tables
    written = tables.written.frontends if tables.written else {}
    found = []
    for key, each in tables.resolved.items():
        row = written.get(key)
        found.append(
            {
                "service": str(each.service),
                "portName": each.port_name,
                "frontend": _socket_text(str(key.address), key.port),
                "protocol": _PROTOCOLS.get(key.protocol, str(key.protocol)),
                "id": row.service_id if row else 0,
                "backends": [_socket_text(str(end.address), end.port) for end in each.backends],
            }
        )
    return sorted(found, key=lambda row: (row["service"], row["portName"], row["frontend"]))


def healthz(agent: Agent) -> Callable[[], tuple[int, str]]:
    """200 as long as the main loop comes round."""
    return lambda: (503, "the main loop has stalled\n") if agent.stalled else (200, "ok\n")


def readyz(agent: Agent) -> Callable[[], tuple[int, str]]:
    """200 once pods are served."""
    return lambda: (200, "ok\n") if agent.ready else (503, f"not ready: waiting for {agent.waiting_for}\n")


def metrics(agent: Agent, cni: CniMetrics) -> Callable[[], tuple[int, str]]:
    """The metrics page."""

    def page() -> tuple[int, str]:
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
        ]
        return 200, "\n".join(lines) + "\n"

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


def _socket_text(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
