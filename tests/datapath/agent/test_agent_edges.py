"""The real agent process at its edges: host ports through CNI, HTTP ports of the node, Events, addresses of load balancers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

from agent.datapath.abi import Frontend, FrontendKey, FrontendScope

from .api import NODES, SERVICES, SLICES
from .conftest import NODE, NODE_NAME, POD_PREFIX, Agent, eventually, node_document, run

Pod = Callable[[str], str]
V4, V6 = ip_address("0.0.0.0"), ip_address("::")


def config(*mappings: dict[str, Any]) -> bytes:
    runtime = {"runtimeConfig": {"portMappings": list(mappings)}} if mappings else {}
    return json.dumps({"cniVersion": "1.0.0", "name": "anetd", "type": "anetd-cni", **runtime}).encode()


def mapping(host_port: int, **changes: Any) -> dict[str, Any]:
    return {"hostPort": host_port, "containerPort": 80, "protocol": "tcp", **changes}


def host_port_rows(node: Agent) -> dict[FrontendKey, set[str]]:
    """Frontend of a host port -> the pod's addresses and ports behind it."""
    kernel = node.kernel()
    found = {}
    for key, row in kernel["frontends"].items():
        assert isinstance(row, Frontend)
        if key.scope is FrontendScope.HOST_PORT or (key.scope is FrontendScope.ADDRESS and key.port):
            ids = [kernel["backend_slots"][slot] for slot in kernel["backend_slots"] if slot.service_id == row.service_id]
            found[key] = {f"{kernel['backends'][number].address} {kernel['backends'][number].port}" for number in ids}
    return found


def fetch(path: str, port: int) -> tuple[int, str]:
    done = run(
        "ip",
        "netns",
        "exec",
        NODE,
        "curl",
        "-sS",
        "--max-time",
        "20",
        "-w",
        "\n%{http_code}",
        f"http://127.0.0.1:{port}{path}",
        check=False,
    )
    body, _, status = done.stdout.rpartition("\n")
    return int(status or 0), body


def test_host_ports_are_in_the_tables_with_their_pod_and_leave_with_it(node: Agent, pod: Pod) -> None:
    node.start()
    path = pod("a")
    wanted = config(mapping(8080), mapping(5353, protocol="udp", hostIP="192.0.2.10", containerPort=53), mapping(81, hostIP="::"))
    status, result = node.cni("ADD", "a", path, config=wanted)
    assert status == 0, result
    rows = {
        FrontendKey(V4, 8080, 6, FrontendScope.HOST_PORT): {"10.99.1.2 80"},
        FrontendKey(V6, 8080, 6, FrontendScope.HOST_PORT): {"fd00:99:1::2 80"},
        FrontendKey(ip_address("192.0.2.10"), 5353, 17): {"10.99.1.2 53"},
        FrontendKey(V6, 81, 6, FrontendScope.HOST_PORT): {"fd00:99:1::2 80"},
    }
    assert host_port_rows(node) == rows
    assert node.cni("ADD", "a", path, config=wanted) == (0, result)
    assert {tuple(row["hostPorts"]) for row in node.ask("endpoints")} == {("[::]:81/TCP", "192.0.2.10:5353/UDP", "8080/TCP")}
    assert node.cni("CHECK", "a", path, config=wanted) == (0, None)
    status, error = node.cni("CHECK", "a", path, config=config(mapping(8081)))
    assert error["code"] == 101
    assert "8081/TCP" in error["msg"]
    node.kill()
    node.start()
    assert host_port_rows(node) == rows
    status, error = node.cni("ADD", "b", pod("b"), config=config(mapping(8080, hostIP="192.0.2.10")))
    assert error["code"] == 11
    assert "8080" in error["msg"]
    assert "default/a" in error["msg"]
    assert node.cni("DEL", "a", path, config=wanted) == (0, None)
    assert host_port_rows(node) == {}
    assert node.cni("ADD", "b", f"/run/netns/{POD_PREFIX}b", config=config(mapping(8080, hostIP="192.0.2.10")))[0] == 0


def test_a_host_port_of_a_pod_that_died_without_a_word_is_free_again(node: Agent, pod: Pod) -> None:
    node.start()
    assert node.cni("ADD", "a", pod("a"), config=config(mapping(8080)))[0] == 0
    run("ip", "netns", "del", POD_PREFIX + "a")
    status, result = node.cni("ADD", "b", pod("b"), config=config(mapping(8080)))
    assert status == 0, result
    address = result["ips"][0]["address"].partition("/")[0]
    assert host_port_rows(node)[FrontendKey(V4, 8080, 6, FrontendScope.HOST_PORT)] == {f"{address} 80"}


def test_a_mapping_that_cannot_be_takes_nothing(node: Agent, pod: Pod) -> None:
    node.start()
    for bad, field in ((mapping(0), "portMappings[0].hostPort"), (mapping(80, protocol="dccp"), "portMappings[0].protocol")):
        status, error = node.cni("ADD", "a", pod("a") if bad["hostPort"] == 0 else f"/run/netns/{POD_PREFIX}a", config=config(bad))
        assert (status, error["code"]) == (1, 7)
        assert field in error["msg"]
    assert node.status()["ipam"]["allocated"] == []
    assert node.links() == []


def local_service(port: int) -> tuple[dict[str, Any], dict[str, Any]]:
    service = {
        "metadata": {"name": "web", "namespace": "shop", "uid": "u-1"},
        "spec": {
            "type": "LoadBalancer",
            "clusterIPs": ["10.98.0.7"],
            "externalTrafficPolicy": "Local",
            "healthCheckNodePort": port,
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}],
        },
    }
    endpoints = [
        {"addresses": [f"10.99.1.{number}"], "nodeName": name, "conditions": {"ready": ready}}
        for number, name, ready in ((2, NODE_NAME, True), (3, NODE_NAME, False), (4, "node-b", True))
    ]
    slices = {
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"port": 8080, "protocol": "TCP"}],
    }
    return service, slices


def test_a_health_check_follows_the_endpoints_of_this_node(node: Agent) -> None:
    service, slices = local_service(31000)
    node.api.put(SERVICES, service)
    node.api.put(SLICES, slices)
    node.start()
    eventually(lambda: fetch("/", 31000)[0] == 200, what="the health check says yes")
    assert json.loads(fetch("/", 31000)[1])["localEndpoints"] == 1
    node.api.put(SLICES, {**slices, "endpoints": slices["endpoints"][1:]})
    eventually(lambda: fetch("/", 31000)[0] == 503, what="the health check says no")
    node.api.put(SERVICES, {**service, "spec": {**service["spec"], "healthCheckNodePort": 31001}})
    eventually(lambda: (fetch("/", 31000)[0], fetch("/", 31001)[0]) == (0, 503), what="the port moved")
    node.api.remove(SERVICES, "web", "shop")
    eventually(lambda: fetch("/", 31001)[0] == 0, what="the port is closed")


@contextmanager
def thief(port: int) -> Iterator[None]:
    """Another process of the node that has a port."""
    code = f"import socket, time; s = socket.create_server(('', {port})); print('ready', flush=True); time.sleep(600)"
    process = subprocess.Popen(["ip", "netns", "exec", NODE, sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.wait()


def told(node: Agent) -> dict[str, str]:
    return {document["reason"]: document["note"] for document in node.api.told.values()}


def test_ports_that_are_taken_and_used_up_addresses_are_told_and_end_nothing(node: Agent, pod: Pod) -> None:
    service, slices = local_service(31000)
    node.api.put(SERVICES, service)
    node.api.put(SLICES, slices)
    node.api.put(NODES, node_document(NODE_NAME, ["10.99.1.0/30"], ["192.0.2.10"]))
    with thief(10256), thief(31000):
        node.start()
        eventually(lambda: told(node).keys() >= {"PortInUse", "FailedToStartServiceHealthcheck"}, within=30, what="told")
        assert "10256" in told(node)["PortInUse"]
        assert "shop/web" in told(node)["FailedToStartServiceHealthcheck"]
        assert node.status()["refusedPorts"].keys() == {"10256", "31000"}
        assert 'anetd_ports_refused{port="10256"} 1' in fetch("/metrics", 9879)[1]
        assert node.cni("ADD", "a", pod("a"))[0] == 0
        status, error = node.cni("ADD", "b", pod("b"), CNI_ARGS="K8S_POD_NAMESPACE=default;K8S_POD_NAME=b;K8S_POD_UID=u-b")
        assert (status, error["code"]) == (1, 100)
        eventually(lambda: "AddressesUsedUp" in told(node), within=30, what="told")
        (event,) = [document for document in node.api.told.values() if document["reason"] == "AddressesUsedUp"]
        assert event["regarding"] == {"apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "b", "uid": "u-b"}
        assert event["note"] == error["msg"]


def test_whoever_asks_the_node_for_its_kube_proxy_finds_it(node: Agent) -> None:
    node.start()
    status, body = fetch("/healthz", 10256)
    assert status == 200
    assert json.loads(body)["nodeEligible"] is True
    assert fetch("/livez", 10256)[0] == 200
    assert fetch("/proxyMode", 10249) == (200, "ebpf")
    text = fetch("/metrics", 10249)[1]
    assert 'kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}' in text
    assert 'kubeproxy_proxy_healthz_total{code="200"}' in text
    leaving = node_document(NODE_NAME, ["10.99.1.0/24", "fd00:99:1::/64"], ["192.0.2.10", "2001:db8::10"])
    leaving["spec"]["taints"] = [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]
    node.api.put(NODES, leaving)
    eventually(lambda: fetch("/healthz", 10256)[0] == 503, what="load balancers are told")
    assert fetch("/livez", 10256)[0] == 200
    assert node.status()["ready"]


def test_a_load_balancer_gets_an_address_and_is_announced_by_nobody_else(node: Agent) -> None:
    ready = node_document(NODE_NAME, ["10.99.1.0/24", "fd00:99:1::/64"], ["192.0.2.10", "2001:db8::10"])
    ready["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    node.api.put(NODES, ready)
    node.configure(loadBalancerPool=["192.0.2.192/26"])
    service, slices = local_service(31000)
    node.api.put(SERVICES, service)
    node.api.put(SLICES, slices)
    node.start()

    def ingress() -> Any:
        return node.api.objects[SERVICES]["shop/web"].get("status", {}).get("loadBalancer", {}).get("ingress")

    assert eventually(ingress, within=30, what="an address") == [{"ip": "192.0.2.193", "ipMode": "VIP"}]
    key = FrontendKey(ip_address("192.0.2.193"), 80, 6)
    eventually(lambda: key in node.kernel()["frontends"], within=30, what="its frontend")
