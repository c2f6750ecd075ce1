"""The unix socket that the C plugin talks to.

Invariants: only processes of uid 0 are served (SO_PEERCRED), whatever the file modes; at most `WORKERS` requests run at a time, more
wait in the socket's queue; a client that is slow, silent or absurd costs one worker for `CLIENT_SECONDS` at most.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.cni import protocol
from agent.cni.protocol import CniError, Code, Command, Request

log = logging.getLogger(__name__)

WORKERS = 16
BACKLOG = 128
CLIENT_SECONDS = 10.0
_UCRED = struct.Struct("=iII")

Perform = Callable[[Request], Mapping[str, Any] | None]
Observe = Callable[[str, int, float], None]


def unix_listener(path: Path, *, backlog: int = BACKLOG) -> socket.socket:
    """A listening socket at `path`, mode 0600 in a directory of mode 0700; a dead one of an earlier process is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen at {path} ({error.strerror}): is the file system full or read-only?") from error
    return listener


def peer_uid(connection: socket.socket) -> int:
    """The uid of whoever connected."""
    return int(_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1])


class Server:
    """Answers plugins. `perform` does the work; `observe` hears command, error code (0 is success) and seconds of each request."""

    def __init__(self, path: Path, perform: Perform, observe: Observe = lambda _command, _code, _seconds: None) -> None:
        self._path = path
        self._perform = perform
        self._observe = observe
        self._slots = threading.BoundedSemaphore(WORKERS)
        self._stopping = threading.Event()
        self._listener = unix_listener(path)
        self._thread = threading.Thread(target=self._accept, name="cni-accept", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self, seconds: float = 2.0) -> None:
        """Answer nobody new; wait a moment for requests that run."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        end = time.monotonic() + seconds
        for _ in range(WORKERS):
            if not self._slots.acquire(timeout=max(0.0, end - time.monotonic())):
                break

    def _accept(self) -> None:
        while not self._stopping.is_set():
            self._slots.acquire()
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                self._slots.release()
                if self._stopping.is_set():
                    return
                log.warning("cannot accept a plugin's connection", extra={"error": str(error)})
                self._stopping.wait(0.1)
                continue
            threading.Thread(target=self._serve, args=(connection,), name="cni-request", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(CLIENT_SECONDS)
                uid = peer_uid(connection)
                if uid != 0:
                    log.warning("a process that is not root asked for a pod's network and was refused", extra={"uid": uid})
                    refusal = CniError(Code.FORBIDDEN, f"uid {uid} may not ask anetd for networks: only root may")
                    connection.sendall(protocol.answer(1, protocol.encode_error(refusal)))
                    return
                connection.sendall(self._answer(_read_all(connection)))
        except OSError as error:
            log.info("a plugin went away before its answer", extra={"error": str(error)})
        finally:
            self._slots.release()

    def _answer(self, data: bytes) -> bytes:
        started = time.monotonic()
        command, code, pod = "", 0, ""
        try:
            request = protocol.decode(data)
            command, pod = request.command.value, request.pod
            return protocol.answer(0, self._perform(request))
        except CniError as error:
            code = int(error.code)
            if request_is_noteworthy(command, error):
                log.warning("a CNI request failed", extra={"command": command, "pod": pod, "code": code, "error": error.message})
            return protocol.answer(1, protocol.encode_error(error))
        except Exception as error:
            code = int(Code.INTERNAL)
            log.exception("a CNI request failed for a reason that nobody foresaw", extra={"command": command, "pod": pod})
            unforeseen = CniError(
                Code.INTERNAL, f"anetd failed: {type(error).__name__}: {error}", "its log has more: kubectl logs -n kube-system"
            )
            return protocol.answer(1, protocol.encode_error(unforeseen))
        finally:
            self._observe(command, code, time.monotonic() - started)


def request_is_noteworthy(command: str, error: CniError) -> bool:
    """Whether a failure belongs into the log: a STATUS that says "not yet" is an answer like any other."""
    return not (command == Command.STATUS and error.code in {Code.NOT_AVAILABLE, Code.TRY_AGAIN_LATER})


def _read_all(connection: socket.socket) -> bytes:
    chunks, total = [], 0
    while chunk := connection.recv(65536):
        total += len(chunk)
        if total > protocol.MAX_REQUEST:
            # Decoded as it is, it would be cut short: let the decoder say so about nothing at all.
            return b""
        chunks.append(chunk)
    return b"".join(chunks)
