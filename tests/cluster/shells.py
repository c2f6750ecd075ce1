"""Commands in pods by shells that stay: a `kubectl exec` for each would take longer than what most of them do."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shlex
import subprocess
import threading
import time
import uuid
from collections.abc import Sequence
from typing import NamedTuple

# Longer than any shell of a busy machine needs to say its first word, shorter than what a test waits for an answer.
BEGIN_SECONDS = 15.0


class Done(NamedTuple):
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


class Gone(Exception):
    """The shell did not take the command: nothing of it was begun."""


class Shell:
    """One `sh` in a pod, at the other end of a `kubectl exec -i` that runs for as long as the pod does."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()

    def run(self, command: Sequence[str], seconds: float) -> Done:
        """Raises `Gone`, `subprocess.TimeoutExpired`, and `EOFError` when the pod went away in the middle; then the shell is of no more use."""
        mark = uuid.uuid4().hex.encode()
        assert self._process.stdin is not None
        script = b"echo %b; ( %b ) </dev/null; echo %b $?; echo %b >&2\n" % (mark, shlex.join(command).encode(), mark, mark)
        try:
            self._process.stdin.write(script)
            self._process.stdin.flush()
        except OSError as error:
            raise Gone(str(error)) from error
        status, out, err = self._until(mark, command, seconds)
        return Done(status, _text(out), _text(err))

    def _until(self, mark: bytes, command: Sequence[str], seconds: float) -> tuple[int, bytes, bytes]:
        """The status, and what both streams hold between the marks."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        out, err = self._process.stdout.fileno(), self._process.stderr.fileno()
        heard = {out: b"", err: b""}
        begun, ends = False, time.monotonic() + BEGIN_SECONDS
        with selectors.DefaultSelector() as selector:
            for stream in heard:
                selector.register(stream, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select(max(0.0, ends - time.monotonic())):
                    part = os.read(key.fd, 1 << 16)
                    if not part:
                        raise EOFError if begun else Gone("the shell ended")
                    heard[key.fd] += part
                if not begun and mark + b"\n" in heard[out]:
                    begun, ends = True, time.monotonic() + seconds
                    heard[out] = heard[out].partition(mark + b"\n")[2]
                if begun and (end := re.search(mark + rb" (\d+)\n", heard[out])) and mark in heard[err]:
                    return int(end[1]), heard[out][: end.start()], heard[err].partition(mark)[0]
                if time.monotonic() > ends:
                    if begun:
                        raise subprocess.TimeoutExpired(list(command), seconds)
                    raise Gone("the shell is silent")


def _text(heard: bytes) -> str:
    """As `subprocess` reads a text, with line ends of one kind."""
    return heard.decode(errors="replace").replace("\r\n", "\n")


class Shells:
    """Of one cluster: those that nobody uses at the moment wait here, by pod."""

    def __init__(self, kubectl: Sequence[str]) -> None:
        self._kubectl = kubectl
        self._idle: dict[tuple[str, str], list[Shell]] = {}
        self._lock = threading.Lock()

    def run(self, namespace: str, pod: str, command: Sequence[str], seconds: float) -> Done:
        """As `Shell.run`; `Gone` only where no shell can be had at all."""
        while (shell := self._take(namespace, pod)) is not None:
            with contextlib.suppress(Gone):
                return self._use(shell, namespace, pod, command, seconds)
        fresh = Shell([*self._kubectl, "exec", "-i", "-n", namespace, pod, "--", "sh"])
        return self._use(fresh, namespace, pod, command, seconds)

    def close(self) -> None:
        with self._lock:
            for shell in (shell for idle in self._idle.values() for shell in idle):
                shell.close()
            self._idle.clear()

    def _take(self, namespace: str, pod: str) -> Shell | None:
        with self._lock:
            idle = self._idle.get((namespace, pod))
            return idle.pop() if idle else None

    def _use(self, shell: Shell, namespace: str, pod: str, command: Sequence[str], seconds: float) -> Done:
        try:
            done = shell.run(command, seconds)
        except BaseException:
            shell.close()
            raise
        with self._lock:
            self._idle.setdefault((namespace, pod), []).append(shell)
        return done
