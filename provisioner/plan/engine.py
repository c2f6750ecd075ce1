"""Walk a plan: each step once what it follows has ended, side by side where the plan allows, each change journalled before it is made.

Invariants. A step that is done already is not applied. After the first failure, or Ctrl-C or SIGTERM, no step begins, and the
running ones are told through their deadline. Every step that began has its end in the journal before `walk` returns, unless it did
not stop in time. Steps run in daemon threads, so one that hangs cannot keep the command alive.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import FrameType

from provisioner import errors
from provisioner.plan.deadline import Cancellable, Clock, SystemClock, TimeLimit
from provisioner.plan.journal import Event, Journal, NoJournal
from provisioner.plan.reporter import Outcome, Reporter, Silent
from provisioner.plan.steps import Plan, Step

# How long running steps have to stop once they are told to.
GRACE_SECONDS = 10.0
# The main thread wakes this often: a lock that waits for ever cannot be interrupted by a signal on every platform.
_POLL_SECONDS = 0.5


class Status(StrEnum):
    """What is known of a step before the walk."""

    TODO = "todo"
    DONE = "done"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Ended:
    """How one step went."""

    step: Step
    outcome: Outcome
    seconds: float
    error: BaseException | None = None


@dataclass(slots=True)
class _Walk:
    """The state of one walk; owned by the main thread."""

    plan: Plan
    follows: Mapping[str, Sequence[str]]
    deadline: Cancellable
    journal: Journal
    reporter: Reporter
    clock: Clock
    messages: queue.SimpleQueue[tuple[Step, Event, BaseException | None]] = field(default_factory=queue.SimpleQueue)
    waiting: dict[str, Step] = field(default_factory=dict)
    running: dict[str, tuple[Step, float]] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    results: list[Ended] = field(default_factory=list)


def survey(plan: Plan) -> Sequence[tuple[Step, Status]]:
    """What `--dry-run` shows: reads, changes nothing."""
    words = {True: Status.DONE, False: Status.TODO, None: Status.UNKNOWN}
    return [(step, words[step.done()]) for step in plan.steps]


def walk(
    plan: Plan,
    deadline: TimeLimit,
    *,
    journal: Journal | None = None,
    reporter: Reporter | None = None,
    clock: Clock | None = None,
    grace: float = GRACE_SECONDS,
) -> Sequence[Ended]:
    """Make the plan's changes. Returns how each step went, in the order of their ends.

    Raises what the first failed step raised, `errors.Timeout` when the deadline passed, `errors.Interrupted` after a signal.
    """
    state = _Walk(
        plan=plan,
        follows=order(plan),
        deadline=Cancellable(deadline),
        journal=journal or NoJournal(),
        reporter=reporter or Silent(),
        clock=clock or SystemClock(),
        waiting={step.id: step for step in plan.steps},
    )
    with state.reporter, _terminated_like_interrupted():
        state.reporter.plan(plan)
        try:
            failure = _run_all(state, grace)
        except KeyboardInterrupt:
            failure = errors.Interrupted(
                f"{plan.verb} of {plan.cluster} was interrupted", remedy="Run the same command again, it continues."
            )
        if failure is not None:
            _stop_running(state, grace)
    if failure is not None:
        raise failure
    return state.results


def order(plan: Plan) -> Mapping[str, Sequence[str]]:
    """Step id -> ids that must have ended before it. Raises ValueError for a plan that cannot be walked."""
    follows: dict[str, Sequence[str]] = {}
    previous: Sequence[str] = ()
    for step in plan.steps:
        if step.id in follows:
            raise ValueError(f"plan {plan.verb}: two steps are called {step.id}")
        after = previous if step.after is None else tuple(step.after)
        unknown = [name for name in after if name not in follows]
        if unknown:
            raise ValueError(f"plan {plan.verb}: {step.id} follows {', '.join(unknown)}, which no earlier step is called")
        follows[step.id] = after
        previous = (step.id,)
    return follows


def _run_all(state: _Walk, grace: float) -> BaseException | None:
    """Run until every step ended or one failed; the failure. A step that overstays the deadline itself has `grace` to say so."""
    while state.waiting or state.running:
        overdue = state.clock.monotonic() - state.deadline.inner.ends_at
        if overdue >= (grace if state.running else 0):
            doing = ", ".join(step.title for step, _ in state.running.values()) or next(iter(state.waiting.values())).title
            return _timeout(state, doing)
        if overdue < 0:
            _start_ready(state)
        ended = _next_end(state, timeout=_POLL_SECONDS)
        if ended is not None and ended.error is not None:
            return ended.error
    return None


def _timeout(state: _Walk, doing: str) -> BaseException | None:
    try:
        state.deadline.inner.check(doing)
    except errors.Timeout as error:
        return error
    return None


def _start_ready(state: _Walk) -> None:
    ready = [step for step in state.waiting.values() if all(name in state.finished for name in state.follows[step.id])]
    for step in ready:
        del state.waiting[step.id]
        state.running[step.id] = (step, state.clock.monotonic())
        threading.Thread(target=_run_one, args=(state, step), name=f"step-{step.id}", daemon=True).start()


def _run_one(state: _Walk, step: Step) -> None:
    """In the step's thread: observe, announce, act, and say how it ended."""
    verb, record = state.plan.verb, state.journal.record
    begun = False
    try:
        if step.done():
            record(verb, step.id, Event.PRESENT)
            state.messages.put((step, Event.PRESENT, None))
            return
        state.deadline.check(step.title)
        record(verb, step.id, Event.BEGUN)
        begun = True
        state.messages.put((step, Event.BEGUN, None))
        step.apply(state.deadline, lambda message: state.reporter.progress(step, message))
        record(verb, step.id, Event.DONE)
        state.messages.put((step, Event.DONE, None))
    except BaseException as error:  # noqa: BLE001 -- whatever a step raises is the walk's result
        interrupted = isinstance(error, errors.Interrupted)
        event = Event.INTERRUPTED if interrupted else Event.FAILED
        if begun or not interrupted:  # a step that was told to stop before it acted leaves nothing to tell
            with contextlib.suppress(errors.ProvisionerError):
                record(verb, step.id, event, "" if interrupted else _described(error))
        state.messages.put((step, event, error))


def _described(error: BaseException) -> str:
    if isinstance(error, errors.ProvisionerError):
        return error.message
    return "".join(traceback.format_exception(error))


def _next_end(state: _Walk, timeout: float) -> Ended | None:
    """Take one message from a step; what ended, None when nothing did."""
    try:
        step, event, error = state.messages.get(timeout=timeout)
    except queue.Empty:
        return None
    if event is Event.BEGUN:
        state.reporter.began(step)
        return None
    _, started = state.running.pop(step.id)
    ended = Ended(step, Outcome(event.value), state.clock.monotonic() - started, error)
    if error is None:
        state.finished.add(step.id)
    state.results.append(ended)
    state.reporter.ended(step, ended.outcome, ended.seconds)
    return ended


def _stop_running(state: _Walk, grace: float) -> None:
    """Tell the running steps to stop, and wait for them; a second Ctrl-C waits no longer."""
    state.deadline.cancelled.set()
    limit = TimeLimit.after(grace, state.clock)
    try:
        while state.running and limit.remaining() > 0:
            _next_end(state, timeout=min(_POLL_SECONDS, limit.remaining()))
    except KeyboardInterrupt:
        pass
    for step, started in list(state.running.values()):
        with contextlib.suppress(errors.ProvisionerError):
            state.journal.record(state.plan.verb, step.id, Event.INTERRUPTED, "did not stop in time")
        state.reporter.ended(step, Outcome.INTERRUPTED, state.clock.monotonic() - started)


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM and SIGHUP become KeyboardInterrupt, as Ctrl-C is; only where signals can be caught at all."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
