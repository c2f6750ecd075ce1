"""Addresses of load balancers: who gets which (pure), and how they come into the Services' status."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import parse
from agent.loadbalancer import controller
from agent.loadbalancer.allocator import CLASS, NO_FAMILY, NOT_IN_POOL, TAKEN, USED_UP, Claim, Plan, allocate, claim, in_pool
from agent.loadbalancer.controller import Controller, allocating_node
from agent.observe.events import Subject
from agent.watch.records import Key, Node
from agent.watch.transport import Access
from tests.datapath.agent.api import SERVICES, FakeApi

POOL = (ip_network("192.0.2.192/29"), ip_network("2001:db8::1:0/112"))
FIRST, SECOND, LAST = (ip_address(f"192.0.2.{number}") for number in (193, 194, 198))
V6 = ip_address("2001:db8::1:1")


def wants(name: str, *, age: int = 0, families: tuple[int, ...] = (4,), **changes: Any) -> Claim:
    changes = {key: ip_address(value) if key == "wanted" else value for key, value in changes.items()}
    if "wanted" in changes:
        changes["wanted_text"] = str(changes["wanted"])
    return Claim(Key("n", name), f"uid-{name}", f"2026-01-01T00:00:{age:02d}Z", families, **changes)


def given_to(plan: Plan, name: str) -> tuple[Any, ...] | None:
    return plan.addresses.get(Key("n", name))


def test_each_service_gets_an_address_of_each_of_its_families_in_their_order() -> None:
    plan = allocate([wants("a", families=(4, 6)), wants("b", age=1, families=(6,)), wants("c", age=2, families=(6, 4))], POOL)
    assert given_to(plan, "a") == (FIRST, V6)
    assert given_to(plan, "b") == (V6 + 1,)
    assert given_to(plan, "c") == (V6 + 2, SECOND)
    assert plan.problems == []


def test_what_is_held_is_kept_whoever_comes_and_goes() -> None:
    assert given_to(allocate([wants("new"), wants("old", age=1, held=(FIRST,))], POOL), "old") == (FIRST,)
    assert given_to(allocate([wants("a", held=(LAST,))], POOL), "a") == (LAST,)


def test_of_two_with_one_address_the_newer_gets_another() -> None:
    plan = allocate([wants("newer", age=2, held=(FIRST,)), wants("older", age=1, held=(FIRST,))], POOL)
    assert given_to(plan, "older") == (FIRST,)
    assert given_to(plan, "newer") == (SECOND,)


def test_an_address_of_a_family_that_is_no_longer_asked_for_is_taken_back() -> None:
    assert given_to(allocate([wants("a", families=(4,), held=(FIRST, V6))], POOL), "a") == (FIRST,)


def test_a_wish_is_granted_when_it_is_free_also_later() -> None:
    assert given_to(allocate([wants("a", wanted="192.0.2.197")], POOL), "a") == (ip_address("192.0.2.197"),)
    assert given_to(allocate([wants("a", wanted="192.0.2.197", held=(FIRST,))], POOL), "a") == (ip_address("192.0.2.197"),)
    # What nobody holds yet goes to the one who names it, not to an older one who takes any.
    plan = allocate([wants("any"), wants("picky", age=5, wanted=str(FIRST))], POOL)
    assert given_to(plan, "picky") == (FIRST,)
    assert given_to(plan, "any") == (SECOND,)


@pytest.mark.parametrize(
    ("wish", "reason", "word"),
    [
        ({"wanted": "203.0.113.1"}, NOT_IN_POOL, "no address of the pool"),
        ({"wanted": "192.0.2.199"}, NOT_IN_POOL, "no address of the pool"),  # the broadcast address
        ({"wanted_text": "nonsense"}, NOT_IN_POOL, "nonsense"),
        ({"wanted": str(V6)}, NOT_IN_POOL, "no IPv6"),
        ({"wanted": str(FIRST)}, TAKEN, "Service n/other has it"),
    ],
)
def test_a_wish_that_cannot_be_granted_is_told_and_nothing_else_given(wish: dict[str, Any], reason: str, word: str) -> None:
    plan = allocate([wants("other", held=(FIRST,)), wants("a", age=1, **wish)], POOL)
    assert given_to(plan, "a") == ()
    ((problem),) = plan.problems
    assert (problem.key, problem.uid, problem.reason) == (Key("n", "a"), "uid-a", reason)
    assert word in problem.message


def test_others_services_are_left_alone() -> None:
    others = [wants("class", foreign=True), wants("elsewhere", held=(ip_address("203.0.113.7"),))]
    assert allocate(others, POOL) == Plan({}, [])


def test_a_used_up_pool_is_told_and_leaves_who_has_something_alone() -> None:
    claims = [wants(f"s{number}", age=number) for number in range(8)]
    plan = allocate(claims, POOL)
    assert [len(plan.addresses[each.key]) for each in claims] == [1] * 6 + [0] * 2
    assert [(each.key.name, each.reason) for each in plan.problems] == [("s6", USED_UP), ("s7", USED_UP)]
    assert "192.0.2.192/29" in plan.problems[0].message


def test_a_pool_without_the_family_is_a_problem_only_for_who_then_has_nothing() -> None:
    plan = allocate([wants("six", families=(6,)), wants("both", age=1, families=(4, 6))], POOL[:1])
    assert [(each.key.name, each.reason) for each in plan.problems] == [("six", NO_FAMILY)]
    assert given_to(plan, "both") == (FIRST,)


def test_a_service_that_is_going_keeps_what_it_has_and_gets_nothing_new() -> None:
    assert given_to(allocate([wants("a", leaving=True)], POOL), "a") == ()
    plan = allocate([wants("going", held=(FIRST,), leaving=True), wants("b", age=1)], POOL)
    assert (given_to(plan, "going"), given_to(plan, "b")) == ((FIRST,), (SECOND,))


def test_an_address_that_is_left_goes_to_the_older_one_that_waits_for_it() -> None:
    chain = [wants("a", wanted=LAST), wants("b", age=1, held=(LAST,), wanted=SECOND), wants("c", age=2, held=(SECOND,), wanted=FIRST)]
    plan = allocate(chain, POOL)
    assert [given_to(plan, name) for name in "abc"] == [(LAST,), (SECOND,), (FIRST,)]
    assert plan.problems == []


any_address = st.sampled_from([*(ip_address(f"192.0.2.{n}") for n in range(190, 202)), V6, V6 + 1, ip_address("203.0.113.1")])
claims = st.lists(
    st.builds(
        lambda name, age, families, held, wanted, foreign, leaving: Claim(
            Key("n", name), name, f"{age:02d}", tuple(families), wanted, str(wanted or ""), tuple(held), foreign, leaving
        ),
        st.sampled_from("abcdefgh"),
        st.integers(0, 3),
        st.lists(st.sampled_from([4, 6]), min_size=1, max_size=2, unique=True),
        st.lists(any_address, max_size=2),
        st.none() | any_address,
        st.booleans(),
        st.booleans(),
    ),
    max_size=8,
    unique_by=lambda each: each.key,
)


@settings(max_examples=50)
@given(claims, st.randoms())
def test_no_address_is_given_twice_order_says_nothing_and_a_second_look_changes_nothing(found: list[Claim], random: Any) -> None:
    plan = allocate(found, POOL)
    addresses = [address for each in plan.addresses.values() for address in each]
    assert len(addresses) == len(set(addresses))
    held = {address for each in found for address in each.held}
    assert all(in_pool(address, POOL) for address in addresses if address not in held)
    shuffled = list(found)
    random.shuffle(shuffled)
    assert allocate(shuffled, POOL).addresses == plan.addresses
    after = [
        Claim(c.key, c.uid, c.created, c.families, c.wanted, c.wanted_text, plan.addresses.get(c.key, c.held), c.foreign, c.leaving)
        for c in found
    ]
    again = allocate(after, POOL)
    assert again.addresses == plan.addresses


def service(name: str, *, ingress: list[dict[str, str]] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "n", "uid": f"uid-{name}", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"type": "LoadBalancer", "ipFamilies": ["IPv4"], **spec},
        "status": {"loadBalancer": {"ingress": ingress} if ingress else {}},
    }


def test_claims_are_read_from_services() -> None:
    assert claim(service("a", ipFamilies=["IPv6", "IPv4"], ingress=[{"ip": "192.0.2.193"}])).held == (FIRST,)
    assert claim(service("a", ipFamilies=["IPv6", "IPv4"])).families == (6, 4)
    assert not claim(service("a", loadBalancerClass=CLASS)).foreign
    assert claim(service("a", loadBalancerClass="example.com/other")).foreign
    assert claim(service("a", ingress=[{"hostname": "lb.example.com"}])).foreign
    assert claim(service("a", loadBalancerIP="nonsense")).wanted_text == "nonsense"


def test_the_first_ready_node_gives_addresses() -> None:
    nodes = [Node(name, (), (), ready=ready) for name, ready in (("c", True), ("a", False), ("b", True))]
    assert allocating_node(nodes) == "b"
    assert allocating_node([]) == ""


class Told:
    def __init__(self) -> None:
        self.events: list[tuple[Subject, str, str]] = []

    def warn(self, subject: Subject, reason: str, message: str) -> None:
        self.events.append((subject, reason, message))


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    server = FakeApi(tmp_path)
    yield server
    server.close()


class Cluster:
    """A controller on node-a, a fake API server, and the nodes as it sees them."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self.told = Told()
        self.nodes = {Key("", "node-a"): Node("node-a", (), (), ready=True)}
        config = parse(
            {
                "clusterName": "c",
                "apiServer": api.url,
                "podCIDRs": ["10.0.0.0/16"],
                "serviceCIDRs": ["10.96.0.0/16"],
                "loadBalancerPool": ["192.0.2.192/30"],
            }
        )
        access = Access(api.url, api.directory / "token", api.directory / "ca.crt")
        self.controller = Controller(config, "node-a", access, lambda: self.nodes, self.told)
        self.controller.start()

    def ingress(self, name: str) -> list[str]:
        found = self.api.objects[SERVICES][f"n/{name}"]["status"]["loadBalancer"].get("ingress") or []
        return [row["ip"] for row in found]

    def eventually(self, name: str, *addresses: str) -> None:
        end = time.monotonic() + 30
        while self.ingress(name) != list(addresses):
            assert time.monotonic() < end, self.ingress(name)
            time.sleep(0.01)


@pytest.fixture
def cluster(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr(controller, "LOOK_SECONDS", 0.1)
    made = Cluster(api)
    yield made
    made.controller.stop()


def test_addresses_are_written_kept_and_given_on_when_free(cluster: Cluster) -> None:
    cluster.api.put(SERVICES, service("a"))
    cluster.eventually("a", "192.0.2.193")
    cluster.api.put(SERVICES, service("b"))
    cluster.eventually("b", "192.0.2.194")
    cluster.api.put(SERVICES, service("c"))
    deadline = time.monotonic() + 30
    while not cluster.told.events:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert cluster.told.events[0][:2] == (Subject("Service", Key("n", "c"), "uid-c"), USED_UP)
    cluster.api.remove(SERVICES, "a", "n")
    cluster.eventually("c", "192.0.2.193")
    assert cluster.ingress("b") == ["192.0.2.194"]
    assert len(cluster.told.events) == 1


def test_a_service_that_changes_under_the_hand_is_looked_at_again(cluster: Cluster) -> None:
    cluster.api.before_patch = lambda: cluster.api.put(SERVICES, service("a", loadBalancerIP="192.0.2.194"))
    cluster.api.put(SERVICES, service("a"))
    cluster.eventually("a", "192.0.2.194")


def test_an_agent_of_another_node_writes_nothing_until_it_is_its_turn(cluster: Cluster) -> None:
    cluster.nodes[Key("", "node-0")] = Node("node-0", (), (), ready=True)
    cluster.api.put(SERVICES, service("a"))
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        assert cluster.ingress("a") == []
        time.sleep(0.05)
    cluster.nodes[Key("", "node-0")] = Node("node-0", (), (), ready=False)
    cluster.eventually("a", "192.0.2.193")
