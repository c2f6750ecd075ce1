"""The gates on a real API server: each case of the matrix is refused in the matrix's words, and each near miss passes.

Objects of kinds that no CustomResourceDefinition of ours brings are put to the policies in a namespace of their own: the definitions are made while
the policies' bindings are away for a moment, as they would be on a cluster that had them before.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from provisioner.compatibility import admission, matrix
from provisioner.compatibility.convert import convert
from provisioner.compatibility.model import Admission, Dataplane

from .kube import Cluster, eventually, run

UNIT = Path(__file__).parents[1] / "unit" / "compatibility"
MATRIX = matrix.load()
CASES = yaml.safe_load((UNIT / "cases.yaml").read_text())
CONVERSIONS = yaml.safe_load((UNIT / "conversions.yaml").read_text())["cases"]
NAMESPACE = "admission"
# What the API server answers is the same on every kind of cluster: one is enough.
pytestmark = pytest.mark.parametrize("cluster", ["native-ipv4"], indirect=True, scope="session")
SERVED = {"v1", "apps/v1", "batch/v1", "networking.k8s.io/v1"}
OURS = {"NetworkLogging"}

# A denial shows the first rule that refuses, a warning every one: with this beside the cluster's own binding, each rule is heard.
ALL_WORDS = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "ValidatingAdmissionPolicyBinding",
    "metadata": {"name": "test-all-words"},
    "spec": {"policyName": "provisioner-unsupported", "validationActions": ["Warn"]},
}


def asked(rule: matrix.Rule) -> bool:
    """Whether the rule's objects ever come to the admission policies."""
    return any(admission._is_served(kind) for kind in rule.kinds)


DENIED = [name for name, rule in MATRIX.rules.items() if asked(rule) and rule.admission_on(Dataplane.ANETD) is Admission.DENY]
WARNED = [name for name, rule in MATRIX.rules.items() if asked(rule) and rule.admission_on(Dataplane.ANETD) is Admission.WARN]


def create(cluster: Cluster, document: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Put it to the API server, which judges it and keeps nothing."""
    command = [cluster.kubectl_path, "--kubeconfig", str(cluster.kubeconfig), "create", "--dry-run=server", "-f", "-"]
    return subprocess.run(command, input=yaml.safe_dump(document), capture_output=True, text=True, timeout=60, check=False)


def foreign() -> list[dict[str, Any]]:
    """Every case and near miss of a kind that neither Kubernetes nor anetd serves."""
    documents = [document for case in CASES.values() for document in case.values()]
    documents = [document for document in documents if document["kind"] not in OURS]
    return [document for document in documents if document["apiVersion"] not in SERVED and "provisioner.dev" not in document["apiVersion"]]


def definitions() -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for document in foreign():
        group, _, version = document["apiVersion"].partition("/")
        plural = document["kind"].lower() + "s"
        schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        found[f"{plural}.{group}"] = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{plural}.{group}", "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"}},
            "spec": {
                "group": group,
                "names": {"kind": document["kind"], "plural": plural},
                "scope": "Namespaced" if document["metadata"].get("namespace") else "Cluster",
                "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
            },
        }
    return list(found.values())


@pytest.fixture(scope="session")
def foreign_kinds(cluster: Cluster) -> Iterator[None]:
    """The definitions of all those kinds, as they would be on a cluster that had them before anetd came."""
    wanted = definitions()
    names = [item["metadata"]["name"] for item in wanted]
    bindings = cluster.get("validatingadmissionpolicybindings", "-l", "app=anetd")["items"]
    assert bindings
    for binding in bindings:
        kept = ("annotations", "managedFields", "uid", "resourceVersion", "creationTimestamp", "generation")
        binding["metadata"] = {key: value for key, value in binding["metadata"].items() if key not in kept}
    cluster.kubectl("delete", "validatingadmissionpolicybindings", "-l", "app=anetd")
    try:
        # The API server's policies are its memory of the objects: it lets go of them in its own time.
        eventually(lambda: applied(cluster, wanted), within=60, what="definitions are taken without the policies")
    finally:
        cluster.apply(*bindings, ALL_WORDS)
    try:
        cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", *(f"crd/{name}" for name in names), timeout=70)
        refused = CASES["sctp-service"]["trips"]
        eventually(lambda: create(cluster, refused).returncode != 0, within=60, what="the policies are at work again")
        yield
    finally:
        cluster.kubectl("delete", "validatingadmissionpolicybinding", "--ignore-not-found", ALL_WORDS["metadata"]["name"])
        cluster.kubectl("delete", "crd", "--ignore-not-found", *names, timeout=120)


def applied(cluster: Cluster, documents: list[dict[str, Any]]) -> bool:
    cluster.apply(*documents)
    return True


def is_taken(answer: subprocess.CompletedProcess[str]) -> bool:
    """Also where there is one of that name: that is found out after admission."""
    return answer.returncode == 0 or "(AlreadyExists)" in answer.stderr


@pytest.mark.parametrize("name", DENIED)
def test_what_is_unsupported_is_refused_in_the_matrix_s_words_and_the_near_miss_is_not(
    cluster: Cluster, foreign_kinds: None, name: str
) -> None:
    rule, case = MATRIX.rules[name], CASES[name]
    answer = create(cluster, case["trips"])
    assert answer.returncode != 0, answer.stdout
    assert flat(admission.message(rule, Dataplane.ANETD)) in flat(answer.stderr)
    near = create(cluster, case["passes"])
    assert f"[{name}]" not in near.stderr
    # The near miss of one rule may be the case of another.
    assert is_taken(near) or "denied request" in near.stderr


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("name", WARNED)
def test_what_is_only_warned_about_is_taken_with_the_matrix_s_words(cluster: Cluster, foreign_kinds: None, name: str) -> None:
    answer = create(cluster, CASES[name]["trips"])
    assert is_taken(answer), answer.stderr
    assert flat(admission.message(MATRIX.rules[name], Dataplane.ANETD)) in flat(answer.stderr)
    assert f"[{name}]" not in create(cluster, CASES[name]["passes"]).stderr


def test_definitions_of_unsupported_kinds_are_refused_and_others_are_not(cluster: Cluster, foreign_kinds: None) -> None:
    kept = {
        kind
        for rule in MATRIX.rules.values()
        if rule.defines and rule.admission_on(Dataplane.ANETD) is Admission.DENY
        for kind in rule.kinds
    }
    for definition in definitions():
        group, kind = definition["spec"]["group"], definition["spec"]["names"]["kind"]
        definition["metadata"]["name"] = f"renamed{definition['metadata']['name']}"
        definition["spec"]["names"]["plural"] = f"renamed{definition['spec']['names']['plural']}"
        answer = create(cluster, definition)
        expected = f"{group}/{kind}" in kept or f"{group}/*" in kept
        assert ("denied request" in answer.stderr) == expected, (group, kind, answer.stderr)


def test_what_is_vetted_passes_without_a_word(cluster: Cluster, foreign_kinds: None) -> None:
    for name in ("sctp-service", "host-port", "other-cni", "istio-injection"):
        answer = create(cluster, CASES[name]["passes"])
        assert (answer.returncode, answer.stderr) == (0, ""), name


def test_every_converted_policy_is_taken_by_the_api_server(cluster: Cluster, foreign_kinds: None) -> None:
    from ipaddress import ip_network

    ranges = [ip_network("10.244.0.0/16"), ip_network("172.30.0.0/24")]
    for name, case in CONVERSIONS.items():
        policy = {"kind": case.get("kind", "CiliumNetworkPolicy"), "metadata": {"name": "p", "namespace": "default"}}
        conversion = convert({**policy, **{key: case[key] for key in ("spec", "specs") if key in case}}, ranges)
        for made in conversion.policies:
            made["metadata"]["namespace"] = "default"  # type: ignore[index]
            answer = create(cluster, dict(made))
            assert is_taken(answer), (name, answer.stderr)


def test_what_goes_away_may_lose_its_finalizers(cluster: Cluster, foreign_kinds: None) -> None:
    """An object of an unsupported kind that was there before: made while its rule is not asked, deleted while it is."""
    policy = {
        **CASES["cilium-network-policy"]["trips"],
        "metadata": {"name": "old", "namespace": "default", "finalizers": ["example.com/hold"]},
    }
    binding = cluster.get("validatingadmissionpolicybinding", "provisioner-unsupported")
    body = {key: binding[key] for key in ("apiVersion", "kind", "spec")} | {
        "metadata": {"name": "provisioner-unsupported", "labels": {"app": "anetd"}}
    }
    cluster.kubectl("delete", "validatingadmissionpolicybinding", "provisioner-unsupported")
    try:
        eventually(lambda: applied(cluster, [policy]), within=60, what="the policy is taken")
    finally:
        cluster.apply(body)
    eventually(lambda: create(cluster, CASES["sctp-service"]["trips"]).returncode != 0, within=60, what="the policies are at work again")
    cluster.kubectl("delete", "ciliumnetworkpolicy", "old", "-n", "default", "--wait=false")
    cluster.kubectl("patch", "ciliumnetworkpolicy", "old", "-n", "default", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    eventually(lambda: not cluster.kubectl("get", "ciliumnetworkpolicy", "old", "-n", "default", "--ignore-not-found"), what="it is gone")


# --- check and deploy on the running cluster ---


def gate(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [cluster.provisioner, *arguments, "--kubeconfig", str(cluster.kubeconfig), "--context", f"provisioner-{cluster.name}"]
    return subprocess.run([*command, "--output", "json"], capture_output=True, text=True, timeout=180, check=False)


def without_policies(cluster: Cluster) -> None:
    """Namespaces of other tests go away in their own time, and their NetworkPolicies with them."""
    eventually(lambda: not cluster.get("networkpolicies", "-A")["items"], within=90, what="no NetworkPolicy is left")


def test_check_of_the_cluster_finds_nothing_then_a_network_policy(cluster: Cluster) -> None:
    without_policies(cluster)
    first = gate(cluster, "check")
    assert first.returncode == 0, first.stdout
    assert json.loads(first.stdout)["dataplane"] == "anetd"
    with cluster.namespace(NAMESPACE) as namespace:
        cluster.apply({**CASES["network-policy"]["trips"], "metadata": {"name": "deny", "namespace": namespace}})
        found = json.loads(gate(cluster, "check").stdout)["findings"]
        wanted = MATRIX.rules["network-policy"].severity_on(Dataplane.ANETD) is not None
        assert [(item["rule"], item["object"]) for item in found] == [("network-policy", f"NetworkPolicy {namespace}/deny")] * wanted


def test_deploying_what_is_there_changes_nothing(cluster: Cluster) -> None:
    without_policies(cluster)

    def versions() -> dict[str, str]:
        items = cluster.get("daemonsets,deployments,services,configmaps", "-n", "kube-system")["items"]
        items += cluster.get("validatingadmissionpolicies,validatingadmissionpolicybindings,clusterroles", "-l", "app=anetd")["items"]
        return {
            f"{item['kind']} {item['metadata']['name']}": str(item["metadata"].get("generation", "")) + str(item.get("data"))
            for item in items
        }

    before = versions()
    done = gate(cluster, "deploy", cluster.name)
    assert done.returncode == 0, done.stderr
    assert versions() == before


def test_deploy_is_refused_by_the_gates_before_anything_is_applied(cluster: Cluster) -> None:
    without_policies(cluster)
    done = gate(cluster, "deploy", cluster.name, "--pod-cidr", "10.99.0.0/16")
    assert done.returncode == 4, done.stderr
    findings = json.loads(done.stderr.splitlines()[-1])["error"]["findings"]
    assert {item["rule"] for item in findings} == {"pod-cidr-outside"}
    config = cluster.get("configmap", "anetd-config", "-n", "kube-system")["data"]["config.json"]
    assert "10.99.0.0/16" not in json.loads(config)["podCIDRs"]


def test_what_may_not_be_read_is_named_and_ends_with_2(cluster: Cluster, tmp_path: Path) -> None:
    with cluster.namespace(NAMESPACE) as namespace:
        cluster.kubectl("create", "serviceaccount", "viewer", "-n", namespace)
        token = cluster.kubectl("create", "token", "viewer", "-n", namespace).strip()
        config = yaml.safe_load(cluster.kubeconfig.read_text())
        for user in config["users"]:
            user["user"] = {"token": token}
        path = tmp_path / "viewer"
        path.write_text(yaml.safe_dump(config))
        command = [cluster.provisioner, "check", "--kubeconfig", str(path), "--context", f"provisioner-{cluster.name}", "--output", "json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    found = json.loads(done.stdout)["findings"]
    assert {item["rule"] for item in found} == {"not-checked"}
    assert "networking.k8s.io/NetworkPolicy" in {item["object"] for item in found}


def test_what_was_allowed_is_recorded_on_the_cluster_and_no_longer_refused(cluster: Cluster, tmp_path: Path) -> None:
    """It changes the cluster's policies, and puts them back."""
    config = tmp_path / "spec.json"
    config.write_text(json.dumps(cluster.describe()["spec"]))
    again = (cluster.provisioner, "create-cluster", "--config", str(config), "--dataplane-v2", "--no-kubeconfig", "--timeout", "5m")
    try:
        run(*again, "--allow", "sctp-service=for this test", timeout=330)
        assert cluster.describe()["spec"]["spec"]["allow"] == {"sctp-service": "for this test"}
        recorded = cluster.get("configmap", "provisioner-gates", "-n", "kube-system")["data"]["allowed"]
        assert json.loads(recorded) == {"sctp-service": "for this test"}
        eventually(lambda: create(cluster, CASES["sctp-service"]["trips"]).returncode == 0, within=60, what="the Service is taken")
    finally:
        run(*again, timeout=330)
    eventually(lambda: create(cluster, CASES["sctp-service"]["trips"]).returncode != 0, within=60, what="the Service is refused again")
