"""The state machine of list and watch, and the threads that drive it, against every way in which a server fails."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.watch.records import Key
from agent.watch.reflector import LAST_WAIT, ProtocolViolationError, Reflector, Remove, Replace, Resource, Upsert
from agent.watch.transport import Access, Connection, StatusError, TransportError
from agent.watch.watcher import Watcher

RESOURCE: Resource[str] = Resource("/api/v1/things", lambda item: item["value"], "a=b")


def item(name: str, value: str, version: int = 1) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "n", "resourceVersion": str(version)}, "value": value}


def page(*items: dict[str, Any], version: str = "10", more: str = "") -> bytes:
    return json.dumps({"metadata": {"resourceVersion": version, "continue": more}, "items": list(items)}).encode()


def event(kind: str, thing: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": thing}).encode() + b"\n"


def reflector() -> Reflector[str]:
    return Reflector(RESOURCE, random.Random(1))


def synced() -> Reflector[str]:
    machine = reflector()
    machine.page(page(item("a", "1")))
    return machine


def test_it_lists_in_pages_and_replaces_only_with_the_last() -> None:
    machine = reflector()
    assert "limit=500" in machine.ask().target
    assert "labelSelector=a%3Db" in machine.ask().target
    assert machine.page(page(item("a", "1"), more="tok")) == []
    assert not machine.synced
    assert "continue=tok" in machine.ask().target
    assert machine.page(page(item("b", "2"))) == [Replace({Key("n", "a"): "1", Key("n", "b"): "2"})]
    assert machine.synced
    assert "resourceVersion=10" in machine.ask().target
    assert machine.ask().watch


def test_events_become_changes_and_move_the_version_on() -> None:
    machine = synced()
    assert machine.line(event("ADDED", item("b", "2", 11))) == [Upsert(Key("n", "b"), "2")]
    assert machine.line(event("MODIFIED", item("b", "3", 12))) == [Upsert(Key("n", "b"), "3")]
    assert machine.line(event("DELETED", item("b", "3", 13))) == [Remove(Key("n", "b"))]
    assert machine.line(event("BOOKMARK", {"metadata": {"resourceVersion": "99"}})) == []
    machine.failed()
    assert "resourceVersion=99" in machine.ask().target


@pytest.mark.parametrize("how", ["status", "event"])
def test_a_version_that_is_too_old_leads_to_a_list_at_once(how: str) -> None:
    machine = synced()
    if how == "status":
        machine.failed(410)
        assert machine.wait() == 0.0
    else:
        assert machine.line(event("ERROR", {"code": 410, "metadata": {}})) == []
    assert not machine.ask().watch
    assert machine.synced  # what is known stays in force


def test_a_list_that_breaks_off_in_the_middle_begins_anew() -> None:
    machine = reflector()
    machine.page(page(item("old", "1"), more="tok"))
    machine.failed(410)
    assert "continue" not in machine.ask().target
    assert machine.page(page(item("new", "2"))) == [Replace({Key("n", "new"): "2"})]


def test_waits_grow_with_jitter_up_to_a_limit_and_end_with_success() -> None:
    machine = synced()
    waits = []
    for _ in range(20):
        machine.failed(500)
        waits.append(machine.wait())
    assert waits[0] <= 0.25
    assert max(waits) <= LAST_WAIT
    assert min(waits[-5:]) >= LAST_WAIT / 2
    assert len(set(waits)) == len(waits)
    machine.line(event("BOOKMARK", {"metadata": {"resourceVersion": "99"}}))
    assert machine.wait() == 0.0


def test_a_watch_that_ends_without_a_word_is_not_asked_again_in_haste() -> None:
    machine = synced()
    machine.ask()
    machine.ended()
    assert machine.wait() > 0
    machine.ask()
    machine.line(event("BOOKMARK", {"metadata": {"resourceVersion": "11"}}))
    machine.ended()
    assert machine.wait() == 0.0


@given(st.binary(max_size=60))
def test_bytes_that_are_no_event_are_refused_and_change_nothing(data: bytes) -> None:
    machine = synced()
    before = machine.ask().target.split("&timeout")[0]
    try:
        machine.line(data)
    except ProtocolViolationError:
        assert machine.ask().target.split("&timeout")[0] == before
    with pytest.raises(ProtocolViolationError):
        synced().page(data + b"x")


def keep(seen: dict[Key, str], changes: list[Any]) -> None:
    for change in changes:
        match change:
            case Replace(records):
                seen.clear()
                seen.update(records)
            case Upsert(key, value):
                seen[key] = value
            case Remove(key):
                seen.pop(key, None)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["put", "delete", "end", "fail", "gone", "half-list"])), max_size=40))
def test_after_any_history_a_list_brings_the_records_to_what_the_server_has(history: list[tuple[str, str]]) -> None:
    machine = reflector()
    server: dict[str, str] = {}
    seen: dict[Key, str] = {}
    version = 10

    def list_if_asked() -> None:
        if not machine.ask().watch:
            keep(seen, machine.page(page(*(item(name, value) for name, value in server.items()), version=str(version))))

    for name, what in history:
        version += 1
        match what:
            case "put":
                list_if_asked()
                server[name] = str(version)
                keep(seen, machine.line(event("MODIFIED", item(name, server[name], version))))
            case "delete" if name in server:
                list_if_asked()
                keep(seen, machine.line(event("DELETED", item(name, server.pop(name), version))))
            case "end":
                machine.ended()
            case "fail":
                machine.failed(503)
            case "gone":
                machine.failed(410)
            case "half-list" if not machine.ask().watch:
                before = dict(seen)
                machine.page(page(item("stale", "x"), more="more"))
                machine.failed()
                assert seen == before
    list_if_asked()
    assert {key.name: value for key, value in seen.items()} == server


class RawServer:
    """Answers each connection with the next of some prepared bytes, then closes it."""

    def __init__(self, answers: list[bytes]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.answers = answers
        self.requests: list[bytes] = []
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    @property
    def access(self) -> Access:
        return Access(f"http://127.0.0.1:{self.listener.getsockname()[1]}", Path("/none"), Path("/none"))

    def _run(self) -> None:
        for answer in self.answers:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                self.requests.append(connection.recv(65536))
                connection.sendall(answer)

    def close(self) -> None:
        self.listener.close()


def response(body: bytes, *, chunked: bool = False, status: str = "200 OK") -> bytes:
    if not chunked:
        return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    return f"HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"


@pytest.fixture
def serve() -> Iterator[Any]:
    servers: list[RawServer] = []

    def make(*answers: bytes) -> RawServer:
        servers.append(RawServer(list(answers)))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\nhalf a line",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    ],
)
def test_a_broken_answer_is_a_transport_error_and_nothing_else(serve: Any, answer: bytes) -> None:
    server = serve(answer, answer)
    with Connection(server.access) as connection, pytest.raises(TransportError):
        connection.get("/x", 5.0)
    with Connection(server.access) as connection, pytest.raises(TransportError):
        list(connection.lines("/x", 5.0))


def test_a_stream_that_turns_to_nonsense_between_two_events_is_at_its_end(serve: Any) -> None:
    server = serve(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n1\n\r\nzz\r\n")
    with Connection(server.access) as connection:
        assert list(connection.lines("/x", 5.0)) == [b"1\n"]


def test_a_half_written_line_is_never_given_out(serve: Any) -> None:
    server = serve(response(b'{"whole":1}\n{"half":', chunked=True))
    lines = []
    with Connection(server.access) as connection, pytest.raises(TransportError, match="middle"):
        lines.extend(connection.lines("/x", 5.0))
    assert lines in ([], [b'{"whole":1}\n'])


def test_a_status_is_told(serve: Any) -> None:
    server = serve(response(b"{}", status="410 Gone"))
    with Connection(server.access) as connection, pytest.raises(StatusError) as caught:
        connection.lines("/x", 5.0)
    assert caught.value.status == 410


def test_a_server_that_is_silent_runs_into_the_time_limit(serve: Any) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    access = Access(f"http://127.0.0.1:{listener.getsockname()[1]}", Path("/none"), Path("/none"))
    began = time.monotonic()
    with Connection(access) as connection, pytest.raises(TransportError):
        connection.get("/x", 0.2)
    assert time.monotonic() - began < 5
    listener.close()


def test_a_watcher_goes_on_through_all_of_it(serve: Any) -> None:
    changes = threading.Semaphore(0)
    server = serve(
        b"nonsense\r\n\r\n",
        response(page(item("a", "1"))),
        response(event("ADDED", item("b", "2", 11)) + b'{"type":"DEL', chunked=True),
        response(b"{}", status="410 Gone"),
        response(page(item("c", "3"))),
        response(event("MODIFIED", item("c", "3", 12)), chunked=True),
        response(event("MODIFIED", item("c", "4", 13)), chunked=True),
    )
    watcher = Watcher("things", RESOURCE, server.access, changes.release)
    watcher.start()
    for _ in range(4):  # the list, b, the second list, c's new value; c as it was is no change
        assert changes.acquire(timeout=10)
    assert watcher.snapshot() == {Key("n", "c"): "4"}
    assert watcher.take() == {Key("n", "a"): None, Key("n", "b"): None, Key("n", "c"): "4"}  # all that was heard since the start
    assert watcher.take() == {}
    assert watcher.synced
    watcher.stop()


def test_the_token_is_read_anew_and_sent_only_over_tls(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    server = serve(response(b"{}"))
    access = Access(server.access.url, tmp_path / "token", tmp_path / "ca")
    with Connection(access) as connection:
        connection.get("/x", 5.0)
    assert b"secret" not in server.requests[0]
