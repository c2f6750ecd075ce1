"""Services at the node's edges: host ports, health checks of load balancers, their addresses, kube-proxy's URLs, Events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from .kube import Cluster, agent_on, eventually, run, toolbox_pod, udp_ask, url

HOST_PORT, HOST_PORT_UDP, LOOPBACK_PORT, NARROW_PORT = 32101, 32102, 32103, 32104


pytestmark = pytest.mark.parametrize("cluster", ["native-dual", "vxlan-ipv4"], indirect=True)


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace("edges") as name:
        yield name


def fetch(address: str, port: int, path: str, *, headers: bool = False) -> str:
    """What the machine itself, outside of the cluster, gets."""
    options = ["-i"] if headers else []
    return run("curl", "-sS", "--globoff", "--noproxy", "*", "--max-time", "5", *options, url(address, port, path), check=False)


def publish(pod: dict[str, Any], *ports: dict[str, Any]) -> dict[str, Any]:
    pod["spec"]["containers"][0]["ports"] = list(ports)
    return pod


def service(name: str, namespace: str, *, selector: str = "", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": selector or name}, "type": "LoadBalancer", "ports": [{"port": 80, "targetPort": 8080}], **spec},
    }


def ingress(cluster: Cluster, namespace: str, name: str) -> list[str]:
    status = cluster.get("service", "-n", namespace, name)["status"]["loadBalancer"]
    return [row["ip"] for row in status.get("ingress") or []]


def events(cluster: Cluster, namespace: str, reason: str) -> list[Any]:
    found = cluster.get("events.events.k8s.io", "-n", namespace)["items"]
    return [event for event in found if event["reason"] == reason]


def pool(cluster: Cluster) -> list[Any]:
    config = json.loads(cluster.get("configmap", "-n", "kube-system", "anetd-config")["data"]["config.json"])
    return [ip_network(text) for text in config["loadBalancerPool"]]


def test_a_host_port_is_the_pods_on_its_node_alone(cluster: Cluster, namespace: str, playground: str) -> None:
    first, second = cluster.nodes()[:2]
    narrow = cluster.node_address(first)
    server = publish(
        toolbox_pod(cluster, "server", first),
        {"containerPort": 8080, "hostPort": HOST_PORT},
        {"containerPort": 8081, "hostPort": HOST_PORT_UDP, "protocol": "UDP"},
        {"containerPort": 8080, "hostPort": LOOPBACK_PORT, "hostIP": "127.0.0.1"},
        {"containerPort": 8080, "hostPort": NARROW_PORT, "hostIP": narrow},
    )
    pods = [server, toolbox_pod(cluster, "near", first), toolbox_pod(cluster, "far", second)]
    # A node has room for one host-network toolbox.
    clients = {"near": (namespace, "near"), "far": (namespace, "far"), "server": (namespace, "server")}
    clients |= {"host-near": (playground, "host-a"), "host-far": (playground, "host-b")}
    for pod in pods:
        pod["metadata"]["namespace"] = namespace
    cluster.apply(*pods)
    cluster.wait_ready(namespace, *(pod["metadata"]["name"] for pod in pods))
    listed = json.loads(cluster.exec("kube-system", agent_on(cluster, first), "anetd", "endpoints", "--output", "json"))
    (ports, *_) = [row["hostPorts"] for row in listed if row["pod"] == f"{namespace}/server"]
    assert ports == [
        f"{HOST_PORT}/TCP",
        f"{HOST_PORT_UDP}/UDP",
        f"127.0.0.1:{LOOPBACK_PORT}/TCP",
        f"{narrow}:{NARROW_PORT}/TCP",
    ]

    def ask(client: str, address: str, port: int) -> str:
        command = ("curl", "-sS", "--globoff", "--max-time", "5", url(address, port, "/hostname"))
        return cluster.exec(*clients[client], *command, check=False).strip()

    for family in cluster.families:
        address = cluster.node_address(first, family)
        assert fetch(address, HOST_PORT, "/hostname").strip() == "server"
        for client in ("near", "far", "host-near", "host-far", "server"):
            assert ask(client, address, HOST_PORT) == "server", client
            assert udp_ask(cluster, *clients[client], address, HOST_PORT_UDP) == "server", client
        assert ask("near", cluster.node_address(second, family), HOST_PORT) == ""
    for client in ("near", "far", "host-far"):
        assert ask(client, narrow, NARROW_PORT) == "server", client
        assert ask(client, narrow, LOOPBACK_PORT) == "", client
    assert fetch(narrow, NARROW_PORT, "/hostname").strip() == "server"
    assert ask("host-near", "127.0.0.1", LOOPBACK_PORT) == "server"
    assert ask("host-near", "127.0.0.1", NARROW_PORT) == ""
    cluster.kubectl("delete", "pod", "server", "-n", namespace)
    eventually(lambda: ask("far", narrow, HOST_PORT) == "", what="the port goes with its pod")
    assert fetch(narrow, HOST_PORT, "/hostname") == ""


def test_a_health_check_node_port_tells_where_the_ready_endpoints_are(cluster: Cluster, namespace: str) -> None:
    first, second = cluster.nodes()[:2]
    backend = toolbox_pod(cluster, "backend", second)
    backend["metadata"]["namespace"] = namespace
    cluster.apply(backend, service("backend", namespace, externalTrafficPolicy="Local", loadBalancerClass="example.com/none"))
    cluster.wait_ready(namespace, "backend")
    port = cluster.get("service", "-n", namespace, "backend")["spec"]["healthCheckNodePort"]

    def answers(node: str, status: int, endpoints: int) -> bool:
        for family in cluster.families:
            text = fetch(cluster.node_address(node, family), port, "/", headers=True)
            head, _, body = text.partition("\n\n")
            if f" {status} " not in head.split("\n")[0] or f"X-Load-Balancing-Endpoint-Weight: {endpoints}" not in head:
                return False
            assert json.loads(body) == {
                "service": {"namespace": namespace, "name": "backend"},
                "localEndpoints": endpoints,
                "serviceProxyHealthy": True,
            }
        return True

    eventually(lambda: answers(second, 200, 1), what="yes where the endpoint is")
    eventually(lambda: answers(first, 503, 0), what="no where it is not")
    other = toolbox_pod(cluster, "other", first, labels={"app": "backend"})
    other["metadata"]["namespace"] = namespace
    cluster.apply(other)
    cluster.wait_ready(namespace, "other")
    eventually(lambda: answers(first, 200, 1), what="yes on the first node too")
    cluster.kubectl("delete", "pod", "backend", "-n", namespace)
    eventually(lambda: answers(second, 503, 0), what="no where the endpoint has gone")
    cluster.kubectl("delete", "service", "backend", "-n", namespace)
    eventually(lambda: fetch(cluster.node_address(first), port, "/") == "", what="the port is closed")


def test_a_health_check_whose_port_is_taken_is_told_at_the_service(cluster: Cluster, namespace: str) -> None:
    node = cluster.nodes()[0]
    port = 32110
    thief = toolbox_pod(cluster, "thief", node, host_network=True)
    thief["metadata"]["namespace"] = namespace
    container = thief["spec"]["containers"][0]
    container["command"] = ["/agnhost", "netexec", f"--http-port={port}", "--udp-port=32111"]
    container["readinessProbe"]["httpGet"]["port"] = port
    cluster.apply(thief)
    cluster.wait_ready(namespace, "thief")
    wanted = service("checked", namespace, externalTrafficPolicy="Local", healthCheckNodePort=port)
    cluster.apply(wanted)
    (event,) = eventually(lambda: events(cluster, namespace, "FailedToStartServiceHealthcheck"), what="an Event")
    assert event["regarding"]["name"] == "checked"
    assert f"port {port}" in event["note"]
    assert event["reportingInstance"] == node
    described = cluster.kubectl("describe", "service", "checked", "-n", namespace)
    assert "FailedToStartServiceHealthcheck" in described
    metrics = cluster.in_member(node, "curl", "-sS", "--max-time", "5", "http://127.0.0.1:9879/metrics")
    assert f'anetd_ports_refused{{port="{port}"}} 1' in metrics
    # Everything else of the agent goes on: another node answers, and this one once the port is free.
    eventually(lambda: "localEndpoints" in fetch(cluster.node_address(cluster.nodes()[1]), port, "/"))
    cluster.kubectl("delete", "pod", "thief", "-n", namespace)
    eventually(lambda: fetch(cluster.node_address(node), port, "/") == "", what="the thief lets go")
    # Tried again every minute, and with whatever else changes.
    cluster.apply(service("another", namespace, type="ClusterIP"))
    eventually(lambda: "localEndpoints" in fetch(cluster.node_address(node), port, "/"), within=90, what="served after all")


def test_load_balancers_get_addresses_of_the_pool_and_give_them_back(cluster: Cluster, namespace: str) -> None:
    networks = pool(cluster)
    assert sorted(network.version for network in networks) == sorted(cluster.families)
    cluster.apply(
        service("one", namespace, ipFamilyPolicy="PreferDualStack"),
        service("two", namespace),
        service("other", namespace, loadBalancerClass="example.com/other"),
    )
    one = eventually(lambda: ingress(cluster, namespace, "one"), what="an address")
    (two,) = eventually(lambda: ingress(cluster, namespace, "two"), what="an address")
    assert [ip_address(text).version for text in one] == list(cluster.families)
    assert two not in one
    for text in (*one, two):
        assert any(ip_address(text) in network for network in networks if network.version == ip_address(text).version)
    assert ingress(cluster, namespace, "other") == []
    # Kept over a change, given to whoever names it once it is free.
    cluster.kubectl("label", "service", "two", "-n", namespace, "a=b")
    cluster.apply(service("late", namespace, loadBalancerIP=two))
    (event,) = eventually(lambda: events(cluster, namespace, "LoadBalancerIPTaken"), what="an Event")
    assert event["regarding"]["name"] == "late"
    assert f"{namespace}/two" in event["note"]
    assert ingress(cluster, namespace, "late") == []
    assert ingress(cluster, namespace, "two") == [two]
    cluster.kubectl("patch", "service", "two", "-n", namespace, "--type=merge", "-p", '{"spec": {"type": "ClusterIP"}}')
    assert eventually(lambda: ingress(cluster, namespace, "late"), what="the address that is free now") == [two]
    assert ingress(cluster, namespace, "two") == []
    cluster.kubectl("delete", "service", "one", "-n", namespace)
    cluster.apply(service("next", namespace, loadBalancerIP=one[0]))
    assert eventually(lambda: ingress(cluster, namespace, "next"), what="the address of a deleted Service") == [one[0]]


def test_a_load_balancer_is_reached_from_the_machine(cluster: Cluster, namespace: str) -> None:
    first, second = cluster.nodes()[:2]
    for name, node in (("back-a", first), ("back-b", second)):
        pod = toolbox_pod(cluster, name, node, labels={"app": "web"})
        pod["metadata"]["namespace"] = namespace
        cluster.apply(pod)
    cluster.apply(service("web", namespace, ipFamilyPolicy="PreferDualStack"))
    cluster.wait_ready(namespace, "back-a", "back-b")
    addresses = eventually(lambda: ingress(cluster, namespace, "web"), what="an address")
    for address in addresses:
        eventually(lambda address=address: fetch(address, 80, "/hostname"), what=f"{address} answers")
        seen = {fetch(address, 80, "/hostname").strip() for _ in range(40)}
        assert seen == {"back-a", "back-b"}


def test_whoever_asks_a_node_for_its_kube_proxy_finds_it(cluster: Cluster, playground: str) -> None:
    def ask(port: int, path: str) -> str:
        return cluster.exec(playground, "host-a", "curl", "-i", "-q", "-s", "--connect-timeout", "5", f"http://localhost:{port}{path}")

    health = ask(10256, "/healthz")
    assert "200 OK" in health
    assert "lastUpdated" in health
    assert "200 OK" in ask(10256, "/livez")
    assert ask(10249, "/proxyMode").endswith("\n\nebpf")
    metrics = ask(10249, "/metrics")
    for name in ("sync_proxy_rules_duration_seconds_bucket", "network_programming_duration_seconds_bucket", "proxy_healthz_total"):
        assert f"kubeproxy_{name}" in metrics
    for family in cluster.families:
        node = cluster.pod(playground, "host-a")["spec"]["nodeName"]
        assert "nodeEligible" in fetch(cluster.node_address(node, family), 10256, "/healthz")
