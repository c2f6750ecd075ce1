"""What is decided without asking GKE: differences, names, expiries, endpoints, whose fault an error is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from provisioner import errors
from provisioner.cli.names import unique_name
from provisioner.providers.gke import faults, memory
from provisioner.providers.gke.api import is_loopback
from provisioner.providers.gke.create import how_far, is_shielded
from provisioner.providers.gke.differences import differences
from provisioner.providers.gke.provider import endpoint, expires_at

CASES = yaml.safe_load(Path(__file__).with_name("differences.yaml").read_text())


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_differences(case: dict[str, Any]) -> None:
    found = differences(case["wanted"], case["found"])
    assert {difference.field: difference.change.value for difference in found} == case.get("differs", {})
    assert [difference.field for difference in found] == sorted(difference.field for difference in found)


@pytest.mark.parametrize(
    ("prefix", "text", "environment", "name"),
    [
        ("ci-", "42-1", {}, "ci-42-1"),
        ("ci", "42-1", {}, "ci-42-1"),
        ("ci-", None, {"GITHUB_RUN_ID": "7", "GITHUB_RUN_ATTEMPT": "2", "GITHUB_JOB": "test"}, "ci-7-2-test"),
        ("ci-", None, {"CI_PIPELINE_ID": "9", "CI_JOB_ID": "3"}, "ci-9-3"),
        ("ci-", None, {"BUILD_ID": "77"}, "ci-77"),
    ],
)
def test_names_come_from_the_run(prefix: str, text: str | None, environment: dict[str, str], name: str) -> None:
    assert unique_name(prefix, text, environment) == name


def test_a_name_that_would_be_cut_is_hashed_and_stays_unique() -> None:
    names = {unique_name("a-rather-long-prefix-", f"{'x' * 40}-{leg}", {}) for leg in range(50)}
    names |= {unique_name("ci-", text, {}) for text in ("Kubernetes 1.34", "kubernetes-1.34", "kubernetes-1-34")}
    assert len(names) == 53
    assert all(len(name) <= 40 for name in names)
    assert unique_name("ci-", None, {}) != unique_name("ci-", None, {})


@pytest.mark.parametrize("prefix", ["", "1a", "A", "-a", "a" * 30, "a_b"])
def test_a_prefix_that_cannot_begin_a_name_is_refused(prefix: str) -> None:
    with pytest.raises(errors.Usage):
        unique_name(prefix, "x", {})


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:80/", True), ("http://localhost:1", True), ("http://[::1]:1/", True), ("", False),
        ("https://127.0.0.1/", False), ("http://10.0.0.1/", False), ("https://container.googleapis.com/", False),
        ("http://127.0.0.1.example.com/", False),
    ],
)  # fmt: skip
def test_only_a_loopback_is_spoken_to_without_encryption(url: str, loopback: bool) -> None:
    assert is_loopback(url) is loopback


def test_an_end_is_read_from_its_label() -> None:
    assert expires_at({"provisioner-expires-at": "1000"}) == 1000
    assert expires_at({"provisioner-expires-at": "tomorrow"}) is None
    assert expires_at({}) is None


def test_the_endpoint_is_the_dns_name_where_the_address_is_closed() -> None:
    dns = {"dnsEndpointConfig": {"endpoint": "gke-1.gke.goog", "allowExternalTraffic": True}}
    closed = {"ipEndpointsConfig": {"enablePublicEndpoint": False}}
    assert endpoint({"endpoint": "1.2.3.4", "controlPlaneEndpointsConfig": dns | closed}) == "https://gke-1.gke.goog"
    assert endpoint({"endpoint": "1.2.3.4", "controlPlaneEndpointsConfig": dns}) == "https://1.2.3.4"
    assert endpoint({}) == ""


def test_a_control_plane_that_not_everybody_reaches() -> None:
    assert is_shielded({"privateClusterConfig": {"enablePrivateEndpoint": True}})
    assert is_shielded({"controlPlaneEndpointsConfig": {"ipEndpointsConfig": {"authorizedNetworksConfig": {"enabled": True}}}})
    assert not is_shielded({})


def test_how_far_an_operation_is() -> None:
    metrics = [{"name": "CLUSTER_CONFIGURING", "intValue": "3"}, {"name": "CLUSTER_CONFIGURING_TOTAL", "intValue": "9"}]
    operation = {"name": "operation-1", "status": "RUNNING", "progress": {"metrics": metrics}}
    assert how_far(operation, None) == "operation-1 is running, 3 of 9 parts configured"
    assert how_far(None, {"status": "PROVISIONING"}) == "the cluster is provisioning"
    assert how_far(None, None) == "the cluster is not there"


def test_a_full_disk_of_quota_is_not_a_limit_of_the_rate() -> None:
    from google.api_core import exceptions

    assert faults.may_be_retried(exceptions.TooManyRequests("slow down"))
    assert not faults.may_be_retried(exceptions.TooManyRequests("Insufficient regional quota to satisfy request"))
    assert faults.may_be_retried(exceptions.TooManyRequests("Quota exceeded for quota metric 'Read requests' per minute"))
    assert not faults.may_be_retried(exceptions.Forbidden("no"))
    assert faults.may_be_retried(exceptions.ServiceUnavailable("later"))


@pytest.mark.parametrize(
    ("sentence", "identity"),
    [
        ("Kubernetes Engine API has not been used in project 1 before or it is disabled.", "api-disabled"),
        ("The Kubernetes Engine API is not enabled for project demo.", "api-disabled"),
        ("Your application uses local credentials. The API requires a quota project, which is not set by default.", "permission-missing"),
        ("The service account is disabled.", "permission-missing"),
        ("Permission denied on resource project strange.", "project-unknown"),
        ("Insufficient regional quota to satisfy request: resource CPUS.", "quota-exceeded"),
    ],
)
def test_a_403_is_judged_by_its_sentence(sentence: str, identity: str) -> None:
    from google.api_core import exceptions

    assert faults.told(exceptions.Forbidden(sentence), "asking").id == identity


def test_records_are_found_again_by_name_and_cannot_leave_their_directory(tmp_path: Path) -> None:
    record = memory.Record("p", "l", "demo", {})
    memory.write(tmp_path, record)
    memory.write(tmp_path, memory.Record("p", "m", "demo", {}))
    assert [found.location for found in memory.remembered(tmp_path, "demo")] == ["l", "m"]
    assert memory.remembered(tmp_path, "*") == []
    assert memory.remembered(tmp_path, "../demo") == []
    assert memory.directory(tmp_path, "..", "..", "../x").resolve().is_relative_to(tmp_path)
    (memory.directory(tmp_path, "p", "l", "demo") / "record.json").write_text("{broken")
    assert memory.read(tmp_path, "p", "l", "demo") is None
    memory.forget(tmp_path, "p", "l", "demo")
    memory.forget(tmp_path, "p", "m", "demo")
    assert list(tmp_path.iterdir()) == []
