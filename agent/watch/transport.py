"""Requests to the API server over HTTP/1.1: TLS that is verified, the service account's token, time limits everywhere.

Invariants: one connection per watch; the token is read anew for every request (kubelet renews the file) and never logged; a server
that vanishes without a word is noticed by TCP keepalive within half a minute.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
CONNECT_SECONDS = 10.0
MAX_LINE = 32 << 20
_YES = {http.HTTPStatus.OK, http.HTTPStatus.CREATED}
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3), (socket.TCP_USER_TIMEOUT, 25_000))


class TransportError(Exception):
    """The server could not be reached, or broke off. The text is fit for a log."""


class StatusError(Exception):
    """The server answered something other than yes."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"HTTP {status} {reason}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Access:
    """Where the API server is, and the files that hold the token and the CA's certificate. Without https there is neither."""

    url: str
    token: Path
    ca: Path


def connect_errors() -> tuple[type[Exception], ...]:
    """What the standard library raises when a connection fails in one way or another.

    AttributeError is http.client's way to say that another thread closed the connection under its hands.
    """
    return (OSError, http.client.HTTPException, ValueError, AttributeError)


def _keep_alive(sock: socket.socket | None) -> None:
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


class Connection:
    """One connection, opened when it is first used, and again after it was closed. Not for two threads at a time."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._http: http.client.HTTPConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close; a thread that reads is woken with an error."""
        http_connection, self._http = self._http, None
        if http_connection is not None:
            if http_connection.sock is not None:
                with contextlib.suppress(OSError):
                    http_connection.sock.shutdown(socket.SHUT_RDWR)
            http_connection.close()

    def get(self, target: str, seconds: float) -> bytes:
        """The whole body. Raises `TransportError`, `StatusError`."""
        return self._read(self._request("GET", target, seconds))

    def send(self, method: str, target: str, body: bytes, content_type: str, seconds: float) -> bytes:
        """The whole answer to a request with a body. Raises `TransportError`, `StatusError`.

        A connection that the server closed while it was idle is found out by its use: the request is then sent once more, anew.
        """
        was_open = self._http is not None and self._http.sock is not None
        try:
            return self._read(self._request(method, target, seconds, body, content_type))
        except TransportError:
            if not was_open:
                raise
        return self._read(self._request(method, target, seconds, body, content_type))

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read()
        except connect_errors() as error:
            self.close()
            raise TransportError(f"the API server broke off: {error!r}") from error

    def lines(self, target: str, seconds: float) -> Iterator[bytes]:
        """The body's lines as they come; a last one without its end is not a line. Returns once the server has said 200.

        Raises `TransportError` (also while lines are read) and `StatusError`.
        """
        return self._lines(self._request("GET", target, seconds))

    def _lines(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        try:
            while line := response.readline(MAX_LINE):
                if not line.endswith(b"\n"):
                    raise TransportError("the API server broke off in the middle of an event")
                if line.strip():
                    yield line
        except connect_errors() as error:
            raise TransportError(f"the API server broke off: {error!r}") from error
        finally:
            # A watch is read to its end or not at all: what is left of it must not be taken for the next answer.
            self.close()

    def _request(
        self, method: str, target: str, seconds: float, body: bytes | None = None, content_type: str = ""
    ) -> http.client.HTTPResponse:
        try:
            connection = self._open()
            if connection.sock is not None:
                connection.sock.settimeout(seconds)
            headers = self._headers() | ({"Content-Type": content_type} if body is not None else {})
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            if response.status not in _YES:
                response.read()
        except connect_errors() as error:
            self.close()
            raise TransportError(f"the API server at {self._access.url} does not answer: {error!r}") from error
        if response.status not in _YES:
            raise StatusError(response.status, response.reason)
        return response

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "anetd"}
        if self._access.url.startswith("https:"):
            headers["Authorization"] = f"Bearer {self._access.token.read_text().strip()}"
        return headers

    def _open(self) -> http.client.HTTPConnection:
        if self._http is None:
            parts = urlsplit(self._access.url)
            host = parts.hostname or ""
            if parts.scheme == "https":
                context = ssl.create_default_context(cafile=str(self._access.ca))
                self._http = http.client.HTTPSConnection(host, parts.port, timeout=CONNECT_SECONDS, context=context)
            else:
                self._http = http.client.HTTPConnection(host, parts.port, timeout=CONNECT_SECONDS)
        if self._http.sock is None:
            self._http.connect()
            _keep_alive(self._http.sock)
        return self._http
