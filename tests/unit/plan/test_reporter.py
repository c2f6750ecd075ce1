"""What a walk looks like: live on a terminal that can, plain lines elsewhere."""

from __future__ import annotations

import io

import pytest

from provisioner.plan.deadline import TimeLimit
from provisioner.plan.engine import walk
from provisioner.plan.reporter import LiveView, PlainLines, is_smart_terminal, reporter_for
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
