"""What the tables say of Services, by behaviour: addresses, ports, policies, affinity, source ranges, marks, announcements."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from agent.datapath.abi import Frontend, FrontendFlag, SourceRange
from agent.observe.explain import explain
from agent.services.announce import announcer
from agent.services.frontends import MAX_BACKENDS
from agent.services.hostports import HostPort
from agent.services.vantage import Vantage, vantage
from agent.watch import records
from agent.watch.records import Key

from .objects import World, canonical, end, piece, service

TWO = [end("10.1.0.1", "here"), end("10.1.0.2", "there")]
BOTH = {"10.1.0.1:8080", "10.1.0.2:8080"}
FLAG = FrontendFlag


@pytest.fixture
def world() -> World:
    return World()


def flags(world: World, place: str) -> FrontendFlag:
    row = world.row(place)
    assert row is not None
    return row.flags


def test_each_port_of_each_family_has_its_own_endpoints(world: World) -> None:
    ports = [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]
    world.sync(
        service("web", ["10.96.0.1", "fd96::1"], ports),
        piece("x", "web", TWO, [{"name": "http", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"}]),
        piece("y", "web", [end("fd00::1")], [{"name": "http", "port": 8080}], "IPv6"),
    )
    assert world.inside("10.96.0.1:80/TCP") == BOTH
    assert world.inside("10.96.0.1:53/UDP") == {"10.1.0.1:5353", "10.1.0.2:5353"}
    assert world.inside("[fd96::1]:80/TCP") == {"[fd00::1]:8080"}
    assert world.inside("[fd96::1]:53/UDP") == "refused"


def test_a_named_target_port_may_differ_from_slice_to_slice(world: World) -> None:
    world.sync(
        service("web"), piece("x", "web", [end("10.1.0.1")], [{"port": 8080}]), piece("y", "web", [end("10.1.0.2")], [{"port": 9090}])
    )
    assert world.inside("10.96.0.1:80/TCP") == {"10.1.0.1:8080", "10.1.0.2:9090"}


def test_sctp_has_frontends_like_any_other(world: World) -> None:
    world.sync(service("x", ports=[{"port": 9, "protocol": "SCTP"}]), piece("y", "x", TWO[:1], [{"port": 9, "protocol": "SCTP"}]))
    assert world.inside("10.96.0.1:9/SCTP") == {"10.1.0.1:9"}


def test_ports_of_zero_or_none_are_no_endpoints(world: World) -> None:
    world.sync(service("web"), piece("x", "web", TWO, [{"port": 0}]), piece("y", "web", TWO, [{"port": None}]))
    assert world.inside("10.96.0.1:80/TCP") == "refused"


def test_every_way_in_shares_the_backends(world: World) -> None:
    world.sync(
        service(
            "web", ports=[{"port": 80, "nodePort": 30080}], type="LoadBalancer", externalIPs=["192.0.2.1"],
            ingress=[{"ip": "198.51.100.1"}, {"ip": "198.51.100.2", "ipMode": "Proxy"}],
        ),
        piece("x", "web", TWO),
    )  # fmt: skip
    places = ["10.96.0.1:80/TCP", "192.0.2.1:80/TCP", "198.51.100.1:80/TCP", "node4:30080/TCP"]
    rows = [world.row(place) for place in places]
    assert len({row.service_id for row in rows if row is not None}) == 1
    assert all(world.outside(place) == BOTH for place in places)
    assert world.row("198.51.100.2:80/TCP") is None
    assert world.row("node6:30080/TCP") is None  # the Service is of one family
    assert [bool(row and row.flags & FLAG.MAGLEV) for row in rows] == [False, True, True, True]
    assert len(world.kernel.tables["maglev"]) == 1


def test_external_policy_local_narrows_what_clients_outside_get_and_nobody_else(world: World) -> None:
    spec: dict[str, Any] = {"type": "NodePort", "externalTrafficPolicy": "Local"}
    world.sync(service("web", ports=[{"port": 80, "nodePort": 30080}], **spec), piece("x", "web", TWO))
    assert (world.inside("node4:30080/TCP"), world.outside("node4:30080/TCP")) == (BOTH, {"10.1.0.1:8080"})
    assert world.outside("10.96.0.1:80/TCP") == BOTH
    world.sync(piece("x", "web", TWO[1:]))
    assert (world.inside("node4:30080/TCP"), world.outside("node4:30080/TCP")) == ({"10.1.0.2:8080"}, "dropped")
    world.sync(piece("x", "web", []))
    assert (world.inside("node4:30080/TCP"), world.outside("node4:30080/TCP")) == ("refused", "refused")


def test_internal_policy_local_narrows_the_cluster_address_alone(world: World) -> None:
    spec: dict[str, Any] = {"type": "NodePort", "internalTrafficPolicy": "Local"}
    world.sync(service("web", ports=[{"port": 80, "nodePort": 30080}], **spec), piece("x", "web", TWO))
    assert (world.inside("10.96.0.1:80/TCP"), world.outside("10.96.0.1:80/TCP")) == ({"10.1.0.1:8080"}, {"10.1.0.1:8080"})
    assert (world.inside("node4:30080/TCP"), world.outside("node4:30080/TCP")) == (BOTH, BOTH)
    world.sync(piece("x", "web", TWO[1:]))
    assert (world.inside("10.96.0.1:80/TCP"), world.outside("10.96.0.1:80/TCP")) == ("dropped", "dropped")


ENDING = {"ready": False, "serving": True, "terminating": True}


def test_endpoints_that_end_but_serve_are_used_where_nothing_is_ready_decided_for_each_policy_apart(world: World) -> None:
    spec: dict[str, Any] = {"type": "NodePort", "externalTrafficPolicy": "Local"}
    world.sync(
        service("web", ports=[{"port": 80, "nodePort": 30080}], **spec), piece("x", "web", [end("10.1.0.1", "here", **ENDING), TWO[1]])
    )
    assert (world.inside("node4:30080/TCP"), world.outside("node4:30080/TCP")) == ({"10.1.0.2:8080"}, {"10.1.0.1:8080"})
    world.sync(piece("x", "web", [end("10.1.0.1", "here", **ENDING), end("10.1.0.2", ready=False)]))
    assert world.inside("node4:30080/TCP") == {"10.1.0.1:8080"}
    world.sync(piece("x", "web", [end("10.1.0.1", "here", ready=False, serving=False, terminating=True)]))
    assert world.inside("node4:30080/TCP") == "refused"


def test_addresses_that_are_published_though_not_ready_are_used(world: World) -> None:
    world.sync(service("web", publishNotReadyAddresses=True), piece("x", "web", [end("10.1.0.1", ready=False)]))
    assert world.inside("10.96.0.1:80/TCP") == {"10.1.0.1:8080"}


ONE, OTHER = {"10.1.0.1:8080"}, {"10.1.0.2:8080"}


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        ({"zones": ["zone-1"]}, {"zones": ["zone-2"]}, ONE),
        ({"zones": ["zone-1"]}, {}, BOTH),  # not every one has a hint
        ({"zones": ["zone-2"]}, {"zones": ["zone-3"]}, BOTH),  # none is for this zone
        ({"zones": ["zone-2"], "nodes": ["here"]}, {"zones": ["zone-1"], "nodes": ["there"]}, ONE),  # a node's goes before a zone's
        ({"zones": ["zone-2"], "nodes": ["elsewhere"]}, {"zones": ["zone-1"], "nodes": ["there"]}, OTHER),
        ({"zones": ["zone-1"]}, {"ready": False}, ONE),  # one that is not ready has no say
    ],
)
def test_hints_count_when_every_ready_endpoint_has_them_and_one_means_this_node(
    world: World, first: dict[str, Any], second: dict[str, Any], wanted: set[str]
) -> None:
    world.sync(service("web"), piece("x", "web", [end("10.1.0.1", **first), end("10.1.0.2", **second)]))
    assert world.inside("10.96.0.1:80/TCP") == wanted


def test_a_node_that_moves_to_another_zone_sees_hints_anew(world: World) -> None:
    world.sync(service("web"), piece("x", "web", [end("10.1.0.1", zones=["zone-1"]), end("10.1.0.2", zones=["zone-2"])]))
    world.inputs.move(Vantage("here", "zone-2"))
    world.sync()
    assert world.inside("10.96.0.1:80/TCP") == OTHER


def test_endpoints_in_several_slices_count_once_and_as_the_best_of_what_is_said(world: World) -> None:
    world.sync(service("web"), piece("x", "web", [end("10.1.0.1", ready=False)]), piece("y", "web", [end("10.1.0.1"), end("10.1.0.1")]))
    assert world.inside("10.96.0.1:80/TCP") == ONE


def test_slices_that_come_first_move_or_name_nobody(world: World) -> None:
    world.sync(piece("x", "web", TWO), piece("y", "", TWO), piece("z", "missing", TWO))
    assert world.kernel.frontends == {}
    world.sync(service("web"), service("other", ["10.96.0.2"]))
    assert (world.inside("10.96.0.1:80/TCP"), world.inside("10.96.0.2:80/TCP")) == (BOTH, "refused")
    world.sync(piece("x", "other", TWO))
    assert (world.inside("10.96.0.1:80/TCP"), world.inside("10.96.0.2:80/TCP")) == ("refused", BOTH)
    world.remove(piece("x", "other", []))
    world.sync()
    assert world.inside("10.96.0.2:80/TCP") == "refused"


def test_affinity_is_in_the_tables_unit_rounded_up_and_keeps_the_choice_from_the_socket(world: World) -> None:
    world.sync(
        service("web", sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 10800}}),
        service("b", ["10.96.0.2"]),
    )
    row = world.row("10.96.0.1:80/TCP")
    assert row is not None
    assert row.affinity_timeout == 10059
    assert not row.flags & FLAG.SOCKET
    assert flags(world, "10.96.0.2:80/TCP") == FLAG.SOCKET


def test_source_ranges_guard_the_load_balancers_address_alone_each_family_its_own(world: World) -> None:
    spec: dict[str, Any] = {"type": "LoadBalancer", "loadBalancerSourceRanges": ["203.0.113.0/24"], "externalIPs": ["192.0.2.1"]}
    ingress = [{"ip": "198.51.100.1"}, {"ip": "2001:db8::1"}]
    web = service("web", ["10.96.0.1", "fd96::1"], [{"port": 80, "nodePort": 30080}], ingress=ingress, **spec)
    world.sync(web, piece("x", "web", TWO))
    guarded = world.row("198.51.100.1:80/TCP")
    assert guarded is not None
    assert guarded.flags == FLAG.SOURCE_RANGES | FLAG.MAGLEV
    assert list(world.kernel.tables["source_ranges"]) == [SourceRange(guarded.service_id, ip_network("203.0.113.0/24"))]
    for place in ("10.96.0.1:80/TCP", "192.0.2.1:80/TCP", "node4:30080/TCP", "[2001:db8::1]:80/TCP"):
        assert not flags(world, place) & FLAG.SOURCE_RANGES
        assert flags(world, place) & FLAG.SOCKET
    web["spec"]["loadBalancerSourceRanges"] = ["192.0.2.0/24"]
    world.sync(web)
    assert list(world.kernel.tables["source_ranges"]) == [SourceRange(guarded.service_id, ip_network("192.0.2.0/24"))]
    web["spec"]["loadBalancerSourceRanges"] = []
    world.sync(web)
    assert world.kernel.tables["source_ranges"] == {}


def test_an_address_that_is_both_guarded_and_open_is_guarded(world: World) -> None:
    spec: dict[str, Any] = {"type": "LoadBalancer", "loadBalancerSourceRanges": ["203.0.113.0/24"], "externalIPs": ["198.51.100.1"]}
    world.sync(service("web", ingress=[{"ip": "198.51.100.1"}], **spec))
    assert flags(world, "198.51.100.1:80/TCP") & FLAG.SOURCE_RANGES


def test_a_services_addresses_are_marked_but_not_a_nodes_own() -> None:
    world = World(Vantage("here", node_addresses=frozenset({ip_address("192.0.2.10")})))
    web = service("web", externalIPs=["192.0.2.1", "192.0.2.10", "2001:db8::1"])
    world.sync(web)
    assert [world.row(address) for address in ("10.96.0.1", "192.0.2.1")] == [Frontend(0, 0)] * 2
    assert world.row("192.0.2.10") is None
    assert world.row("192.0.2.10:80/TCP") is not None
    assert world.row("2001:db8::1") is None
    other = service("other", ["10.96.0.2"], [{"port": 81}], externalIPs=["192.0.2.1"])
    world.sync(other)
    world.remove(web)
    world.sync()
    assert world.row("192.0.2.1") == Frontend(0, 0)
    assert world.row("10.96.0.1") is None
    world.inputs.move(Vantage("here", node_addresses=frozenset({ip_address("192.0.2.1")})))
    world.sync()
    assert world.row("192.0.2.1") is None


POOL = (ip_network("198.51.100.0/24"),)
NODES = tuple(f"node-{number}" for number in range(5))


def announcing(document: dict[str, Any], *more: dict[str, Any], nodes: tuple[str, ...] = NODES) -> list[str]:
    found = []
    for node in NODES:
        world = World(Vantage(node, nodes=nodes, pool=POOL))
        world.sync(document, *more)
        row = world.row("198.51.100.1")
        assert row is not None
        found += [node] if row.flags & FLAG.ANNOUNCED else []
    return found


def test_an_address_of_the_pool_is_announced_by_one_ready_node_and_moves_only_with_it() -> None:
    web = service("web", type="LoadBalancer", ingress=[{"ip": "198.51.100.1"}])
    (first,) = announcing(web)
    rest = tuple(node for node in NODES if node != first)
    (second,) = announcing(web, nodes=rest)
    assert second in rest
    assert announcing(web, nodes=tuple(node for node in NODES if node in {first, second})) == [first]


def test_under_policy_local_a_node_with_a_ready_endpoint_announces() -> None:
    web = service("web", type="LoadBalancer", ingress=[{"ip": "198.51.100.1"}], externalTrafficPolicy="Local")
    assert announcing(web, piece("x", "web", [end("10.1.0.1", "node-3"), end("10.1.0.2", "node-1", ready=False)])) == ["node-3"]
    assert announcing(web, piece("x", "web", [end("10.1.0.2", "node-1", ready=False)])) == announcing(web)


def test_addresses_outside_of_the_pool_are_announced_by_nobody() -> None:
    world = World(Vantage("node-0", nodes=("node-0",), pool=POOL))
    world.sync(service("web", type="LoadBalancer", ingress=[{"ip": "203.0.113.1"}]))
    assert world.row("203.0.113.1") == Frontend(0, 0)


def test_addresses_are_spread_over_the_nodes() -> None:
    found = [announcer(ip_address(f"198.51.100.{number}"), NODES) for number in range(256)]
    assert all(found.count(node) > 25 for node in NODES)


def test_a_vantage_has_the_ready_nodes_or_all_when_none_is() -> None:
    nodes = [records.Node(name, (), (ip_address(f"192.0.2.{place}"),), ready=name != "b") for place, name in enumerate("abc", 1)]
    found = vantage(nodes[0], nodes[1:], [ip_address("192.0.2.99")], POOL)
    assert found.nodes == ("a", "c")
    assert {str(address) for address in found.node_addresses} == {"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.99"}
    down = [records.Node(name, (), ()) for name in "ab"]
    assert vantage(down[0], down[1:], (), POOL).nodes == ("a", "b")


def test_host_ports_lead_to_their_pod(world: World) -> None:
    pod4, pod6 = ip_address("10.1.0.1"), ip_address("fd00::1")
    ports = [
        HostPort(None, 80, 6, pod4, 8080),
        HostPort(None, 80, 6, pod6, 8080),
        HostPort(ip_address("192.0.2.10"), 53, 17, pod4, 5353),
        HostPort(ip_address("192.0.2.10"), 54, 17, pod6, 5353),  # no such thing
    ]
    world.inputs.take_host_ports(ports)
    world.sync()
    assert world.outside("host4:80/TCP") == {"10.1.0.1:8080"}
    assert world.outside("host6:80/TCP") == {"[fd00::1]:8080"}
    assert world.outside("192.0.2.10:53/UDP") == {"10.1.0.1:5353"}
    assert len(world.kernel.frontends) == 3  # no marks: the address is the node's
    world.inputs.take_host_ports([HostPort(None, 80, 6, pod4, 9090), HostPort(None, 80, 6, ip_address("10.1.0.2"), 9090)])
    world.sync()
    assert world.outside("host4:80/TCP") == {"10.1.0.2:9090"}
    world.inputs.take_host_ports([])
    world.sync()
    assert canonical(world.kernel) == {}


def test_the_largest_service_is_cut_to_what_a_count_can_say(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    monkeypatch.setattr("agent.services.frontends.MAX_BACKENDS", 2)
    world.sync(service("web"), piece("x", "web", [end(f"10.1.0.{number}") for number in range(1, 6)]))
    assert world.inside("10.96.0.1:80/TCP") == BOTH
    assert MAX_BACKENDS == 65535


def test_why_endpoints_are_left_out_is_said(world: World) -> None:
    world.sync(
        service("web", ports=[{"name": "p", "port": 80, "nodePort": 30080}], type="NodePort", externalTrafficPolicy="Local"),
        piece(
            "x",
            "web",
            [
                end("10.1.0.1", "here", zones=["zone-1"]),
                end("10.1.0.2", "there", zones=["zone-2", "zone-3"]),
                end("10.1.0.3", "there", ready=False),
                end("10.1.0.4", "here", **ENDING),
                end("10.1.0.5", "there", ready=False, serving=False, terminating=True),
                end("10.1.0.6", ""),
            ],
            [{"name": "p", "port": 8080}],
        ),
        piece("y", "web", [end("10.1.0.7")], [{"name": "q", "port": 8080}]),
        piece("z", "web", [end("fd00::1")], [{"name": "p", "port": 8080}], "IPv6"),
    )
    (found,) = explain(Key("n", "web"), world.inputs, world.compiler)
    assert found["backends"] == ["10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.6:8080"]  # one has no hint, so none counts
    assert found["localBackends"] == ["10.1.0.1:8080"]
    assert {(row["endpoint"], row["policy"], row["why"]) for row in found["leftOut"]} == {
        ("10.1.0.3:8080", "Cluster", "not ready"),
        ("10.1.0.4:8080", "Cluster", "terminating, and others are ready"),
        ("10.1.0.5:8080", "Cluster", "terminating and not serving"),
        ("10.1.0.2:8080", "Local", "not on this node but on there"),
        ("10.1.0.3:8080", "Local", "not ready"),
        ("10.1.0.4:8080", "Local", "terminating, and others are ready"),
        ("10.1.0.5:8080", "Local", "terminating and not serving"),
        ("10.1.0.6:8080", "Local", "on no node that is known"),
        ("10.1.0.7", "", "its slice y has no port p/TCP"),
        ("fd00::1", "", "the Service has no IPv6 cluster address"),
    }
    assert [(row["kind"], row["address"], row["port"], row["policyOutside"]) for row in found["frontends"]] == [
        ("ClusterIP", "10.96.0.1", 80, "Cluster"),
        ("NodePort", "", 30080, "Local"),
    ]
    world.sync(
        piece(
            "x",
            "web",
            [end("10.1.0.1", "here", zones=["zone-1"]), end("10.1.0.2", "there", zones=["zone-2", "zone-3"])],
            [{"name": "p", "port": 1}],
        )
    )
    (found,) = explain(Key("n", "web"), world.inputs, world.compiler)
    assert ("10.1.0.2:1", "hints keep it for zones zone-2, zone-3") in {(row["endpoint"], row["why"]) for row in found["leftOut"]}
    assert explain(Key("n", "missing"), world.inputs, world.compiler) == []
