"""A cluster's life through the command line: made, met again, looked at, deleted; what is printed, kept and left."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml

from tests.cli.result import Run
from tests.fakes.gke import Core, Fault, ServerError
from tests.fakes.gke.core import INVALID_ARGUMENT
from tests.fakes.kubernetes import LOGGING, Kubernetes

from .conftest import PLACE

CREATE = ("create-cluster", "demo", *PLACE, "--dataplane-v2")
NAME = "projects/demo/locations/us-central1/clusters/demo"


def state(home: Path, name: str = "demo") -> Path:
    return home / ".local" / "state" / "provisioner" / "gke" / "demo" / "us-central1" / name


# --- create ---


def test_create_waits_verifies_and_writes_the_kubeconfig(run: Run, core: Core, kubernetes: Kubernetes, home: Path) -> None:
    core.operation_seconds, kubernetes.late = 0.2, 2
    result = run(*CREATE, "--output", "json")
    assert result.code == 0, result.err
    data = result.json
    assert (data["provider"], data["state"], data["numNodes"]) == ("gke", "RUNNING", 9)
    assert data["details"]["datapathProvider"] == "ADVANCED_DATAPATH"
    assert data["details"]["verified"] == {"anetd": {"verified": True, "nodes": 9, "ready": 9}}
    assert "operation-" in result.err
    config = yaml.safe_load((home / ".kube" / "config").read_text())
    assert config["current-context"] == "gke_demo_us-central1_demo"
    plugin = config["users"][0]["user"]["exec"]
    assert (plugin["command"], plugin["apiVersion"]) == ("gke-gcloud-auth-plugin", "client.authentication.k8s.io/v1beta1")
    assert config["clusters"][0]["cluster"]["server"] == f"https://{kubernetes.endpoint}"
    assert "client-certificate-data" not in config["users"][0]["user"]


def test_what_is_kept_is_the_user_s_alone(run: Run, home: Path) -> None:
    run(*CREATE)
    assert stat.S_IMODE(state(home).stat().st_mode) == 0o700
    for path in state(home).iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    entries = [json.loads(line) for line in (state(home) / "journal.jsonl").read_text().splitlines()]
    assert [(entry["step"], entry["event"]) for entry in entries][:2] == [("request-cluster", "begun"), ("request-cluster", "done")]


def test_the_same_create_again_changes_nothing(run: Run, core: Core) -> None:
    run(*CREATE)
    again = run(*CREATE, "--output", "json")
    assert (again.code, again.json["state"]) == (0, "RUNNING")
    assert again.err.count("already there") == 3
    assert core.count("create_cluster") == 1
    assert run(*CREATE, "--dry-run").code == 0


def test_a_differing_create_tells_each_difference_and_what_can_be_done(run: Run, core: Core) -> None:
    run(*CREATE, "--enable-ip-alias", "--no-enable-fqdn-network-policy", "--labels", "team=a")
    asked = (
        "--enable-ip-alias", "--cluster-ipv4-cidr", "10.0.0.0/15", "--enable-fqdn-network-policy", "--labels", "team=b",
        "--service-account", "nodes@demo.iam.gserviceaccount.com", "--enable-network-policy",
        "--allow", "calico-add-on=to hear what GKE itself says",
    )  # fmt: skip
    result = run(*CREATE, *asked, "--output", "json")
    assert result.code == 5
    changes = {detail["field"]: detail["change"] for detail in result.error["details"]}
    assert changes == {
        "ipAllocationPolicy.clusterIpv4CidrBlock": "recreate",
        "networkConfig.enableFqdnNetworkPolicy": "in-place",
        "networkPolicy.enabled": "never",
        "networkPolicy.provider": "never",
        "nodePools[default-pool].config.oauthScopes": "recreate-pool",
        "nodePools[default-pool].config.resourceLabels.team": "in-place",
        "nodePools[default-pool].config.serviceAccount": "recreate-pool",
        "resourceLabels.team": "in-place",
    }
    text = run(*CREATE, *asked).err
    assert "networkConfig.enableFqdnNetworkPolicy is false, asked for true: can be changed in place" in text
    assert "only by recreating the cluster" in text
    assert core.count("create_cluster") == 1


def test_a_dry_run_prints_the_request_and_sends_none(run: Run, core: Core, home: Path) -> None:
    result = run(*CREATE, "--dry-run", "--output", "json", "--enable-fqdn-network-policy")
    assert result.code == 2
    request = result.json["request"]
    assert request["parent"] == "projects/demo/locations/us-central1"
    assert request["cluster"]["networkConfig"] == {"datapathProvider": "ADVANCED_DATAPATH", "enableFqdnNetworkPolicy": True}
    assert core.count("create_cluster") == 0
    assert not (home / ".local").exists()


def test_async_returns_at_once_and_the_next_create_waits(run: Run, core: Core, home: Path) -> None:
    core.operation_seconds = 0.5
    began = run(*CREATE, "--async", "--output", "json")
    assert (began.code, began.json["state"]) == (0, "INCOMPLETE")
    assert began.json["details"]["operation"].startswith("operation-")
    assert not (home / ".kube").exists()
    assert run(*CREATE, "--output", "json").json["state"] == "RUNNING"
    assert core.count("create_cluster") == 1


def test_network_logging_is_applied_once_the_cluster_runs(run: Run, kubernetes: Kubernetes) -> None:
    result = run(*CREATE, "--network-logging", "deny,allow,allow-delegate", "--output", "json")
    assert result.code == 0, result.err
    expected = {"cluster": {"allow": {"log": True, "delegate": True}, "deny": {"log": True, "delegate": False}}}
    assert kubernetes.logging == expected
    assert result.json["details"]["verified"]["networkLogging"] == expected
    patches = [request for request in kubernetes.requests if request[:2] == ("PATCH", LOGGING)]
    assert len(patches) == 1
    assert run(*CREATE, "--network-logging", "deny,allow,allow-delegate").code == 0
    assert len([request for request in kubernetes.requests if request[0] == "PATCH"]) == 1
    assert run(*CREATE, "--network-logging", "deny").code == 0
    assert kubernetes.logging["cluster"]["allow"] == {"log": False, "delegate": False}


def test_a_file_and_flags_make_one_request(run: Run, core: Core, tmp_path: Path) -> None:
    document = {
        "apiVersion": "provisioner.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": {"name": "filed", "labels": {"team": "net"}},
        "spec": {
            "provider": "gke",
            "stackType": "ipv4-ipv6",
            "dataplane": {"version": "v2"},
            "gke": {
                "project": "demo",
                "location": "europe-west1",
                "enableIpAlias": True,
                "enableFqdnNetworkPolicy": True,
                "nodePools": [
                    {"name": "system", "numNodes": 1, "machineType": "e2-standard-2"},
                    {
                        "name": "work",
                        "spot": True,
                        "enableAutoscaling": True,
                        "minNodes": 0,
                        "maxNodes": 9,
                        "nodeTaints": ["a=b:NoExecute"],
                    },
                ],
            },
        },
    }
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(document))
    result = run("create-cluster", "--config", str(config), "--no-enable-fqdn-network-policy", "--dry-run", "--output", "json")
    assert result.code == 2, result.err
    request = result.json["request"]
    assert request["parent"] == "projects/demo/locations/europe-west1"
    cluster = request["cluster"]
    assert cluster["networkConfig"]["enableFqdnNetworkPolicy"] is False
    assert cluster["ipAllocationPolicy"]["stackType"] == "IPV4_IPV6"
    assert [(pool["name"], pool["initialNodeCount"]) for pool in cluster["nodePools"]] == [("system", 1), ("work", 3)]
    assert cluster["nodePools"][1]["autoscaling"] == {"enabled": True, "minNodeCount": 0, "maxNodeCount": 9}
    assert cluster["nodePools"][1]["config"]["taints"] == [{"key": "a", "value": "b", "effect": "NO_EXECUTE"}]


# --- list, describe, get-credentials, delete ---


def test_list_and_describe_show_what_gke_has(run: Run) -> None:
    run(*CREATE)
    run("create-cluster", "auto", *PLACE[:4], "--location", "europe-west1", "--autopilot", "--dataplane-v2", "--async")
    everywhere = run("list-clusters", "--provider", "gke", "--project", "demo", "--output", "json").json["items"]
    assert [(item["name"], item["details"]["location"]) for item in everywhere] == [("auto", "europe-west1"), ("demo", "us-central1")]
    assert [item["name"] for item in run("list-clusters", *PLACE, "--output", "json").json["items"]] == ["demo"]
    data = run("describe-cluster", "auto", *PLACE[:4], "--output", "json").json
    assert data["details"]["autopilot"] is True
    assert data["spec"]["spec"]["gke"] == {"project": "demo", "location": "europe-west1", "autopilot": True}
    assert "datapathProvider: ADVANCED_DATAPATH" in run("describe-cluster", "demo", *PLACE).out
    assert run("describe-cluster", "nothing", *PLACE, "--output", "json").error["exitCode"] == 6


def test_a_name_in_two_places_is_asked_about(run: Run) -> None:
    run(*CREATE)
    run("create-cluster", "demo", *PLACE[:4], "--location", "europe-west1", "--dataplane-v2", "--async")
    result = run("describe-cluster", "demo", "--provider", "gke", "--project", "demo", "--output", "json")
    assert result.code == 3
    assert "europe-west1" in result.error["message"]
    assert result.error["field"] == "--location"


def test_delete_removes_the_cluster_its_entry_and_what_is_remembered(run: Run, core: Core, home: Path) -> None:
    core.operation_seconds = 0.1
    run(*CREATE)
    result = run("delete-cluster", "demo", *PLACE, "--quiet", "--output", "json")
    assert (result.code, result.json) == (0, {"name": "demo", "deleted": True})
    assert core.clusters == {}
    assert not (home / ".kube" / "config").exists()
    assert not state(home).exists()
    assert run("delete-cluster", "demo", *PLACE, "--quiet").code == 6
    assert run("delete-cluster", "demo", *PLACE, "--quiet", "--ignore-not-found", "--output", "json").json["deleted"] is False


def test_delete_waits_for_the_operation_that_is_in_its_way(run: Run, core: Core) -> None:
    core.operation_seconds = 0.3
    run(*CREATE, "--async")
    assert run("delete-cluster", "demo", *PLACE, "--quiet").code == 0
    assert core.clusters == {}


def test_delete_async_leaves_the_operation_to_gke(run: Run, core: Core) -> None:
    run(*CREATE)
    core.operation_seconds = 60
    assert run("delete-cluster", "demo", *PLACE, "--quiet", "--async").code == 0
    assert run("describe-cluster", "demo", *PLACE, "--output", "json").json["details"]["status"] == "STOPPING"
    assert run(*CREATE).code == 5


def test_the_place_of_a_cluster_made_here_is_remembered(run: Run) -> None:
    run(*CREATE)
    assert run("describe-cluster", "demo", "--provider", "gke", "--output", "json").json["details"]["location"] == "us-central1"
    assert run("delete-cluster", "demo", "--provider", "gke", "--quiet").code == 0


# --- CI ---


def test_a_result_and_a_junit_file_are_written_for_a_create_that_went_well(run: Run, tmp_path: Path) -> None:
    result, junit = tmp_path / "result.json", tmp_path / "junit.xml"
    assert run(*CREATE, "--result-file", str(result), "--junit", str(junit)).code == 0
    data = json.loads(result.read_text())
    assert (data["kind"], data["name"], data["provider"], data["outcome"], data["error"]) == (
        "CreateResult",
        "demo",
        "gke",
        "running",
        None,
    )
    assert [item["kind"] for item in data["created"]] == ["Cluster", "KubeconfigContext"]
    assert data["cluster"]["details"]["verified"]["anetd"]["ready"] == 9
    suites = ET.parse(junit).getroot()
    assert [(suite.get("name"), suite.get("tests"), suite.get("failures")) for suite in suites] == [
        ("provisioner.gates", "1", "0"),
        ("provisioner.steps", "3", "0"),
    ]


@pytest.mark.parametrize(
    ("extra", "code", "outcome", "suites"),
    [
        (("--num-nodes", "0"), 3, "failed", ["provisioner.command"]),
        (("--project", "strange"), 7, "failed", ["provisioner.gates", "provisioner.command"]),
        (("--config", "DOCUMENT"), 4, "failed", ["provisioner.gates"]),
        (("--enable-network-policy",), 4, "failed", ["provisioner.gates"]),
        (("--dry-run",), 2, "planned", ["provisioner.gates"]),
    ],
)
def test_the_files_are_written_on_every_way_out(
    run: Run, tmp_path: Path, extra: tuple[str, ...], code: int, outcome: str, suites: list[str]
) -> None:
    result, junit = tmp_path / "result.json", tmp_path / "junit.xml"
    document = tmp_path / "v1.yaml"
    document.write_text("apiVersion: provisioner.dev/v1alpha1\nkind: Cluster\nspec: {dataplane: {version: v1}}\n")
    words = [str(document) if word == "DOCUMENT" else word for word in extra]
    asked = CREATE[:-1] if "DOCUMENT" in extra else CREATE  # the flag would win over the document
    assert run(*asked, *words, "--result-file", str(result), "--junit", str(junit)).code == code
    data = json.loads(result.read_text())
    assert data["outcome"] == outcome
    assert (data["error"] or {"exitCode": 2})["exitCode"] == code
    assert [node.get("name") for node in ET.parse(junit).getroot()] == suites


def test_a_file_that_cannot_be_written_hides_no_other_failure(run: Run, core: Core, tmp_path: Path) -> None:
    (tmp_path / "result").mkdir()
    well = run(*CREATE, "--result-file", str(tmp_path / "result"), "-o", "json")
    assert (well.code, well.error["field"]) == (7, "--result-file")
    core.operation_error = (13, "the zone is on fire")
    ill = run("create-cluster", "other", *CREATE[2:], "--result-file", str(tmp_path / "result"), "-o", "json")
    assert ill.code == 9
    assert "on fire" in ill.error["message"]


def test_a_step_that_fails_is_a_failed_test_case_with_the_reason(run: Run, core: Core, tmp_path: Path) -> None:
    core.operation_error = (13, "the zone is on fire")
    junit, result = tmp_path / "junit.xml", tmp_path / "result.json"
    assert run(*CREATE, "--junit", str(junit), "--result-file", str(result)).code == 9
    failures = ET.parse(junit).getroot().findall(".//failure")
    assert len(failures) == 1
    assert "on fire" in (failures[0].text or "")
    assert json.loads(result.read_text())["created"] == [{"kind": "Cluster", "name": "demo", "provider": "gke"}]


def test_on_failure_delete_removes_what_this_create_made(run: Run, core: Core) -> None:
    core.operation_error = (13, "the zone is on fire")
    assert run(*CREATE, "--on-failure", "delete").code == 9
    assert core.clusters == {}


def test_on_failure_delete_keeps_what_somebody_else_made(run: Run, core: Core, kubernetes: Kubernetes, home: Path) -> None:
    run(*CREATE)
    (state(home) / "record.json").unlink()  # as on another machine
    kubernetes.forbidden = True
    result = run(*CREATE, "--on-failure", "delete")
    assert result.code == 7
    assert "not made by this command" in result.err
    assert NAME in core.clusters


def test_a_cluster_that_somebody_made_anew_under_the_name_is_not_ours(run: Run, core: Core, kubernetes: Kubernetes) -> None:
    run(*CREATE)
    core.clusters[NAME].id = "another"
    kubernetes.forbidden = True
    assert run(*CREATE, "--on-failure", "delete").code == 7
    assert NAME in core.clusters


def test_a_name_is_made_from_the_run_and_is_the_same_for_a_retry(run: Run, core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_RUN_ID", "4711")
    monkeypatch.setenv("GITHUB_RUN_ATTEMPT", "2")
    words = ("create-cluster", "--name-prefix", "ci-", *PLACE, "--dataplane-v2", "--output", "json")
    assert run(*words).json["name"] == "ci-4711-2"
    assert run(*words).json["name"] == "ci-4711-2"
    assert core.count("create_cluster") == 1
    assert len(run(*words, "--unique-from", "a leg of the matrix").json["name"]) <= 40
    assert run("create-cluster", "named", *words[1:]).code == 3


def test_ttl_labels_the_cluster_and_sweep_deletes_what_is_past_it(run: Run, core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    run(*CREATE, "--ttl", "2h")
    run("create-cluster", "short", *PLACE, "--dataplane-v2", "--ttl", "1s")
    run("create-cluster", "endless", *PLACE, "--dataplane-v2")
    assert run(*CREATE, "--ttl", "3h").code == 0, "another end is no other cluster"
    label = core.clusters[NAME].resource_labels["provisioner-expires-at"]
    assert abs(int(label) - time.time() - 7200) < 60
    core.clusters[NAME.removesuffix("demo") + "short"].resource_labels["provisioner-expires-at"] = "1000"
    dry = run("sweep", "--expired", "--dry-run", "--project", "demo", "--output", "json")
    assert (dry.code, [item["name"] for item in dry.json["items"]]) == (2, ["short"])
    assert len(core.clusters) == 3
    swept = run("sweep", "--expired", "--project", "demo", "--quiet", "--output", "json")
    assert (swept.code, swept.json["items"][0]["deleted"]) == (0, True)
    assert sorted(name.rpartition("/")[2] for name in core.clusters) == ["demo", "endless"]
    assert run("sweep", "--expired", "--project", "demo", "--quiet").code == 0
    assert run("sweep", "--project", "demo").code == 3


def test_sweep_goes_on_after_a_failure(run: Run, core: Core) -> None:
    for name in ("one", "two"):
        run("create-cluster", name, *PLACE, "--dataplane-v2", "--ttl", "1h")
        core.clusters[f"projects/demo/locations/us-central1/clusters/{name}"].resource_labels["provisioner-expires-at"] = "1000"
    core.faults.append(Fault("delete_cluster", ServerError(INVALID_ARGUMENT, "not this one")))
    result = run("sweep", "--expired", "--project", "demo", "--quiet", "--output", "json")
    assert result.code == 3
    assert len(core.clusters) == 1


# --- bad input ---


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--enable-private-nodes",), 3, "enableIpAlias"),
        (("--enable-ip-alias", "--master-ipv4-cidr", "172.16.0.0/28"), 3, "enablePrivateNodes"),
        (("--cluster-dns-scope", "vpc"), 3, "clusterDns"),
        (("--cluster-dns", "route53"), 3, "clouddns"),
        (("--master-authorized-networks", "10.0.0.0/8"), 3, "enableMasterAuthorizedNetworks"),
        (("--create-subnetwork", "name"), 3, "KEY=VALUE"),
        (("--logging", "WORKLOAD"), 3, "SYSTEM"),
        (("--addons", "Istio"), 3, "Istio"),
        (("--autopilot", "--machine-type", "e2-medium"), 3, "Autopilot"),
        (("--pod-cidr", "10.0.0.0/16"), 3, "clusterIpv4Cidr"),
        (("--routing-mode", "vxlan"), 3, "Google"),
        (("--labels", "Team=X"), 3, "lower-case"),
        (("--network-logging", "all"), 3, "allow-delegate"),
        (("--ttl", "soon"), 3, "--ttl"),
        (("--result-file", "/nowhere/at/all"), 6, "/nowhere/at/all"),
        (("--node-taints", "nonsense"), 3, "NoSchedule"),
        (("--scopes", "storage-rw"), 3, "scope"),
    ],
)
def test_bad_words_are_refused_before_anything_is_sent(run: Run, core: Core, words: tuple[str, ...], code: int, told: str) -> None:
    result = run(*CREATE, *words)
    assert result.code == code, result.err
    assert told in result.err
    assert core.requests == []


def test_without_a_place_it_says_so(run: Run, core: Core) -> None:
    assert (
        run("create-cluster", "demo", "--provider", "gke", "--dataplane-v2", "--project", "demo", "-o", "json").error["field"]
        == "spec.gke.location"
    )
    assert (
        run("create-cluster", "demo", "--provider", "gke", "--dataplane-v2", "--location", "us-central1", "-o", "json").error["field"]
        == "spec.gke.project"
    )
    assert core.requests == []


def test_what_is_for_gke_is_refused_elsewhere(run: Run) -> None:
    result = run("create-cluster", "demo", "--dataplane-v2", "--enable-fqdn-network-policy", "-o", "json")
    assert (result.code, result.error["field"]) == (3, "spec.gke")
    assert "--provider gke" in result.error["remedy"]
    assert run("list-clusters", "--provider", "local", "--project", "x").code == 3
    assert run(*CREATE, "--dataplane-v2-observability-mode", "DISABLED").code == 3, "gcloud has taken it away, too"


@pytest.mark.skipif(os.geteuid() != 0, reason="the local provider is root's")
@pytest.mark.parametrize("words", [("--async",), ("--ttl", "1h")])
def test_what_is_for_gke_alone_is_refused_by_the_local_provider(run: Run, words: tuple[str, ...]) -> None:
    result = run("create-cluster", "pvt-gke-never", "--dataplane-v2", *words, "-o", "json")
    assert (result.code, result.error["field"]) == (3, words[0])
