"""What the suites of Services share: a Service for a while, who asks it from where, and when all nodes have it.

The machine that holds the cluster is the outside: it sits on the nodes' link with the bridge's address. A process that enters a node's
namespaces keeps its own cgroup, so no socket hook sees it: it stands for every client that is translated packet by packet.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest

from .kube import Cluster, ask_agent, eventually, run, together, url

PODS = {"a1", "a2", "b1", "b2"}
REFUSED, TIMED_OUT = 7, 28  # curl's words; 7 is also that nobody on the link has the address

DATAGRAM = """
import socket, sys
address, port, question = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()
with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.settimeout(1)
    client.connect((address, port))
    for _ in range(20):
        try:
            client.send(question)
            print(client.recv(9999).decode())
            break
        except OSError as error:
            if isinstance(error, ConnectionRefusedError) and "refused" in sys.argv[4:]:
                print("refused")
                break
"""
"""Python for a process that asks ADDRESS PORT QUESTION by a connected socket, again for as long as nothing comes; where `refused` follows, the
error that its packet met is an answer, too."""

on = partial(pytest.mark.parametrize, "cluster", indirect=True)
everywhere = on(["native-dual", "vxlan-dual"])


@contextmanager
def service(cluster: Cluster, namespace: str, name: str, selector: dict[str, str] | None, **spec: Any) -> Iterator[dict[int, str]]:
    """A Service of dual stack, TCP 80 to 8080 and UDP 8081 unless `spec` says otherwise; family -> cluster address."""
    ports = [
        {"name": "http", "port": 80, "targetPort": 8080},
        {"name": "udp", "port": 8081, "targetPort": 8081, "protocol": "UDP"},
    ]
    body = {"ipFamilyPolicy": "PreferDualStack", "ports": ports, **({"selector": selector} if selector else {}), **spec}
    cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": body})
    try:
        addresses = cluster.get("service", "-n", namespace, name)["spec"].get("clusterIPs", [])
        yield {6 if ":" in address else 4: address for address in addresses if address != "None"}
    finally:
        cluster.kubectl("delete", "service", "-n", namespace, name, "--wait=false")


def node_port(cluster: Cluster, namespace: str, name: str, port: str = "http") -> int:
    ports = cluster.get("service", "-n", namespace, name)["spec"]["ports"]
    return next(int(entry["nodePort"]) for entry in ports if entry["name"] == port)


def outside(address: str, port: int, path: str = "/hostname", *options: str) -> str:
    """What the machine gets, or curl's exit status as text."""
    argv = ["curl", "-sS", "--globoff", "--noproxy", "*", "--max-time", "4", *options, url(address, port, path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip() if done.returncode == 0 else str(done.returncode)


def inside(cluster: Cluster, namespace: str, pod: str, address: str, port: int, path: str = "/hostname", *options: str) -> str:
    """As `outside`, from a pod."""
    script = f"curl -sS --globoff --max-time 4 {' '.join(options)} '{url(address, port, path)}' 2>/dev/null || echo $?"
    return cluster.exec(namespace, pod, "sh", "-c", script).strip()


def on_node(cluster: Cluster, node: str, address: str, port: int, path: str = "/hostname") -> str:
    """As `outside`, from a process of the node that no socket hook sees."""
    script = f"curl -sS --globoff --max-time 4 '{url(address, port, path)}' 2>/dev/null || echo $?"
    return cluster.in_member(node, "sh", "-c", script).strip()


def outside_udp(address: str, port: int, question: str = "hostname") -> str:
    """What the machine hears on a datagram; asked again for as long as nothing comes."""
    return run(sys.executable, "-c", DATAGRAM, address, str(port), question, timeout=60).strip()


@contextmanager
def resolvers(cluster: Cluster, namespace: str, clients: Sequence[str], address: str) -> Iterator[Callable[[str], str]]:
    """Pods that ask by datagrams as a resolver does, two a second, with a new socket only when the old one breaks; what one heard last."""
    questions = "while [ -e /tmp/asking ] && echo hostname; do sleep 0.5; done"
    script = f"while [ -e /tmp/asking ]; do {questions} | nc -u -q 1 -p 5533 {address} 8081; sleep 0.1; done >/tmp/heard 2>/dev/null"
    asking = []
    try:
        for client in clients:
            cluster.exec(namespace, client, "sh", "-c", ": > /tmp/heard; : > /tmp/asking")
            asking.append(cluster.kubectl_process("exec", "-n", namespace, client, "--", "timeout", "120", "sh", "-c", script))
        yield lambda client: cluster.exec(namespace, client, "tail", "-c", "30", "/tmp/heard").strip()
    finally:
        for client in clients:
            cluster.exec(namespace, client, "rm", "-f", "/tmp/asking")
        for process in asking:
            process.wait(130)  # what runs in the pod ends by itself, and has the port until then


def free_ports(count: int) -> list[int]:
    """Of the machine, for `by_source_port`."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("0.0.0.0", 0))
        return [int(each.getsockname()[1]) for each in sockets]


@contextmanager
def connected(address: str, port: int, source: tuple[str, int]) -> Iterator[socket.socket]:
    """A connection of the machine from an address and port. It ends with a reset, so that the port is free for the next at once."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.settimeout(10)
        client.bind(source)
        client.connect((address, port))
        yield client


def fetched(client: socket.socket, path: str = "/hostname") -> str:
    """The answer on a connection, which stays open."""
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: service\r\n\r\n".encode())
    answer = b""
    while not answer.partition(b"\r\n\r\n")[2]:
        part = client.recv(4096)
        assert part, answer
        answer += part
    return answer.partition(b"\r\n\r\n")[2].decode()


def by_source_port(address: str, port: int, sources: Sequence[int]) -> dict[int, str]:
    """Which pod answers the machine from each of its ports."""

    def ask(source: int) -> str:
        with connected(address, port, ("0.0.0.0", source)) as client:
            return fetched(client)

    return together({source: partial(ask, source) for source in sources})


def host_of(answer: str) -> str:
    """The address of "address:port"."""
    return answer.rsplit(":", 1)[0].strip("[]")


def served(probe: Callable[[], Any], wanted: Any, what: str = "", within: float = 30) -> None:
    """Wait until the probe's answer is the wanted one; the failure says what it was last."""
    seen: list[Any] = []
    try:
        eventually(lambda: seen.append(probe()) or seen[-1] == wanted, within=within, what=what)
    except AssertionError as error:
        raise AssertionError(f"{what} is not {wanted} within {within} s, but {seen[-1:]}") from error


def listed(cluster: Cluster, node: str, namespace: str, name: str) -> list[Any]:
    """What a node's agent says of a Service: a row a port and family."""
    found = ask_agent(cluster, node, f"services {namespace}/{name}")
    assert isinstance(found, list)
    return found


def settled(cluster: Cluster, namespace: str, name: str, count: int) -> None:
    """Every node's agent has the Service in its tables with that many backends a port and family."""

    def known(node: str) -> bool:
        rows = listed(cluster, node, namespace, name)
        return bool(rows) and all(len(row["backends"]) == count and all(f["id"] for f in row["frontends"]) for row in rows)

    for node in cluster.nodes():
        eventually(lambda node=node: known(node), every=0.1, what=f"{name} with {count} backends on {node}")


def everyone(cluster: Cluster, namespace: str, address: str, port: int, path: str = "/hostname") -> dict[str, str]:
    """The answer to each kind of client inside of the cluster.

    What a process sends to an address of its own node does not pass the node's device: there only the socket's hooks serve it.
    """
    first = cluster.nodes()[0]
    clients = {
        "pod": lambda: inside(cluster, namespace, "a2", address, port, path),
        "far pod": lambda: inside(cluster, namespace, "b2", address, port, path),
        "host-network pod": lambda: inside(cluster, namespace, "host-a", address, port, path),
        "node": lambda: on_node(cluster, first, address, port, path),
    }
    if address in {cluster.node_address(first, family) for family in cluster.families}:
        del clients["node"]
        if not socket_lb(cluster):
            del clients["host-network pod"]
    return together(clients)


def socket_lb(cluster: Cluster) -> bool:
    return bool(cluster.spec["dataplane"].get("socketLB", True))


def free_address(cluster: Cluster, number: int) -> str:
    """One on the nodes' link that nobody has: what is sent to it by mistake goes nowhere."""
    return cluster.node_address(cluster.nodes()[0]).rsplit(".", 1)[0] + f".{number}"


def balancer(cluster: Cluster, namespace: str, name: str, families: Sequence[int] = ()) -> dict[int, str]:
    """Family -> the load balancer's address, once there is one for each (by default all that the cluster has)."""

    def given() -> dict[int, str]:
        rows = cluster.get("service", "-n", namespace, name)["status"]["loadBalancer"].get("ingress", [])
        found = {6 if ":" in row["ip"] else 4: row["ip"] for row in rows}
        return found if set(found) == set(families or cluster.families) else {}

    found = eventually(given, what=f"an address for {name}")
    assert isinstance(found, dict)
    return found
