"""Run the `provisioner` command to its end, and read its answer: JSON on stdout, or one JSON error as the last line of stderr.

Each run has a session of its own, so that Ctrl-C at a terminal reaches Terraform alone, which then asks the provider to stop;
`Commands.stop` hands that on as SIGINT, and the command writes its journal and ends. What it says on the way goes to Terraform's log.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any

BUSY = "cluster-busy"
PLAN_HAS_CHANGES, CONFLICT, NOT_FOUND = 2, 5, 6
READ_SECONDS = 120.0
# How long a command is waited for that still works on the cluster: one that was interrupted takes ten seconds to end.
BUSY_SECONDS = 60.0
_POLL_SECONDS = 1.0
# Past its own --timeout a command has this long to write its journal, and to delete what a failed create made, if it was told to.
_GRACE_SECONDS = 180.0
_LAST_LINES = 5


class CommandFailed(Exception):
    """The command said no, or said nothing that can be understood. The fields are those of its JSON error."""

    def __init__(self, kind: str, exit_code: int, message: str, remedy: str = "", field: str = "") -> None:
        super().__init__(message)
        self.id = kind
        self.exit_code = exit_code
        self.message = message
        self.remedy = remedy
        self.field = field


class Commands:
    """Starts commands for Terraform's calls, which come in threads; `prefix` is what stands before the subcommand."""

    def __init__(self, prefix: Sequence[str]) -> None:
        self._prefix = tuple(prefix)
        self._stopped = threading.Event()
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()

    def run(self, *arguments: str, stdin: str = "", seconds: float = READ_SECONDS, also_good: int = 0) -> Any:
        """The command's JSON. Raises `CommandFailed`. A cluster that another command works on is waited for.

        seconds    the command's own limit; it is killed some time after it.
        also_good  an exit code that comes with an answer, as 0 does.
        """
        end = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return self._once(arguments, stdin, seconds, {0, also_good})
            except CommandFailed as failure:
                if failure.id != BUSY or time.monotonic() > end or self._stopped.wait(_POLL_SECONDS):
                    raise

    def stop(self) -> None:
        """Interrupt what runs, and start nothing more."""
        self._stopped.set()
        with self._lock:
            for process in self._running:
                # A command behind sudo is root's, and a user may not signal it: it goes on to its end.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    process.send_signal(signal.SIGINT)

    def _once(self, arguments: Sequence[str], stdin: str, seconds: float, good: set[int]) -> Any:
        lines: list[str] = []
        with self._start(arguments) as process:
            reader = threading.Thread(target=_log, args=(process.stderr, lines), daemon=True)
            feeder = threading.Thread(target=_feed, args=(process.stdin, stdin), daemon=True)
            timer = threading.Timer(seconds + _GRACE_SECONDS, process.kill)
            for thread in (reader, feeder, timer):
                thread.start()
            stdout = process.stdout.read() if process.stdout else ""
            code = process.wait()
            timer.cancel()
            reader.join()
            feeder.join()
        with self._lock:
            self._running.discard(process)
        if code not in good:
            raise failure_of(code, lines)
        try:
            return json.loads(stdout)
        except ValueError:
            raise CommandFailed("no-answer", 1, f"{arguments[0]} ended well, but what it printed is not JSON") from None

    def _start(self, arguments: Sequence[str]) -> subprocess.Popen[str]:
        program = shutil.which(self._prefix[0]) or self._prefix[0]
        argv = [program, *self._prefix[1:], *arguments, "--output", "json"]
        with self._lock:
            if self._stopped.is_set():
                raise CommandFailed("interrupted", 130, "interrupted", "Run terraform apply again: it continues.")
            try:
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=_environment(os.environ),
                    start_new_session=True,
                )
            except OSError as error:
                raise CommandFailed(
                    "command-missing",
                    1,
                    f"{self._prefix[0]} cannot be started: {error.strerror}",
                    "Install provisioner, or say in the provider's `command` where it is.",
                    "command",
                ) from None
            self._running.add(process)
        return process


def failure_of(code: int, lines: Sequence[str]) -> CommandFailed:
    """What the last line of stderr says in JSON; or the lines themselves where somebody else wrote them (sudo, a shell, a traceback)."""
    try:
        body = json.loads(lines[-1])["error"]
        return CommandFailed(str(body["id"]), int(body["exitCode"]), str(body["message"]), str(body["remedy"]), str(body["field"]))
    except (IndexError, ValueError, KeyError, TypeError):
        said = "\n".join(lines[-_LAST_LINES:]) or "nothing"
        ended = f"exit code {code}" if code >= 0 else f"signal {-code}"
        return CommandFailed("no-answer", code, f"the command ended with {ended} and said: {said}")


def _environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Without what Terraform tells its plugins: it is no business of the command."""
    return {name: value for name, value in inherited.items() if not name.startswith(("PLUGIN_", "TF_PLUGIN_"))}


def _feed(stream: IO[str] | None, text: str) -> None:
    with contextlib.suppress(BrokenPipeError), stream or contextlib.nullcontext():
        if stream and text:
            stream.write(text)


def _log(stream: IO[str] | None, lines: list[str]) -> None:
    for line in stream or ():
        lines.append(line.rstrip("\n"))
        sys.stderr.write(f"provisioner: {line}")
        sys.stderr.flush()
