"""Credentials by Google's own library: found, without a home, and no longer good, over the wire that Google is spoken to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth.transport.grpc import AuthMetadataPlugin
from google.auth.transport.requests import Request
from google.cloud.container_v1 import ClusterManagerClient
from google.cloud.container_v1.services.cluster_manager.transports import ClusterManagerGrpcTransport

from provisioner import errors
from provisioner.plan.deadline import TimeLimit
from provisioner.providers.gke import api
from tests.fakes.gke import Core, GrpcServer


class _Tokens(BaseHTTPRequestHandler):
    """An authority that renews nothing."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"error": "invalid_grant", "error_description": "Token has been expired or revoked."}).encode()
        self.send_response(400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def key_file(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A service account's key that its authority does not take any more; the environment points to it."""
    server = HTTPServer(("127.0.0.1", 0), _Tokens)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    account = {
        "type": "service_account",
        "project_id": "from-the-key",
        "private_key_id": "1",
        "private_key": pem.decode(),
        "client_email": "ci@from-the-key.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": f"http://127.0.0.1:{server.server_port}/token",
    }
    path = tmp_path / "key.json"
    path.write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    yield path
    server.shutdown()
    server.server_close()


def test_the_default_chain_s_credentials_speak_grpc_and_name_the_project(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = api.open_api()
    assert opened.client.transport.kind == "grpc"
    assert opened.project == "from-the-key"
    monkeypatch.setenv("CLOUDSDK_CORE_PROJECT", "named")
    assert api.open_api().project == "named"


def test_a_token_that_is_not_renewed_is_told(key_file: Path) -> None:
    with pytest.raises(errors.CredentialsExpired, match="expired or revoked") as caught:
        api.open_api().token()
    assert "gcloud auth" in caught.value.remedy
    assert "PRIVATE KEY" not in str(caught.value)


def test_over_grpc_it_is_not_taken_for_a_server_that_is_away(key_file: Path, core: Core) -> None:
    credentials: Any = api.open_api().credentials
    with GrpcServer(core, local=True) as served:
        call = grpc.metadata_call_credentials(AuthMetadataPlugin(credentials, Request()))
        with grpc.secure_channel(served.address, grpc.composite_channel_credentials(grpc.local_channel_credentials(), call)) as channel:
            asked = api.Api(ClusterManagerClient(transport=ClusterManagerGrpcTransport(channel=channel)), limit=TimeLimit.after(120))
            with pytest.raises(errors.CredentialsExpired):
                asked.cluster("projects/demo/locations/us-central1/clusters/demo")
    assert core.requests == []
