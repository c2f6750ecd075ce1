"""Run a tool to its end: output to a log file, ended with its children when the deadline passes or the command is interrupted."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TextIO

from provisioner import errors
from provisioner.plan.steps import Deadline

_POLL_SECONDS = 1.0
_BEAT_SECONDS = 10.0
_SHOWN_LINES = 12


def require_tool(name: str, package: str) -> str:
    """The absolute path of a program, or `errors.MachineUnfit` that names the Debian package which has it."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
    if found is None:
        raise errors.MachineUnfit(f"the program {name} is not installed", remedy=f"Run: apt-get install {package}")
    return found


def last_lines(log: Path, count: int = _SHOWN_LINES) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(log.read_text(errors="replace").rstrip().splitlines()[-count:])
    return ""


def run_logged(
    argv: Sequence[str],
    *,
    log: Path,
    doing: str,
    deadline: Deadline,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    beat: Callable[[float], None] | None = None,
) -> None:
    """Run `argv`, appending its output to `log`; `beat` is called every ten seconds with the seconds that it has taken.

    Raises `errors.UpstreamFailure` with the log's last lines when it fails, `errors.Timeout` when the deadline passes. The
    tool gets a session of its own, so that ending it ends whatever it started.
    """
    with log.open("ab") as output:
        output.write(f"$ {' '.join(argv)}\n".encode())
        output.flush()
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=cwd, env=env, start_new_session=True
        )
        began = beaten = time.monotonic()
        try:
            while True:
                try:
                    status = process.wait(timeout=max(0.05, min(_POLL_SECONDS, deadline.remaining())))
                    break
                except subprocess.TimeoutExpired:
                    deadline.check(doing)
                if beat is not None and time.monotonic() - beaten >= _BEAT_SECONDS:
                    beaten = time.monotonic()
                    beat(beaten - began)
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(timeout=5)
                except subprocess.TimeoutExpired:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
    if status != 0:
        raise errors.UpstreamFailure(
            f"{doing} failed ({Path(argv[0]).name} ended with {status}):\n{last_lines(log)}", remedy=f"The whole log is in {log}."
        )


class Unlimited:
    """A deadline that never comes, for the module commands that `make` runs."""

    def remaining(self) -> float:
        return float("inf")

    def check(self, doing: str) -> None:
        """Let everything through."""


def duration(seconds: float) -> str:
    """ "45 s" or "3 min 20 s", for people who wait."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class Speaker:
    """Progress as plain lines: one that only counts on ("downloading x: 3 of 9 MiB") is repeated every ten seconds at most."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._head = ""
        self._spoke = 0.0

    def __call__(self, message: str) -> None:
        head = message.split(":", 1)[0]
        if head == self._head and self._clock() - self._spoke < _BEAT_SECONDS:
            return
        self._head, self._spoke = head, self._clock()
        print(message, file=self._stream or sys.stderr, flush=True)


say = Speaker()


def run_command(work: Callable[[], int]) -> int:
    """The exit code of a module command. An error is said with its remedy; SIGTERM and a lost terminal end the tools that run, as
    Ctrl-C does: they have sessions of their own and would go on.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
            signal.signal(number, interrupt)
    try:
        return work()
    except errors.ProvisionerError as error:
        say(f"error: {error.message}\n  {error.remedy}")
        return error.exit_code
    except KeyboardInterrupt:
        say("interrupted; run again, it continues")
        return errors.Interrupted.exit_code
