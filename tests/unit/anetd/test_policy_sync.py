"""The policy tables' synchronizer: what it writes in which order, what it makes of failures, and what it tells."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any, cast

import pytest

from agent.datapath.policy_rows import Isolation, PolicyCount, PolicyCountKey, PolicyKey, PolicyRow
from agent.observe import policy_documents
from agent.observe.policy_metrics import PolicyMetrics
from agent.observe.tables import endpoints as endpoints_table
from agent.policy.inputs import Changes, Trouble
from agent.policysync import PolicySynchronizer
from agent.reconcile.applier import ApplyError
from agent.watch.policy_records import Namespace, NetworkPolicy, Operator, Peer, Pod, PolicyPort, Requirement, Rule, Selector
from agent.watch.records import Key

from .policy_kernel import ADDRESSES, FRIEND, ORDER, STRANGER, WEB, Kernel


def selector(**labels: str) -> Selector:
    return Selector(tuple(Requirement(key, Operator.IN, (value,)) for key, value in sorted(labels.items())))


def pod(key: Key, **labels: str) -> Pod:
    return Pod(key, f"uid-{key.name}", tuple(sorted({"app": key.name, **labels}.items())), ADDRESSES[key], "node")


def policy(name: str = "web", *ports: int, peers: tuple[Peer, ...] = (Peer(pods=selector(app="friend")),)) -> NetworkPolicy:
    allowed = tuple(PolicyPort(6, port) for port in ports) or None
    return NetworkPolicy(Key("n", name), f"uid-{name}", selector(app="web"), (Rule(peers, allowed),), None)


def everything(*policies: NetworkPolicy, **changes: Any) -> Changes:
    fields: dict[str, Any] = {
        "pods": {key: pod(key) for key in ADDRESSES},
        "namespaces": {"n": Namespace("n", ())},
        "policies": {each.key: each for each in policies},
        "endpoints": {WEB: ADDRESSES[WEB], FRIEND: ADDRESSES[FRIEND]},
    }
    return Changes(**{**fields, **changes})


class Node:
    def __init__(self, kernel: Kernel | None = None) -> None:
        self.kernel = kernel or Kernel()
        self.told: list[Trouble] = []
        self.metrics = PolicyMetrics()
        self.sync = PolicySynchronizer(cast(Any, self.kernel.datapath()), self.metrics, self.told.append)

    def verdicts(self) -> tuple[bool, bool]:
        return self.kernel.allows(FRIEND), self.kernel.allows(STRANGER)


def test_rows_are_written_from_the_back_to_the_front_and_then_the_generation_moves() -> None:
    node = Node()
    node.sync.begin(everything(policy()))
    assert node.kernel.journal == [("put", name) for name in ORDER] + [("advance", "")]
    assert node.verdicts() == (True, False)
    node.kernel.journal.clear()
    node.sync.apply(Changes(policies={Key("n", "web"): None}))
    assert ("put", "isolation") not in node.kernel.journal
    assert node.kernel.journal[-1] == ("advance", "")
    assert node.verdicts() == (True, True)


def test_what_changes_no_row_judges_nothing_anew() -> None:
    node = Node()
    node.sync.begin(everything(policy()))
    generation = node.kernel.generation
    node.sync.apply(Changes(pods={Key("other", "x"): Pod(Key("other", "x"), "u", (), (), "elsewhere")}))
    assert node.kernel.generation == generation


def test_a_new_process_writes_only_what_changed_while_nobody_looked_and_deletes_last() -> None:
    before = Node()
    before.sync.begin(everything(policy("web", 80), policy("more", 81)))
    kernel = before.kernel
    kernel.rows["isolation"][ip_address("10.1.0.99")] = Isolation(5, 0)
    kernel.rows["policies"][PolicyKey(5, 1)] = PolicyRow(1)
    kernel.journal.clear()
    after = Node(kernel)
    after.sync.begin(everything(policy("web", 80), policy("more", 82)))
    actions = [word for word, _ in kernel.journal]
    assert actions == sorted(actions, key=["put", "delete", "advance"].index)
    assert ip_address("10.1.0.99") not in kernel.rows["isolation"]
    assert [kernel.allows(FRIEND, port) for port in (80, 81, 82)] == [True, False, True]
    kernel.journal.clear()
    Node(kernel).sync.begin(everything(policy("web", 80), policy("more", 82)))
    assert kernel.journal == []


@pytest.mark.parametrize("table", ORDER)
def test_after_a_failure_only_a_comparison_with_the_kernel_helps(table: str) -> None:
    node = Node()
    node.sync.begin(everything())
    node.kernel.full = table
    with pytest.raises(ApplyError, match=f"table {table} refused a change: it is full"):
        node.sync.apply(Changes(policies={Key("n", "web"): policy()}))
    assert node.kernel.generation == 1  # what was written of it counts
    assert node.metrics.failures == 1
    node.sync.begin(everything(policy()))
    assert node.verdicts() == (True, False)


def test_a_table_that_is_too_full_for_old_and_new_rows_side_by_side_is_emptied_first() -> None:
    node = Node()
    node.sync.begin(everything(policy("web", 80)))
    node.kernel.full = "policies"
    with pytest.raises(ApplyError):
        node.sync.apply(Changes(policies={Key("n", "web"): policy("web", 81)}))
    node.kernel.journal.clear()
    node.sync.begin(everything(policy("web", 81)))
    assert [word for word, _ in node.kernel.journal] == ["delete", "put", "advance"]
    assert [node.kernel.allows(FRIEND, port) for port in (80, 81)] == [False, True]
    node.kernel.journal.clear()
    node.sync.apply(Changes(policies={Key("n", "web"): policy("web", 82)}))
    assert [word for word, _ in node.kernel.journal] == ["put", "delete", "advance"]


def test_before_the_comparison_nothing_is_written() -> None:
    node = Node()
    with pytest.raises(ApplyError):
        node.sync.apply(Changes(policies={Key("n", "web"): policy()}))
    assert node.kernel.journal == []
    with node.sync.looking() as view:
        assert view is None


def test_a_policy_that_does_not_fit_closes_its_pods_is_told_once_and_opens_them_when_it_fits() -> None:
    node = Node()
    node.kernel.capacity = 16
    node.sync = PolicySynchronizer(cast(Any, node.kernel.datapath()), node.metrics, node.told.append)
    node.sync.begin(everything(policy("web", 80)))
    large = policy("large", *range(1, 200, 2))
    node.sync.apply(Changes(policies={large.key: large}))
    assert node.verdicts() == (False, False)
    assert (node.metrics.closed, node.metrics.troubles >= 1) == (1, True)
    assert large.key in {trouble.policy for trouble in node.told}
    count = len(node.told)
    node.sync.apply(Changes(pods={STRANGER: pod(STRANGER, role="x")}))
    assert len(node.told) == count
    with node.sync.looking() as view:
        assert view is not None
        assert policy_documents.of_pod(view, WEB)["ingress"]["closed"] is True
    node.sync.apply(Changes(policies={large.key: None}))
    assert node.verdicts() == (True, False)
    assert (node.metrics.closed, node.metrics.troubles) == (0, 0)


def test_counters_of_what_is_gone_are_deleted_and_others_stay() -> None:
    node = Node()
    node.sync.begin(everything(policy()))
    (number,) = {row.ingress_set for row in node.kernel.rows["isolation"].values()}
    (rule,) = {row.rule for row in node.kernel.rows["policies"].values()}
    live = [PolicyCountKey(number, 0), PolicyCountKey(number, rule)]
    dead = [PolicyCountKey(number, rule + 1), PolicyCountKey(number + 1, 0), PolicyCountKey(number + 1, rule)]
    node.kernel.counts = dict.fromkeys(live + dead, PolicyCount(1, 60))
    node.sync.keep_house()
    assert list(node.kernel.counts) == live


def test_what_judges_a_pod_is_told_with_its_counters() -> None:
    node = Node()
    node.sync.begin(everything(policy(), policy("open", peers=(Peer(pods=Selector(), namespaces=selector(team="a")),))))
    (number,) = {row.ingress_set for row in node.kernel.rows["isolation"].values()}
    (rule,) = {row.rule for row in node.kernel.rows["policies"].values()}
    node.kernel.counts = {PolicyCountKey(number, rule): PolicyCount(2, 120), PolicyCountKey(number, 0): PolicyCount(3, 180)}
    with node.sync.looking() as view:
        assert view is not None
        shown = policy_documents.of_pod(view, WEB)
        assert policy_documents.of_pod(view, FRIEND)["ingress"]["isolated"] is False
        (only,) = policy_documents.policies(view, "n/web")
        assert [row["policy"] for row in policy_documents.policies(view)] == ["n/open", "n/web"]
        assert policy_documents.policies(view, "n/other") == []
    assert shown["revision"] == node.kernel.generation
    ingress = shown["ingress"]
    assert (ingress["set"], ingress["policies"], ingress["rows"]) == (number, ["n/open", "n/web"], 1)
    assert ingress["allowed"] == [{"rules": ["n/web ingress[0]"], "packets": 2, "bytes": 120}]
    assert ingress["denied"] == {"packets": 3, "bytes": 180}
    assert only == {
        "policy": "n/web",
        "directions": ["ingress"],
        "pods": ["n/web"],
        "sets": [number],
        "rows": 1,
        "allowed": [{"rule": "n/web ingress[0]", "packets": 2, "bytes": 120}],
        "troubles": [],
    }
    row = {"address": "10.1.0.1", "pod": "n/web", "id": 1, "link": "an1", "ifindex": 7, "mac": "m", "hostPorts": [], "policy": shown}
    assert "n/open, n/web: 1 rows, 3 denied  open" in endpoints_table([row, {**row, "policy": None}])


def test_what_it_costs_is_counted_and_rendered() -> None:
    node = Node()
    node.sync.begin(everything(policy()))
    assert node.metrics.row_counts.written == {"policies": 1, "classes": 1, "isolation": 1}
    assert {name: usage.rows for name, usage in node.metrics.usage().items()} == {"policies": 1, "classes": 1, "isolation": 1}
    assert {usage.capacity for usage in node.metrics.usage().values()} == {1000}
    node.sync.apply(Changes(policies={Key("n", "web"): None}))
    assert node.metrics.row_counts.deleted["isolation"] == 1
    text = "\n".join(node.metrics.render())
    assert "anetd_policy_in_force 0" in text
    assert "anetd_policy_compile_seconds_count 2" in text
    assert "anetd_policy_apply_seconds_count 2" in text
    assert 'anetd_policy_rows_deleted_total{table="isolation"} 1' in text
    assert f"anetd_policy_revision {node.kernel.generation}" in text
