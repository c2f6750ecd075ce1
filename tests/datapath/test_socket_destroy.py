"""Connected UDP sockets that point at a backend that is gone: ended in every namespace of the node, and no others."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from agent.datapath import netns, sockets
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
    waiting = net.workers["pod"].connect(way, UDP, BACKENDS[way.family][0], PORT)
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
    pod = net.workers["pod"]
    another_port = pod.connect(way, UDP, first, PORT + 1)
    another_backend = pod.connect(way, UDP, second, PORT)
    stream = pod.connect(way, TCP, first, PORT)
    unconnected = pod.open(way, UDP)
    opened += [another_port, another_backend, stream, unconnected]
    assert unconnected.ask_at(way.spell(first), PORT)[0][0] == first
    assert destroy(net, (first, PORT)) == 0
    assert destroy(net, (second, PORT), protocol=TCP) == 0
    another_port.send("?")
    assert [each.ask()[0] for each in (another_backend, stream)] == [second, first]
    assert unconnected.ask_at(way.spell(first), PORT)[0][0] == first


def test_sockets_that_share_one_address_and_port_are_ended_one_by_one(net: SocketLab, opened: list[Socket]) -> None:
    for _ in range(3):
        each = net.workers["pod"].open(WAYS[0], UDP)
        each.setsockopt(1, 15, 1)  # SO_REUSEPORT
        each.bind(("0.0.0.0", 5353))
        each.connect((BACKENDS[4][0], PORT))
        opened.append(each)
    assert destroy(net, (BACKENDS[4][0], PORT)) == 3
    assert destroy(net, (BACKENDS[4][0], PORT)) == 0


def test_many_are_ended_at_once(net: SocketLab, opened: list[Socket]) -> None:
    for way in WAYS:
        for address in BACKENDS[way.family]:
            opened += [net.workers["pod"].connect(way, UDP, address, PORT) for _ in range(100)]
    assert destroy(net, *[(address, PORT) for family in (4, 6) for address in BACKENDS[family]]) == 600
    assert all(is_aborted(each) for each in opened)


def test_namespaces_that_cannot_be_searched_are_named_and_the_others_are_searched(
    net: SocketLab, opened: list[Socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.append(net.workers["pod"].connect(WAYS[0], UDP, BACKENDS[4][0], PORT))
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


def test_no_backend_and_no_socket_is_no_work(net: SocketLab) -> None:
    assert net.datapath.destroy_sockets([]) == 0
    assert sockets.destroy_udp({(ip_address("198.19.42.99"), 1)}, PATHS) == 0
