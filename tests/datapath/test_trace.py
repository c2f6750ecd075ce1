"""The tracer on real packets: each way to lose one has its reason and its pod, a filter lets the rest pass, and it ends with its caller."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .topology import FAR, NODES, PODS, TRAFFIC, Topology, inside, running, sh
from .tracing import Document, Tracer, pod_name, start, tracer

RAW = Path(__file__).resolve().parent / "rawpacket.py"
NODE, A, B = "dp-n0", PODS["dp-p0"], PODS["dp-p1"]
SERVICE = "198.19.96.7"
NOBODYS = "198.19.96.99"  # in the Services' range
CLOSED = 9
SERVED = 8000
TCP = 6


@pytest.fixture(scope="module")
def net() -> Iterator[Topology]:
    with running("native", "auto") as topology:
        backends = [[B.address[4], SERVED]]
        for port in (80, 81):
            topology.holders[NODE].call(do="service", id=port, address=SERVICE, port=port, protocol=TCP, backends=backends)
        yield topology


@pytest.fixture(scope="module")
def drops(net: Topology) -> Iterator[Tracer]:
    with tracer(net, NODE, "drops") as found:
        yield found


@pytest.fixture(scope="module")
def connects(net: Topology) -> Iterator[Tracer]:
    with tracer(net, NODE, "connect") as found:
        yield found


def send(pod: str, kind: str, address: str, port: int) -> None:
    inside(pod, f"{sys.executable} {TRAFFIC} {kind} {address} {port}", check=False, timeout=60)


def raw(kind: str, source: str, destination: str, port: int, checksum: int = 0) -> None:
    inside(A.name, f"{sys.executable} {RAW} {kind} {source} {destination} {port} {checksum}")


def drop(reason: str, protocol: str, destination: str, port: int) -> Callable[[Document], bool]:
    def is_it(document: Document) -> bool:
        if document["type"] != "drop" or reason not in (document["reason"], document["ownReason"]):
            return False
        return (document["protocol"], document["destination"]["address"], document["destination"]["port"]) == (protocol, destination, port)

    return is_it


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_a_closed_port_is_told_with_both_pods(drops: Tracer, kind: str, family: int) -> None:
    found = drops.first(drop("NO_SOCKET", kind.upper(), B.address[family], CLOSED), lambda: send(A.name, kind, B.address[family], CLOSED))
    assert found["source"]["address"] == A.address[family]
    assert (found["source"]["pod"], found["destination"]["pod"]) == (pod_name(A.name), pod_name(B.name))
    assert (found["pod"], found["device"], found["ownReason"]) == (pod_name(B.name), "eth0", "")
    assert found["detail"] == ("SYN" if kind == "tcp" else "")


@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_a_wrong_checksum_is_told(drops: Tracer, kind: str) -> None:
    wanted = drop(f"{kind.upper()}_CSUM", kind.upper(), B.address[4], SERVED)
    found = drops.first(wanted, lambda: raw(kind, A.address[4], B.address[4], SERVED, 0xDEAD))
    assert (found["source"]["pod"], found["pod"]) == (pod_name(A.name), pod_name(B.name))
    assert found["length"] == (38 if kind == "udp" else 40)


def test_a_packet_that_the_other_end_of_the_pair_does_not_take_is_told_with_its_size(drops: Tracer) -> None:
    inside(A.name, "ip link set eth0 mtu 3000")
    try:
        wanted = lambda d: d["type"] == "drop" and d["protocol"] == "ICMP" and d["length"] == 2028  # noqa: E731
        found = drops.first(wanted, lambda: inside(A.name, f"ping -c 1 -W 1 -s 2000 -M do {B.address[4]}", check=False))
    finally:
        inside(A.name, "ip link set eth0 mtu 1500")
    assert (found["pod"], found["source"]["pod"]) == (pod_name(A.name), pod_name(A.name))
    assert found["reason"]
    assert "forward" in found["function"]
    assert found["detail"] == "type 8 code 0"


@pytest.mark.parametrize(
    ("reason", "source", "destination"), [("SPOOFED_SOURCE", "203.0.113.7", B.address[4]), ("NO_SUCH_SERVICE", A.address[4], NOBODYS)]
)
def test_a_program_of_ours_gives_its_own_reason(drops: Tracer, reason: str, source: str, destination: str) -> None:
    found = drops.first(drop(reason, "TCP", destination, SERVED), lambda: raw("tcp", source, destination, SERVED))
    assert (found["ownReason"], found["program"], found["device"]) == (reason, "FROM_POD", A.host_end)
    assert found["reason"] == "TC_INGRESS"


def test_what_another_node_of_the_machine_drops_is_not_told(net: Topology, drops: Tracer) -> None:
    other = PODS["dp-p2"]
    with tracer(net, other.node, "drops", port=CLOSED) as elsewhere:
        elsewhere.first(drop("NO_SOCKET", "UDP", other.address[4], CLOSED), lambda: send(A.name, "udp", other.address[4], CLOSED))
        drops.first(drop("NO_SOCKET", "UDP", A.address[4], CLOSED), lambda: send(other.name, "udp", A.address[4], CLOSED))
        assert not [d for d in drops.heard if d["type"] == "drop" and d["pod"] == pod_name(other.name)]
        assert not [d for d in drops.heard if drop("NO_SOCKET", "UDP", other.address[4], CLOSED)(d)]
        assert not [d for d in elsewhere.heard if drop("NO_SOCKET", "UDP", A.address[4], CLOSED)(d)]


@pytest.mark.parametrize(
    ("wanted", "hit", "miss"),
    [
        ({"port": 10}, ("udp", B.address[4], 10), ("udp", B.address[4], 11)),
        ({"protocol": 17}, ("udp", B.address[6], 12), ("tcp", B.address[6], 12)),
        ({"addresses": [B.address[6]]}, ("udp", B.address[6], 13), ("udp", B.address[4], 13)),
        ({"addresses": [FAR[4], B.address[4]]}, ("udp", B.address[4], 14), ("udp", NODES[NODE].address[4], 14)),
        ({"pod": pod_name(B.name)}, ("udp", B.address[4], 15), ("udp", NODES[NODE].address[4], 15)),
    ],
)
def test_a_filter_is_part_of_the_probe(net: Topology, wanted: Document, hit: tuple[str, str, int], miss: tuple[str, str, int]) -> None:
    with tracer(net, NODE, "drops", **wanted) as found:

        def both() -> None:
            send(A.name, *miss)
            send(A.name, *hit)

        found.first(drop("NO_SOCKET", hit[0].upper(), hit[1], hit[2]), both)
        missed = drop("NO_SOCKET", miss[0].upper(), miss[1], miss[2])
        assert not [document for document in found.heard if missed(document)]


def test_a_pods_packet_with_a_strange_address_is_the_pods_all_the_same(net: Topology) -> None:
    with tracer(net, NODE, "drops", pod=pod_name(B.name), addresses=list(B.address.values())) as found:
        found.first(drop("SPOOFED_SOURCE", "TCP", B.address[4], SERVED), lambda: raw("tcp", "203.0.113.7", B.address[4], SERVED))


def connection(asked: str, port: int, outcome: str) -> Callable[[Document], bool]:
    def is_it(document: Document) -> bool:
        if document["type"] != "connect":
            return False
        return (document["asked"]["address"], document["asked"]["port"], document["outcome"]) == (asked, port, outcome)

    return is_it


@pytest.mark.parametrize("family", [4, 6])
def test_a_connection_is_told_with_its_latency(connects: Tracer, family: int) -> None:
    found = connects.first(connection(B.address[family], SERVED, "succeeded"), lambda: send(A.name, "tcp", B.address[family], SERVED))
    assert (found["pod"], found["protocol"], found["error"]) == (pod_name(A.name), "TCP", "")
    assert found["source"]["address"] == A.address[family]
    assert found["destination"] == {"address": B.address[family], "port": SERVED, "pod": pod_name(B.name)}
    assert found["translatedBy"] == ""
    assert found["latencyMs"] > 0
    assert "python" in found["command"]


@pytest.mark.parametrize("family", [4, 6])
def test_a_refused_connection_is_told_with_its_errno(connects: Tracer, family: int) -> None:
    found = connects.first(connection(B.address[family], CLOSED, "failed"), lambda: send(A.name, "tcp", B.address[family], CLOSED))
    assert (found["error"], found["errorText"]) == ("ECONNREFUSED", "Connection refused")


def test_what_was_put_in_a_services_place_packet_by_packet_is_told(connects: Tracer) -> None:
    found = connects.first(connection(SERVICE, 80, "succeeded"), lambda: send(A.name, "tcp", SERVICE, 80))
    assert found["destination"] == {"address": B.address[4], "port": SERVED, "pod": pod_name(B.name)}
    assert found["translatedBy"] == "packets"


def test_a_datagram_socket_that_is_connected_is_told(connects: Tracer) -> None:
    wanted = connection(B.address[4], CLOSED + 1, "succeeded")
    found = connects.first(wanted, lambda: send(A.name, "udp", B.address[4], CLOSED + 1))
    assert (found["protocol"], found["pod"]) == ("UDP", pod_name(A.name))


def test_a_connection_is_told_once_though_it_is_asked_for_again_and_again(net: Topology, connects: Tracer) -> None:
    script = (
        "import socket, time; s = socket.socket(); s.setblocking(False); "
        f"[(s.connect_ex(('{B.address[4]}', 81)), time.sleep(0.01)) for _ in range(20)]"
    )
    inside(A.name, f'{sys.executable} -c "{script}"')
    refused = connection(B.address[4], 81, "failed")
    connects.first(refused, lambda: None)
    send(A.name, "tcp", B.address[4], 82)
    connects.first(connection(B.address[4], 82, "failed"))
    asked = [document for document in connects.heard if refused(document)]
    # Each attempt after a failure is one of its own; asking how one gets on is none.
    assert 1 <= len(asked) <= 20
    assert all(document["error"] == "ECONNREFUSED" for document in asked)


def test_the_filter_of_a_pod_is_for_its_connections(net: Topology) -> None:
    with tracer(net, NODE, "connect", pod=pod_name(B.name), addresses=list(B.address.values())) as found:

        def both() -> None:
            send(A.name, "tcp", NODES[NODE].address[4], SERVED)
            send(B.name, "tcp", NODES[NODE].address[4], SERVED)
            send(A.name, "tcp", B.address[4], SERVED)

        mine = lambda d: d["type"] == "connect" and d["pod"] == pod_name(B.name)  # noqa: E731
        found.first(mine, both)
        found.first(lambda d: d["type"] == "connect" and d["destination"]["pod"] == pod_name(B.name), both)
        assert not [d for d in found.heard if connection(NODES[NODE].address[4], SERVED, "succeeded")(d) and not mine(d)]


@pytest.mark.parametrize("how", ["its input ends", "it is told to end"])
def test_it_ends_with_who_asked_and_leaves_nothing_in_the_kernel(net: Topology, tmp_path: Path, how: str) -> None:
    with start(net, NODE, "drops", tmp_path, port=7) as found:
        found.ready()
        assert _programs(found) != set()
        mine = _programs(found)
        if how == "its input ends":
            assert found.process.stdin is not None
            found.process.stdin.close()
        else:
            found.say("end\n")
        assert found.process.wait(30) == 0
        assert found.heard[-1]["type"] == "end"
    end = time.monotonic() + 30
    while mine & _loaded() and time.monotonic() < end:
        time.sleep(0.1)
    assert not mine & _loaded()


def test_a_kernel_that_lacks_the_tracepoint_is_told_from_one_that_traces(net: Topology, tmp_path: Path) -> None:
    script = "import sys; from agent.trace import probe, session; probe.TRACEFS = probe.Path('/proc'); probe.mount_tracefs = lambda: None; "
    script += "from agent.trace.__main__ import main; sys.exit(main(['drops']))"
    said = sh(f'cd {RAW.parent.parent.parent} && echo begin | {sys.executable} -c "{script}"', check=False)
    assert '"type":"unsupported"' in said
    assert "skb:kfree_skb" in said


def _programs(found: Tracer) -> set[str]:
    """Ids of the tracer's programs, by its open descriptors."""
    entries = sh(f"grep -hs prog_id /proc/{found.process.pid}/fdinfo/*", check=False).splitlines()
    return {entry.split()[-1] for entry in entries}


def _loaded() -> set[str]:
    return {line.split(":")[0] for line in sh("bpftool prog show").splitlines() if line[:1].isdigit()}
