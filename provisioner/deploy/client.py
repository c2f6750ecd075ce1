"""A small client of the Kubernetes API: one connection, raw JSON.

The `kubernetes` package takes most of a second to import, which counts when a whole cluster is made in half a minute, and its
models would only be turned into dictionaries again. Keys reach the TLS library through an anonymous file in memory.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import tempfile
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

_APPLY = "application/apply-patch+yaml"  # JSON is YAML
_REQUEST_SECONDS = 15.0


class Access(Protocol):
    """What `providers.base.Credentials` has; named here so that this package does not import the providers."""

    @property
    def server(self) -> str: ...
    @property
    def ca_certificate(self) -> str: ...
    @property
    def client_certificate(self) -> str: ...
    @property
    def client_key(self) -> str: ...


class ApiError(Exception):
    """The API server answered, and the answer was no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class UnavailableError(Exception):
    """No answer: the server is not there (yet), or the connection broke."""


class Client:
    """Used by one thread at a time; makes its connection when it needs one."""

    def __init__(self, access: Access) -> None:
        parts = urllib.parse.urlsplit(access.server)
        self._host, self._port = parts.hostname or "", parts.port or 443
        self._tls = _tls_context(access)
        self._connection: http.client.HTTPSConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def get(self, path: str, **query: str) -> dict[str, Any]:
        """One object or list. Raises `ApiError` or `UnavailableError`."""
        found: dict[str, Any] = json.loads(self._request("GET", _with_query(path, query)))
        return found

    def probe(self, path: str) -> str:
        """The text of a health endpoint. Raises `ApiError` or `UnavailableError`."""
        return self._request("GET", path).decode("utf-8", "replace")

    def apply(self, path: str, manifest: Mapping[str, Any], field_manager: str) -> None:
        """Server-side apply: make the named fields so, whoever owned them before."""
        target = _with_query(path, {"fieldManager": field_manager, "force": "true"})
        self._request("PATCH", target, json.dumps(manifest).encode(), _APPLY)

    def _request(self, method: str, target: str, body: bytes | None = None, content_type: str = "") -> bytes:
        headers = {"Accept": "application/json"} | ({"Content-Type": content_type} if body is not None else {})
        reused = self._connection is not None
        try:
            return self._exchange(method, target, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self._close()
            if not reused:
                raise UnavailableError(str(error) or type(error).__name__) from error
        try:  # an idle connection may have been closed by the server in the meantime; both methods can be repeated
            return self._exchange(method, target, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self._close()
            raise UnavailableError(str(error) or type(error).__name__) from error

    def _exchange(self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(self._host, self._port, context=self._tls, timeout=_REQUEST_SECONDS)
        self._connection.request(method, target, body=body, headers=dict(headers))
        response = self._connection.getresponse()
        content = response.read()
        if response.status >= 400:
            raise ApiError(response.status, _message(content))
        return content

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _message(content: bytes) -> str:
    text = content.decode("utf-8", "replace").strip()
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text


def _with_query(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{urllib.parse.urlencode(query)}" if query else path


def _tls_context(access: Access) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=access.ca_certificate)
    pair = f"{access.client_certificate.rstrip()}\n{access.client_key}".encode()
    try:
        descriptor = os.memfd_create("client", os.MFD_CLOEXEC)
    except (AttributeError, OSError):  # not Linux: a file that only its owner can read, gone at the end of the block
        with tempfile.TemporaryDirectory(prefix="provisioner-") as directory:
            path = Path(directory) / "client.pem"
            path.touch(mode=0o600)
            path.write_bytes(pair)
            context.load_cert_chain(path)
        return context
    try:
        os.write(descriptor, pair)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context
