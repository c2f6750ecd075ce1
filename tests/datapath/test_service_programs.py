"""Services in single programs: clients outside, clients on the node, and what pods' own frontends ask for. No traffic, no time to wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, TCPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6PacketTooBig,
    IPerror6,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import ARP, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from agent.datapath.abi import (
    ANY_IPV4,
    ANY_IPV6,
    MAGLEV_SIZE,
    MASQUERADE_PORTS,
    AffinityKey,
    AffinityRow,
    DropDirection,
    DropReason,
    FrontendFlag,
    FrontendScope,
    SourceRange,
    clock,
)

from .lab import (
    DEVICE_MAC,
    GATEWAY,
    NODE,
    OK,
    OTHER_NODE,
    OUTSIDE,
    POD_MAC,
    REDIRECT,
    REMOTE,
    SHOT,
    VIP,
    A,
    B,
    Lab,
    Result,
    checksums_hold,
    ip,
    lab,
)

FAMILIES = (4, 6)
ANY = {4: str(ANY_IPV4), 6: str(ANY_IPV6)}
BALANCER = {4: "198.19.0.200", 6: "2001:db8::c8"}
NODE_PORT = 30080
SYN = TCP(sport=4000, dport=NODE_PORT, flags="S")
KINDS = pytest.mark.parametrize(("protocol", "kind"), [(6, TCP), (17, UDP)], ids=["tcp", "udp"])
BY_FAMILY = pytest.mark.parametrize("family", FAMILIES)


def node_port(net: Lab, family: int, protocol: int, *backends: tuple[str, int], **fields: object) -> None:
    net.service(ANY[family], NODE_PORT, protocol, *backends, scope=FrontendScope.NODE_PORT, **fields)


def begin(kind: type[Packet], sport: int = 4000, dport: int = NODE_PORT) -> Packet:
    return kind(sport=sport, dport=dport, **({"flags": "S"} if kind is TCP else {})) / b"x"


def reply(kind: type[Packet], sport: int, dport: int) -> Packet:
    return kind(sport=sport, dport=dport, **({"flags": "SA"} if kind is TCP else {})) / b"y"


def ends(result: Result, kind: type[Packet]) -> tuple[str, int, str, int]:
    return result.ip.src, result.packet[kind].sport, result.ip.dst, result.packet[kind].dport


def dropped(net: Lab, reason: DropReason, direction: DropDirection, result: Result) -> bool:
    """Dropped without a word, for that reason. The lab counts from its start: one test asks once."""
    return result.verdict == SHOT and net.dropped(reason, direction) > 0


def unreachable(result: Result, family: int, code: tuple[int, int]) -> Packet:
    error = result.packet[ICMP] if family == 4 else result.packet[ICMPv6DestUnreach]
    assert (error.type, error.code) == ((3, code[0]) if family == 4 else (1, code[1]))
    assert checksums_hold(result.packet)
    return error


PORT_UNREACHABLE, HOST_UNREACHABLE = (3, 4), (1, 3)


# --- from outside ---------------------------------------------------------------------------------------------------------------


@BY_FAMILY
@KINDS
@pytest.mark.parametrize("at", [NODE, BALANCER], ids=["node-port", "balancer"])
def test_a_local_backend_sees_the_client_and_answers_as_the_frontend(
    either: Lab, family: int, protocol: int, kind: type[Packet], at: dict[int, str]
) -> None:
    if at is NODE:
        node_port(either, family, protocol, (A[family], 8080))
    else:
        either.service(BALANCER[family], NODE_PORT, protocol, (A[family], 8080))
    into = either.from_netdev(ip(family, OUTSIDE[family], at[family]) / begin(kind))
    assert (into.verdict, *ends(into, kind)) == (REDIRECT, OUTSIDE[family], 4000, A[family], 8080)
    assert into.packet.dst == POD_MAC
    assert checksums_hold(into.packet)
    back = either.from_pod(ip(family, A[family], OUTSIDE[family]) / reply(kind, 8080, 4000))
    assert (back.verdict, *ends(back, kind)) == (REDIRECT, at[family], NODE_PORT, OUTSIDE[family], 4000)
    assert checksums_hold(back.packet)


@BY_FAMILY
@KINDS
@pytest.mark.parametrize("at", [NODE, BALANCER], ids=["node-port", "balancer"])
def test_another_nodes_backend_sees_this_node_and_its_answer_comes_back_through_it(
    either: Lab, family: int, protocol: int, kind: type[Packet], at: dict[int, str]
) -> None:
    if at is NODE:
        node_port(either, family, protocol, (REMOTE[family], 8080))
    else:
        either.service(BALANCER[family], NODE_PORT, protocol, (REMOTE[family], 8080))
    out = either.from_netdev(ip(family, OUTSIDE[family], at[family]) / begin(kind))
    source, port, *target = ends(out, kind)
    assert (out.verdict, source, target) == (REDIRECT, NODE[family], [REMOTE[family], 8080])
    assert port in MASQUERADE_PORTS
    assert checksums_hold(out.packet)
    by = "from_overlay" if either.datapath.config.overlay_ifindex else "from_netdev"
    back = either.run(by, ip(family, REMOTE[family], NODE[family]) / reply(kind, 8080, port))
    assert (back.verdict, *ends(back, kind)) == (REDIRECT, at[family], NODE_PORT, OUTSIDE[family], 4000)
    assert checksums_hold(back.packet)
    again = either.from_netdev(
        ip(family, OUTSIDE[family], at[family]) / kind(sport=4000, dport=NODE_PORT, **({"flags": "A"} if kind is TCP else {}))
    )
    assert ends(again, kind) == (NODE[family], port, REMOTE[family], 8080)


@BY_FAMILY
def test_two_clients_with_one_port_stay_apart_behind_the_node(net: Lab, family: int) -> None:
    node_port(net, family, 17, (REMOTE[family], 53))
    clients = {OUTSIDE[family], GATEWAY[family]}
    ports = {}
    for client in clients:
        out = net.from_netdev(ip(family, client, NODE[family]) / begin(UDP))
        ports[out.packet[UDP].sport] = client
    assert set(ports.values()) == clients
    for port, client in ports.items():
        assert net.from_netdev(ip(family, REMOTE[family], NODE[family]) / reply(UDP, 53, port)).ip.dst == client


@BY_FAMILY
@KINDS
def test_a_backend_in_the_nodes_own_namespace_is_reached_by_the_hosts_stack(
    either: Lab, family: int, protocol: int, kind: type[Packet]
) -> None:
    node_port(either, family, protocol, (NODE[family], 8080))
    into = either.from_netdev(ip(family, OUTSIDE[family], NODE[family]) / begin(kind))
    assert (into.verdict, *ends(into, kind)) == (OK, OUTSIDE[family], 4000, NODE[family], 8080)
    back = either.run("to_netdev", ip(family, NODE[family], OUTSIDE[family]) / reply(kind, 8080, 4000))
    assert (back.verdict, *ends(back, kind)) == (OK, NODE[family], NODE_PORT, OUTSIDE[family], 4000)
    assert checksums_hold(back.packet)


@BY_FAMILY
def test_outside_and_inside_have_groups_of_their_own(net: Lab, family: int) -> None:
    net.group(2, 6, (A[family], 8080))
    node_port(net, family, 6, (REMOTE[family], 8080), id_=1, outside_id=2, outside_count=1)
    assert net.from_netdev(ip(family, OUTSIDE[family], NODE[family]) / SYN).ip.dst == A[family]
    assert net.from_pod(ip(family, B[family], NODE[family]) / SYN, "b").ip.dst == REMOTE[family]
    net.service(BALANCER[family], NODE_PORT, 6, (REMOTE[family], 8080), id_=1, outside_id=2, outside_count=1)
    assert net.from_netdev(ip(family, REMOTE[family], BALANCER[family]) / SYN).ip.dst == REMOTE[family]


@BY_FAMILY
@KINDS
def test_under_policy_local_another_nodes_port_is_left_to_that_node(net: Lab, family: int, protocol: int, kind: type[Packet]) -> None:
    net.group(2, protocol, (A[family], 8080))
    node_port(net, family, protocol, (A[family], 8080), id_=1, outside_id=2, outside_count=1)
    for run, client in (("from_pod", A), ("to_netdev", NODE)):
        sent = ip(family, client[family], OTHER_NODE[family]) / begin(kind)
        got = net.from_pod(sent) if run == "from_pod" else net.run(run, sent)
        assert ends(got, kind) == (client[family], 4000, OTHER_NODE[family], NODE_PORT), "as it was sent"
    into = net.from_netdev(ip(family, REMOTE[family], NODE[family]) / begin(kind))
    assert (into.verdict, *ends(into, kind)) == (REDIRECT, REMOTE[family], 4000, A[family], 8080), "with its own address"


@BY_FAMILY
def test_another_nodes_pod_finds_no_backend_elsewhere_at_a_node_port_under_policy_local(net: Lab, family: int) -> None:
    node_port(net, family, 6, (REMOTE[family], 8080), outside_id=2, flags=FrontendFlag.DROP_OUTSIDE)
    got = net.from_netdev(ip(family, REMOTE[family], NODE[family]) / SYN)
    assert dropped(net, DropReason.NO_LOCAL_BACKEND, DropDirection.FROM_NETDEV, got)


@BY_FAMILY
def test_without_endpoints_outside_is_refused_too(net: Lab, family: int) -> None:
    node_port(net, family, 6)
    got = net.from_netdev(ip(family, OUTSIDE[family], NODE[family]) / SYN)
    assert (got.verdict, got.ip.src, got.ip.dst) == (REDIRECT, NODE[family], OUTSIDE[family])
    unreachable(got, family, PORT_UNREACHABLE)


@BY_FAMILY
def test_without_a_local_endpoint_under_policy_local_nothing_is_said(net: Lab, family: int) -> None:
    node_port(net, family, 6, (REMOTE[family], 8080), outside_id=2, flags=FrontendFlag.DROP_OUTSIDE)
    got = net.from_netdev(ip(family, OUTSIDE[family], NODE[family]) / SYN)
    assert dropped(net, DropReason.NO_LOCAL_BACKEND, DropDirection.FROM_NETDEV, got)
    net.service(VIP[family], 80, 6, flags=FrontendFlag.DROP_INSIDE)
    got = net.from_pod(ip(family, A[family], VIP[family]) / TCP(sport=4000, dport=80, flags="S"))
    assert dropped(net, DropReason.NO_LOCAL_BACKEND, DropDirection.FROM_POD, got)


@BY_FAMILY
def test_the_nodes_own_connections_are_left_alone(net: Lab, family: int) -> None:
    node_port(net, family, 6, (A[family], 8080))
    for flags, port in (("S", 22), ("A", 22), ("A", NODE_PORT)):
        sent = ip(family, OUTSIDE[family], NODE[family]) / TCP(sport=4000, dport=port, flags=flags)
        got = net.from_netdev(sent)
        assert (got.verdict, bytes(got.packet)) == (OK, bytes(sent))


@BY_FAMILY
def test_fragments_follow_the_first_to_its_backend(net: Lab, family: int) -> None:
    node_port(net, family, 17, (A[family], 53))
    body = bytes(UDP(sport=4000, dport=NODE_PORT) / Raw(b"x" * 1400))
    sent = pieces(family, OUTSIDE[family], NODE[family], body, at=800)
    assert [net.from_netdev(piece).ip.dst for piece in sent] == [A[family]] * 2


def pieces(family: int, source: str, destination: str, body: bytes, at: int = 1432) -> tuple[Packet, Packet]:
    """A UDP packet in two fragments."""
    if family == 4:
        head = ip(4, source, destination, id=9, proto=17)
        first, later = head.copy(), head.copy()
        first[IP].flags, later[IP].frag = "MF", at // 8
        return first / Raw(body[:at]), later / Raw(body[at:])
    head = ip(6, source, destination)
    first, later = (IPv6ExtHdrFragment(nh=17, id=9, m=m, offset=offset) for m, offset in ((1, 0), (0, at // 8)))
    return head / first / Raw(body[:at]), head / later / Raw(body[at:])


def test_a_packet_too_big_for_the_tunnel_is_answered_before_it_is_translated(vxlan: Lab) -> None:
    vxlan.forget()
    node_port(vxlan, 4, 17, (REMOTE[4], 53))
    node_port(vxlan, 6, 17, (REMOTE[6], 53), id_=2)
    for family in FAMILIES:
        got = vxlan.from_netdev(ip(family, OUTSIDE[family], NODE[family]) / UDP(sport=4000, dport=NODE_PORT) / Raw(b"x" * 1440))
        assert (got.verdict, got.ip.src, got.ip.dst) == (REDIRECT, NODE[family], OUTSIDE[family])
        assert (got.packet[ICMP].nexthopmtu if family == 4 else got.packet[ICMPv6PacketTooBig].mtu) == 1450
        assert checksums_hold(got.packet)


@BY_FAMILY
@pytest.mark.parametrize("backend", [A, REMOTE], ids=["local", "remote"])
def test_the_nodes_own_packet_that_is_too_big_for_a_backend_is_answered_to_the_node(
    vxlan: Lab, family: int, backend: dict[int, str]
) -> None:
    """Of one connection and of another: the row that keeps its choice is there already when the answer comes in by the device."""
    vxlan.forget()
    vxlan.service(VIP[family], 80, 17, (backend[family], 53))
    for port in (4000, 4000, 4001):
        sent = ip(family, NODE[family], VIP[family]) / UDP(sport=port, dport=80) / Raw(b"x" * 1440)
        got = vxlan.run("to_netdev", sent)
        assert (got.verdict, got.ip.src, got.ip.dst) == (REDIRECT, VIP[family], NODE[family])
        assert (got.packet[ICMP].nexthopmtu if family == 4 else got.packet[ICMPv6PacketTooBig].mtu) == 1450
        assert checksums_hold(got.packet)
        back = vxlan.from_netdev(got.packet)
        assert (back.verdict, bytes(back.packet)) == (OK, bytes(got.packet))


@BY_FAMILY
def test_of_a_packet_in_fragments_the_first_is_answered_and_cited_with_its_ports(vxlan: Lab, family: int) -> None:
    vxlan.forget()
    node_port(vxlan, family, 17, (REMOTE[family], 53))
    body = bytes(UDP(sport=4000, dport=NODE_PORT) / Raw(b"x" * 1432))
    first, later = pieces(family, OUTSIDE[family], NODE[family], body)
    got = vxlan.from_netdev(first)
    assert (got.verdict, got.ip.src, got.ip.dst) == (REDIRECT, NODE[family], OUTSIDE[family])
    assert bytes(got.packet).endswith(body[:8])
    assert checksums_hold(got.packet)
    node_port(vxlan, family, 17)
    assert vxlan.from_netdev(first).verdict == REDIRECT
    assert dropped(vxlan, DropReason.NO_BACKEND, DropDirection.FROM_NETDEV, vxlan.from_netdev(later))


@BY_FAMILY
def test_a_clients_error_about_an_answer_reaches_the_backend(net: Lab, family: int) -> None:
    node_port(net, family, 6, (A[family], 8080))
    net.from_netdev(ip(family, OUTSIDE[family], NODE[family]) / SYN)
    answer = ip(family, NODE[family], OUTSIDE[family]) / TCP(sport=NODE_PORT, dport=4000, flags="A")
    error = ICMP(type=3, code=4, nexthopmtu=1300) if family == 4 else ICMPv6PacketTooBig(mtu=1300)
    got = net.from_netdev(ip(family, GATEWAY[family], NODE[family]) / error / answer.getlayer(1))
    cited = got.packet[IPerror] if family == 4 else got.packet[IPerror6]
    assert (got.verdict, got.ip.dst, cited.src, cited.dst) == (REDIRECT, A[family], A[family], OUTSIDE[family])
    assert (got.packet[TCPerror].sport, got.packet[TCPerror].dport) == (8080, 4000)
    assert checksums_hold(got.packet)


@BY_FAMILY
def test_an_error_on_the_way_to_another_nodes_backend_reaches_the_client(net: Lab, family: int) -> None:
    node_port(net, family, 6, (REMOTE[family], 8080))
    out = net.from_netdev(ip(family, OUTSIDE[family], NODE[family]) / SYN)
    error = ICMP(type=3, code=1) if family == 4 else ICMPv6DestUnreach(code=3)
    got = net.from_netdev(ip(family, OTHER_NODE[family], NODE[family]) / error / out.packet.getlayer(1))
    cited = got.packet[IPerror] if family == 4 else got.packet[IPerror6]
    assert (got.verdict, got.ip.dst, cited.src, cited.dst) == (REDIRECT, OUTSIDE[family], OUTSIDE[family], NODE[family])
    assert (got.packet[TCPerror].sport, got.packet[TCPerror].dport) == (4000, NODE_PORT)
    assert checksums_hold(got.packet)


@pytest.fixture(scope="module", params=["native", "vxlan"])
def direct(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with lab(request.param, direct=True, mtu=1450) as found:
        yield found


@BY_FAMILY
@KINDS
def test_with_direct_return_another_nodes_backend_gets_the_packet_as_it_came(
    direct: Lab, family: int, protocol: int, kind: type[Packet]
) -> None:
    direct.forget()
    node_port(direct, family, protocol, (REMOTE[family], 8080), flags=FrontendFlag.MAGLEV)
    direct.datapath.maglev.put(1, (100,) * MAGLEV_SIZE)
    sent = ip(family, OUTSIDE[family], NODE[family]) / begin(kind)
    again = ip(family, OUTSIDE[family], NODE[family]) / kind(sport=4000, dport=NODE_PORT, **({"flags": "A"} if kind is TCP else {}))
    for packet in (sent, again):
        out = direct.from_netdev(packet)
        assert (out.verdict, *ends(out, kind)) == (REDIRECT, OUTSIDE[family], 4000, NODE[family], NODE_PORT)
        assert (out.ip.ttl if family == 4 else out.ip.hlim) == 63
        assert checksums_hold(out.packet)
    direct.datapath.conntrack.clear()  # as after a minute of silence
    assert direct.from_netdev(again).verdict == REDIRECT


@BY_FAMILY
@KINDS
def test_with_direct_return_the_backends_node_translates_and_answers_as_the_first_one(
    direct: Lab, family: int, protocol: int, kind: type[Packet]
) -> None:
    direct.forget()
    node_port(direct, family, protocol, (A[family], 8080), flags=FrontendFlag.MAGLEV)
    direct.datapath.maglev.put(1, (100,) * MAGLEV_SIZE)
    by = "from_overlay" if direct.datapath.config.overlay_ifindex else "from_netdev"
    into = direct.run(by, ip(family, OUTSIDE[family], OTHER_NODE[family]) / begin(kind))
    assert (into.verdict, *ends(into, kind)) == (REDIRECT, OUTSIDE[family], 4000, A[family], 8080)
    back = direct.from_pod(ip(family, A[family], OUTSIDE[family]) / reply(kind, 8080, 4000))
    assert (back.verdict, *ends(back, kind)) == (REDIRECT, OTHER_NODE[family], NODE_PORT, OUTSIDE[family], 4000)


@BY_FAMILY
def test_with_direct_return_affinity_goes_by_the_node_that_remembers_it(direct: Lab, family: int) -> None:
    direct.forget()
    node_port(direct, family, 6, (REMOTE[family], 8080), flags=FrontendFlag.MAGLEV, affinity_timeout=100)
    direct.datapath.maglev.put(1, (100,) * MAGLEV_SIZE)
    for packet in (SYN, TCP(sport=4000, dport=NODE_PORT, flags="A")):
        assert direct.from_netdev(ip(family, OUTSIDE[family], NODE[family]) / packet).ip.src == NODE[family]


# --- by pods --------------------------------------------------------------------------------------------------------------------


@BY_FAMILY
@pytest.mark.parametrize("node", [NODE, OTHER_NODE], ids=["this", "other"])
def test_a_pod_reaches_a_node_port_at_any_node_and_is_seen_as_itself(either: Lab, family: int, node: dict[int, str]) -> None:
    node_port(either, family, 6, (REMOTE[family], 8080))
    got = either.from_pod(ip(family, A[family], node[family]) / SYN)
    assert (got.verdict, *ends(got, TCP)) == (REDIRECT, A[family], 4000, REMOTE[family], 8080)


@BY_FAMILY
def test_a_host_port_is_this_nodes_alone(net: Lab, family: int) -> None:
    net.service(ANY[family], 8000, 6, (B[family], 80), scope=FrontendScope.HOST_PORT)
    syn = TCP(sport=4000, dport=8000, flags="S")
    assert net.from_pod(ip(family, A[family], NODE[family]) / syn).ip.dst == B[family]
    assert net.from_pod(ip(family, A[family], OTHER_NODE[family]) / syn).ip.dst == OTHER_NODE[family]
    into = net.from_netdev(ip(family, OUTSIDE[family], NODE[family]) / syn)
    assert (into.ip.src, into.ip.dst, into.packet[TCP].dport) == (OUTSIDE[family], B[family], 80)


@BY_FAMILY
def test_an_address_that_no_service_has_swallows_and_one_that_has_no_such_port_refuses(net: Lab, family: int) -> None:
    syn = TCP(sport=4000, dport=81, flags="S")
    sent = ip(family, A[family], VIP[family]) / syn
    assert dropped(net, DropReason.NO_SUCH_SERVICE, DropDirection.FROM_POD, net.from_pod(sent))
    net.belongs_to_a_service(VIP[family])
    unreachable(net.from_pod(sent), family, PORT_UNREACHABLE)
    net.belongs_to_a_service(BALANCER[family])
    unreachable(net.from_pod(ip(family, A[family], BALANCER[family]) / syn), family, PORT_UNREACHABLE)
    unreachable(net.from_netdev(ip(family, OUTSIDE[family], BALANCER[family]) / syn), family, PORT_UNREACHABLE)


@BY_FAMILY
@pytest.mark.parametrize("flags", ["A", "PA", "FA"])
def test_a_connection_to_a_pod_that_is_gone_is_reset(net: Lab, family: int, flags: str) -> None:
    missing = {4: "198.19.16.77", 6: "2001:db8:16::77"}[family]
    got = net.from_netdev(ip(family, REMOTE[family], missing) / TCP(sport=4000, dport=80, flags=flags, seq=7, ack=99) / b"abc")
    assert (got.verdict, *ends(got, TCP)) == (REDIRECT, missing, 80, REMOTE[family], 4000)
    assert (got.packet[TCP].flags, got.packet[TCP].seq) == ("R", 99)
    assert checksums_hold(got.packet)


@BY_FAMILY
def test_a_connection_to_a_pod_that_is_gone_is_reset_in_the_services_name(net: Lab, family: int) -> None:
    net.service(VIP[family], 80, 6, (B[family], 8080))
    net.from_pod(ip(family, A[family], VIP[family]) / TCP(sport=4000, dport=80, flags="S"))
    address = ip_address(B[family])
    gone = net.datapath.endpoints.get(address)
    assert gone is not None
    net.datapath.endpoints.delete(address)
    try:
        got = net.from_pod(ip(family, A[family], VIP[family]) / TCP(sport=4000, dport=80, flags="A", ack=5))
        assert (got.verdict, *ends(got, TCP)) == (REDIRECT, VIP[family], 80, A[family], 4000)
        assert got.packet[TCP].flags == "R"
    finally:
        net.datapath.endpoints.put(address, gone)


@BY_FAMILY
@pytest.mark.parametrize("flags", ["A", "PA", "FA"])
@pytest.mark.parametrize("gone", ["endpoints", "port"])
def test_a_connection_to_a_service_that_lost_its_backends_or_its_port_is_reset(net: Lab, family: int, flags: str, gone: str) -> None:
    """The rows of the flow are gone with them; an ICMP error would not end a connection that stands."""
    for address in (VIP, BALANCER):
        net.belongs_to_a_service(address[family])
        if gone == "endpoints":
            net.service(address[family], 80, 6, id_=1 if address is VIP else 2)
    middle = TCP(sport=4000, dport=80, flags=flags, seq=7, ack=99) / b"abc"
    ways = (
        (A, VIP, lambda packet: net.from_pod(packet)),
        (A, BALANCER, lambda packet: net.from_pod(packet)),
        (OUTSIDE, BALANCER, lambda packet: net.from_netdev(packet)),
    )
    for client, at, way in ways:
        got = way(ip(family, client[family], at[family]) / middle)
        assert (got.verdict, *ends(got, TCP)) == (REDIRECT, at[family], 80, client[family], 4000)
        assert (got.packet[TCP].flags, got.packet[TCP].seq) == ("R", 99)
        assert checksums_hold(got.packet)
        assert way(ip(family, client[family], at[family]) / TCP(sport=4000, dport=80, flags="R")).verdict == SHOT
        unreachable(way(ip(family, client[family], at[family]) / TCP(sport=4000, dport=80, flags="S")), family, PORT_UNREACHABLE)


@BY_FAMILY
def test_a_reset_is_never_answered(net: Lab, family: int) -> None:
    missing = {4: "198.19.16.77", 6: "2001:db8:16::77"}[family]
    assert net.from_netdev(ip(family, REMOTE[family], missing) / TCP(sport=4000, dport=80, flags="R")).verdict == SHOT


def test_the_attempt_at_a_connection_leaves_a_backend_that_is_gone(net: Lab) -> None:
    net.service(VIP[4], 80, 6, (B[4], 8080))
    syn = ip(4, A[4], VIP[4]) / TCP(sport=4000, dport=80, flags="S")
    assert net.from_pod(syn).ip.dst == B[4]
    net.datapath.backends.delete(100)
    net.service(VIP[4], 80, 6, (REMOTE[4], 8080), id_=2)
    assert net.from_pod(syn).ip.dst == REMOTE[4]


def test_sctp_is_translated_only_where_its_checksum_stays_right(net: Lab) -> None:
    net.service(VIP[4], 9999, 132, (B[4], 9999), id_=1)
    net.service(VIP[4], 9998, 132, (B[4], 9999), id_=2)
    assert net.from_pod(ip(4, A[4], VIP[4]) / SCTP(sport=4000, dport=9999)).ip.dst == B[4]
    got = net.from_pod(ip(4, A[4], VIP[4]) / SCTP(sport=4001, dport=9998))
    assert dropped(net, DropReason.UNSUPPORTED_PROTOCOL, DropDirection.FROM_POD, got)


# --- by processes of the node -----------------------------------------------------------------------------------------------------


@BY_FAMILY
@KINDS
def test_a_node_that_asks_another_nodes_backend_is_answered_by_the_service(
    either: Lab, family: int, protocol: int, kind: type[Packet]
) -> None:
    either.service(VIP[family], 80, protocol, (REMOTE[family], 8080))
    out = either.run("to_netdev", ip(family, NODE[family], VIP[family]) / begin(kind, 4000, 80))
    source, port, *target = ends(out, kind)
    assert (out.verdict, source, target) == (REDIRECT, NODE[family], [REMOTE[family], 8080])
    by = "from_overlay" if either.datapath.config.overlay_ifindex else "from_netdev"
    back = either.run(by, ip(family, REMOTE[family], NODE[family]) / reply(kind, 8080, port))
    assert (back.verdict, *ends(back, kind)) == (OK, VIP[family], 80, NODE[family], 4000)
    assert checksums_hold(back.packet)


@BY_FAMILY
def test_an_answer_in_fragments_finds_the_node_that_asked(either: Lab, family: int) -> None:
    """Behind the node's address is the node's address again."""
    either.service(VIP[family], 80, 17, (REMOTE[family], 8080))
    asked = pieces(family, NODE[family], VIP[family], bytes(UDP(sport=4000, dport=80) / Raw(b"x" * 1400)), at=800)
    out = [either.run("to_netdev", piece) for piece in asked]
    assert [(each.verdict, each.ip.src, each.ip.dst) for each in out] == [(REDIRECT, NODE[family], REMOTE[family])] * 2
    port = int.from_bytes(bytes(out[0].packet)[-800:][:2], "big")
    answered = pieces(family, REMOTE[family], NODE[family], bytes(UDP(sport=8080, dport=port) / Raw(b"y" * 1400)), at=800)
    by = "from_overlay" if either.datapath.config.overlay_ifindex else "from_netdev"
    back = [either.run(by, piece) for piece in answered]
    assert [(each.verdict, each.ip.src, each.ip.dst) for each in back] == [(OK, VIP[family], NODE[family])] * 2


@BY_FAMILY
@KINDS
def test_a_node_that_asks_its_own_pod_is_answered_by_the_service(net: Lab, family: int, protocol: int, kind: type[Packet]) -> None:
    net.service(VIP[family], 80, protocol, (A[family], 8080))
    out = net.run("to_netdev", ip(family, NODE[family], VIP[family]) / begin(kind, 4000, 80))
    assert (out.verdict, *ends(out, kind)) == (REDIRECT, NODE[family], 4000, A[family], 8080)
    assert out.packet.dst == POD_MAC
    assert net.run("to_pod", out.packet, ifindex=net.pods["a"]).verdict == OK
    back = net.from_pod(ip(family, A[family], NODE[family]) / reply(kind, 8080, 4000))
    assert (back.verdict, *ends(back, kind)) == (OK, VIP[family], 80, NODE[family], 4000)


@BY_FAMILY
def test_a_node_that_asks_nobody_is_told_at_once_and_for_an_unknown_address_not_at_all(net: Lab, family: int) -> None:
    syn = TCP(sport=4000, dport=80, flags="S")
    sent = ip(family, NODE[family], VIP[family]) / syn
    assert dropped(net, DropReason.NO_SUCH_SERVICE, DropDirection.TO_NETDEV, net.run("to_netdev", sent))
    net.service(VIP[family], 80, 6)
    got = net.run("to_netdev", sent)
    assert (got.verdict, got.ip.src, got.ip.dst) == (REDIRECT, VIP[family], NODE[family])
    unreachable(got, family, PORT_UNREACHABLE)


@BY_FAMILY
def test_what_the_node_sends_elsewhere_is_unchanged(net: Lab, family: int) -> None:
    for layer in (TCP(sport=4000, dport=443, flags="S"), TCP(sport=4000, dport=443, flags="A"), UDP(sport=4000, dport=53)):
        sent = ip(family, NODE[family], OUTSIDE[family]) / layer
        got = net.run("to_netdev", sent)
        assert (got.verdict, bytes(got.packet)) == (OK, bytes(sent))


# --- which backend --------------------------------------------------------------------------------------------------------------


def chosen(net: Lab, client: str, port: int) -> int:
    got = net.from_pod(ip(4, client, VIP[4]) / TCP(sport=port, dport=80, flags="S"))
    return int(got.packet[TCP].dport)


def test_a_client_with_affinity_stays_with_its_backend(net: Lab) -> None:
    net.service(VIP[4], 80, 6, *((B[4], port) for port in range(1, 9)), affinity_timeout=100)
    first = chosen(net, A[4], 4000)
    assert {chosen(net, A[4], port) for port in range(4001, 4040)} == {first}


def test_affinity_ends_with_its_time_and_with_its_backend(net: Lab) -> None:
    net.service(VIP[4], 80, 6, *((B[4], port) for port in range(1, 9)), affinity_timeout=100)
    client = AffinityKey(ip_address(A[4]), 1)
    now = clock(time.monotonic_ns())
    for row, kept in ((AffinityRow(103, now - 90), True), (AffinityRow(103, now - 101), False), (AffinityRow(999, now), False)):
        seen = set()
        for port in range(4000, 4040):
            net.datapath.affinity.put(client, row)
            net.datapath.conntrack.clear()
            seen.add(chosen(net, A[4], port))
        assert (seen == {4}) == kept
    assert net.datapath.affinity.get(client).last_used >= now


@BY_FAMILY
def test_clients_outside_are_spread_by_the_maglev_table_alone(net: Lab, family: int) -> None:
    node_port(net, family, 6, *((A[family], port) for port in range(1, 5)), flags=FrontendFlag.MAGLEV)
    net.datapath.maglev.put(1, tuple(100 + entry % 4 for entry in range(MAGLEV_SIZE)))
    clients = [(port, NODE_PORT) for port in range(4000, 4100)]

    def spread() -> list[int]:
        net.datapath.conntrack.clear()
        return [net.from_netdev(ip(family, OUTSIDE[family], NODE[family]) / begin(TCP, *ports)).packet[TCP].dport for ports in clients]

    before = spread()
    assert set(before) == {1, 2, 3, 4}
    assert spread() == before
    net.datapath.maglev.put(1, (102,) * MAGLEV_SIZE)
    assert set(spread()) == {3}


@BY_FAMILY
def test_a_maglev_entry_whose_backend_is_gone_falls_back_to_the_slots(net: Lab, family: int) -> None:
    node_port(net, family, 6, (A[family], 1), flags=FrontendFlag.MAGLEV)
    net.datapath.maglev.put(1, (999,) * MAGLEV_SIZE)
    assert net.from_netdev(ip(family, OUTSIDE[family], NODE[family]) / SYN).packet[TCP].dport == 1


@BY_FAMILY
def test_source_ranges_are_for_every_client(net: Lab, family: int) -> None:
    net.service(BALANCER[family], NODE_PORT, 6, (B[family], 8080), flags=FrontendFlag.SOURCE_RANGES)
    outside, pod = ip(family, OUTSIDE[family], BALANCER[family]) / SYN, ip(family, A[family], BALANCER[family]) / SYN
    assert dropped(net, DropReason.NOT_IN_SOURCE_RANGES, DropDirection.FROM_NETDEV, net.from_netdev(outside))
    assert dropped(net, DropReason.NOT_IN_SOURCE_RANGES, DropDirection.FROM_POD, net.from_pod(pod))
    length = 24 if family == 4 else 64
    net.datapath.source_ranges.put(SourceRange(1, ip_network(f"{OUTSIDE[family]}/{length}", strict=False)), 1)
    net.datapath.source_ranges.put(SourceRange(2, ip_network(f"{A[family]}/{length}", strict=False)), 1)
    assert net.from_netdev(outside).ip.dst == B[family]
    assert dropped(net, DropReason.NOT_IN_SOURCE_RANGES, DropDirection.FROM_POD, net.from_pod(pod))


# --- who has the address --------------------------------------------------------------------------------------------------------


def test_an_announced_address_is_answered_for(net: Lab) -> None:
    asker = "02:00:00:00:00:77"
    question = Ether(src=asker, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=asker, psrc=GATEWAY[4], pdst=BALANCER[4])
    assert net.from_netdev(question).verdict == OK
    net.belongs_to_a_service(BALANCER[4])
    assert net.from_netdev(question).verdict == OK
    net.belongs_to_a_service(BALANCER[4], FrontendFlag.ANNOUNCED)
    got = net.from_netdev(question)
    answer = got.packet[ARP]
    assert (got.verdict, got.packet.src, got.packet.dst) == (REDIRECT, DEVICE_MAC, asker)
    assert (answer.op, answer.hwsrc, answer.psrc, answer.hwdst, answer.pdst) == (2, DEVICE_MAC, BALANCER[4], asker, GATEWAY[4])


def test_an_announced_ipv6_address_is_answered_for(net: Lab) -> None:
    asker = "02:00:00:00:00:77"
    frame = Ether(src=asker, dst="33:33:ff:00:00:c8")
    question = frame / ip(6, GATEWAY[6], "ff02::1:ff00:c8").getlayer(1) / ICMPv6ND_NS(tgt=BALANCER[6])
    assert net.from_netdev(question).verdict == OK
    net.belongs_to_a_service(BALANCER[6], FrontendFlag.ANNOUNCED)
    got = net.from_netdev(question)
    advertisement = got.packet[ICMPv6ND_NA]
    assert (got.verdict, got.packet.src, got.packet.dst) == (REDIRECT, DEVICE_MAC, asker)
    assert (got.ip.src, got.ip.dst, got.ip.hlim) == (BALANCER[6], GATEWAY[6], 255)
    assert (advertisement.tgt, advertisement.R, advertisement.S, advertisement.O) == (BALANCER[6], 0, 1, 1)
    assert got.packet[ICMPv6NDOptDstLLAddr].lladdr == DEVICE_MAC
    assert checksums_hold(got.packet)
    probe = frame / ip(6, "::", "ff02::1:ff00:c8").getlayer(1) / ICMPv6ND_NS(tgt=BALANCER[6])
    assert net.from_netdev(probe).verdict == OK


@BY_FAMILY
def test_what_an_outside_host_sends_to_a_service_cidr_address_does_not_loop(net: Lab, family: int) -> None:
    sent = ip(family, OUTSIDE[family], VIP[family]) / UDP(sport=4000, dport=80)
    assert dropped(net, DropReason.NO_SUCH_SERVICE, DropDirection.FROM_NETDEV, net.from_netdev(sent))


@BY_FAMILY
def test_a_pod_that_is_gone_is_unreachable_from_outside(either: Lab, family: int) -> None:
    missing = {4: "198.19.16.77", 6: "2001:db8:16::77"}[family]
    got = either.from_netdev(ip(family, OUTSIDE[family], missing) / SYN)
    assert (got.verdict, got.ip.src) == (REDIRECT, missing)
    unreachable(got, family, HOST_UNREACHABLE)
