"""Start, find and end members: namespaces that live exactly as long as their PID 1.

Starting one is a handshake. member-init makes the namespaces and mounts, says so, and waits; the caller connects the network
and records the pid; only then the programs start. If the caller dies anywhere before that, member-init reads an end of
file and the namespaces vanish. A member is found again by its pid file, which counts only for the boot and the process
start time that it names.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from provisioner import errors
from provisioner.plan.steps import Deadline
from provisioner.providers.local.files import last_lines, write_atomically
from provisioner.providers.local.layout import Layout

_READY_SECONDS = 20.0
_KILL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ProgramStatus:
    """`pid` is as the member sees it, 0 while the program does not run; `last_status` a wait status."""

    name: str
    pid: int
    restarts: int
    last_status: int


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when it is not there or has ended (a zombie has)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def started_at(pid: int) -> str:
    """When a process started, in UTC, as Kubernetes writes a time with microseconds; it sorts as text."""
    ticks = start_time(pid) or 0
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    moment = time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")
    return dt.datetime.fromtimestamp(moment, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def find(layout: Layout, member: str) -> int | None:
    """The pid of the member's PID 1, on the host; None when it does not run."""
    try:
        recorded = json.loads(layout.pid_file(member).read_text())
        pid, started, boot = int(recorded["pid"]), int(recorded["startTime"]), recorded["bootId"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pid if boot == boot_id() and start_time(pid) == started else None


def start(layout: Layout, member: str, init: Path, description: str, configure: Callable[[int], None], deadline: Deadline) -> int:
    """Start a member that does not run; its pid. `configure` gets the pid before any of its programs has started."""
    write_atomically(layout.description(member), description, durable=False)
    process = subprocess.Popen(
        [str(init), str(layout.description(member))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={},
        start_new_session=True,
    )
    if process.stdin is None or process.stdout is None:  # cannot be, says PIPE; the type checker does not know
        raise RuntimeError("no pipes")
    with process.stdin, process.stdout:
        pid = _await_ready(process.stdout.fileno(), member, deadline)
        process.wait()
        started = start_time(pid)
        if started is None:
            raise errors.UpstreamFailure(f"the member {member} ended before it was started", remedy="Run the command again.")
        configure(pid)
        record = {"pid": pid, "startTime": started, "bootId": boot_id()}
        write_atomically(layout.pid_file(member), json.dumps(record), durable=False)
        try:
            os.write(process.stdin.fileno(), b"g")
        except BrokenPipeError as error:
            raise errors.UpstreamFailure(f"the member {member} ended before it was started", remedy="Run the command again.") from error
    return pid


def _await_ready(descriptor: int, member: str, deadline: Deadline) -> int:
    text, pid = "", 0
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while True:
        deadline.check(f"making the namespaces of {member}")
        if not poll.poll(min(_READY_SECONDS, deadline.remaining()) * 1000):
            deadline.check(f"making the namespaces of {member}")
            raise errors.UpstreamFailure(
                f"the namespaces of {member} were not ready after {_READY_SECONDS:.0f} s", remedy="Run the command again."
            )
        chunk = os.read(descriptor, 4096)
        text += chunk.decode(errors="replace")
        for line in text.splitlines():
            word, _, rest = line.partition(" ")
            if word == "error":
                raise errors.UpstreamFailure(
                    f"the namespaces of {member} cannot be made: {rest}", remedy="Run as root, with CAP_SYS_ADMIN and CAP_NET_ADMIN."
                )
            if word == "pid" and text.endswith("\n"):
                pid = int(rest)
        if pid and "ready\n" in text:
            return pid
        if not chunk:
            raise errors.UpstreamFailure(f"member-init of {member} ended without a word", remedy="Run the command again.")


def stop(pid: int, grace: float) -> None:
    """End the process `pid` and with it the namespaces it is PID 1 of: SIGTERM, `grace` seconds, SIGKILL. Returns when it is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            if grace > 0:
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                if _ended_within(descriptor, grace):
                    return
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            if not _ended_within(descriptor, _KILL_SECONDS):
                raise errors.UpstreamFailure(
                    f"process {pid} does not end", remedy="It may wait for a disk or a network file system; run the command again later."
                )
    finally:
        os.close(descriptor)


def _ended_within(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def inside(pid: int, path: str) -> Path:
    """What the member names `path`, as the host can open it."""
    return Path(f"/proc/{pid}/root{path}")


def statuses(pid: int) -> Mapping[str, ProgramStatus]:
    """What member-init says of its programs; empty before it has started one."""
    try:
        lines = inside(pid, "/run/member/status").read_text().splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, *numbers = line.split("\t")
        found[name] = ProgramStatus(name, *(int(number) for number in numbers))
    return found


def check_programs(layout: Layout, member: str, pid: int, most_restarts: int = 6) -> None:
    """Raise `errors.UpstreamFailure` with the log's last lines when the member, or a program of it again and again, has died."""
    if start_time(pid) is None:
        lines = "\n".join(last_lines(layout.member_logs(member) / "member-init.log"))
        raise errors.UpstreamFailure(f"the member {member} has ended:\n{lines}", remedy="Run the command again to start it.")
    for status in statuses(pid).values():
        if status.restarts > most_restarts:
            log = layout.member_logs(member) / f"{status.name}.log"
            lines = "\n".join(last_lines(log))
            raise errors.UpstreamFailure(
                f"{status.name} of {member} has ended {status.restarts} times; its last lines:\n{lines}",
                remedy=f"The whole log is in {log}.",
            )
