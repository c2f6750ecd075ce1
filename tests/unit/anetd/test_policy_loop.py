"""The policy loop against a small API server: what it waits for, what it takes up, and how it gets over failures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import pytest

from agent.cni.protocol import Attachment, CniError
from agent.cni.store import Record, State
from agent.observe.policy_metrics import PolicyMetrics
from agent.policyloop import PolicyLoop
from agent.policysync import PolicySynchronizer
from agent.watch.policy_records import Logging
from agent.watch.records import Key
from agent.watch.transport import Access
from tests.datapath.agent.api import NAMESPACES, PODS, POLICIES, FakeApi

from .policy_kernel import ADDRESSES, FRIEND, STRANGER, WEB, Kernel

SECONDS = 30.0


def eventually(condition: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)


def pod(key: Key, **labels: str) -> dict[str, Any]:
    return {
        "metadata": {"namespace": key.namespace, "name": key.name, "uid": f"uid-{key.name}", "labels": {"app": key.name, **labels}},
        "spec": {"nodeName": "node"},
        "status": {"podIPs": [{"ip": str(address)} for address in ADDRESSES[key]]},
    }


def policy(name: str, *friends: str, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    peers = [{"podSelector": {"matchLabels": {"app": friend}}} for friend in friends]
    return {
        "metadata": {"namespace": "n", "name": name, "uid": f"uid-{name}", "annotations": annotations or {}},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": peers}] if peers else []},
    }


def record(key: Key) -> Record:
    attachment = Attachment(f"container-{key.name}", "eth0")
    return Record(attachment, State.INTENT, ADDRESSES[key], "/run/netns/x", (1, 2), 1500, 1, str(key))


class Node:
    """An API server, the tables in memory, and the loop between them."""

    def __init__(self, directory: Path) -> None:
        self.api = FakeApi(directory)
        self.kernel = Kernel()
        self.api.put(NAMESPACES, {"metadata": {"name": "n", "labels": {}}})
        for key in ADDRESSES:
            self.api.put(PODS, pod(key))
        self.metrics = PolicyMetrics()
        self.firsts = 0
        self.loops: list[PolicyLoop] = []
        self.loop = self.made()

    def made(self) -> PolicyLoop:
        def first() -> None:
            self.firsts += 1

        loop = PolicyLoop(Access(self.api.url, self.api.directory / "token", self.api.directory / "ca.crt"), first)
        self.loops.append(loop)
        return loop

    def start(self, *endpoints: Key) -> None:
        for key in endpoints:
            self.loop.gate.enter(record(key), f"uid-{key.name}")
        for watcher in self.loop.watchers:
            watcher.start()
        self.loop.start(PolicySynchronizer(cast(Any, self.kernel.datapath()), self.metrics))

    def restart(self, *endpoints: Key) -> None:
        self.stop()
        self.loop = self.made()
        self.start(*endpoints)

    def stop(self) -> None:
        self.loop.stop()
        for watcher in self.loop.watchers:
            watcher.stop()

    def verdicts(self) -> tuple[bool, bool]:
        return self.kernel.allows(FRIEND), self.kernel.allows(STRANGER)

    def becomes(self, friend: bool, stranger: bool) -> None:
        eventually(lambda: self.verdicts() == (friend, stranger), f"{(friend, stranger)}, not {self.verdicts()}: {self.loop.trouble}")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.stop()
    made.api.close()


def test_policies_labels_and_pods_are_followed(node: Node) -> None:
    node.api.put(POLICIES, policy("web", "friend"))
    node.start(WEB)
    node.becomes(True, False)
    node.api.put(PODS, pod(STRANGER, app="friend"))
    node.becomes(True, True)
    node.api.remove(PODS, "friend", "n")
    node.becomes(False, True)
    node.api.put(POLICIES, policy("web"))
    node.becomes(False, False)
    node.api.remove(POLICIES, "web", "n")
    node.becomes(True, True)
    assert node.firsts == 1
    assert node.metrics.latencies.count >= 4


def test_nothing_is_written_before_all_three_are_listed(node: Node) -> None:
    node.api.put(POLICIES, policy("web"))
    del node.api.objects[NAMESPACES]  # not found, for now
    node.start(WEB)
    eventually(lambda: node.loop.pods.synced and node.loop.policies.synced, "the others are listed")
    with pytest.raises(CniError, match="has not heard yet from the API server which namespaces there are"):
        PolicyGateInHaste(node).admit(WEB)
    assert node.kernel.journal == []
    assert not node.loop.in_force
    node.api.objects[NAMESPACES] = {"/n": {"metadata": {"name": "n", "resourceVersion": "1"}}}
    node.becomes(False, False)
    eventually(lambda: node.loop.in_force, "in force")


class PolicyGateInHaste:
    """The loop's gate for somebody who does not wait."""

    def __init__(self, node: Node) -> None:
        self._gate = node.loop.gate
        self._gate._seconds = 0.01

    def admit(self, key: Key) -> None:
        self._gate.admit(record(key))


def test_a_pod_is_let_through_when_what_judges_it_is_written(node: Node) -> None:
    node.api.put(POLICIES, policy("web"))
    node.api.remove(PODS, "web", "n")
    node.start()
    eventually(lambda: node.loop.in_force, "in force")
    node.loop.gate.enter(record(WEB), "uid-web")
    with pytest.raises(CniError, match="has not told anetd of this pod yet"):
        PolicyGateInHaste(node).admit(WEB)
    node.loop.gate._seconds = SECONDS
    node.api.put(PODS, pod(WEB))
    node.loop.gate.admit(record(WEB))
    assert node.verdicts() == (False, False)
    node.loop.gate.leave(record(WEB))
    eventually(lambda: not node.kernel.rows["isolation"], "no isolation")


def test_an_address_that_goes_to_another_pod_is_judged_as_that_one(node: Node) -> None:
    node.api.put(POLICIES, policy("web"))
    node.start(WEB)
    node.becomes(False, False)
    node.loop.gate.leave(record(WEB))
    heir = Record(Attachment("heir", "eth0"), State.INTENT, ADDRESSES[WEB], "/run/netns/x", (1, 2), 1500, 1, str(STRANGER))
    node.loop.gate.enter(heir, "uid-stranger")
    node.loop.gate._seconds = SECONDS
    node.loop.gate.admit(heir)
    assert node.kernel.rows["isolation"] == {}


def test_a_failure_is_got_over_by_comparing_and_nothing_is_lost(node: Node) -> None:
    node.start(WEB)
    eventually(lambda: node.loop.in_force, "in force")
    node.kernel.full = "isolation"
    node.api.put(POLICIES, policy("web", "friend"))
    node.becomes(True, False)
    assert node.metrics.failures == 1
    eventually(lambda: not node.loop.trouble, "no trouble")


def test_whatever_a_round_raises_the_next_one_begins_anew(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.start(WEB)
    eventually(lambda: node.loop.in_force, "in force")
    failures = [RuntimeError("nobody foresaw this")]
    apply = PolicySynchronizer.apply

    def fail_once(self: PolicySynchronizer, changes: Any) -> None:
        if failures:
            raise failures.pop()
        apply(self, changes)

    monkeypatch.setattr(PolicySynchronizer, "apply", fail_once)
    node.api.put(POLICIES, policy("web", "friend"))
    node.becomes(True, False)
    assert failures == []


def test_a_pod_whose_object_goes_keeps_its_policy_until_its_sandbox_does(node: Node) -> None:
    node.api.put(POLICIES, policy("web", "friend"))
    node.start(WEB)
    node.becomes(True, False)
    node.api.remove(PODS, "web", "n")
    node.api.put(POLICIES, policy("web", "stranger"))
    node.becomes(False, True)
    node.kernel.full = "policies"  # and over a failure, after which all is compiled anew
    node.api.put(POLICIES, policy("web", "friend"))
    node.becomes(True, False)
    node.loop.gate.leave(record(WEB))
    eventually(lambda: not node.kernel.rows["isolation"], "no isolation")


def test_a_restart_changes_what_changed_meanwhile_and_closes_a_pod_that_nobody_knows(node: Node) -> None:
    node.api.put(POLICIES, policy("web", "friend"))
    node.start(WEB)
    node.becomes(True, False)
    node.kernel.journal.clear()
    node.restart(WEB)
    eventually(lambda: node.loop.in_force, "in force")
    assert node.kernel.journal == []
    node.stop()
    node.api.remove(PODS, "web", "n")
    node.restart(WEB)
    node.becomes(False, False)


def test_pods_of_which_nothing_is_written_down_are_judged_by_their_address(node: Node) -> None:
    node.api.put(POLICIES, policy("web", "friend"))
    lost = ip_address("10.1.0.77")
    node.loop.gate.adopt([*ADDRESSES[WEB], lost])
    node.start()
    node.becomes(True, False)
    assert node.kernel.rows["isolation"][lost].ingress_set
    assert node.kernel.rows["isolation"][lost].egress_set


def test_what_is_logged_follows(node: Node) -> None:
    node.api.put(POLICIES, policy("web", "friend"))
    node.start(WEB)
    node.becomes(True, False)
    node.loop.set_logging(Logging(allow=True, deny=True))
    eventually(lambda: all(row.flags for row in node.kernel.rows["policies"].values()), "allowed connections are logged")
    eventually(lambda: all(row.flags for row in node.kernel.rows["isolation"].values()), "denied ones too")
