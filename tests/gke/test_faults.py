"""What goes wrong between here and GKE, and at GKE: each has an id, an exit code and a remedy; nothing is made twice or lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from google.cloud.container_v1 import types
from google.protobuf import json_format

from provisioner.cli import main
from provisioner.providers.gke import api, memory
from tests.cli.result import Run
from tests.fakes.gke import Core, Fault, RestServer, ServerError
from tests.fakes.gke.core import CALICO_REFUSED, EXHAUSTED, PERMISSION_DENIED, UNAUTHENTICATED, UNAVAILABLE
from tests.fakes.kubernetes import Kubernetes

from .conftest import PLACE

CREATE = ("create-cluster", "demo", *PLACE, "--dataplane-v2", "--output", "json")
NAME = "projects/demo/locations/us-central1/clusters/demo"
DISABLED = (
    "Kubernetes Engine API has not been used in project demo before or it is disabled. Enable it by visiting "
    "https://console.developers.google.com/apis/api/container.googleapis.com/overview?project=demo then retry."
)
QUOTA = "Insufficient regional quota to satisfy request: resource \"CPUS\": request requires '18.0' and is short '10.0'."


# --- refusals ---


@pytest.mark.parametrize(
    ("refusal", "identity", "code", "remedy"),
    [
        (ServerError(UNAUTHENTICATED, "Request had invalid authentication credentials."), "credentials-expired", 7, "gcloud auth"),
        (ServerError(PERMISSION_DENIED, DISABLED, "SERVICE_DISABLED"), "api-disabled", 7, "gcloud services enable"),
        (ServerError(PERMISSION_DENIED, QUOTA), "quota-exceeded", 7, "quota"),
        (ServerError(EXHAUSTED, QUOTA), "quota-exceeded", 7, "quota"),
        (
            ServerError(PERMISSION_DENIED, 'Required "container.clusters.create" permission(s) for "projects/demo".'),
            "permission-missing", 7, "roles/container.admin",
        ),
    ],
    ids=["expired credentials", "API disabled", "quota", "quota as 429", "permission"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["get_cluster", "create_cluster"])
def test_each_refusal_has_its_own_id_code_and_remedy(
    run: Run, core: Core, method: str, refusal: ServerError, identity: str, code: int, remedy: str
) -> None:
    core.faults.append(Fault(method, refusal, times=99))
    result = run(*CREATE)
    assert (result.code, result.error["id"]) == (code, identity)
    assert remedy in result.error["remedy"]
    # Over REST the library answers a 401 by asking for a new token first, and tells of that.
    assert identity == "credentials-expired" or refusal.message[:40] in result.error["message"]
    assert core.clusters == {}


def test_a_wrong_project_is_told_from_a_missing_permission(run: Run) -> None:
    result = run(*CREATE[:4], "--project", "strange", *CREATE[6:])
    assert (result.code, result.error["id"]) == (7, "project-unknown")
    assert "--project" in result.error["remedy"]


def test_missing_credentials_are_told_without_a_request(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(home / "missing.json"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    assert main.main(list(CREATE)) == 7
    error = json.loads(capsys.readouterr().err.splitlines()[-1])["error"]
    assert error["id"] == "credentials-missing"
    assert "gcloud auth application-default login" in error["remedy"]


def test_calico_is_refused_in_gke_s_words(run: Run, core: Core) -> None:
    result = run(*CREATE, "--enable-network-policy", "--allow", "calico-add-on=to hear what GKE itself says")
    assert result.code == 3
    assert CALICO_REFUSED in result.error["message"]
    assert core.clusters == {}


@pytest.mark.parametrize(
    ("error", "identity", "code"),
    [
        ((8, QUOTA), "quota-exceeded", 7),
        ((13, "Internal error."), "upstream-failure", 9),
        ((7, "may not use the network"), "permission-missing", 7),
    ],
)
def test_an_operation_that_fails_tells_why(run: Run, core: Core, error: tuple[int, str], identity: str, code: int) -> None:
    core.operation_error = error
    result = run(*CREATE)
    assert (result.code, result.error["id"]) == (code, identity)
    assert error[1] in result.error["message"]
    again = run(*CREATE)
    assert (again.code, core.count("create_cluster")) == (code, 1)
    assert error[1] in again.error["message"]


def test_an_operation_that_is_done_whose_cluster_is_absent(run: Run, core: Core) -> None:
    core.lies = True
    result = run(*CREATE)
    assert (result.code, result.error["id"]) == (9, "upstream-failure")
    assert "there is no cluster demo" in result.error["message"]
    core.lies = False
    assert run(*CREATE).code == 0


# --- a server that does not answer well ---


@pytest.mark.parametrize(
    "kind", [ServerError(UNAVAILABLE, "try again"), ServerError(EXHAUSTED, "Too many requests", "RATE_LIMIT_EXCEEDED"), "reset", "half"]
)
@pytest.mark.parametrize("method", ["get_cluster", "create_cluster", "get_operation", "delete_cluster"])
def test_what_may_be_retried_is_retried_and_done_once(run: Run, core: Core, method: str, kind: str | ServerError) -> None:
    core.operation_seconds = 0.1
    core.faults.append(Fault(method, kind, times=2))
    created = run(*CREATE)
    assert created.code == 0, created.err
    assert run("delete-cluster", "demo", *PLACE, "--quiet").code == 0
    assert core.clusters == {}
    assert core.faults[0].times == 0


def test_a_create_whose_answer_is_lost_is_not_made_twice_and_is_ours(run: Run, core: Core) -> None:
    core.operation_seconds = 0.2
    core.faults.append(Fault("create_cluster", "reset-after"))
    assert run(*CREATE).code == 0
    assert core.count("create_cluster") == 2
    record = memory.remembered(memory.state_root(), "demo")[0]
    assert record.ours


def test_a_delete_whose_answer_is_lost_is_waited_for(run: Run, core: Core) -> None:
    run(*CREATE)
    core.operation_seconds = 0.2
    core.faults.append(Fault("delete_cluster", "reset-after"))
    assert run("delete-cluster", "demo", *PLACE, "--quiet").code == 0
    assert core.clusters == {}


def test_a_server_that_hangs_costs_one_request_s_time(run: Run, core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "REQUEST_SECONDS", 0.5)
    core.faults += [Fault("create_cluster", "hang"), Fault("get_operation", "hang")]
    assert run(*CREATE).code == 0
    assert core.count("create_cluster") == 1


def test_a_server_that_only_hangs_ends_with_the_time_limit(run: Run, core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "REQUEST_SECONDS", 0.3)
    core.faults.append(Fault("*", "hang", times=99))
    began = time.monotonic()
    result = run(*CREATE, "--timeout", "2s")
    assert (result.code, result.error["id"]) == (8, "timeout")
    assert "--timeout" in result.error["remedy"]
    assert time.monotonic() - began < 30


def test_a_server_that_is_not_there_ends_with_the_time_limit(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(api.ENDPOINT_VARIABLE, "http://127.0.0.1:9/")
    assert main.main([*CREATE, "--timeout", "1s"]) == 8


def test_a_wait_that_takes_too_long_goes_on_the_next_time(run: Run, core: Core) -> None:
    core.operation_seconds = 3600
    result = run(*CREATE, "--timeout", "1s")
    assert (result.code, result.error["id"]) == (8, "timeout")
    core.operations[next(iter(core.operations))].ends = 0
    assert run(*CREATE).code == 0
    assert core.count("create_cluster") == 1


# --- the cluster itself ---


def test_an_anetd_that_is_not_ready_everywhere_is_named(run: Run, kubernetes: Kubernetes) -> None:
    kubernetes.nodes["gke-demo-3"] = False
    result = run(*CREATE, "--timeout", "3s")
    assert result.code == 8
    assert "gke-demo-3" in result.error["message"]
    kubernetes.nodes["gke-demo-3"] = True
    assert run(*CREATE).code == 0


def test_a_control_plane_out_of_reach_is_said(run: Run, core: Core) -> None:
    core.endpoint = "127.0.0.1:9"
    result = run(*CREATE)
    assert (result.code, result.error["id"]) == (9, "upstream-failure")
    assert "does not answer from here" in result.error["message"]


def test_a_private_control_plane_out_of_reach_leaves_a_cluster_that_is_not_verified(run: Run, core: Core) -> None:
    core.endpoint = "127.0.0.1:9"
    result = run(*CREATE, "--enable-ip-alias", "--enable-private-nodes", "--enable-private-endpoint")
    assert result.code == 0, result.err
    assert result.json["details"]["verified"]["anetd"]["verified"] is False
    logging = run(*CREATE, "--enable-ip-alias", "--enable-private-nodes", "--enable-private-endpoint", "--network-logging", "deny")
    assert (logging.code, logging.error["field"]) == (9, "spec.gke.networkLogging")


def test_a_cluster_without_network_logging_is_waited_for_until_the_limit(run: Run, kubernetes: Kubernetes) -> None:
    kubernetes.has_logging = False
    assert run(*CREATE, "--network-logging", "deny", "--timeout", "2s").code == 8


# --- values that are not known here ---


def test_unknown_enumeration_values_are_passed_through_and_read_back(run: Run, core: Core) -> None:
    result = run(*CREATE, "--in-transit-encryption", "77", "--release-channel", "9")
    assert result.code == 0, result.err
    assert core.clusters[NAME].network_config.in_transit_encryption_config == 77
    assert core.clusters[NAME].release_channel.channel == 9
    assert result.json["details"]["networkConfig"]["inTransitEncryptionConfig"] == 77
    assert result.json["details"]["releaseChannel"] == 9
    assert run(*CREATE, "--in-transit-encryption", "77", "--release-channel", "9").code == 0
    assert run(*CREATE, "--in-transit-encryption", "none").code == 5
    core.clusters[NAME].network_config.datapath_provider = 3
    core.clusters[NAME].status = 42
    described = run("describe-cluster", "demo", *PLACE, "--output", "json").json
    assert (described["details"]["datapathProvider"], described["state"]) == (3, "DEGRADED")
    assert run("list-clusters", *PLACE).code == 0


# --- two at once, and killed ---


def provisioner(url: str, home: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), api.ENDPOINT_VARIABLE: url, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "provisioner.cli.main", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_creates_of_one_name_at_once_make_one_cluster(core: Core, server: RestServer, tmp_path: Path) -> None:
    core.operation_seconds = 2
    homes = [tmp_path / "one", tmp_path / "two"]
    for path in homes:
        path.mkdir()
    both = [provisioner(server.url, path, *CREATE) for path in homes]
    ended = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], [err for _, err in ended]
    assert len(core.clusters) == 1
    assert [json.loads(out)["state"] for out, _ in ended] == ["RUNNING", "RUNNING"]
    ours = [memory.read(path / ".local/state/provisioner/gke", "demo", "us-central1", "demo").ours for path in homes]  # type: ignore[union-attr]
    assert sorted(ours) == [False, True]


def test_two_creates_of_one_name_that_differ_end_in_one_conflict(core: Core, server: RestServer, tmp_path: Path) -> None:
    core.operation_seconds = 2
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    both = [
        provisioner(server.url, tmp_path / "one", *CREATE),
        provisioner(server.url, tmp_path / "two", *CREATE, "--enable-fqdn-network-policy", "--num-nodes", "1"),
    ]
    for process in both:
        process.communicate(timeout=120)
    # Which of them is first is chance; the first alone gets its cluster. FQDN policies are more than the first asked for, never less.
    assert 5 in {process.returncode for process in both}
    assert 0 in {process.returncode for process in both}
    assert len(core.clusters) == 1


def test_killed_between_the_request_and_the_journal(core: Core, server: RestServer, tmp_path: Path) -> None:
    core.operation_seconds = 2
    core.faults.append(Fault("create_cluster", "hang"))
    process = provisioner(server.url, tmp_path, *CREATE)
    _until(lambda: core.faults[0].times == 0, process)
    # GKE has the request and makes the cluster; nobody will hear its answer.
    record = memory.read(tmp_path / ".local/state/provisioner/gke", "demo", "us-central1", "demo")
    assert record is not None
    assert (record.operation, record.ours) == ("", False)
    planned = provisioner(server.url, tmp_path, *CREATE, "--dry-run")
    request = json.loads(planned.communicate(timeout=60)[0])["request"]
    core.call("create_cluster", json_format.ParseDict(request, types.CreateClusterRequest.pb()()))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    journal = [
        json.loads(line)
        for line in (tmp_path / ".local/state/provisioner/gke/demo/us-central1/demo/journal.jsonl").read_text().splitlines()
    ]
    assert [entry["event"] for entry in journal] == ["begun"]

    again = provisioner(server.url, tmp_path, *CREATE)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert json.loads(out)["state"] == "RUNNING"
    assert core.count("create_cluster") == 1
    record = memory.read(tmp_path / ".local/state/provisioner/gke", "demo", "us-central1", "demo")
    assert record is not None
    assert record.ours, "the cluster is known as one of our own"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_the_operation_and_says_how_to_go_on(
    core: Core, server: RestServer, tmp_path: Path, number: signal.Signals
) -> None:
    core.operation_seconds = 3600
    result = tmp_path / "result.json"
    process = provisioner(server.url, tmp_path, *CREATE, "--result-file", str(result))
    _until(lambda: core.count("get_operation") > 0, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    error = json.loads(err.splitlines()[-1])["error"]
    assert "operation-" in error["remedy"]
    assert "delete-cluster demo --provider gke --project demo --location us-central1" in error["remedy"]
    assert json.loads(result.read_text())["outcome"] == "interrupted"
    assert len(core.clusters) == 1
    core.operations[next(iter(core.operations))].ends = 0
    again = provisioner(server.url, tmp_path, *CREATE)
    again.communicate(timeout=120)
    assert again.returncode == 0


def _until(condition: object, process: subprocess.Popen[str]) -> None:
    """Wait for what the server sees; a process that ended before never gets there."""
    for _ in range(1200):
        if condition():  # type: ignore[operator]
            return
        assert process.poll() is None, process.communicate()
        threading.Event().wait(0.05)
    raise AssertionError("it did not come to that in a minute")
