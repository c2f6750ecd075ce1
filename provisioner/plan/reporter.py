"""How a walk through a plan is shown: live on a terminal, as plain lines elsewhere, or not at all.

The engine calls from one thread only, but for `progress`, which comes from the steps' own threads.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Protocol, Self, TextIO

from provisioner.plan.steps import Plan, Step

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Outcome(StrEnum):
    """How a step ended."""

    DONE = "done"
    PRESENT = "present"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class Reporter(Protocol):
    """Used as a context manager around one walk."""

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def plan(self, plan: Plan) -> None:
        """The walk begins."""

    def began(self, step: Step) -> None:
        """A step begins to act."""

    def progress(self, step: Step, message: str) -> None:
        """A running step says how far it is."""

    def ended(self, step: Step, outcome: Outcome, seconds: float) -> None:
        """A step ended; also called for one that had nothing to do and never began."""


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def plan(self, plan: Plan) -> None:
        pass

    def began(self, step: Step) -> None:
        pass

    def progress(self, step: Step, message: str) -> None:
        pass

    def ended(self, step: Step, outcome: Outcome, seconds: float) -> None:
        pass


class PlainLines(Silent):
    """Lines for logs and pipes, few enough to be read. `[2/7]` counts the steps that ended.

    A step that ends within a second is one line. What a longer one says is shown at most once in `spacing` seconds, the last
    word always: what is held back is written when its time has come or the step ends, by a thread that lives as long as the walk.
    """

    _WORDS: ClassVar = {
        Outcome.DONE: "done",
        Outcome.PRESENT: "already there",
        Outcome.FAILED: "FAILED",
        Outcome.INTERRUPTED: "interrupted",
    }
    _TICK_SECONDS = 0.25

    def __init__(self, stream: TextIO, *, spacing: float = 5.0, patience: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._spacing = spacing
        self._patience = patience
        self._clock = clock
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="reporter", daemon=True)
        self._total = 0
        self._ended = 0
        self._said: dict[str, str] = {}
        self._held: dict[str, str] = {}
        self._due: dict[str, float] = {}  # when what is held may be written

    def __enter__(self) -> Self:
        self._ticker.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._ticker.join()

    def plan(self, plan: Plan) -> None:
        self._total = len(plan.steps)

    def began(self, step: Step) -> None:
        with self._lock:
            if step.id not in self._said:  # the step's own thread may have been faster
                self._hold(step, f"{step.title} ...")

    def progress(self, step: Step, message: str) -> None:
        with self._lock:
            if self._said.get(step.id) == message:
                return
            self._said[step.id] = message
            self._hold(step, f"{step.title}: {message}")
            self._write_due()

    def ended(self, step: Step, outcome: Outcome, seconds: float) -> None:
        self._ended += 1
        took = f" ({seconds:.1f} s)" if outcome is not Outcome.PRESENT else ""
        with self._lock:
            held = self._held.pop(step.id, "")
            if step.id in self._said and held:
                self._print(held)
            self._print(f"[{self._ended}/{self._total}] {step.title}: {self._WORDS[outcome]}{took}")

    def _hold(self, step: Step, line: str) -> None:
        self._due.setdefault(step.id, self._clock() + self._patience)
        self._held[step.id] = line

    def _tick(self) -> None:
        while not self._over.wait(self._TICK_SECONDS):
            with self._lock:
                self._write_due()

    def _write_due(self) -> None:
        now = self._clock()
        for step_id in [step_id for step_id in self._held if now >= self._due[step_id]]:
            self._due[step_id] = now + self._spacing
            self._print(self._held.pop(step_id))

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class LiveView(Silent):
    """Finished steps stay above, running ones turn below them with their time and what they said last."""

    _MARKS: ClassVar = {
        Outcome.DONE: "[green]✓[/]",
        Outcome.PRESENT: "[dim]=[/]",
        Outcome.FAILED: "[bold red]✗[/]",
        Outcome.INTERRUPTED: "[yellow]![/]",
    }

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._console = Console(file=stream, highlight=False)
        self._view: RichProgress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[said]}"),
            console=self._console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._total = 0
        self._ended = 0

    def __enter__(self) -> Self:
        self._view.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._view.stop()

    def plan(self, plan: Plan) -> None:
        self._total = len(plan.steps)

    def began(self, step: Step) -> None:
        from rich.markup import escape

        self._tasks[step.id] = self._view.add_task(escape(step.title), total=None, said="")

    def progress(self, step: Step, message: str) -> None:
        from rich.markup import escape

        if step.id in self._tasks:
            self._view.update(self._tasks[step.id], said=escape(message))

    def ended(self, step: Step, outcome: Outcome, seconds: float) -> None:
        from rich.markup import escape

        self._ended += 1
        if step.id in self._tasks:
            self._view.remove_task(self._tasks.pop(step.id))
        took = f"{seconds:.1f} s" if outcome is not Outcome.PRESENT else "already there"
        self._view.console.print(f"{self._MARKS[outcome]} [dim]{self._ended}/{self._total}[/] {escape(step.title)} [dim]{took}[/]")


def is_smart_terminal(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether lines may be redrawn. CI systems are known to fake a terminal."""
    return (
        stream.isatty()
        and not environment.get("NO_COLOR")
        and environment.get("TERM", "") not in {"", "dumb"}
        and environment.get("CI", "").lower() in {"", "0", "false"}
    )


def reporter_for(stream: TextIO) -> Reporter:
    return LiveView(stream) if is_smart_terminal(stream) else PlainLines(stream)
