"""NetworkLogging: which objects are followed, what is told of them, and a cluster that lacks the kind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.observe.events import Subject
from agent.policylog.control import LoggingControl
from agent.policylog.settings import NAME, RESOURCE, network_logging, settle
from agent.watch import watcher as watchers
from agent.watch.policy_records import Logging
from agent.watch.records import Key, Node
from agent.watch.reflector import Reflector, Replace
from agent.watch.transport import Access
from agent.watch.watcher import Watcher
from tests.datapath.agent.api import FakeApi

PATH = "/apis/networking.gke.io/v1alpha1/networkloggings"
ALLOW = Logging(allow=True)


def document(name: str = "default", uid: str = "u-1", **cluster: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": uid}, "spec": {"cluster": cluster}}


def side(log: Any = False, delegate: Any = False) -> dict[str, Any]:
    return {"log": log, "delegate": delegate}


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ({}, Logging()),
        ({"allow": side(), "deny": side()}, Logging()),
        ({"allow": side(True)}, Logging(allow=True)),
        ({"deny": side(True)}, Logging(deny=True)),
        ({"deny": {"log": True}}, Logging(deny=True)),
        ({"allow": side(True, True), "deny": side(True, True)}, Logging(True, True, True, True)),
    ],
)
def test_a_spec_that_can_be_is_what_is_logged(cluster: dict[str, Any], expected: Logging) -> None:
    found = network_logging(document(**cluster))
    assert (found.logging, found.problem) == (expected, "")


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (document("other", allow=side(True)), "only the object named default"),
        (document(allow=side(False, True)), "spec.cluster.allow.delegate needs spec.cluster.allow.log"),
        (document(deny=side(False, True)), "spec.cluster.deny.delegate needs spec.cluster.deny.log"),
        (document(deny=side("true")), "spec.cluster.deny.log is neither true nor false"),
        (document(allow="yes"), "spec.cluster.allow.log is neither true nor false"),
    ],
)
def test_an_object_that_cannot_be_followed_is_a_warning_and_what_was_in_force_stays(found: dict[str, Any], problem: str) -> None:
    key = Key("", found["metadata"]["name"])
    logging, (notice,) = settle(ALLOW, {key: network_logging(found)})
    assert logging == ALLOW
    assert (notice.subject, notice.uid, notice.reason) == (key, "u-1", "InvalidNetworkLogging")
    assert problem in notice.message
    assert "allowed connections are logged, of every policy; denied ones are not logged" in notice.message


@pytest.mark.parametrize("found", [{"metadata": {"name": "default"}}, {"metadata": {"name": "default"}, "spec": None}, {}, {"spec": []}])
def test_an_object_without_a_spec_logs_nothing(found: dict[str, Any]) -> None:
    assert network_logging(found).logging in {Logging(), None}


def test_a_change_is_told_once_and_the_end_of_the_object_is_the_end_of_logging() -> None:
    logging, (notice,) = settle(Logging(), {NAME: network_logging(document(allow=side(True)))})
    assert (logging, notice.reason) == (ALLOW, "UpdateNetworkLogging")
    assert settle(logging, {NAME: network_logging(document(allow=side(True)))}) == (ALLOW, [])
    assert settle(logging, {Key("", "other"): None}) == (ALLOW, [])
    assert settle(logging, {NAME: None}) == (Logging(), [])


def test_a_kind_that_the_server_does_not_know_is_a_list_without_objects_and_asked_for_again() -> None:
    machine = Reflector(RESOURCE)
    assert machine.missing() == [Replace({})]
    assert machine.synced
    assert machine.wait() >= 10
    assert not machine.ask().watch
    (change,) = machine.page(b'{"metadata": {"resourceVersion": "5"}, "items": [{"metadata": {"name": "default"}}]}')
    assert isinstance(change, Replace)
    assert machine.wait() == 0
    assert machine.ask().watch


class Told:
    """An event sink that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Subject, str]] = []

    def warn(self, subject: Subject, reason: str, message: str) -> None:
        self.events.append(("Warning", subject, reason))

    def inform(self, subject: Subject, reason: str, message: str) -> None:
        self.events.append(("Normal", subject, reason))


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    server = FakeApi(tmp_path)
    server.objects[PATH] = {}
    yield server
    server.close()


def access(api: FakeApi) -> Access:
    return Access(api.url, api.directory / "token", api.directory / "ca.crt")


class Following:
    """An agent's control, and what its loop was told."""

    def __init__(self, api: FakeApi, node: str) -> None:
        self.told, self.heard = Told(), list[Logging]()
        nodes = {Key("", name): Node(name, (), (), ready=True) for name in ("node-a", "node-b")}
        self.control = LoggingControl(access(api), node, lambda: nodes, self.told, self.heard.append)
        self.control.watcher.start()
        eventually(lambda: self.heard)


def eventually(probe: Any, within: float = 30.0) -> Any:
    end = time.monotonic() + within
    while not (found := probe()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def test_changes_come_to_every_agent_and_are_told_by_that_of_the_first_ready_node(api: FakeApi) -> None:
    api.put(PATH, document(allow=side(True)))
    a, b = Following(api, "node-a"), Following(api, "node-b")
    assert (a.heard, b.heard, a.told.events) == ([ALLOW], [ALLOW], [])  # it was so before the agent was
    api.put(PATH, document(deny=side(True)))
    api.put(PATH, document("second", "u-2"))
    eventually(lambda: len(a.told.events) == 2)
    subjects = [(kind, subject.key.name, subject.uid, reason) for kind, subject, reason in a.told.events]
    assert subjects == [("Normal", "default", "u-1", "UpdateNetworkLogging"), ("Warning", "second", "u-2", "InvalidNetworkLogging")]
    assert {(subject.kind, subject.api_version) for _, subject, _ in a.told.events} == {("NetworkLogging", "networking.gke.io/v1alpha1")}
    api.remove(PATH, "default")
    for each in (a, b):
        eventually(lambda each=each: len(each.heard) == 3)
        assert each.heard == [ALLOW, Logging(deny=True), Logging()]
        assert each.control.logging == Logging()
        each.control.watcher.stop()
    assert b.told.events == []


def test_a_cluster_without_the_object_or_the_kind_is_told_to_the_loop_too(api: FakeApi) -> None:
    for _ in range(2):
        one = Following(api, "node-a")
        assert one.heard == [Logging()]
        one.control.watcher.stop()
        api.objects.pop(PATH, None)


def test_a_server_without_the_kind_is_no_trouble(api: FakeApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    del api.objects[PATH]
    monkeypatch.setattr(watchers, "Reflector", lambda resource: Reflector(resource, random=Soon()))
    watcher = Watcher("networkloggings", RESOURCE, access(api), lambda: None)
    watcher.start()
    eventually(lambda: watcher.synced)
    assert watcher.connected
    api.objects[PATH] = {}
    api.put(PATH, document(allow=side(True)))
    assert eventually(lambda: watcher.snapshot().get(NAME)).logging == ALLOW
    watcher.stop()
    assert caplog.records == []


class Soon:
    """For a wait of next to nothing."""

    def uniform(self, *_: float) -> float:
        return 0.001

    def randint(self, first: int, _last: int) -> int:
        return first
