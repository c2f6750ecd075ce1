"""Routes from Nodes, the configuration's checks, records from API objects, the log, and netlink's codec."""

from __future__ import annotations

import json
import logging
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import nodes
from agent.config import Config, ConfigError, load, parse
from agent.datapath import links, netlink
from agent.datapath.abi import Route, RouteKind
from agent.log import JsonFormatter
from agent.observe.metrics import CniMetrics
from agent.watch import records
from agent.watch.records import Node

MINIMAL = {"clusterName": "c", "apiServer": "https://192.0.2.1:6443", "podCIDRs": ["10.0.0.0/16"], "serviceCIDRs": ["10.96.0.0/16"]}


def config(**changes: Any) -> Config:
    return parse({**MINIMAL, **changes})


def node(name: str, cidrs: list[str], addresses: list[str]) -> Node:
    return Node(name, tuple(map(ip_network, cidrs)), tuple(map(ip_address, addresses)))


OWN = node("a", ["10.0.1.0/24", "fd00:1::/64"], ["192.0.2.10", "2001:db8::10"])
OTHER = node("b", ["10.0.2.0/24", "fd00:2::/64"], ["192.0.2.11", "2001:db8::11"])


def test_native_routes_go_by_the_nodes_address_of_the_same_family() -> None:
    rows = nodes.route_rows(config(), OWN, [OTHER], [])
    assert rows[ip_network("10.0.1.0/24")] == Route(RouteKind.LOCAL_PODS)
    assert rows[ip_network("10.0.2.0/24")] == Route(RouteKind.REMOTE_PODS, ip_address("192.0.2.11"))
    assert rows[ip_network("fd00:2::/64")] == Route(RouteKind.REMOTE_PODS, ip_address("2001:db8::11"))
    assert rows[ip_network("192.0.2.11/32")] == Route(RouteKind.NODE, ip_address("192.0.2.11"))
    assert rows[ip_network("192.0.2.10/32")] == Route(RouteKind.THIS_NODE)
    assert rows[ip_network("10.96.0.0/16")] == Route(RouteKind.SERVICES)
    assert rows[ip_network("10.0.0.0/16")] == Route(RouteKind.NOT_MASQUERADED)


def test_vxlan_routes_go_by_the_tunnels_far_end_in_both_families() -> None:
    rows = nodes.route_rows(config(routingMode="vxlan"), OWN, [OTHER], [])
    assert {rows[ip_network(cidr)].next_hop for cidr in ("10.0.2.0/24", "fd00:2::/64", "2001:db8::11/128")} == {ip_address("192.0.2.11")}
    assert nodes.pod_mtu(config(routingMode="vxlan"), 1500, OWN) == 1450
    assert nodes.pod_mtu(config(routingMode="vxlan"), 1500, node("a", [], ["2001:db8::10"])) == 1430
    assert nodes.pod_mtu(config(routingMode="vxlan", mtu=1300), 1500, OWN) == 1300
    assert nodes.pod_mtu(config(), 9000, OWN) == 9000


def test_a_node_without_what_is_needed_has_no_route_yet() -> None:
    half = node("b", ["fd00:2::/64"], ["192.0.2.11"])
    rows = nodes.route_rows(config(), OWN, [half, node("c", [], [])], [])
    assert ip_network("fd00:2::/64") not in rows
    assert nodes.pod_routes(config(), [half]) == []


def test_the_hosts_own_addresses_are_this_node_but_not_loopback_and_link_local() -> None:
    rows = nodes.route_rows(config(), OWN, [], [ip_address(text) for text in ("127.0.0.1", "::1", "fe80::1", "172.17.0.1")])
    assert rows[ip_network("172.17.0.1/32")] == Route(RouteKind.THIS_NODE)
    assert not {ip_network(text) for text in ("127.0.0.1/32", "::1/128", "fe80::1/128")} & set(rows)


def test_a_single_node_whose_cidr_is_the_clusters_serves_it() -> None:
    rows = nodes.route_rows(config(podCIDRs=["10.0.1.0/24"]), OWN, [], [])
    assert rows[ip_network("10.0.1.0/24")] == Route(RouteKind.LOCAL_PODS)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"routingmode": "vxlan"}, "routingmode"),
        ({"routingMode": "geneve"}, "routingMode"),
        ({"podCIDRs": []}, "podCIDRs"),
        ({"podCIDRs": ["10.0.0.1/16"]}, "podCIDRs"),
        ({"podCIDRs": "10.0.0.0/16"}, "podCIDRs"),
        ({"podCIDRs": [7]}, "podCIDRs"),
        ({"mtu": 100}, "mtu"),
        ({"mtu": True}, "mtu"),
        ({"masquerade": "yes"}, "masquerade"),
        ({"apiServer": "192.0.2.1"}, "apiServer"),
        ({"clusterName": ""}, "clusterName"),
        ({"layout": "../v1"}, "layout"),
        ({"attachMode": 3}, "attachMode"),
        ({"socketLB": "yes"}, "socketLB"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**changes)
    assert caught.value.field == field


@pytest.mark.parametrize("field", MINIMAL)
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(ConfigError, match=f"{field}: it is missing"):
        parse({key: value for key, value in MINIMAL.items() if key != field})


def test_a_file_that_cannot_be_used_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mount the ConfigMap"):
        load(tmp_path / "none")
    (tmp_path / "c").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        load(tmp_path / "c")
    (tmp_path / "c").write_text(json.dumps(MINIMAL))
    assert load(tmp_path / "c") == config()


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


def test_records_keep_what_is_used_and_leave_out_what_is_malformed() -> None:
    document = {
        "metadata": {"name": "b", "labels": {"x": "y"}},
        "spec": {"podCIDR": "10.0.2.0/24", "podCIDRs": ["10.0.2.0/24", "nonsense"]},
        "status": {
            "addresses": [
                {"type": "Hostname", "address": "b"},
                {"type": "InternalIP", "address": "192.0.2.11"},
                {"type": "InternalIP", "address": "?"},
            ]
        },
    }
    assert records.node(document) == node("b", ["10.0.2.0/24"], ["192.0.2.11"])
    assert records.node({"metadata": {"name": "b"}}) == node("b", [], [])


def test_an_object_that_changed_where_nobody_looks_is_the_same_record() -> None:
    document: dict[str, Any] = {
        "metadata": {"name": "b"},
        "spec": {"podCIDRs": ["10.0.2.0/24"]},
        "status": {"conditions": [{"type": "Ready", "lastHeartbeatTime": "1"}]},
    }
    changed = {**document, "status": {"conditions": [{"type": "Ready", "lastHeartbeatTime": "2"}]}}
    assert records.node(document) == records.node(changed)


@given(st.dictionaries(st.integers(1, 100), st.binary(max_size=40), max_size=10))
def test_netlink_attributes_come_back_as_they_were(rows: dict[int, bytes]) -> None:
    assert netlink.attributes(b"".join(netlink.attribute(kind, payload) for kind, payload in rows.items())) == rows


@given(st.binary(max_size=80))
def test_netlink_bytes_of_any_kind_are_read_without_harm(data: bytes) -> None:
    netlink.attributes(data)
    list(netlink.messages(data))


def test_link_names_fit_the_kernel_and_macs_are_local_unicast() -> None:
    name = links.pod_link_name("c" * 64, "eth0")
    assert len(name) == 13
    assert name != links.pod_link_name("c" * 64, "eth1")
    first = links.mac_bytes(links.derived_mac("x"))[0]
    assert first & 3 == 2


def test_a_log_line_is_one_json_object() -> None:
    record = logging.makeLogRecord(
        {"name": "n", "levelno": 30, "levelname": "WARNING", "msg": "two\nlines %s", "args": ("é",), "pod": "a/b", "created": 0.5}
    )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line) | {} == {
        "time": json.loads(line)["time"], "level": "warning", "logger": "n", "message": "two\nlines é", "pod": "a/b",
    }  # fmt: skip


def test_the_histogram_counts_each_request_once() -> None:
    metrics = CniMetrics()
    for seconds in (0.004, 0.02, 0.021, 99.0):
        metrics.observe("ADD", 0, seconds)
    metrics.observe("ADD", 100, 0.1)
    text = "\n".join(metrics.render())
    assert 'bucket{command="ADD",le="0.02"} 2' in text
    assert 'bucket{command="ADD",le="+Inf"} 4' in text
    assert 'anetd_cni_requests_total{command="ADD",code="100"} 1' in text
