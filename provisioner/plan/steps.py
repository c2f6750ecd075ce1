"""Steps, plans and the reporter: the vocabulary that create, --dry-run, stop and delete share.

A step observes before it acts, so walking a plan twice is walking it once. Nothing here does I/O; the engine in
`provisioner.plan.engine` walks, journals and reports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


class Deadline(Protocol):
    """The one time limit of a command, handed down to everything that waits."""

    def remaining(self) -> float:
        """Seconds left, never negative; infinity where there is no limit."""

    def check(self, doing: str) -> None:
        """Raise `errors.Timeout` (exit code 8), naming what was being done, once nothing is left."""


class Progress(Protocol):
    """What a running step may say: one short line that replaces the one before it ("2 of 3 nodes ready")."""

    def __call__(self, message: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Step:
    """One change.

    id       stable kebab-case name, the journal's key ("start-control-plane").
    title    what a person reads, in the infinitive without "to" ("Start the control plane").
    apply    makes it so; idempotent; raises `errors.ProvisionerError`.
    done     True when there is nothing to do, False when there is, None when it cannot be known before earlier steps ran.
             Reads only.
    details  lines that --dry-run prints below the title.
    after    ids of steps that must have ended before; None means the step before it in the plan. Steps whose
             conditions are met run side by side.
    """

    id: str
    title: str
    apply: Callable[[Deadline, Progress], None]
    done: Callable[[], bool | None] = lambda: None
    details: Sequence[str] = field(default_factory=tuple)
    after: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """An ordered list of steps for one cluster. `verb` is "create", "stop" or "delete".

    request  what a cloud is asked with, in its API's JSON form; None where there is no such thing. --dry-run prints it.
    """

    verb: str
    cluster: str
    steps: Sequence[Step]
    request: Mapping[str, Any] | None = None
