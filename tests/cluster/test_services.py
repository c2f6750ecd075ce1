"""Services as Kubernetes means them: every type and policy, from pods, from host-network pods, from the node's own processes, from outside."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from .kube import AGENT_BACK, Cluster, CommandFailed, agent_process, eventually, run, together, toolbox_pod, udp_ask
from .service_kit import (
    PODS,
    REFUSED,
    TIMED_OUT,
    balancer,
    everyone,
    everywhere,
    free_address,
    host_of,
    inside,
    listed,
    node_port,
    on,
    on_node,
    outside,
    outside_udp,
    resolvers,
    served,
    service,
    settled,
    socket_lb,
)


@everywhere
def test_a_cluster_address_answers_every_kind_of_client(cluster: Cluster, playground: str) -> None:
    for target in ("a1", "b1"):
        with service(cluster, playground, "one", {"app": target}) as addresses:
            settled(cluster, playground, "one", 1)
            for address in addresses.values():
                assert set(everyone(cluster, playground, address, 80).values()) == {target}
                for client in ("a2", "b2", "host-a"):
                    assert udp_ask(cluster, playground, client, address, 8081) == target


@everywhere
def test_pods_keep_their_address_through_a_service(cluster: Cluster, playground: str) -> None:
    with service(cluster, playground, "one", {"app": "b1"}, type="NodePort") as addresses:
        settled(cluster, playground, "one", 1)
        own = cluster.pod_addresses(playground, "a2")
        for family, address in addresses.items():
            assert host_of(inside(cluster, playground, "a2", address, 80, "/clientip")) == own[family]
            node = cluster.node_address(cluster.nodes()[0], family)
            port = node_port(cluster, playground, "one")
            assert host_of(inside(cluster, playground, "a2", node, port, "/clientip")) == own[family]


@everywhere
def test_a_node_port_answers_on_every_node_whoever_asks(cluster: Cluster, playground: str) -> None:
    with service(cluster, playground, "one", {"app": "a1"}, type="NodePort"):
        settled(cluster, playground, "one", 1)
        http, udp = node_port(cluster, playground, "one"), node_port(cluster, playground, "one", "udp")
        for family in cluster.families:
            for node in cluster.nodes()[:2]:
                address = cluster.node_address(node, family)
                assert outside(address, http) == "a1"
                assert set(everyone(cluster, playground, address, http).values()) == {"a1"}
                assert udp_ask(cluster, playground, "b2", address, udp) == "a1"
                assert outside_udp(address, udp) == "a1"
        if socket_lb(cluster):
            assert inside(cluster, playground, "host-a", "127.0.0.1", http) == "a1"


@everywhere
def test_clients_outside_are_seen_by_backends_of_the_same_node_and_behind_the_node_by_others(cluster: Cluster, playground: str) -> None:
    first, second = cluster.nodes()[:2]
    with service(cluster, playground, "one", {"app": "a1"}, type="NodePort"):
        settled(cluster, playground, "one", 1)
        port = node_port(cluster, playground, "one")
        for family in cluster.families:
            near, far = cluster.node_address(first, family), cluster.node_address(second, family)
            assert host_of(outside(near, port, "/clientip")) not in {near, far}
            assert host_of(outside(far, port, "/clientip")) == far


@everywhere
def test_external_policy_local_keeps_the_client_and_drops_where_there_is_no_endpoint(cluster: Cluster, playground: str) -> None:
    first, second = cluster.nodes()[:2]
    with service(cluster, playground, "one", {"app": "a1"}, type="NodePort", externalTrafficPolicy="Local"):
        settled(cluster, playground, "one", 1)
        port = node_port(cluster, playground, "one")

        def asked(family: int) -> None:
            near, far = cluster.node_address(first, family), cluster.node_address(second, family)
            assert host_of(outside(near, port, "/clientip")) not in {near, far}
            # Clients in the cluster are not subject to it at their own node; another node's port is that node's affair.
            served_there = ("b2", "host-b") if socket_lb(cluster) else ("b2",)
            clients = {name: partial(inside, cluster, playground, name, far, port) for name in ("a2", "host-a", *served_there)}
            found = together({"outside": partial(outside, far, port), **clients})
            assert found == {name: "a1" if name in served_there else str(TIMED_OUT) for name in found}
            assert host_of(inside(cluster, playground, "host-b", near, port, "/clientip")) == far

        together({str(family): partial(asked, family) for family in cluster.families})


@on(["native-ipv4", "vxlan-ipv4"])
def test_with_direct_return_every_backend_sees_the_client(cluster: Cluster, playground: str) -> None:
    with service(cluster, playground, "one", {"app": "a1"}, type="LoadBalancer"):
        settled(cluster, playground, "one", 1)
        port, balanced = node_port(cluster, playground, "one"), balancer(cluster, playground, "one")[4]
        nodes = [cluster.node_address(node) for node in cluster.nodes()]
        for node in nodes:
            assert host_of(outside(node, port, "/clientip")) not in nodes

        served(lambda: outside(balanced, 80), "a1")
        assert host_of(outside(balanced, 80, "/clientip")) not in nodes


@everywhere
def test_internal_policy_local_stays_on_the_node_and_drops_where_there_is_no_endpoint(cluster: Cluster, playground: str) -> None:
    with service(cluster, playground, "one", {"app": "a1"}, internalTrafficPolicy="Local") as addresses:
        first, second = cluster.nodes()[:2]
        probes = {
            (client, address): partial(inside, cluster, playground, client, address, 80)
            for client in ("a2", "host-a", "b2", "host-b")
            for address in addresses.values()
        }
        probes |= {
            (node, address): partial(on_node, cluster, node, address, 80) for node in (first, second) for address in addresses.values()
        }
        wanted = {asker: "a1" if asker[0] in {"a2", "host-a", first} else str(TIMED_OUT) for asker in probes}
        served(lambda: together(probes), wanted)


@everywhere
def test_no_endpoints_and_no_such_port_are_refused_at_once(cluster: Cluster, playground: str) -> None:
    with service(cluster, playground, "none", {"app": "nobody"}, type="NodePort") as addresses:
        settled(cluster, playground, "none", 0)
        port = node_port(cluster, playground, "none")
        for family, address in addresses.items():
            assert set(everyone(cluster, playground, address, 80).values()) == {str(REFUSED)}
            assert set(everyone(cluster, playground, address, 81).values()) == {str(REFUSED)}
            node = cluster.node_address(cluster.nodes()[0], family)
            assert set(everyone(cluster, playground, node, port).values()) == {str(REFUSED)}
            assert outside(node, port) == str(REFUSED)


@everywhere
def test_an_address_that_no_service_has_swallows(cluster: Cluster, playground: str) -> None:
    taken = {a for item in cluster.get("services", "-A")["items"] for a in item["spec"].get("clusterIPs", [])}
    base = ipaddress.ip_address(cluster.get("service", "-n", "default", "kubernetes")["spec"]["clusterIP"])
    free = next(str(base + step) for step in range(200, 250) if str(base + step) not in taken)
    found = together(
        {"pod": lambda: inside(cluster, playground, "a2", free, 80), "node": lambda: on_node(cluster, cluster.nodes()[0], free, 80)}
    )
    assert set(found.values()) == {str(TIMED_OUT)}


@everywhere
def test_session_affinity_holds_for_its_time(cluster: Cluster, playground: str) -> None:
    affinity = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}
    with service(cluster, playground, "sticky", {"group": "web"}, type="NodePort", **affinity) as addresses:
        settled(cluster, playground, "sticky", 4)
        port = node_port(cluster, playground, "sticky")
        node = cluster.node_address(cluster.nodes()[0])
        for ask in (lambda: inside(cluster, playground, "a2", addresses[4], 80), lambda: outside(node, port)):
            assert len({ask() for _ in range(12)}) == 1, "no two asks are further apart than the affinity lasts"
        # Each try waits until the affinity is over: four backends do not give one answer ten times in a row by chance.
        seen = set()
        for _ in range(10):
            seen.add(outside(node, port))
            if len(seen) > 1:
                break
            time.sleep(6.5)  # the tables count in units of 1.07 s
        assert len(seen) > 1


@everywhere
def test_named_target_ports_may_differ_by_endpoint(cluster: Cluster, playground: str) -> None:
    first = cluster.nodes()[0]
    pods = []
    for name, http in (("plain", 8080), ("moved", 9090)):
        pod = toolbox_pod(cluster, name, first, labels={"named": "yes"})
        container = pod["spec"]["containers"][0]
        container["command"] = ["/agnhost", "netexec", f"--http-port={http}", "--udp-port=8081"]
        container["ports"] = [{"name": "web", "containerPort": http}]
        container["readinessProbe"]["httpGet"]["port"] = http
        pod["metadata"]["namespace"] = playground
        pods.append(pod)
    cluster.apply(*pods)
    try:
        cluster.wait_ready(playground, "plain", "moved")
        with service(cluster, playground, "named", {"named": "yes"}, ports=[{"name": "web", "port": 80, "targetPort": "web"}]) as addresses:
            settled(cluster, playground, "named", 2)
            for address in addresses.values():
                assert {inside(cluster, playground, "b1", address, 80) for _ in range(24)} == {"plain", "moved"}
    finally:
        cluster.kubectl("delete", "pod", "-n", playground, "plain", "moved", "--wait=false")


EXTERNAL = "198.18.77.1"


@pytest.fixture
def fenced() -> Iterator[None]:
    """What is sent to an external address by mistake ends on this machine."""
    fence = ("unreachable", f"{EXTERNAL.rsplit('.', 1)[0]}.0/24")
    subprocess.run(["ip", "route", "del", *fence], capture_output=True, check=False)
    run("ip", "route", "add", *fence)
    yield
    run("ip", "route", "del", *fence)


@everywhere
def test_external_addresses_lead_to_the_service(cluster: Cluster, playground: str, fenced: None) -> None:
    gateway = cluster.node_address(cluster.nodes()[1])
    subprocess.run(["ip", "route", "del", f"{EXTERNAL}/32"], capture_output=True, check=False)
    with service(cluster, playground, "external", {"app": "a1"}, externalIPs=[EXTERNAL]):
        settled(cluster, playground, "external", 1)
        assert set(everyone(cluster, playground, EXTERNAL, 80).values()) == {"a1"}
        run("ip", "route", "add", f"{EXTERNAL}/32", "via", gateway)
        try:
            assert outside(EXTERNAL, 80) == "a1"
            assert outside(EXTERNAL, 81) == str(REFUSED)
        finally:
            run("ip", "route", "del", f"{EXTERNAL}/32", "via", gateway)


@everywhere
def test_of_two_services_with_one_external_address_the_older_has_it_and_the_newer_is_told(cluster: Cluster, playground: str) -> None:
    external = free_address(cluster, 182)
    with service(cluster, playground, "older", {"app": "a1"}, externalIPs=[external]):
        settled(cluster, playground, "older", 1)
        time.sleep(1.1)  # the API counts ages in seconds
        with service(cluster, playground, "newer", {"app": "b1"}, externalIPs=[external]) as addresses:
            served(lambda: inside(cluster, playground, "a2", addresses[4], 80), "b1")
            assert inside(cluster, playground, "a2", external, 80) == "a1"
            eventually(
                lambda: any(
                    event["regarding"]["name"] == "newer" and external in event["note"]
                    for event in cluster.get("events.events.k8s.io", "-n", playground)["items"]
                ),
                what="an event on the newer Service",
            )


@everywhere
def test_a_load_balancer_has_an_address_that_the_machine_reaches(cluster: Cluster, playground: str) -> None:
    with service(cluster, playground, "balanced", {"group": "web"}, type="LoadBalancer"):
        for address in balancer(cluster, playground, "balanced").values():
            served(lambda address=address: outside(address, 80) in PODS, True)
            seen = Counter(outside(address, 80) for _ in range(40))
            assert set(seen) == PODS
            assert inside(cluster, playground, "a1", address, 80) in PODS
            assert outside(address, 81) == str(REFUSED)


@everywhere
def test_a_load_balancer_of_policy_local_is_announced_where_an_endpoint_is(cluster: Cluster, playground: str) -> None:
    for target in ("a1", "b1"):
        with service(cluster, playground, f"at-{target}", {"app": target}, type="LoadBalancer", externalTrafficPolicy="Local"):
            nodes = [cluster.node_address(node, family) for node in cluster.nodes() for family in cluster.families]
            for address in balancer(cluster, playground, f"at-{target}").values():
                served(lambda address=address, target=target: outside(address, 80) == target, True)
                assert host_of(outside(address, 80, "/clientip")) not in nodes


@everywhere
def test_source_ranges_let_in_whom_they_name(cluster: Cluster, playground: str) -> None:
    with service(cluster, playground, "fenced", {"app": "a1"}, type="LoadBalancer", loadBalancerSourceRanges=["203.0.113.0/24"]) as inner:
        address = balancer(cluster, playground, "fenced")[4]
        settled(cluster, playground, "fenced", 1)
        pod = partial(inside, cluster, playground, "a2")
        asks = {"outside": partial(outside, address, 80), "pod": partial(pod, address, 80), "cluster address": partial(pod, inner[4], 80)}
        assert together(asks) == {"outside": str(TIMED_OUT), "pod": str(TIMED_OUT), "cluster address": "a1"}
        bridge = json.loads(run("ip", "-j", "route", "get", address))[0]["prefsrc"]
        patch = json.dumps({"spec": {"loadBalancerSourceRanges": [f"{bridge}/32"]}})
        cluster.kubectl("patch", "service", "-n", playground, "fenced", "-p", patch)
        served(lambda: outside(address, 80), "a1")
        assert inside(cluster, playground, "a2", address, 80) == str(TIMED_OUT)


@everywhere
def test_a_balancer_that_proxies_itself_is_not_shortcut(cluster: Cluster, playground: str) -> None:
    external = free_address(cluster, 183)
    with service(cluster, playground, "proxied", {"app": "a1"}, type="LoadBalancer", loadBalancerClass="example.com/elsewhere"):
        for mode, answers in (("VIP", {"a1"}), ("Proxy", {str(TIMED_OUT), str(REFUSED)})):
            status = json.dumps({"status": {"loadBalancer": {"ingress": [{"ip": external, "ipMode": mode}]}}})
            cluster.kubectl("patch", "service", "-n", playground, "proxied", "--subresource=status", "--type=merge", "-p", status)
            served(lambda answers=answers: inside(cluster, playground, "a2", external, 80) in answers, True)


@everywhere
def test_unready_pods_are_served_only_where_that_is_asked_for(cluster: Cluster, playground: str) -> None:
    pod = toolbox_pod(cluster, "unready", cluster.nodes()[0])
    pod["metadata"]["namespace"] = playground
    pod["spec"]["containers"][0]["readinessProbe"] = {"exec": {"command": ["false"]}, "periodSeconds": 1}
    cluster.apply(pod)
    try:
        with (
            service(cluster, playground, "strict", {"app": "unready"}) as strict,
            service(cluster, playground, "eager", {"app": "unready"}, publishNotReadyAddresses=True) as eager,
        ):
            for family in cluster.families:
                served(lambda family=family: inside(cluster, playground, "b1", eager[family], 80), "unready")
                assert inside(cluster, playground, "b1", strict[family], 80) == str(REFUSED)
    finally:
        cluster.kubectl("delete", "pod", "-n", playground, "unready", "--wait=false")


@everywhere
def test_terminating_pods_serve_until_others_are_ready(cluster: Cluster, playground: str) -> None:
    """The only pod of a Service goes away slowly: it is asked as long as it serves, and no longer when there is another one."""

    def slow(name: str) -> dict[str, Any]:
        pod = toolbox_pod(cluster, name, cluster.nodes()[0], labels={"slow": "yes"})
        pod["metadata"]["namespace"] = playground
        pod["spec"]["terminationGracePeriodSeconds"] = 60
        pod["spec"]["containers"][0]["command"] = ["/agnhost", "netexec", "--http-port=8080", "--udp-port=8081", "--delay-shutdown=50"]
        return pod

    cluster.apply(slow("leaving"))
    try:
        cluster.wait_ready(playground, "leaving")
        with service(cluster, playground, "slow", {"slow": "yes"}, type="NodePort", externalTrafficPolicy="Local") as addresses:
            settled(cluster, playground, "slow", 1)
            cluster.kubectl("delete", "pod", "-n", playground, "leaving", "--wait=false")
            eventually(lambda: "deletionTimestamp" in cluster.pod(playground, "leaving")["metadata"])
            time.sleep(2)
            port, node = node_port(cluster, playground, "slow"), cluster.node_address(cluster.nodes()[0])
            assert inside(cluster, playground, "b1", addresses[4], 80) == "leaving"
            assert outside(node, port) == "leaving"
            cluster.apply(slow("coming"))
            cluster.wait_ready(playground, "coming")
            served(lambda: {inside(cluster, playground, "b1", addresses[4], 80) for _ in range(6)}, {"coming"})
    finally:
        cluster.kubectl("delete", "pod", "-n", playground, "leaving", "coming", "--ignore-not-found", "--wait=false", "--grace-period=1")


@everywhere
def test_a_pod_reaches_itself_through_every_kind_of_frontend(cluster: Cluster, playground: str) -> None:
    with service(cluster, playground, "one", {"app": "a1"}, type="NodePort") as addresses:
        settled(cluster, playground, "one", 1)
        port = node_port(cluster, playground, "one")
        for family, address in addresses.items():
            assert inside(cluster, playground, "a1", address, 80) == "a1"
            assert inside(cluster, playground, "a1", cluster.node_address(cluster.nodes()[0], family), port) == "a1"


@everywhere
def test_one_port_number_may_be_two_protocols(cluster: Cluster, playground: str) -> None:
    ports = [
        {"name": "tcp", "port": 7000, "targetPort": 8080},
        {"name": "udp", "port": 7000, "targetPort": 8081, "protocol": "UDP"},
    ]
    with service(cluster, playground, "both", {"app": "b1"}, ports=ports) as addresses:
        settled(cluster, playground, "both", 1)
        for address in addresses.values():
            assert inside(cluster, playground, "a1", address, 7000) == "b1"
            assert udp_ask(cluster, playground, "a1", address, 7000) == "b1"


@everywhere
def test_services_of_other_proxies_and_headless_ones_are_left_alone(cluster: Cluster, playground: str) -> None:
    with service(cluster, playground, "ours", {"app": "a1"}) as addresses:
        served(lambda: inside(cluster, playground, "a2", addresses[4], 80), "a1")
        label = "service.kubernetes.io/service-proxy-name"
        cluster.kubectl("label", "service", "-n", playground, "ours", f"{label}=somebody-else")
        served(lambda: inside(cluster, playground, "a2", addresses[4], 80), str(TIMED_OUT))
        cluster.kubectl("label", "service", "-n", playground, "ours", f"{label}-")
        served(lambda: inside(cluster, playground, "a2", addresses[4], 80), "a1")
    with service(cluster, playground, "headless", {"app": "a1"}, clusterIP="None"):
        time.sleep(1)
        assert listed(cluster, cluster.nodes()[0], playground, "headless") == []


@everywhere
def test_a_connected_datagram_socket_does_not_hang_on_to_a_backend_that_is_gone(cluster: Cluster, playground: str) -> None:
    first, second = cluster.nodes()[:2]
    for name, node in (("old", first), ("new", second)):
        pod = toolbox_pod(cluster, name, node, labels={"turn": name})
        pod["metadata"]["namespace"] = playground
        cluster.apply(pod)
    try:
        cluster.wait_ready(playground, "old", "new")
        with service(cluster, playground, "turns", {"turn": "old"}) as addresses:
            settled(cluster, playground, "turns", 1)
            clients = ("a1", "host-b")
            for client in clients:
                served(lambda client=client: udp_ask(cluster, playground, client, addresses[4], 8081), "old")
            with resolvers(cluster, playground, clients, addresses[4]) as heard:
                for client in clients:
                    eventually(lambda client=client: heard(client).endswith("oldold"), what=f"{client} hears of the old one")
                cluster.kubectl("patch", "service", "-n", playground, "turns", "-p", '{"spec":{"selector":{"turn":"new"}}}')
                for client in clients:
                    eventually(lambda client=client: heard(client).endswith("newnew"), what=f"{client} hears of the new one")
    finally:
        cluster.kubectl("delete", "pod", "-n", playground, "old", "new", "--wait=false")


@everywhere
def test_endpoints_without_selector_may_be_anywhere(cluster: Cluster, playground: str) -> None:
    """A slice of the user's own: a node's address, an address outside, one endpoint twice, a port by number."""
    node = cluster.node_address(cluster.nodes()[1])
    with service(cluster, playground, "manual", None, ipFamilyPolicy="SingleStack", ipFamilies=["IPv4"]) as addresses:
        for number in (1, 2):
            cluster.apply(
                {
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {"name": f"manual-{number}", "namespace": playground, "labels": {"kubernetes.io/service-name": "manual"}},
                    "addressType": "IPv4",
                    "ports": [{"name": "http", "port": 18080, "protocol": "TCP"}],
                    "endpoints": [{"addresses": [node]}],
                }
            )
        served(lambda: inside(cluster, playground, "a1", addresses[4], 80), cluster.nodes()[1])
        assert inside(cluster, playground, "b1", addresses[4], 80) == cluster.nodes()[1]
        (row,) = (row for row in listed(cluster, cluster.nodes()[0], playground, "manual") if row["portName"] == "http")
        assert row["backends"] == [f"{node}:18080"]


@everywhere
def test_traffic_distribution_keeps_to_the_zone(cluster: Cluster, playground: str) -> None:
    first, second = cluster.nodes()[:2]
    zone = "topology.kubernetes.io/zone"
    for node, name in ((first, "east"), (second, "west")):
        cluster.kubectl("label", "node", node, f"{zone}={name}", "--overwrite")
    try:
        with service(cluster, playground, "close", {"group": "web"}, trafficDistribution="PreferClose") as addresses:
            for client, near in (("a1", {"a1", "a2"}), ("b1", {"b1", "b2"})):
                served(
                    lambda client=client, near=near: {inside(cluster, playground, client, addresses[4], 80) for _ in range(10)} <= near,
                    True,
                )
    finally:
        for node in (first, second):
            cluster.kubectl("label", "node", node, f"{zone}-")


@on(["native-dual"])
def test_a_node_port_cannot_be_taken_by_a_process_of_the_node(cluster: Cluster, playground: str) -> None:
    with service(cluster, playground, "one", {"app": "a1"}, type="NodePort"):
        settled(cluster, playground, "one", 1)
        port = node_port(cluster, playground, "one")
        with pytest.raises(CommandFailed, match=r"(?i)address already in use|not permitted"):
            cluster.exec(playground, "host-a", "timeout", "2", "nc", "-l", str(port))
        # A pod's own ports are its own.
        cluster.exec(playground, "a1", "sh", "-c", f"timeout 1 nc -l {port}; test $? = 124")


@everywhere
def test_rolling_a_deployment_under_load_loses_no_request(cluster: Cluster, playground: str) -> None:
    """Backends that end gracefully, clients of every kind, ten requests a second each: none fails while all pods are replaced twice."""
    pod = toolbox_pod(cluster, "rolled", "")
    del pod["spec"]["nodeName"]
    pod["spec"]["terminationGracePeriodSeconds"] = 15
    pod["spec"]["containers"][0]["command"] += ["--delay-shutdown=6"]
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "rolled", "namespace": playground},
        "spec": {
            "replicas": 4,
            "selector": {"matchLabels": {"app": "rolled"}},
            "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 2}},
            "template": {"metadata": {"labels": {"app": "rolled"}}, "spec": pod["spec"]},
        },
    }
    cluster.apply(deployment)
    try:
        cluster.kubectl("rollout", "status", "-n", playground, "deployment/rolled", "--timeout=60s", timeout=70)
        with service(cluster, playground, "rolled", {"app": "rolled"}, type="NodePort") as addresses:
            settled(cluster, playground, "rolled", 4)
            port, node = node_port(cluster, playground, "rolled"), cluster.node_address(cluster.nodes()[0])
            loop = "n=0; while [ -e /tmp/rolling ]; do n=$((n+1)); curl -sS --max-time 5 -o /dev/null http://{} || echo FAILED; sleep 0.1; done; echo asked $n"
            clients = []
            for name, target in (("a1", f"{addresses[4]}:80"), ("b1", f"{node}:{port}"), ("host-b", f"{addresses[4]}:80")):
                cluster.exec(playground, name, "touch", "/tmp/rolling")
                clients.append((name, cluster.kubectl_process("exec", "-n", playground, name, "--", "sh", "-c", loop.format(target))))
            for _ in range(2):
                cluster.kubectl("rollout", "restart", "-n", playground, "deployment/rolled")
                cluster.kubectl("rollout", "status", "-n", playground, "deployment/rolled", "--timeout=120s", timeout=130)
            for name, process in clients:
                cluster.exec(playground, name, "rm", "/tmp/rolling")
                said = process.communicate(timeout=30)[0]
                assert "FAILED" not in said, f"{name}: {said}"
                assert int(said.rsplit("asked ", 1)[1]) > 20
    finally:
        cluster.kubectl("delete", "deployment", "-n", playground, "rolled", "--wait=false")


@everywhere
def test_changes_made_while_the_agent_is_dead_are_there_when_it_is_back(cluster: Cluster, playground: str) -> None:
    first = cluster.nodes()[0]
    with service(cluster, playground, "one", {"app": "a1"}) as addresses:
        served(lambda: inside(cluster, playground, "a2", addresses[4], 80), "a1")
        cluster.kubectl("patch", "service", "-n", playground, "one", "-p", '{"spec":{"selector":{"app":"b1"}}}')
        cluster.in_member(first, "kill", "-9", str(agent_process(cluster, first)))
        served(lambda: inside(cluster, playground, "a2", addresses[4], 80), "b1", within=AGENT_BACK)
