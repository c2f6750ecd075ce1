"""`anetd conntrack`: flows as people ask for them."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from agent.datapath.abi import CONNTRACK_ROW, FLOW_KEY, ConntrackFlag, ConntrackRow, ConntrackState, FlowKey
from agent.observe.flows import flows
from agent.observe.tables import conntrack as as_table

WEB, CLIENT, SERVICE, FAR = (ip_address(text) for text in ("10.1.0.1", "10.1.0.2", "10.96.0.1", "2001:db8::1"))
PODS = {WEB: "n/web", CLIENT: "n/client"}
NOW = 1000


def packed(a: Any, a_port: int, b: Any, b_port: int, protocol: int = 6, flags: int = 0, **row: Any) -> tuple[bytes, bytes]:
    fields = {
        "last_seen": NOW - 2,
        "state": ConntrackState.ESTABLISHED,
        "masquerade_port": 0,
        "translated_address": None,
        "translated_port": 0,
    }
    made = ConntrackRow(**{**fields, "flags": ConntrackFlag(flags), "backend_id": 0, **row})
    return FLOW_KEY.pack(FlowKey(a, a_port, b, b_port, protocol)), CONNTRACK_ROW.pack(made)


PLAIN = packed(WEB, 80, CLIENT, 4000, flags=ConntrackFlag.INITIATOR_B, policy_generation=7)
CHOICE = packed(CLIENT, 4001, SERVICE, 80, flags=ConntrackFlag.SERVICE_ROW, translated_address=WEB, translated_port=8080, backend_id=99)
BEHIND = packed(CLIENT, 4001, WEB, 8080, flags=ConntrackFlag.TRANSLATED, translated_address=SERVICE, translated_port=80)
OUTSIDE = packed(CLIENT, 5000, FAR, 443, 17, masquerade_port=61001)
EXPIRED = packed(CLIENT, 6000, WEB, 53, 17, last_seen=1)
ROWS = [PLAIN, CHOICE, BEHIND, OUTSIDE, EXPIRED]


def ask(**options: Any) -> dict[str, Any]:
    return flows(ROWS, NOW, lambda address: PODS.get(address, ""), **options)


def test_a_flow_is_told_from_who_began_it_with_pods_and_translations() -> None:
    shown = {(row["from"], row["to"]): row for row in ask()["flows"]}
    plain = shown["10.1.0.2:4000", "10.1.0.1:80"]
    assert (plain["fromPod"], plain["toPod"], plain["protocol"], plain["state"]) == ("n/client", "n/web", "TCP", "ESTABLISHED")
    assert (plain["idleSeconds"], plain["policyRevision"], plain["flags"]) == (2, 7, ["INITIATOR_B"])
    choice = shown["10.1.0.2:4001", "10.96.0.1:80"]
    assert (choice["backend"], choice["service"], choice["policyRevision"]) == ("10.1.0.1:8080", "", 0)
    assert shown["10.1.0.2:4001", "10.1.0.1:8080"]["service"] == "10.96.0.1:80"
    assert shown["10.1.0.2:5000", "[2001:db8::1]:443"]["masqueradePort"] == 61001


def test_what_has_expired_is_no_flow() -> None:
    assert ask()["matching"] == 4


def test_flows_of_an_address_are_those_where_it_is_an_end_or_a_translation() -> None:
    assert ask(wanted=[SERVICE])["matching"] == 2
    assert ask(wanted=[FAR])["matching"] == 1
    assert ask(wanted=[WEB])["matching"] == 3
    assert ask(wanted=[WEB, FAR])["matching"] == 4
    assert ask(wanted=[ip_address("10.1.0.9")]) == {"matching": 0, "flows": []}


def test_only_so_many_are_shown_and_the_rest_is_counted() -> None:
    document = ask(limit=1)
    assert (document["matching"], len(document["flows"])) == (4, 1)
    lines = as_table(document).splitlines()
    assert lines[1].split()[:5] == ["TCP", "10.1.0.2:4000", "(n/client)", "10.1.0.1:80", "(n/web)"]
    assert lines[2].startswith("... and 3 more")
    assert "more" not in as_table(ask())
