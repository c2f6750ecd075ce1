"""The log's thread: from a ring to a file, with names of what the loop told it, and no trouble with a disk that has some."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from agent.datapath.abi import pack_address
from agent.datapath.policy_rows import Direction, Isolation, PolicyFlag, PolicyKey, PolicyRow, VerdictLoss
from agent.observe.events import Subject
from agent.policy.inputs import Changes, Rows
from agent.policy.terms import RuleRef
from agent.policylog import aggregate, logger
from agent.policylog.logger import PolicyLog
from agent.policylog.writer import ACTIVE, Writer
from agent.watch.policy_records import Logging, NetworkPolicy, Pod, Selector
from agent.watch.records import Key, Node

from .verdicts import verdict

CLIENT, SERVER = "10.244.0.5", "10.244.1.7"


class Ring:
    """The kernel's side."""

    def __init__(self) -> None:
        self.waiting: list[bytes] = []
        self.lost = 0
        self.reads: list[int] = []

    def records(self, most: int) -> list[bytes]:
        taken, self.waiting = self.waiting[:most], self.waiting[most:]
        self.reads.append(len(taken))
        return taken

    def losses(self) -> dict[VerdictLoss, int]:
        return {VerdictLoss.RING_FULL: self.lost, VerdictLoss.OVER_BUDGET: 0}

    def untold(self, _key: bytes) -> tuple[int, int, int]:
        return 0, 0, 0

    def close(self) -> None:
        raise AssertionError("the one who opened it closes it")


class Compiled:
    """The compiler: rule 5 is a policy's, set 7 too."""

    def rule(self, number: int) -> tuple[RuleRef, ...]:
        return (RuleRef(Key("shop", "web"), Direction.INGRESS, 0),) if number == 5 else ()

    def policies_in(self, number: int) -> tuple[Key, ...]:
        return (Key("shop", "web"),) if number == 7 else ()


class Told:
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def warn(self, subject: Subject, reason: str, message: str) -> None:
        self.events.append((reason, message))

    def inform(self, subject: Subject, reason: str, message: str) -> None:
        raise AssertionError(reason)


class Running:
    def __init__(self, directory: Path, *, deny_policies: bool = False) -> None:
        self.directory, self.ring, self.told = directory, Ring(), Told()
        self.log = PolicyLog("demo-1", self.told, Writer(directory), deny_policies=deny_policies)
        pods = {
            Key("shop", name): Pod(Key("shop", name), "", (), (ip_address(at),), "demo-1") for name, at in (("a", CLIENT), ("b", SERVER))
        }
        rows = {PolicyKey(1, 1): PolicyRow(5, PolicyFlag.LOG), PolicyKey(2, 1): PolicyRow(6)}
        policies = {Key("shop", "web"): NetworkPolicy(Key("shop", "web"), "", Selector(), (), None)}
        isolation = {ip_address(SERVER): Isolation(7, 0)}
        self.log.take(Changes(pods=pods, policies=policies), Rows({"policies": rows, "isolation": isolation}), Compiled())
        self.log.take_nodes({Key("", "demo-0"): Node("demo-0", (), (ip_address("172.30.0.10"),))})

    def configure(self, **logging: bool) -> None:
        self.log.take(Changes(logging=Logging(**logging)), Rows(), Compiled())

    def lines(self) -> list[dict[str, Any]]:
        path = self.directory / ACTIVE
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(logger, "TURN_SECONDS", 0.005)
    one = Running(tmp_path / "network")
    yield one
    one.log.stop()


def eventually(probe: Callable[[], Any], within: float = 30.0) -> Any:
    end = time.monotonic() + within
    while not (found := probe()):
        assert time.monotonic() < end
        time.sleep(0.005)
    return found


def allowed(source: str = CLIENT, rule: int = 5) -> bytes:
    return verdict(source, SERVER, rule=rule, time=time.monotonic_ns())


def test_records_become_lines_with_the_names_that_the_loop_told(running: Running) -> None:
    running.configure(allow=True)
    running.log.start(running.ring, running.ring.losses)
    began = time.time()
    running.ring.waiting += [allowed(), allowed("172.30.0.10")]
    first, second = eventually(lambda: len(running.lines()) == 2 and running.lines())
    assert (first["src"]["pod_name"], first["dest"]["pod_name"], first["policies"][0]["name"]) == ("a", "b", "web")
    assert second["src"] == {"node_name": "demo-0", "workload_kind": "Node"}
    assert first["timestamp"].startswith(time.strftime("%Y-%m-%dT%H", time.gmtime(began)))
    eventually(lambda: running.log.counts.lines["allow"] == 2)


def test_denials_name_policies_only_where_that_is_asked_for(running: Running, tmp_path: Path) -> None:
    asked = Running(tmp_path / "asked", deny_policies=True)
    for one in (running, asked):
        one.configure(deny=True)
        one.log.start(one.ring, one.ring.losses)
        one.ring.waiting.append(verdict(CLIENT, SERVER, time=time.monotonic_ns()))
        eventually(lambda one=one: one.log._pipeline.open_windows == 1)  # type: ignore[misc]
        one.log.stop()
    assert ["policies" in one.lines()[0] for one in (running, asked)] == [False, True]


def test_a_pod_that_is_gone_when_all_is_told_anew_names_nothing_later(running: Running) -> None:
    running.log.take(Changes(), Rows(), Compiled(), everything=True)
    assert json.loads(running.log._directory.name(pack_address(ip_address(CLIENT)), time.monotonic_ns() + 10**12)) == {"instance": CLIENT}


def test_while_nothing_is_logged_nothing_is_read_and_it_begins_when_told(running: Running) -> None:
    running.log.start(running.ring, running.ring.losses)
    time.sleep(0.1)
    assert running.ring.reads == []
    assert not running.log.counts.ready
    running.ring.waiting.append(allowed())
    running.configure(allow=True)
    eventually(running.lines)
    assert running.log.counts.ready
    running.configure()
    eventually(lambda: not running.log.counts.ready)
    reads = len(running.ring.reads)
    time.sleep(0.1)
    assert len(running.ring.reads) <= reads + 1


def test_what_is_denied_is_written_when_its_window_ends_and_at_the_end_of_the_agent(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.log._pipeline._windows._window = 10**8
    assert aggregate.WINDOW == 5 * 10**9
    running.configure(deny=True)
    running.log.start(running.ring, running.ring.losses)
    running.ring.waiting += [verdict(CLIENT, SERVER, (port, 80), time=time.monotonic_ns()) for port in (1, 2, 3)]
    (record,) = eventually(running.lines)
    assert (record["count"], record["disposition"]) == (3, "deny")
    running.log._pipeline._windows._window = 10**12
    running.ring.waiting.append(verdict(CLIENT, SERVER, (1, 81), time=time.monotonic_ns()))
    eventually(lambda: running.log._pipeline.open_windows == 1)
    running.log.stop()
    assert [each["connection"]["dest_port"] for each in running.lines()] == [80, 81]


def test_a_turn_takes_so_many_records_and_no_more_and_what_the_kernel_lost_is_shown(running: Running) -> None:
    running.configure(allow=True)
    running.ring.waiting = [allowed() for _ in range(1200)]
    running.ring.lost = 77
    running.log.start(running.ring, running.ring.losses)
    eventually(lambda: not running.ring.waiting)
    assert running.ring.reads[:3] == [500, 500, 200]
    eventually(lambda: len(running.lines()) + running.log.counts.dropped["rate_limit"] == 1200)
    assert running.log.counts.dropped["ring_full"] == 77


def test_a_disk_that_cannot_be_written_is_an_event_and_a_count_until_it_can(running: Running) -> None:
    running.directory.write_text("no directory")
    running.configure(allow=True)
    running.log.start(running.ring, running.ring.losses)
    running.ring.waiting.append(allowed())
    eventually(lambda: running.log.counts.dropped["write_error"] == 1)
    ((reason, message),) = eventually(lambda: running.told.events)
    assert reason == "PolicyLogNotWritten"
    assert "node demo-1" in message
    running.directory.unlink()

    def goes_on() -> list[dict[str, Any]]:
        running.ring.waiting.append(allowed())
        time.sleep(0.1)
        return running.lines()

    eventually(goes_on)
    assert len(running.told.events) == 1


def test_whatever_goes_wrong_the_thread_goes_on(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    running.configure(allow=True)
    read, running.ring.records = running.ring.records, lambda _most: 1 / 0  # type: ignore[assignment]
    running.log.start(running.ring, running.ring.losses)
    eventually(lambda: caplog.records)
    running.ring.records = read  # type: ignore[method-assign]
    running.ring.waiting.append(allowed())
    eventually(running.lines)
