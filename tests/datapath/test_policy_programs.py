"""NetworkPolicy in single programs: who is judged where, by what, and what is told of it. No traffic, no time to wait.

Policies are written as the compiler would: a set a pod and direction, classes of peers, rows. Counters and what the programs keep per CPU
are read on one CPU, on which the tests stay.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

import pytest
from scapy.layers.inet import ICMP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6PacketTooBig,
    IPv6ExtHdrFragment,
)
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from agent.datapath import maps, syscalls
from agent.datapath.abi import (
    ANY_IPV4,
    ANY_IPV6,
    MAGLEV_SIZE,
    ConntrackFlag,
    ConntrackRow,
    ConntrackState,
    DropDirection,
    DropReason,
    FlowKey,
    FrontendFlag,
    FrontendScope,
)
from agent.datapath.policy_rows import (
    CLASS_ANY,
    DENIAL,
    DENIAL_KEY,
    PREFIX_ANY,
    PREFIX_PROTOCOL,
    Denial,
    DenialKey,
    Direction,
    Isolation,
    IsolationFlag,
    PolicyCountKey,
    PolicyFlag,
    PolicyKey,
    PolicyRow,
    Verdict,
    VerdictLoss,
    unpack_verdict,
)
from agent.datapath.verdicts import VerdictReader

from .lab import GATEWAY, NODE, OK, OTHER_NODE, OUTSIDE, REDIRECT, REMOTE, SHOT, VIP, A, B, Lab, Result, ip, lab, sh

FAMILIES = (4, 6)
BY_FAMILY = pytest.mark.parametrize("family", FAMILIES)
INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
ANY = {4: str(ANY_IPV4), 6: str(ANY_IPV6)}
PORT = 8080
NODE_PORT = 30080
PEER_CLASS, OTHER_CLASS = 50, 51
RULE = 900
SETS_OF = {("a", INGRESS): 1, ("a", EGRESS): 2, ("b", INGRESS): 3, ("b", EGRESS): 4}
ADDRESSES = {"a": A, "b": B}


@pytest.fixture(scope="module", autouse=True)
def one_cpu() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture(scope="module")
def direct() -> Iterator[Lab]:
    with lab("vxlan", direct=True, mtu=1450) as found:
        yield found


@pytest.fixture
def overlay(vxlan: Lab) -> Lab:
    vxlan.forget()
    return vxlan


# --- writing policies -----------------------------------------------------------------------------------------------------------


def isolate(net: Lab, pod: str, *directions: Direction, log: bool = False) -> None:
    """Without rows nothing is allowed in these directions."""
    ingress, egress = (SETS_OF[pod, d] if d in directions else 0 for d in (INGRESS, EGRESS))
    flags = IsolationFlag.LOG_INGRESS | IsolationFlag.LOG_EGRESS if log else IsolationFlag(0)
    for address in ADDRESSES[pod].values():
        net.datapath.isolation.put(ip_address(address), Isolation(ingress, egress, flags))
    net.datapath.advance_policy_generation()


def allow(
    net: Lab, pod: str, direction: Direction, *, peer: int = CLASS_ANY, protocol: int = 0, port: int = 0, bits: int = PREFIX_ANY,
    rule: int = RULE, log: bool = False,
) -> None:  # fmt: skip
    key = PolicyKey(SETS_OF[pod, direction], peer, protocol, port, bits)
    net.datapath.policies.put(key, PolicyRow(rule, PolicyFlag.LOG if log else PolicyFlag(0)))
    net.datapath.advance_policy_generation()


def classify(net: Lab, network: str, peer: int = PEER_CLASS) -> None:
    net.datapath.classes.put(ip_network(network), peer)
    net.datapath.advance_policy_generation()


def free(net: Lab, pod: str) -> None:
    for address in ADDRESSES[pod].values():
        net.datapath.isolation.delete(ip_address(address))
    net.datapath.advance_policy_generation()


# --- packets --------------------------------------------------------------------------------------------------------------------


def echo(family: int, identifier: int = 7) -> Packet:
    return ICMP(id=identifier, seq=1) if family == 4 else ICMPv6EchoRequest(id=identifier, seq=1)


def echo_reply(family: int, identifier: int = 7) -> Packet:
    return ICMP(type=0, id=identifier, seq=1) if family == 4 else ICMPv6EchoReply(id=identifier, seq=1)


def begin(family: int, protocol: str, sport: int = 4000, dport: int = PORT) -> Packet:
    """A flow's first packet; `sport` is an echo's identifier."""
    if protocol == "tcp":
        return TCP(sport=sport, dport=dport, flags="S")
    if protocol == "udp":
        return UDP(sport=sport, dport=dport) / b"abc"
    if protocol == "sctp":
        return SCTP(sport=sport, dport=dport) / Raw(b"\x01\x00\x00\x04")
    return echo(family, sport)


def answer(family: int, protocol: str, sport: int = 4000, dport: int = PORT) -> Packet:
    """The other end's answer to `begin` with the same ports."""
    if protocol == "tcp":
        return TCP(sport=dport, dport=sport, flags="SA")
    return echo_reply(family, sport) if protocol == "echo" else begin(family, protocol, dport, sport)


def more(sport: int = 4000, dport: int = PORT, flags: str = "A") -> Packet:
    return TCP(sport=sport, dport=dport, flags=flags)


NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132}


def fate(result: Result) -> str:
    return "denied" if result.verdict == SHOT else "passes"


def rows(net: Lab) -> dict[FlowKey, ConntrackRow]:
    return dict(net.datapath.conntrack.items())


@contextmanager
def counted(net: Lab, reason: DropReason, direction: DropDirection, times: int = 1) -> Iterator[None]:
    before = net.dropped(reason, direction)
    yield
    assert net.dropped(reason, direction) - before == times


def error_about(family: int, cited: Packet) -> Packet:
    kind = ICMP(type=3, code=4, nexthopmtu=1300) if family == 4 else ICMPv6PacketTooBig(mtu=1300)
    return kind / cited.getlayer(1)


# --- which rows allow what, at every hook ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """A packet's way to or from a pod: the program that sees it, and the end that is judged there."""

    program: str
    source: dict[int, str]
    destination: dict[int, str]
    pod: str
    direction: Direction
    routing: str = "native"

    @property
    def peer(self) -> dict[int, str]:
        return self.destination if self.direction is EGRESS else self.source

    def run(self, net: Lab, family: int, layer: Packet) -> Result:
        packet = ip(family, self.source[family], self.destination[family]) / layer
        pods = {"from_pod": "b" if self.source is B else "a", "to_pod": "a"}
        return net.run(self.program, packet, ifindex=net.pods[pods[self.program]] if self.program in pods else 0)


WAYS = {
    "out to a local pod": Way("from_pod", A, B, "a", EGRESS),
    "out to a remote pod": Way("from_pod", A, REMOTE, "a", EGRESS),
    "out to another node": Way("from_pod", A, OTHER_NODE, "a", EGRESS),
    "out to the outside": Way("from_pod", A, OUTSIDE, "a", EGRESS),
    "out through the tunnel": Way("from_pod", A, REMOTE, "a", EGRESS, "vxlan"),
    "in from a local pod": Way("from_pod", B, A, "a", INGRESS),
    "in from a remote pod": Way("from_netdev", REMOTE, A, "a", INGRESS),
    "in from another node": Way("from_netdev", OTHER_NODE, A, "a", INGRESS),
    "in from the outside": Way("from_netdev", OUTSIDE, A, "a", INGRESS),
    "in through the tunnel": Way("from_overlay", REMOTE, A, "a", INGRESS, "vxlan"),
    "in from another node through the tunnel": Way("from_overlay", OTHER_NODE, A, "a", INGRESS, "vxlan"),
    "in by the host's stack": Way("to_pod", OUTSIDE, A, "a", INGRESS),
    "in by the host's stack from a local pod": Way("to_pod", B, A, "a", INGRESS),
}

# What is written beside isolation -> which of the packets to port 8080 pass. A peer has PEER_CLASS.
RULES: dict[str, tuple[list[dict[str, int | str]], set[str]]] = {
    "nothing": ([], set()),
    "everything": ([{}], {"tcp", "udp", "sctp", "echo"}),
    "everything of the peer": ([{"peer": PEER_CLASS}], {"tcp", "udp", "sctp", "echo"}),
    "everything of somebody else": ([{"peer": OTHER_CLASS}], set()),
    "TCP of all": ([{"protocol": 6, "bits": PREFIX_PROTOCOL}], {"tcp"}),
    "UDP of the peer": ([{"peer": PEER_CLASS, "protocol": 17, "bits": PREFIX_PROTOCOL}], {"udp"}),
    "SCTP's port": ([{"protocol": 132, "port": PORT, "bits": 96}], {"sctp"}),
    "TCP's port of the peer": ([{"peer": PEER_CLASS, "protocol": 6, "port": PORT, "bits": 96}], {"tcp"}),
    "another port": ([{"peer": PEER_CLASS, "protocol": p, "port": PORT + 1, "bits": 96} for p in (6, 17, 132)], set()),
    "the port of somebody else": ([{"peer": OTHER_CLASS, "protocol": 6, "port": PORT, "bits": 96}], set()),
    "a range with the port": ([{"peer": PEER_CLASS, "protocol": 17, "port": 8064, "bits": 91}], {"udp"}),
    "a range beside the port": ([{"peer": PEER_CLASS, "protocol": 17, "port": 8096, "bits": 91}], set()),
    "the upper half of all ports": ([{"protocol": 6, "port": 0x8000, "bits": 81}], set()),
    "the lower half of all ports": ([{"protocol": 6, "port": 0, "bits": 81}], {"tcp"}),
    "the peer's other port, and all's": (
        [{"peer": PEER_CLASS, "protocol": 6, "port": 1, "bits": 96}, {"protocol": 6, "port": PORT, "bits": 96}],
        {"tcp"},
    ),
}


@BY_FAMILY
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_what_no_row_allows_is_denied(request: pytest.FixtureRequest, way: Way, family: int) -> None:
    net: Lab = request.getfixturevalue("net" if way.routing == "native" else "overlay")
    peer = way.peer[family]
    found, expected = {}, {}
    for name, (written, passing) in RULES.items():
        net.forget()
        isolate(net, way.pod, way.direction)
        classify(net, f"{peer}/{32 if family == 4 else 128}")
        for row in written:
            allow(net, way.pod, way.direction, **row)  # type: ignore[arg-type]
        for protocol in ("tcp", "udp", "sctp", "echo"):
            if protocol == "sctp" and way.peer is OUTSIDE and way.direction is EGRESS:
                continue  # cannot be masqueraded
            expected[name, protocol] = "passes" if protocol in passing else "denied"
            found[name, protocol] = fate(way.run(net, family, begin(family, protocol)))
            assert len(rows(net)) == sum(fate == "passes" for (n, _), fate in expected.items() if n == name), (name, protocol)
    assert found == expected


@BY_FAMILY
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_other_direction_of_an_isolated_pod_is_free_and_replies_come_back(
    request: pytest.FixtureRequest, way: Way, family: int
) -> None:
    """What a pod that may not be reached begins itself is answered, and the other way round."""
    net: Lab = request.getfixturevalue("net" if way.routing == "native" else "overlay")
    isolate(net, way.pod, INGRESS if way.direction is EGRESS else EGRESS)
    back_by = {"from_pod": "from_netdev" if way.routing == "native" else "from_overlay"}.get(way.program, "from_pod")
    protocols = ["tcp", "udp"] if way.peer is OUTSIDE else ["tcp", "udp", "sctp", "echo"]
    for protocol in protocols:
        out = way.run(net, family, begin(family, protocol))
        assert out.verdict in (OK, REDIRECT), protocol
        net.datapath.advance_policy_generation()
        source, destination = out.ip.dst, out.ip.src  # as the other end sees them
        layer = answer(family, protocol)
        if destination == NODE[family]:
            layer.dport = out.packet.getlayer(2).sport
        reply = ip(family, source, destination) / layer
        if way.pod == "a" and source == B[family]:
            got = net.from_pod(reply, "b")
        elif back_by == "from_pod" or source == A[family]:
            got = net.from_pod(reply)
        else:
            got = net.run(back_by, reply)
        assert got.verdict in (OK, REDIRECT), protocol


@BY_FAMILY
def test_between_two_local_pods_both_have_a_say(net: Lab, family: int) -> None:
    packet = ip(family, A[family], B[family]) / begin(family, "tcp")
    isolate(net, "a", EGRESS)
    isolate(net, "b", INGRESS)
    classify(net, B[family] + ("/32" if family == 4 else "/128"))
    with counted(net, DropReason.EGRESS_DENIED, DropDirection.FROM_POD):
        assert net.from_pod(packet).verdict == SHOT
    allow(net, "a", EGRESS, peer=PEER_CLASS)
    with counted(net, DropReason.INGRESS_DENIED, DropDirection.FROM_POD):
        assert net.from_pod(packet).verdict == SHOT
    assert rows(net) == {}
    allow(net, "b", INGRESS, protocol=6, port=PORT, bits=96)
    assert net.from_pod(packet).verdict == REDIRECT
    net.datapath.policies.delete(PolicyKey(SETS_OF["a", EGRESS], PEER_CLASS))
    net.datapath.advance_policy_generation()
    assert net.from_pod(packet).verdict == SHOT


@BY_FAMILY
def test_by_the_wire_only_the_destination_has_a_say(net: Lab, family: int) -> None:
    """A local pod's packet that somebody outside sent back: what the pod may send was asked when it sent it, to wherever that was."""
    isolate(net, "b", EGRESS)
    isolate(net, "a", INGRESS)
    packet = ip(family, B[family], A[family]) / begin(family, "udp")
    with counted(net, DropReason.INGRESS_DENIED, DropDirection.FROM_NETDEV):
        assert net.from_netdev(packet).verdict == SHOT
    allow(net, "a", INGRESS)
    assert net.from_netdev(packet).verdict == REDIRECT


def test_an_address_has_the_class_of_its_longest_prefix(net: Lab) -> None:
    isolate(net, "a", INGRESS)
    classify(net, "198.19.0.0/16", PEER_CLASS)
    classify(net, "198.19.17.0/28", OTHER_CLASS)
    classify(net, "2001:db8::/32", PEER_CLASS)
    classify(net, "2001:db8:17::/124", OTHER_CLASS)
    allow(net, "a", INGRESS, peer=PEER_CLASS)
    fates = {
        source: fate(net.from_netdev(ip(6 if ":" in source else 4, source, A[6 if ":" in source else 4]) / begin(4, "tcp")))
        for source in ("198.19.17.16", "198.19.17.15", "198.18.17.16", "2001:db8:17::10", "2001:db8:17::f", "2001:db9::1")
    }
    assert fates == {
        "198.19.17.16": "passes",
        "198.19.17.15": "denied",  # the pod's own row is longer than the block's
        "198.18.17.16": "denied",
        "2001:db8:17::10": "passes",
        "2001:db8:17::f": "denied",
        "2001:db9::1": "denied",
    }


def test_a_longer_prefix_of_ports_decides_which_rule_is_counted(net: Lab) -> None:
    isolate(net, "a", INGRESS)
    allow(net, "a", INGRESS, rule=1)
    allow(net, "a", INGRESS, protocol=6, bits=PREFIX_PROTOCOL, rule=2)
    allow(net, "a", INGRESS, protocol=6, port=8064, bits=91, rule=3)
    allow(net, "a", INGRESS, protocol=6, port=PORT, bits=96, rule=4)
    classify(net, f"{OUTSIDE[4]}/32")
    allow(net, "a", INGRESS, peer=PEER_CLASS, protocol=6, port=22, bits=96, rule=5)
    for port in (PORT, 8081, 22, 23):
        net.from_netdev(ip(4, OUTSIDE[4], A[4]) / TCP(sport=4000, dport=port, flags="S"))
    net.from_netdev(ip(4, OUTSIDE[4], A[4]) / UDP(sport=4000, dport=PORT))
    counts = {key.rule: count.packets for key, count in net.datapath.policy_counts.items()}
    assert counts == {4: 1, 3: 1, 5: 1, 2: 1, 1: 1}


# --- through Services -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """How a client reaches a backend by a Service: the program, the client, the address and port that it sends to."""

    program: str
    client: dict[int, str]
    address: dict[int, str]
    port: int
    scope: FrontendScope
    routing: str = "native"


VIP_ENTRY = Entry("from_pod", A, VIP, 80, FrontendScope.ADDRESS)
ENTRIES = {
    "a pod at a cluster address": VIP_ENTRY,
    "a pod at its node's port": Entry("from_pod", A, NODE, NODE_PORT, FrontendScope.NODE_PORT),
    "a pod at another node's port": Entry("from_pod", A, OTHER_NODE, NODE_PORT, FrontendScope.NODE_PORT),
    "a client outside at a node port": Entry("from_netdev", OUTSIDE, NODE, NODE_PORT, FrontendScope.NODE_PORT),
    "a client outside at a host port": Entry("from_netdev", OUTSIDE, NODE, NODE_PORT, FrontendScope.HOST_PORT),
    "a client outside at an external address": Entry(
        "from_netdev", OUTSIDE, {4: "198.19.0.200", 6: "2001:db8::c8"}, 80, FrontendScope.ADDRESS
    ),
    "a remote pod at a node port": Entry("from_netdev", REMOTE, NODE, NODE_PORT, FrontendScope.NODE_PORT),
    "a client sent on by another node": Entry("from_overlay", OUTSIDE, OTHER_NODE, NODE_PORT, FrontendScope.NODE_PORT, "direct"),
}


def serve(net: Lab, entry: Entry, family: int, protocol: str, backend: str) -> None:
    address = entry.address[family] if entry.scope is FrontendScope.ADDRESS else ANY[family]
    flags = FrontendFlag.MAGLEV if entry.routing == "direct" else FrontendFlag(0)
    net.service(address, entry.port, NUMBERS[protocol], (backend, PORT), scope=entry.scope, flags=flags)
    net.datapath.maglev.put(1, (100,) * MAGLEV_SIZE)


def enter(net: Lab, entry: Entry, family: int, layer: Packet) -> Result:
    packet = ip(family, entry.client[family], entry.address[family]) / layer
    return net.run(entry.program, packet, ifindex=net.pods["a"] if entry.program == "from_pod" else 0)


@BY_FAMILY
@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_local_backend_is_judged_as_it_will_see_the_packet(
    request: pytest.FixtureRequest, entry: Entry, protocol: str, family: int
) -> None:
    """By its own address and port, and the client's: the Service's have no say."""
    net: Lab = request.getfixturevalue("net" if entry.routing == "native" else "direct")
    net.forget()
    serve(net, entry, family, protocol, B[family])
    isolate(net, "b", INGRESS)
    classify(net, f"{entry.client[family]}/{32 if family == 4 else 128}")
    number = NUMBERS[protocol]
    allow(net, "b", INGRESS, protocol=number, port=entry.port, bits=96)
    packet = begin(family, protocol, dport=entry.port)
    by = DropDirection[entry.program.upper()]
    with counted(net, DropReason.INGRESS_DENIED, by):
        assert enter(net, entry, family, packet).verdict == SHOT
    assert rows(net) == {}
    allow(net, "b", INGRESS, peer=PEER_CLASS, protocol=number, port=PORT, bits=96)
    got = enter(net, entry, family, packet)
    assert (got.verdict, got.ip.dst) == (REDIRECT, B[family])
    replied = net.from_pod(ip(family, B[family], entry.client[family]) / answer(family, protocol), "b")
    assert (replied.verdict, replied.ip.src) == (REDIRECT, entry.address[family])
    net.datapath.policies.delete(PolicyKey(SETS_OF["b", INGRESS], PEER_CLASS, number, PORT, 96))
    net.datapath.advance_policy_generation()
    later = more(dport=entry.port) if protocol == "tcp" else packet
    assert enter(net, entry, family, later).verdict == SHOT, "a live flow is cut"
    free(net, "b")
    assert enter(net, entry, family, later).ip.dst == B[family], "and goes on where nobody isolates"


@BY_FAMILY
@pytest.mark.parametrize("backend", [B, REMOTE, OUTSIDE, OTHER_NODE], ids=["local", "remote", "outside", "node"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_pods_way_out_through_a_service_is_judged_by_the_backend(net: Lab, backend: dict[int, str], protocol: str, family: int) -> None:
    serve(net, VIP_ENTRY, family, protocol, backend[family])
    isolate(net, "a", EGRESS)
    classify(net, f"{VIP[family]}/{32 if family == 4 else 128}", OTHER_CLASS)
    classify(net, f"{backend[family]}/{32 if family == 4 else 128}")
    allow(net, "a", EGRESS, peer=OTHER_CLASS)
    packet = begin(family, protocol, dport=80)
    with counted(net, DropReason.EGRESS_DENIED, DropDirection.FROM_POD):
        assert enter(net, VIP_ENTRY, family, packet).verdict == SHOT
    assert (rows(net), dict(net.datapath.masquerade.items())) == ({}, {})
    allow(net, "a", EGRESS, peer=PEER_CLASS, protocol=NUMBERS[protocol], port=PORT, bits=96)
    assert enter(net, VIP_ENTRY, family, packet).ip.dst == backend[family]
    net.datapath.policies.clear()
    net.datapath.advance_policy_generation()
    assert enter(net, VIP_ENTRY, family, more(dport=80) if protocol == "tcp" else packet).verdict == SHOT


@BY_FAMILY
def test_a_client_who_is_denied_one_backend_may_find_another(net: Lab, family: int) -> None:
    net.service(VIP[family], 80, 6, (B[family], PORT), (REMOTE[family], PORT))
    isolate(net, "a", EGRESS)
    classify(net, f"{REMOTE[family]}/{32 if family == 4 else 128}")
    allow(net, "a", EGRESS, peer=PEER_CLASS)
    tries = [enter(net, VIP_ENTRY, family, begin(family, "tcp", sport=4000 + i, dport=80)) for i in range(64)]
    assert {fate(one) for one in tries} == {"denied", "passes"}
    assert {one.ip.dst for one in tries if one.verdict == REDIRECT} == {REMOTE[family]}


@BY_FAMILY
def test_a_pod_reaches_itself_through_a_service_whatever_isolates_it(net: Lab, family: int) -> None:
    serve(net, VIP_ENTRY, family, "tcp", A[family])
    isolate(net, "a", INGRESS, EGRESS)
    assert enter(net, VIP_ENTRY, family, begin(family, "tcp", dport=80)).verdict == REDIRECT
    hairpin = {4: "169.254.1.1", 6: "fd61:6e65:7464::1"}[family]
    assert net.from_pod(ip(family, A[family], hairpin) / answer(family, "tcp")).ip.src == VIP[family]
    assert net.from_pod(ip(family, A[family], A[family]) / begin(family, "udp")).verdict == REDIRECT, "or without one"


@BY_FAMILY
def test_the_hairpins_address_is_nobodys_by_the_wire(net: Lab, family: int) -> None:
    isolate(net, "a", INGRESS)
    hairpin = {4: "169.254.1.1", 6: "fd61:6e65:7464::1"}[family]
    assert net.from_netdev(ip(family, hairpin, A[family]) / begin(family, "udp")).verdict == SHOT


@BY_FAMILY
def test_a_process_of_the_node_reaches_an_isolated_backend(net: Lab, family: int) -> None:
    """Without a socket hook: translated where it would leave the node, then seen again at the pod's host end."""
    serve(net, VIP_ENTRY, family, "tcp", A[family])
    isolate(net, "a", INGRESS, EGRESS)
    out = net.run("to_netdev", ip(family, NODE[family], VIP[family]) / begin(family, "tcp", dport=80))
    assert (out.verdict, out.ip.dst) == (REDIRECT, A[family])
    assert net.run("to_pod", out.packet, ifindex=net.pods["a"]).verdict == OK
    net.datapath.advance_policy_generation()
    assert net.run("to_pod", ip(family, NODE[family], A[family]) / more(), ifindex=net.pods["a"]).verdict == OK
    back = net.from_pod(ip(family, A[family], NODE[family]) / answer(family, "tcp"))
    assert (back.verdict, back.ip.src) == (OK, VIP[family])


# --- the pod's own node ---------------------------------------------------------------------------------------------------------


@BY_FAMILY
@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp", "echo"])
def test_a_pod_and_its_own_node_reach_each_other_whatever_isolates_it(either: Lab, family: int, protocol: str) -> None:
    isolate(either, "a", INGRESS, EGRESS)
    probe = ip(family, NODE[family], A[family]) / begin(family, protocol)
    assert either.run("to_pod", probe, ifindex=either.pods["a"]).verdict == OK
    assert either.from_pod(ip(family, A[family], NODE[family]) / answer(family, protocol)).verdict == OK
    assert either.from_pod(ip(family, A[family], NODE[family]) / begin(family, protocol, sport=5000)).verdict == OK
    back = ip(family, NODE[family], A[family]) / answer(family, protocol, sport=5000)
    assert either.run("to_pod", back, ifindex=either.pods["a"]).verdict == OK


@pytest.mark.parametrize("destination", ["169.254.1.1", "224.0.0.1", "fe80::1", "ff02::1"])
def test_what_stays_on_the_pods_link_is_not_judged(net: Lab, destination: str) -> None:
    family = 6 if ":" in destination else 4
    isolate(net, "a", EGRESS)
    assert net.from_pod(ip(family, A[family], destination) / UDP(sport=1, dport=2)).verdict == OK
    assert rows(net) == {}


def test_an_address_of_the_nodes_link_is_judged_where_it_is_not_the_nodes_own(net: Lab) -> None:
    """169.254.169.254 is beyond the node in a cloud, and 169.254.20.10 a cache on it."""
    metadata, cache = "169.254.169.254", "169.254.20.10"
    question = UDP(sport=4000, dport=53)
    sh(f"ip addr add {cache}/32 dev lo")
    try:
        assert net.from_pod(ip(4, A[4], metadata) / question).verdict == OK, "nobody isolates the pod"
        isolate(net, "a", INGRESS, EGRESS)
        assert net.from_pod(ip(4, A[4], metadata) / question).verdict == SHOT, "a live flow is cut"
        assert net.from_pod(ip(4, A[4], metadata) / UDP(sport=4001, dport=53)).verdict == SHOT
        assert net.from_pod(ip(4, A[4], cache) / question).verdict == OK
        classify(net, f"{metadata}/32")
        allow(net, "a", EGRESS, peer=PEER_CLASS, protocol=17, port=53, bits=96)
        for _ in range(2):
            assert net.from_pod(ip(4, A[4], metadata) / question).verdict == OK
        for server in (metadata, cache):
            assert net.run("to_pod", ip(4, server, A[4]) / UDP(sport=53, dport=4000), ifindex=net.pods["a"]).verdict == OK
    finally:
        sh(f"ip addr del {cache}/32 dev lo")


@BY_FAMILY
@pytest.mark.parametrize("program", ["from_netdev", "from_overlay"])
def test_who_borrows_the_nodes_address_by_the_wire_gains_nothing(request: pytest.FixtureRequest, family: int, program: str) -> None:
    net: Lab = request.getfixturevalue("net" if program == "from_netdev" else "overlay")
    isolate(net, "a", INGRESS)
    borrowed = ip(family, NODE[family], A[family]) / begin(family, "udp")
    assert net.run(program, borrowed).verdict == SHOT
    assert net.run("to_pod", borrowed, ifindex=net.pods["a"]).verdict == OK
    assert net.run(program, borrowed).verdict == SHOT, "the node's own flow is no help"
    assert net.run("to_pod", borrowed, ifindex=net.pods["a"]).verdict == OK
    classify(net, f"{NODE[family]}/{32 if family == 4 else 128}")
    allow(net, "a", INGRESS, peer=PEER_CLASS)
    assert net.run(program, borrowed).verdict == REDIRECT, "a block that names the node allows it"


@BY_FAMILY
def test_another_nodes_address_is_judged_like_any(net: Lab, family: int) -> None:
    isolate(net, "a", INGRESS, EGRESS)
    assert net.from_netdev(ip(family, OTHER_NODE[family], A[family]) / begin(family, "tcp")).verdict == SHOT
    assert net.from_pod(ip(family, A[family], OTHER_NODE[family]) / begin(family, "tcp")).verdict == SHOT


# --- live flows -----------------------------------------------------------------------------------------------------------------


@BY_FAMILY
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_live_flow_is_cut_by_a_change_and_kept_by_the_last_policys_end(request: pytest.FixtureRequest, way: Way, family: int) -> None:
    net: Lab = request.getfixturevalue("net" if way.routing == "native" else "overlay")
    assert fate(way.run(net, family, begin(family, "tcp"))) == "passes", "from before any policy"
    isolate(net, way.pod, way.direction)
    allow(net, way.pod, way.direction)
    assert fate(way.run(net, family, more())) == "passes"
    net.datapath.policies.clear()
    assert fate(way.run(net, family, more())) == "passes", "judged once a generation"
    net.datapath.advance_policy_generation()
    (before,) = rows(net).values()
    for flags in ("A", "FA", "R"):
        assert fate(way.run(net, family, more(flags=flags))) == "denied"
    assert list(rows(net).values()) == [before], "what is denied changes nothing of the flow"
    allow(net, way.pod, way.direction)
    assert fate(way.run(net, family, more())) == "passes"
    net.datapath.policies.clear()
    free(net, way.pod)
    assert fate(way.run(net, family, more())) == "passes"


def test_a_flow_is_stamped_with_the_generation_in_which_it_was_allowed(net: Lab) -> None:
    isolate(net, "a", INGRESS)
    allow(net, "a", INGRESS)
    packet = ip(4, OUTSIDE[4], A[4]) / begin(4, "tcp")
    for _ in range(3):
        net.from_netdev(packet)
        (row,) = rows(net).values()
        assert row.policy_generation == net.datapath.policy_generation() == net.datapath.advance_policy_generation() - 1
    assert net.datapath.policy_counts.get(PolicyCountKey(SETS_OF["a", INGRESS], RULE)).packets == 3


def test_an_established_flow_is_not_judged_again(net: Lab) -> None:
    isolate(net, "a", INGRESS)
    allow(net, "a", INGRESS)
    for layer in (begin(4, "tcp"), more(), more(), more(flags="PA")):
        net.from_netdev(ip(4, OUTSIDE[4], A[4]) / layer)
    count = net.datapath.policy_counts.get(PolicyCountKey(SETS_OF["a", INGRESS], RULE))
    assert (count.packets, count.bytes) == (1, 54)


def test_a_connection_on_the_ports_of_one_that_is_over_is_judged(net: Lab) -> None:
    net.from_netdev(ip(4, OUTSIDE[4], A[4]) / begin(4, "tcp"))
    net.from_pod(ip(4, A[4], OUTSIDE[4]) / TCP(sport=PORT, dport=4000, flags="RA"))
    isolate(net, "a", INGRESS)
    assert net.from_netdev(ip(4, OUTSIDE[4], A[4]) / begin(4, "tcp")).verdict == SHOT
    (row,) = rows(net).values()
    assert row.state is ConntrackState.CLOSED


def test_the_choice_of_a_backend_is_no_stamp(net: Lab) -> None:
    """Both are kept in one place of a row, each in its own kind."""
    serve(net, VIP_ENTRY, 4, "tcp", B[4])
    for _ in range(2):
        enter(net, VIP_ENTRY, 4, begin(4, "tcp", dport=80))
        found = {bool(row.flags & ConntrackFlag.SERVICE_ROW): row for row in rows(net).values()}
        assert (found[True].backend_id, found[True].policy_generation) == (100, 0)
        assert (found[False].backend_id, found[False].policy_generation) == (0, net.datapath.policy_generation())
        net.datapath.advance_policy_generation()


def test_the_generation_is_never_none(net: Lab) -> None:
    fd = net.datapath._policy_generation_fd
    syscalls.map_update(fd, bytes(4), b"\xff" * 4)
    assert net.datapath.advance_policy_generation() == 1
    assert maps.generation(fd) == 1


# --- what belongs to no flow ----------------------------------------------------------------------------------------------------


@BY_FAMILY
def test_errors_about_a_pods_flows_pass(net: Lab, family: int) -> None:
    """Path-MTU discovery works behind every policy that lets the flow be: into the pod, out of it, behind the masquerade."""
    isolate(net, "a", INGRESS, EGRESS)
    classify(net, f"{REMOTE[family]}/{32 if family == 4 else 128}")
    classify(net, f"{OUTSIDE[family]}/{32 if family == 4 else 128}")
    for direction in (INGRESS, EGRESS):
        allow(net, "a", direction, peer=PEER_CLASS, protocol=6, bits=PREFIX_PROTOCOL)
    out = net.from_pod(ip(family, A[family], REMOTE[family]) / begin(family, "tcp"))
    assert net.from_netdev(ip(family, GATEWAY[family], A[family]) / error_about(family, out.packet)).verdict == REDIRECT
    masqueraded = net.from_pod(ip(family, A[family], OUTSIDE[family]) / begin(family, "tcp"))
    got = net.from_netdev(ip(family, GATEWAY[family], NODE[family]) / error_about(family, masqueraded.packet))
    assert (got.verdict, got.ip.dst) == (REDIRECT, A[family])
    into = ip(family, REMOTE[family], A[family]) / begin(family, "tcp", sport=5000)
    assert net.from_netdev(into).verdict == REDIRECT
    assert net.from_pod(ip(family, A[family], REMOTE[family]) / error_about(family, into)).verdict == REDIRECT
    assert net.run("to_pod", ip(family, GATEWAY[family], A[family]) / error_about(family, out.packet), ifindex=net.pods["a"]).verdict == OK


@BY_FAMILY
def test_errors_about_nothing_known_are_judged(net: Lab, family: int) -> None:
    stranger = ip(family, A[family], REMOTE[family]) / begin(family, "tcp", sport=5999)
    mine = ip(family, REMOTE[family], A[family]) / begin(family, "tcp", sport=5999)
    net.from_pod(ip(family, B[family], REMOTE[family]) / begin(family, "tcp"), "b")
    anothers = ip(family, B[family], REMOTE[family]) / begin(family, "tcp")
    isolate(net, "a", INGRESS, EGRESS)

    def fates() -> list[str]:
        unreachable = ICMP(type=3, code=3) if family == 4 else ICMPv6DestUnreach(code=4)
        into = [net.from_netdev(ip(family, GATEWAY[family], A[family]) / error_about(family, cited)) for cited in (stranger, anothers)]
        into.append(net.run("to_pod", ip(family, GATEWAY[family], A[family]) / error_about(family, stranger), ifindex=net.pods["a"]))
        out = [
            net.from_pod(ip(family, A[family], REMOTE[family]) / unreachable / mine.getlayer(1)),
            # Of another pod's flow, and to somebody that has no part in it.
            net.from_pod(ip(family, A[family], REMOTE[family]) / unreachable / anothers.getlayer(1)),
        ]
        return [fate(result) for result in (*into, *out)]

    assert fates() == ["denied"] * 5
    allow(net, "a", INGRESS)
    allow(net, "a", EGRESS)
    assert fates() == ["passes"] * 5


def test_neighbour_discovery_is_never_judged(net: Lab) -> None:
    isolate(net, "a", INGRESS, EGRESS)
    asks = ip(6, A[6], "ff02::1:ff00:1", ttl=255) / ICMPv6ND_NS(tgt="fe80::1")
    says = ip(6, A[6], NODE[6], ttl=255) / ICMPv6ND_NA(tgt=A[6])
    assert [net.from_pod(packet).verdict for packet in (asks, says)] == [OK, OK]
    for source in (NODE[6], "fe80::1"):
        asked = ip(6, source, A[6], ttl=255) / ICMPv6ND_NS(tgt=A[6])
        assert net.run("to_pod", asked, ifindex=net.pods["a"]).verdict == OK
    assert net.run("to_pod", ip(6, "fe80::1", "ff02::1", ttl=255) / ICMPv6ND_NS(tgt=A[6]), ifindex=net.pods["a"]).verdict == OK
    assert rows(net) == {}


def test_what_only_looks_like_neighbour_discovery_is_judged(net: Lab) -> None:
    """Sent on, it is nobody's neighbour's: any payload may ride in it."""
    out = ip(6, A[6], REMOTE[6]) / ICMPv6ND_NS(tgt=REMOTE[6]) / Raw(b"secret")
    into = ip(6, REMOTE[6], A[6], ttl=254) / ICMPv6ND_NS(tgt=A[6]) / Raw(b"secret")
    borrowed = ip(6, B[6], REMOTE[6]) / ICMPv6ND_NS(tgt=REMOTE[6])
    assert net.from_pod(out).verdict == OK
    isolate(net, "a", INGRESS, EGRESS)
    assert net.from_pod(out).verdict == SHOT
    assert net.run("to_pod", into, ifindex=net.pods["a"]).verdict == SHOT
    with counted(net, DropReason.SPOOFED_SOURCE, DropDirection.FROM_POD):
        assert net.from_pod(borrowed).verdict == SHOT
    allow(net, "a", INGRESS)
    allow(net, "a", EGRESS)
    assert net.from_pod(out).verdict == OK
    assert net.run("to_pod", into, ifindex=net.pods["a"]).verdict == OK


def pieces(family: int, source: str, target: str, identifier: int) -> list[Packet]:
    body = bytes(UDP(sport=4000, dport=PORT) / Raw(b"x" * 1400))
    if family == 4:
        head = {"id": identifier, "proto": 17}
        return [ip(4, source, target, flags="MF", **head) / Raw(body[:800]), ip(4, source, target, frag=100, **head) / Raw(body[800:])]
    return [
        ip(6, source, target) / IPv6ExtHdrFragment(nh=17, id=identifier, m=1, offset=0) / Raw(body[:800]),
        ip(6, source, target) / IPv6ExtHdrFragment(nh=17, id=identifier, m=0, offset=100) / Raw(body[800:]),
    ]


@BY_FAMILY
@pytest.mark.parametrize("way", [WAYS["out to a remote pod"], WAYS["in from the outside"], WAYS["in through the tunnel"]], ids=str)
def test_fragments_follow_their_first(request: pytest.FixtureRequest, way: Way, family: int) -> None:
    net: Lab = request.getfixturevalue("net" if way.routing == "native" else "overlay")
    isolate(net, way.pod, way.direction)

    def fates(identifier: int) -> list[str]:
        sent = pieces(family, way.source[family], way.destination[family], identifier)
        return [fate(net.from_pod(piece) if way.program == "from_pod" else net.run(way.program, piece)) for piece in sent]

    assert fates(1) == ["denied"] * 2
    allow(net, way.pod, way.direction, protocol=17, port=PORT, bits=96)
    assert fates(2) == ["passes"] * 2
    assert len(rows(net)) == 1


# --- counters -------------------------------------------------------------------------------------------------------------------


@BY_FAMILY
def test_counters_say_what_each_rule_allowed_and_each_set_denied(net: Lab, family: int) -> None:
    isolate(net, "a", EGRESS)
    isolate(net, "b", INGRESS)
    allow(net, "a", EGRESS, rule=7)
    allow(net, "b", INGRESS, protocol=6, port=PORT, bits=96, rule=8)
    for sport in (1, 2, 3):
        net.from_pod(ip(family, A[family], B[family]) / begin(family, "tcp", sport=sport))
    for _ in range(4):
        net.from_pod(ip(family, A[family], B[family]) / begin(family, "udp"))
    found = {(key.set, key.rule): count.packets for key, count in net.datapath.policy_counts.items()}
    assert found == {(2, 7): 7, (3, 8): 3, (3, 0): 4}
    assert net.datapath.policy_counts.delete_many([PolicyCountKey(2, 7), PolicyCountKey(9, 9)]) == 1


def test_the_last_drop_names_the_set_that_denied(net: Lab) -> None:
    before = time.monotonic_ns()
    isolate(net, "a", EGRESS)
    net.from_pod(ip(4, A[4], B[4]) / begin(4, "tcp"))
    last = max(net.datapath.last_drops(), key=lambda drop: drop.time)
    assert (last.reason, last.direction, last.policy_set) == (DropReason.EGRESS_DENIED, DropDirection.FROM_POD, 2)
    assert before < last.time < time.monotonic_ns()
    net.from_pod(ip(4, B[4], OUTSIDE[4]) / begin(4, "tcp"))
    last = max(net.datapath.last_drops(), key=lambda drop: drop.time)
    assert (last.reason, last.policy_set) == (DropReason.SPOOFED_SOURCE, 0)
    assert len(net.datapath.last_drops()) == maps.possible_cpus()


# --- the log's records ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def told(net: Lab) -> Iterator[VerdictReader]:
    """The ring, empty, and a full budget."""
    reader = net.datapath.read_verdicts()
    list(reader.read())
    budget(net, 0)
    yield reader
    reader.close()


def budget(net: Lab, refilled_at: int, tokens: int = 0) -> None:
    """Of every CPU. Refilled in the future, it stays as it is."""
    fd = next(loaded.maps["verdict_budget"] for loaded in net.datapath._loaded.values())
    syscalls.map_update(fd, bytes(4), struct.pack("=QQ", refilled_at, tokens) * maps.possible_cpus())


def what(verdict: Verdict) -> tuple[str, str, str, int, int, int, int, int]:
    word = "allow" if verdict.allowed else "deny"
    ends = str(verdict.source), str(verdict.destination)
    return (word, *ends, verdict.source_port, verdict.destination_port, verdict.protocol, verdict.rule, verdict.count)


@BY_FAMILY
def test_a_connection_is_told_once_if_its_rule_is_logged(net: Lab, told: VerdictReader, family: int) -> None:
    isolate(net, "a", INGRESS)
    allow(net, "a", INGRESS, protocol=6, port=PORT, bits=96, rule=11, log=True)
    allow(net, "a", INGRESS, protocol=6, port=22, bits=96, rule=12)
    before = time.monotonic_ns()
    for layer in (begin(family, "tcp"), more(), begin(family, "tcp", dport=22)):
        assert net.from_netdev(ip(family, OUTSIDE[family], A[family]) / layer).verdict == REDIRECT
    net.datapath.advance_policy_generation()
    assert net.from_netdev(ip(family, OUTSIDE[family], A[family]) / more()).verdict == REDIRECT, "judged again"
    (record,) = told.read()
    assert what(record) == ("allow", OUTSIDE[family], A[family], 4000, PORT, 6, 11, 1)
    assert (record.direction, record.set) == (INGRESS, 1)
    assert before < record.time < time.monotonic_ns()


@BY_FAMILY
def test_a_connection_between_local_pods_is_told_for_each_end(net: Lab, told: VerdictReader, family: int) -> None:
    isolate(net, "a", EGRESS, log=True)
    isolate(net, "b", INGRESS, log=True)
    allow(net, "a", EGRESS, rule=21, log=True)
    packet = ip(family, A[family], B[family]) / begin(family, "udp")
    net.from_pod(packet)
    assert [(what(r)[0], r.direction, r.rule) for r in told.read()] == [("deny", INGRESS, 0)], "no connection came of it"
    allow(net, "b", INGRESS, rule=22, log=True)
    net.from_pod(packet)
    found = list(told.read())
    assert [(r.allowed, r.direction, r.set, r.rule) for r in found] == [(True, EGRESS, 2, 21), (True, INGRESS, 3, 22)]
    assert {what(r)[1:6] for r in found} == {(A[family], B[family], 4000, PORT, 17)}


@BY_FAMILY
def test_records_of_a_service_name_the_backend(net: Lab, told: VerdictReader, family: int) -> None:
    serve(net, VIP_ENTRY, family, "tcp", B[family])
    isolate(net, "a", EGRESS)
    allow(net, "a", EGRESS, rule=31, log=True)
    enter(net, VIP_ENTRY, family, begin(family, "tcp", dport=80))
    assert [what(r) for r in told.read()] == [("allow", A[family], B[family], 4000, PORT, 6, 31, 1)]


@BY_FAMILY
def test_an_echo_is_told_with_its_identifier(net: Lab, told: VerdictReader, family: int) -> None:
    isolate(net, "a", INGRESS)
    allow(net, "a", INGRESS, rule=41, log=True)
    net.from_netdev(ip(family, OUTSIDE[family], A[family]) / echo(family, 99))
    protocol = 1 if family == 4 else 58
    assert [what(r) for r in told.read()] == [("allow", OUTSIDE[family], A[family], 99, 0, protocol, 41, 1)]


def test_nothing_is_told_without_a_flag(net: Lab, told: VerdictReader) -> None:
    isolate(net, "a", INGRESS)
    allow(net, "a", INGRESS, protocol=6, bits=PREFIX_PROTOCOL)
    for protocol in ("tcp", "udp"):
        net.from_netdev(ip(4, OUTSIDE[4], A[4]) / begin(4, protocol))
    assert list(told.read()) == []
    assert list(net.datapath.denials.items()) == []


def aged(net: Lab, key: DenialKey, by: int) -> None:
    """As if that many nanoseconds had passed since the denial was told."""
    parts = net.datapath.denials.parts(key)
    size = DENIAL.size
    copies = b"".join(
        DENIAL.pack(Denial(max(d.told_at - by, 0), d.untold, max(d.untold_since - by, 0), d.set)).ljust((size + 7) // 8 * 8, b"\0")
        for d in parts
    )
    syscalls.map_update(net.datapath.denials.fd, DENIAL_KEY.pack(key), copies)


@BY_FAMILY
def test_a_denial_is_told_at_once_and_then_in_sums(net: Lab, told: VerdictReader, family: int) -> None:
    isolate(net, "a", INGRESS, log=True)
    key = DenialKey(ip_address(OUTSIDE[family]), ip_address(A[family]), PORT, 6, INGRESS)

    def deny(sport: int) -> None:
        assert net.from_netdev(ip(family, OUTSIDE[family], A[family]) / begin(family, "tcp", sport=sport)).verdict == SHOT

    deny(4000)
    (first,) = told.read()
    assert what(first) == ("deny", OUTSIDE[family], A[family], 4000, PORT, 6, 0, 1)
    while True:  # within the second; on a machine that takes longer than that, once more
        for sport in range(4001, 4006):
            deny(sport)
        if not (early := list(told.read())):
            break
        assert sum(r.count for r in early) <= 5
        aged(net, key, -10_000_000_000)
    waiting = net.datapath.denials.get(key)
    assert waiting.untold >= 5
    aged(net, key, 2_000_000_000)
    deny(4006)
    (summed,) = told.read()
    assert what(summed) == ("deny", OUTSIDE[family], A[family], 4006, PORT, 6, 0, waiting.untold + 1)
    assert summed.time < first.time, "of the first packet that it stands for, as aged"
    assert net.datapath.denials.get(key).untold == 0


def test_the_rest_of_a_denial_that_has_fallen_silent_can_be_asked_for(net: Lab, told: VerdictReader) -> None:
    isolate(net, "a", EGRESS, log=True)
    began = time.monotonic_ns()
    for port in (1, 2, 2, 2):
        net.from_pod(ip(4, A[4], OUTSIDE[4]) / begin(4, "udp", dport=port))
    records = [unpack_verdict(each) for each in told.records(2)]
    records += [unpack_verdict(each) for each in told.records(100)]
    keys = {port: DenialKey(ip_address(A[4]), ip_address(OUTSIDE[4]), port, 17, EGRESS) for port in (1, 2, 3)}
    untold = {port: told.untold(DENIAL_KEY.pack(key)[:-4]) for port, key in keys.items()}
    assert untold[1] == untold[3] == (0, 0, 0)
    count, since, denied_by = untold[2]
    assert sum(r.count for r in records) + count == 4
    assert count == 0 or (denied_by == 2 and began < since < time.monotonic_ns())


def test_what_is_over_the_budget_is_counted_and_not_told(net: Lab, told: VerdictReader) -> None:
    isolate(net, "a", INGRESS, log=True)
    allow(net, "a", INGRESS, protocol=6, bits=PREFIX_PROTOCOL, log=True)
    budget(net, time.monotonic_ns() + 3_600_000_000_000, tokens=3)
    before = net.datapath.verdict_losses()
    for port in range(1, 6):
        assert net.from_netdev(ip(4, OUTSIDE[4], A[4]) / begin(4, "udp", dport=port)).verdict == SHOT
    assert net.from_netdev(ip(4, OUTSIDE[4], A[4]) / begin(4, "tcp")).verdict == REDIRECT, "the log blocks nothing"
    assert [r.destination_port for r in told.read()] == [1, 2, 3]
    after = net.datapath.verdict_losses()
    assert {why: after[why] - before[why] for why in after} == {VerdictLoss.OVER_BUDGET: 3, VerdictLoss.RING_FULL: 0}
    budget(net, 0)
    net.from_netdev(ip(4, OUTSIDE[4], A[4]) / begin(4, "udp", dport=5))
    assert [r.count for r in told.read()] == [1], "what was lost is lost"


def test_the_budget_refills_with_time(net: Lab, told: VerdictReader) -> None:
    isolate(net, "a", INGRESS, log=True)
    budget(net, time.monotonic_ns() - 10_000_000, tokens=0)
    net.from_netdev(ip(4, OUTSIDE[4], A[4]) / begin(4, "udp"))
    assert len(list(told.read())) == 1


def test_a_full_ring_loses_records_and_no_packet(net: Lab, told: VerdictReader) -> None:
    isolate(net, "a", INGRESS, log=True)
    before = net.datapath.verdict_losses()
    frames = [bytes(ip(4, OUTSIDE[4], A[4]) / begin(4, "udp", dport=port)) for port in range(1, 1001)]
    for frame in frames:
        assert net.raw("from_netdev", frame).verdict == SHOT
    records = list(told.read())
    after = net.datapath.verdict_losses()
    lost = {why: after[why] - before[why] for why in after}
    assert lost[VerdictLoss.RING_FULL] > 0
    assert len(records) + sum(lost.values()) == len(frames)
    assert [r.destination_port for r in records] == list(range(1, len(records) + 1))
    budget(net, 0)
    net.from_netdev(ip(4, OUTSIDE[4], A[4]) / begin(4, "udp", dport=9999))
    assert [r.destination_port for r in told.read()] == [9999], "room again"


def test_records_are_read_round_the_rings_end_and_across_readers(net: Lab, told: VerdictReader) -> None:
    isolate(net, "a", INGRESS, log=True)
    found = []
    for start in range(10_000, 12_000, 250):
        budget(net, 0)
        for port in range(start, start + 250):
            net.raw("from_netdev", bytes(ip(4, OUTSIDE[4], A[4]) / begin(4, "udp", dport=port)))
        reader = net.datapath.read_verdicts()
        stream = reader.read()
        found += [next(stream).destination_port for _ in range(100)]  # and stops half-way
        reader.close()
        found += [r.destination_port for r in told.read()]
    assert found == list(range(10_000, 12_000))


@pytest.mark.parametrize("routing", ["native", "vxlan"])
@pytest.mark.parametrize("masquerade", [True, False])
@pytest.mark.parametrize("direct_return", [True, False])
def test_every_configuration_is_accepted_by_the_verifier(routing: str, masquerade: bool, direct_return: bool) -> None:
    with lab(routing, masquerade=masquerade, direct=direct_return) as net:
        isolate(net, "a", EGRESS)
        assert net.from_pod(ip(4, A[4], REMOTE[4]) / begin(4, "tcp")).verdict == SHOT
