"""What the client keeps to itself (keys, other packages' exceptions, log lines) and how long it waits."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from provisioner.deploy import client
from provisioner.providers.local import api as local_api
from provisioner.providers.local import pki

NODES = "/api/v1/nodes"


def memory_files() -> int:
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing itself
            found += str(entry.readlink()).startswith("/memfd:client")
    return found


@pytest.fixture
def mute():
    """The port of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def at(api, port):
    return dataclasses.replace(api.credentials, server=f"https://127.0.0.1:{port}")


def test_the_key_is_in_memory_as_long_as_the_client_and_never_in_a_file_system(api, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before, files = memory_files(), sorted(tmp_path.iterdir())
    api.on("GET", NODES, (200, {"items": []}))
    api.close_after_each = True
    with client.Client(api.credentials) as talk:
        talk.get(NODES)
        talk.get(NODES)  # over another connection, so the key is needed again
        assert memory_files() == before + 1
        assert sorted(tmp_path.iterdir()) == files
    assert memory_files() == before


def test_a_client_that_is_only_dropped_forgets_the_key_too(api):
    before = memory_files()
    dropped = client.Client(api.credentials)
    assert memory_files() == before + 1
    del dropped
    gc.collect()
    assert memory_files() == before


def test_programs_that_are_started_do_not_inherit_the_key(api):
    with client.Client(api.credentials):
        seen = subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, text=True, check=True).stdout
    assert "memfd" not in seen


def test_a_key_of_another_certificate_is_told_without_the_key(api, certificates):
    credentials = dataclasses.replace(api.credentials, client_key=certificates["server"][1])
    with client.Client(credentials) as talk, pytest.raises(client.UnavailableError) as caught:
        talk.get(NODES)
    secret = certificates["server"][1].splitlines()[1]
    assert secret not in str(caught.value)
    assert secret not in repr(caught.value.__cause__)


def test_the_environments_proxies_are_not_used(api, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    api.on("GET", NODES, (200, {"items": []}))
    with client.Client(api.credentials) as talk:
        assert talk.get(NODES) == {"items": []}


def test_a_server_that_does_not_listen_is_unavailable_and_leaves_no_log_line(api, caplog):
    with client.Client(at(api, 1)) as talk, pytest.raises(client.UnavailableError, match="refused"):
        talk.probe("/readyz")
    assert caplog.records == []


def test_a_connection_that_breaks_is_tried_once_more(api):
    api.on("GET", NODES, (0, None), (200, {"items": []}))
    with client.Client(api.credentials) as talk:
        assert talk.get(NODES) == {"items": []}


def test_a_connection_that_breaks_again_is_no_answer(api):
    api.on("GET", NODES, (0, None))
    with client.Client(api.credentials) as talk, pytest.raises(client.UnavailableError):
        talk.get(NODES)
    assert len(api.requests) == 2


def test_a_request_ends_with_the_deadline(api, mute, impatient, monkeypatch):
    monkeypatch.setattr(client, "_LEAST_SECONDS", 0.2)
    began = time.monotonic()
    with client.Client(at(api, mute), impatient) as talk, pytest.raises(client.UnavailableError):
        talk.get(NODES)
    assert time.monotonic() - began < 10  # the client's own limit is 15 s


def test_a_request_ends_with_its_own_limit_where_there_is_no_deadline(api, mute):
    began = time.monotonic()
    with client.Client(at(api, mute), request_seconds=0.2) as talk, pytest.raises(client.UnavailableError):
        talk.get(NODES)
    assert time.monotonic() - began < 10  # the client's own limit is 15 s


def test_a_text_where_json_is_expected_is_no_answer(api):
    api.on("GET", NODES, (200, "<html>"))
    with client.Client(api.credentials) as talk, pytest.raises(client.UnavailableError, match="not JSON"):
        talk.get(NODES)


@pytest.mark.parametrize(("answer", "message"), [({"message": "no such node"}, "no such node"), ("plain", "plain"), ([], "[]")])
def test_a_refusal_has_the_servers_words(api, answer, message):
    api.on("GET", NODES, (404, answer))
    with client.Client(api.credentials) as talk, pytest.raises(client.ApiError) as caught:
        talk.get(NODES)
    assert (caught.value.status, caught.value.message) == (404, message)


def test_a_selector_reaches_the_server_as_it_was_meant(api):
    api.on("GET", NODES, (200, {"items": []}))
    with client.Client(api.credentials) as talk:
        talk.get(NODES, labelSelector="app=anetd,tier in (a, b)")
    assert api.requests[0][1] == f"{NODES}?labelSelector=app%3Danetd%2Ctier%20in%20%28a%2C%20b%29"


def test_the_package_is_imported_when_a_client_is_made_not_before():
    code = "import sys, provisioner.deploy, provisioner.providers.local.provider; print([m for m in ('kubernetes', 'urllib3') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert done.stdout.strip() == "[]"


def provider_api(api):
    own = api.credentials
    return local_api.Api(own.server, own.ca_certificate, pki.Pair(own.client_certificate, own.client_key))


def test_the_provider_takes_no_answer_and_a_refusal_for_nothing_known(api):
    api.on("GET", NODES, (403, {"message": "no"}))
    asked = provider_api(api)
    assert (asked.is_ready(), asked.has_bindings(), asked.pod_cidrs(), asked.ready_nodes(), asked.lease_times()) == (
        False,
        False,
        {},
        set(),
        {},
    )


def test_the_provider_reads_what_the_cluster_says(api):
    node = {
        "metadata": {"name": "demo-0"},
        "spec": {"podCIDRs": ["10.1.0.0/24"]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    api.on("GET", "/readyz", (200, "ok"))
    api.on("GET", NODES, (200, {"items": [node]}))
    asked = provider_api(api)
    assert asked.is_ready()
    assert (asked.pod_cidrs(), asked.ready_nodes()) == ({"demo-0": ["10.1.0.0/24"]}, {"demo-0"})
