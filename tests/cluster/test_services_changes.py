"""Services while something changes: affinity as backends go, datagrams as ports move, the agent killed as it writes, no API server."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial
from typing import Any

from .kube import AGENT_BACK, Cluster, agent_process, container_pid, eventually, program_of, run, status, together, toolbox_pod, url
from .service_kit import (
    REFUSED,
    everywhere,
    inside,
    listed,
    node_port,
    on,
    outside,
    resolvers,
    served,
    service,
    settled,
)
from .test_services_slices import MANUAL, drop_slices, put_slice

SILENT = 4098
AFFINITY = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 6}}}


@everywhere
def test_affinity_lasts_as_long_as_it_is_used_and_ends_with_its_backend(cluster: Cluster, playground: str) -> None:
    with service(cluster, playground, "sticky", {"sticky": "yes"}, type="NodePort", **AFFINITY) as addresses:
        pods = ("a1", "a2", "b1", "b2")
        for pod in pods:
            cluster.kubectl("label", "pod", "-n", playground, pod, "sticky=yes")
        try:
            settled(cluster, playground, "sticky", 4)
            node, port = cluster.node_address(cluster.nodes()[0]), node_port(cluster, playground, "sticky")
            clients = {"pod": partial(inside, cluster, playground, "a2", addresses[4], 80), "outside": partial(outside, node, port)}
            first = together(clients)
            # Two and a half times as long as it would last by itself, never that long without a question.
            for _ in range(5):
                time.sleep(3)
                assert together(clients) == first
            for client, pod in first.items():
                cluster.kubectl("label", "pod", "-n", playground, pod, "sticky-", check=False)
                served(lambda client=client, pod=pod: clients[client]() not in {pod, str(REFUSED)}, True, what=f"{client} after {pod}")
            left = {row for node in cluster.nodes() for row in _pods_of(cluster, node, playground, "sticky")}
            assert set(together(clients).values()) <= left
        finally:
            for pod in pods:
                cluster.kubectl("label", "pod", "-n", playground, pod, "sticky-", check=False)


def _pods_of(cluster: Cluster, node: str, namespace: str, name: str) -> set[str]:
    """The names of the playground's pods that a node's agent has as backends."""
    pods = {f"{address}:8080": pod for pod in ("a1", "a2", "b1", "b2") for address in cluster.pod_addresses(namespace, pod).values()}
    return {pods[backend] for row in listed(cluster, node, namespace, name) for backend in row["backends"] if backend in pods}


@everywhere
def test_a_connected_datagram_socket_follows_a_port_that_moves_and_a_service_that_was_empty(cluster: Cluster, playground: str) -> None:
    """Somebody listens at the old port and never answers: the client, which holds on to one socket, would ask there for ever."""
    ports = [{"name": "udp", "port": 8081, "targetPort": SILENT, "protocol": "UDP"}]
    cluster.exec(playground, "b1", "sh", "-c", f"(timeout 100 nc -u -k -l {SILENT} >/dev/null 2>&1 </dev/null &) ; sleep 0.2")
    clients = ("a1", "host-b")
    with service(cluster, playground, "moves", {"moves": "yes"}, ports=ports) as addresses:
        cluster.kubectl("label", "pod", "-n", playground, "b1", "moves=yes")
        try:
            settled(cluster, playground, "moves", 1)
            with resolvers(cluster, playground, clients, addresses[4]) as heard:
                time.sleep(3)
                assert [heard(client) for client in clients] == ["", ""]
                patch = '[{"op": "replace", "path": "/spec/ports/0/targetPort", "value": 8081}]'
                cluster.kubectl("patch", "service", "-n", playground, "moves", "--type=json", "-p", patch)
                for client in clients:
                    eventually(lambda client=client: heard(client).endswith("b1b1"), what=f"{client} hears at the new port")
                # To nobody and back: 0 -> n.
                cluster.kubectl("label", "pod", "-n", playground, "b1", "moves-")
                settled(cluster, playground, "moves", 0)
                cluster.kubectl("label", "pod", "-n", playground, "a2", "moves=yes")
                for client in clients:
                    eventually(lambda client=client: heard(client).endswith("a2a2"), what=f"{client} hears of the one that came")
        finally:
            for pod in ("a2", "b1"):
                cluster.kubectl("label", "pod", "-n", playground, pod, "moves-", check=False)


@on(["native-dual"])
def test_an_agent_that_is_killed_while_it_writes_leaves_nothing_half_done(cluster: Cluster, playground: str) -> None:
    """A hundred and fifty Services come, and fifty go, while the agents die: in the end each is served by its own pod and none is left over."""
    path = f"/api/v1/namespaces/{playground}/services"
    pods = ("a1", "b1")

    def body(name: str, pod: str) -> dict[str, Any]:
        spec = {"selector": {"app": pod}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
        return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": playground}, "spec": spec}

    for number in range(50):
        cluster.api.request("POST", path, body(f"goes-{number}", "a2"))
    made: dict[str, str] = {}
    failures: list[Exception] = []

    def change() -> None:
        try:
            for number in range(150):
                name = f"comes-{number}"
                made[name] = cluster.api.request("POST", path, body(name, pods[number % 2]))["spec"]["clusterIP"]
                if number < 50:
                    cluster.api.request("DELETE", f"{path}/goes-{number}")
        except Exception as error:  # noqa: BLE001  told by the test, which has the thread
            failures.append(error)

    before = {node: agent_process(cluster, node) for node in cluster.nodes()}
    writer = threading.Thread(target=change)
    writer.start()
    try:
        for _ in range(2):
            for node in cluster.nodes():
                pid = eventually(lambda node=node: agent_process(cluster, node), within=AGENT_BACK)
                cluster.in_member(node, "kill", "-9", str(pid))
            time.sleep(0.5)
        writer.join(60)
        assert not failures
        assert len(made) == 150
        for node, pid in before.items():
            back = partial(_is_another, cluster, node, pid)
            eventually(back, within=AGENT_BACK, what=f"another agent is ready on {node}")
        for name in ("comes-0", "comes-149"):
            settled(cluster, playground, name, 1)
        wanted = [pods[number % 2] for number in range(150)]
        script = "for a in {}; do curl -sS --max-time 4 http://$a/hostname || echo lost; echo; done"
        for client in ("a2", "b2"):
            asked = script.format(" ".join(made[f"comes-{number}"] for number in range(150)))
            served(lambda client=client, asked=asked: cluster.exec(playground, client, "sh", "-c", asked, timeout=60).split(), wanted)
        for node in cluster.nodes():
            assert listed(cluster, node, playground, "goes-0") == []
    finally:
        writer.join(60)
        cluster.kubectl("delete", "service", "-n", playground, "--wait=false", "--ignore-not-found", *made, timeout=60)


def _is_another(cluster: Cluster, node: str, pid: int) -> bool:
    return agent_process(cluster, node) != pid and bool(status(cluster, node)["ready"])


@on(["native-dual"])
def test_a_backend_that_dies_while_the_api_server_is_away_is_refused_and_nobody_else_is_disturbed(
    cluster: Cluster, playground: str
) -> None:
    first, second = cluster.nodes()[:2]
    for name, node in (("dies", second), ("lives", second)):
        pod = toolbox_pod(cluster, name, node, labels={"mortal": "yes"})
        pod["metadata"]["namespace"] = playground
        cluster.apply(pod)
    cluster.wait_ready(playground, "dies", "lives")
    client = container_pid(cluster, first, cluster.pod(playground, "a1"))
    sandbox = container_pid(cluster, second, cluster.pod(playground, "dies"))
    apiserver = program_of(cluster.member_pid("control-plane"), "kube-apiserver")
    try:
        with service(cluster, playground, "mortal", {"mortal": "yes"}) as addresses:
            settled(cluster, playground, "mortal", 2)
            inner = ["nsenter", "-t", str(cluster.member_pid(first)), "-a", "--", "nsenter", "-t", client, "-n"]
            ask = [*inner, "sh", "-c", f"curl -sS --max-time 4 {url(addresses[4], 80, '/hostname')} 2>/dev/null || echo $?"]
            eventually(lambda: {run(*ask) for _ in range(8)} == {"lives", "dies"}, what="both answer")
            os.kill(apiserver, signal.SIGSTOP)
            try:
                cluster.in_member(second, "kill", "-9", sandbox)
                answers = {run(*ask).strip() for _ in range(20)}
                assert "lives" in answers
                # Where it was nobody listens until the kubelet has started it again: no question waits for an answer in vain.
                assert answers <= {"lives", "dies", str(REFUSED)}
            finally:
                os.kill(apiserver, signal.SIGCONT)
            eventually(lambda: cluster.kubectl("get", "nodes", check=False), within=60)
            served(lambda: {run(*ask).strip() for _ in range(8)}, {"lives", "dies"}, within=90)
    finally:
        cluster.kubectl("delete", "pod", "-n", playground, "dies", "lives", "--ignore-not-found", "--wait=false")


@everywhere
def test_slices_that_name_no_port_serve_nobody_and_harm_nobody(cluster: Cluster, playground: str) -> None:
    """A slice without ports, one whose port has another name, one whose port has no number: each is said to be why its endpoint is left out."""
    pod = cluster.pod_addresses(playground, "a1")[4]
    odd: dict[str, list[dict[str, Any]]] = {"none": [], "other": [{"name": "other", "port": 8080}], "numberless": [{"name": "http"}]}
    try:
        with service(cluster, playground, "odd", None, **MANUAL) as addresses:
            for name, ports in odd.items():
                put_slice(cluster, playground, f"odd-{name}", "odd", [pod], ports=ports)
            for node in cluster.nodes():
                eventually(
                    lambda node=node: [len(row["leftOut"]) for row in listed(cluster, node, playground, "odd")] == [3],
                    what=f"{node} says of three endpoints why they are left out",
                )
            (row,) = listed(cluster, cluster.nodes()[0], playground, "odd")
            assert row["backends"] == []
            assert all(pod in out["endpoint"] and out["why"] for out in row["leftOut"])
            assert inside(cluster, playground, "b1", addresses[4], 80) == str(REFUSED)
            patch = '[{"op": "add", "path": "/ports/0/port", "value": 8080}]'
            cluster.kubectl("patch", "endpointslice", "-n", playground, "odd-numberless", "--type=json", "-p", patch)
            served(lambda: inside(cluster, playground, "b1", addresses[4], 80), "a1")
    finally:
        drop_slices(cluster, playground, *(f"odd-{name}" for name in odd))
