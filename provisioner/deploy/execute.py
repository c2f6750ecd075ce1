"""Run a command in a container of a pod, or attach to its own, and read what it prints, over a websocket to the API server.

    with Execution(client, Container("kube-system", "anetd-x7k2p", "anetd"), ["anetd", "status"]) as run:
        for line in run.lines(): ...
    run.exit_code, run.errors

Invariants: what the container's runtime does with a command whose caller is gone is up to it, so a command that does not end by itself
must end when its standard input does: that has what is written here, and is open as long as the connection is. The client must outlive
it. None of the websocket package's exceptions leaves this module. One thread reads `lines`; `stop` and `write` may be called from any.
Source: Kubernetes' subprotocols v4 and v5.channel.k8s.io; a frame's first byte is the channel.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlsplit

from provisioner.deploy.client import ApiError, Client, UnavailableError

if TYPE_CHECKING:
    from websocket import WebSocket

_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_STDIN, _STDOUT, _STDERR, _STATUS = 0, 1, 2, 3
_OPEN_SECONDS = 15.0
_PING_SECONDS = 10.0
"""After so long without a word the other side is asked for one; after three times as long it counts as gone."""
_ERRORS_KEPT = 8192
_LONGEST_LINE = 1 << 20


@dataclass(frozen=True, slots=True)
class Container:
    """Where a command runs."""

    namespace: str
    pod: str
    name: str


class Execution:
    """One command, or with None what the container runs by itself; its `exit_code` is not told then, and 0 means that it has ended.

    Opened at once: raises `ApiError` when the API server refuses it, `UnavailableError` when it does not answer.
    """

    def __init__(self, client: Client, container: Container, command: Sequence[str] | None) -> None:
        self.exit_code: int | None = None
        """None until the command has ended, and where it was stopped from here."""
        self.errors = ""
        """The end of what it wrote to stderr."""
        self.heard = False
        """Whether it has written anything at all."""
        self._stopped = threading.Event()
        self._errors = b""
        self._socket = _open(client, container, command)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        self._socket.shutdown()  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """End it: its standard input ends, and `lines` with it."""
        self._stopped.set()
        self._socket.abort()  # type: ignore[no-untyped-call]

    def write(self, text: str) -> None:
        """To its standard input. What it does not hear because the connection is gone, `lines` tells."""
        from websocket import WebSocketException

        with contextlib.suppress(WebSocketException, OSError, AttributeError):
            self._socket.send_binary(bytes([_STDIN]) + text.encode())

    def lines(self) -> Iterator[str]:
        """What it prints, line by line, until it has ended; the last line need not be a whole one.

        Raises `UnavailableError` when the connection breaks, `ApiError` when the command cannot be run.
        """
        rest = bytearray()
        for channel, data in self._frames():
            self.heard = self.heard or (channel in {_STDOUT, _STDERR} and bool(data))
            if channel == _STDOUT:
                rest += data
                if b"\n" in data or len(rest) > _LONGEST_LINE:
                    *whole, last = rest.split(b"\n")
                    yield from (line.decode("utf-8", "replace") for line in whole)
                    rest = bytearray() if len(last) > _LONGEST_LINE else last
            elif channel == _STDERR:
                self._errors = (self._errors + data)[-_ERRORS_KEPT:]
                self.errors = self._errors.decode("utf-8", "replace")
            elif channel == _STATUS:
                self.exit_code = exit_code(data)
        if rest:
            yield rest.decode("utf-8", "replace")
        if self.exit_code is None and not self._stopped.is_set():
            raise UnavailableError("the connection to the command ended before the command did")

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        from websocket import ABNF, WebSocketConnectionClosedException, WebSocketException, WebSocketTimeoutException

        heard = time.monotonic()
        while not self._stopped.is_set():
            try:
                kind, frame = self._socket.recv_data_frame(True)
            except WebSocketTimeoutException:
                if time.monotonic() - heard > 3 * _PING_SECONDS:
                    raise UnavailableError(f"nothing was heard for {3 * _PING_SECONDS:g} s") from None
                with contextlib.suppress(WebSocketException, OSError):
                    self._socket.ping()
                continue
            except (WebSocketException, OSError, AttributeError) as error:
                if self._stopped.is_set() or isinstance(error, WebSocketConnectionClosedException):
                    return
                raise UnavailableError(str(error) or type(error).__name__) from error
            heard = time.monotonic()
            if kind == ABNF.OPCODE_CLOSE:
                return
            if kind in {ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT} and frame.data:
                yield frame.data[0], frame.data[1:]


def exit_code(status: bytes) -> int:
    """What the channel of errors says at the end. Raises `ApiError` when the command was not run to an end of its own."""
    try:
        document = json.loads(status)
        if document.get("status") == "Success":
            return 0
        if document.get("reason") == "NonZeroExitCode":
            return next(int(cause["message"]) for cause in document["details"]["causes"] if cause["reason"] == "ExitCode")
        raise ApiError(int(document.get("code") or 500), str(document.get("message") or "the command could not be run"))
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
        raise ApiError(500, status.decode("utf-8", "replace").strip() or "the command's end cannot be read") from None


def _open(client: Client, container: Container, command: Sequence[str] | None) -> WebSocket:
    from websocket import WebSocketBadStatusException, WebSocketException, create_connection

    path = f"/api/v1/namespaces/{quote(container.namespace)}/pods/{quote(container.pod)}/"
    path += "attach" if command is None else "exec"
    query = [("container", container.name), ("stdin", "true"), ("stdout", "true"), ("stderr", "true")]
    upgrade = client.upgrade(path, [*query, *(("command", word) for word in command or ())])
    proxy = urlsplit(upgrade.proxy)
    # The package would take a proxy from the environment; whether there is one is the client's to say.
    through: dict[str, Any] = {"http_no_proxy": ["*"]}
    if upgrade.proxy:
        through = {"http_no_proxy": [""], "http_proxy_host": proxy.hostname, "http_proxy_port": proxy.port or 80}
        through |= {"http_proxy_auth": (proxy.username, proxy.password or "")} if proxy.username else {}
    tls: dict[str, Any] = {"context": upgrade.tls} if upgrade.tls is not None else {}
    tls |= {"server_hostname": upgrade.server_name} if upgrade.server_name else {}
    try:
        socket = create_connection(
            upgrade.url,
            timeout=_OPEN_SECONDS,
            header=[f"{name}: {value}" for name, value in upgrade.headers.items()],
            subprotocols=list(_PROTOCOLS),
            suppress_origin=True,
            sslopt=tls,
            **through,
        )
    except WebSocketBadStatusException as error:
        raise ApiError(error.status_code, _message(error.resp_body or b"") or str(error)) from error
    except (WebSocketException, OSError) as error:
        raise UnavailableError(str(error) or type(error).__name__) from error
    socket.settimeout(_PING_SECONDS)
    return socket


def _message(body: bytes) -> str:
    text = body.decode("utf-8", "replace").strip()
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text
