"""A tiny Kubernetes API server for the agent's tests: list (paged), watch, and the few writes of an agent, over TLS, with faults on demand.

It keeps objects as JSON by collection path, gives every change a resource version, and can be made to end watches, to forget its
history (410), or to be silent. Its socket may be made in another network namespace.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "a-token-for-tests"
NODES, SERVICES, SLICES = "/api/v1/nodes", "/api/v1/services", "/apis/discovery.k8s.io/v1/endpointslices"
PODS, NAMESPACES, POLICIES = "/api/v1/pods", "/api/v1/namespaces", "/apis/networking.k8s.io/v1/networkpolicies"
_EVENTS = re.compile(r"/apis/events\.k8s\.io/v1/namespaces/([^/]+)/events(?:/([^/]+))?")
_SERVICE = re.compile(r"/api/v1/namespaces/([^/]+)/services/([^/]+?)(/status)?")


class FakeApi:
    """Serves until `close`. `put` and `remove` change objects; watchers hear of it."""

    def __init__(self, directory: Path, make_server: Callable[[type], ThreadingHTTPServer] | None = None) -> None:
        self.objects: dict[str, dict[str, Any]] = {path: {} for path in (NODES, SERVICES, SLICES, PODS, NAMESPACES, POLICIES)}
        self.events: list[tuple[str, int, str, Any]] = []
        self.version = 1
        self.oldest = 0
        self.silent = False
        self.told: dict[str, dict[str, Any]] = {}
        """Events by namespace/name."""
        self.before_patch: Callable[[], None] | None = None
        """Called once, before the next PATCH of a Service is looked at."""
        self.requests: list[str] = []
        self.tokens: set[str] = set()
        self.epoch = 0
        self.changed = threading.Condition()
        ThreadingHTTPServer.daemon_threads = True
        self.server = make_server(Handler) if make_server else ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.api = self  # type: ignore[attr-defined]
        self.directory = directory
        certificate(directory)
        (directory / "token").write_text(TOKEN)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "server.pem")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server.server_address[1]}"

    def put(self, path: str, document: dict[str, Any]) -> None:
        metadata = document["metadata"]
        name = f"{metadata.get('namespace', '')}/{metadata['name']}"
        with self.changed:
            self.version += 1
            kind = "MODIFIED" if name in self.objects[path] else "ADDED"
            document = {**document, "metadata": {**metadata, "resourceVersion": str(self.version)}}
            self.objects[path][name] = document
            self.events.append((path, self.version, kind, document))
            self.changed.notify_all()

    def remove(self, path: str, name: str, namespace: str = "") -> None:
        with self.changed:
            self.version += 1
            document = self.objects[path].pop(f"{namespace}/{name}")
            document = {**document, "metadata": {**document["metadata"], "resourceVersion": str(self.version)}}
            self.events.append((path, self.version, "DELETED", document))
            self.changed.notify_all()

    def forget_history(self) -> None:
        """From now on every version that was ever given is too old; running watches end."""
        with self.changed:
            self.oldest = self.version + 1
            self.version += 1
            self.epoch += 1
            self.changed.notify_all()

    def hang_up(self) -> None:
        """End every watch."""
        with self.changed:
            self.epoch += 1
            self.changed.notify_all()

    def close(self) -> None:
        self.hang_up()
        self.server.shutdown()
        self.server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def api(self) -> FakeApi:
        return self.server.api  # type: ignore[attr-defined, no-any-return]

    def do_GET(self) -> None:
        self.api.requests.append(self.path)
        self.api.tokens.add(self.headers.get("Authorization", ""))
        if self.api.silent:
            self.close_connection = True
            return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.reply(401, {"kind": "Status", "code": 401})
            return
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if match := _SERVICE.fullmatch(parts.path):
            found = self.api.objects[SERVICES].get(f"{match[1]}/{match[2]}")
            self.reply(200 if found else 404, found or {"kind": "Status", "code": 404})
        elif parts.path not in self.api.objects:
            self.reply(404, {"kind": "Status", "code": 404})
        elif "watch" in query:
            self.watch(parts.path, int(query["resourceVersion"]))
        else:
            self.list(parts.path, int(query.get("limit", 500)), query.get("continue", ""))

    def do_POST(self) -> None:
        document = self.body()
        match = _EVENTS.fullmatch(self.path)
        if match is None or self.api.silent:
            self.reply(404, {"kind": "Status", "code": 404})
            return
        self.api.told[f"{match[1]}/{document['metadata']['name']}"] = document
        self.reply(201, document)

    def do_PATCH(self) -> None:
        document = self.body()
        if event := _EVENTS.fullmatch(self.path):
            known = self.api.told.get(f"{event[1]}/{event[2]}")
            if known is not None:
                known.update(document)
            self.reply(200 if known else 404, known or {"kind": "Status", "code": 404})
            return
        match = _SERVICE.fullmatch(self.path)
        if self.api.before_patch is not None:
            self.api.before_patch, hook = None, self.api.before_patch
            hook()
        found = self.api.objects[SERVICES].get(f"{match[1]}/{match[2]}") if match and match[3] else None
        if found is None or found["metadata"]["resourceVersion"] != document["metadata"]["resourceVersion"]:
            self.reply(409 if found else 404, {"kind": "Status"})
            return
        self.api.put(SERVICES, {**found, "status": document["status"]})
        self.reply(200, {})

    def body(self) -> Any:
        self.api.requests.append(f"{self.command} {self.path}")
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def list(self, path: str, limit: int, start: str) -> None:
        with self.api.changed:
            items = list(self.api.objects[path].values())
            version = self.api.version
        first = int(start or 0)
        metadata = {"resourceVersion": str(version)}
        if first + limit < len(items):
            metadata["continue"] = str(first + limit)
        self.reply(200, {"kind": "List", "metadata": metadata, "items": items[first : first + limit]})

    def watch(self, path: str, since: int) -> None:
        if since < self.api.oldest:
            self.reply(410, {"kind": "Status", "code": 410})
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        epoch, bookmarked = self.api.epoch, time.monotonic()
        while True:
            with self.api.changed:
                fresh = [(version, kind, item) for where, version, kind, item in self.api.events if where == path and version > since]
                if not fresh and self.api.epoch == epoch:
                    self.api.changed.wait(0.2)
                    fresh = [(version, kind, item) for where, version, kind, item in self.api.events if where == path and version > since]
                ended = self.api.epoch != epoch
            for version, kind, item in fresh:
                self.chunk({"type": kind, "object": item})
                since = version
            if time.monotonic() - bookmarked > 1.0:
                bookmarked = time.monotonic()
                self.chunk({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(max(since, self.api.version))}}})
            if ended:
                self.wfile.write(b"0\r\n\r\n")
                return

    def chunk(self, event: Any) -> None:
        line = json.dumps(event).encode() + b"\n"
        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.flush()

    def reply(self, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            super().handle()


def certificate(directory: Path) -> None:
    """A CA (ca.crt) and a server's key and certificate (server.pem) for 127.0.0.1."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = dt.datetime.now(dt.UTC)
    start, end = now - dt.timedelta(hours=1), now + dt.timedelta(days=1)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agent-tests")])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    ca = (
        x509.CertificateBuilder()
        .subject_name(ca_name)
        .issuer_name(ca_name)
        .public_key(ca_key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    from ipaddress import ip_address

    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "api")]))
        .issuer_name(ca_name)
        .public_key(key.public_key())
        .serial_number(2)
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / "ca.crt").write_bytes(ca.public_bytes(pem))
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "server.pem").write_bytes(secret + leaf.public_bytes(pem))
