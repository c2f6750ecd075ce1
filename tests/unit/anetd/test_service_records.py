"""What the agent keeps of Services, slices and nodes, with the API's defaults and with what is malformed."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from agent.watch import records
from agent.watch.records import Endpoint, EndpointPort, Key, ServicePort

from .objects import end, piece, service


def test_a_service_keeps_all_that_its_frontends_follow_from() -> None:
    found = records.service(
        service(
            "web",
            ["10.96.0.1", "fd96::1"],
            [
                {"name": "http", "port": 80, "nodePort": 30080},
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"port": 9, "protocol": "SCTP"},
            ],
            type="LoadBalancer",
            uid="u-1",
            externalIPs=["192.0.2.1", "not an address"],
            ingress=[
                {"ip": "198.51.100.1"},
                {"ip": "198.51.100.2", "ipMode": "VIP"},
                {"ip": "198.51.100.3", "ipMode": "Proxy"},
                {"hostname": "lb"},
            ],
            loadBalancerSourceRanges=["203.0.113.0/24", " 2001:db8::/32", "203.0.113.77/25", "x"],
            externalTrafficPolicy="Local",
            internalTrafficPolicy="Local",
            healthCheckNodePort=32000,
            sessionAffinity="ClientIP",
            sessionAffinityConfig={"clientIP": {"timeoutSeconds": 60}},
            publishNotReadyAddresses=True,
            trafficDistribution="PreferSameZone",
            loadBalancerClass="example.com/lb",
        )
    )
    assert found == records.Service(
        Key("n", "web"),
        (ip_address("10.96.0.1"), ip_address("fd96::1")),
        (ServicePort("http", 6, 80, 30080), ServicePort("dns", 17, 53), ServicePort("", 132, 9)),
        "LoadBalancer",
        "u-1",
        "2026-01-01T00:00:00Z",
        external_ips=(ip_address("192.0.2.1"),),
        load_balancer_ips=(ip_address("198.51.100.1"), ip_address("198.51.100.2")),
        source_ranges=(ip_network("203.0.113.0/24"), ip_network("2001:db8::/32"), ip_network("203.0.113.0/25")),
        external_local=True,
        internal_local=True,
        health_check_node_port=32000,
        affinity_seconds=60,
        publish_not_ready=True,
        traffic_distribution="PreferSameZone",
        load_balancer_class="example.com/lb",
    )


@pytest.mark.parametrize(
    "spec", [{"type": "ExternalName", "clusterIPs": ["10.96.0.1"]}, {"clusterIPs": ["None"]}, {"clusterIPs": [], "clusterIP": ""}]
)
def test_headless_and_external_names_have_nothing(spec: dict[str, Any]) -> None:
    found = records.service(service("x", [], **{"externalIPs": ["192.0.2.1"], **spec}))
    assert (found.addresses, found.ports, found.external_ips) == ((), (), ())


def test_affinity_without_a_timeout_has_the_apis_default_of_three_hours() -> None:
    assert records.service(service("x", sessionAffinity="ClientIP")).affinity_seconds == 10800
    assert records.service(service("x", sessionAffinity="None")).affinity_seconds == 0


def test_source_ranges_may_stand_in_the_annotation_when_the_field_is_empty() -> None:
    annotations = {"service.beta.kubernetes.io/load-balancer-source-ranges": "203.0.113.0/24, 2001:db8::/32"}
    both = (ip_network("203.0.113.0/24"), ip_network("2001:db8::/32"))
    assert records.service(service("x", type="LoadBalancer", annotations=annotations)).source_ranges == both
    field = records.service(service("x", type="LoadBalancer", annotations=annotations, loadBalancerSourceRanges=["192.0.2.0/24"]))
    assert field.source_ranges == (ip_network("192.0.2.0/24"),)
    assert records.service(service("x", annotations=annotations)).source_ranges == ()


def test_external_policy_means_nothing_to_a_service_that_cannot_be_reached_from_outside() -> None:
    assert not records.service(service("x", externalTrafficPolicy="Local")).external_local
    assert records.service(service("x", externalTrafficPolicy="Local", externalIPs=["192.0.2.1"])).external_local


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({}, (True, True, False)),
        ({"ready": None, "serving": None, "terminating": None}, (True, True, False)),
        ({"ready": False}, (False, True, False)),
        ({"ready": False, "serving": False, "terminating": True}, (False, False, True)),
    ],
)
def test_an_endpoint_is_ready_and_serving_unless_it_says_otherwise(said: dict[str, Any], meant: tuple[bool, bool, bool]) -> None:
    (found,) = records.endpoint_slice(piece("x", "a", [end("10.1.0.1", **said)])).endpoints
    assert (found.ready, found.serving, found.terminating) == meant


def test_a_slice_keeps_nodes_hints_and_ports_and_leaves_out_what_is_malformed() -> None:
    document = piece(
        "x",
        "a",
        [
            {**end("10.1.0.1", "node-1", zones=["b", "a"], nodes=["node-2"]), "zone": "a"},
            {"addresses": []},
            {"addresses": ["x"]},
            {"addresses": ["10.1.0.2", "10.1.0.3"]},
        ],
        [{"name": "p", "port": 80}, {"name": None, "port": None}, {"protocol": "ICMP", "port": 1}, {"port": 0, "protocol": "SCTP"}],
    )
    found = records.endpoint_slice(document)
    assert found.service == Key("n", "a")
    assert found.family == 4
    assert found.endpoints == (
        Endpoint(ip_address("10.1.0.1"), node="node-1", zone="a", zone_hints=("a", "b"), node_hints=("node-2",)),
        Endpoint(ip_address("10.1.0.2")),
    )
    assert found.ports == (EndpointPort("p", 6, 80), EndpointPort("", 6, None), EndpointPort("", 132, 0))
    assert records.endpoint_slice({**document, "addressType": "FQDN"}).endpoints == ()


def test_the_time_of_the_change_is_kept_but_is_no_change_itself() -> None:
    document = piece("x", "a", [end("10.1.0.1")])
    bare = records.endpoint_slice(document)
    document["metadata"]["annotations"] = {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00.123456789Z"}
    timed = records.endpoint_slice(document)
    assert timed == bare
    assert bare.triggered is None
    assert timed.triggered == pytest.approx(1767225600.123456)
    document["metadata"]["annotations"]["endpoints.kubernetes.io/last-change-trigger-time"] = "soon"
    assert records.endpoint_slice(document).triggered is None


def test_a_node_keeps_its_zone_its_addresses_and_whether_it_is_ready() -> None:
    document = {
        "metadata": {"name": "node-1", "labels": {"topology.kubernetes.io/zone": "a"}},
        "spec": {"podCIDRs": ["10.1.0.0/24"]},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": "192.0.2.1"},
                {"type": "ExternalIP", "address": "198.51.100.1"},
                {"type": "Hostname"},
            ],
            "conditions": [{"type": "MemoryPressure", "status": "True"}, {"type": "Ready", "status": "True"}],
        },
    }
    found = records.node(document)
    assert (found.zone, found.ready) == ("a", True)
    assert (found.addresses, found.other_addresses) == ((ip_address("192.0.2.1"),), (ip_address("198.51.100.1"),))
    document["status"]["conditions"][1]["status"] = "Unknown"  # type: ignore[index]
    assert not records.node(document).ready
