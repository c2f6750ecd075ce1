"""A cluster's API server for tests: what is looked at after a GKE cluster is made. TLS, bearer tokens, a few objects."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import ipaddress
import json
import ssl
import tempfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LOGGING = "/apis/networking.gke.io/v1alpha1/networkloggings/default"


@dataclass
class Kubernetes:
    """`nodes` maps a node to whether anetd is ready there. `late` answers of the pods' list say that none is."""

    nodes: dict[str, bool] = field(default_factory=lambda: {f"gke-demo-{index}": True for index in range(9)})
    late: int = 0
    has_logging: bool = True
    forbidden: bool = False
    logging: dict[str, Any] = field(
        default_factory=lambda: {"cluster": {side: {"log": False, "delegate": False} for side in ("allow", "deny")}}
    )
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, Authorization
    endpoint: str = ""
    authority: str = ""
    _server: Any = field(default=None, repr=False)

    @property
    def encoded_authority(self) -> str:
        """As GKE has it in masterAuth.clusterCaCertificate."""
        return base64.b64encode(self.authority.encode()).decode()

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if self.forbidden:
            return 403, {"message": "forbidden: the user may not"}
        if path == "/api/v1/nodes":
            return 200, {"items": [{"metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}}} for name in self.nodes]}
        if path == "/api/v1/namespaces/kube-system/pods":
            self.late -= 1
            return 200, {"items": [_pod(name, ready and self.late < 0) for name, ready in self.nodes.items()]}
        if path == "/apis/apps/v1/namespaces/kube-system/daemonsets/anetd":
            ready = sum(self.nodes.values())
            return 200, {"metadata": {"generation": 1}, "status": {"desiredNumberScheduled": len(self.nodes), "numberReady": ready}}
        if path == LOGGING and self.has_logging:
            if method == "PATCH":
                self.logging = body["spec"]
            return 200, {"metadata": {"name": "default"}, "spec": self.logging}
        return 404, {"message": f"{path} not found"}

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"cluster": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        certificate, key = _certificate()
        self.authority = certificate
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as directory:
            pair = Path(directory) / "pair.pem"
            pair.write_text(certificate + key)
            tls.load_cert_chain(pair)
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.endpoint = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    cluster: Kubernetes
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, *_arguments: object) -> None:
        pass

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        self.cluster.requests.append((self.command, path, self.headers.get("Authorization", "")))
        status, body = self.cluster.answer(self.command, path, json.loads(raw) if raw else None)
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PATCH = _serve  # noqa: N815

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # a client that does not trust the certificate, or is gone
            super().handle()


def _pod(node: str, ready: bool) -> dict[str, Any]:
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    return {"metadata": {"name": f"anetd-{node}"}, "spec": {"nodeName": node}, "status": {"conditions": [condition]}}


def _certificate() -> tuple[str, str]:
    """One that is its own authority; PEM texts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gke of the tests")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=12))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), pem.decode()
