"""Small HTTP pages on many ports, all from one thread.

Nothing is served here but numbers and words that are at hand, so a page is made in the loop itself. Invariants: a client that is slow,
silent or absurd costs a file descriptor for `CLIENT_SECONDS` at most; at most `MAX_CLIENTS` are connected; one request a connection.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

log = logging.getLogger(__name__)

CLIENT_SECONDS = 5.0
MAX_CLIENTS = 128
MAX_REQUEST = 8192
_BACKLOG = 64

TEXT, JSON = "text/plain; charset=utf-8", "application/json"
METRICS = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a page says."""

    status: int
    body: str
    content_type: str = TEXT
    headers: Mapping[str, str] = field(default_factory=dict)


Page = Callable[[], Answer]
Handler = Callable[[str], Answer]
"""Path, without its query -> answer."""


def by_path(pages: Mapping[str, Page]) -> Handler:
    """One page a path, 404 for all others."""

    def handle(path: str) -> Answer:
        page = pages.get(path)
        return page() if page is not None else Answer(HTTPStatus.NOT_FOUND, "no such page\n")

    return handle


@dataclass(slots=True)
class _Client:
    socket: socket.socket
    handler: Handler
    deadline: float
    received: bytes = b""
    to_send: bytes = b""


class HttpLoop:
    """Sockets that listen, and the thread that answers. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._clients: dict[int, _Client] = {}
        self._todo: deque[Callable[[], None]] = deque()
        self._bell, self._hear = socket.socketpair()
        self._hear.setblocking(False)
        self._bell.setblocking(False)
        self._selector.register(self._hear, selectors.EVENT_READ, None)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Close every socket; the thread ends."""
        self._do(self._end)

    def listen(self, port: int, handler: Handler, address: str | None = None) -> socket.socket:
        """Answer on a port of one address, or of all of both families; give what is returned to `close`. Raises `OSError`."""
        listener = _listener(port, address)
        self._do(lambda: self._register(listener, handler))
        return listener

    def close(self, listener: socket.socket) -> None:
        """Answer no more on what `listen` returned; the port is free soon after."""
        self._do(lambda: self._forget(listener))

    def _do(self, work: Callable[[], None]) -> None:
        self._todo.append(work)
        with contextlib.suppress(BlockingIOError):
            self._bell.send(b"!")

    def _register(self, listener: socket.socket, handler: Handler) -> None:
        self._selector.register(listener, selectors.EVENT_READ, handler)

    def _forget(self, listener: socket.socket) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(listener)
        listener.close()

    def _end(self) -> None:
        self._stopping = True

    def _run(self) -> None:
        while not self._stopping:
            for key, _ in self._selector.select(1.0 if self._clients else None):
                if key.data is None:
                    self._wake()
                elif isinstance(key.data, _Client):
                    self._serve(key.data)
                elif isinstance(key.fileobj, socket.socket):
                    self._accept(key.fileobj, key.data)
            now = time.monotonic()
            for client in [each for each in self._clients.values() if each.deadline < now]:
                self._drop(client)
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()
        self._bell.close()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._hear.recv(4096)
        while self._todo:
            self._todo.popleft()()

    def _accept(self, listener: socket.socket, handler: Handler) -> None:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            # The client has gone again, or the listener was closed a moment ago; or there is no descriptor for it, which passes.
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                time.sleep(0.1)
            return
        if len(self._clients) >= MAX_CLIENTS:
            connection.close()
            return
        connection.setblocking(False)
        client = _Client(connection, handler, time.monotonic() + CLIENT_SECONDS)
        self._clients[connection.fileno()] = client
        self._selector.register(connection, selectors.EVENT_READ, client)

    def _drop(self, client: _Client) -> None:
        self._clients.pop(client.socket.fileno(), None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(client.socket)
        client.socket.close()

    def _serve(self, client: _Client) -> None:
        try:
            if not client.to_send:
                chunk = client.socket.recv(MAX_REQUEST)
                client.received += chunk
                complete = b"\r\n\r\n" in client.received or b"\n\n" in client.received
                if not chunk and not complete:
                    self._drop(client)
                    return
                if not complete and len(client.received) < MAX_REQUEST:
                    return
                client.to_send = _respond(client.received, client.handler)
                self._selector.modify(client.socket, selectors.EVENT_WRITE, client)
            sent = client.socket.send(client.to_send)
            client.to_send = client.to_send[sent:]
            if not client.to_send:
                client.socket.shutdown(socket.SHUT_WR)
                self._drop(client)
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)


def _respond(received: bytes, handler: Handler) -> bytes:
    words = received.split(b"\n", 1)[0].decode("latin-1").split()
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return _encode(Answer(HTTPStatus.BAD_REQUEST, "this is no HTTP/1 request\n"))
    method, target, _ = words
    if method not in {"GET", "HEAD"}:
        return _encode(Answer(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered\n", headers={"Allow": "GET, HEAD"}))
    try:
        answer = handler(target.partition("?")[0])
    except Exception:
        log.exception("a page could not be made", extra={"path": target})
        answer = Answer(HTTPStatus.INTERNAL_SERVER_ERROR, "the page could not be made; the agent's log says why\n")
    return _encode(answer, with_body=method == "GET")


def _encode(answer: Answer, *, with_body: bool = True) -> bytes:
    body = answer.body.encode()
    status = HTTPStatus(answer.status)
    head = {"Content-Type": answer.content_type, "Content-Length": str(len(body)), "Connection": "close", **answer.headers}
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in head.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + (body if with_body else b"")


def _listener(port: int, address: str | None) -> socket.socket:
    if address is not None:
        return _bound(socket.AF_INET6 if ":" in address else socket.AF_INET, address, port)
    try:
        return _bound(socket.AF_INET6, "::", port, both=True)
    except OSError as error:
        if error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
            raise
        return _bound(socket.AF_INET, "0.0.0.0", port)  # noqa: S104 (a node without IPv6)


def _bound(family: socket.AddressFamily, address: str, port: int, *, both: bool = False) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
        listener.bind((address, port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
