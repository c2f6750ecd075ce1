"""What is made of the rows that an earlier process left in the policy tables."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

from agent.datapath.policy_rows import Isolation, PolicyKey, PolicyRow
from agent.policy.adoption import compare
from agent.policy.inputs import Rows

A1, A2 = ip_address("10.1.0.1"), ip_address("10.1.0.2")
NET = ip_network("10.2.0.0/16")


def policies(number: int, *classes: int) -> dict[PolicyKey, PolicyRow]:
    return {PolicyKey(number, each): PolicyRow(1) for each in classes}


def tables(**rows: Any) -> dict[str, dict[Any, Any]]:
    return {"policies": {}, "classes": {}, "isolation": {}, **rows}


def compact(rows: Rows) -> tuple[dict[str, Any], dict[str, set[Any]]]:
    return {name: dict(each) for name, each in rows.puts.items() if each}, {name: set(each) for name, each in rows.deletes.items() if each}


def test_only_what_differs_is_written_and_what_is_stale_is_deleted() -> None:
    found = tables(policies=policies(5, 1, 2), classes={NET: 1}, isolation={A1: Isolation(5, 0), A2: Isolation(7, 0)})
    wanted = Rows(tables(policies=policies(5, 2, 3), classes={NET: 2}, isolation={A1: Isolation(5, 0)}))
    assert compact(compare(wanted, found)) == (
        {"policies": policies(5, 3), "classes": {NET: 2}},
        {"policies": set(policies(5, 1)), "isolation": {A2}},
    )


def test_what_is_wanted_on_the_way_alone_is_not_wanted() -> None:
    wanted = Rows({"policies": policies(5, 1, 2)}, {"policies": tuple(policies(5, 2))})
    assert compact(compare(wanted, tables(policies=policies(5, 2)))) == ({"policies": policies(5, 1)}, {"policies": set(policies(5, 2))})


def test_longer_prefixes_go_after_those_that_cover_them() -> None:
    nested = [ip_network(text) for text in ("10.2.3.0/24", "fd00::/8", "10.0.0.0/8", "10.2.0.0/16", "fd00::/120")]
    rows = compare(Rows(), tables(classes=dict.fromkeys(nested, 1)))
    assert [str(each) for each in rows.deletes["classes"]] == ["fd00::/8", "10.0.0.0/8", "10.2.0.0/16", "10.2.3.0/24", "fd00::/120"]
