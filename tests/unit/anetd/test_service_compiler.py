"""How the tables change: as little as can be, whole Services or none, ids kept, and who has what two Services want."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from agent.datapath.abi import Backend, FrontendFlag, SlotKey
from agent.reconcile import ids
from agent.reconcile.applier import ApplyError, apply
from agent.reconcile.compiler import describe
from agent.reconcile.diff import Delete, Put
from agent.reconcile.tables import Limits
from agent.services.hostports import HostPort
from agent.watch.records import Key

from .objects import Document, Kernel, World, canonical, end, piece, place_key, service


@pytest.fixture
def world() -> World:
    return World()


def many(world: World, count: int, endpoints: int = 4) -> None:
    for number in range(count):
        world.put(service(f"s{number}", [f"10.96.{number >> 8}.{number & 255}"]))
        world.put(piece(f"s{number}", f"s{number}", [end(f"10.{place}.{number >> 8}.{number & 255}") for place in range(1, endpoints + 1)]))
    world.sync()


def test_one_endpoint_changed_among_many_services_writes_its_own_rows_alone(world: World) -> None:
    many(world, 300)
    row = world.row("10.96.0.7:80/TCP")
    assert row is not None
    gone = world.kernel.group(row.service_id, 4)[1]
    ends = [end(f"10.{place}.0.7") for place in (1, 3, 4, 9)]
    world.sync(piece("s7", "s7", ends))
    assert [(verb, table) for verb, table, _ in world.kernel.written] == [
        ("put", "backends"),
        ("put", "backend_slots"),
        ("delete", "backends"),
    ]
    assert world.kernel.written[1][2] == SlotKey(row.service_id, 1)
    assert gone == Backend(ip_address("10.2.0.7"), 8080, 6)
    assert world.row("10.96.0.7:80/TCP") == row
    world.sync(piece("s7", "s7", ends))
    assert world.kernel.written == []


def test_an_endpoint_that_goes_has_its_place_filled_from_the_end(world: World) -> None:
    many(world, 1)
    row = world.row("10.96.0.0:80/TCP")
    assert row is not None
    last = world.kernel.tables["backend_slots"][SlotKey(row.service_id, 3)]
    plan = world.sync(piece("s0", "s0", [end(f"10.{place}.0.0") for place in (2, 3, 4)]))
    assert world.kernel.tables["backend_slots"][SlotKey(row.service_id, 0)] == last
    assert [(verb, table) for verb, table, _ in world.kernel.written] == [
        ("put", "backend_slots"),
        ("put", "frontends"),
        ("delete", "backend_slots"),
        ("delete", "backends"),
    ]
    assert list(plan.gone.values()) == [Backend(ip_address("10.1.0.0"), 8080, 6)]


def test_a_thousand_endpoints_in_one_service(world: World) -> None:
    addresses = [f"10.1.{number >> 8}.{number & 255}" for number in range(1000)]
    world.sync(service("web"), *(piece(f"x{part}", "web", [end(a) for a in addresses[part::10]]) for part in range(10)))
    assert len(world.inside("10.96.0.1:80/TCP")) == 1000
    world.sync(piece("x3", "web", []))
    assert len(world.inside("10.96.0.1:80/TCP")) == 900
    canonical(world.kernel)


def test_ids_survive_a_restart_and_so_does_the_order_of_slots(world: World) -> None:
    spec: dict[str, Any] = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["203.0.113.0/24"]}
    world.sync(
        service("web", ports=[{"port": 80, "nodePort": 30080}], ingress=[{"ip": "198.51.100.1"}], **spec),
        piece("x", "web", [end("10.1.0.1", "here"), end("10.1.0.2"), end("10.1.0.3")]),
    )
    world.sync(piece("x", "web", [end("10.1.0.3", "here"), end("10.1.0.2")]))
    before = {name: dict(rows) for name, rows in world.kernel.tables.items()}
    world.restart()
    world.sync()
    assert world.kernel.tables == before
    assert world.kernel.written == []


def test_a_restart_finds_what_changed_meanwhile(world: World) -> None:
    gone, web = service("gone", ["10.96.0.9"], created="2025-01-01T00:00:00Z"), service("web")
    world.sync(gone, web, piece("x", "web", [end("10.1.0.1"), end("10.1.0.2")]), piece("y", "gone", [end("10.1.0.1")]))
    kept = world.row("10.96.0.1:80/TCP")
    world.remove(gone)
    world.put(piece("x", "web", [end("10.1.0.2"), end("10.1.0.3")]))
    world.restart()
    world.sync()
    assert world.row("10.96.0.1:80/TCP") == kept
    assert world.row("10.96.0.9:80/TCP") is None
    canonical(world.kernel)


def test_before_services_are_known_host_ports_are_written_and_nothing_is_deleted(world: World) -> None:
    world.sync(service("web"), piece("x", "web", [end("10.1.0.1")]))
    before = dict(world.kernel.frontends)
    other = World()
    other.kernel = world.kernel
    other.restart()
    other.inputs.take_host_ports([HostPort(None, 80, 6, ip_address("10.1.0.9"), 8080)])
    other.kernel.apply(other.compiler.plan(prune=False))
    assert before.items() <= world.kernel.frontends.items()
    assert other.outside("host4:80/TCP") == {"10.1.0.9:8080"}
    other.put(service("web"), piece("x", "web", [end("10.1.0.1")]))
    other.sync()
    assert before.items() <= world.kernel.frontends.items()
    canonical(world.kernel)


def test_numbers_that_collide_move_on_and_are_never_given_to_a_stranger(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Colliding:
        def __init__(self, *_: object, **__: object) -> None: ...

        def digest(self) -> bytes:
            return bytes(4)

    monkeypatch.setattr(ids.hashlib, "blake2b", Colliding)
    world.sync(service("a"), service("b", ["10.96.0.2"]), piece("x", "a", [end("10.1.0.1"), end("10.1.0.2")]))
    assert sorted(row.service_id for key, row in world.kernel.frontends.items() if key.port) == [1, 2]
    assert sorted(world.kernel.tables["backends"]) == [1, 2]
    two = world.kernel.tables["backends"][2]
    world.sync(piece("x", "a", [end("10.1.0.2"), end("10.1.0.3")]))
    assert world.kernel.tables["backends"][2] == two
    assert set(world.kernel.tables["backends"]) == {2, 3}  # 1 stood in the table still, for the one that went
    world.restart()
    world.sync(service("c", ["10.96.0.3"], created="2020-01-01T00:00:00Z"))
    assert sorted(row.service_id for key, row in world.kernel.frontends.items() if key.port) == [1, 2, 3]


# Two that want the same.

OLD, NEW = "2026-01-01T00:00:00Z", "2026-02-02T00:00:00Z"


def claims(name: str, number: int, created: str, **spec: Any) -> list[Document]:
    ports = [{"port": 80, "nodePort": 30080}]
    return [
        service(name, [f"10.96.0.{number}"], ports, type="NodePort", created=created, uid=f"uid-{name}", externalIPs=["192.0.2.1"], **spec),
        piece(name, name, [end(f"10.1.0.{number}")]),
    ]


def test_of_two_services_the_older_has_the_node_port_and_the_newer_hears_of_it_and_works_otherwise(world: World) -> None:
    world.sync(*claims("a", 1, NEW))
    plan = world.sync(*claims("b", 2, OLD))
    for place in ("node4:30080/TCP", "192.0.2.1:80/TCP"):
        assert world.outside(place) == {"10.1.0.2:8080"}
    assert world.inside("10.96.0.1:80/TCP") == {"10.1.0.1:8080"}
    assert {(str(each.service), each.uid, each.reason) for each in plan.notices} == {("n/a", "uid-a", "FrontendTaken")}
    assert {each.message.partition(" is served")[0] for each in plan.notices} == {"192.0.2.1:80/TCP", "node port 30080/TCP"}
    assert "n/b" in plan.notices[0].message
    assert [str(each) for each in world.compiler.conflicts] == ["n/a"]
    assert world.sync(*claims("a", 1, NEW)).notices == []
    world.remove(claims("b", 2, OLD)[0])
    assert world.sync().notices == []
    assert world.outside("node4:30080/TCP") == {"10.1.0.1:8080"}
    assert not world.compiler.conflicts


def test_of_two_of_the_same_age_the_first_by_name_has_it(world: World) -> None:
    world.sync(*claims("b", 2, OLD))
    world.sync(*claims("a", 1, OLD))
    assert world.outside("node4:30080/TCP") == {"10.1.0.1:8080"}


def test_a_cluster_ip_is_taken_by_nobodys_external_ip_however_old(world: World) -> None:
    thief = service("thief", ["10.96.0.9"], externalIPs=["10.96.0.1"], created="2020-01-01T00:00:00Z")
    world.sync(thief, piece("t", "thief", [end("10.1.0.66")]))
    assert world.inside("10.96.0.1:80/TCP") == {"10.1.0.66:8080"}
    plan = world.sync(service("web", created=NEW), piece("x", "web", [end("10.1.0.1")]))
    assert world.inside("10.96.0.1:80/TCP") == {"10.1.0.1:8080"}
    assert [(str(each.service), each.message.partition(",")[0]) for each in plan.notices] == [
        ("n/thief", "10.96.0.1:80/TCP is served for n/web")
    ]
    world.sync(thief)
    assert world.inside("10.96.0.1:80/TCP") == {"10.1.0.1:8080"}


def test_a_service_made_anew_under_its_name_is_the_newer_one(world: World) -> None:
    world.sync(*claims("a", 1, OLD), *claims("b", 2, "2026-01-15T00:00:00Z"))
    assert world.outside("node4:30080/TCP") == {"10.1.0.1:8080"}
    world.sync(*claims("a", 1, NEW))
    assert world.outside("node4:30080/TCP") == {"10.1.0.2:8080"}


def test_a_frontend_changes_hands_in_one_plan_without_a_moment_of_nobody(world: World) -> None:
    a, b = claims("a", 1, OLD), claims("b", 2, NEW)
    world.sync(*a, *b)
    world.kernel.moment = lambda: canonical_place(world, "node4:30080/TCP")
    world.remove(a[0])
    world.sync()
    assert world.outside("node4:30080/TCP") == {"10.1.0.2:8080"}


def canonical_place(world: World, place: str) -> None:
    assert world.outside(place) in ({"10.1.0.1:8080"}, {"10.1.0.2:8080"})


def test_places_are_named_as_people_write_them() -> None:
    places = {"10.96.0.1:80/TCP": None, "[fd96::1]:80/UDP": None, "node6:1/SCTP": "node port 1/SCTP", "host4:80/TCP": "host port 80/TCP"}
    assert [describe(place_key(place)) for place in places] == [name or place for place, name in places.items()]


# The API server's own Service.


def test_kubernetes_never_loses_its_last_backend_also_over_a_restart(world: World) -> None:
    world.sync(service("default/kubernetes"), piece("default/x", "default/kubernetes", [end("192.0.2.1"), end("192.0.2.2")]))
    world.sync(piece("default/x", "default/kubernetes", [end("192.0.2.2")]))
    world.sync(piece("default/x", "default/kubernetes", []))
    assert world.inside("10.96.0.1:80/TCP") == {"192.0.2.2:8080"}
    world.remove(piece("default/x", "default/kubernetes", []))
    world.sync()
    assert world.inside("10.96.0.1:80/TCP") == {"192.0.2.2:8080"}
    world.restart()
    world.sync()
    assert world.inside("10.96.0.1:80/TCP") == {"192.0.2.2:8080"}
    world.sync(piece("default/x", "default/kubernetes", [end("192.0.2.3")]))
    assert world.inside("10.96.0.1:80/TCP") == {"192.0.2.3:8080"}
    world.remove(service("default/kubernetes"))
    world.sync()
    assert canonical(world.kernel) == {}


# Tables that are full.


@pytest.mark.parametrize(
    ("limits", "table"),
    [
        (Limits(frontends=4), "frontends"),
        (Limits(backends=5), "backends"),
        (Limits(backend_slots=5), "backend_slots"),
    ],
)
def test_a_service_without_room_is_left_out_as_a_whole_named_and_let_in_when_there_is_room(limits: Limits, table: str) -> None:
    world = World(limits=limits)
    services = [service(name, [f"10.96.0.{number}"], uid=f"uid-{name}") for number, name in enumerate("abc", 1)]
    pieces = [piece(name, name, [end(f"10.1.{number}.{place}") for place in (1, 2)]) for number, name in enumerate("abc")]
    plan = world.sync(*services, *pieces)
    assert [(str(each.service), each.uid, each.reason) for each in plan.notices] == [("n/c", "uid-c", "ServiceLeftOut")]
    assert table in plan.notices[0].message
    assert {str(claimant): out.table for claimant, out in world.compiler.left_out.items()} == {"n/c": table}
    assert world.row("10.96.0.3") is None
    canonical(world.kernel)
    assert world.sync(services[2]).notices == []  # said once
    assert world.inside("10.96.0.1:80/TCP") == {"10.1.0.1:8080", "10.1.0.2:8080"}
    world.remove(services[0])
    world.sync()
    assert world.inside("10.96.0.3:80/TCP") == {"10.1.2.1:8080", "10.1.2.2:8080"}
    assert world.compiler.left_out == {}
    canonical(world.kernel)


def test_no_table_is_ever_fuller_than_it_may_be_while_services_come_and_go() -> None:
    limits = Limits(frontends=8, backends=8, backend_slots=8)
    world = World(limits=limits)

    def moment() -> None:
        tables = world.kernel.tables
        assert (len(tables["frontends"]), len(tables["backends"]), len(tables["backend_slots"])) <= (8, 8, 8)

    world.kernel.moment = moment
    for turn in range(60):
        name = "abcdef"[turn * 7 % 6]
        ends = [end(f"10.1.{turn}.{place}") for place in range(turn % 4)]
        world.sync(service(name, [f"10.96.0.{turn * 7 % 6 + 1}"]), piece(name, name, ends))
        if turn % 5 == 4:
            world.remove(service("abcdef"[turn % 6]))
            world.sync()
        canonical(world.kernel)
        served = {key for key in world.kernel.frontends if key.port}
        assert len(served) + len(world.compiler.left_out) == len(world.inputs.services)
        for claimant in world.compiler.left_out:
            assert isinstance(claimant, Key)


def test_without_room_for_maglev_the_choice_is_left_to_chance_until_there_is() -> None:
    world = World(limits=Limits(maglev=1))
    services = [service(name, [f"10.96.0.{n}"], [{"port": 80, "nodePort": 30000 + n}], type="NodePort") for n, name in enumerate("ab", 1)]
    world.sync(*services, *(piece(name, name, [end("10.1.0.1")]) for name in "ab"))
    rows = [world.row(f"node4:3000{n}/TCP") for n in (1, 2)]
    assert [bool(row and row.flags & FrontendFlag.MAGLEV) for row in rows] == [True, False]
    assert world.outside("node4:30002/TCP") == {"10.1.0.1:8080"}
    world.remove(services[0])
    world.sync()
    row = world.row("node4:30002/TCP")
    assert row is not None
    assert row.flags & FrontendFlag.MAGLEV
    canonical(world.kernel)


def test_a_table_that_refuses_is_named_and_the_walk_ends_there() -> None:
    class Full:
        def put_many(self, rows: Any) -> None:
            raise OSError(7, "Argument list too long")

        def delete_many(self, keys: Any) -> int:
            raise AssertionError("what follows relied on what failed")

    done: list[Any] = []
    with pytest.raises(ApplyError, match=r"backends.*full"):
        apply([Put("backends", {1: 2}), Delete("backends", (3,))], lambda _: Full(), done.append)
    assert done == []


def test_the_kernel_of_these_tests_notices_a_dangling_reference() -> None:
    kernel = Kernel()
    kernel.tables["backend_slots"][SlotKey(1, 0)] = 5
    with pytest.raises(KeyError):
        kernel.group(1, 1)


def test_when_thousands_come_at_once_the_oldest_are_served_before_the_last_is_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.reconcile.compiler.ROUND", 10)
    for number in range(35):
        world.put(service(f"s{number}", [f"10.96.0.{number}"], created=f"2026-01-01T00:00:{number:02}Z"))
        world.put(piece(f"s{number}", f"s{number}", [end(f"10.1.0.{number}")]))
    world.sync()
    order = [(table, key) for _, table, key in world.kernel.written]
    served = order.index(("frontends", place_key("10.96.0.9:80/TCP")))
    assert sum(table == "backends" for table, _ in order[:served]) < 20
    canonical(world.kernel)
