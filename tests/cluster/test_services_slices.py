"""Services whose slices, backends or tables are unusual: slices that move, come early or overlap, a thousand endpoints, nobody there any more."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Address, ip_network
from typing import Any

from .kube import Cluster, container_pid, eventually, status, toolbox_pod
from .service_kit import REFUSED, TIMED_OUT, balancer, everywhere, inside, listed, on, served, service, settled

MANUAL = {"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"], "ports": [{"name": "http", "port": 80}]}
# Set aside for tests (RFC 2544); nobody on the machine has any of it.
CROWD = ip_network("198.18.96.0/22")


def put_slice(
    cluster: Cluster,
    namespace: str,
    name: str,
    of: str,
    addresses: Sequence[str],
    port: int = 8080,
    ports: Sequence[dict[str, Any]] | None = None,
) -> None:
    """A slice of the user's own, new or in the place of the one of that name. `ports` instead of the one that a Service here asks for."""
    cluster.apply(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": of}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}] if ports is None else ports,
            "endpoints": [{"addresses": [address]} for address in addresses],
        }
    )


def drop_slices(cluster: Cluster, namespace: str, *names: str) -> None:
    cluster.kubectl("delete", "endpointslice", "-n", namespace, "--ignore-not-found", "--wait=false", *names)


def addresses_of(cluster: Cluster, namespace: str, *pods: str) -> list[str]:
    return [cluster.pod_addresses(namespace, pod)[4] for pod in pods]


@everywhere
def test_a_slice_that_moves_to_another_service_takes_its_endpoints_along(cluster: Cluster, playground: str) -> None:
    try:
        with service(cluster, playground, "one", None, **MANUAL) as one, service(cluster, playground, "two", None, **MANUAL) as two:
            asks = [partial(inside, cluster, playground, "b2", address[4], 80) for address in (one, two)]
            for turn in range(2):
                for owner in ("one", "two"):
                    put_slice(cluster, playground, "wanderer", owner, addresses_of(cluster, playground, "a1"))
                    wanted = ["a1", str(REFUSED)] if owner == "one" else [str(REFUSED), "a1"]
                    served(lambda: [ask() for ask in asks], wanted, what=f"turn {turn}: the slice belongs to {owner}")
    finally:
        drop_slices(cluster, playground, "wanderer")


@everywhere
def test_a_slice_that_comes_before_its_service_is_served_once_that_is_there(cluster: Cluster, playground: str) -> None:
    try:
        put_slice(cluster, playground, "early", "late", addresses_of(cluster, playground, "a1", "b1"))
        with service(cluster, playground, "other", {"app": "a1"}):  # the slice has been heard of when what came after it has
            settled(cluster, playground, "other", 1)
        for node in cluster.nodes():
            assert listed(cluster, node, playground, "late") == []
        with service(cluster, playground, "late", None, **MANUAL) as addresses:
            settled(cluster, playground, "late", 2)
            assert {inside(cluster, playground, "a2", addresses[4], 80) for _ in range(30)} == {"a1", "b1"}
        # And back again: a Service that goes leaves a slice that nobody asks for.
        eventually(lambda: all(listed(cluster, node, playground, "late") == [] for node in cluster.nodes()))
    finally:
        drop_slices(cluster, playground, "early")


@everywhere
def test_an_endpoint_of_two_slices_is_one_backend_until_both_let_it_go(cluster: Cluster, playground: str) -> None:
    first, second = addresses_of(cluster, playground, "a1", "b1")
    try:
        with service(cluster, playground, "lapped", None, **MANUAL) as addresses:

            def seen() -> set[str]:
                return {inside(cluster, playground, "a2", addresses[4], 80) for _ in range(20)}

            put_slice(cluster, playground, "lapped-1", "lapped", [first, second])
            put_slice(cluster, playground, "lapped-2", "lapped", [first])
            settled(cluster, playground, "lapped", 2)
            assert seen() == {"a1", "b1"}
            # It stays as long as one of them names it, whichever that is.
            put_slice(cluster, playground, "lapped-1", "lapped", [second])
            served(lambda: [backends(cluster, node, playground, "lapped") for node in cluster.nodes()], [{first, second}] * 2)
            assert seen() == {"a1", "b1"}
            put_slice(cluster, playground, "lapped-1", "lapped", [first, second])
            drop_slices(cluster, playground, "lapped-2")
            served(lambda: seen() == {"a1", "b1"}, True)
            put_slice(cluster, playground, "lapped-1", "lapped", [second])
            settled(cluster, playground, "lapped", 1)
            assert seen() == {"b1"}
    finally:
        drop_slices(cluster, playground, "lapped-1", "lapped-2")


def backends(cluster: Cluster, node: str, namespace: str, name: str) -> set[str]:
    """Their addresses, as a node's agent has them."""
    return {backend.rpartition(":")[0] for row in listed(cluster, node, namespace, name) for backend in row["backends"]}


@contextmanager
def crowd(cluster: Cluster) -> Iterator[None]:
    """A thousand addresses that all are the first node's: its host-network pod answers at each."""
    first, second = cluster.nodes()[:2]
    ways = {first: ("local", str(CROWD), "dev", "lo"), second: (str(CROWD), "via", cluster.node_address(first))}
    for node, way in ways.items():
        cluster.in_member(node, "ip", "route", "replace", *way)
    try:
        yield
    finally:
        for node, way in ways.items():
            cluster.in_member(node, "ip", "route", "del", *way, check=False)


@everywhere
def test_a_service_may_have_a_thousand_endpoints(cluster: Cluster, playground: str) -> None:
    members = [str(IPv4Address(int(CROWD.network_address) + number)) for number in range(1, 1001)]
    pieces = {f"crowd-{start}": members[start : start + 100] for start in range(0, 1000, 100)}
    script = "for n in $(seq 60); do curl -sS --max-time 5 http://{}/hostname || echo lost; echo; done"
    try:
        with crowd(cluster), service(cluster, playground, "crowd", None, **MANUAL) as addresses:
            for name, part in pieces.items():
                put_slice(cluster, playground, name, "crowd", part, port=18080)
            settled(cluster, playground, "crowd", 1000)
            answers = cluster.exec(playground, "b1", "sh", "-c", script.format(addresses[4]), timeout=90).split()
            assert answers == [cluster.nodes()[0]] * 60
            # Nine hundred and ninety-nine leave at once; nobody is sent to them any more.
            drop_slices(cluster, playground, *list(pieces)[1:])
            put_slice(cluster, playground, "crowd-0", "crowd", addresses_of(cluster, playground, "a1"))
            settled(cluster, playground, "crowd", 1)
            answers = cluster.exec(playground, "b1", "sh", "-c", script.format(addresses[4]), timeout=90).split()
            assert answers == ["a1"] * 60
    finally:
        drop_slices(cluster, playground, *pieces)


class Conversation:
    """A connection from a pod to a Service that is kept open: one request, and later another."""

    def __init__(self, cluster: Cluster, namespace: str, pod: str, address: str) -> None:
        argv = [
            cluster.kubectl_path,
            "--kubeconfig",
            str(cluster.kubeconfig),
            "exec",
            "-i",
            "-n",
            namespace,
            pod,
            "--",
            "nc",
            address,
            "80",
        ]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def ask(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"GET /hostname HTTP/1.1\r\nHost: service\r\n\r\n")
        self._process.stdin.flush()

    def hear(self, word: bytes) -> bytes:
        """All that comes until `word` does, or the end."""
        assert self._process.stdout is not None
        heard = b""
        while word not in heard and (part := self._process.stdout.read1(4096)):  # type: ignore[attr-defined]
            heard += part
        return heard

    def ends(self, within: float) -> bool:
        try:
            self._process.wait(within)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@everywhere
def test_a_connection_whose_backend_vanished_without_a_word_is_reset(cluster: Cluster, playground: str) -> None:
    """The pod's link goes down first, so that nothing of its own farewell is heard: only the nodes can say that it is gone."""
    node = cluster.nodes()[1]
    pod = toolbox_pod(cluster, "vanishing", node)
    pod["metadata"]["namespace"] = playground
    cluster.apply(pod)
    talks: list[Conversation] = []
    try:
        cluster.wait_ready(playground, "vanishing")
        addresses = set(cluster.pod_addresses(playground, "vanishing").values())
        with service(cluster, playground, "vanishing", {"app": "vanishing"}) as frontends:
            settled(cluster, playground, "vanishing", 1)
            for client in ("a1", "b1"):
                for frontend in frontends.values():
                    talks.append(Conversation(cluster, playground, client, frontend))
                    talks[-1].ask()
                    assert talks[-1].hear(b"vanishing").endswith(b"vanishing")
            inner = container_pid(cluster, node, cluster.pod(playground, "vanishing"))
            cluster.in_member(node, "nsenter", "-t", inner, "-n", "ip", "link", "set", "eth0", "down")
            cluster.kubectl("delete", "pod", "-n", playground, "vanishing", "--wait=true", timeout=90)
            eventually(lambda: not addresses & {row["address"] for row in status(cluster, node)["endpoints"]}, what="its rows go")
            for talk in talks:
                assert not talk.ends(0.1)
                talk.ask()
            for talk in talks:
                assert talk.ends(within=20), "an unanswered segment is sent again for a quarter of an hour"
    finally:
        for talk in talks:
            talk.close()
        cluster.kubectl("delete", "pod", "-n", playground, "vanishing", "--ignore-not-found", "--wait=false")


def cluster_address(cluster: Cluster, namespace: str, name: str) -> str:
    return str(cluster.get("service", "-n", namespace, name)["spec"]["clusterIP"])


@on(["native-dual"])
def test_a_service_for_which_a_table_has_no_room_is_named_and_disturbs_nobody(cluster: Cluster, playground: str) -> None:
    """The table of source ranges is the one that few objects fill: it holds 65536, and these Services want 30 000 each."""
    path = f"/api/v1/namespaces/{playground}/services"
    names = ["roomy-1", "roomy-2", "roomy-3"]

    def body(number: int, name: str) -> dict[str, Any]:
        ranges = [f"10.{128 + number}.{low >> 8}.{low & 255}/32" for low in range(30_000)]
        ports = [{"name": "http", "port": 80, "targetPort": 8080}]
        spec = {"type": "LoadBalancer", "selector": {"app": "a1"}, "ports": ports, "loadBalancerSourceRanges": ranges}
        return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": playground}, "spec": spec}

    def left_out(node: str) -> int:
        page = cluster.in_member(node, "curl", "-sS", "--max-time", "5", "http://127.0.0.1:9879/metrics")
        found = re.search(r"^anetd_services_left_out (\d+)", page, re.MULTILINE)
        return int(found[1]) if found else -1

    def trouble(name: str) -> set[str]:
        return {row["trouble"] for node in cluster.nodes() for row in listed(cluster, node, playground, name)}

    try:
        for number, name in enumerate(names):
            cluster.api.request("POST", path, body(number, name))
            balancer(cluster, playground, name, families=(4,))
            if name != names[-1]:
                served(lambda name=name: trouble(name), {""}, within=60)
        served(lambda: trouble(names[-1]), {"left out: the table source_ranges has no room for it"}, within=60)
        assert [left_out(node) for node in cluster.nodes()] == [1, 1]

        def told() -> bool:
            events = cluster.get("events.events.k8s.io", "-n", playground)["items"]
            return any(
                event["reason"] == "ServiceLeftOut" and event["regarding"]["name"] == names[-1] and "source_ranges" in event["note"]
                for event in events
            )

        eventually(told, within=60, what="an Event at the Service")
        # Whoever is in the tables stays there, and who needs no room in the full one comes in.
        with service(cluster, playground, "small", {"app": "b1"}) as small:
            settled(cluster, playground, "small", 1)
            assert inside(cluster, playground, "a2", small[4], 80) == "b1"
        ask = partial(inside, cluster, playground, "a2", cluster_address(cluster, playground, names[-1]), 80)
        assert ask() == str(TIMED_OUT)
        cluster.api.request("DELETE", f"{path}/{names[0]}")
        served(lambda: trouble(names[-1]), {""}, within=60)
        served(ask, "a1")
        assert [left_out(node) for node in cluster.nodes()] == [0, 0]
    finally:
        for name in names:
            cluster.kubectl("delete", "service", "-n", playground, name, "--ignore-not-found", "--wait=false")
