"""A TLS server that plays an API server, credentials for it, and a deadline that a test can let pass."""

from __future__ import annotations

import contextlib
import datetime as dt
import http.server
import ipaddress
import json
import ssl
import threading
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from provisioner import errors
from tests.fakes.websocket import Channels


@dataclass(frozen=True)
class FakeCredentials:
    server: str
    ca_certificate: str
    client_certificate: str
    client_key: str = field(repr=False)


class FakeDeadline:
    """Lets `checks` checks pass, then none."""

    def __init__(self, checks: int) -> None:
        self.left = checks

    def remaining(self) -> float:
        return 0.01 if self.left > 0 else 0.0

    def check(self, doing: str) -> None:
        self.left -= 1
        if self.left < 0:
            raise errors.Timeout(f"{doing} took too long", remedy="Wait longer.")


class ApiServer:
    """`answers[(method, path)]` is a list of (status, document); the last one is given again and again. (0, None) hangs up."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], list[tuple[int, object]]] = {}
        self.requests: list[tuple[str, str, object]] = []
        self.client_names: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.close_after_each = False
        self.run = None
        """Called with a command's words (None: attached to what runs) and its `Channels`, in the handler's thread."""

    def on(self, method, path, *answers):
        self.answers[method, path] = list(answers)

    def answer(self, method, target, body):
        path = target.split("?")[0]
        self.requests.append((method, target, body))
        known = self.answers.get((method, path))
        if not known:
            return 404, {"message": f"{path} not found"}
        return known.pop(0) if len(known) > 1 else known[0]


def _certificate(name, issuer=None):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer_name, issuer_key = (issuer[0].subject, issuer[1]) if issuer else (subject, key)
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return certificate, key


def _pem(certificate, key):
    return (
        certificate.public_bytes(serialization.Encoding.PEM).decode(),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode(),
    )


@pytest.fixture(scope="session")
def certificates():
    authority = _certificate("authority")
    return {
        "authority": _pem(*authority),
        "server": _pem(*_certificate("server", authority)),
        "client": _pem(*_certificate("client", authority)),
    }


@pytest.fixture
def api(certificates, tmp_path):
    """The server; `api.credentials` is what a client needs."""
    fake = ApiServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self):
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            fake.headers.append({name.lower(): value for name, value in self.headers.items()})
            peer = self.connection.getpeercert()
            fake.client_names.append(dict(pair[0] for pair in peer["subject"])["commonName"])
            if self.headers.get("Upgrade") == "websocket" and fake.run is not None:
                fake.requests.append((self.command, self.path, None))
                with contextlib.suppress(OSError):  # a client that is gone
                    fake.run(parse_qs(urlsplit(self.path).query).get("command"), Channels(self))
                return
            status, document = fake.answer(self.command, self.path, body)
            if status == 0:
                self.close_connection = True
                return
            content = document.encode() if isinstance(document, str) else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            if fake.close_after_each:
                self.close_connection = True

        do_GET = do_PATCH = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = tmp_path / "server.pem"
    pair.write_text("".join(certificates["server"]))
    tls.load_cert_chain(pair)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(cadata=certificates["authority"][0])
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    fake.credentials = FakeCredentials(f"https://127.0.0.1:{server.server_port}", certificates["authority"][0], *certificates["client"])
    yield fake
    server.shutdown()
    server.server_close()


@pytest.fixture
def patient():
    return FakeDeadline(1000)


@pytest.fixture
def impatient():
    return FakeDeadline(2)


@pytest.fixture
def lines():
    return []
