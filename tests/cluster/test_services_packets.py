"""Services packet by packet: fragments, errors that speak of a packet that was translated, packets too large, ports that collide."""

from __future__ import annotations

import errno
import json
import shlex
import socket
import sys
from contextlib import ExitStack
from functools import partial

from .kube import Cluster, container_pid, drops, eventually, run, udp_ask
from .service_kit import DATAGRAM, connected, everywhere, fetched, free_address, free_ports, node_port, on, outside_udp, service, settled

LARGE = "echo " + "x" * 1900
"""Two fragments over every link that there is, there and back; agnhost takes no more than 2 KiB."""
SILENT = 4099
"""A port at which no pod listens."""
# <linux/in.h>, <linux/in6.h>: socket's module does not have them all.
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, ALWAYS = 10, 23, 2


@everywhere
def test_a_datagram_in_fragments_finds_the_backend_and_so_does_its_answer(cluster: Cluster, playground: str) -> None:
    question, answer = shlex.quote(LARGE), LARGE.removeprefix("echo ")
    for target in ("a1", "b1"):
        with service(cluster, playground, "large", {"app": target}, type="NodePort") as addresses:
            settled(cluster, playground, "large", 1)
            port = node_port(cluster, playground, "large", "udp")
            for family, address in addresses.items():
                for client in ("a2", "host-a"):
                    assert udp_ask(cluster, playground, client, address, 8081, question) == answer
                for node in cluster.nodes()[:2]:
                    assert outside_udp(cluster.node_address(node, family), port, LARGE) == answer


@everywhere
def test_an_error_about_a_translated_packet_reaches_whoever_sent_it(cluster: Cluster, playground: str) -> None:
    """A backend's pod has no socket at the port: its ICMP error names the packet as it was translated, and the client knows only the Service.

    Processes in a pod's network but outside of its cgroup stand for clients that no socket hook sees.
    """
    asked = ("hostname", "refused")
    ports = [
        {"name": "closed", "port": 7000, "targetPort": SILENT, "protocol": "UDP"},
        {"name": "open", "port": 8081, "targetPort": 8081, "protocol": "UDP"},
    ]
    for target in ("a1", "b1"):
        with service(cluster, playground, "closed", {"app": target}, type="NodePort", ports=ports) as addresses:
            settled(cluster, playground, "closed", 1)
            closed, open_ = (node_port(cluster, playground, "closed", name) for name in ("closed", "open"))
            for family, address in addresses.items():
                for node, client in zip(cluster.nodes(), ("a2", "b2"), strict=False):
                    inner = container_pid(cluster, node, cluster.pod(playground, client))
                    from_pod = partial(cluster.in_member, node, "nsenter", "-t", inner, "-n", "python3", "-c", DATAGRAM, address)
                    assert from_pod("7000", *asked).strip() == "refused"
                    assert from_pod("8081", *asked).strip() == target
                for node in cluster.nodes()[:2]:
                    from_outside = partial(run, sys.executable, "-c", DATAGRAM, cluster.node_address(node, family))
                    assert from_outside(str(closed), *asked).strip() == "refused"
                    assert from_outside(str(open_), *asked).strip() == target


def heard(client: socket.socket, size: int) -> bytes | int:
    """The answer to so large a datagram, or the number of the error; 0 for silence."""
    try:
        client.send(b"hostname".ljust(size))
        return client.recv(99)
    except OSError as error:
        return error.errno or 0


@on(["vxlan-dual"])
def test_a_packet_from_outside_that_the_tunnel_cannot_carry_is_answered_with_the_mtu(cluster: Cluster, playground: str) -> None:
    """Whoever may not be cut up is told how large it may be, about the packet that it sent, and is then heard."""
    with service(cluster, playground, "far", {"app": "b1"}, type="NodePort"):
        settled(cluster, playground, "far", 1)
        port = node_port(cluster, playground, "far", "udp")
        for family in cluster.families:
            near = cluster.node_address(cluster.nodes()[0], family)
            headers = 28 if family == 4 else 48
            level, option = (socket.IPPROTO_IP, IP_MTU_DISCOVER) if family == 4 else (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER)
            link = json.loads(run("ip", "-j", "route", "get", near))[0]["dev"]
            mtu = json.loads(run("ip", "-j", "link", "show", link))[0]["mtu"]
            with socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as client:
                client.settimeout(1)
                client.setsockopt(level, option, ALWAYS)
                client.connect((near, port))
                whole, fits = partial(heard, client, mtu - headers), partial(heard, client, mtu - headers - 50)
                try:
                    eventually(lambda ask=whole: ask() == errno.EMSGSIZE, what="the path's MTU")
                    eventually(lambda ask=fits: ask() == b"b1", what="an answer to what fits")
                finally:
                    run("ip", "-6" if family == 6 else "-4", "route", "flush", "cache")


@everywhere
def test_clients_of_one_port_behind_one_node_are_told_apart(cluster: Cluster, playground: str) -> None:
    """Both come from the node's address at the backend, and only one of them can have the port that both had."""
    first = cluster.nodes()[0]
    bridge = json.loads(run("ip", "-j", "route", "get", cluster.node_address(first)))[0]
    extra = free_address(cluster, 184)
    with service(cluster, playground, "far", {"app": "b1"}, type="NodePort"), ExitStack() as stack:
        settled(cluster, playground, "far", 1)
        port = node_port(cluster, playground, "far")
        run("ip", "address", "replace", f"{extra}/32", "dev", bridge["dev"])
        stack.callback(partial(run, "ip", "address", "del", f"{extra}/32", "dev", bridge["dev"]))
        (number,) = free_ports(1)
        talks = [
            stack.enter_context(connected(cluster.node_address(first), port, (source, number))) for source in (bridge["prefsrc"], extra)
        ]
        seen = {fetched(talk, "/clientip") for talk in talks for _ in range(3)}
        hosts = {each.rsplit(":", 1)[0] for each in seen}
        assert hosts == {cluster.node_address(first)}
        assert len(seen) == 2, "each has a port of its own, and keeps it"


# In a pod's network and outside of its cgroup, so that no socket hook sees it: one port, two Services, and the first once more.
_SHARED_PORT = """
import socket, sys

def connected(address):
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    client.settimeout(4)
    client.bind(("", int(sys.argv[1])))
    client.connect((address, 80))
    return client

def fetched(client):
    client.sendall(b"GET /hostname HTTP/1.1\\r\\nHost: service\\r\\n\\r\\n")
    return client.recv(4096).partition(b"\\r\\n\\r\\n")[2].decode()

first = connected(sys.argv[2])
print(fetched(first))
try:
    print(fetched(connected(sys.argv[3])))
except TimeoutError:
    print("dropped")
print(fetched(first))
"""


@everywhere
def test_a_port_that_two_services_share_with_one_backend_is_not_mixed_up(cluster: Cluster, playground: str) -> None:
    """The second connection would have the very addresses and ports of the first: it gets another backend, or nothing."""
    node = cluster.nodes()[0]
    pod = container_pid(cluster, node, cluster.pod(playground, "a2"))
    http = [{"name": "http", "port": 80, "targetPort": 8080}]
    with (
        service(cluster, playground, "left", {"app": "b1"}, ports=http) as left,
        service(cluster, playground, "right", {"app": "b1"}, ports=http) as right,
        service(cluster, playground, "wide", {"group": "web"}, ports=http) as wide,
    ):
        for name, count in (("left", 1), ("right", 1), ("wide", 4)):
            settled(cluster, playground, name, count)

        def asked(number: int, second: str) -> list[str]:
            argv = ["python3", "-c", _SHARED_PORT, str(24320 + number), left[4], second]
            return cluster.in_member(node, "nsenter", "-t", pod, "-n", *argv).split()

        # Chance leads one in four to the backend that is taken.
        for number in range(12):
            first, other, again = asked(number, wide[4])
            assert (first, again) == ("b1", "b1")
            assert other in {"a1", "a2", "b2"}
        before = drops(cluster, node, "SERVICE_COLLISION")
        assert asked(12, right[4]) == ["b1", "dropped", "b1"]
        assert drops(cluster, node, "SERVICE_COLLISION") > before
