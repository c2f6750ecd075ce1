"""What a walk looks like: live on a terminal that can, plain lines elsewhere."""

from __future__ import annotations

import io
import time

import pytest

from provisioner.plan.deadline import TimeLimit
from provisioner.plan.engine import walk
from provisioner.plan.reporter import LiveView, Outcome, PlainLines, is_smart_terminal, reporter_for
from provisioner.plan.steps import Deadline, Plan, Progress, Step


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def works(deadline: Deadline, progress: Progress) -> None:
    progress("1 of 2 [ready]")
    progress("1 of 2 [ready]")


PLAN = Plan("create", "demo", [Step("a", "Start [it]", works), Step("b", "Rest", works, done=lambda: True)])


def test_plain_lines_say_what_how_far_and_how_long_and_repeat_nothing() -> None:
    stream = io.StringIO()
    walk(PLAN, TimeLimit.after(10), reporter=PlainLines(stream))
    text = stream.getvalue()
    assert "\x1b" not in text
    assert text.count("1 of 2 [ready]") == 1
    assert "[1/2] Start [it]: done (0.0 s)" in text
    assert "[2/2] Rest: already there\n" in text


def held_lines(*events: tuple[float, str]) -> list[str]:
    """What a log has after one step said `events` (when, what) and ended with the last."""
    stream, now = io.StringIO(), 0.0
    lines = PlainLines(stream, spacing=5.0, patience=1.0, clock=lambda: now)
    step = Step("a", "Apply", works)
    lines.plan(Plan("create", "demo", [step]))
    lines.began(step)
    for at, message in events:
        now = at
        lines.progress(step, message)
    lines.ended(step, Outcome.DONE, now)
    return stream.getvalue().splitlines()


def test_many_words_of_one_step_are_few_lines_and_the_last_is_among_them() -> None:
    spoken = [(number / 4, f"{number} of 80") for number in range(81)]
    assert held_lines(*spoken) == [
        "Apply: 4 of 80",
        "Apply: 24 of 80",
        "Apply: 44 of 80",
        "Apply: 64 of 80",
        "Apply: 80 of 80",
        "[1/1] Apply: done (20.0 s)",
    ]


def test_a_short_step_is_one_line() -> None:
    assert held_lines() == ["[1/1] Apply: done (0.0 s)"]


def test_what_a_step_said_last_is_shown_while_it_is_silent() -> None:
    stream = io.StringIO()
    shown: list[str] = []

    def slow(deadline: Deadline, progress: Progress) -> None:
        progress("building")
        progress("linking")
        until = time.monotonic() + 5
        while "linking" not in stream.getvalue() and time.monotonic() < until:
            time.sleep(0.01)
        shown.append(stream.getvalue())

    plan = Plan("create", "demo", [Step("a", "Make it", slow)])
    walk(plan, TimeLimit.after(10), reporter=PlainLines(stream, patience=0.05, spacing=0.05))
    assert shown == ["Make it: linking\n"]


def test_the_live_view_shows_text_with_brackets_as_it_is() -> None:
    stream = Terminal()
    walk(PLAN, TimeLimit.after(10), reporter=LiveView(stream))
    assert "Start [it]" in stream.getvalue()
    assert "already there" in stream.getvalue()


@pytest.mark.parametrize(
    ("environment", "smart"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "CI": "false"}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({}, False),
        ({"TERM": "xterm", "CI": "true"}, False),
    ],
)
def test_only_a_terminal_that_can_redraw_is_smart(environment: dict[str, str], smart: bool) -> None:
    assert is_smart_terminal(Terminal(), environment) is smart
    assert not is_smart_terminal(io.StringIO(), environment)


def test_a_pipe_gets_plain_lines() -> None:
    assert isinstance(reporter_for(io.StringIO()), PlainLines)
