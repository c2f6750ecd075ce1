"""The policy compiler where an example says more than a generated cluster: what a change touches, limits, reuse, and what is told."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from agent.datapath.policy_rows import CLASS_ANY, CLASS_NONE, Direction, PolicyKey
from agent.policy.inputs import Changes, Limits, Rows
from agent.watch.records import Key

from .policy_objects import Document, Node, changes, key, namespace, pod, policy

WEB, HERE = {"app": "web"}, ("10.0.0.1",)


def cluster(*policies: Document, pods: int = 20, limits: Limits | None = None) -> Node:
    """Pod a/p is this node's; the others are a/q0 and so on, every second one with app=web."""
    node = Node(limits)
    others = {f"a/q{n}": pod(f"a/q{n}", f"10.0.1.{n}", labels=WEB if n % 2 else {"app": "db"}) for n in range(pods)}
    node.change(
        pods={"a/p": pod("a/p", *HERE, labels={"app": "mine"}), **others},
        namespaces={"a": namespace("a")},
        policies={name(each): each for each in policies},
        local={"a/p": HERE},
    )
    return node


def name(document: Document) -> str:
    return f"{document['metadata']['namespace']}/{document['metadata']['name']}"


def count(rows: Rows) -> dict[str, int]:
    return {
        **{f"put {t}": len(r) for t, r in rows.puts.items() if r},
        **{f"delete {t}": len(k) for t, k in rows.deletes.items() if k},
    }


def passes(node: Node, peer: str, port: int = 80, *, of: str = HERE[0], direction: Direction = Direction.INGRESS) -> bool:
    return node.tables.judge(ip_address(of), ip_address(peer), direction, 6, port).allowed


def from_pods(*ports: Document, **labels: str) -> Document:
    return {"from": [{"podSelector": {"matchLabels": labels}}], **({"ports": list(ports)} if ports else {})}


WEB_ONLY = policy("a/web", ingress=[from_pods({"port": 80}, app="web")])


def test_a_label_change_touches_one_row() -> None:
    node = cluster(WEB_ONLY)
    assert count(node.change(pods={"a/q0": pod("a/q0", "10.0.1.0", labels=WEB)})) == {"put classes": 1}
    assert passes(node, "10.0.1.0")


def test_labels_that_no_policy_asks_for_touch_nothing() -> None:
    node = cluster(WEB_ONLY)
    assert count(node.change(pods={"a/q1": pod("a/q1", "10.0.1.1", labels={**WEB, "version": "2"})})) == {}


def test_rows_grow_with_classes_and_not_with_pods() -> None:
    few, many = cluster(WEB_ONLY, pods=10), cluster(WEB_ONLY, pods=200)
    assert len(few.tables.policies) == len(many.tables.policies) == 1


def test_a_pod_that_no_selector_selects_has_no_row() -> None:
    node = cluster(WEB_ONLY)
    assert ip_network("10.0.1.0/32") not in node.tables.classes
    assert node.compiler.class_of(ip_address("10.0.1.0")) == CLASS_NONE


def test_a_local_pods_label_change_moves_no_other_address() -> None:
    node = cluster(policy("a/all", podSelector={"matchLabels": {"app": "mine"}}, ingress=[{"from": [{"podSelector": {}}]}]))
    rows = node.change(pods={"a/p": pod("a/p", *HERE, labels={"app": "other"})})
    assert "put classes" not in count(rows)
    assert not node.tables.isolation


def test_a_policy_that_flaps_moves_no_address_after_the_first_time() -> None:
    node = cluster(WEB_ONLY)
    for _ in range(3):
        assert "delete classes" not in count(node.change(policies={"a/web": None}))
        assert "put classes" not in count(node.change(policies={"a/web": WEB_ONLY}))
    node.change(policies={"a/web": None})
    assert node.compiler.unsettled
    assert count(node.apply(Changes())) == {"delete classes": 10}
    assert not node.compiler.unsettled
    assert count(node.apply(Changes())) == {}


def test_terms_that_are_left_over_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.policy.compiler.UNUSED_TERMS", 3)
    node = cluster(WEB_ONLY)
    for n in range(9):
        node.change(policies={"a/one": policy("a/one", ingress=[from_pods(app="web", turn=str(n))])})
    assert len(node.compiler._space.unused) <= 4


def test_an_edit_of_one_of_many_policies_touches_its_own_rows() -> None:
    many = [policy(f"a/p{n}", ingress=[from_pods({"port": n + 1}, app="web")]) for n in range(100)]
    node = cluster(*many)
    edited = policy("a/p7", ingress=[from_pods({"port": 1000}, app="web")])
    assert count(node.change(policies={"a/p7": edited})) == {"put policies": 1, "delete policies": 1}


def test_pods_with_the_same_policies_share_a_set() -> None:
    node = cluster(WEB_ONLY)
    rows = node.change(pods={"a/x": pod("a/x", "10.0.0.2")}, local={"a/x": ("10.0.0.2",)})
    assert count(rows) == {"put isolation": 1}
    assert node.compiler.set_of(key("a/x")) == node.compiler.set_of(key("a/p"))


def test_an_address_that_is_used_again_is_the_new_pods_at_once() -> None:
    node = cluster(WEB_ONLY)
    old = {"a/q1": pod("a/q1", "10.0.1.1", labels=WEB, phase="Running")}
    node.change(pods=old)
    node.change(pods={"a/new": pod("a/new", "10.0.1.1", labels={"app": "db"}, created="2026-02-01T00:00:00Z")})
    assert not passes(node, "10.0.1.1")
    assert node.compiler.owner(ip_address("10.0.1.1")) == key("a/new")
    node.change(pods={"a/q1": None})
    assert not passes(node, "10.0.1.1")


def test_of_two_pods_with_an_address_that_of_this_node_has_it() -> None:
    node = cluster(WEB_ONLY)
    node.change(pods={"a/new": pod("a/new", created="2025-01-01T00:00:00Z")}, local={"a/new": ("10.0.1.1",)})
    assert node.compiler.owner(ip_address("10.0.1.1")) == key("a/new")
    assert not passes(node, "10.0.1.1")


def test_a_pod_is_a_peer_with_the_address_that_cni_gave_it_before_its_status_has_one() -> None:
    node = cluster(WEB_ONLY)
    node.change(pods={"a/new": pod("a/new", labels=WEB)}, local={"a/new": ("10.0.0.9",)})
    assert passes(node, "10.0.0.9")


def test_a_local_pod_that_is_not_known_is_closed_in_both_directions() -> None:
    node = Node()
    node.change(local={"a/p": HERE})
    assert not passes(node, "10.0.1.1")
    assert not passes(node, "10.0.1.1", direction=Direction.EGRESS)
    assert node.compiler.set_of(key("a/p")) is None
    node.change(pods={"a/p": pod("a/p", *HERE)})
    assert passes(node, "10.0.1.1")
    assert passes(node, "10.0.1.1", direction=Direction.EGRESS)
    assert node.compiler.set_of(key("a/p")) is not None


def test_a_pod_whose_object_is_gone_keeps_its_policies_until_its_endpoint_is() -> None:
    node = cluster(WEB_ONLY)
    node.change(pods={"a/p": None})
    assert not passes(node, "10.0.1.0")
    assert passes(node, "10.0.1.1")
    node.change(local={"a/p": None})
    assert not node.tables.isolation
    assert not node.tables.policies


def test_a_namespace_that_is_relabelled_while_pods_start_is_what_it_says_now() -> None:
    team = policy("a/team", ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"team": "red"}}}]}])
    node = cluster(team)
    node.change(pods={"b/one": pod("b/one", "10.0.2.1")})
    assert not passes(node, "10.0.2.1")
    node.change(namespaces={"b": namespace("b", {"team": "red"})}, pods={"b/two": pod("b/two", "10.0.2.2")})
    assert passes(node, "10.0.2.1")
    assert passes(node, "10.0.2.2")
    node.change(namespaces={"b": namespace("b", {"team": "blue"})}, pods={"b/three": pod("b/three", "10.0.2.3")})
    assert not any(passes(node, f"10.0.2.{n}") for n in (1, 2, 3))


def test_ipv4_addresses_are_not_in_the_network_of_all_ipv6_addresses() -> None:
    node = cluster(policy("a/six", ingress=[{"from": [{"ipBlock": {"cidr": "::/0"}}]}]))
    assert not passes(node, "192.0.2.1")
    assert passes(node, "2001:db8::1")
    assert node.tables.classes[ip_network("0.0.0.0/0")] == CLASS_NONE


def test_rows_of_a_class_name_what_everybody_may_too() -> None:
    everybody, web = policy("a/all", ingress=[{"ports": [{"port": 80}]}]), policy("a/web", ingress=[from_pods(app="web")])
    node = cluster(everybody, web)
    found = node.tables.judge(ip_address(HERE[0]), ip_address("10.0.1.1"), Direction.INGRESS, 6, 80)
    assert found.row is not None
    assert [str(ref) for ref in node.compiler.rule(found.row.rule)] == ["a/all ingress[0]", "a/web ingress[0]"]
    found = node.tables.judge(ip_address(HERE[0]), ip_address("10.0.1.1"), Direction.INGRESS, 6, 81)
    assert found.row is not None
    assert [str(ref) for ref in node.compiler.rule(found.row.rule)] == ["a/web ingress[0]"]


def test_that_naming_does_not_multiply_many_ports_by_all_classes() -> None:
    ports = [{"port": 2 * n + 1} for n in range(100)]
    node = cluster(policy("a/all", ingress=[{"ports": ports}]), policy("a/web", ingress=[from_pods(app="web")]))
    of_class = [row for row in node.tables.policies if row.peer_class != CLASS_ANY]
    assert len(of_class) == 1


def test_rules_and_sets_that_are_gone_are_known_for_a_while() -> None:
    node = cluster(WEB_ONLY)
    (row,) = node.tables.policies.values()
    isolation = node.tables.isolation[ip_address(HERE[0])]
    node.change(policies={"a/web": None})
    assert [str(ref) for ref in node.compiler.rule(row.rule)] == ["a/web ingress[0]"]
    assert node.compiler.policies_in(isolation.ingress_set) == (key("a/web"),)


def test_an_annotation_that_comes_goes_or_comes_back_with_the_policy_is_in_the_rows_each_time() -> None:
    delegate = {"metadata": {"name": "default"}, "spec": {"cluster": {"allow": {"log": True, "delegate": True}}}}
    asking = policy("a/web", log=True, **WEB_ONLY["spec"])
    node = cluster(WEB_ONLY)
    node.change(logging=delegate)

    def flags() -> list[int]:
        return [int(row.flags) for row in node.tables.policies.values()]

    assert flags() == [0]
    for document, expected in ((asking, [1]), (WEB_ONLY, [0]), (None, []), (asking, [1]), (None, []), (WEB_ONLY, [0])):
        node.change(policies={"a/web": document})
        assert flags() == expected


def test_a_new_process_gives_the_same_numbers() -> None:
    def tables(order: int) -> dict[str, Any]:
        documents = [WEB_ONLY, policy("a/two", egress=[{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}], policyTypes=["Egress"])][::order]
        node = Node()
        for each in documents:
            node.change(policies={name(each): each})
        node.change(pods={"a/p": pod("a/p", *HERE), "a/q": pod("a/q", "10.0.1.1", labels=WEB)}, local={"a/p": HERE})
        return {"policies": node.tables.policies, "classes": node.tables.classes, "isolation": node.tables.isolation}

    assert tables(1) == tables(-1)


# Limits.


def wide(name: str, ports: int, **labels: str) -> Document:
    return policy(name, ingress=[from_pods(*({"port": 2 * n + 1} for n in range(ports)), **labels)])


def test_a_pod_with_too_many_rows_is_closed_and_told() -> None:
    node = cluster(wide("a/small", 3, app="web"), wide("a/big", 40, app="db"), limits=Limits(set_rows=20))
    assert not passes(node, "10.0.1.1", 1)
    assert not passes(node, "10.0.1.0", 1)
    assert not node.tables.policies
    (trouble,) = node.compiler.troubles
    assert (trouble.policy, trouble.pods) == (key("a/big"), (key("a/p"),))
    assert "43 rows" in trouble.message
    node.change(policies={"a/big": None})
    node.apply(Changes())
    assert passes(node, "10.0.1.1", 1)
    assert not node.compiler.troubles


def test_where_all_do_not_fit_the_largest_is_closed() -> None:
    node = cluster(wide("a/small", 3, app="web"), limits=Limits(policies=20))
    node.change(pods={"b/p": pod("b/p", "10.0.0.2")}, local={"b/p": ("10.0.0.2",)}, namespaces={"b": namespace("b")})
    big = policy("b/big", ingress=[{"from": [{"namespaceSelector": {}}], "ports": [{"port": 2 * n + 1} for n in range(30)]}])
    node.change(policies={"b/big": big})
    assert passes(node, "10.0.1.1", 1)
    assert not passes(node, "10.0.1.1", 1, of="10.0.0.2")
    (trouble,) = node.compiler.troubles
    assert (trouble.policy, trouble.pods) == (key("b/big"), (key("b/p"),))
    node.change(policies={"a/small": None, "b/big": policy("b/big", ingress=[{"ports": [{"port": 1}]}])})
    assert passes(node, "10.0.1.1", 1, of="10.0.0.2")
    assert not node.compiler.troubles


def blocks(name: str, networks: int, second: int) -> Document:
    return policy(name, ingress=[{"from": [{"ipBlock": {"cidr": f"10.{second}.{n}.0/24"}} for n in range(networks)]}])


def test_a_policy_with_too_many_networks_takes_nothing_from_the_others() -> None:
    limits = Limits(classes=80)
    node = cluster(blocks("a/few", 5, 8), limits=limits)
    node.change(pods={"b/p": pod("b/p", "10.0.0.2")}, local={"b/p": ("10.0.0.2",)}, policies={"b/many": blocks("b/many", 40, 9)})
    assert passes(node, "10.8.1.1")
    assert not passes(node, "10.9.1.1", of="10.0.0.2")
    (trouble,) = node.compiler.troubles
    assert (trouble.policy, trouble.pods) == (key("b/many"), (key("b/p"),))
    assert "40 networks" in trouble.message
    assert sum(1 for network in node.tables.classes if network.prefixlen == 24) == 5
    node.change(policies={"b/many": blocks("b/many", 10, 9)})
    assert passes(node, "10.9.1.1", of="10.0.0.2")
    assert not node.compiler.troubles


def test_a_policy_whose_networks_fit_once_another_is_gone_is_taken_up() -> None:
    node = cluster(blocks("a/few", 15, 8), limits=Limits(classes=80))
    node.change(policies={"a/more": blocks("a/more", 16, 9)})
    assert not passes(node, "10.8.1.1")
    node.change(policies={"a/few": None})
    assert passes(node, "10.9.1.1")
    assert not node.compiler.troubles


def test_pods_for_whose_addresses_there_is_no_room_are_let_in_by_no_selector() -> None:
    node = cluster(WEB_ONLY, pods=20, limits=Limits(classes=8))
    let_in = [n for n in range(20) if passes(node, f"10.0.1.{n}")]
    assert len(let_in) == Limits(classes=8).peers
    assert all(n % 2 for n in let_in)
    (trouble,) = node.compiler.troubles
    assert trouble.policy == key("a/web")
    node.change(pods={f"a/q{n}": None for n in let_in})
    node.apply(Changes())
    assert [n for n in range(20) if passes(node, f"10.0.1.{n}")] == [n for n in range(1, 20, 2) if n not in let_in]
    assert not node.compiler.troubles


def test_what_is_counted_is_what_the_tables_have() -> None:
    node = cluster(WEB_ONLY, blocks("a/few", 5, 8), policy("a/one", ingress=[{"from": [{"ipBlock": {"cidr": "10.0.1.1/32"}}]}]))
    counts = node.compiler.counts
    assert {table: counts[table] for table in ("policies", "classes", "isolation")} == {
        "policies": len(node.tables.policies),
        "classes": len(node.tables.classes),
        "isolation": len(node.tables.isolation),
    }


def test_changes_that_are_none_write_nothing() -> None:
    node = cluster(WEB_ONLY)
    again = changes({"a/q1": pod("a/q1", "10.0.1.1", labels=WEB)}, {"a": namespace("a")}, {"a/web": WEB_ONLY})
    assert not node.apply(again)


def test_what_is_not_of_this_node_is_not_asked_after() -> None:
    node = cluster(WEB_ONLY)
    assert node.compiler.set_of(key("a/q1")) is None
    assert node.compiler.policies_of(key("a/q1")) == ()
    assert node.compiler.policies_of(key("a/p"), Direction.INGRESS) == (Key("a", "web"),)
    assert node.compiler.policies_of(key("a/p"), Direction.EGRESS) == ()
    assert node.compiler.rule(12345) == ()
    assert node.tables.policies.get(PolicyKey(1, 2)) is None
