"""A node, a pod and a peer with servers, and processes in them whose sockets the programs at a cgroup of the tests' own decide upon.

    sk-pod -- sk-node -- sk-peer

The node forwards; no program is attached to any device, so whatever reaches a Service does so by the hooks. Service addresses are unreachable
otherwise (EHOSTUNREACH). What a killed run left is removed first.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

from agent.datapath import socketlb
from agent.datapath.abi import ANY_IPV4, ANY_IPV6, Backend, Frontend, FrontendFlag, FrontendKey, FrontendScope, Route, RouteKind, SlotKey
from agent.datapath.programs import Datapath, DatapathConfig, MapSizes

from .lab import OBJECTS, bpffs, in_namespace, sh

WORKER = Path(__file__).resolve().parent / "socket_worker.py"
NAMESPACES = ("sk-node", "sk-pod", "sk-peer")
TCP, UDP = 6, 17
PORT = 8080
NODE = {4: "198.19.40.10", 6: "2001:db8:40::10"}
OTHER_NODE = {4: "198.19.40.11", 6: "2001:db8:40::11"}
POD = {4: "198.19.41.2", 6: "2001:db8:41::2"}
BACKENDS = {4: ("198.19.42.11", "198.19.42.12"), 6: ("2001:db8:42::11", "2001:db8:42::12")}
VIP = {4: "198.19.96.1", 6: "2001:db8:96::1"}
EXTERNAL = {4: "198.19.97.1", 6: "2001:db8:97::1"}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
UNSPECIFIED = {4: "0.0.0.0", 6: "::"}
ANY = {4: ANY_IPV4, 6: ANY_IPV6}
PREFIX = {4: 24, 6: 64}


@dataclass(frozen=True)
class Way:
    """How an application has its sockets: the family of the addresses, and of the socket."""

    name: str
    family: int
    socket_family: int

    def spell(self, address: str) -> str:
        return f"::ffff:{address}" if self.name == "mapped" else address


WAYS = (Way("4", 4, socket.AF_INET), Way("6", 6, socket.AF_INET6), Way("mapped", 4, socket.AF_INET6))


@dataclass
class Socket:
    """A socket of a worker. Errors are raised as the worker's kernel said them."""

    worker: Worker
    number: int

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.worker.request(call=name, on=self.number, **{"with": arguments})

    def peer(self) -> tuple[str, int]:
        return tuple(self.getpeername()[:2])

    def ask(self) -> list[str]:
        """Of a connected one: the server's address and port, and the client's address as the server saw it."""
        self.send("?")
        return str(self.recv(200)).split()

    def ask_at(self, address: str, port: int) -> tuple[list[str], tuple[str, int]]:
        """Of an unconnected one: as `ask`, and from where the answer seemed to come."""
        self.sendto("?", (address, port))
        answer, source = self.recvfrom(200)
        return answer.split(), tuple(source[:2])


@dataclass
class Worker:
    """A process with sockets."""

    process: subprocess.Popen[str]

    def request(self, **request: Any) -> Any:
        self.send(**request)
        return self.answer()

    def send(self, **request: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        answer = json.loads(self.process.stdout.readline())
        if "errno" in answer:
            raise OSError(answer["errno"], answer["text"])
        return answer["result"]

    def open(self, way: Way, protocol: int) -> Socket:
        kind = socket.SOCK_STREAM if protocol == TCP else socket.SOCK_DGRAM
        return Socket(self, self.request(open=[int(way.socket_family), int(kind)]))

    def connect(self, way: Way, protocol: int, address: str, port: int) -> Socket:
        found = self.open(way, protocol)
        try:
            found.connect((way.spell(address), port))
        except OSError:
            found.close()
            raise
        return found


@contextmanager
def working(namespace: str, cgroup: Path | None) -> Iterator[Worker]:
    argv = ["nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-S", str(WORKER), str(cgroup or "-")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "ready"
            yield Worker(process)
        finally:
            process.kill()


@dataclass
class SocketLab:
    """`workers`: "pod", "node" and "peer" by namespace; "stranger" is on the node, but outside of the cgroup."""

    datapath: Datapath
    pins: Path
    cgroup: Path
    workers: dict[str, Worker] = field(default_factory=dict)

    def group(self, id_: int, protocol: int, ends: Sequence[tuple[str, int]]) -> None:
        """Backends and slots of a group; backends' ids are 100 times the group's and on."""
        for slot, (address, port) in enumerate(ends):
            self.datapath.backends.put(id_ * 100 + slot, Backend(ip_address(address), port, protocol))
            self.datapath.backend_slots.put(SlotKey(id_, slot), id_ * 100 + slot)

    def frontend(
        self,
        address: IPv4Address | IPv6Address,
        port: int,
        protocol: int,
        ends: Sequence[tuple[str, int]],
        *,
        scope: FrontendScope = FrontendScope.ADDRESS,
        flags: FrontendFlag = FrontendFlag.SOCKET,
        id_: int = 1,
        outside_id: int = 0,
    ) -> None:
        self.group(id_, protocol, ends)
        self.datapath.frontends.put(FrontendKey(address, port, protocol, scope), Frontend(id_, len(ends), flags, outside_id=outside_id))

    def service(self, address: str, port: int, protocol: int, ends: Sequence[tuple[str, int]], **options: Any) -> None:
        """A frontend with its address's marker."""
        self.frontend(ip_address(address), port, protocol, ends, **options)
        self.datapath.frontends.put(FrontendKey(ip_address(address), 0, 0), Frontend(0, 0))

    def both(self, family: int) -> list[tuple[str, int]]:
        return [(address, PORT) for address in BACKENDS[family]]

    def forget(self) -> None:
        for table in (self.datapath.frontends, self.datapath.backend_slots, self.datapath.backends):
            table.clear()


def make_cgroup(name: str) -> Path:
    """An empty cgroup of the machine's cgroup2 tree; processes that a killed run left in it are ended."""
    path = socketlb.find_cgroup() / name
    remove_cgroup(path)
    path.mkdir()
    return path


def remove_cgroup(path: Path) -> None:
    end = time.monotonic() + 30
    while path.exists():
        for pid in (path / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        try:
            path.rmdir()
        except OSError:
            assert time.monotonic() < end, f"{path} stays"
            time.sleep(0.02)


def clear() -> None:
    for name in NAMESPACES:
        if Path(f"/run/netns/{name}").exists():
            sh(f"ip netns del {name}")


@contextmanager
def namespaces() -> Iterator[None]:
    clear()
    try:
        for name in NAMESPACES:
            sh(f"ip netns add {name} && ip -n {name} link set lo up")
            sh(f"ip netns exec {name} sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0")
        sh("ip netns exec sk-node sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
        for name, subnets, hosts in (
            ("sk-pod", POD, {f: (a,) for f, a in POD.items()}),
            ("sk-peer", {f: b[0] for f, b in BACKENDS.items()}, BACKENDS),
        ):
            sh(f"ip -n sk-node link add {name} type veth peer name eth0 netns {name}")
            sh(f"ip -n sk-node link set {name} up && ip -n {name} link set eth0 up")
            for family in (4, 6):
                gateway = next(ip_network(f"{subnets[family]}/{PREFIX[family]}", strict=False).hosts())
                sh(f"ip -n sk-node addr add {gateway}/{PREFIX[family]} dev {name}")
                for address in hosts[family]:
                    sh(f"ip -n {name} addr add {address}/{PREFIX[family]} dev eth0")
                sh(f"ip -{family} -n {name} route add default via {gateway}")
        for family, length in ((4, 32), (6, 128)):
            sh(f"ip -n sk-node addr add {NODE[family]}/{length} dev lo")
            for name, address in itertools.product(("sk-node", "sk-pod"), (VIP, EXTERNAL, OTHER_NODE)):
                sh(f"ip -{family} -n {name} route add unreachable {address[family]}/{length}")
        yield
    finally:
        clear()


def open_datapath(pins: Path, layout: str = "v1") -> Datapath:
    """To be called on the node."""
    config = DatapathConfig(
        node_ipv4=IPv4Address(NODE[4]),
        node_ipv6=IPv6Address(NODE[6]),
        device="lo",
        device_ifindex=1,
        layout=layout,
        map_sizes=MapSizes(conntrack=4096, masquerade=4096, affinity=4096, socket_flows=4096),
    )
    return Datapath.open(config, pins, OBJECTS)


@contextmanager
def socket_lab(name: str) -> Iterator[SocketLab]:
    """`name` is the cgroup's."""
    with ExitStack() as stack:
        stack.enter_context(namespaces())
        pins = stack.enter_context(bpffs())
        cgroup = make_cgroup(name)
        stack.callback(remove_cgroup, cgroup)
        with in_namespace("sk-node"):
            datapath = open_datapath(pins)
        stack.callback(datapath.close)
        stack.callback(datapath.detach_sockets)
        found = SocketLab(datapath, pins, cgroup)
        for worker, namespace, inside in (
            ("pod", "sk-pod", True),
            ("node", "sk-node", True),
            ("stranger", "sk-node", False),
            ("peer", "sk-peer", False),
        ):
            found.workers[worker] = stack.enter_context(working(namespace, cgroup if inside else None))
        for address in (*BACKENDS[4], *BACKENDS[6]):
            found.workers["peer"].request(serve=[address, PORT])
        for family in (4, 6):
            network = {name: ip_network(f"{a[family]}/{PREFIX[family]}", strict=False) for name, a in (("pod", POD), ("vip", VIP))}
            datapath.routes.put(network["pod"], Route(RouteKind.LOCAL_PODS))
            datapath.routes.put(
                ip_network(f"{BACKENDS[family][0]}/{PREFIX[family]}", strict=False),
                Route(RouteKind.REMOTE_PODS, ip_address(OTHER_NODE[family])),
            )
            datapath.routes.put(network["vip"], Route(RouteKind.SERVICES))
            datapath.routes.put(ip_network(NODE[family]), Route(RouteKind.THIS_NODE))
            datapath.routes.put(ip_network(OTHER_NODE[family]), Route(RouteKind.NODE, ip_address(OTHER_NODE[family])))
        datapath.attach_sockets(cgroup)
        yield found
