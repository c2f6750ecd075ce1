"""`provisioner trace` on a real cluster: lost packets with pod and reason, connections with whom they reached, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from .kube import Cluster, container_pid, eventually, run, toolbox_pod

on = partial(pytest.mark.parametrize, "cluster", indirect=True)
both = on(["native-ipv4", "vxlan-dual"])  # where a Service is translated at the socket, and where packet by packet

Document = dict[str, Any]
RAW = Path(__file__).resolve().parent.parent / "datapath" / "rawpacket.py"
CLOSED, SERVED, SOURCE_PORT = 9, 8081, 4242
WITHIN = 60.0
LABEL = "app=provisioner-trace"


class Trace:
    """A command that runs: `heard` is what it printed so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.heard: list[Document] = []
        self.notes: list[str] = []
        for stream, take in ((process.stdout, lambda line: self.heard.append(json.loads(line))), (process.stderr, self.notes.append)):
            threading.Thread(target=self._read, args=(stream, take), daemon=True).start()

    @staticmethod
    def _read(stream: Any, take: Callable[[str], None]) -> None:
        for line in stream:
            take(line.rstrip())

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.notes
        return any(note.startswith("Tracing on") for note in self.notes)

    def first(self, wanted: Callable[[Document], bool], doing: Callable[[], object]) -> Document:
        """The first line that is wanted; until it is there, `doing` is done again and again."""
        end = time.monotonic() + WITHIN
        while time.monotonic() < end:
            doing()
            again = time.monotonic() + 1
            while time.monotonic() < again:
                for document in list(self.heard):
                    if wanted(document):
                        return document
                time.sleep(0.05)
        raise AssertionError(f"not heard within {WITHIN} s; heard: {json.dumps(self.heard[-20:], indent=1)}; {self.notes}")


@contextmanager
def trace(cluster: Cluster, kind: str, *arguments: str) -> Iterator[Trace]:
    argv = [cluster.provisioner, "trace", kind, cluster.name, "--output", "json", *arguments]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)
    found = Trace(process)
    try:
        eventually(found.is_ready, within=300, what="all nodes to be traced")  # the first needs the image
        yield found
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            finally:
                process.kill()


@pytest.fixture(scope="module")
def drops(cluster: Cluster) -> Iterator[Trace]:
    with trace(cluster, "drops") as found:
        yield found


@pytest.fixture(scope="module")
def connects(cluster: Cluster) -> Iterator[Trace]:
    with trace(cluster, "connect") as found:
        yield found


def in_pod(cluster: Cluster, namespace: str, name: str, *command: str) -> None:
    """Run a program of the node's in a pod's network namespace."""
    pod = cluster.pod(namespace, name)
    node = pod["spec"]["nodeName"]
    cluster.in_member(node, "nsenter", "-t", container_pid(cluster, node, pod), "-n", "--", *command, check=False)


def raw_packet(cluster: Cluster, namespace: str, client: str, *arguments: str) -> None:
    in_pod(cluster, namespace, client, "/usr/bin/python3", "-c", RAW.read_text(), *arguments)


def drop(destination: str, port: int, *reasons: str) -> Callable[[Document], bool]:
    def is_it(document: Document) -> bool:
        if document["type"] != "drop" or not {document["reason"], document["ownReason"]} & set(reasons):
            return False
        return (document["destination"]["address"], document["destination"]["port"]) == (destination, port)

    return is_it


@both
@pytest.mark.parametrize("server", ["a2", "b1"], ids=["same-node", "other-node"])
def test_a_packet_to_a_closed_port(cluster: Cluster, playground: str, drops: Trace, server: str) -> None:
    for address in cluster.pod_addresses(playground, server).values():

        def ask(address: str = address) -> None:
            cluster.exec(playground, "a1", "sh", "-c", f"echo question | nc -u -w 1 {address} {CLOSED}", check=False)

        found = drops.first(drop(address, CLOSED, "NO_SOCKET"), ask)
        assert (found["protocol"], found["ownReason"]) == ("UDP", "")
        assert (found["pod"], found["destination"]["pod"]) == (f"{playground}/{server}", f"{playground}/{server}")
        assert found["source"]["pod"] == f"{playground}/a1"
        assert found["node"] == cluster.pod(playground, server)["spec"]["nodeName"]


@both
@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_a_packet_with_a_wrong_checksum(cluster: Cluster, playground: str, drops: Trace, kind: str) -> None:
    source, destination = (cluster.pod_addresses(playground, name)[4] for name in ("a1", "b1"))
    found = drops.first(
        drop(destination, SERVED, f"{kind.upper()}_CSUM"),
        lambda: raw_packet(cluster, playground, "a1", kind, source, destination, str(SERVED), "0xdead"),
    )
    assert found["pod"] == f"{playground}/b1"
    assert (found["source"]["pod"], found["source"]["port"]) == (f"{playground}/a1", SOURCE_PORT)


@both
def test_a_packet_that_is_too_large(cluster: Cluster, playground: str, drops: Trace) -> None:
    destination = cluster.pod_addresses(playground, "b1")[4]
    mtu = cluster.exec(playground, "a2", "cat", "/sys/class/net/eth0/mtu").strip()
    in_pod(cluster, playground, "a2", "ip", "link", "set", "eth0", "mtu", "9000")
    try:
        found = drops.first(
            lambda d: (
                d["type"] == "drop" and d["protocol"] == "ICMP" and d["length"] == 4028 and d["destination"]["address"] == destination
            ),
            lambda: in_pod(cluster, playground, "a2", "ping", "-c", "1", "-W", "1", "-M", "do", "-s", "4000", destination),
        )
    finally:
        in_pod(cluster, playground, "a2", "ip", "link", "set", "eth0", "mtu", mtu)
    assert (found["pod"], found["source"]["pod"]) == (f"{playground}/a2", f"{playground}/a2")
    # This kernel gives no reason here, but the function does: it hands a packet to the other end of a pair.
    assert (found["reason"], "dev_forward" in found["function"]) == ("NOT_SPECIFIED", True)


@both
def test_a_packet_that_our_programs_drop_has_their_reason(cluster: Cluster, playground: str, drops: Trace) -> None:
    destination = cluster.pod_addresses(playground, "b1")[4]
    found = drops.first(
        drop(destination, SERVED, "SPOOFED_SOURCE"),
        lambda: raw_packet(cluster, playground, "a1", "udp", "203.0.113.9", destination, str(SERVED)),
    )
    # Whose it is, the device says: the address is nobody's.
    assert (found["pod"], found["program"], found["reason"]) == (f"{playground}/a1", "FROM_POD", "TC_INGRESS")
    assert found["destination"]["pod"] == f"{playground}/b1"


@pytest.fixture(scope="module")
def isolated(cluster: Cluster) -> Iterator[str]:
    """A namespace with a client, a server that nobody may reach, and one that may reach nobody, on different nodes."""
    first, second = cluster.nodes()[:2]
    with cluster.namespace("isolated") as namespace:
        pods = [toolbox_pod(cluster, name, node) for name, node in (("client", first), ("closed", second), ("silent", first))]
        policies = [
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"name": name},
                "spec": {"podSelector": {"matchLabels": {"app": name}}, "policyTypes": [direction]},
            }
            for name, direction in (("closed", "Ingress"), ("silent", "Egress"))
        ]
        for item in (*pods, *policies):
            item["metadata"]["namespace"] = namespace
        cluster.apply(*policies, *pods)
        cluster.wait_ready(namespace, "client", "closed", "silent", within=120)
        yield namespace


@both
@pytest.mark.parametrize(
    ("client", "server", "reason", "program"),
    [
        ("client", "closed", "INGRESS_DENIED", ("FROM_NETDEV", "FROM_OVERLAY", "TO_POD")),
        ("silent", "client", "EGRESS_DENIED", ("FROM_POD",)),
    ],
)
def test_a_packet_that_a_policy_denies(
    cluster: Cluster, isolated: str, drops: Trace, client: str, server: str, reason: str, program: tuple[str, ...]
) -> None:
    for address in cluster.pod_addresses(isolated, server).values():

        def ask(address: str = address) -> None:
            cluster.exec(isolated, client, "sh", "-c", f"echo question | nc -u -w 1 {address} {SERVED}", check=False)

        ends = (f"{isolated}/{client}", f"{isolated}/{server}")  # younger than the trace: the first line may come before their names
        denied = drop(address, SERVED, reason)
        found = drops.first(lambda d, denied=denied, ends=ends: denied(d) and (d["source"]["pod"], d["destination"]["pod"]) == ends, ask)
        assert found["program"] in program
        assert found["policySet"] > 0
        assert found["node"] == cluster.pod(isolated, client if reason == "EGRESS_DENIED" else server)["spec"]["nodeName"]


def connection(client: str, address: str, port: int, outcome: str) -> Callable[[Document], bool]:
    def is_it(document: Document) -> bool:
        if document["type"] != "connect" or document["pod"] != client:
            return False
        return (document["asked"]["address"], document["asked"]["port"], document["outcome"]) == (address, port, outcome)

    return is_it


def curl(cluster: Cluster, namespace: str, pod: str, address: str, port: int) -> None:
    host = f"[{address}]" if ":" in address else address
    cluster.exec(namespace, pod, "curl", "-s", "-m", "5", f"http://{host}:{port}/hostname", check=False)


@both
def test_a_connection_has_its_latency_and_names_both_ends(cluster: Cluster, playground: str, connects: Trace) -> None:
    for address in cluster.pod_addresses(playground, "b1").values():
        wanted = connection(f"{playground}/a1", address, 8080, "succeeded")
        found = connects.first(wanted, lambda address=address: curl(cluster, playground, "a1", address, 8080))
        assert 0 < found["latencyMs"] < 60000
        assert (found["command"], found["error"], found["translatedBy"]) == ("curl", "", "")
        assert found["destination"]["pod"] == f"{playground}/b1"


@both
def test_a_refused_connection_has_its_errno(cluster: Cluster, playground: str, connects: Trace) -> None:
    address = cluster.pod_addresses(playground, "b1")[4]
    wanted = connection(f"{playground}/a1", address, CLOSED, "failed")
    found = connects.first(wanted, lambda: curl(cluster, playground, "a1", address, CLOSED))
    assert (found["error"], found["errorText"]) == ("ECONNREFUSED", "Connection refused")


@both
def test_a_connection_to_a_service_names_the_service_and_the_backend(cluster: Cluster, playground: str, connects: Trace) -> None:
    backends = {address for name in ("a1", "a2", "b1", "b2") for address in cluster.pod_addresses(playground, name).values()}
    for address in cluster.get("service", "-n", playground, "web")["spec"]["clusterIPs"]:
        wanted = connection(f"{playground}/a1", address, 80, "succeeded")
        found = connects.first(wanted, lambda address=address: curl(cluster, playground, "a1", address, 80))
        assert found["asked"]["service"] == f"{playground}/web"
        assert found["destination"]["address"] in backends
        assert found["destination"]["port"] == 8080
        assert found["destination"]["pod"].startswith(f"{playground}/")
        assert found["translatedBy"] == ("packets" if cluster.spec["dataplane"].get("socketLB") is False else "socket")


@both
def test_a_pods_trace_is_of_that_pod_and_ends_by_itself_with_a_table(cluster: Cluster, playground: str) -> None:
    address = cluster.pod_addresses(playground, "a2")[4]
    other = cluster.pod_addresses(playground, "b1")[4]
    asking = threading.Event()

    def ask() -> None:
        while not asking.wait(0.2):
            for to in (address, other):
                cluster.exec(playground, "a1", "sh", "-c", f"echo question | nc -u -w 1 {to} {CLOSED}", check=False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        text = run(cluster.provisioner, "trace", "drops", cluster.name, "--pod", f"{playground}/a2", "--duration", "15s", timeout=300)
    finally:
        asking.set()
        thread.join(60)
    head, *lines = text.splitlines()
    assert head.split() == ["TIME", "NODE", "PROTO", "SOURCE", "DESTINATION", "REASON"]
    shown, table = lines[: lines.index("")], lines[lines.index("") + 1 :]
    assert any(f"{address}:{CLOSED} {playground}/a2" in line and f"NO_SOCKET: in {playground}/a2" in line for line in shown)
    assert not any(other in line for line in shown)
    assert table[0].split() == ["REASON", "BY", "PACKETS", "MEANS"]
    assert any(line.split()[:2] == ["NO_SOCKET", "kernel"] and "nobody listens" in line for line in table)


@both
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--node", "nowhere"), 6, "no node nowhere"),
        (("--pod", "default/nobody"), 6, "no pod nobody"),
        (("--address", "somewhere"), 3, "is no IP address"),
        (("--protocol", "carrier-pigeon"), 3, "there is no protocol"),
    ],
)
def test_what_cannot_be_traced_is_said(cluster: Cluster, arguments: tuple[str, ...], code: int, said: str) -> None:
    argv = [cluster.provisioner, "trace", "drops", cluster.name, *arguments, "--output", "json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stderr
    assert said in json.loads(done.stderr.splitlines()[-1])["error"]["message"]


# A process of the tracer has this as one whole argument; the shell and the grep that look have not.
PROCESSES = "grep -lsazx 'agent[.]trace' /proc/[0-9]*/cmdline; true"
REMNANTS = "ctr -n k8s.io containers ls | grep /tracer: ; ls /var/log/pods /var/log/containers | grep provisioner-trace; true"


def on_nodes(nodes: dict[str, int], look: str) -> set[str]:
    """What a script finds on the nodes, which are given with the pid of their PID 1."""
    found: set[str] = set()
    for node, pid in nodes.items():
        found |= {f"{node}: {line}" for line in run("nsenter", "-t", str(pid), "-a", "--", "sh", "-c", look).splitlines()}
    return found


def alive(cluster: Cluster, nodes: dict[str, int]) -> set[str]:
    """Objects and processes of tracers."""
    objects = cluster.kubectl("get", "jobs,pods", "-n", "kube-system", "-l", LABEL, "-o", "name").splitlines()
    return set(objects) | on_nodes(nodes, PROCESSES)


@on(["native-ipv4"])
def test_nothing_is_left_on_a_node_however_the_command_ends(cluster: Cluster, playground: str) -> None:
    nodes = {node: cluster.member_pid(node) for node in cluster.nodes()}
    before, remnants = alive(cluster, nodes), on_nodes(nodes, REMNANTS)  # other tests' tracers may be there
    for how in (signal.SIGINT, signal.SIGKILL):
        with trace(cluster, "drops") as found:
            assert {line.split(":")[0] for line in alive(cluster, nodes) - before if "/proc/" in line} == set(nodes)
            os.kill(found.process.pid, how)
            assert found.process.wait(60) == (-signal.SIGKILL if how == signal.SIGKILL else 0)
            if how == signal.SIGINT:
                eventually(lambda heard=found.heard: heard and heard[-1]["type"] == "summary", what="the table at the end")
        eventually(lambda: not alive(cluster, nodes) - before, within=90, every=1, what="no tracer left")
    # kubelet takes away what has ended once a minute.
    eventually(lambda: not on_nodes(nodes, REMNANTS) - remnants, within=180, every=2, what="nothing left of the tracers")
