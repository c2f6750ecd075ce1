"""Two nodes, three pods, a router and a far host, each a network namespace, wired as anetd wires a node.

      dp-far --(MTU 1300)-- dp-lan (router and bridge) --+-- dp-n0: dp-p0, dp-p1
                                                         +-- dp-n1: dp-p2

The addresses are of 198.18.0.0/15, set aside for tests (RFC 2544), and of the documentation range 2001:db8::/32. Everything is named
`dp-`; what a killed run left is removed first.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
TRAFFIC = Path(__file__).resolve().parent / "traffic.py"
PORT = 8000
NAMESPACES = ("dp-lan", "dp-far", "dp-n0", "dp-n1", "dp-p0", "dp-p1", "dp-p2")
GATEWAY = {4: "198.19.0.1", 6: "2001:db8::1"}
FAR = {4: "198.19.200.2", 6: "2001:db8:c8::2"}
SERVICES = {4: "198.19.96.0/24", 6: "2001:db8:96::/112"}


@dataclass(frozen=True)
class Node:
    name: str
    address: dict[int, str]
    pods: dict[int, str]


@dataclass(frozen=True)
class Pod:
    name: str
    node: str
    address: dict[int, str]
    host_end: str


NODES = {
    "dp-n0": Node("dp-n0", {4: "198.19.0.10", 6: "2001:db8::10"}, {4: "198.19.16.0/24", 6: "2001:db8:16::/64"}),
    "dp-n1": Node("dp-n1", {4: "198.19.0.11", 6: "2001:db8::11"}, {4: "198.19.17.0/24", 6: "2001:db8:17::/64"}),
}
PODS = {
    "dp-p0": Pod("dp-p0", "dp-n0", {4: "198.19.16.10", 6: "2001:db8:16::10"}, "dph0"),
    "dp-p1": Pod("dp-p1", "dp-n0", {4: "198.19.16.11", 6: "2001:db8:16::11"}, "dph1"),
    "dp-p2": Pod("dp-p2", "dp-n1", {4: "198.19.17.10", 6: "2001:db8:17::10"}, "dph2"),
}


def sh(line: str, *, check: bool = True, timeout: float = 30) -> str:
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=timeout, check=False)
    if check and done.returncode:
        raise AssertionError(f"{line}\n{done.stdout}{done.stderr}")
    return done.stdout


def inside(namespace: str, line: str, **options: Any) -> str:
    return sh(f"ip netns exec {namespace} {line}", **options)


def link(namespace: str, name: str) -> dict[str, Any]:
    return dict(json.loads(inside(namespace, f"ip -j link show {name}"))[0])


def clear() -> None:
    existing = sh("ip netns list").split()
    for name in NAMESPACES:
        if name in existing:
            sh(f"ip netns del {name}")


def build(mode: str) -> None:
    """`mode` is native or vxlan; the pods' MTU follows from it."""
    for name in NAMESPACES:
        sh(f"ip netns add {name}")
        inside(name, "ip link set lo up")
        inside(name, "sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0 net.ipv4.conf.all.rp_filter=0")
    for name in ("dp-lan", *NODES):
        inside(name, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
    build_outside()
    for number, node in enumerate(NODES.values()):
        build_node(number, node)
        if mode == "vxlan":
            inside(node.name, "ip link add anetd-vxlan mtu 1450 type vxlan external dstport 8472 nolearning")
            inside(node.name, "ip link set anetd-vxlan up")
    for node, other in itertools.permutations(NODES.values(), 2):
        for family in (4, 6):
            route_to_pods(mode, node, other, family)
    for pod in PODS.values():
        build_pod(pod, 1450 if mode == "vxlan" else 1500)


def build_outside() -> None:
    inside("dp-lan", "ip link add br0 type bridge")
    inside("dp-lan", "ip link set br0 up")
    inside("dp-lan", f"ip addr add {GATEWAY[4]}/24 dev br0")
    inside("dp-lan", f"ip addr add {GATEWAY[6]}/64 dev br0 nodad")
    sh("ip -n dp-lan link add tofar mtu 1300 type veth peer name eth0 mtu 1300 netns dp-far")
    inside("dp-lan", "ip link set tofar up")
    inside("dp-far", "ip link set eth0 up")
    for family, prefix in ((4, 24), (6, 64)):
        nodad = "nodad" if family == 6 else ""
        inside("dp-lan", f"ip addr add {FAR[family][:-1]}1/{prefix} dev tofar {nodad}")
        inside("dp-far", f"ip addr add {FAR[family]}/{prefix} dev eth0 {nodad}")
        inside("dp-far", f"ip -{family} route add default via {FAR[family][:-1]}1")


def build_node(number: int, node: Node) -> None:
    sh(f"ip -n dp-lan link add port{number} type veth peer name eth0 netns {node.name}")
    inside("dp-lan", f"ip link set port{number} master br0 up")
    inside(node.name, "ip link set eth0 up")
    inside(node.name, f"ip addr add {node.address[4]}/24 dev eth0")
    inside(node.name, f"ip addr add {node.address[6]}/64 dev eth0 nodad")
    for family in (4, 6):
        inside(node.name, f"ip -{family} route add default via {GATEWAY[family]}")


def route_to_pods(mode: str, node: Node, other: Node, family: int) -> None:
    """What the agent writes for the host's own stack."""
    if mode == "native":
        inside(node.name, f"ip -{family} route add {other.pods[family]} via {other.address[family]}")
        return
    hop = other.pods[family].split("/")[0]
    # What stands in the inner frame does not matter: the programs set the tunnel's far end.
    inside(node.name, f"ip -{family} neigh add {hop} lladdr 02:00:00:00:00:01 dev anetd-vxlan nud permanent")
    inside(node.name, f"ip -{family} route add {other.pods[family]} via {hop} dev anetd-vxlan src {node.address[family]} onlink")


def build_pod(pod: Pod, mtu: int) -> None:
    sh(f"ip -n {pod.node} link add {pod.host_end} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {pod.name}")
    inside(pod.node, f"ip link set {pod.host_end} up")
    inside(pod.name, "ip link set eth0 up")
    pod_mac, host_mac = link(pod.name, "eth0")["address"], link(pod.node, pod.host_end)["address"]
    for family, (length, gateway) in {4: (32, "169.254.1.1"), 6: (128, "fe80::1")}.items():
        nodad = "nodad" if family == 6 else ""
        inside(pod.name, f"ip addr add {pod.address[family]}/{length} dev eth0 {nodad}")
        inside(pod.name, f"ip -{family} neigh add {gateway} lladdr {host_mac} dev eth0 nud permanent")
        if family == 4:
            inside(pod.name, f"ip route add {gateway} dev eth0")
        inside(pod.name, f"ip -{family} route add default via {gateway} dev eth0")
        inside(pod.node, f"ip -{family} route add {pod.address[family]}/{length} dev {pod.host_end}")
        inside(pod.node, f"ip -{family} neigh add {pod.address[family]} lladdr {pod_mac} dev {pod.host_end} nud permanent")


@dataclass
class Holder:
    """A process inside a node that has the datapath open: the agent's part in these tests."""

    node: str
    process: subprocess.Popen[str]

    def call(self, **request: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise AssertionError(answer["error"])
        return answer["result"]

    def kill(self) -> None:
        """As the kernel does it when memory is short: no goodbye."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Topology:
    """The namespaces with the datapath on both nodes."""

    mode: str
    attach: str
    bpffs: Path
    holders: dict[str, Holder] = field(default_factory=dict)

    def start(self, node: str) -> None:
        argv = [
            "ip",
            "netns",
            "exec",
            node,
            sys.executable,
            "-m",
            "tests.datapath.holder",
            node,
            self.mode,
            self.attach,
            str(self.bpffs / node),
        ]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise AssertionError(f"the datapath did not come up on {node}")
        self.holders[node] = Holder(node, process)

    def ask(self, client: str, kind: str, address: str, *, port: int = PORT, size: int = 4, patience: float = 30) -> str:
        """The server's word ("<client address> <port> <bytes>"), or the error's name, TIMEOUT after `patience` seconds."""
        line = f"{sys.executable} {TRAFFIC} {kind} {address} {port} {size} {patience}"
        return inside(client, line, check=False, timeout=patience + 30).strip()

    def ping(self, client: str, address: str, *, size: int = 56, options: str = "") -> str:
        return inside(client, f"ping -c 1 -W 2 -s {size} {options} {address} 2>&1", check=False)

    def answers_ping(self, client: str, address: str, *, size: int = 56) -> bool:
        """Whether one of some pings is answered: a busy machine may be late, or lose the first one while it looks for a neighbour."""
        return any("1 received" in self.ping(client, address, size=size) for _ in range(15))

    def drops(self, node: str) -> dict[str, int]:
        """ "reason direction" -> packets."""
        return dict(self.holders[node].call(do="drops"))


@contextmanager
def running(mode: str, attach: str) -> Iterator[Topology]:
    """The whole, with servers on every pod, node, the router and the far host; everything is gone afterwards."""
    clear()
    servers: list[subprocess.Popen[str]] = []
    with tempfile.TemporaryDirectory(prefix="dp-") as scratch:
        bpffs = Path(scratch) / "bpf"
        bpffs.mkdir()
        sh(f"mount -t bpf bpf {bpffs}")
        topology = Topology(mode, attach, bpffs)
        try:
            build(mode)
            for node in NODES:
                topology.start(node)
            listeners = [(p.name, a) for p in PODS.values() for a in p.address.values()]
            listeners += [(n.name, a) for n in NODES.values() for a in n.address.values()]
            listeners += [("dp-lan", a) for a in GATEWAY.values()] + [("dp-far", a) for a in FAR.values()]
            for namespace, address in listeners:
                argv = ["ip", "netns", "exec", namespace, sys.executable, str(TRAFFIC), "serve", address, str(PORT)]
                servers.append(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
            for server in servers:
                assert server.stdout is not None
                assert server.stdout.readline().strip() == "ready"
            yield topology
        finally:
            for process in (*servers, *(h.process for h in topology.holders.values())):
                process.kill()
                process.wait()
            clear()
            sh(f"umount {bpffs}")
