"""One node's programs without traffic: a namespace with a veth pair a pod, the datapath opened in it, packets in and packets out.

BPF_PROG_TEST_RUN gives a program a frame as if it had come through a device; redirects are not carried out, only returned.
"""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

from scapy.layers.inet import IP, ICMPerror, TCPerror, UDPerror
from scapy.layers.inet6 import IPerror6, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from agent.datapath import syscalls
from agent.datapath.abi import (
    MASQUERADE_PORTS,
    Backend,
    DropKey,
    Endpoint,
    Frontend,
    FrontendFlag,
    FrontendKey,
    FrontendScope,
    Route,
    RouteKind,
    SlotKey,
)
from agent.datapath.programs import AttachMode, Datapath, DatapathConfig, MapSizes, RoutingMode

OBJECTS = Path(__file__).resolve().parent.parent.parent / "agent" / "objects"
NAMESPACE = os.environ.get("PROVISIONER_TEST_PREFIX", "dp-") + "lab"
OK, SHOT, REDIRECT = 0, 2, 7
NODE = {4: "198.19.0.10", 6: "2001:db8::10"}
OTHER_NODE = {4: "198.19.0.11", 6: "2001:db8::11"}
LOCAL_PODS = {4: "198.19.16.0/24", 6: "2001:db8:16::/64"}
REMOTE_PODS = {4: "198.19.17.0/24", 6: "2001:db8:17::/64"}
SERVICES = {4: "198.19.96.0/24", 6: "2001:db8:96::/112"}
A = {4: "198.19.16.10", 6: "2001:db8:16::10"}
B = {4: "198.19.16.11", 6: "2001:db8:16::11"}
REMOTE = {4: "198.19.17.10", 6: "2001:db8:17::10"}
OUTSIDE = {4: "198.18.1.1", 6: "2001:db8:ff::1"}
GATEWAY = {4: "198.19.0.1", 6: "2001:db8::1"}
VIP = {4: "198.19.96.1", 6: "2001:db8:96::1"}
DEVICE_MAC = "02:00:00:00:00:de"
POD_MAC, HOST_MAC = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
_libc = ctypes.CDLL(None, use_errno=True)


def sh(line: str) -> None:
    subprocess.run(line, shell=True, check=True, capture_output=True)


def ip(family: int, source: str, destination: str, **fields: Any) -> Packet:
    """The start of a packet: Ethernet and IP of that family."""
    ttl = {"ttl" if family == 4 else "hlim": fields.pop("ttl", 64)}
    layer = IP if family == 4 else IPv6
    return Ether(src=POD_MAC, dst=HOST_MAC) / layer(src=source, dst=destination, **ttl, **fields)


@dataclass(frozen=True)
class Result:
    verdict: int
    packet: Packet

    @property
    def ip(self) -> Packet:
        return self.packet[IP] if IP in self.packet else self.packet[IPv6]


@dataclass
class Lab:
    """`pods` are interface indices of host ends, by the pod's letter."""

    datapath: Datapath
    device: int
    pods: dict[str, int] = field(default_factory=dict)

    def run(self, program: str, packet: Packet, *, ifindex: int = 0, mark: int = 0) -> Result:
        """The verdict, and the frame afterwards with the checksums as the program left them."""
        out = self.raw(program, bytes(packet), ifindex=ifindex, mark=mark)
        return Result(out.verdict, Ether(out.data))

    def raw(self, program: str, frame: bytes, *, ifindex: int = 0, mark: int = 0, repeat: int = 1) -> syscalls.TestRun:
        context = bytearray(192)
        struct.pack_into("=I", context, 8, mark)
        struct.pack_into("=I", context, 40, ifindex or self.device)
        return syscalls.prog_test_run(self.datapath.program_fd(program), frame, bytes(context), repeat)

    def from_pod(self, packet: Packet, pod: str = "a") -> Result:
        return self.run("from_pod", packet, ifindex=self.pods[pod])

    def from_netdev(self, packet: Packet) -> Result:
        return self.run("from_netdev", packet)

    def group(self, id_: int, protocol: int, *backends: tuple[str, int]) -> int:
        """Backends and slots of a group; how many."""
        for slot, (backend, backend_port) in enumerate(backends):
            self.datapath.backends.put(id_ * 100 + slot, Backend(ip_address(backend), backend_port, protocol))
            self.datapath.backend_slots.put(SlotKey(id_, slot), id_ * 100 + slot)
        return len(backends)

    def service(self, address: str, port: int, protocol: int, *backends: tuple[str, int], id_: int = 1, **fields: Any) -> None:
        """A frontend; `fields` are more of its row."""
        count = self.group(id_, protocol, *backends)
        scope = fields.pop("scope", FrontendScope.ADDRESS)
        self.datapath.frontends.put(FrontendKey(ip_address(address), port, protocol, scope), Frontend(id_, count, **fields))

    def belongs_to_a_service(self, address: str, *flags: FrontendFlag) -> None:
        self.datapath.frontends.put(FrontendKey(ip_address(address), 0, 0), Frontend(0, 0, *flags))

    def forget(self) -> None:
        """Every flow, fragment, service and policy."""
        datapath = self.datapath
        for table in (datapath.conntrack, datapath.masquerade, datapath.fragments, datapath.frontends, datapath.backend_slots):
            table.clear()
        for table in (datapath.backends, datapath.maglev, datapath.affinity, datapath.source_ranges):
            table.clear()
        for table in (datapath.isolation, datapath.classes, datapath.policies, datapath.policy_counts, datapath.denials):
            table.clear()
        datapath.advance_policy_generation()

    def drops(self) -> dict[str, int]:
        return {str(key): count.packets for key, count in self.datapath.drops.items()}

    def dropped(self, reason: int, direction: int) -> int:
        count = self.datapath.drops.get(DropKey(reason, direction))
        return count.packets if count else 0


def checksums_hold(packet: Packet) -> bool:
    """Whether every checksum is what scapy computes for that content."""
    fresh = packet.copy()
    for layer in fresh.iterpayloads():
        if isinstance(layer, TCPerror | UDPerror | ICMPerror):
            break  # what an ICMP error cites keeps its transport checksum
        for name in ("chksum", "cksum"):
            if name in layer.fields and not (layer.name == "UDP" and layer.fields[name] == 0):
                delattr(layer, name)
        if isinstance(layer, IPerror6):
            break
    return bytes(fresh) == bytes(packet)


@contextmanager
def in_namespace(name: str) -> Iterator[None]:
    """This thread, inside a network namespace."""
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    inside = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        if _libc.setns(inside, 0):
            raise OSError(ctypes.get_errno(), "setns")
        yield
    finally:
        _libc.setns(before, 0)
        os.close(before)
        os.close(inside)


@contextmanager
def bpffs() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dp-") as scratch:
        sh(f"mount -t bpf bpf {scratch}")
        try:
            yield Path(scratch)
        finally:
            sh(f"umount {scratch}")


def clear() -> None:
    if Path(f"/run/netns/{NAMESPACE}").exists():
        sh(f"ip netns del {NAMESPACE}")


@contextmanager
def namespace() -> Iterator[None]:
    """The node: its device with addresses and a default route, the tunnel's device, two pods' veth pairs."""
    clear()
    sh(f"ip netns add {NAMESPACE}")
    try:
        with in_namespace(NAMESPACE):
            sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
            for name in ("eth0", "dplab0", "dplab1"):
                sh(f"ip link add {name} type veth peer name {name}p && ip link set {name} up && ip link set {name}p up")
            sh("ip link add anetd-vxlan type vxlan external dstport 8472 nolearning && ip link set anetd-vxlan up")
            sh(f"ip addr add {NODE[4]}/24 dev eth0 && ip addr add {NODE[6]}/64 dev eth0 nodad")
            sh(f"ip route add default via {GATEWAY[4]} && ip -6 route add default via {GATEWAY[6]}")
            yield
    finally:
        clear()


def index(name: str) -> int:
    return int(
        subprocess.run(
            f"ip -j link show {name} | sed 's/.*\"ifindex\":\\([0-9]*\\).*/\\1/'", shell=True, check=True, capture_output=True
        ).stdout
    )


@contextmanager
def lab(
    mode: str = "native",
    *,
    masquerade: bool = True,
    masquerade_ports: range = MASQUERADE_PORTS,
    attach: str = "auto",
    mtu: int = 1500,
    direct: bool = False,
) -> Iterator[Lab]:
    """The programs loaded with that configuration, routes and endpoints written, nothing attached."""
    with ExitStack() as stack:
        stack.enter_context(namespace())
        pins = stack.enter_context(bpffs())
        vxlan = mode == "vxlan"
        device = index("eth0")
        config = DatapathConfig(
            node_ipv4=IPv4Address(NODE[4]),
            node_ipv6=IPv6Address(NODE[6]),
            device="eth0",
            device_ifindex=device,
            device_mac=DEVICE_MAC,
            overlay_ifindex=index("anetd-vxlan") if vxlan else 0,
            routing_mode=RoutingMode(mode),
            masquerade=masquerade,
            masquerade_ports=masquerade_ports,
            direct_return=direct,
            attach_mode=AttachMode(attach),
            mtu=mtu,
            map_sizes=MapSizes(conntrack=8192, masquerade=8192, affinity=1024, socket_flows=1024, verdicts=1 << 16),
        )
        datapath = Datapath.open(config, pins, OBJECTS)
        stack.callback(datapath.close)
        found = Lab(datapath, device, {"a": index("dplab0"), "b": index("dplab1")})
        for number, (letter, addresses) in enumerate((("a", A), ("b", B)), start=1):
            for address in addresses.values():
                datapath.endpoints.put(ip_address(address), Endpoint(found.pods[letter], number, POD_MAC, HOST_MAC))
        for family in (4, 6):
            hop = ip_address(OTHER_NODE[4 if vxlan else family])
            datapath.routes.put(ip_network(LOCAL_PODS[family]), Route(RouteKind.LOCAL_PODS))
            datapath.routes.put(ip_network(REMOTE_PODS[family]), Route(RouteKind.REMOTE_PODS, hop))
            datapath.routes.put(ip_network(SERVICES[family]), Route(RouteKind.SERVICES))
            datapath.routes.put(ip_network(NODE[family]), Route(RouteKind.THIS_NODE))
            datapath.routes.put(ip_network(OTHER_NODE[family]), Route(RouteKind.NODE, hop))
        yield found
