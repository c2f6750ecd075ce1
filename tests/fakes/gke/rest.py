"""The core over HTTP and JSON, as container.googleapis.com speaks it: strict about unknown fields, enumerations by name or number."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from google.cloud.container_v1 import types
from google.protobuf import json_format

from tests.fakes.gke import core
from tests.fakes.gke.core import Core, ServerError

_PLACE = r"projects/[^/:]+/locations/[^/:]+"
# HTTP method, path below /v1/, the core's method, its request, and the field that the path goes into.
_ROUTES = tuple(
    (verb, re.compile(pattern), method, request, name)
    for verb, pattern, method, request, name in (
        ("POST", rf"(?P<name>{_PLACE})/clusters", "create_cluster", types.CreateClusterRequest, "parent"),
        ("GET", rf"(?P<name>{_PLACE})/clusters", "list_clusters", types.ListClustersRequest, "parent"),
        ("GET", rf"(?P<name>{_PLACE}/clusters/[^/:]+)", "get_cluster", types.GetClusterRequest, "name"),
        ("PUT", rf"(?P<name>{_PLACE}/clusters/[^/:]+)", "update_cluster", types.UpdateClusterRequest, "name"),
        ("DELETE", rf"(?P<name>{_PLACE}/clusters/[^/:]+)", "delete_cluster", types.DeleteClusterRequest, "name"),
        ("POST", rf"(?P<name>{_PLACE}/clusters/[^/:]+):setNetworkPolicy", "set_network_policy", types.SetNetworkPolicyRequest, "name"),
        ("POST", rf"(?P<name>{_PLACE}/clusters/[^/:]+):setResourceLabels", "set_labels", types.SetLabelsRequest, "name"),
        ("GET", rf"(?P<name>{_PLACE})/operations", "list_operations", types.ListOperationsRequest, "parent"),
        ("GET", rf"(?P<name>{_PLACE}/operations/[^/:]+)", "get_operation", types.GetOperationRequest, "name"),
        ("GET", rf"(?P<name>{_PLACE})/serverConfig", "get_server_config", types.GetServerConfigRequest, "name"),
    )
)
_HTTP = {
    core.INVALID_ARGUMENT: (400, "INVALID_ARGUMENT"),
    core.PRECONDITION: (400, "FAILED_PRECONDITION"),
    core.UNAUTHENTICATED: (401, "UNAUTHENTICATED"),
    core.PERMISSION_DENIED: (403, "PERMISSION_DENIED"),
    core.NOT_FOUND: (404, "NOT_FOUND"),
    core.ALREADY_EXISTS: (409, "ALREADY_EXISTS"),
    core.EXHAUSTED: (429, "RESOURCE_EXHAUSTED"),
    core.INTERNAL: (500, "INTERNAL"),
    core.UNAVAILABLE: (503, "UNAVAILABLE"),
}


@dataclass
class RestServer:
    """A context manager: serves `core` on a port of 127.0.0.1 while it is open."""

    core: Core
    _server: ThreadingHTTPServer | None = field(default=None, repr=False)

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"core": self.core})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="fake-gke", daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        assert self._server is not None
        self.core.released.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """With a slash at the end, as gcloud wants its endpoints."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    core: Core
    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, *_arguments: object) -> None:
        pass

    def _serve(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        numbers = any(value.endswith("enum-encoding=int") for value in query.get("$alt", ()))
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = url.path.removeprefix("/v1/").removeprefix("/")
        if re.fullmatch(r"projects/[^/]+/services/container\.googleapis\.com", path):
            self._answer(200, {"state": "ENABLED"})  # gcloud asks the Service Usage API whether GKE is on
            return
        for verb, pattern, method, request_type, name in _ROUTES:
            match = pattern.fullmatch(path)
            if verb == self.command and match:
                self._call(method, request_type, {name: match["name"]}, raw, numbers)
                return
        self._answer(404, _error(ServerError(core.NOT_FOUND, f"Method not found: {self.command} {url.path}")))

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

    def _call(self, method: str, request_type: Any, named: dict[str, str], raw: bytes, numbers: bool) -> None:
        fault = self.core.take_fault(method)
        if fault == "hang":
            self.core.released.wait(60)
        if fault in {"hang", "reset"}:
            self._reset()
            return
        try:
            if isinstance(fault, ServerError):
                raise fault
            request = self._parse(request_type, raw)
            for name, value in named.items():
                setattr(request, name, value)
            if method == "create_cluster":
                self.core.bodies.append(json.loads(raw))
            message = self.core.call(method, request)
            with self.core.lock:
                answer = json_format.MessageToDict(message, use_integers_for_enums=numbers)
        except ServerError as error:
            self._answer(_HTTP[error.code][0], _error(error))
            return
        if fault == "reset-after":
            self._reset()
            return
        self._answer(200, answer, half=fault == "half")

    def _parse(self, request_type: Any, raw: bytes) -> Any:
        request = request_type.pb()()
        try:
            return json_format.Parse(raw or b"{}", request)
        except json_format.ParseError as error:
            match = re.search(r'has no field named "([^"]+)"(?: at "[^"]*?\.?([^".]+)")?', str(error))
            told = f'Unknown name "{match[1]}": Cannot find field.' if match else str(error)
            raise ServerError(core.INVALID_ARGUMENT, f"Invalid JSON payload received. {told}") from None

    def _answer(self, status: int, body: Any, *, half: bool = False) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if half else data)
        if half:
            self._reset()

    def _reset(self) -> None:
        """With RST, not FIN: what a crashed proxy does."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def handle(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # the client went away, or the connection was reset on purpose
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()


def _error(error: ServerError) -> dict[str, Any]:
    status, name = _HTTP[error.code]
    body: dict[str, Any] = {"code": status, "message": error.message, "status": name}
    if error.reason:
        info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": error.reason, "domain": "googleapis.com"}
        body["details"] = [info | ({"metadata": error.metadata} if error.metadata else {})]
    return {"error": body}
