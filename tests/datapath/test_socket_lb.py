"""Load balancing at the socket: real sockets of processes in a cgroup, on a node and in a pod, in each family and spelling."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.datapath import netns, probe, programs, socketlb, syscalls
from agent.datapath.abi import Backend, FrontendFlag, FrontendScope, SlotKey, SocketFlowKey
from agent.datapath.errors import DatapathError

from .lab import in_namespace
from .socket_lab import (
    ANY,
    BACKENDS,
    EXTERNAL,
    LOOPBACK,
    NODE,
    OTHER_NODE,
    POD,
    PORT,
    TCP,
    UDP,
    UNSPECIFIED,
    VIP,
    WAYS,
    Socket,
    SocketLab,
    Way,
    make_cgroup,
    open_datapath,
    remove_cgroup,
    socket_lab,
)

ROOT = Path(__file__).resolve().parent.parent.parent
NODE_PORT = 30080
CLIENTS = ("pod", "node")
BY_WAY = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
BY_CLIENT = pytest.mark.parametrize("client", CLIENTS)
BY_PROTOCOL = pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
BY_FAMILY = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture(scope="module")
def everything() -> Iterator[SocketLab]:
    with socket_lab("sk-lb") as found:
        yield found


@pytest.fixture
def net(everything: SocketLab) -> SocketLab:
    everything.forget()
    return everything


# --- to a Service -----------------------------------------------------------------------------------------------------------------


@BY_WAY
@BY_CLIENT
@BY_PROTOCOL
def test_who_connects_to_a_service_talks_to_a_backend_and_believes_it_is_the_service(
    net: SocketLab, way: Way, client: str, protocol: int
) -> None:
    net.service(VIP[way.family], 80, protocol, net.both(way.family))
    connected = net.workers[client].connect(way, protocol, VIP[way.family], 80)
    server, port, seen = connected.ask()
    assert server in BACKENDS[way.family]
    assert int(port) == PORT
    assert client == "node" or seen == POD[way.family], "the client's own address"
    assert connected.peer() == (way.spell(VIP[way.family]), 80)
    connected.close()


@BY_WAY
@BY_CLIENT
def test_a_datagram_to_a_service_is_answered_by_the_service(net: SocketLab, way: Way, client: str) -> None:
    net.service(VIP[way.family], 80, UDP, net.both(way.family))
    vip = way.spell(VIP[way.family])
    sender = net.workers[client].open(way, UDP)
    answers = [sender.ask_at(vip, 80) for _ in range(8)]
    assert {source for _, source in answers} == {(vip, 80)}
    assert len({server for (server, *_), _ in answers}) == 1, "a socket keeps its backend"
    sender.close()


@BY_WAY
@pytest.mark.parametrize("kind", ["tcp", "udp", "sendto"])
def test_sockets_spread_over_the_backends(net: SocketLab, way: Way, kind: str) -> None:
    protocol = TCP if kind == "tcp" else UDP
    net.service(VIP[way.family], 80, protocol, net.both(way.family))
    found = []
    for _ in range(48):
        if kind == "sendto":
            asking = net.workers["pod"].open(way, UDP)
            found.append(asking.ask_at(way.spell(VIP[way.family]), 80)[0][0])
        else:
            asking = net.workers["pod"].connect(way, protocol, VIP[way.family], 80)
            found.append(asking.ask()[0])
        asking.close()
    # With two backends that get half each, less than 8 of 48 happens once in ten million runs.
    assert min(found.count(address) for address in BACKENDS[way.family]) >= 8


@BY_WAY
def test_a_connected_socket_that_names_the_service_again_hears_the_answer(net: SocketLab, way: Way) -> None:
    """It hears its peer alone: both must have been given the same backend."""
    net.service(VIP[way.family], 80, UDP, net.both(way.family))
    vip = way.spell(VIP[way.family])
    for _ in range(8):
        connected = net.workers["pod"].connect(way, UDP, VIP[way.family], 80)
        assert connected.ask_at(vip, 80)[1] == (vip, 80)
        connected.close()


@BY_WAY
def test_one_socket_may_talk_to_two_services_and_directly(net: SocketLab, way: Way) -> None:
    first, second = BACKENDS[way.family]
    net.service(VIP[way.family], 80, UDP, [(first, PORT)])
    net.service(EXTERNAL[way.family], 53, UDP, [(second, PORT)], id_=2)
    sender = net.workers["pod"].open(way, UDP)
    for _ in range(2):
        for asked, port, server in ((VIP[way.family], 80, first), (EXTERNAL[way.family], 53, second)):
            (answered, *_), source = sender.ask_at(way.spell(asked), port)
            assert (answered, source) == (server, (way.spell(asked), port))
    sender.close()
    direct = net.workers["pod"].open(way, UDP)
    assert direct.ask_at(way.spell(first), PORT)[1] == (way.spell(first), PORT)
    direct.close()


@BY_WAY
def test_what_a_socket_translated_is_remembered_by_its_cookie(net: SocketLab, way: Way) -> None:
    backend = BACKENDS[way.family][0]
    net.service(VIP[way.family], 80, TCP, [(backend, PORT)])
    connected = net.workers["pod"].connect(way, TCP, VIP[way.family], 80)
    cookie = int.from_bytes(connected.getsockopt(socket.SOL_SOCKET, 57, 8).encode("latin-1"), sys.byteorder)
    assert net.datapath.socket_flows is not None
    flow = net.datapath.socket_flows.get(SocketFlowKey(cookie, ip_address(backend), PORT))
    assert flow is not None
    assert (str(flow.frontend), flow.port) == (VIP[way.family], 80)
    connected.close()


@BY_WAY
def test_a_backend_that_leaves_is_sent_no_further_datagram(net: SocketLab, way: Way) -> None:
    vip = way.spell(VIP[way.family])
    net.service(VIP[way.family], 80, UDP, net.both(way.family))
    sender = net.workers["pod"].open(way, UDP)
    gone = sender.ask_at(vip, 80)[0][0]
    (left,) = set(BACKENDS[way.family]) - {gone}
    net.service(VIP[way.family], 80, UDP, [(left, PORT)])
    (answered, *_), source = sender.ask_at(vip, 80)
    assert (answered, source) == (left, (vip, 80))
    net.service(VIP[way.family], 80, UDP, [])
    with pytest.raises(ConnectionRefusedError):
        sender.sendto("?", (vip, 80))
    net.service(VIP[way.family], 80, UDP, [(gone, PORT)])
    assert sender.ask_at(vip, 80)[0][0] == gone
    sender.close()


@BY_PROTOCOL
def test_a_slot_that_is_missing_for_a_moment_is_passed_over(net: SocketLab, protocol: int) -> None:
    net.service(VIP[4], 80, protocol, net.both(4))
    net.datapath.backend_slots.delete(SlotKey(1, 0))
    for _ in range(8):
        connected = net.workers["pod"].connect(WAYS[0], protocol, VIP[4], 80)
        assert connected.ask()[0] == BACKENDS[4][1]
        connected.close()


# --- to nobody --------------------------------------------------------------------------------------------------------------------


@BY_WAY
@BY_CLIENT
@BY_PROTOCOL
def test_a_service_without_backends_refuses_at_once(net: SocketLab, way: Way, client: str, protocol: int) -> None:
    net.service(VIP[way.family], 80, protocol, [])
    with pytest.raises(ConnectionRefusedError):
        net.workers[client].connect(way, protocol, VIP[way.family], 80)


@BY_WAY
@BY_CLIENT
@pytest.mark.parametrize("address", [VIP, EXTERNAL], ids=["cluster IP", "external IP"])
@BY_PROTOCOL
def test_a_port_that_the_service_does_not_have_refuses_at_once(
    net: SocketLab, way: Way, client: str, address: dict[int, str], protocol: int
) -> None:
    net.service(address[way.family], 80, protocol, net.both(way.family))
    with pytest.raises(ConnectionRefusedError):
        net.workers[client].connect(way, protocol, address[way.family], 81)
    with pytest.raises(ConnectionRefusedError):
        net.workers[client].connect(way, UDP if protocol == TCP else TCP, address[way.family], 80)


def test_where_the_kernel_lets_no_hook_choose_the_error_it_is_eperm(net: SocketLab, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = probe.Feature("set-retval", present=False, required=False, since="5.18", use="")
    monkeypatch.setattr(programs, "probe", lambda name: absent if name == "set-retval" else probe.probe(name))
    net.service(VIP[4], 80, TCP, [])
    net.frontend(ANY[4], NODE_PORT, TCP, [], scope=FrontendScope.NODE_PORT)
    with in_namespace("sk-node"):
        older = open_datapath(net.pins)
        try:
            older.attach_sockets(net.cgroup)
            with pytest.raises(PermissionError):
                net.workers["pod"].connect(WAYS[0], TCP, VIP[4], 80)
            with pytest.raises(PermissionError):
                net.workers["node"].open(WAYS[0], TCP).bind(("0.0.0.0", NODE_PORT))
        finally:
            older.close()
    net.datapath.attach_sockets(net.cgroup)
    with pytest.raises(ConnectionRefusedError):
        net.workers["pod"].connect(WAYS[0], TCP, VIP[4], 80)


# --- left to the packet path ------------------------------------------------------------------------------------------------------

LEFT_ALONE = {
    "a frontend that is the packet path's": lambda net, family, protocol: net.service(
        VIP[family], 80, protocol, net.both(family), flags=FrontendFlag(0)
    ),
    "no local backend": lambda net, family, protocol: net.service(
        VIP[family], 80, protocol, [], flags=FrontendFlag.SOCKET | FrontendFlag.DROP_INSIDE
    ),
    "an address that no Service has": lambda net, family, protocol: None,
}


@BY_WAY
@BY_CLIENT
@pytest.mark.parametrize("case", LEFT_ALONE)
def test_what_the_packet_path_decides_goes_on_as_it_is(net: SocketLab, way: Way, client: str, case: str) -> None:
    LEFT_ALONE[case](net, way.family, TCP)
    with pytest.raises(OSError, match="route to host"):
        net.workers[client].connect(way, TCP, VIP[way.family], 80)


@BY_WAY
@BY_CLIENT
@BY_PROTOCOL
def test_who_is_no_service_is_reached_as_he_is(net: SocketLab, way: Way, client: str, protocol: int) -> None:
    net.service(VIP[way.family], PORT, protocol, net.both(way.family))
    for address in BACKENDS[way.family]:
        connected = net.workers[client].connect(way, protocol, address, PORT)
        assert connected.ask()[0] == address
        assert connected.peer() == (way.spell(address), PORT)
        connected.close()


@BY_PROTOCOL
def test_processes_outside_of_the_cgroup_are_left_alone(net: SocketLab, protocol: int) -> None:
    net.service(VIP[4], 80, protocol, net.both(4))
    net.frontend(ANY[4], NODE_PORT, protocol, net.both(4), scope=FrontendScope.NODE_PORT)
    stranger = net.workers["stranger"]
    with pytest.raises(OSError, match="route to host"):
        connected = stranger.connect(WAYS[0], protocol, VIP[4], 80)
        connected.ask()
    bound = stranger.open(WAYS[0], protocol)
    bound.bind(("0.0.0.0", NODE_PORT))
    bound.close()


# --- ports of nodes ---------------------------------------------------------------------------------------------------------------

FROM = {
    "pod to its node": ("pod", NODE),
    "pod to another node": ("pod", OTHER_NODE),
    "node to itself": ("node", NODE),
    "node to another node": ("node", OTHER_NODE),
    "node to its loopback": ("node", LOOPBACK),
    "node to nowhere in particular": ("node", UNSPECIFIED),
}


@BY_WAY
@pytest.mark.parametrize("case", FROM)
@BY_PROTOCOL
def test_a_node_port_is_reached_at_every_address_of_every_node(net: SocketLab, way: Way, case: str, protocol: int) -> None:
    client, address = FROM[case]
    net.frontend(ANY[way.family], NODE_PORT, protocol, net.both(way.family), scope=FrontendScope.NODE_PORT)
    connected = net.workers[client].connect(way, protocol, address[way.family], NODE_PORT)
    assert connected.ask()[0] in BACKENDS[way.family]
    assert connected.peer() == (way.spell(address[way.family]), NODE_PORT)
    connected.close()


@BY_WAY
@BY_PROTOCOL
def test_a_node_port_without_backends_refuses(net: SocketLab, way: Way, protocol: int) -> None:
    net.frontend(ANY[way.family], NODE_PORT, protocol, [], scope=FrontendScope.NODE_PORT)
    for client, address in FROM.values():
        with pytest.raises(ConnectionRefusedError):
            net.workers[client].connect(way, protocol, address[way.family], NODE_PORT)


@BY_WAY
@pytest.mark.parametrize("case", FROM)
def test_under_policy_local_another_nodes_port_is_left_to_that_node(net: SocketLab, way: Way, case: str) -> None:
    client, address = FROM[case]
    net.frontend(ANY[way.family], NODE_PORT, TCP, net.both(way.family), scope=FrontendScope.NODE_PORT, outside_id=2)
    if address is OTHER_NODE:
        with pytest.raises(OSError, match="route to host"):
            net.workers[client].connect(way, TCP, address[way.family], NODE_PORT)
        return
    connected = net.workers[client].connect(way, TCP, address[way.family], NODE_PORT)
    assert connected.ask()[0] in BACKENDS[way.family]
    connected.close()


@BY_WAY
@pytest.mark.parametrize("case", FROM)
def test_a_host_port_is_reached_at_every_address_of_this_node_alone(net: SocketLab, way: Way, case: str) -> None:
    client, address = FROM[case]
    net.frontend(ANY[way.family], NODE_PORT, TCP, net.both(way.family), scope=FrontendScope.HOST_PORT)
    if address is OTHER_NODE:
        with pytest.raises(OSError, match="route to host"):
            net.workers[client].connect(way, TCP, address[way.family], NODE_PORT)
        return
    connected = net.workers[client].connect(way, TCP, address[way.family], NODE_PORT)
    assert connected.ask()[0] in BACKENDS[way.family]
    connected.close()


@BY_WAY
@pytest.mark.parametrize("address", [NODE, LOOPBACK], ids=["node", "loopback"])
def test_a_host_port_at_one_address_is_not_at_the_others(net: SocketLab, way: Way, address: dict[int, str]) -> None:
    net.frontend(ip_address(address[way.family]), NODE_PORT, TCP, net.both(way.family))
    connected = net.workers["node"].connect(way, TCP, address[way.family], NODE_PORT)
    assert connected.ask()[0] in BACKENDS[way.family]
    connected.close()
    (other,) = {NODE[way.family], LOOPBACK[way.family]} - {address[way.family]}
    with pytest.raises(ConnectionRefusedError):
        net.workers["node"].connect(way, TCP, other, NODE_PORT)


@BY_WAY
@BY_PROTOCOL
def test_a_pods_loopback_is_its_own(net: SocketLab, way: Way, protocol: int) -> None:
    for scope in (FrontendScope.NODE_PORT, FrontendScope.HOST_PORT):
        net.frontend(ANY[way.family], NODE_PORT, protocol, net.both(way.family), scope=scope)
    pod = net.workers["pod"]
    own = pod.open(way, protocol)
    own.bind((way.spell(LOOPBACK[way.family]), NODE_PORT))
    if protocol == TCP:
        own.listen(1)
    connected = pod.connect(way, protocol, LOOPBACK[way.family], NODE_PORT)
    connected.send("mine")
    hearing = Socket(pod, own.accept()[0]) if protocol == TCP else own
    assert hearing.recv(10) == "mine"
    for each in {connected.number: connected, hearing.number: hearing, own.number: own}.values():
        each.close()


@BY_WAY
def test_what_else_the_node_serves_stays_reachable_though_its_address_is_an_external_ip(net: SocketLab, way: Way) -> None:
    net.service(NODE[way.family], 80, TCP, net.both(way.family))
    node = net.workers["node"]
    listening = node.open(way, TCP)
    listening.bind((way.spell(NODE[way.family]), 10250))
    listening.listen(4)
    for client in CLIENTS:
        net.workers[client].connect(way, TCP, NODE[way.family], 10250).close()
        connected = net.workers[client].connect(way, TCP, NODE[way.family], 80)
        assert connected.ask()[0] in BACKENDS[way.family]
        connected.close()
    listening.close()


# --- bind -------------------------------------------------------------------------------------------------------------------------


@BY_WAY
@pytest.mark.parametrize("address", [UNSPECIFIED, NODE, LOOPBACK], ids=["wildcard", "own", "loopback"])
@BY_PROTOCOL
def test_nobody_on_the_node_can_bind_a_node_port(net: SocketLab, way: Way, address: dict[int, str], protocol: int) -> None:
    net.frontend(ANY[way.family], NODE_PORT, protocol, [], scope=FrontendScope.NODE_PORT)
    binding = net.workers["node"].open(way, protocol)
    with pytest.raises(OSError, match="in use") as caught:
        binding.bind((way.spell(address[way.family]), NODE_PORT))
    assert caught.value.errno == errno.EADDRINUSE
    binding.bind((way.spell(address[way.family]), NODE_PORT + 1))
    binding.close()


BINDABLE = {
    "the other protocol": ("node", "0.0.0.0", NODE_PORT, UDP),
    "another port": ("node", "0.0.0.0", NODE_PORT + 1, TCP),
    "any port": ("node", "0.0.0.0", 0, TCP),
    "in a pod": ("pod", "0.0.0.0", NODE_PORT, TCP),
    "the other family": ("node", "::1", NODE_PORT, TCP),
}


@pytest.mark.parametrize("case", BINDABLE)
def test_other_ports_are_bound_as_ever(net: SocketLab, case: str) -> None:
    client, address, port, protocol = BINDABLE[case]
    net.frontend(ANY[4], NODE_PORT, TCP, [], scope=FrontendScope.NODE_PORT)
    net.frontend(ANY[4], NODE_PORT + 1, TCP, [], scope=FrontendScope.HOST_PORT)
    binding = net.workers[client].open(WAYS[1] if ":" in address else WAYS[0], protocol)
    binding.bind((address, port))
    binding.close()


def test_a_wildcard_of_both_families_counts_for_both(net: SocketLab) -> None:
    net.frontend(ANY[4], NODE_PORT, TCP, [], scope=FrontendScope.NODE_PORT)
    binding = net.workers["node"].open(WAYS[1], TCP)
    with pytest.raises(OSError, match="in use"):
        binding.bind(("::", NODE_PORT))
    binding.close()


# --- attaching --------------------------------------------------------------------------------------------------------------------


def links(pins: Path) -> dict[str, syscalls.CgroupLinkInfo]:
    found = {}
    for pin in sorted((pins / "anetd/v1/links").glob("socket-*")):
        fd = syscalls.obj_get(pin)
        assert fd is not None
        found[pin.name.removeprefix("socket-")] = syscalls.cgroup_link_info(fd)
        os.close(fd)
    return found


def test_every_hook_is_attached_to_the_cgroup_and_attaching_again_changes_nothing(net: SocketLab) -> None:
    before = links(net.pins)
    assert {hook: link.attach_type for hook, link in before.items()} == socketlb.HOOKS
    assert {link.cgroup for link in before.values()} == {net.cgroup.stat().st_ino}
    net.datapath.attach_sockets(net.cgroup)
    assert links(net.pins) == before


HOLD = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.datapath.socket_lab import open_datapath
datapath = open_datapath(Path({pins!r}))
datapath.attach_sockets(Path({cgroup!r}))
print("attached", flush=True)
sys.stdin.read()
"""


def test_a_killed_agent_leaves_the_hooks_at_work_and_the_next_one_adopts_them(net: SocketLab) -> None:
    net.service(VIP[4], 80, TCP, net.both(4))
    net.service(VIP[4], 80, UDP, net.both(4), id_=2)
    program = HOLD.format(root=str(ROOT), pins=str(net.pins), cgroup=str(net.cgroup))
    argv = ["nsenter", "--net=/run/netns/sk-node", sys.executable, "-c", program]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline().strip() == "attached"
        before = links(net.pins)
        pod = net.workers["pod"]
        connected, sender = pod.connect(WAYS[0], TCP, VIP[4], 80), pod.open(WAYS[0], UDP)
        backend = sender.ask_at(VIP[4], 80)[0][0]
        agent.send_signal(signal.SIGKILL)
    assert links(net.pins) == before
    assert connected.ask()[0] in BACKENDS[4]
    assert connected.peer() == (VIP[4], 80)
    pod.connect(WAYS[2], TCP, VIP[4], 80).close()
    with in_namespace("sk-node"):
        adopting = open_datapath(net.pins)
    adopting.attach_sockets(net.cgroup)
    after = links(net.pins)
    assert {hook: link.id for hook, link in after.items()} == {hook: link.id for hook, link in before.items()}
    assert all(after[hook].prog_id == syscalls.prog_id(adopting.program_fd(hook)) != before[hook].prog_id for hook in before)
    adopting.close()
    assert connected.ask()[0] in BACKENDS[4]
    assert sender.ask_at(VIP[4], 80) == ([backend, str(PORT), POD[4]], (VIP[4], 80))
    for each in (connected, sender):
        each.close()


def test_detached_nothing_is_translated_and_connections_go_on(net: SocketLab) -> None:
    net.service(VIP[4], 80, TCP, net.both(4))
    pod = net.workers["pod"]
    connected = pod.connect(WAYS[0], TCP, VIP[4], 80)
    net.datapath.detach_sockets()
    net.datapath.detach_sockets()
    assert links(net.pins) == {}
    try:
        with pytest.raises(OSError, match="route to host"):
            pod.connect(WAYS[0], TCP, VIP[4], 80)
        assert connected.ask()[0] in BACKENDS[4]
    finally:
        net.datapath.attach_sockets(net.cgroup)
    assert connected.peer() == (VIP[4], 80)
    connected.close()


def test_links_follow_to_another_cgroup_and_to_another_layout(net: SocketLab) -> None:
    other = make_cgroup("sk-lb-other")
    try:
        net.datapath.attach_sockets(other)
        assert {link.cgroup for link in links(net.pins).values()} == {other.stat().st_ino}
        remove_cgroup(other)
        deadline = time.monotonic() + 30
        while any(link.cgroup for link in links(net.pins).values()) and time.monotonic() < deadline:
            time.sleep(0.02)
        with in_namespace("sk-node"):
            newer = open_datapath(net.pins, layout="v9")
        newer.attach_sockets(net.cgroup)
        assert links(net.pins) == {}
        newer.detach_sockets()
        newer.close()
    finally:
        net.datapath.attach_sockets(net.cgroup)
        remove_cgroup(other)
    assert {link.cgroup for link in links(net.pins).values()} == {net.cgroup.stat().st_ino}


def test_a_cgroup_that_cannot_be_used_is_named_and_nothing_is_attached(net: SocketLab, tmp_path: Path) -> None:
    try:
        for path in (tmp_path, tmp_path / "missing"):
            with pytest.raises(DatapathError, match=str(path)):
                net.datapath.attach_sockets(path)
            assert links(net.pins) == {}
        with pytest.raises(DatapathError, match="cgroup2"):
            socketlb.find_cgroup(tmp_path)
    finally:
        net.datapath.attach_sockets(net.cgroup)


def test_a_kernel_without_these_hooks_is_told_from_one_that_fails(net: SocketLab, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = probe.Feature("socket-hooks", present=False, required=False, since="5.9", use="", reason="Invalid argument")
    monkeypatch.setattr(programs, "probe", lambda name: absent if name == "socket-hooks" else probe.probe(name))
    with in_namespace("sk-node"):
        older = open_datapath(net.pins, layout="v9")
    try:
        with pytest.raises(DatapathError, match=r"no such programs \(Invalid argument\).*5\.9"):
            older.attach_sockets(net.cgroup)
        assert (older.destroy_sockets([Backend(ip_address(VIP[4]), 80, UDP)]), links(net.pins)) == (0, {})
    finally:
        older.close()
        net.datapath.attach_sockets(net.cgroup)


def test_the_nodes_cgroup_is_found_in_the_pure_and_in_the_hybrid_layout(net: SocketLab, tmp_path: Path) -> None:
    assert socketlb.find_cgroup(net.cgroup) == net.cgroup
    (tmp_path / "unified").symlink_to(net.cgroup)
    assert socketlb.find_cgroup(tmp_path) == tmp_path / "unified"


def test_a_namespace_has_a_cookie_of_its_own(net: SocketLab) -> None:
    with in_namespace("sk-node"):
        inside = netns.cookie()
    assert inside != netns.cookie() > 0
