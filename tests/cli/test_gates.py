"""The gates at the command line: check, features, recommend, policy convert, and what create-cluster refuses."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml

from provisioner.cli import gates
from provisioner.compatibility.model import Finding, Place, Severity

from .fake import FakeProvider
from .result import Run

SCTP = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {"ports": [{"port": 1, "protocol": "SCTP", "targetPort": 2}]},
}
FINE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"port": 1}]}}
CNP = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "p", "namespace": "shop"}}
PLAN = {
    "format_version": "1.2",
    "terraform_version": "1.11.4",
    "resource_changes": [
        {
            "address": "google_container_cluster.a",
            "type": "google_container_cluster",
            "change": {"actions": ["delete", "create"], "before": {"datapath_provider": "LEGACY_DATAPATH"},
                       "after": {"datapath_provider": "ADVANCED_DATAPATH"}, "after_unknown": {}, "replace_paths": [["datapath_provider"]]},
        }
    ],
}  # fmt: skip


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    directory = tmp_path / "manifests"
    (directory / "sub").mkdir(parents=True)
    (directory / ".hidden").mkdir()
    (directory / "a.yaml").write_text(yaml.safe_dump_all([FINE, SCTP]))
    (directory / "sub" / "b.json").write_text(json.dumps(SCTP))
    (directory / ".hidden" / "c.yaml").write_text(yaml.safe_dump(SCTP))
    (directory / "notes.txt").write_text("no manifest")
    return directory


def pipe(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))


# --- check ---


def test_check_finds_in_directories_and_files_and_ends_with_2(run: Run, manifests: Path) -> None:
    result = run("check", str(manifests), "--output", "json")
    assert result.code == 2
    assert result.json["objects"] == 3
    assert [(f["rule"], Path(f["file"]).name, f["line"]) for f in result.json["findings"]] == [
        ("sctp-service", "a.yaml", 16),
        ("sctp-service", "b.json", 1),
    ]
    assert result.json["refused"] is True


def test_check_without_errors_ends_with_0(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(FINE))
    result = run("check", str(file))
    assert (result.code, result.out) == (0, "1 object checked: 0 errors, 0 warnings, 0 notes\n")


def test_check_reads_stdin_so_that_helm_and_kustomize_pipe_in(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, yaml.safe_dump(SCTP).encode())
    result = run("check", "-")
    assert result.code == 2
    assert "ERROR  sctp-service  stdin:" in result.out
    assert "headless Service" in result.out


def test_check_tells_a_plan_from_a_manifest_in_json(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, json.dumps(PLAN).encode())
    assert [f["rule"] for f in run("check", "-", "--output", "json").json["findings"]] == ["terraform-datapath-replaces"]
    pipe(monkeypatch, json.dumps(SCTP).encode())
    assert [f["rule"] for f in run("check", "-", "--output", "json").json["findings"]] == ["sctp-service"]


def test_check_says_of_a_plan_of_another_format_that_it_was_not_checked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, json.dumps({**PLAN, "format_version": "2.0"}).encode())
    result = run("check", "-", "--output", "json")
    assert result.code == 2
    assert [f["rule"] for f in result.json["findings"]] == ["not-checked"]


def test_what_is_no_manifest_is_a_note_in_a_directory_and_an_error_where_it_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing but a comment\n")
    values = tmp_path / "values.yaml"
    values.write_text("replicas: 3\n")
    assert run("check", str(tmp_path)).code == 0
    assert run("check", str(values)).code == 2


@pytest.mark.parametrize("content", [b"a: [", b"[" * 100_000, b"\xff\xfe\x00\xd8", b'{"a": ' * 100_000])
def test_what_cannot_be_read_ends_with_2_and_says_where(run: Run, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    pipe(monkeypatch, content)
    result = run("check", "-", "--output", "json")
    assert result.code == 2
    assert [f["rule"] for f in result.json["findings"]] == ["unreadable"]


@pytest.mark.parametrize("content", [b"", b"---\n# only a comment\n---\n"])
def test_nothing_to_check_is_an_error_as_of_a_pipe_whose_writer_failed(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    pipe(monkeypatch, content)
    result = run("check", "-", "--output", "json")
    assert (result.code, [f["rule"] for f in result.json["findings"]]) == (2, ["not-checked"])
    assert run("check", str(tmp_path)).code == 2


def test_a_rule_passes_with_a_reason_and_not_without(run: Run, manifests: Path) -> None:
    result = run("check", str(manifests), "--allow", "sctp-service=only pods talk", "--output", "json")
    assert result.code == 0
    assert {f["allowed"] for f in result.json["findings"]} == {"only pods talk"}
    for bad in ("sctp-service", "sctp-service=", "sctp-service=  "):
        refused = run("check", str(manifests), "--allow", bad, "--output", "json")
        assert (refused.code, refused.error["field"]) == (3, "--allow")
    unknown = run("check", str(manifests), "--allow", "sctp-servic=why", "--output", "json")
    assert unknown.code == 3
    assert "sctp-service" in unknown.error["remedy"]


def test_check_prints_sarif_and_junit(run: Run, manifests: Path) -> None:
    log = run("check", str(manifests), "--output", "sarif").json
    assert (log["version"], len(log["runs"][0]["results"])) == ("2.1.0", 2)
    root = ET.fromstring(run("check", str(manifests), "--output", "junit").out)
    assert root.get("failures") == "2"


def test_check_judges_by_the_dataplane_that_is_named(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump({**CNP, "spec": {}}))
    codes = {name: run("check", str(file), "--dataplane", name).code for name in ("anetd", "gke", "cilium")}
    assert codes == {"anetd": 2, "gke": 2, "cilium": 0}


def test_check_without_a_target_or_with_one_that_is_not_there(run: Run) -> None:
    assert run("check").code == 3
    assert run("check", "/nowhere/at/all").code == 6


# --- features and recommend ---


def test_features_shows_all_and_one_in_full(run: Run) -> None:
    assert "network-policy" in run("features").out
    text = run("features", "hubble").out
    assert "instead: Needs vanilla Cilium" in text
    assert "source:" in text
    data = run("features", "hubble", "--output", "json").json
    assert data["verdicts"]["cilium"]["verdict"] == "supported"
    assert "observability-version" in [rule["id"] for rule in data["rules"]]
    assert "sctp-service" in run("features", "--rules").out


def test_features_offers_the_nearest_name(run: Run) -> None:
    result = run("features", "hubbel", "--output", "json")
    assert result.code == 6
    assert "hubble" in result.error["remedy"]


def test_recommend_names_the_dataplane_that_has_it_all(run: Run) -> None:
    data = run("recommend", "--need", "hubble,l7-http", "--output", "json").json
    assert (data["recommended"], data["certain"]) == ("cilium", True)
    assert run("recommend", "--need", "managed", "--need", "policy-logging", "--output", "json").json["recommended"] == "gke"


def test_recommend_says_when_nothing_has_it_all_and_why(run: Run) -> None:
    result = run("recommend", "--need", "policy-logging,l7-http")
    assert result.code == 2
    assert result.out.startswith("No dataplane has all of policy-logging, l7-http.")
    assert "lacks l7-http" in result.out
    assert run("recommend", "--need", ",").code == 3
    assert run("recommend", "--need", "warp-drive").code == 6


# --- policy convert ---


def test_convert_prints_the_network_policy_and_names_what_has_none(run: Run, tmp_path: Path) -> None:
    good = {**CNP, "spec": {"endpointSelector": {}, "ingress": [{"fromEndpoints": [{}]}]}}
    bad = {**CNP, "spec": {"endpointSelector": {}, "egress": [{"toFQDNs": [{"matchName": "a"}]}]}}
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump_all([good, FINE]))
    result = run("policy", "convert", str(file))
    assert result.code == 0
    assert [item["kind"] for item in yaml.safe_load_all(result.out)] == ["NetworkPolicy"]
    assert "1 object is no Cilium policy" in result.err
    file.write_text(yaml.safe_dump_all([good, bad]))
    result = run("policy", "convert", str(file), "--output", "json")
    assert result.code == 2
    assert len(result.json["policies"]) == 1
    (lack,) = result.json["noEqual"]
    assert (lack["field"], lack["line"]) == ("spec.egress[0].toFQDNs", 19)


def test_convert_refuses_what_it_cannot_read(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a: [")
    assert run("policy", "convert", str(file)).code == 3
    assert run("policy", "convert", str(tmp_path / "nowhere")).code == 6
    assert run("policy", "convert", str(file), "--cluster-cidr", "10.0.0.1/8").code == 3


# --- create-cluster ---


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that trips on every spec: no spec of the local provider trips one of the matrix's."""

    def findings(spec, file=""):
        allowed = spec.allow.get("calico-add-on", "")
        return [Finding("calico-add-on", Severity.ERROR, f"Cluster {spec.name}", Place(file), "spec.x", "No.", "Do not.", allowed=allowed)]

    monkeypatch.setattr(gates, "check_spec", findings)


def test_create_goes_through_the_gates_first_and_ends_with_4_and_the_findings(
    run: Run, provider: FakeProvider, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch)
    result = run("create-cluster", "demo", "--dataplane-v2", "--output", "json")
    assert result.code == 4
    assert result.error["id"] == "refused-by-gate"
    assert [f["rule"] for f in result.error["findings"]] == ["calico-add-on"]
    assert "--allow calico-add-on=" in result.error["remedy"]
    assert provider.clusters == {}
    assert list(home.iterdir()) == []


def test_what_is_allowed_passes_and_is_kept_with_the_cluster(run: Run, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch)
    result = run("create-cluster", "demo", "--dataplane-v2", "--allow", "calico-add-on=a trial", "--output", "json")
    assert result.code == 0, result.err
    assert "Let pass because: a trial" in result.err
    assert result.json["spec"]["spec"]["allow"] == {"calico-add-on": "a trial"}
    assert run("describe-cluster", "demo", "--output", "json").json["spec"]["spec"]["allow"] == {"calico-add-on": "a trial"}


def test_an_allowance_may_come_later_and_is_no_difference(run: Run) -> None:
    assert run("create-cluster", "demo", "--dataplane-v2").code == 0
    assert run("create-cluster", "demo", "--dataplane-v2", "--allow", "sctp-service=why not").code == 0


def test_create_refuses_an_allowance_without_a_reason_or_of_no_rule(run: Run, provider: FakeProvider, tmp_path: Path) -> None:
    assert run("create-cluster", "demo", "--dataplane-v2", "--allow", "sctp-service").code == 3
    assert run("create-cluster", "demo", "--dataplane-v2", "--allow", "no-such-rule=why").code == 3
    config = tmp_path / "c.yaml"
    config.write_text("apiVersion: provisioner.dev/v1alpha1\nkind: Cluster\nmetadata: {name: a}\nspec:\n  allow: {sctp-service: ''}\n")
    refused = run("create-cluster", "--dataplane-v2", "--config", str(config), "--output", "json")
    assert (refused.code, refused.error["field"]) == (3, "spec.allow")
    assert provider.clusters == {}


# --- clusters that cannot be read ---


@pytest.fixture
def unreachable(tmp_path: Path) -> str:
    path = tmp_path / "kubeconfig"
    config = {
        "clusters": [{"name": "a", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "a", "user": {"token": "SECRET"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
    }
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **config}))
    return str(path)


def test_a_context_that_cannot_be_reached_is_an_error_among_the_findings(run: Run, unreachable: str, manifests: Path) -> None:
    result = run("check", str(manifests), "--context", "a", "--kubeconfig", unreachable, "--output", "json")
    assert result.code == 2
    assert [f["rule"] for f in result.json["findings"]] == ["not-checked", "sctp-service", "sctp-service"]
    assert "SECRET" not in result.out + result.err


def test_a_context_that_is_not_there_is_not_found(run: Run, unreachable: str) -> None:
    for command in (("check", "--context", "b"), ("deploy", "demo", "--context", "b")):
        result = run(*command, "--kubeconfig", unreachable, "--output", "json")
        assert (result.code, result.error["field"]) == (6, "--context")


def test_deploy_needs_a_cluster_that_answers(run: Run, unreachable: str) -> None:
    result = run("deploy", "demo", "--context", "a", "--kubeconfig", unreachable, "--output", "json")
    assert (result.code, result.error["id"]) == (9, "upstream-failure")
    assert "SECRET" not in result.err


def test_a_json_object_is_streamed_and_a_plan_in_another_order_is_still_a_plan(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, json.dumps({"configuration": {}, **PLAN}, indent=1).encode())
    assert [f["rule"] for f in run("check", "-", "--output", "json").json["findings"]] == ["terraform-datapath-replaces"]
    pipe(monkeypatch, json.dumps({"items": [SCTP], "kind": "List", "apiVersion": "v1"}).encode())
    assert [f["rule"] for f in run("check", "-", "--output", "json").json["findings"]] == ["sctp-service"]


def test_features_prints_the_whole_matrix_and_nothing_else(run: Run) -> None:
    from provisioner.compatibility import matrix

    found = matrix.load()
    assert run("features", "--output", "json").json == matrix.export(found)
    rows = [line.split()[:4] for line in run("features").out.splitlines()[1:]]
    assert rows == [[item.id, *(cell.verdict.value for cell in item.cells.values())] for item in found.features.values()]
