"""What was done to a cluster, one JSON object a line, on disk before the change that it announces.

An entry has `at` (seconds since 1970), `verb`, `step`, `event`, and for a failure `error`. Events: `begun` before a step acts,
then `done`, `failed` or `interrupted`; `present` alone for a step that had nothing to do, `failed` alone for one that could not be
looked at. A `begun` without an end is a step in which the command was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from provisioner import errors
from provisioner.plan.deadline import Clock, SystemClock


class Event(StrEnum):
    """What happened to a step."""

    BEGUN = "begun"
    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    PRESENT = "present"


class Journal(Protocol):
    """Where the engine writes."""

    def record(self, verb: str, step: str, event: Event, error: str = "") -> None:
        """Write one entry; when this returns, it survives a power cut."""


class NoJournal:
    """For plans of which nothing is to be kept."""

    def record(self, verb: str, step: str, event: Event, error: str = "") -> None:
        """Nothing."""


class FileJournal:
    """Appends to a file, kept open: a delete that removes the file from under it is not an error, and does not make it again."""

    def __init__(self, path: Path, *, create: bool, clock: Clock | None = None) -> None:
        """`create` makes the file and its directory; without it a journal that is not there stays so."""
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._fd = -1
        try:
            if create:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.parent.chmod(0o700)
            with contextlib.nullcontext() if create else contextlib.suppress(FileNotFoundError):
                self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
        except OSError as error:
            raise _unwritable(path, error) from error
        self._path = path

    def record(self, verb: str, step: str, event: Event, error: str = "") -> None:
        if self._fd < 0:
            return
        entry = {"at": round(self._clock.wall(), 3), "verb": verb, "step": step, "event": event.value} | ({"error": error} if error else {})
        line = json.dumps(entry, separators=(",", ":")) + "\n"
        with self._lock:
            try:
                # One write a line: two commands that append at once do not mix their lines.
                os.write(self._fd, line.encode())
                os.fsync(self._fd)
            except OSError as failure:
                raise _unwritable(self._path, failure) from failure

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _unwritable(path: Path, error: OSError) -> errors.ProvisionerError:
    message = f"the journal {path} cannot be written: {error.strerror}"
    if isinstance(error, PermissionError):
        return errors.PermissionMissing(message, remedy="Run the command as root: sudo provisioner ...")
    return errors.MachineUnfit(message, remedy="Free some space there, or mount it writable, and run the command again.")
