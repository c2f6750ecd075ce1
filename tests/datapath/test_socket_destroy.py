"""Connected UDP sockets that point at a backend that is gone: ended in every namespace of the node, and no others."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from agent.datapath import netns
from agent.datapath.abi import Backend
from agent.datapath.errors import DatapathError
from agent.datapath.netlink import Netlink, NetlinkError

from .lab import in_namespace
from .socket_lab import BACKENDS, PORT, TCP, UDP, VIP, WAYS, Socket, SocketLab, Way, socket_lab

BY_WAY = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
PATHS = ["/run/netns/sk-pod", "/run/netns/sk-gone", "/var/run/netns/sk-pod"]


@pytest.fixture(scope="module")
def everything() -> Iterator[SocketLab]:
    with socket_lab("sk-destroy") as found:
        found.datapath.pod_namespaces = lambda: PATHS
        yield found


@pytest.fixture
def net(everything: SocketLab) -> SocketLab:
    everything.forget()
    return everything


@pytest.fixture
def opened() -> Iterator[list[Socket]]:
    """Sockets to be closed afterwards."""
    found: list[Socket] = []
    yield found
    for each in found:
        each.close()


def destroy(net: SocketLab, *ends: tuple[str, int], protocol: int = UDP) -> int:
    with in_namespace("sk-node"):
        return net.datapath.destroy_sockets([Backend(ip_address(address), port, protocol) for address, port in ends])


def is_aborted(connected: Socket) -> bool:
    """Whether it lost its peer, and says so once."""
    try:
        connected.send("?")
    except OSError as error:
        assert error.errno == errno.EDESTADDRREQ
    else:
        return False
    with pytest.raises(ConnectionAbortedError):
        connected.recv(10)
    return True


@BY_WAY
def test_sockets_that_point_at_the_backend_are_ended_on_the_node_and_in_pods(net: SocketLab, way: Way, opened: list[Socket]) -> None:
    first, second = BACKENDS[way.family]
    net.service(VIP[way.family], 80, UDP, [(first, PORT)])
    gone = [net.workers[client].connect(way, UDP, VIP[way.family], 80) for client in ("pod", "node")]
    net.service(VIP[way.family], 80, UDP, [(second, PORT)])
    kept = [net.workers[client].connect(way, UDP, VIP[way.family], 80) for client in ("pod", "node")]
    opened += gone + kept
    assert {each.ask()[0] for each in gone} == {first}
    assert destroy(net, (first, PORT)) == 2
    assert [is_aborted(each) for each in gone] == [True, True]
    assert {each.ask()[0] for each in kept} == {second}
    assert destroy(net, (first, PORT)) == 0


@BY_WAY
def test_who_waits_for_an_answer_is_woken(net: SocketLab, way: Way, opened: list[Socket]) -> None:
    net.service(VIP[way.family], 80, UDP, [(BACKENDS[way.family][0], PORT)])
    waiting = net.workers["pod"].connect(way, UDP, VIP[way.family], 80)
    opened.append(waiting)
    waiting.settimeout(30)
    waiting.worker.send(call="recv", on=waiting.number, **{"with": [10]})
    assert destroy(net, (BACKENDS[way.family][0], PORT)) == 1
    with pytest.raises(ConnectionAbortedError):
        waiting.worker.answer()


@BY_WAY
def test_an_ended_socket_can_be_connected_again(net: SocketLab, way: Way, opened: list[Socket]) -> None:
    first, second = BACKENDS[way.family]
    net.service(VIP[way.family], 80, UDP, [(first, PORT)])
    connected = net.workers["pod"].connect(way, UDP, VIP[way.family], 80)
    opened.append(connected)
    assert destroy(net, (first, PORT)) == 1
    assert is_aborted(connected)
    net.service(VIP[way.family], 80, UDP, [(second, PORT)])
    connected.connect((way.spell(VIP[way.family]), 80))
    assert connected.ask()[0] == second


@BY_WAY
def test_others_are_left_alone(net: SocketLab, way: Way, opened: list[Socket]) -> None:
    first, second = BACKENDS[way.family]
    vip, pod = VIP[way.family], net.workers["pod"]
    for id_, (port, protocol, end) in enumerate([(80, UDP, first), (81, UDP, second), (82, TCP, first)], start=1):
        net.service(vip, port, protocol, [(end, PORT)], id_=id_)
    direct = pod.connect(way, UDP, first, PORT)
    another_backend = pod.connect(way, UDP, vip, 81)
    stream = pod.connect(way, TCP, vip, 82)
    unconnected = pod.open(way, UDP)
    opened += [direct, another_backend, stream, unconnected]
    assert unconnected.ask_at(way.spell(vip), 80)[0][0] == first
    assert destroy(net, (first, PORT)) == 0
    assert destroy(net, (second, PORT), protocol=TCP) == 0
    assert destroy(net, (second, PORT + 1)) == 0
    assert [each.ask()[0] for each in (direct, another_backend, stream)] == [first, second, first]
    assert unconnected.ask_at(way.spell(vip), 80)[0][0] == first


@BY_WAY
def test_who_left_the_service_for_another_peer_is_left_alone(net: SocketLab, way: Way, opened: list[Socket]) -> None:
    first, second = BACKENDS[way.family]
    net.service(VIP[way.family], 80, UDP, [(first, PORT)])
    moved = net.workers["pod"].connect(way, UDP, VIP[way.family], 80)
    opened.append(moved)
    moved.connect((way.spell(second), PORT))
    assert destroy(net, (first, PORT), (second, PORT)) == 0
    assert moved.ask()[0] == second


def test_it_is_not_forgotten_who_was_connected_long_ago(net: SocketLab, opened: list[Socket]) -> None:
    """What a socket is told about its peer may be, with the oldest rows of a full table."""
    net.service(VIP[4], 80, UDP, [(BACKENDS[4][0], PORT)])
    opened.append(net.workers["pod"].connect(WAYS[0], UDP, VIP[4], 80))
    assert net.datapath.socket_flows is not None
    net.datapath.socket_flows.clear()
    assert destroy(net, (BACKENDS[4][0], PORT)) == 1
    assert is_aborted(opened[0])


def test_sockets_that_share_one_address_and_port_are_ended_one_by_one(net: SocketLab, opened: list[Socket]) -> None:
    net.service(VIP[4], 80, UDP, [(BACKENDS[4][0], PORT)])
    for _ in range(3):
        each = net.workers["pod"].open(WAYS[0], UDP)
        opened.append(each)
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        each.bind(("0.0.0.0", 5353))
        each.connect((VIP[4], 80))
    ended = [destroy(net, (BACKENDS[4][0], PORT)) for _ in range(3)]
    assert sum(ended) == 3
    assert all(is_aborted(each) for each in opened)


def test_many_are_ended_at_once(net: SocketLab, opened: list[Socket]) -> None:
    for way in WAYS:
        net.service(VIP[way.family], 80, UDP, net.both(way.family), id_=way.family)
        opened += [net.workers["pod"].connect(way, UDP, VIP[way.family], 80) for _ in range(200)]
    assert destroy(net, *[(address, PORT) for family in (4, 6) for address in BACKENDS[family]]) == 600
    assert all(is_aborted(each) for each in opened)


def test_namespaces_that_cannot_be_searched_are_named_and_the_others_are_searched(
    net: SocketLab, opened: list[Socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    net.service(VIP[4], 80, UDP, [(BACKENDS[4][0], PORT)])
    opened.append(net.workers["pod"].connect(WAYS[0], UDP, VIP[4], 80))
    with in_namespace("sk-node"):
        node = netns.cookie()
    real = Netlink.request

    def request(self: Netlink, kind: int, flags: int, body: bytes, doing: str) -> list[bytes]:
        if netns.cookie() == node:
            raise NetlinkError(errno.EPERM, f"{doing}: Operation not permitted")
        return real(self, kind, flags, body, doing)

    monkeypatch.setattr(Netlink, "request", request)
    with pytest.raises(DatapathError, match=r"the node: .*not permitted"):
        destroy(net, (BACKENDS[4][0], PORT))
    monkeypatch.undo()
    assert is_aborted(opened[0])


def test_rows_go_with_their_sockets(net: SocketLab) -> None:
    net.service(VIP[4], 80, UDP, net.both(4))
    table = net.datapath.socket_backends
    assert table is not None
    before = set(dict(table.items()))
    connected = net.workers["pod"].connect(WAYS[0], UDP, VIP[4], 80)
    (made,) = set(dict(table.items())) - before
    assert table.get(made) in [Backend(ip_address(address), PORT, UDP) for address in BACKENDS[4]]
    connected.close()
    assert table.get(made) is None


def test_without_backends_or_sockets_there_is_nothing_to_end(net: SocketLab) -> None:
    assert destroy(net) == 0
    assert destroy(net, ("198.19.42.99", 1)) == 0
