"""Run a tool to its end: output to a log file, ended with its children when the deadline passes or the command is interrupted."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from provisioner import errors
from provisioner.plan.steps import Deadline

_POLL_SECONDS = 1.0
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
) -> None:
    """Run `argv`, appending its output to `log`.

    Raises `errors.UpstreamFailure` with the log's last lines when it fails, `errors.Timeout` when the deadline passes. The
    tool gets a session of its own, so that ending it ends whatever it started.
    """
    with log.open("ab") as output:
        output.write(f"$ {' '.join(argv)}\n".encode())
        output.flush()
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=cwd, env=env, start_new_session=True
        )
        try:
            while True:
                try:
                    status = process.wait(timeout=max(0.05, min(_POLL_SECONDS, deadline.remaining())))
                    break
                except subprocess.TimeoutExpired:
                    deadline.check(doing)
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


_said: list[str] = []


def say(message: str) -> None:
    """Progress as plain lines on stderr: a line that only counts on is not repeated."""
    head = message.split(":", 1)[0]
    if not _said or _said[-1] != head:
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()
    _said[:] = [head]
