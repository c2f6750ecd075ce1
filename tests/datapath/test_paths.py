"""Packets in, packets out, through the programs on real devices: every path a pod has, in each mode and family."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.datapath.abi import MASQUERADE_PORTS

from .topology import FAR, GATEWAY, NODES, PODS, PORT, TRAFFIC, Topology, inside, running

FAMILIES = (4, 6)
PEERS = [("dp-p0", "dp-p1"), ("dp-p0", "dp-p2"), ("dp-p2", "dp-p0"), ("dp-p0", "dp-p0")]


@pytest.fixture(scope="module", params=["native-auto", "vxlan-auto", "native-tcx", "vxlan-clsact"])
def net(request: pytest.FixtureRequest) -> Iterator[Topology]:
    mode, attach = request.param.split("-")
    with running(mode, attach) as topology:
        yield topology


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("client", "server"), PEERS)
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_pods_reach_pods_with_their_own_address(net: Topology, client: str, server: str, family: int, kind: str) -> None:
    seen = net.ask(client, kind, PODS[server].address[family]).split()
    assert seen[0] == PODS[client].address[family]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("client", "server"), PEERS[:3])
@pytest.mark.parametrize("size", [56, 4000])
def test_ping_between_pods_whole_and_in_fragments(net: Topology, client: str, server: str, family: int, size: int) -> None:
    assert net.answers_ping(client, PODS[server].address[family], size=size)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("client", "server"), PEERS[:3])
def test_fragmented_datagrams_and_large_streams_between_pods(net: Topology, client: str, server: str, family: int) -> None:
    assert net.ask(client, "udp", PODS[server].address[family], size=5000).endswith(" 5000")
    assert net.ask(client, "tcp", PODS[server].address[family], size=3_000_000).endswith(" 3000000")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_nodes_reach_pods_and_pods_reach_nodes(net: Topology, family: int, kind: str) -> None:
    for node in NODES.values():
        for pod in PODS.values():
            assert net.ask(node.name, kind, pod.address[family]).split()[0] == node.address[family]
    for pod in PODS.values():
        for node in NODES.values():
            seen = net.ask(pod.name, kind, node.address[family]).split()[0]
            masqueraded = net.mode == "vxlan" and pod.node != node.name
            assert seen == (NODES[pod.node].address[family] if masqueraded else pod.address[family])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("outside", ["gateway", "far"])
def test_outside_sees_the_node_and_a_port_of_its_range(net: Topology, family: int, kind: str, outside: str) -> None:
    target = (GATEWAY if outside == "gateway" else FAR)[family]
    for client in ("dp-p0", "dp-p1", "dp-p2"):
        address, port, _ = net.ask(client, kind, target).split()
        assert address == NODES[PODS[client].node].address[family]
        assert int(port) in MASQUERADE_PORTS


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [56, 4000])
def test_ping_to_the_outside(net: Topology, family: int, size: int) -> None:
    for client in ("dp-p0", "dp-p1"):
        assert net.answers_ping(client, GATEWAY[family], size=size)


@pytest.mark.parametrize("family", FAMILIES)
def test_masqueraded_datagrams_may_be_fragmented(net: Topology, family: int) -> None:
    assert net.ask("dp-p0", "udp", GATEWAY[family], size=5000).endswith(" 5000")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_closed_port_outside_refuses_at_once(net: Topology, family: int) -> None:
    """The RST, and the ICMP error about a masqueraded datagram, find the pod."""
    assert net.ask("dp-p0", "tcp", GATEWAY[family], port=9) == "ECONNREFUSED"
    assert net.ask("dp-p0", "udp", GATEWAY[family], port=9) == "ECONNREFUSED"


@pytest.mark.parametrize("family", FAMILIES)
def test_path_mtu_of_the_outside_is_learnt_behind_the_masquerade(net: Topology, family: int) -> None:
    assert net.ask("dp-p0", "tcp", FAR[family], size=200_000).endswith(" 200000")
    inside("dp-p0", "ip route flush cache")
    assert any("1300" in net.ping("dp-p0", FAR[family], size=1380, options="-M do") for _ in range(15))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_destination_set_aside_is_reached_with_the_pods_address(net: Topology, family: int) -> None:
    target = {4: "198.19.201.2", 6: "2001:db8:c9::2"}[family]
    prefix = {4: 32, 6: 128}[family]
    inside("dp-far", f"ip addr add {target}/{prefix} dev eth0 {'nodad' if family == 6 else ''}")
    inside("dp-lan", f"ip -{family} route add {target} via {FAR[family]}")
    for node in NODES.values():
        inside("dp-lan", f"ip -{family} route replace {node.pods[family]} via {node.address[family]}")
        net.holders[node.name].call(do="not-masqueraded", cidr=target)
    server = subprocess.Popen(
        ["ip", "netns", "exec", "dp-far", sys.executable, str(TRAFFIC), "serve", target, str(PORT)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline().strip() == "ready"
        for kind in ("tcp", "udp"):
            assert net.ask("dp-p0", kind, target).split()[0] == PODS["dp-p0"].address[family]
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("kind", "protocol"), [("tcp", 6), ("udp", 17)])
@pytest.mark.parametrize("backend", ["dp-p1", "dp-p2", "dp-n1", "dp-lan"])
def test_a_service_leads_to_its_backend_wherever_it_is(net: Topology, family: int, kind: str, protocol: int, backend: str) -> None:
    vip = {4: "198.19.96.7", 6: "2001:db8:96::7"}[family]
    address = PODS[backend].address if backend in PODS else NODES[backend].address if backend in NODES else GATEWAY
    net.holders["dp-n0"].call(do="service", id=7, address=vip, port=80, protocol=protocol, backends=[[address[family], PORT]])
    assert net.ask("dp-p0", kind, vip, port=80).endswith(" 4")
    assert net.ask("dp-p0", kind, vip, port=80, size=4000).endswith(" 4000")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("kind", "protocol"), [("tcp", 6), ("udp", 17)])
def test_a_pod_reaches_itself_through_a_service(net: Topology, family: int, kind: str, protocol: int) -> None:
    vip = {4: "198.19.96.8", 6: "2001:db8:96::8"}[family]
    own = PODS["dp-p0"].address[family]
    net.holders["dp-n0"].call(do="service", id=8, address=vip, port=80, protocol=protocol, backends=[[own, PORT]])
    assert net.ask("dp-p0", kind, vip, port=80).endswith(" 4")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_service_spreads_connections_over_its_backends(net: Topology, family: int) -> None:
    """Which backend answered is seen by whom it saw: a datagram to oneself comes from the gateway, so ask from another node."""
    vip = {4: "198.19.96.9", 6: "2001:db8:96::9"}[family]
    backends = [[PODS["dp-p1"].address[family], PORT], [PODS["dp-p2"].address[family], PORT], [GATEWAY[family], PORT]]
    net.holders["dp-n0"].call(do="service", id=9, address=vip, port=80, protocol=17, backends=backends)
    for _ in range(24):
        assert net.ask("dp-p0", "udp", vip, port=80).endswith(" 4")
    rows = "\n".join(net.holders["dp-n0"].call(do="conntrack"))
    assert all(address in rows for address, _ in backends)


@pytest.mark.parametrize("family", FAMILIES)
def test_service_addresses_without_a_service_never_leave_the_node(net: Topology, family: int) -> None:
    before = sum(net.drops("dp-n0").values())
    unknown = {4: "198.19.96.99", 6: "2001:db8:96::99"}[family]
    assert net.ask("dp-p0", "udp", unknown, port=80, patience=1) == "TIMEOUT"
    assert sum(net.drops("dp-n0").values()) > before


@pytest.mark.parametrize("family", FAMILIES)
def test_a_source_address_of_another_is_dropped_and_counted(net: Topology, family: int) -> None:
    foreign = {4: "198.19.16.99", 6: "2001:db8:16::99"}[family]
    length = {4: 32, 6: 128}[family]
    before = net.drops("dp-n0").get("SPOOFED_SOURCE FROM_POD", 0)
    inside("dp-p0", f"ip addr add {foreign}/{length} dev eth0 {'nodad' if family == 6 else ''}")
    try:
        assert "1 received" not in net.ping("dp-p0", PODS["dp-p2"].address[family], options=f"-I {foreign}")
    finally:
        inside("dp-p0", f"ip addr del {foreign}/{length} dev eth0")
    assert net.drops("dp-n0")["SPOOFED_SOURCE FROM_POD"] > before


@pytest.mark.parametrize("family", FAMILIES)
def test_traceroute_sees_the_node_as_a_hop_to_the_outside(net: Topology, family: int) -> None:
    answers = (net.ping("dp-p0", FAR[family], options="-t 1") for _ in range(15))
    assert any("Time to live exceeded" in answer or "Hop limit" in answer for answer in answers)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_isolated_pod_is_reached_by_its_own_node_alone_and_gets_its_answers(net: Topology, family: int) -> None:
    """No rule allows anything; what is between the pod and its node is nobody's to forbid."""
    pod, node, holder = PODS["dp-p0"], NODES["dp-n0"], net.holders["dp-n0"]
    strangers = {"dp-p1": PODS["dp-p1"].address, "dp-p2": PODS["dp-p2"].address, "dp-n1": NODES["dp-n1"].address, "dp-lan": GATEWAY}
    ways = [("dp-p0", address[family]) for address in strangers.values()] + [(n, pod.address[family]) for n in strangers if n != "dp-lan"]

    def answers(patience: float) -> dict[tuple[str, str, str], bool]:
        """Of all ways and both protocols, asked side by side: whether somebody answered."""
        with ThreadPoolExecutor(16) as pool:
            asked = [(client, kind, address) for client, address in ways for kind in ("tcp", "udp")]
            return dict(zip(asked, pool.map(lambda a: net.ask(*a, patience=patience).endswith(" 4"), asked), strict=True))

    def node_and_pod() -> None:
        for kind in ("tcp", "udp"):
            assert net.ask("dp-n0", kind, pod.address[family]).split()[0] == node.address[family]
            assert net.ask("dp-p0", kind, node.address[family]).split()[0] == pod.address[family]
        assert net.answers_ping("dp-n0", pod.address[family])

    assert set(answers(30).values()) == {True}
    holder.call(do="isolate", address=pod.address[family])
    try:
        before = net.drops("dp-n0")
        assert set(answers(1).values()) == {False}
        after = net.drops("dp-n0")
        for reason in ("EGRESS_DENIED FROM_POD", "INGRESS_DENIED FROM_POD"):
            assert after.get(reason, 0) > before.get(reason, 0)
        node_and_pod()
    finally:
        holder.call(do="free", address=pod.address[family])
    node_and_pod()
    assert set(answers(30).values()) == {True}


def test_streams_lose_nothing_when_the_agent_is_killed_and_comes_back(net: Topology) -> None:
    streams = [
        subprocess.Popen(
            ["ip", "netns", "exec", "dp-p0", sys.executable, str(TRAFFIC), "count", target, str(PORT), kind],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for target in (PODS["dp-p2"].address[4], PODS["dp-p1"].address[6], GATEWAY[4])
        for kind in ("tcp", "udp")
    ]  # fmt: skip
    for stream in streams:
        assert stream.stdout is not None
        assert stream.stdout.readline().strip() == "running"
    for node in NODES:
        net.holders[node].kill()
        net.start(node)
    for stream in streams:
        sent, received = map(int, stream.communicate(timeout=120)[0].split())
        assert received == sent > 1
