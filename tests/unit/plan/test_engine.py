"""Walking a plan: order, what is there already, failures, deadlines, interruption, and what the journal holds of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provisioner import errors
from provisioner.plan.deadline import TimeLimit
from provisioner.plan.engine import Status, order, survey, walk
from provisioner.plan.journal import Event, FileJournal
from provisioner.plan.reporter import Outcome, Silent
from provisioner.plan.steps import Deadline, Plan, Progress, Step


class Memory:
    """A journal in memory."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Event, str]] = []

    def record(self, verb: str, step: str, event: Event, error: str = "") -> None:
        self.entries.append((step, event, error))

    @property
    def events(self) -> list[tuple[str, str]]:
        return [(step, event.value) for step, event, _ in self.entries]


def step(
    name: str,
    apply: Callable[[], None] = lambda: None,
    *,
    done: Callable[[], bool | None] = lambda: False,
    after: Sequence[str] | None = None,
) -> Step:
    return Step(name, name.capitalize(), lambda deadline, progress: apply(), done=done, after=after)


def plan(*steps: Step) -> Plan:
    return Plan("create", "demo", steps)


def fail(error: BaseException) -> Callable[[], None]:
    def apply() -> None:
        raise error

    return apply


def test_steps_run_one_after_the_other_by_default() -> None:
    ran: list[str] = []
    journal = Memory()
    walk(plan(*(step(name, lambda name=name: ran.append(name)) for name in "abc")), TimeLimit.after(10), journal=journal)
    assert ran == ["a", "b", "c"]
    assert journal.events == [(name, event) for name in "abc" for event in ("begun", "done")]


def test_a_step_that_is_done_is_not_applied() -> None:
    journal = Memory()
    results = walk(plan(step("a", fail(AssertionError()), done=lambda: True), step("b")), TimeLimit.after(10), journal=journal)
    assert [(r.step.id, r.outcome) for r in results] == [("a", Outcome.PRESENT), ("b", Outcome.DONE)]
    assert journal.events == [("a", "present"), ("b", "begun"), ("b", "done")]


def test_independent_steps_run_side_by_side_and_a_later_one_waits_for_both() -> None:
    meeting = threading.Barrier(2, timeout=5)
    ended: list[str] = []
    steps = (
        step("a", lambda: (meeting.wait(), ended.append("a"))[1], after=()),
        step("b", lambda: (meeting.wait(), ended.append("b"))[1], after=()),
        step("c", lambda: ended.append("c"), after=("a", "b")),
    )
    walk(plan(*steps), TimeLimit.after(10))
    assert sorted(ended[:2]) == ["a", "b"]
    assert ended[2] == "c"


def test_after_a_failure_no_step_begins_and_the_failure_is_raised_as_it_was() -> None:
    journal = Memory()
    error = errors.UpstreamFailure("etcd said no", remedy="Look at its log.")
    with pytest.raises(errors.UpstreamFailure) as caught:
        walk(plan(step("a", fail(error)), step("b")), TimeLimit.after(10), journal=journal)
    assert caught.value is error
    assert journal.entries == [("a", Event.BEGUN, ""), ("a", Event.FAILED, "etcd said no")]


def test_a_failure_ends_the_steps_beside_it_through_their_deadline() -> None:
    journal = Memory()

    def waits(deadline: Deadline, progress: Progress) -> None:
        while True:
            deadline.check("waiting for ever")
            time.sleep(0.01)

    begun = threading.Event()
    steps = (
        Step("waits", "Wait", lambda deadline, progress: (begun.set(), waits(deadline, progress))[1], after=()),
        step("fails", lambda: (begun.wait(5), fail(errors.UpstreamFailure("no"))())[1], after=()),
    )
    with pytest.raises(errors.UpstreamFailure):
        walk(plan(*steps), TimeLimit.after(10), journal=journal)
    assert ("waits", "interrupted") in journal.events


def test_a_step_that_is_told_to_stop_while_it_looks_is_not_in_the_journal() -> None:
    journal = Memory()
    looking, failed = threading.Event(), threading.Event()

    def looks() -> bool:
        looking.set()
        failed.wait(5)
        time.sleep(0.05)  # the walk hears of the failure
        return False

    def fails() -> None:
        looking.wait(5)
        failed.set()
        raise errors.UpstreamFailure("no")

    with pytest.raises(errors.UpstreamFailure):
        walk(plan(step("looks", done=looks, after=()), step("fails", fails, after=())), TimeLimit.after(10), journal=journal)
    assert journal.events == [("fails", "begun"), ("fails", "failed")]


def test_an_unforeseen_exception_is_raised_as_it_is_and_its_traceback_journalled() -> None:
    journal = Memory()
    with pytest.raises(ZeroDivisionError):
        walk(plan(step("a", lambda: 1 // 0)), TimeLimit.after(10), journal=journal)
    assert "Traceback" in journal.entries[-1][2]


def test_an_observation_that_fails_is_the_step_s_failure() -> None:
    with pytest.raises(errors.PermissionMissing):
        walk(plan(step("a", done=fail(errors.PermissionMissing("no")))), TimeLimit.after(10))


class StoppedClock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


def test_no_step_begins_after_the_deadline() -> None:
    clock = StoppedClock()
    journal = Memory()

    def takes_long() -> None:
        clock.now += 61

    with pytest.raises(errors.Timeout, match="60 s passed: B"):
        walk(plan(step("a", takes_long), step("b")), TimeLimit.after(60, clock), journal=journal, clock=clock)
    assert journal.events == [("a", "begun"), ("a", "done")]


def test_a_step_that_ignores_the_deadline_is_left_behind_after_the_grace() -> None:
    release = threading.Event()
    journal = Memory()
    with pytest.raises(errors.Timeout):
        walk(plan(step("a", lambda: release.wait(30) and None)), TimeLimit.after(0.05), journal=journal, grace=0.1)
    release.set()
    assert journal.events[:2] == [("a", "begun"), ("a", "interrupted")]


def test_a_deadline_counts_down_to_nothing_and_none_is_no_limit() -> None:
    clock = StoppedClock()
    limit = TimeLimit.after(5, clock)
    clock.now = 4
    assert limit.remaining() == 1
    limit.check("x")
    clock.now = 9
    assert limit.remaining() == 0
    with pytest.raises(errors.Timeout, match="making tea"):
        limit.check("making tea")
    assert TimeLimit.after(None, clock).remaining() == float("inf")


def test_the_reporter_hears_of_every_step_and_its_progress() -> None:
    heard: list[str] = []

    class Listener(Silent):
        def began(self, step: Step) -> None:
            heard.append(f"began {step.id}")

        def progress(self, step: Step, message: str) -> None:
            heard.append(f"{step.id}: {message}")

        def ended(self, step: Step, outcome: Outcome, seconds: float) -> None:
            heard.append(f"ended {step.id} {outcome}")

    def works(deadline: Deadline, progress: Progress) -> None:
        progress("half")

    walk(plan(Step("a", "A", works), step("b", done=lambda: True)), TimeLimit.after(10), reporter=Listener())
    assert sorted(heard) == sorted(["began a", "a: half", "ended a done", "ended b present"])


@pytest.mark.parametrize(
    "steps",
    [
        (step("a"), step("a")),
        (step("a", after=("b",)), step("b", after=())),
        (step("a", after=("a",)),),
        (step("a", after=("missing",)),),
    ],
    ids=["twice", "later", "itself", "unknown"],
)
def test_a_plan_that_cannot_be_walked_is_refused(steps: Sequence[Step]) -> None:
    with pytest.raises(ValueError, match="plan create"):
        order(plan(*steps))


def test_a_survey_reads_and_applies_nothing() -> None:
    steps = (
        step("a", fail(AssertionError()), done=lambda: True),
        step("b", fail(AssertionError())),
        step("c", fail(AssertionError()), done=lambda: None),
    )
    assert [status for _, status in survey(plan(*steps))] == [Status.DONE, Status.TODO, Status.UNKNOWN]


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_no_step_begins_before_what_it_follows_has_ended(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 8))
    names = [f"s{index}" for index in range(count)]
    after = [
        None if index and data.draw(st.booleans()) else data.draw(st.sets(st.sampled_from(names[:index]))) if index else ()
        for index in range(count)
    ]
    present = [data.draw(st.booleans()) for _ in range(count)]
    lock = threading.Lock()
    log: list[tuple[str, str]] = []

    def note(what: str, name: str) -> None:
        with lock:
            log.append((what, name))

    def make(index: int) -> Step:
        name = names[index]
        return Step(
            name,
            name,
            lambda deadline, progress: (note("begin", name), note("end", name))[1],
            done=lambda: present[index],
            after=None if after[index] is None else tuple(sorted(after[index])),
        )

    wanted = plan(*(make(index) for index in range(count)))
    results = walk(wanted, TimeLimit.after(30))
    assert {r.step.id for r in results} == set(names)
    follows = order(wanted)
    for name in names:
        for earlier in follows[name]:
            if ("begin", name) in log and ("end", earlier) in log:
                assert log.index(("end", earlier)) < log.index(("begin", name))


# --- the journal ---


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_journal_is_private_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "state" / "journal.jsonl"
    for _ in range(2):
        with FileJournal(path, create=True) as journal:
            walk(plan(step("a")), TimeLimit.after(10), journal=journal)
    assert [(entry["verb"], entry["step"], entry["event"]) for entry in lines(path)] == [
        ("create", "a", "begun"),
        ("create", "a", "done"),
    ] * 2
    assert all(isinstance(entry["at"], float) for entry in lines(path))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_the_begin_is_on_disk_before_the_step_acts(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    seen: list[dict[str, object]] = []
    with FileJournal(path, create=True) as journal:
        walk(plan(step("a", lambda: seen.extend(lines(path)))), TimeLimit.after(10), journal=journal)
    assert [entry["event"] for entry in seen] == ["begun"]


def test_a_delete_does_not_bring_its_journal_back(tmp_path: Path) -> None:
    path = tmp_path / "state" / "journal.jsonl"
    with FileJournal(path, create=False) as journal:
        journal.record("delete", "a", Event.BEGUN)
    assert not path.parent.exists()
    path.parent.mkdir()
    path.touch()
    with FileJournal(path, create=False) as journal:
        path.unlink()
        path.parent.rmdir()
        journal.record("delete", "a", Event.DONE)
    assert not path.parent.exists()


def test_a_journal_that_cannot_be_made_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.MachineUnfit, match="journal"):
        FileJournal(tmp_path / "file" / "journal.jsonl", create=True)


# --- signals, in a process of their own ---

PROGRAM = """
    import sys, time
    from pathlib import Path
    from provisioner import errors
    from provisioner.plan.deadline import TimeLimit
    from provisioner.plan.engine import walk
    from provisioner.plan.journal import FileJournal
    from provisioner.plan.steps import Plan, Step

    def waits(deadline, progress):
        print("waiting", flush=True)
        while True:
            deadline.check("waiting")
            time.sleep(0.01)

    def hangs(deadline, progress):
        print("waiting", flush=True)
        time.sleep(60)

    plan = Plan("create", "demo", [Step("a", "A", {"waits": waits, "hangs": hangs}[sys.argv[2]]), Step("b", "B", waits)])
    with FileJournal(Path(sys.argv[1]), create=True) as journal:
        try:
            walk(plan, TimeLimit.after(60), journal=journal, grace=float(sys.argv[3]))
        except errors.Interrupted as error:
            sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("kind", "grace"), [("waits", 5.0), ("hangs", 0.1)])
def test_a_signal_ends_the_walk_with_the_step_s_end_in_the_journal(tmp_path: Path, number: signal.Signals, kind: str, grace: float) -> None:
    path = tmp_path / "journal.jsonl"
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(path), kind, str(grace)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())}) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(timeout=20) == 130
    assert [(entry["step"], entry["event"]) for entry in lines(path)] == [("a", "begun"), ("a", "interrupted")]
