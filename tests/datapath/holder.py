"""The agent's part in the datapath tests: opens the datapath inside a node, writes the rows, and answers questions on standard input.

python -m tests.datapath.holder NODE native|vxlan auto|tcx|clsact BPFFS
"""

from __future__ import annotations

import json
import sys
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

from agent.datapath.abi import Backend, Endpoint, Frontend, FrontendKey, Route, RouteKind, SlotKey
from agent.datapath.policy_rows import Isolation
from agent.datapath.programs import AttachMode, Datapath, DatapathConfig, RoutingMode

from .topology import NODES, PODS, ROOT, SERVICES, Node, link


def sysfs(name: str, what: str) -> str:
    return Path(f"/sys/class/net/{name}/{what}").read_text().strip()


def open_datapath(node: Node, mode: str, attach: str, bpffs: Path) -> Datapath:
    bpffs.mkdir(exist_ok=True)
    vxlan = mode == "vxlan"
    config = DatapathConfig(
        node_ipv4=IPv4Address(node.address[4]),
        node_ipv6=IPv6Address(node.address[6]),
        device="eth0",
        device_ifindex=int(sysfs("eth0", "ifindex")),
        overlay_ifindex=int(sysfs("anetd-vxlan", "ifindex")) if vxlan else 0,
        routing_mode=RoutingMode(mode),
        attach_mode=AttachMode(attach),
        mtu=1450 if vxlan else 1500,
    )
    return Datapath.open(config, bpffs, ROOT / "agent" / "objects")


def write_rows(datapath: Datapath, node: Node, mode: str) -> None:
    for other in NODES.values():
        for family in (4, 6):
            host = ip_network(other.address[family])
            if other is node:
                datapath.routes.put(ip_network(other.pods[family]), Route(RouteKind.LOCAL_PODS))
                datapath.routes.put(host, Route(RouteKind.THIS_NODE))
                continue
            hop = ip_address(other.address[4 if mode == "vxlan" else family])
            datapath.routes.put(ip_network(other.pods[family]), Route(RouteKind.REMOTE_PODS, hop))
            datapath.routes.put(host, Route(RouteKind.NODE, hop))
    for cidr in SERVICES.values():
        datapath.routes.put(ip_network(cidr), Route(RouteKind.SERVICES))


def attach_pods(datapath: Datapath, node: Node) -> None:
    for number, pod in enumerate(PODS.values(), start=1):
        if pod.node != node.name:
            continue
        index = int(sysfs(pod.host_end, "ifindex"))
        endpoint = Endpoint(index, number, link(pod.name, "eth0")["address"], sysfs(pod.host_end, "address"))
        for address in pod.address.values():
            datapath.endpoints.put(ip_address(address), endpoint)
        datapath.attach_pod(pod.host_end, index)


def answer(datapath: Datapath, request: dict[str, Any]) -> Any:
    """do=service: id, address, port, protocol, backends [[address, port]]; do=drops; do=conntrack; do=not-masqueraded: cidr; do=isolate, do=free:
    address of a pod."""
    what = request["do"]
    if what == "service":
        protocol = request["protocol"]
        for slot, (address, port) in enumerate(request["backends"]):
            number = request["id"] * 100 + slot
            datapath.backends.put(number, Backend(ip_address(address), port, protocol))
            datapath.backend_slots.put(SlotKey(request["id"], slot), number)
        key = FrontendKey(ip_address(request["address"]), request["port"], protocol)
        datapath.frontends.put(key, Frontend(request["id"], len(request["backends"])))
        return None
    if what == "drops":
        return {str(key): count.packets for key, count in datapath.drops.items()}
    if what == "isolate":
        datapath.isolation.put(ip_address(request["address"]), Isolation(1, 2))
        return datapath.advance_policy_generation()
    if what == "free":
        datapath.isolation.delete(ip_address(request["address"]))
        return datapath.advance_policy_generation()
    if what == "conntrack":
        return [repr(row) for row in datapath.conntrack.items()]
    if what == "not-masqueraded":
        datapath.routes.put(ip_network(request["cidr"]), Route(RouteKind.NOT_MASQUERADED))
        return None
    raise ValueError(what)


def main() -> None:
    name, mode, attach, bpffs = sys.argv[1:]
    node = NODES[name]
    datapath = open_datapath(node, mode, attach, Path(bpffs))
    write_rows(datapath, node, mode)
    attach_pods(datapath, node)
    datapath.attach_overlay()
    datapath.attach_device()
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            reply: dict[str, Any] = {"result": answer(datapath, json.loads(line))}
        except Exception as error:  # noqa: BLE001 (the test that asked shall see it, whatever it is)
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
