"""Pods reach pods, nodes, Services and the outside, by every path that the dataplane has."""

from __future__ import annotations

import ipaddress
import itertools
import json
import re
import subprocess
import sys
from collections import Counter

import pytest

from .kube import Cluster, container_pid, drops, udp_ask, url

PAIRS = [("a1", "a2"), ("a1", "b1"), ("b2", "a2"), ("b1", "b2")]


def addresses(cluster: Cluster, namespace: str, pod: str) -> list[str]:
    return list(cluster.pod_addresses(namespace, pod).values())


def curl(cluster: Cluster, namespace: str, pod: str, target: str, *options: str) -> str:
    return cluster.exec(namespace, pod, "curl", "-sS", "--max-time", "5", *options, target).strip()


def client_address(cluster: Cluster, namespace: str, pod: str, target: str) -> str:
    """The address that the server saw."""
    answer = curl(cluster, namespace, pod, target)
    return answer.rsplit(":", 1)[0].strip("[]")


def test_each_pod_has_an_address_of_its_nodes_range_in_every_family(cluster: Cluster, playground: str) -> None:
    for name in ("a1", "b1"):
        pod = cluster.pod(playground, name)
        ranges = [ipaddress.ip_network(c) for c in cluster.get("node", pod["spec"]["nodeName"])["spec"]["podCIDRs"]]
        found = cluster.pod_addresses(playground, name)
        assert set(found) == set(cluster.families)
        assert all(any(ipaddress.ip_address(a) in r for r in ranges if r.version == f) for f, a in found.items())


@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_pods_reach_pods_over_tcp_with_their_own_address(cluster: Cluster, playground: str, client: str, server: str) -> None:
    own = cluster.pod_addresses(playground, client)
    for family, address in cluster.pod_addresses(playground, server).items():
        assert curl(cluster, playground, client, url(address, 8080, "/hostname")) == server
        assert client_address(cluster, playground, client, url(address, 8080, "/clientip")) == own[family]


@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_pods_reach_pods_over_udp(cluster: Cluster, playground: str, client: str, server: str) -> None:
    for address in addresses(cluster, playground, server):
        assert udp_ask(cluster, playground, client, address, 8081) == server


@pytest.mark.parametrize(("client", "server"), PAIRS)
@pytest.mark.parametrize("size", [56, 4000], ids=["small", "fragmented"])
def test_pods_answer_ping_whole_and_in_fragments(cluster: Cluster, playground: str, client: str, server: str, size: int) -> None:
    for address in addresses(cluster, playground, server):
        report = cluster.exec(playground, client, "ping", "-c", "3", "-i", "0.2", "-W", "2", "-s", str(size), address)
        assert "3 received" in report


def test_a_pod_reaches_itself_by_its_address_and_through_its_service(cluster: Cluster, playground: str) -> None:
    for address in addresses(cluster, playground, "a1"):
        assert curl(cluster, playground, "a1", url(address, 8080, "/hostname")) == "a1"
    service_answers = {curl(cluster, playground, "a1", "http://web/hostname") for _ in range(30)}
    assert "a1" in service_answers


def test_node_and_local_pod_reach_each_other(cluster: Cluster, playground: str) -> None:
    node = cluster.pod(playground, "a1")["spec"]["nodeName"]
    for family, address in cluster.pod_addresses(playground, "a1").items():
        assert cluster.in_member(node, "curl", "-sS", "--max-time", "5", url(address, 8080, "/hostname")).strip() == "a1"
        assert curl(cluster, playground, "a1", url(cluster.node_address(node, family), 18080, "/hostname")) == node


def test_pods_and_the_other_node_reach_each_other(cluster: Cluster, playground: str) -> None:
    far = cluster.pod(playground, "b1")["spec"]["nodeName"]
    for family, address in cluster.pod_addresses(playground, "b1").items():
        assert curl(cluster, playground, "host-a", url(address, 8080, "/hostname")) == "b1"
        assert curl(cluster, playground, "a1", url(cluster.node_address(far, family), 18080, "/hostname")) == far
        assert udp_ask(cluster, playground, "host-a", address, 8081) == "b1"
        assert udp_ask(cluster, playground, "a1", cluster.node_address(far, family), 18081) == far


def test_host_network_pods_reach_each_other(cluster: Cluster, playground: str) -> None:
    far = cluster.pod(playground, "host-b")["spec"]["nodeName"]
    for family in cluster.families:
        assert curl(cluster, playground, "host-a", url(cluster.node_address(far, family), 18080, "/hostname")) == far


def test_a_service_spreads_tcp_and_udp_over_all_its_pods(cluster: Cluster, playground: str) -> None:
    for address in cluster.get("service", "-n", playground, "web")["spec"]["clusterIPs"]:
        script = f"for i in $(seq 60); do curl -sS --max-time 5 {url(address, 80, '/hostname')}; echo; done"
        seen = Counter(cluster.exec(playground, "a1", "sh", "-c", script, timeout=120).split())
        assert set(seen) == {"a1", "a2", "b1", "b2"}
        assert sum(seen.values()) == 60
        assert udp_ask(cluster, playground, "b1", address, 8081) in {"a1", "a2", "b1", "b2"}


def test_every_pod_resolves_names_and_reaches_the_api_server(cluster: Cluster, playground: str) -> None:
    api = cluster.get("service", "-n", "default", "kubernetes")["spec"]["clusterIP"]
    for pod in ("a1", "a2", "b1", "b2"):
        assert cluster.exec(playground, pod, "dig", "+short", "+time=2", "kubernetes.default.svc.cluster.local").strip() == api
        assert curl(cluster, playground, pod, "http://web/hostname") in {"a1", "a2", "b1", "b2"}
        assert curl(cluster, playground, pod, "https://kubernetes.default/healthz", "--insecure") == "ok"
        tcp = cluster.exec(playground, pod, "dig", "+short", "+tcp", "+time=2", "web.playground.svc.cluster.local").strip()
        assert tcp == cluster.get("service", "-n", playground, "web")["spec"]["clusterIP"]


def test_pods_appear_outside_behind_their_nodes_address(cluster: Cluster, playground: str) -> None:
    """The outside is a server on the machine, at the cluster's bridge: it sees the node, and its answers find the pod."""
    details = cluster.describe()["details"]
    node = cluster.pod(playground, "a1")["spec"]["nodeName"]
    server = (
        "import socket,sys\n"
        "f=socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\n"
        "t=socket.socket(f);t.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1);t.bind((sys.argv[1],0));t.listen();t.settimeout(30)\n"
        "print(t.getsockname()[1],flush=True)\n"
        "u=socket.socket(f,socket.SOCK_DGRAM);u.bind(t.getsockname()[:2]);u.settimeout(30)\n"
        "c,a=t.accept();c.recv(1000);c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\n'+a[0].encode());c.close()\n"
        "d,a=u.recvfrom(1000);u.sendto(a[0].encode(),a)\n"
    )
    gateways = {4: details["gateway"], 6: details.get("gatewayV6")}
    for family in cluster.families:
        outside = subprocess.Popen([sys.executable, "-c", server, gateways[family]], stdout=subprocess.PIPE, text=True)
        try:
            assert outside.stdout is not None
            port = int(outside.stdout.readline())
            expected = cluster.node_address(node, family)
            assert curl(cluster, playground, "a1", url(gateways[family], port, "/")) == expected
            assert udp_ask(cluster, playground, "a1", gateways[family], port) == expected
            assert "2 received" in cluster.exec(playground, "a1", "ping", "-c", "2", "-i", "0.2", "-W", "2", gateways[family])
            assert "1 received" in cluster.exec(playground, "a1", "ping", "-c", "1", "-W", "2", "-s", "4000", gateways[family])
        finally:
            outside.kill()
            outside.wait()


def test_errors_from_outside_reach_the_pod(cluster: Cluster, playground: str) -> None:
    """A closed port behind the masquerade answers; the answer (RST, ICMP error) must find its way back into the pod."""
    gateway = cluster.describe()["details"]["gateway"]
    refused = cluster.exec(playground, "a1", "/agnhost", "connect", f"{gateway}:9", "--timeout=3s", check=False)
    assert "TIMEOUT" not in refused
    # A connected UDP socket hears of the ICMP error at its next call: netcat -z then reports the port as closed.
    closed = cluster.exec(playground, "a1", "sh", "-c", f"nc -z -u -v -w 2 {gateway} 9 2>&1; echo $?", check=False)
    assert closed.strip().endswith("1")


def test_large_transfers_pass_through_every_path(cluster: Cluster, playground: str) -> None:
    """8 MB over TCP: segmentation offload, path MTU and checksums all have to be right."""
    for client, server in itertools.product(("a1",), ("a2", "b1")):
        for address in addresses(cluster, playground, server):
            upload = f"curl -sS --max-time 20 -o /dev/null -w '%{{size_upload}}' --data-binary @- {url(address, 8080, '/echo')}"
            shell = f"head -c 8000000 /dev/zero | {upload}"
            assert int(float(cluster.exec(playground, client, "sh", "-c", shell))) == 8_000_000


def test_a_packet_above_the_path_mtu_is_answered_with_the_mtu(cluster: Cluster, playground: str) -> None:
    """Over the tunnel pods have a smaller MTU; a packet that may not be cut must be refused, not lost."""
    link = json.loads(cluster.exec(playground, "a1", "ip", "-j", "link", "show", "eth0"))[0]
    for address in addresses(cluster, playground, "b1"):
        headers = 48 if ":" in address else 28
        fits = cluster.exec(playground, "a1", "ping", "-c", "1", "-W", "2", "-M", "do", "-s", str(link["mtu"] - headers), address)
        assert "1 received" in fits
        refused = cluster.exec(
            playground, "a1", "ping", "-c", "1", "-W", "2", "-M", "do", "-s", str(link["mtu"] - headers + 1), address, check=False
        )
        assert re.search(r"mtu|too long|0 received", refused, re.IGNORECASE) or refused == ""


def test_a_spoofed_source_address_is_dropped_and_counted(cluster: Cluster, playground: str) -> None:
    own = cluster.pod_addresses(playground, "a1")[4]
    target = cluster.pod_addresses(playground, "b1")[4]
    pod = cluster.pod(playground, "a1")
    node = pod["spec"]["nodeName"]
    pod_pid = container_pid(cluster, node, pod)
    spoofed = own.rsplit(".", 1)[0] + ".251"
    before = drops(cluster, node, "SPOOFED_SOURCE")
    cluster.in_member(
        node, "nsenter", "-t", pod_pid, "-n", "sh", "-c",
        f"ip addr add {spoofed}/32 dev eth0; ping -c 2 -i 0.2 -W 1 -I {spoofed} {target}; ip addr del {spoofed}/32 dev eth0",
        check=False,
    )  # fmt: skip
    assert drops(cluster, node, "SPOOFED_SOURCE") >= before + 2
