"""Pod to pod through the datapath, against the limit of the method, in one run.

    python -m tests.bench.datapath_limit [--rounds N] [--seconds S] [--json FILE]

Two nodes and three pods are namespaces on a bridge, wired as anetd wires them. On the same links, in turn, round after round:

    nodes   node to node over the bridge: what the machine can do at all
    stack   pod to pod through the kernel's own forwarding, as with the ptp plugin and static routes
    limit   pod to pod by two programs of a few lines (limit.bpf.c): redirect_neigh out of the pod, redirect_peer into it
    ours    pod to pod by anetd's programs: conntrack, service lookup, source check and all
    policy  the same with every pod isolated both ways, by what 500 policies become that each allow somebody else another port, and one
            that allows what is measured

and each for two pods on two nodes and two pods on one. Medians over the rounds; `ours / limit` is the figure that counts, and what the
policies cost beside `ours`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.datapath.programs import Datapath

HERE = Path(__file__).resolve().parent
OBJECTS = HERE.parent.parent / "agent" / "objects"
SHAPES = ("stream", "rr", "crr")
SERVER_CPU = str((os.cpu_count() or 1) - 1)
VARIANTS = ("nodes", "stack", "limit", "ours", "policy")
# A stream's rate varies by an eighth from one connection to the next, whatever the path: many short ones tell what a few long ones hide.
STREAMS, STREAM_SECONDS = 20, 0.05
POLICIES = 500
# 198.18.0.0/15 is set aside for measurements like this one (RFC 2544).
LAN = "bn-lan"


@dataclass(frozen=True)
class Pod:
    name: str
    node: int
    address: str
    host_end: str


@dataclass(frozen=True)
class Node:
    name: str
    address: str
    pods: str


NODES = (Node("bn-n0", "198.18.0.10", "198.18.16.0/24"), Node("bn-n1", "198.18.0.11", "198.18.17.0/24"))
PODS = (
    Pod("bn-p0", 0, "198.18.16.10", "bnh0"),
    Pod("bn-p1", 0, "198.18.16.11", "bnh1"),
    Pod("bn-p2", 1, "198.18.17.10", "bnh2"),
)


def sh(line: str) -> str:
    return subprocess.run(line, shell=True, check=True, capture_output=True, text=True).stdout


def inside(namespace: str, line: str) -> str:
    return sh(f"ip netns exec {namespace} {line}")


def clear() -> None:
    existing = sh("ip netns list").split()
    for name in (LAN, *(n.name for n in NODES), *(p.name for p in PODS)):
        if name in existing:
            sh(f"ip netns del {name}")


def mac(namespace: str, link: str) -> str:
    return str(json.loads(inside(namespace, f"ip -j link show {link}"))[0]["address"])


def build() -> None:
    """The topology, without any program: pods reach each other through the kernel's own forwarding."""
    for name in (LAN, *(n.name for n in NODES), *(p.name for p in PODS)):
        sh(f"ip netns add {name}")
        inside(name, "ip link set lo up")
    inside(LAN, "ip link add br0 type bridge")
    inside(LAN, "ip link set br0 up")
    for index, node in enumerate(NODES):
        sh(f"ip -n {LAN} link add port{index} type veth peer name eth0 netns {node.name}")
        inside(LAN, f"ip link set port{index} master br0 up")
        inside(node.name, "ip link set eth0 up")
        inside(node.name, f"ip addr add {node.address}/24 dev eth0")
        inside(node.name, "sysctl -qw net.ipv4.ip_forward=1")
    for node, other in (NODES, NODES[::-1]):
        inside(node.name, f"ip route add {other.pods} via {other.address}")
    for pod in PODS:
        node = NODES[pod.node]
        sh(f"ip -n {node.name} link add {pod.host_end} type veth peer name eth0 netns {pod.name}")
        inside(node.name, f"ip link set {pod.host_end} up")
        inside(pod.name, "ip link set eth0 up")
        inside(pod.name, f"ip addr add {pod.address}/32 dev eth0")
        inside(pod.name, "ip route add 169.254.1.1 dev eth0")
        inside(pod.name, "ip route add default via 169.254.1.1")
        inside(pod.name, f"ip neigh add 169.254.1.1 lladdr {mac(node.name, pod.host_end)} dev eth0 nud permanent")
        inside(node.name, f"ip route add {pod.address}/32 dev {pod.host_end}")
        inside(node.name, f"ip neigh add {pod.address} lladdr {mac(pod.name, 'eth0')} dev {pod.host_end} nud permanent")


def ifindex(namespace: str, link: str) -> int:
    return int(json.loads(inside(namespace, f"ip -j link show {link}"))[0]["ifindex"])


class Holder:
    """A process inside a node with both kinds of programs loaded, which attaches the one that it is told."""

    def __init__(self, index: int, bpffs: Path, mode: str) -> None:
        module = ["-m", "tests.bench.datapath_limit", "--hold", f"{index}:{bpffs}:{mode}"]
        argv = ["ip", "netns", "exec", NODES[index].name, sys.executable, *module]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._expect("loaded")

    def switch(self, variant: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(variant + "\n")
        self._process.stdin.flush()
        self._expect(variant)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != word:
            raise RuntimeError(f"a node's programs did not get to {word!r}")


def hold(index: int, bpffs: Path, mode: str) -> None:
    """Run inside a node: attach what standard input says, line by line, and detach when it ends."""
    node = NODES[index]
    device = int(Path("/sys/class/net/eth0/ifindex").read_text())
    pods = {pod: int(Path(f"/sys/class/net/{pod.host_end}/ifindex").read_text()) for pod in PODS if pod.node == index}
    ours, policy = load_ours(node, device, pods, bpffs / node.name, mode)
    attach = {"limit": load_limit(node, device, pods, bpffs.parent), "ours": ours, "policy": policy}
    print("loaded", flush=True)
    detach: Callable[[], None] = lambda: None  # noqa: E731
    for line in sys.stdin:
        detach()
        detach = attach.get(line.strip(), lambda: lambda: None)()
        print(line.strip(), flush=True)
    detach()


Attach = Callable[[], Callable[[], None]]
"""Attaches, and returns what detaches."""


def load_ours(node: Node, device: int, pods: dict[Pod, int], bpffs: Path, mode: str) -> tuple[Attach, Attach]:
    """Without policies, and with them."""
    from agent.datapath.abi import Endpoint, Route, RouteKind
    from agent.datapath.programs import AttachMode, Datapath, DatapathConfig

    bpffs.mkdir(exist_ok=True)
    config = DatapathConfig(
        node_ipv4=IPv4Address(node.address), node_ipv6=None, device="eth0", device_ifindex=device, attach_mode=AttachMode(mode)
    )
    datapath = Datapath.open(config, bpffs, OBJECTS)
    other = next(n for n in NODES if n is not node)
    datapath.routes.put(ip_network(node.pods), Route(RouteKind.LOCAL_PODS))
    datapath.routes.put(ip_network(f"{node.address}/32"), Route(RouteKind.THIS_NODE))
    datapath.routes.put(ip_network(other.pods), Route(RouteKind.REMOTE_PODS, IPv4Address(other.address)))
    datapath.routes.put(ip_network(f"{other.address}/32"), Route(RouteKind.NODE, IPv4Address(other.address)))
    for number, (pod, index) in enumerate(pods.items(), start=1):
        macs = (mac(pod.name, "eth0"), Path(f"/sys/class/net/{pod.host_end}/address").read_text().strip())
        datapath.endpoints.put(IPv4Address(pod.address), Endpoint(index, number, *macs))

    def detach() -> None:
        for pod in pods:
            datapath.detach_pod(pod.host_end)
        datapath.detach_device()
        time.sleep(0.1)  # links end a little after they are let go

    def attach() -> Callable[[], None]:
        for pod, index in pods.items():
            datapath.attach_pod(pod.host_end, index)
        datapath.attach_device()
        while datapath.settle():
            pass
        return detach

    def attach_isolated() -> Callable[[], None]:
        detach = attach()
        isolate(datapath, pods)

        def free() -> None:
            datapath.isolation.clear()
            datapath.advance_policy_generation()
            detach()

        return free

    write_policies(datapath)
    return attach, attach_isolated


INGRESS_SET, EGRESS_SET = 1, 2


def write_policies(datapath: Datapath) -> None:
    """The rows of `POLICIES` policies that each allow one address one port, and of one that allows the measured pods theirs."""
    from agent.datapath.policy_rows import PREFIX_PORT, PREFIX_PROTOCOL, PolicyKey, PolicyRow

    somebody = IPv4Address("198.18.128.1")
    others = {number: somebody + number for number in range(1, POLICIES + 1)}
    measured = POLICIES + 1
    datapath.classes.put_many({ip_network(address): number for number, address in others.items()})
    datapath.classes.put_many({ip_network(pod.address): measured for pod in PODS})
    for set_ in (INGRESS_SET, EGRESS_SET):
        datapath.policies.put_many({PolicyKey(set_, n, 6, 1000 + n, PREFIX_PORT): PolicyRow(n) for n in others})
        datapath.policies.put(PolicyKey(set_, measured, 6, 0, PREFIX_PROTOCOL), PolicyRow(measured))


def isolate(datapath: Datapath, pods: Iterable[Pod]) -> None:
    from agent.datapath.policy_rows import Isolation

    datapath.isolation.put_many({IPv4Address(pod.address): Isolation(INGRESS_SET, EGRESS_SET) for pod in pods})
    datapath.advance_policy_generation()


def load_limit(node: Node, device: int, pods: dict[Pod, int], objects: Path) -> Attach:
    from agent.datapath import libbpf, syscalls

    rodata = bytearray(24)
    rodata[0:4] = device.to_bytes(4, sys.byteorder)
    rodata[4:8] = ip_network(node.pods).network_address.packed
    for pod, index in pods.items():
        slot = IPv4Address(pod.address).packed[3] - 10
        rodata[8 + 4 * slot : 12 + 4 * slot] = index.to_bytes(4, sys.byteorder)
    loaded = libbpf.load(objects / "limit.bpf.o", config=bytes(rodata), pins=objects, max_entries={})
    ingress = syscalls.Attach.TCX_INGRESS

    def attach() -> Callable[[], None]:
        links = [syscalls.tcx_link_create(loaded.programs["limit_from_pod"], index, ingress) for index in pods.values()]
        links.append(syscalls.tcx_link_create(loaded.programs["limit_from_netdev"], device, ingress))

        def detach() -> None:
            for link in links:
                syscalls.link_detach(link)
                os.close(link)

        return detach

    return attach


def measure(tool: Path, client: str, server: str, shape: str, seconds: float) -> float:
    # Where the scheduler puts the two ends together one round and apart the next, nothing else is measured. Apart, latencies are mostly the
    # time in which a sleeping CPU is woken, and a stream is as fast as the slower end; on one CPU both are what the whole path costs.
    found = json.loads(inside(client, f"taskset -c {SERVER_CPU} {tool} {shape} {server} {seconds}"))
    return float(found["gbit_per_s" if shape == "stream" else "p50_us"])


@contextmanager
def serving(tool: Path, namespace: str, address: str) -> Iterator[None]:
    server = subprocess.Popen(
        ["ip", "netns", "exec", namespace, "taskset", "-c", SERVER_CPU, str(tool), "serve", address], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline().strip() == "ready"
        yield
    finally:
        server.kill()
        server.wait()


def rounds(tool: Path, count: int, seconds: float, holders: Sequence[Holder]) -> dict[str, dict[str, list[float]]]:
    """Path -> shape -> one figure a round; of streams, which are shorter, `STREAMS` a round.

    Rounds are short and the variants alternate in turning order, so that a slow minute of the machine hits all of them.
    """
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    turns = [("stream", STREAM_SECONDS)] * STREAMS + [(shape, seconds) for shape in SHAPES if shape != "stream"]
    for number in range(count):
        for turn, (shape, length) in enumerate(turns):
            for variant in VARIANTS if (number + turn) % 2 == 0 else VARIANTS[::-1]:
                for holder in holders:
                    holder.switch(variant)
                for path, client, server in paths(variant):
                    figures[path][shape].append(measure(tool, client, server, shape, length))
        print(f"round {number + 1} of {count}", file=sys.stderr)
    return figures


def paths(variant: str) -> list[tuple[str, str, str]]:
    """(name, client's namespace, server's address) of what is measured with a variant."""
    if variant == "nodes":
        return [("nodes", NODES[0].name, NODES[1].address)]
    return [(f"{variant}, two nodes", PODS[0].name, PODS[2].address), (f"{variant}, one node", PODS[0].name, PODS[1].address)]


def advantage(shape: str) -> Callable[[float, float], float]:
    """How much better the first figure is than the second, 1.0 for the same."""
    return (lambda a, b: a / b) if shape == "stream" else (lambda a, b: b / a)


def summary(figures: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Medians, and ours against the limit: for a stream the ratio of rates, for latencies the ratio of their inverses. `policy_to_ours` is
    what policies cost: a latency with them to one without, a rate without them to one with them.

    The ratio is the median of each round's own, since the two figures of one round were taken next to each other. `intervals` says
    between which bounds it is.
    """
    medians = {path: {shape: statistics.median(values) for shape, values in shapes.items()} for path, shapes in figures.items()}
    compared = {"ours_to_limit": ("ours", "limit"), "policy_to_ours": ("ours", "policy")}
    found: dict[str, Any] = {"medians": medians, "intervals": {}}
    for name, (one, other) in compared.items():
        pairs = {where: (figures[f"{one}, {where}"], figures[f"{other}, {where}"]) for where in ("two nodes", "one node")}
        ratios = {where: {s: list(map(advantage(s), a[s], b[s])) for s in SHAPES} for where, (a, b) in pairs.items()}
        found[name] = {where: {s: round(statistics.median(each), 3) for s, each in shapes.items()} for where, shapes in ratios.items()}
        found["intervals"][name] = {where: {s: interval(each) for s, each in shapes.items()} for where, shapes in ratios.items()}
    return {**found, "all": figures}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Between which of the values the true median is in 95 of 100 such runs, whatever the distribution (the sign test, turned round)."""
    ordered, half = sorted(values), 0.98 * len(values) ** 0.5
    low, high = int(len(ordered) / 2 - half), int(len(ordered) / 2 + half)
    return round(ordered[max(0, low)], 3), round(ordered[min(len(ordered) - 1, high)], 3)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--seconds", type=float, default=0.5)
    options.add_argument("--attach", choices=("auto", "tcx", "clsact"), default="auto", help="how our programs are attached")
    options.add_argument("--json", type=Path)
    options.add_argument("--hold", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.hold:
        index, bpffs, mode = chosen.hold.split(":")
        hold(int(index), Path(bpffs), mode)
        return
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        tool, bpffs = Path(scratch) / "netbench", Path(scratch) / "bpf"
        sh(f"gcc -O2 -o {tool} {HERE / 'netbench.c'} -lpthread")
        arch = sh("gcc -print-multiarch").strip()
        sh(f"clang -O2 -g -target bpf -I/usr/include/{arch} -c {HERE / 'limit.bpf.c'} -o {Path(scratch) / 'limit.bpf.o'}")
        bpffs.mkdir()
        sh(f"mount -t bpf bpf {bpffs}")
        stack.callback(sh, f"umount {bpffs}")
        clear()
        stack.callback(clear)
        build()
        for namespace, address in [(NODES[1].name, NODES[1].address), *((p.name, p.address) for p in PODS[1:])]:
            stack.enter_context(serving(tool, namespace, address))
        holders = [Holder(index, bpffs, chosen.attach) for index in range(len(NODES))]
        for holder in holders:
            stack.callback(holder.close)
        found = summary(rounds(tool, chosen.rounds, chosen.seconds, holders))
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n")
    for path, shapes in found["medians"].items():
        print(f"{path:20} " + "  ".join(f"{shape} {value:8.2f}" for shape, value in shapes.items()))
    for where, ratios in found["ours_to_limit"].items():
        print(f"ours / limit, {where}: " + "  ".join(f"{shape} {value:.1%}" for shape, value in ratios.items()))
    for where, ratios in found["policy_to_ours"].items():
        print(f"{POLICIES} policies / none, {where}: " + "  ".join(f"{shape} {value:.3f}" for shape, value in ratios.items()))


if __name__ == "__main__":
    main()
