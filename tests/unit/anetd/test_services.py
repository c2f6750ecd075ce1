"""Services to rows against a simple oracle; and the tables after every single step."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.datapath.abi import Backend, Frontend, FrontendKey, SlotKey
from agent.reconcile.applier import ApplyError, apply
from agent.reconcile.diff import Put, service_steps
from agent.services import rows as rows_module
from agent.services.frontends import resolve
from agent.services.rows import Rows, desired_rows
from agent.watch import records

ADDRESSES = ["10.1.0.1", "10.1.0.2", "10.1.0.3", "fd00::1", "fd00::2"]


def service(name: str, addresses: list[str], ports: list[tuple[str, str, int]], **spec: Any) -> records.Service:
    document = {
        "metadata": {"namespace": "n", "name": name},
        "spec": {"clusterIPs": addresses, "ports": [{"name": n, "protocol": p, "port": v} for n, p, v in ports], **spec},
    }
    return records.service(document)


def ends(
    name: str, suffix: str, family: str, addresses: list[tuple[str, bool | None]], ports: list[tuple[str, str, int]]
) -> records.EndpointSlice:
    document = {
        "metadata": {"namespace": "n", "name": f"{name}-{suffix}", "labels": {"kubernetes.io/service-name": name}},
        "addressType": family,
        "endpoints": [{"addresses": [a], "conditions": {} if ready is None else {"ready": ready}} for a, ready in addresses],
        "ports": [{"name": n, "protocol": p, "port": v} for n, p, v in ports],
    }
    return records.endpoint_slice(document)


def test_a_service_has_its_ready_backends_of_each_family() -> None:
    found = resolve(
        [service("web", ["10.96.0.1", "fd96::1"], [("http", "TCP", 80), ("dns", "UDP", 53)])],
        [
            ends(
                "web",
                "4",
                "IPv4",
                [("10.1.0.1", True), ("10.1.0.2", False), ("10.1.0.3", None)],
                [("http", "TCP", 8080), ("dns", "UDP", 5353)],
            ),
            ends("web", "6", "IPv6", [("fd00::1", True)], [("http", "TCP", 8080)]),
            ends("web", "names", "FQDN", [("10.1.0.9", True)], [("http", "TCP", 8080)]),
        ],
    )
    v4, v6 = ip_address("10.96.0.1"), ip_address("fd96::1")
    assert found[FrontendKey(v4, 80, 6)].backends == (Backend(ip_address("10.1.0.1"), 8080, 6), Backend(ip_address("10.1.0.3"), 8080, 6))
    assert found[FrontendKey(v6, 80, 6)].backends == (Backend(ip_address("fd00::1"), 8080, 6),)
    assert found[FrontendKey(v6, 53, 17)].backends == ()


@pytest.mark.parametrize(
    "spec", [{"clusterIPs": ["None"], "clusterIP": "None"}, {"type": "ExternalName", "clusterIPs": []}, {"clusterIPs": [], "clusterIP": ""}]
)
def test_headless_and_external_names_have_no_frontend(spec: dict[str, Any]) -> None:
    assert resolve([service("x", [], [("", "TCP", 80)], **spec)], []) == {}


def test_protocols_that_are_not_served_are_passed_over() -> None:
    assert list(resolve([service("x", ["10.96.0.1"], [("", "SCTP", 80), ("b", "TCP", 81)])], [])) == [
        FrontendKey(ip_address("10.96.0.1"), 81, 6)
    ]


def test_an_address_claimed_twice_belongs_to_the_first_by_name() -> None:
    claims = [service(name, ["10.96.0.1"], [("", "TCP", 80)]) for name in ("b", "a")]
    assert str(next(iter(resolve(claims, []).values())).service) == "n/a"


PORT = st.tuples(st.sampled_from(["", "p"]), st.sampled_from(["TCP", "UDP"]), st.integers(80, 82))
SERVICES = st.lists(
    st.builds(
        service,
        st.sampled_from("abc"),
        st.lists(st.sampled_from(["10.96.0.1", "10.96.0.2", "fd96::1"]), unique=True),
        st.lists(PORT, max_size=3),
    ),
    unique_by=lambda each: each.key,
)
SLICES = st.lists(
    st.builds(
        ends, st.sampled_from("abc"), st.sampled_from("xy"), st.sampled_from(["IPv4", "IPv6"]),
        st.lists(st.tuples(st.sampled_from(ADDRESSES), st.sampled_from([True, False, None])), max_size=4), st.lists(PORT, max_size=2),
    ),
    unique_by=lambda each: each.key,
)  # fmt: skip


def oracle(services: list[records.Service], slices: list[records.EndpointSlice]) -> dict[tuple[str, int, int], set[tuple[str, int]]]:
    found: dict[tuple[str, int, int], set[tuple[str, int]]] = {}
    for each in sorted(services, key=lambda s: s.key.name):
        for port in each.ports:
            for address in each.addresses:
                place = (str(address), port.port, port.protocol)
                if place in found:
                    continue
                found[place] = set()
                for piece in slices:
                    for target in piece.ports:
                        if piece.service == each.key and (target.name, target.protocol) == (port.name, port.protocol):
                            found[place] |= {(str(a), target.port or 0) for a in piece.addresses if a.version == address.version}
    return found


def translated(rows: Rows) -> dict[tuple[str, int, int], set[tuple[str, int]]]:
    """What a packet would find; every reference has to lead somewhere."""
    found = {}
    for key, row in rows.frontends.items():
        backends = [rows.backends[rows.slots[SlotKey(row.service_id, slot)]] for slot in range(row.count)]
        assert all(backend.protocol == key.protocol for backend in backends)
        found[str(key.address), key.port, key.protocol] = {(str(b.address), b.port) for b in backends}
        assert len(backends) == len(set(backends))
    return found


class Memory:
    """A table; every change of a row is a moment at which a packet may come by."""

    def __init__(self, rows: dict[Any, Any], moment: Any) -> None:
        self.rows, self.moment = rows, moment

    def put_many(self, rows: Any) -> None:
        for key, value in rows.items():
            self.rows[key] = value
            self.moment()

    def delete_many(self, keys: Any) -> int:
        for key in keys:
            del self.rows[key]
            self.moment()
        return len(keys)


@settings(deadline=None)
@given(before=st.tuples(SERVICES, SLICES), after=st.tuples(SERVICES, SLICES))
def test_rows_agree_with_the_oracle_and_every_moment_between_two_states_is_sound(before: Any, after: Any) -> None:
    old = desired_rows(resolve(*before), Rows())
    assert translated(old) == oracle(*before)
    new = desired_rows(resolve(*after), old)
    assert translated(new) == oracle(*after)
    assert desired_rows(resolve(*after), new) == new
    tables = {"frontends": dict(old.frontends), "backend_slots": dict(old.slots), "backends": dict(old.backends)}
    allowed_old, allowed_new = oracle(*before), oracle(*after)

    def moment() -> None:
        # While slots are rewritten one backend may stand in two of them, but every one leads to a backend of this place.
        for key, row in tables["frontends"].items():
            place = (str(key.address), key.port, key.protocol)
            for slot in range(row.count):
                backend = tables["backends"][tables["backend_slots"][SlotKey(row.service_id, slot)]]
                assert (str(backend.address), backend.port) in allowed_old.get(place, set()) | allowed_new.get(place, set())

    apply(service_steps(new, old), lambda name: Memory(tables[name], moment))
    assert (tables["frontends"], tables["backend_slots"], tables["backends"]) == (new.frontends, new.slots, new.backends)


def test_numbers_are_kept_and_never_given_to_a_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module.hashlib, "sha256", lambda _: type("H", (), {"digest": staticmethod(lambda: bytes(32))}))
    web = [service("a", ["10.96.0.1", "10.96.0.2"], [("", "TCP", 80)])]
    pods = [ends("a", "x", "IPv4", [("10.1.0.1", True), ("10.1.0.2", True)], [("", "TCP", 80)])]
    old = desired_rows(resolve(web, pods), Rows())
    assert sorted(row.service_id for row in old.frontends.values()) == [1, 2]
    assert sorted(old.backends) == [1, 2]
    new = desired_rows(resolve(web, [ends("a", "x", "IPv4", [("10.1.0.2", True), ("10.1.0.3", True)], [("", "TCP", 80)])]), old)
    assert new.backends[2] == old.backends[2]
    assert set(new.backends) == {2, 3}  # 1 stands in the table still, for the one that goes


def test_a_table_that_is_full_is_named() -> None:
    class Full:
        def put_many(self, rows: Any) -> None:
            raise OSError(7, "Argument list too long")

        def delete_many(self, keys: Any) -> int:
            return 0

    with pytest.raises(ApplyError, match=r"backends.*full"):
        apply([Put("backends", {1: 2})], lambda _: Full())


def test_the_largest_service_is_cut_to_what_a_count_can_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "MAX_BACKENDS", 2)
    pods = ends("a", "x", "IPv4", [(f"10.1.0.{n}", True) for n in range(1, 6)], [("", "TCP", 80)])
    found = desired_rows(resolve([service("a", ["10.96.0.1"], [("", "TCP", 80)])], [pods]), Rows())
    assert list(found.frontends.values()) == [Frontend(next(iter(found.frontends.values())).service_id, 2)]
