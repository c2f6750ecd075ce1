"""Packets into single programs, and what comes out: verdict, rewritten packet, rows and counts. No traffic, no time to wait."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, ICMPerror, IPerror, IPOption_Router_Alert, TCPerror, UDPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NS,
    ICMPv6ND_RS,
    ICMPv6PacketTooBig,
    IPerror6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from agent.datapath.abi import (
    ANY_IPV4,
    ANY_IPV6,
    MASQUERADE_PORTS,
    ConntrackFlag,
    ConntrackRow,
    ConntrackState,
    DropDirection,
    DropReason,
    FlowKey,
    FrontendScope,
    IPAddress,
    MasqueradeRow,
    Route,
    RouteKind,
    clock,
)

from .lab import (
    GATEWAY,
    HOST_MAC,
    NODE,
    OK,
    OTHER_NODE,
    OUTSIDE,
    POD_MAC,
    REDIRECT,
    REMOTE,
    REMOTE_PODS,
    SHOT,
    VIP,
    A,
    B,
    Lab,
    checksums_hold,
    ip,
    lab,
)

FAMILIES = (4, 6)
PORTS = MASQUERADE_PORTS
MARK_HANDLED = 0x0A7E0001


@contextmanager
def counted(net: Lab, reason: DropReason, direction: DropDirection, times: int = 1) -> Iterator[None]:
    before = net.dropped(reason, direction)
    yield
    assert net.dropped(reason, direction) - before == times


def echo(family: int, identifier: int = 7) -> Packet:
    return ICMP(id=identifier, seq=1) if family == 4 else ICMPv6EchoRequest(id=identifier, seq=1)


def echo_reply(family: int, identifier: int = 7) -> Packet:
    return ICMP(type=0, id=identifier, seq=1) if family == 4 else ICMPv6EchoReply(id=identifier, seq=1)


def rows(net: Lab) -> dict[FlowKey, ConntrackRow]:
    return dict(net.datapath.conntrack.items())


def only_row(net: Lab) -> tuple[FlowKey, ConntrackRow]:
    ((key, row),) = rows(net).items()
    return key, row


def began(key: FlowKey, row: ConntrackRow) -> IPAddress:
    return key.b if row.flags & ConntrackFlag.INITIATOR_B else key.a


# --- out of a pod ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("payload", [TCP(sport=4000, dport=80, flags="S"), UDP(sport=4000, dport=80) / b"abc"], ids=["tcp", "udp"])
def test_to_a_local_pod_the_frame_gets_its_macs_and_keeps_all_else(net: Lab, family: int, payload: Packet) -> None:
    net.datapath.endpoints.put(
        ip_address(B[family]),
        replace(net.datapath.endpoints.get(ip_address(B[family])), pod_mac="02:00:00:00:00:bb", host_mac="02:00:00:00:00:cc"),
    )
    sent = ip(family, A[family], B[family]) / payload
    got = net.from_pod(sent)
    assert got.verdict == REDIRECT
    assert (got.packet.dst, got.packet.src) == ("02:00:00:00:00:bb", "02:00:00:00:00:cc")
    assert bytes(got.packet)[14:] == bytes(sent)[14:]
    key, row = only_row(net)
    assert began(key, row) == ip_address(A[family])
    assert row.state is ConntrackState.NEW


@pytest.mark.parametrize("family", FAMILIES)
def test_to_a_remote_pod_one_hop_is_taken_and_the_checksum_mended(either: Lab, family: int) -> None:
    got = either.from_pod(ip(family, A[family], REMOTE[family]) / TCP(sport=4000, dport=80, flags="S"))
    assert got.verdict == REDIRECT
    assert (got.ip.ttl if family == 4 else got.ip.hlim) == 63
    assert checksums_hold(got.packet)


@pytest.mark.parametrize("ttl", range(2, 256))
def test_every_ttl_is_lowered_with_a_right_checksum(net: Lab, ttl: int) -> None:
    got = net.from_pod(ip(4, A[4], REMOTE[4], ttl=ttl, id=ttl * 257) / UDP(sport=1, dport=2))
    assert got.ip.ttl == ttl - 1
    assert checksums_hold(got.packet)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", [REMOTE, OUTSIDE], ids=["remote", "outside"])
def test_a_packet_without_hops_left_goes_to_the_hosts_stack_unchanged(either: Lab, family: int, target: dict[int, str]) -> None:
    sent = ip(family, A[family], target[family], ttl=1) / UDP(sport=1, dport=2)
    got = either.from_pod(sent)
    assert got.verdict == OK
    assert bytes(got.packet) == bytes(sent)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packet_above_the_mtu_goes_to_the_hosts_stack(vxlan: Lab, family: int) -> None:
    vxlan.forget()
    header = 28 if family == 4 else 48
    fits = ip(family, A[family], REMOTE[family]) / UDP(sport=1, dport=2) / Raw(b"x" * (1450 - header))
    assert vxlan.from_pod(fits).verdict == REDIRECT
    assert vxlan.from_pod(fits / Raw(b"x")).verdict == OK


@pytest.mark.parametrize("family", FAMILIES)
def test_to_this_node_goes_to_the_hosts_stack(either: Lab, family: int) -> None:
    assert either.from_pod(ip(family, A[family], NODE[family]) / TCP(sport=4000, dport=10250, flags="S")).verdict == OK


@pytest.mark.parametrize("family", FAMILIES)
def test_to_another_node_the_pod_shows_itself_in_native_mode_and_the_node_in_vxlan_mode(either: Lab, family: int) -> None:
    got = either.from_pod(ip(family, A[family], OTHER_NODE[family]) / TCP(sport=4000, dport=6443, flags="S"))
    _, row = only_row(either)
    assert got.verdict == REDIRECT
    if either.datapath.config.overlay_ifindex:
        assert (got.ip.src, got.packet[TCP].sport) == (NODE[family], row.masquerade_port)
    else:
        assert (got.ip.src, row.masquerade_port) == (A[family], 0)
    assert checksums_hold(got.packet)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unknown_pod_of_this_node_is_no_outside_and_cannot_be_reached(net: Lab, family: int) -> None:
    missing = {4: "198.19.16.77", 6: "2001:db8:16::77"}[family]
    with counted(net, DropReason.NO_SUCH_POD, DropDirection.FROM_POD):
        got = net.from_pod(ip(family, A[family], missing) / UDP(sport=1, dport=2))
    error = got.packet[ICMP] if family == 4 else got.packet[ICMPv6DestUnreach]
    assert (got.verdict, got.ip.src, got.ip.dst) == (REDIRECT, missing, A[family])
    assert (error.type, error.code) == ((3, 1) if family == 4 else (1, 3))
    assert checksums_hold(got.packet)


SPOOFED = {
    "another pod's": lambda family: ip(family, B[family], REMOTE[family]),
    "the node's": lambda family: ip(family, NODE[family], REMOTE[family]),
    "outside": lambda family: ip(family, OUTSIDE[family], REMOTE[family]),
    "none": lambda family: ip(family, {4: "0.0.0.0", 6: "::"}[family], REMOTE[family]),
    "link-local": lambda family: ip(family, {4: "169.254.9.9", 6: "fe80::9"}[family], REMOTE[family]),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("source", SPOOFED)
def test_a_pod_cannot_use_a_source_that_is_not_its_own(net: Lab, family: int, source: str) -> None:
    with counted(net, DropReason.SPOOFED_SOURCE, DropDirection.FROM_POD):
        assert net.from_pod(SPOOFED[source](family) / UDP(sport=1, dport=2)).verdict == SHOT
    assert rows(net) == {}


def test_an_ipv4_address_inside_an_ipv6_header_is_no_pass(net: Lab) -> None:
    """Tables have IPv4 as mapped addresses: a header with one would be taken for IPv4."""
    with counted(net, DropReason.MALFORMED, DropDirection.FROM_POD, 2):
        assert net.from_pod(ip(6, f"::ffff:{A[4]}", REMOTE[6]) / UDP(sport=1, dport=2)).verdict == SHOT
        assert net.from_pod(ip(6, A[6], f"::ffff:{REMOTE[4]}") / UDP(sport=1, dport=2)).verdict == SHOT


@pytest.mark.parametrize(
    "frame",
    [
        Ether() / ARP(pdst="169.254.1.1"),
        ip(6, "::", "ff02::1:ff00:10") / ICMPv6ND_NS(tgt="2001:db8:16::10"),
        ip(6, "fe80::5", "ff02::2") / ICMPv6ND_RS(),
        ip(6, "fe80::5", "ff02::16") / IPv6ExtHdrHopByHop() / ICMPv6MLReport2(),
        ip(6, A[6], "fe80::1") / ICMPv6ND_NS(tgt="fe80::1"),
    ],
    ids=["arp", "duplicate address detection", "router solicitation", "listener report", "neighbour solicitation"],
)
def test_link_housekeeping_passes_untracked(net: Lab, frame: Packet) -> None:
    assert net.from_pod(frame).verdict == OK
    assert rows(net) == {}


def test_what_is_neither_ip_nor_arp_is_dropped(net: Lab) -> None:
    with counted(net, DropReason.UNSUPPORTED_LAYER2, DropDirection.FROM_POD):
        assert net.from_pod(Ether(type=0x88CC) / Raw(b"x" * 60)).verdict == SHOT


@pytest.mark.parametrize("family", FAMILIES)
def test_multicast_goes_to_the_hosts_stack_and_leaves_no_row(net: Lab, family: int) -> None:
    group = {4: "224.0.0.251", 6: "ff02::fb"}[family]
    assert net.from_pod(ip(family, A[family], group) / UDP(sport=5353, dport=5353)).verdict == OK
    assert rows(net) == {}


MALFORMED = {
    "IPv4 header of four words": ip(4, A[4], REMOTE[4], ihl=4) / UDP(sport=1, dport=2),
    "IPv4 options beyond the packet": Ether() / Raw(bytes(IP(src=A[4], dst=REMOTE[4], ihl=15))),
    "IPv4 length below its header": ip(4, A[4], REMOTE[4], ihl=6, len=20, options=[IPOption_Router_Alert()]) / UDP(sport=1, dport=2),
    "TCP cut short": ip(4, A[4], REMOTE[4], proto=6) / Raw(b"\0" * 12),
    "UDP cut short": ip(4, A[4], REMOTE[4], proto=17) / Raw(b"\0" * 3),
    "ICMP cut short": ip(4, A[4], REMOTE[4], proto=1) / Raw(b"\x08"),
    "IPv6 TCP cut short": ip(6, A[6], REMOTE[6], nh=6) / Raw(b"\0" * 12),
    "IPv6 extension header beyond the packet": ip(6, A[6], REMOTE[6], nh=60) / Raw(b"\x11\x20\0\0\0\0\0\0"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_packet_is_dropped_and_counted(net: Lab, case: str) -> None:
    frame = MALFORMED[case]
    if case.startswith("IPv4 options"):
        frame.type = 0x0800
    with counted(net, DropReason.MALFORMED, DropDirection.FROM_POD):
        assert net.from_pod(frame).verdict == SHOT
    assert rows(net) == {}


OPTIONS = {
    "IPv4 options": (4, ip(4, A[4], REMOTE[4], options=[IPOption_Router_Alert()])),
    "IPv6 hop-by-hop": (6, ip(6, A[6], REMOTE[6]) / IPv6ExtHdrHopByHop()),
    "IPv6 two extension headers": (6, ip(6, A[6], REMOTE[6]) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt()),
    "IPv6 a fragment that is the whole": (6, ip(6, A[6], REMOTE[6]) / IPv6ExtHdrFragment(offset=0, m=0)),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_ports_are_found_behind_options(net: Lab, case: str) -> None:
    _, head = OPTIONS[case]
    assert net.from_pod(head / UDP(sport=4321, dport=53)).verdict == REDIRECT
    key, _ = only_row(net)
    assert {key.a_port, key.b_port} == {4321, 53}


# --- connection tracking --------------------------------------------------------------------------------------------------------


def segment(family: int, flags: str, *, back: bool = False, target: dict[int, str] = B, payload: bytes = b"") -> Packet:
    if back:
        return ip(family, target[family], A[family]) / TCP(sport=80, dport=4000, flags=flags) / Raw(payload)
    return ip(family, A[family], target[family]) / TCP(sport=4000, dport=80, flags=flags) / Raw(payload)


CLOSINGS = {
    "only asked": ("S", ConntrackState.NEW),
    "answered": ("S <SA", ConntrackState.ESTABLISHED),
    "one end done": ("S <SA A FA", ConntrackState.HALF_CLOSED),
    "the other end done": ("S <SA A <FA", ConntrackState.HALF_CLOSED),
    "the same end twice": ("S <SA A FA FA", ConntrackState.HALF_CLOSED),
    "both done": ("S <SA A FA <FA A", ConntrackState.CLOSED),
    "reset": ("S <SA A <R", ConntrackState.CLOSED),
    "refused": ("S <RA", ConntrackState.CLOSED),
    "used again": ("S <SA A FA <FA A S", ConntrackState.NEW),
    "used again after a reset, and answered": ("S <RA S <SA", ConntrackState.ESTABLISHED),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CLOSINGS)
def test_a_connection_is_followed(net: Lab, family: int, case: str) -> None:
    script, state = CLOSINGS[case]
    for step in script.split():
        back = step.startswith("<")
        net.from_pod(segment(family, step.lstrip("<"), back=back), "b" if back else "a")
    key, row = only_row(net)
    assert row.state is state
    assert began(key, row) == ip_address(A[family])


def test_the_other_end_may_use_a_closed_connections_ports(net: Lab) -> None:
    for step, back in (("S", False), ("SA", True), ("R", True)):
        net.from_pod(segment(4, step, back=back), "b" if back else "a")
    net.from_pod(segment(4, "S", back=True), "b")
    key, row = only_row(net)
    assert (began(key, row), row.state) == (ip_address(B[4]), ConntrackState.NEW)


def test_an_established_flow_is_written_to_once_a_second_at_most(net: Lab) -> None:
    for step, back in (("S", False), ("SA", True)):
        net.from_pod(segment(4, step, back=back), "b" if back else "a")
    key, row = only_row(net)
    net.datapath.conntrack.put(key, replace(row, last_seen=row.last_seen - 5))
    net.from_pod(segment(4, "A"))
    assert clock(time.monotonic_ns()) - 1 <= rows(net)[key].last_seen <= clock(time.monotonic_ns())
    future = replace(rows(net)[key], last_seen=clock(time.monotonic_ns()) + 100)
    net.datapath.conntrack.put(key, future)
    net.from_pod(segment(4, "A"))
    assert rows(net)[key].state is ConntrackState.ESTABLISHED


@pytest.mark.parametrize("family", FAMILIES)
def test_a_known_flow_follows_its_route_when_that_changes(net: Lab, family: int) -> None:
    """The next hop is remembered, and forgotten with the next change of any route."""
    routes, prefix = net.datapath.routes, ip_network(REMOTE_PODS[family])
    sent = ip(family, A[family], REMOTE[family]) / UDP(sport=4000, dport=53)
    net.from_pod(sent)
    net.from_pod(sent)
    assert only_row(net)[1].translated_address == ip_address(OTHER_NODE[family])
    before = routes.get(prefix)
    assert before is not None
    try:
        routes.put(prefix, Route(RouteKind.REMOTE_PODS, ip_address(GATEWAY[family])))
        assert net.from_pod(sent).verdict == REDIRECT
        assert only_row(net)[1].translated_address == ip_address(GATEWAY[family])
        routes.delete_many([prefix])
        assert net.from_pod(sent).ip.src == A[family], "outside now, yet no masquerade in the middle of a flow"
        routes.put(prefix, Route(RouteKind.THIS_NODE))
        assert net.from_pod(sent).verdict == OK
    finally:
        routes.put_many({prefix: before})
    assert net.from_pod(sent).verdict == REDIRECT


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("by", ["pod", "service"])
def test_a_flow_with_the_outside_follows_a_route_that_appears(net: Lab, family: int, by: str) -> None:
    """That no route led there is remembered as well, and forgotten with the next change of any route."""
    routes, prefix = net.datapath.routes, ip_network(OUTSIDE[family])
    at = A[family]
    if by == "service":
        at = NODE[family]
        net.service(str(ANY_IPV4 if family == 4 else ANY_IPV6), 30080, 6, (A[family], 30080), scope=FrontendScope.NODE_PORT)
    assert net.from_netdev(ip(family, OUTSIDE[family], at) / TCP(sport=443, dport=30080, flags="S")).verdict == REDIRECT
    answer = ip(family, A[family], OUTSIDE[family]) / TCP(sport=30080, dport=443, flags="SA")
    for _ in range(3):
        out = net.from_pod(answer)
        assert (out.verdict, out.ip.src) == (REDIRECT, at)
    routes.put(prefix, Route(RouteKind.THIS_NODE))
    try:
        assert net.from_pod(answer).verdict == OK
    finally:
        routes.delete_many([prefix])
    assert net.from_pod(answer).verdict == REDIRECT


@pytest.mark.parametrize("family", FAMILIES)
def test_a_known_flow_does_not_open_the_way_for_another_pod(net: Lab, family: int) -> None:
    """Established flows are spared the look at endpoints, not the check."""
    sent = ip(family, A[family], B[family]) / UDP(sport=4000, dport=53)
    for _ in range(3):
        assert net.from_pod(sent).verdict == REDIRECT
    with counted(net, DropReason.SPOOFED_SOURCE, DropDirection.FROM_POD, 2):
        assert net.from_pod(sent, "b").verdict == SHOT
        assert net.from_pod(ip(family, B[family], A[family]) / UDP(sport=53, dport=4000), "a").verdict == SHOT
    assert net.from_pod(ip(family, B[family], A[family]) / UDP(sport=53, dport=4000), "b").verdict == REDIRECT
    assert only_row(net)[1].state is ConntrackState.ESTABLISHED


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pod_that_is_gone_is_not_delivered_to_by_an_old_flow(net: Lab, family: int) -> None:
    for source, target, pod in ((A, B, "a"), (B, A, "b"), (A, B, "a")):
        assert net.from_pod(ip(family, source[family], target[family]) / UDP(sport=53, dport=53), pod).verdict == REDIRECT
    address = ip_address(B[family])
    gone = net.datapath.endpoints.get(address)
    assert gone is not None
    net.datapath.endpoints.delete(address)
    try:
        with counted(net, DropReason.NO_SUCH_POD, DropDirection.FROM_POD):
            got = net.from_pod(ip(family, A[family], B[family]) / UDP(sport=53, dport=53))
        assert (got.verdict, got.ip.src, got.ip.dst) == (REDIRECT, B[family], A[family])
    finally:
        net.datapath.endpoints.put(address, gone)


EXPIRIES = [
    (6, ConntrackState.NEW, 60),
    (6, ConntrackState.CLOSED, 10),
    (17, ConntrackState.NEW, 30),
    (17, ConntrackState.ESTABLISHED, 180),
]


@pytest.mark.parametrize(("protocol", "state", "seconds"), EXPIRIES)
def test_an_expired_row_counts_as_missing(net: Lab, protocol: int, state: ConntrackState, seconds: int) -> None:
    layer = TCP(sport=4000, dport=80, flags="A") if protocol == 6 else UDP(sport=4000, dport=80)
    net.from_pod(ip(4, A[4], B[4]) / layer)
    key, row = only_row(net)
    now = clock(time.monotonic_ns())
    # As if the other end had begun it: a row that still counts keeps that, one that does not is begun anew.
    old = replace(row, state=state, flags=row.flags ^ ConntrackFlag.INITIATOR_B)
    net.datapath.conntrack.put(key, replace(old, last_seen=now - seconds + 3))
    net.from_pod(ip(4, A[4], B[4]) / layer)
    assert began(key, rows(net)[key]) == ip_address(B[4])
    net.datapath.conntrack.put(key, replace(old, last_seen=now - seconds - 1))
    net.from_pod(ip(4, A[4], B[4]) / layer)
    assert began(key, rows(net)[key]) == ip_address(A[4])


@pytest.mark.parametrize("family", FAMILIES)
def test_two_pings_with_one_identifier_crossing_are_two_flows(net: Lab, family: int) -> None:
    net.from_pod(ip(family, A[family], B[family]) / echo(family, 5))
    net.from_pod(ip(family, B[family], A[family]) / echo(family, 5), "b")
    assert len(rows(net)) == 2
    net.from_pod(ip(family, B[family], A[family]) / echo_reply(family, 5), "b")
    assert len(rows(net)) == 2


# --- in from the device ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_from_the_device_a_pods_packet_is_delivered(net: Lab, family: int) -> None:
    got = net.from_netdev(ip(family, REMOTE[family], A[family]) / TCP(sport=4000, dport=80, flags="S"))
    assert got.verdict == REDIRECT
    assert (got.packet.dst, got.packet.src) == (POD_MAC, HOST_MAC)
    key, row = only_row(net)
    assert began(key, row) == ip_address(REMOTE[family])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("port", [22, 1024, 29999, 65535])
def test_from_the_device_the_nodes_own_packets_pass_untracked(net: Lab, family: int, port: int) -> None:
    for layer in (TCP(sport=4000, dport=port, flags="S"), UDP(sport=4000, dport=port), echo(family)):
        assert net.from_netdev(ip(family, OUTSIDE[family], NODE[family]) / layer).verdict == OK
    assert rows(net) == {}


@pytest.mark.parametrize(
    "frame",
    [
        Ether() / ARP(pdst=NODE[4]),
        ip(6, "2001:db8::1", "ff02::1:ff00:10") / ICMPv6ND_NS(tgt=NODE[6]),
        ip(4, OUTSIDE[4], "198.51.100.1") / UDP(sport=1, dport=2),
        ip(4, OUTSIDE[4], NODE[4], ihl=4) / UDP(sport=1, dport=2),
        Ether(type=0x88CC) / Raw(b"x" * 60),
    ],
    ids=["arp", "neighbour solicitation", "forwarded elsewhere", "malformed", "not ip"],
)
def test_from_the_device_what_is_not_for_a_pod_is_the_hosts(net: Lab, frame: Packet) -> None:
    assert net.from_netdev(frame).verdict == OK


# --- masquerade -----------------------------------------------------------------------------------------------------------------

LAYERS = {
    "tcp": lambda family: TCP(sport=4000, dport=443, flags="S"),
    "udp": lambda family: UDP(sport=4000, dport=53) / b"query",
    "echo": lambda family: echo(family, 4000) / Raw(b"ping"),
}


def ports(packet: Packet) -> tuple[int, int]:
    for layer in (TCP, UDP):
        if layer in packet:
            return packet[layer].sport, packet[layer].dport
    for layer in (ICMP, ICMPv6EchoRequest, ICMPv6EchoReply):
        if layer in packet:
            return packet[layer].id, packet[layer].id
    raise AssertionError("no ports")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", LAYERS)
def test_masquerading_there_and_back(net: Lab, family: int, kind: str) -> None:
    out = net.from_pod(ip(family, A[family], OUTSIDE[family]) / LAYERS[kind](family))
    assert (out.verdict, out.ip.src, out.ip.dst) == (REDIRECT, NODE[family], OUTSIDE[family])
    port = ports(out.packet)[0]
    assert port in PORTS
    assert checksums_hold(out.packet)

    reply = {
        "tcp": TCP(sport=443, dport=port, flags="SA"),
        "udp": UDP(sport=53, dport=port) / b"answer",
        "echo": echo_reply(family, port) / Raw(b"ping"),
    }[kind]
    back = net.from_netdev(ip(family, OUTSIDE[family], NODE[family]) / reply)
    assert (back.verdict, back.ip.src, back.ip.dst) == (REDIRECT, OUTSIDE[family], A[family])
    assert ports(back.packet)[1] == 4000
    assert checksums_hold(back.packet)
    _, row = only_row(net)
    assert row.state is ConntrackState.ESTABLISHED
    again = net.from_pod(ip(family, A[family], OUTSIDE[family]) / LAYERS[kind](family))
    assert ports(again.packet)[0] == port


def test_a_udp_checksum_of_zero_stays_zero(net: Lab) -> None:
    out = net.from_pod(ip(4, A[4], OUTSIDE[4]) / UDP(sport=4000, dport=53, chksum=0) / b"x")
    assert (out.ip.src, out.packet[UDP].chksum) == (NODE[4], 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_pods_with_one_port_get_two(net: Lab, family: int) -> None:
    seen = set()
    for pod, addresses in (("a", A), ("b", B)):
        for port in range(4000, 4400):
            out = net.from_pod(ip(family, addresses[family], OUTSIDE[family]) / UDP(sport=port, dport=53), pod)
            seen.add(out.packet[UDP].sport)
    assert len(seen) == 800


def test_a_port_is_taken_per_far_end_only(net: Lab) -> None:
    """More flows than ports in all, towards three far ends."""
    for far in ("198.18.1.1", "198.18.1.2", "198.18.1.3"):
        for port in range(10000, 12000):
            assert net.from_pod(ip(4, A[4], far) / UDP(sport=port, dport=53)).verdict == REDIRECT


FEW_PORTS = range(2000, 2064)


def take_ports(net: Lab, ports: Iterable[int], protocol: int, state: ConntrackState, age: int = 0) -> None:
    """Flows of the other pod to the far end's port 53 that have these ports."""
    far, node, other = (ip_address(each[4]) for each in (OUTSIDE, NODE, B))
    row = ConntrackRow(max(0, clock(time.monotonic_ns()) - age), state, ConntrackFlag(0), 0, None, 0, 0)
    net.datapath.masquerade.put_many([(FlowKey(far, 53, node, port, protocol), MasqueradeRow(other, port)) for port in ports])
    net.datapath.conntrack.put_many([(FlowKey(far, 53, other, port, protocol), replace(row, masquerade_port=port)) for port in ports])


def test_ports_used_up_are_said_and_counted() -> None:
    sent = ip(4, A[4], OUTSIDE[4]) / UDP(sport=4000, dport=53)
    with lab(masquerade_ports=FEW_PORTS) as net:
        take_ports(net, FEW_PORTS, 17, ConntrackState.ESTABLISHED)
        with counted(net, DropReason.MASQUERADE_EXHAUSTED, DropDirection.FROM_POD):
            assert net.from_pod(sent).verdict == SHOT
        # The ports of flows that are over are free.
        take_ports(net, FEW_PORTS, 17, ConntrackState.ESTABLISHED, age=1000)
        assert net.from_pod(sent).packet[UDP].sport in FEW_PORTS


def test_the_port_of_a_closed_connection_is_given_away_when_there_is_no_other() -> None:
    with lab(masquerade_ports=FEW_PORTS) as net:
        take_ports(net, FEW_PORTS[::2], 6, ConntrackState.CLOSED)
        for port in range(4000, 4010):
            assert net.from_pod(ip(4, A[4], OUTSIDE[4]) / TCP(sport=port, dport=53, flags="S")).packet[TCP].sport in FEW_PORTS[1::2]
        take_ports(net, FEW_PORTS, 6, ConntrackState.CLOSED)
        given = net.from_pod(ip(4, A[4], OUTSIDE[4]) / TCP(sport=5000, dport=53, flags="S")).packet[TCP].sport
        assert given in FEW_PORTS
        back = net.from_netdev(ip(4, OUTSIDE[4], NODE[4]) / TCP(sport=53, dport=given, flags="SA"))
        assert (back.verdict, back.ip.dst, back.packet[TCP].dport) == (REDIRECT, A[4], 5000)
        # What still comes of the closed one is not sent in the new one's name.
        late = net.from_pod(ip(4, B[4], OUTSIDE[4]) / TCP(sport=given, dport=53, flags="A"), "b")
        assert late.verdict == SHOT or late.packet[TCP].sport != given


@pytest.mark.parametrize("state", [ConntrackState.ESTABLISHED, ConntrackState.HALF_CLOSED])
def test_the_port_of_a_connection_that_goes_on_is_never_given_away(state: ConntrackState) -> None:
    with lab(masquerade_ports=FEW_PORTS) as net:
        take_ports(net, FEW_PORTS, 6, state)
        with counted(net, DropReason.MASQUERADE_EXHAUSTED, DropDirection.FROM_POD):
            assert net.from_pod(ip(4, A[4], OUTSIDE[4]) / TCP(sport=5000, dport=53, flags="S")).verdict == SHOT


def test_one_address_may_have_as_many_connections_as_there_are_ports() -> None:
    """What is apart stays apart: none is refused before all ports are taken."""
    with lab(masquerade_ports=FEW_PORTS) as net:
        sent = [ip(4, A[4], OUTSIDE[4]) / UDP(sport=32768 + number, dport=53) for number in range(len(FEW_PORTS))]
        assert {net.from_pod(each).packet[UDP].sport for each in sent} == set(FEW_PORTS)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_masquerade_rows_say_so_and_the_pod_shows_itself(net: Lab, family: int) -> None:
    aside = {4: "198.18.9.0/24", 6: "2001:db8:99::/64"}[family]
    target = {4: "198.18.9.9", 6: "2001:db8:99::9"}[family]
    net.datapath.routes.put(ip_network(aside), Route(RouteKind.NOT_MASQUERADED))
    out = net.from_pod(ip(family, A[family], target) / UDP(sport=4000, dport=53))
    assert (out.verdict, out.ip.src, out.packet[UDP].sport) == (REDIRECT, A[family], 4000)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reply_to_an_outside_that_began_is_not_masqueraded(net: Lab, family: int) -> None:
    net.from_netdev(ip(family, OUTSIDE[family], A[family]) / TCP(sport=4000, dport=80, flags="S"))
    out = net.from_pod(ip(family, A[family], OUTSIDE[family]) / TCP(sport=80, dport=4000, flags="SA"))
    assert (out.verdict, out.ip.src, out.packet[TCP].sport) == (REDIRECT, A[family], 80)


@pytest.mark.parametrize("layer", [Raw(b"\0" * 20), ICMP(type=13)], ids=["gre", "timestamp"])
def test_what_has_no_port_to_change_cannot_leave_behind_the_node(net: Lab, layer: Packet) -> None:
    head = ip(4, A[4], OUTSIDE[4], proto=47) if isinstance(layer, Raw) else ip(4, A[4], OUTSIDE[4])
    with counted(net, DropReason.UNSUPPORTED_PROTOCOL, DropDirection.FROM_POD):
        assert net.from_pod(head / layer).verdict == SHOT


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_hosts_stack_forwards_for_a_pod_is_masqueraded_at_the_device(net: Lab, family: int) -> None:
    sent = ip(family, A[family], OUTSIDE[family]) / UDP(sport=4000, dport=53) / b"x"
    for _ in range(2):  # a new flow, and a known one
        out = net.run("to_netdev", sent)
        assert (out.verdict, out.ip.src) == (OK, NODE[family])
        assert out.packet[UDP].sport in PORTS
        assert checksums_hold(out.packet)
    handled = net.run("to_netdev", sent, mark=MARK_HANDLED)
    assert bytes(handled.packet) == bytes(sent)


@pytest.mark.parametrize("family", FAMILIES)
def test_at_the_device_only_pods_are_masqueraded(net: Lab, family: int) -> None:
    for source, target in ((NODE, OUTSIDE), (OUTSIDE, GATEWAY), (A, REMOTE)):
        sent = ip(family, source[family], target[family]) / UDP(sport=4000, dport=53)
        out = net.run("to_netdev", sent)
        assert (out.verdict, bytes(out.packet)) == (OK, bytes(sent))


@pytest.mark.parametrize("family", FAMILIES)
def test_masquerade_switched_off(family: int) -> None:
    with lab(masquerade=False) as net:
        out = net.from_pod(ip(family, A[family], OUTSIDE[family]) / UDP(sport=4000, dport=53))
        assert (out.verdict, out.ip.src) == (REDIRECT, A[family])


# --- services -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("protocol", "kind"), [(6, TCP), (17, UDP)])
@pytest.mark.parametrize("backend", [B, REMOTE, NODE, OTHER_NODE, OUTSIDE], ids=["local", "remote", "this-node", "other-node", "outside"])
def test_a_service_there_and_back(net: Lab, family: int, protocol: int, kind: type[Packet], backend: dict[int, str]) -> None:
    net.service(VIP[family], 80, protocol, (backend[family], 8080))
    flags = {"flags": "S"} if kind is TCP else {}
    out = net.from_pod(ip(family, A[family], VIP[family]) / kind(sport=4000, dport=80, **flags) / b"x")
    assert out.verdict == (OK if backend is NODE else REDIRECT)
    assert (out.ip.dst, out.packet[kind].dport) == (backend[family], 8080)
    assert checksums_hold(out.packet)
    source, port = out.ip.src, out.packet[kind].sport
    assert source == (NODE[family] if backend is OUTSIDE else A[family])

    flags = {"flags": "SA"} if kind is TCP else {}
    reply = ip(family, backend[family], source) / kind(sport=8080, dport=port, **flags) / b"y"
    if backend is B:
        back = net.from_pod(reply, "b")
    elif backend is NODE:
        back = net.run("to_pod", reply, ifindex=net.pods["a"])
    else:
        back = net.from_netdev(reply)
    assert (back.ip.src, back.ip.dst) == (VIP[family], A[family])
    assert (back.packet[kind].sport, back.packet[kind].dport) == (80, 4000)
    assert checksums_hold(back.packet)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pod_that_is_its_own_backend_sees_another_source(net: Lab, family: int) -> None:
    net.service(VIP[family], 80, 6, (A[family], 8080))
    out = net.from_pod(ip(family, A[family], VIP[family]) / TCP(sport=4000, dport=80, flags="S"))
    hairpin = {4: "169.254.1.1", 6: "fd61:6e65:7464::1"}[family]
    assert (out.verdict, out.ip.src, out.ip.dst) == (REDIRECT, hairpin, A[family])
    assert checksums_hold(out.packet)
    back = net.from_pod(ip(family, A[family], hairpin) / TCP(sport=8080, dport=4000, flags="SA"))
    assert (back.verdict, back.ip.src, back.ip.dst) == (REDIRECT, VIP[family], A[family])
    assert (back.packet[TCP].sport, back.packet[TCP].dport) == (80, 4000)
    assert checksums_hold(back.packet)


def test_a_connection_stays_with_its_backend(net: Lab) -> None:
    net.service(VIP[4], 80, 6, (B[4], 1), (B[4], 2), (B[4], 3), (B[4], 4))
    chosen = set()
    for port in range(4000, 4064):
        first = net.from_pod(ip(4, A[4], VIP[4]) / TCP(sport=port, dport=80, flags="S")).packet[TCP].dport
        chosen.add(first)
        for flags in ("A", "PA", "FA"):
            assert net.from_pod(ip(4, A[4], VIP[4]) / TCP(sport=port, dport=80, flags=flags)).packet[TCP].dport == first
    assert chosen == {1, 2, 3, 4}


def test_a_datagram_leaves_a_backend_that_is_gone_and_a_connection_does_not(net: Lab) -> None:
    for protocol, layer in ((6, TCP(sport=4000, dport=80, flags="S")), (17, UDP(sport=4000, dport=80))):
        net.service(VIP[4], 80, protocol, (B[4], 8080), id_=protocol)
        assert net.from_pod(ip(4, A[4], VIP[4]) / layer).ip.dst == B[4]
        net.datapath.backends.delete(protocol * 100)
        net.service(VIP[4], 80, protocol, (REMOTE[4], 8080), id_=protocol + 1)
    kept = net.from_pod(ip(4, A[4], VIP[4]) / TCP(sport=4000, dport=80, flags="A"))
    moved = net.from_pod(ip(4, A[4], VIP[4]) / UDP(sport=4000, dport=80))
    assert (kept.ip.dst, moved.ip.dst) == (B[4], REMOTE[4])


def test_a_new_connection_on_old_ports_chooses_anew(net: Lab) -> None:
    net.service(VIP[4], 80, 6, (B[4], 8080))
    net.from_pod(ip(4, A[4], VIP[4]) / TCP(sport=4000, dport=80, flags="S"))
    net.from_pod(ip(4, B[4], A[4]) / TCP(sport=8080, dport=4000, flags="RA"), "b")
    net.service(VIP[4], 80, 6, (REMOTE[4], 8080))
    assert net.from_pod(ip(4, A[4], VIP[4]) / TCP(sport=4000, dport=80, flags="S")).ip.dst == REMOTE[4]


def test_two_services_with_one_backend_and_one_client_port_do_not_mix(net: Lab) -> None:
    other = "198.19.96.2"
    net.service(VIP[4], 80, 6, (B[4], 8080), id_=1)
    net.service(other, 80, 6, (B[4], 8080), id_=2)
    syn = TCP(sport=4000, dport=80, flags="S")
    assert net.from_pod(ip(4, A[4], VIP[4]) / syn).verdict == REDIRECT
    with counted(net, DropReason.SERVICE_COLLISION, DropDirection.FROM_POD):
        assert net.from_pod(ip(4, A[4], other) / syn).verdict == SHOT
    net.service(other, 80, 6, (B[4], 8080), (REMOTE[4], 8080), id_=2)
    assert net.from_pod(ip(4, A[4], other) / syn).ip.dst == REMOTE[4]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [TCP(sport=4000, dport=80, flags="S"), UDP(sport=4000, dport=80) / b"a question"], ids=["tcp", "udp"])
@pytest.mark.parametrize("port", [80, 81], ids=["no-endpoints", "no-such-port"])
def test_nobody_there_is_said_at_once(net: Lab, family: int, layer: Packet, port: int) -> None:
    """By an ICMP error from the service's address, back to the pod."""
    net.belongs_to_a_service(VIP[family])
    for protocol in (6, 17):
        net.service(VIP[family], port, protocol, id_=protocol)
    with counted(net, DropReason.NO_BACKEND, DropDirection.FROM_POD):
        got = net.from_pod(ip(family, A[family], VIP[family]) / layer)
    assert (got.verdict, got.ip.src, got.ip.dst, got.packet.dst) == (REDIRECT, VIP[family], A[family], POD_MAC)
    error = got.packet[ICMP] if family == 4 else got.packet[ICMPv6DestUnreach]
    assert (error.type, error.code) == ((3, 3) if family == 4 else (1, 4))
    cited = got.packet[IPerror] if family == 4 else got.packet[IPerror6]
    assert (cited.src, cited.dst) == (A[family], VIP[family])
    inner = got.packet[TCPerror] if layer.name == "TCP" else got.packet[UDPerror]
    assert (inner.sport, inner.dport) == (4000, 80)
    assert checksums_hold(got.packet)
    assert rows(net) == {}


# --- ICMP errors ----------------------------------------------------------------------------------------------------------------


def too_big(family: int, sender: str, to: str, cited: Packet) -> Packet:
    error = ICMP(type=3, code=4, nexthopmtu=1300) if family == 4 else ICMPv6PacketTooBig(mtu=1300)
    return ip(family, sender, to) / error / cited.getlayer(1)


def cited_of(packet: Packet) -> tuple[Packet, Packet]:
    network = packet[IPerror] if IPerror in packet else packet[IPerror6]
    for layer in (TCPerror, UDPerror, ICMPerror, ICMPv6EchoRequest):
        if layer in packet:
            return network, packet[layer]
    raise AssertionError(packet)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", LAYERS)
def test_an_error_about_a_masqueraded_packet_finds_its_pod(net: Lab, family: int, kind: str) -> None:
    out = net.from_pod(ip(family, A[family], OUTSIDE[family]) / LAYERS[kind](family))
    got = net.from_netdev(too_big(family, GATEWAY[family], NODE[family], out.packet))
    assert (got.verdict, got.ip.src, got.ip.dst) == (REDIRECT, GATEWAY[family], A[family])
    network, transport = cited_of(got.packet)
    assert (network.src, network.dst) == (A[family], OUTSIDE[family])
    assert (transport.id if kind == "echo" else transport.sport) == 4000
    assert checksums_hold(got.packet)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_error_about_the_nodes_own_packet_is_the_nodes(net: Lab, family: int) -> None:
    cited = ip(family, NODE[family], OUTSIDE[family]) / TCP(sport=61234, dport=443)
    sent = too_big(family, GATEWAY[family], NODE[family], cited)
    got = net.from_netdev(sent)
    assert (got.verdict, bytes(got.packet)) == (OK, bytes(sent))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("backend", [REMOTE, OUTSIDE], ids=["remote", "outside"])
def test_an_error_about_a_services_packet_names_the_service(net: Lab, family: int, backend: dict[int, str]) -> None:
    net.service(VIP[family], 80, 6, (backend[family], 8080))
    out = net.from_pod(ip(family, A[family], VIP[family]) / TCP(sport=4000, dport=80, flags="S"))
    got = net.from_netdev(too_big(family, backend[family], out.ip.src, out.packet))
    network, transport = cited_of(got.packet)
    assert (got.verdict, got.ip.src, got.ip.dst) == (REDIRECT, VIP[family], A[family])
    assert (network.src, network.dst, transport.sport, transport.dport) == (A[family], VIP[family], 4000, 80)
    assert checksums_hold(got.packet)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_error_of_the_hosts_own_stack_names_the_service_too(net: Lab, family: int) -> None:
    net.service(VIP[family], 80, 6, (REMOTE[family], 8080))
    out = net.from_pod(ip(family, A[family], VIP[family]) / TCP(sport=4000, dport=80, flags="S"))
    got = net.run("to_pod", too_big(family, NODE[family], A[family], out.packet), ifindex=net.pods["a"])
    network, transport = cited_of(got.packet)
    assert (got.verdict, got.ip.src) == (OK, NODE[family])
    assert (network.dst, transport.dport) == (VIP[family], 80)
    assert checksums_hold(got.packet)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_backends_error_reaches_the_client_under_the_services_name(net: Lab, family: int) -> None:
    """A closed UDP port: the client's socket knows the service's address only."""
    net.service(VIP[family], 53, 17, (B[family], 5353))
    out = net.from_pod(ip(family, A[family], VIP[family]) / UDP(sport=4000, dport=53) / b"query")
    error = ICMP(type=3, code=3) if family == 4 else ICMPv6DestUnreach(code=4)
    got = net.from_pod(ip(family, B[family], A[family]) / error / out.packet.getlayer(1), "b")
    network, transport = cited_of(got.packet)
    assert (got.verdict, got.ip.src, got.ip.dst) == (REDIRECT, VIP[family], A[family])
    assert (network.dst, transport.dport) == (VIP[family], 53)
    assert checksums_hold(got.packet)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_clients_error_about_an_answer_reaches_the_far_end_as_from_the_node(net: Lab, family: int) -> None:
    """The client has gone; through service translation and masquerade alike."""
    net.service(VIP[family], 53, 17, (OUTSIDE[family], 5353))
    out = net.from_pod(ip(family, A[family], VIP[family]) / UDP(sport=4000, dport=53) / b"query")
    answer = ip(family, VIP[family], A[family]) / UDP(sport=53, dport=4000) / b"answer"
    error = ICMP(type=3, code=3) if family == 4 else ICMPv6DestUnreach(code=4)
    got = net.from_pod(ip(family, A[family], VIP[family]) / error / answer.getlayer(1))
    network, transport = cited_of(got.packet)
    assert (got.ip.src, got.ip.dst) == (NODE[family], OUTSIDE[family])
    assert (network.src, network.dst, transport.sport, transport.dport) == (OUTSIDE[family], NODE[family], 5353, out.packet[UDP].sport)
    assert checksums_hold(got.packet)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_error_about_nothing_known_does_not_leave_under_the_pods_address(net: Lab, family: int) -> None:
    cited = ip(family, OUTSIDE[family], A[family]) / UDP(sport=1, dport=2)
    error = ICMP(type=3, code=3) if family == 4 else ICMPv6DestUnreach(code=4)
    assert net.from_pod(ip(family, A[family], OUTSIDE[family]) / error / cited.getlayer(1)).verdict == SHOT


# --- fragments ------------------------------------------------------------------------------------------------------------------


def pieces(family: int, source: str, target: str, layer: Packet, identifier: int) -> tuple[Packet, Packet]:
    """The first and a later fragment of a datagram of 1600 bytes."""
    whole = bytes(ip(family, source, target) / layer / Raw(b"x" * 1600))[34 if family == 4 else 54 :]
    if family == 4:
        protocol = {"UDP": 17, "ICMP": 1}[layer.name]
        first = ip(4, source, target, id=identifier, flags="MF", proto=protocol) / Raw(whole[:800])
        return first, ip(4, source, target, id=identifier, frag=100, proto=protocol) / Raw(whole[800:])
    protocol = 17 if layer.name == "UDP" else 58
    first = ip(6, source, target) / IPv6ExtHdrFragment(id=identifier, offset=0, m=1, nh=protocol) / Raw(whole[:800])
    return first, ip(6, source, target) / IPv6ExtHdrFragment(id=identifier, offset=100, m=0, nh=protocol) / Raw(whole[800:])


@pytest.mark.parametrize("family", FAMILIES)
def test_later_fragments_follow_the_first_out_of_a_pod(either: Lab, family: int) -> None:
    first, later = pieces(family, A[family], REMOTE[family], UDP(sport=4000, dport=53), 11)
    assert either.from_pod(first).verdict == REDIRECT
    assert either.from_pod(later).verdict == REDIRECT
    assert len(rows(either)) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fragment_whose_first_was_not_seen_is_dropped_and_counted(net: Lab, family: int) -> None:
    _, later = pieces(family, A[family], REMOTE[family], UDP(sport=4000, dport=53), 12)
    with counted(net, DropReason.FRAGMENT_WITHOUT_FIRST, DropDirection.FROM_POD):
        assert net.from_pod(later).verdict == SHOT


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["udp", "echo"])
def test_fragments_are_masqueraded_there_and_back(net: Lab, family: int, kind: str) -> None:
    layer = UDP(sport=4000, dport=53) if kind == "udp" else echo(family, 4000)
    out = [net.from_pod(piece) for piece in pieces(family, A[family], OUTSIDE[family], layer, 13)]
    assert [(piece.verdict, piece.ip.src) for piece in out] == [(REDIRECT, NODE[family])] * 2
    ((outside, _),) = net.datapath.masquerade.items()
    answer = UDP(sport=53, dport=outside.b_port) if kind == "udp" else echo_reply(family, outside.b_port)
    back = [net.from_netdev(piece) for piece in pieces(family, OUTSIDE[family], NODE[family], answer, 14)]
    assert [(piece.verdict, piece.ip.dst) for piece in back] == [(REDIRECT, A[family])] * 2


@pytest.mark.parametrize("family", FAMILIES)
def test_fragments_to_a_service_go_to_one_backend_and_their_answers_come_from_the_service(net: Lab, family: int) -> None:
    net.service(VIP[family], 53, 17, (B[family], 5353), (REMOTE[family], 5353))
    out = [net.from_pod(piece) for piece in pieces(family, A[family], VIP[family], UDP(sport=4000, dport=53), 15)]
    backend = out[0].ip.dst
    assert [piece.ip.dst for piece in out] == [backend] * 2
    answers = pieces(family, backend, A[family], UDP(sport=5353, dport=4000), 16)
    back = [net.from_pod(piece, "b") if backend == B[family] else net.from_netdev(piece) for piece in answers]
    assert [piece.ip.src for piece in back] == [VIP[family]] * 2


@pytest.mark.parametrize("family", FAMILIES)
def test_the_nodes_own_fragments_pass_and_are_not_remembered(net: Lab, family: int) -> None:
    for piece in pieces(family, OUTSIDE[family], NODE[family], UDP(sport=4000, dport=53), 17):
        assert net.from_netdev(piece).verdict == OK
    assert list(net.datapath.fragments.items()) == []


# --- the tunnel -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_out_of_the_tunnel_to_a_pod(vxlan: Lab, family: int) -> None:
    vxlan.forget()
    got = vxlan.run("from_overlay", ip(family, REMOTE[family], A[family]) / TCP(sport=4000, dport=80, flags="S"))
    assert got.verdict == REDIRECT
    _, row = only_row(vxlan)
    assert row.flags & ConntrackFlag.VIA_TUNNEL


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reply_to_a_node_goes_back_through_the_tunnel_it_came_by(vxlan: Lab, family: int) -> None:
    vxlan.forget()
    vxlan.run("from_overlay", ip(family, OTHER_NODE[family], A[family]) / TCP(sport=4000, dport=80, flags="S"))
    out = vxlan.from_pod(ip(family, A[family], OTHER_NODE[family]) / TCP(sport=80, dport=4000, flags="SA"))
    assert (out.verdict, out.ip.src) == (REDIRECT, A[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_into_the_tunnel_goes_only_what_has_a_far_end(vxlan: Lab, family: int) -> None:
    assert vxlan.run("to_overlay", ip(family, NODE[family], REMOTE[family]) / UDP(sport=1, dport=2)).verdict == OK
    with counted(vxlan, DropReason.NO_TUNNEL, DropDirection.TO_OVERLAY):
        assert vxlan.run("to_overlay", ip(family, NODE[family], OUTSIDE[family]) / UDP(sport=1, dport=2)).verdict == SHOT


@pytest.mark.parametrize("family", FAMILIES)
def test_out_of_the_tunnel_what_is_not_for_a_pod_is_the_hosts(vxlan: Lab, family: int) -> None:
    assert vxlan.run("from_overlay", ip(family, REMOTE[family], NODE[family]) / TCP(sport=80, dport=4000, flags="SA")).verdict == OK
