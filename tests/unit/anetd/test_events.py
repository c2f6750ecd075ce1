"""Events: one object a trouble, counted, and never a burden to the one who tells of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.observe import events
from agent.observe.events import EventSink, Ledger, Subject, Trouble, new_event, series_of
from agent.watch.records import Key
from agent.watch.transport import Access
from tests.datapath.agent.api import TOKEN, FakeApi

SUBJECT = Subject("Service", Key("shop", "web"), "u-1")
TROUBLE = Trouble(SUBJECT, "PortInUse", "port 30000 is taken")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    server = FakeApi(tmp_path)
    yield server
    server.close()


def sink(api: FakeApi) -> EventSink:
    return EventSink(Access(api.url, api.directory / "token", api.directory / "ca.crt"), "node-a")


def eventually(probe: object, within: float = 20.0) -> None:
    end = time.monotonic() + within
    while not probe():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_same_trouble_is_one_event_with_a_count() -> None:
    ledger = Ledger()
    ledger.add(TROUBLE, 1000.0)
    (first,) = ledger.due(1000.0)
    assert first.is_new
    ledger.written(first, 1000.0)
    assert ledger.due(1000.0) == []
    assert ledger.wait(1000.0) is None
    for second in range(1001, 1011):
        ledger.add(TROUBLE, float(second))
    assert ledger.due(1011.0) == []  # written a moment ago
    assert ledger.wait(1011.0) == pytest.approx(events.REWRITE_SECONDS - 11.0)
    (again,) = ledger.due(1000.0 + events.REWRITE_SECONDS)
    assert (again.is_new, again.count, again.last, again.name) == (False, 11, 1010.0, first.name)


def test_after_ten_quiet_minutes_it_is_news_again() -> None:
    ledger = Ledger()
    ledger.add(TROUBLE, 0.0)
    ledger.written(ledger.due(0.0)[0], 0.0)
    ledger.add(TROUBLE, events.SERIES_SECONDS + 1)
    (write,) = ledger.due(events.SERIES_SECONDS + 1)
    assert write.is_new
    assert write.count == 1


def test_a_flood_of_different_troubles_ends() -> None:
    ledger = Ledger()
    kept = [ledger.add(Trouble(SUBJECT, "Full", str(number)), 0.0) for number in range(events.MAX_SERIES + 5)]
    assert kept == [True] * events.MAX_SERIES + [False] * 5
    assert ledger.add(Trouble(SUBJECT, "Full", "later"), events.SERIES_SECONDS + 1)


@given(st.lists(st.tuples(st.sampled_from(["told", "lost", "ok"]), st.floats(0, 100)), max_size=60))
def test_nothing_that_was_told_is_forgotten_while_the_server_is_away(steps: list[tuple[str, float]]) -> None:
    ledger, now, told, written = Ledger(), 0.0, 0, 0
    for step, seconds in steps:
        now += seconds
        if step == "told":
            told += 1
            ledger.add(TROUBLE, now)
        for write in ledger.due(now):
            if step == "ok":
                ledger.written(write, now)
                written = write.count
            else:
                ledger.postponed(write, now)
    for write in ledger.due(now + events.REWRITE_SECONDS):
        written = write.count
    assert written <= told
    assert bool(told) == bool(written)


def test_an_event_has_the_shape_that_the_api_demands() -> None:
    ledger = Ledger()
    ledger.add(Trouble(Subject("Node", Key("", "node-a")), "Full", "ü" * 2000), 1.5)
    (write,) = ledger.due(2.0)
    document = new_event(write, "node-a")
    assert document["metadata"]["namespace"] == "default"
    assert document["eventTime"] == "1970-01-01T00:00:01.500000Z"
    assert len(document["note"].encode()) <= 1024
    assert document["regarding"] == {"apiVersion": "v1", "kind": "Node", "name": "node-a"}
    assert "series" not in document
    for _ in range(2):
        ledger.add(write.trouble, 3.0)
    (write,) = ledger.due(3.0)
    assert (
        new_event(write, "node-a")["series"]
        == series_of(write)["series"]
        == {"count": 3, "lastObservedTime": "1970-01-01T00:00:03.000000Z"}
    )


def test_what_is_told_arrives_with_its_object_and_is_counted(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "REWRITE_SECONDS", 0.05)
    told = sink(api)
    told.warn(SUBJECT, "PortInUse", "port 30000 is taken")
    eventually(lambda: api.told)
    ((name, document),) = api.told.items()
    assert name.startswith("shop/web.")
    assert document["regarding"] == {"apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "web", "uid": "u-1"}
    assert (document["reason"], document["note"], document["type"]) == ("PortInUse", "port 30000 is taken", "Warning")
    assert (document["reportingController"], document["reportingInstance"]) == ("anetd", "node-a")
    told.warn(SUBJECT, "PortInUse", "port 30000 is taken")
    told.warn(SUBJECT, "PortInUse", "port 30000 is taken")
    eventually(lambda: document.get("series", {}).get("count") == 3)
    assert len(api.told) == 1
    assert TOKEN not in str(api.told)


def test_a_change_that_is_no_trouble_is_a_normal_event_about_an_object_of_any_group(api: FakeApi) -> None:
    told = sink(api)
    subject = Subject("NetworkLogging", Key("", "default"), "u-2", "networking.gke.io/v1alpha1")
    told.inform(subject, "UpdateNetworkLogging", "denied connections are logged")
    eventually(lambda: api.told)
    ((name, document),) = api.told.items()
    assert name.startswith("default/default.")
    assert (document["type"], document["reason"]) == ("Normal", "UpdateNetworkLogging")
    assert document["regarding"] == {"apiVersion": "networking.gke.io/v1alpha1", "kind": "NetworkLogging", "name": "default", "uid": "u-2"}


def test_a_server_that_is_away_is_borne_in_silence_and_told_later(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(events, "REWRITE_SECONDS", 0.05)
    token = api.directory / "token"
    away = token.rename(api.directory / "hidden")  # a request cannot even be made
    told = sink(api)
    told.warn(SUBJECT, "PortInUse", "port 30000 is taken")
    time.sleep(0.2)
    assert not api.told
    away.rename(token)
    eventually(lambda: api.told)
    assert caplog.records == []


def test_telling_never_waits(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventSink, "_turn", lambda _: time.sleep(60))
    told = sink(api)
    for number in range(events.QUEUE + 7):
        told.warn(SUBJECT, "Full", str(number))
    assert told.lost == 7
