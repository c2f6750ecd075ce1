"""A small client of the Kubernetes API over the `kubernetes` package: raw JSON in, raw JSON out.

The package's typed models would only be turned into dictionaries again, so this uses the layer below them. What it raises is
translated here, and nothing of it or of urllib3 leaves this module. The package takes a third of a second to import, so a client
imports it when it is made: for a create that is while the API server starts, which takes longer. The client's certificate and key
are never on disk: the TLS library reads them from an anonymous file in memory, which lives as long as the client.
"""

from __future__ import annotations

import importlib
import json
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from provisioner.deploy.context import ContextAccess
from provisioner.plan.steps import Deadline
from provisioner.version import __version__

if TYPE_CHECKING:
    import ssl

    from kubernetes.client import ApiClient

_APPLY = "application/apply-patch+yaml"  # JSON is YAML
_REQUEST_SECONDS = 15.0
# What a request has although the deadline is near or over: the questions why something is late come after it.
_LEAST_SECONDS = 2.0


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
    """No answer: the server is not there (yet), is not the right one, or the connection broke."""


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What a websocket needs to be opened as a client's identity. `tls` None: the server speaks plain HTTP; `proxy` is a URL or empty."""

    url: str
    headers: Mapping[str, str]
    tls: ssl.SSLContext | None
    server_name: str
    proxy: str


class Client:
    """One identity's connection to one API server, made with the first request and kept. No use after its `close`.

    No request takes longer than `request_seconds`, nor (but for a moment) than the deadline allows.
    """

    def __init__(
        self,
        access: Access | ContextAccess,
        deadline: Deadline | None = None,
        request_seconds: float = _REQUEST_SECONDS,
        token: str = "",
    ) -> None:
        """`token` is the identity where there is neither a client certificate nor a kubeconfig's context."""
        self._deadline, self._request_seconds, self._token = deadline, request_seconds, token
        self._forget_key: Callable[[], object] = lambda: None
        self._api = access.open() if isinstance(access, ContextAccess) else self._open(access)
        self._api.user_agent = f"provisioner/{__version__}"

    def _open(self, access: Access) -> ApiClient:
        from kubernetes.client import ApiClient, Configuration

        # Whoever calls knows whether and how long to try again.
        configuration = Configuration(host=access.server.rstrip("/"), ca_cert_data=access.ca_certificate or None, retries=False)
        if access.client_certificate:
            descriptor = _in_memory(f"{access.client_certificate.rstrip()}\n{access.client_key}")
            self._forget_key = weakref.finalize(self, os.close, descriptor)
            configuration.cert_file = f"/proc/self/fd/{descriptor}"
            configuration.proxy = None  # the nodes' network is on this machine, whatever the environment says of the world outside
        return ApiClient(configuration)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._api.close()
        self._forget_key()

    def get(self, path: str, **query: str) -> dict[str, Any]:
        """One object or list. Raises `ApiError` or `UnavailableError`."""
        content = self._request("GET", path, query)
        try:
            found: dict[str, Any] = json.loads(content)
        except ValueError as error:
            raise UnavailableError(f"the answer to {path} is not JSON") from error
        return found

    def probe(self, path: str) -> str:
        """The text of a health endpoint. Raises `ApiError` or `UnavailableError`."""
        return self._request("GET", path, {}).decode("utf-8", "replace")

    def apply(self, path: str, manifest: Mapping[str, Any], field_manager: str) -> None:
        """Server-side apply: make the named fields so, whoever owned them before. Raises `ApiError` or `UnavailableError`."""
        self._request("PATCH", path, {"fieldManager": field_manager, "force": "true"}, json.dumps(manifest))

    def delete(self, path: str, **query: str) -> None:
        """Delete one object, or, of a collection's path, those that the query names. Raises `ApiError` or `UnavailableError`."""
        self._request("DELETE", path, query)

    def upgrade(self, path: str, query: Sequence[tuple[str, str]]) -> Upgrade:
        """How to ask for `path` with a websocket; `query` may name a thing several times."""
        from ssl import CERT_NONE, create_default_context
        from urllib.parse import urlencode

        from kubernetes.client.rest import should_bypass_proxies

        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        _, url, sent, *_ = self._api.param_serialize("GET", path, header_params=headers, auth_settings=["BearerToken"])
        settings = self._api.configuration
        tls = None
        if url.startswith("https:"):
            tls = create_default_context(cafile=settings.ssl_ca_cert, cadata=settings.ca_cert_data)
            tls.check_hostname = settings.assert_hostname is not False
            if not settings.verify_ssl:
                tls.check_hostname, tls.verify_mode = False, CERT_NONE
            if settings.cert_file:
                tls.load_cert_chain(settings.cert_file, settings.key_file)
        wanted = {name: value for name, value in sent.items() if name.lower() in {"authorization", "user-agent"}}
        url = f"{url.replace('http', 'ws', 1)}?{urlencode(query)}"
        proxy = "" if should_bypass_proxies(settings.host, settings.no_proxy or "") else settings.proxy or ""
        return Upgrade(url, wanted, tls, settings.tls_server_name or "", proxy)

    def _request(self, method: str, path: str, query: Mapping[str, str], body: str | None = None) -> bytes:
        from urllib3.exceptions import ProtocolError

        headers = {"Accept": "application/json"} | ({"Content-Type": _APPLY} if body is not None else {})
        headers |= {"Authorization": f"Bearer {self._token}"} if self._token else {}
        request = self._api.param_serialize(
            method, path, query_params=list(query.items()), header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        try:
            status, content = self._exchange(request)
        except UnavailableError as error:
            if not isinstance(error.__cause__, ProtocolError):
                raise
            # The server may have closed an idle connection in this very moment; each of these methods can be repeated.
            status, content = self._exchange(request)
        if status >= 300:
            raise ApiError(status, _message(content))
        return content

    def _exchange(self, request: tuple[Any, ...]) -> tuple[int, bytes]:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            response = self._api.call_api(*request, _request_timeout=self._seconds())
            return response.status, response.read()
        except ApiException as error:  # here it is only ever TLS: answers, whatever their status, are returned
            raise UnavailableError(" ".join(str(error.reason).split())) from error
        except HTTPError as error:
            cause = error.__cause__ or error
            raise UnavailableError(str(cause) or type(cause).__name__) from error

    def _seconds(self) -> float:
        left = self._deadline.remaining() if self._deadline else self._request_seconds
        return min(self._request_seconds, max(_LEAST_SECONDS, left))


def load_ahead() -> None:
    """Begin to import what a client needs, in a thread: for whoever waits for something else first."""
    threading.Thread(target=importlib.import_module, args=("kubernetes.client",), name="load-ahead", daemon=True).start()


def _message(content: bytes) -> str:
    text = content.decode("utf-8", "replace").strip()
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text


def _in_memory(text: str) -> int:
    """The descriptor of an anonymous file; programs that are started do not inherit it."""
    descriptor = os.memfd_create("client", os.MFD_CLOEXEC)
    os.write(descriptor, text.encode())
    return descriptor
