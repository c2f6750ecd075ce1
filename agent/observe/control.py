"""The socket behind `anetd status` and its like: one word in, one JSON document out. Root only."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.cni.server import peer_uid, unix_listener

SOCKET = Path("/run/anetd/anetd.sock")
_SECONDS = 10.0
_MAX_ANSWER = 256 << 20

log = logging.getLogger(__name__)


class AgentAwayError(Exception):
    """There is no agent to ask; the text says why and what to do."""


class ControlServer:
    """Answers each word with its document, one client at a time: the askers are people. What follows the word is handed on."""

    def __init__(self, path: Path, documents: Mapping[str, Callable[[str], Any]]) -> None:
        self._documents = documents
        self._listener = unix_listener(path, backlog=16)
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer nobody new."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            try:
                with connection:
                    connection.settimeout(_SECONDS)
                    self._serve(connection)
            except OSError:
                continue
            except Exception:
                log.exception("a question about the agent's state could not be answered")

    def _serve(self, connection: socket.socket) -> None:
        if peer_uid(connection) != 0:
            return
        word, _, about = connection.recv(1024).decode(errors="replace").strip().partition(" ")
        document = self._documents.get(word)
        body = {"error": f"no such question: {word}"} if document is None else document(about)
        connection.sendall(json.dumps(body).encode())


def ask(word: str, path: Path = SOCKET) -> Any:
    """The document for a word. Raises `AgentAwayError`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_SECONDS)
        try:
            client.connect(str(path))
            client.sendall(word.encode() + b"\n")
            chunks, total = [], 0
            while (chunk := client.recv(1 << 16)) and total < _MAX_ANSWER:
                chunks.append(chunk)
                total += len(chunk)
            return json.loads(b"".join(chunks))
        except (OSError, ValueError) as error:
            raise AgentAwayError(
                f"anetd does not answer at {path} ({error or type(error).__name__}); is it running on this node, and are you root?"
            ) from error
