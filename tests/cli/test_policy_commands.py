"""`policy explain` and `policy matrix`: what is gathered and asked, what is refused before anything is, and how the answer is shown.

The compiler's own answers are judged elsewhere; here one is given in its place where only its showing matters.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from provisioner.cli import policy_explain, policy_matrix, policy_objects, policy_verify
from provisioner.deploy.client import UnavailableError

from .conftest import Run


def pod(name: str, address: str, **labels: str) -> dict[str, Any]:
    container = {"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": labels},
        "spec": {"nodeName": "n1", "containers": [container]},
        "status": {"phase": "Running", "podIPs": [{"ip": address}]},
    }


def policy(name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "shop"}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": {"podSelector": {}, **spec}}


SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"selector": {"app": "back"}, "ports": [{"name": "http", "port": 80, "targetPort": "web"}]},
}
OBJECTS = [pod("front", "10.0.0.1", app="front"), pod("back", "10.0.0.2", app="back"), SERVICE]
ALLOW = policy("allow", ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "front"}}}], "ports": [{"port": 8080}]}])


@pytest.fixture
def manifests(tmp_path: Path) -> str:
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump_all(OBJECTS))
    return str(file)


def written(directory: Path, *objects: Any) -> str:
    file = directory / "more.yaml"
    file.write_text(yaml.safe_dump_all(objects))
    return str(file)


ENDS = ("--from", "shop/front", "--to", "shop/back", "--port", "8080")
SIDE = {"judged": True, "allowed": True, "isolated": False, "why": "no policy isolates it", "policies": [], "rules": [], "changes": []}
CHANGE = {"policy": "shop/deny", "direction": "ingress", "index": None, "lacks": ["rule"], "words": "shop/deny has no rule for ingress"}
PATH = {
    "source": {"pod": "shop/front", "address": "10.0.0.1", "node": "n1", "workload": ""},
    "destination": {"pod": "shop/back", "address": "10.0.0.2", "node": "n2", "workload": "", "port": 8080},
    "verdict": "denied",
    "egress": SIDE,
    "ingress": {**SIDE, "allowed": False, "isolated": True, "why": "shop/deny isolates shop/back", "changes": [CHANGE]},
}
ANSWER = {"from": "pod:shop/front", "to": "pod:shop/back", "protocol": "TCP", "port": "8080", "verdict": "denied", "paths": [PATH]}


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands in for the compiler's process: what it was asked. It denies everything."""
    asked: list[Any] = []

    def answer(words: Any, objects: Any, limit: Any) -> dict[str, Any]:
        asked.append((list(words), objects.document()))
        return json.loads(json.dumps(ANSWER))

    monkeypatch.setattr(policy_explain, "ask_compiler", answer)
    return asked


@pytest.mark.parametrize(
    ("arguments", "code", "field"),
    [
        (("--to", "shop/back", "--port", "1"), 3, "--from"),
        (("--from", "shop/front", "--port", "1"), 3, "--to"),
        (("--from", "shop/front", "--to", "shop/back"), 3, "--port"),
        (ENDS, 3, "NAME"),
        ((*ENDS, "--file", "/nowhere.yaml"), 6, "--file"),
        ((*ENDS, "demo", "--context", "other"), 3, "--context"),
        ((*ENDS, "--file", "-", "--verify"), 3, "--verify"),
        ((*ENDS, "--verify"), 3, "--verify"),
        ((*ENDS, "--expect", "perhaps"), 3, "--expect"),
        ((*ENDS, "--file", "-", "--timeout", "soon"), 3, "--timeout"),
    ],
)
def test_a_wrong_line_is_refused_before_anything_is_asked(
    run: Run, compiler: list[Any], arguments: tuple[str, ...], code: int, field: str
) -> None:
    result = run("policy", "explain", *arguments, "--output", "json")
    assert (result.code, result.error["field"]) == (code, field)
    assert compiler == []


def test_a_policy_that_the_api_server_would_refuse_is_named_with_file_line_and_field(
    run: Run, compiler: list[Any], manifests: str, tmp_path: Path
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: bad, namespace: shop}\nspec:\n"
        "  podSelector: {}\n  ingress:\n    - ports:\n        - port: 80\n          endPort: 70\n"
    )
    result = run("policy", "explain", *ENDS, "--file", manifests, "--file", str(file), "--output", "json")
    assert (result.code, result.error["field"]) == (3, "spec.ingress[0].ports[0].endPort")
    (detail,) = result.error["details"]
    assert (detail["file"], detail["line"], detail["object"]) == (str(file), 9, "NetworkPolicy shop/bad")
    assert "70 is less than the port 80" in result.error["message"]
    assert compiler == []


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", "just words"])
def test_what_is_no_manifest_is_told_with_its_place(run: Run, compiler: list[Any], tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    result = run("policy", "explain", *ENDS, "--file", str(file), "--output", "json")
    assert (result.code, result.error["field"]) == (3, "--file")
    assert str(file) in result.error["message"]


def test_an_unknown_pod_gets_the_nearest_name(run: Run, compiler: list[Any], manifests: str) -> None:
    result = run("policy", "explain", "--from", "shop/frnt", *ENDS[2:], "--file", manifests, "--output", "json")
    assert (result.code, result.error["field"]) == (6, "--from")
    assert "shop/front" in result.error["remedy"]
    assert compiler == []


def test_a_port_that_a_service_does_not_have_gets_those_that_it_has(run: Run, compiler: list[Any], manifests: str) -> None:
    line = ("--from", "shop/front", "--to", "shop/web", "--port", "8080", "--file", manifests, "--output", "json")
    result = run("policy", "explain", *line)
    assert (result.code, result.error["field"]) == (6, "--port")
    assert "80/TCP (http)" in result.error["remedy"]


def test_files_of_every_shape_are_gathered_and_the_later_one_counts(run: Run, compiler: list[Any], manifests: str, tmp_path: Path) -> None:
    directory = tmp_path / "more"
    directory.mkdir()
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "shop"}}
    (directory / "list.yaml").write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [ALLOW, deployment]}))
    bare = {"metadata": {"name": "other", "namespace": "shop"}, "spec": {"podSelector": {}}}
    (directory / "typed.json").write_text(json.dumps({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicyList", "items": [bare]}))
    later = written(tmp_path, policy("allow", policyTypes=["Egress"]))
    result = run("policy", "explain", *ENDS, "--file", manifests, "--file", str(directory), "--file", later)
    assert result.code == 0
    ((words, document),) = compiler
    assert words == ["explain", "--from", "pod:shop/front", "--to", "pod:shop/back", "--protocol", "TCP", "--port", "8080"]
    specs = {item["metadata"]["name"]: item["spec"] for item in document["networkpolicies"]}
    assert specs == {"allow": {"podSelector": {}, "policyTypes": ["Egress"]}, "other": {"podSelector": {}}}
    assert [item["metadata"]["name"] for item in document["namespaces"]] == ["shop"]
    assert "1 object is of a kind that decides nothing here" in result.err


def test_a_denial_is_an_answer_and_an_expectation_makes_a_test_of_it(run: Run, compiler: list[Any], manifests: str) -> None:
    line = ("policy", "explain", *ENDS, "--file", manifests)
    assert run(*line).code == 0
    assert run(*line, "--expect", "denied").code == 0
    assert run(*line, "--expect", "allowed").code == 2
    assert run(*line, "--expect", "allowed", "--output", "json").json["verdict"] == "denied"


def test_the_text_names_verdict_sides_policies_and_what_would_have_to_change(run: Run, compiler: list[Any], manifests: str) -> None:
    text = run("policy", "explain", *ENDS, "--file", manifests).out
    assert text.startswith("DENIED  shop/front -> shop/back, 8080/TCP\n")
    assert "shop/front (10.0.0.1) -> shop/back (10.0.0.2), 8080/TCP: denied" in text
    assert re.search(r"egress +allowed +no policy isolates it", text)
    assert re.search(r"ingress +denied +shop/deny isolates shop/back", text)
    assert "- shop/deny has no rule for ingress" in text
    assert max(map(len, text.splitlines())) <= 120


def test_a_cluster_that_does_not_answer_is_told_after_the_files_were_read(
    run: Run, compiler: list[Any], monkeypatch: pytest.MonkeyPatch, manifests: str
) -> None:
    class Silent:
        def get(self, path: str, **query: str) -> Any:
            raise UnavailableError("connection refused")

    monkeypatch.setattr(policy_explain, "client_of", lambda *_: Silent())
    result = run("policy", "explain", "demo", *ENDS, "--file", manifests, "--output", "json")
    assert (result.code, result.error["id"]) == (9, "upstream-failure")
    result = run("policy", "explain", "demo", *ENDS, "--file", "/nowhere", "--output", "json")
    assert result.code == 6


class Api:
    """A cluster's objects, a page at a time, and the agents' pods."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        self.objects = objects

    def get(self, path: str, **query: str) -> Any:
        if query.get("labelSelector"):
            return {"items": [{"metadata": {"name": f"anetd-{node}"}, "spec": {"nodeName": node}} for node in ("n1", "n2")]}
        kind = {"pods": "Pod", "services": "Service", "networkpolicies": "NetworkPolicy"}.get(path.rpartition("/")[2], "")
        items = [item for item in self.objects if item["kind"] == kind]
        at = int(query.get("continue", "0"))
        return {"items": items[at : at + 1], "metadata": {"continue": str(at + 1)} if at + 1 < len(items) else {}}


def test_a_cluster_s_objects_are_read_page_by_page_and_a_file_s_stand_in_their_place(
    run: Run, compiler: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(policy_explain, "client_of", lambda *_: Api(*OBJECTS, policy("allow"), policy("deny")))
    assert run("policy", "explain", "demo", *ENDS, "--file", written(tmp_path, ALLOW)).code == 0
    ((_, document),) = compiler
    assert {item["metadata"]["name"] for item in document["pods"]} == {"front", "back"}
    specs = {item["metadata"]["name"]: item["spec"] for item in document["networkpolicies"]}
    assert specs == {"allow": ALLOW["spec"], "deny": {"podSelector": {}}}


@pytest.mark.parametrize(
    ("row", "code", "state", "words"),
    [
        ({"allowed": False, "isolated": True}, 0, "agrees", "the kernel of n2 denies it too"),
        ({"allowed": True, "isolated": True}, 2, "differs", "the kernel of n2 allows it"),
        ({"allowed": True, "isolated": False}, 2, "differs", "the kernel of n2 allows it, and the pod is not isolated there"),
        (None, 2, "unknown", "the kernel of n2 has no say: it is no pod of n2"),
        ("anetd: it does not answer", 2, "unknown", "the kernel of n2 was not asked: anetd: it does not answer"),
    ],
)
def test_verifying_asks_the_node_of_each_side_and_ends_with_2_where_it_does_not_agree(
    run: Run, compiler: list[Any], monkeypatch: pytest.MonkeyPatch, row: Any, code: int, state: str, words: str
) -> None:
    asked = []

    def rows(client: Any, agent: str | None, node: str, path: Any, protocol: str) -> Any:
        asked.append((agent, node, protocol))
        if isinstance(row, str) and node == "n2":
            return row
        sides = {"egress": {"kernel": {"allowed": True, "isolated": False}}, "ingress": {"why": f"it is no pod of {node}"}}
        return sides | ({"ingress": {"kernel": row}} if row else {})

    monkeypatch.setattr(policy_explain, "client_of", lambda *_: Api(*OBJECTS))
    monkeypatch.setattr(policy_verify, "_rows", rows)
    result = run("policy", "explain", "demo", *ENDS, "--verify", "--output", "json")
    assert result.code == code
    assert asked == [("anetd-n1", "n1", "TCP"), ("anetd-n2", "n2", "TCP")]
    (path,) = result.json["paths"]
    assert [path[name]["kernel"]["state"] for name in ("egress", "ingress")] == ["agrees", state]
    assert words in run("policy", "explain", "demo", *ENDS, "--verify").out


MATRIX = {
    "workloads": [{"namespace": "shop", "kind": "Pod", "name": name, "pods": 1} for name in ("a", "b")],
    "cells": [[0, 1], [2, 0]],
    "verdicts": [{"verdict": verdict, "ports": []} for verdict in ("allowed", "denied", "partly")],
}


@pytest.fixture
def matrix(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    asked: list[Any] = []
    monkeypatch.setattr(policy_matrix, "ask_compiler", lambda words, *_: asked.append(list(words)) or MATRIX)
    return asked


def test_the_matrix_is_a_table_of_marks_with_a_legend(run: Run, matrix: list[Any], manifests: str) -> None:
    lines = run("policy", "matrix", "--file", manifests).out.splitlines()
    assert [line.split()[-2:] for line in lines[:3]] == [["1", "2"], ["+", "-"], ["o", "+"]]
    assert lines[1].split()[:2] == ["1", "shop/a"]
    assert matrix == [["matrix"]]
    assert run("policy", "matrix", "--file", manifests, "--output", "json").json == MATRIX


def test_a_namespace_is_asked_for_by_its_name_and_the_nearest_is_offered(run: Run, matrix: list[Any], manifests: str) -> None:
    assert run("policy", "matrix", "--file", manifests, "--namespace", "shop").code == 0
    assert matrix == [["matrix", "--namespace", "shop"]]
    result = run("policy", "matrix", "--file", manifests, "--namespace", "shpo", "--output", "json")
    assert (result.code, result.error["field"]) == (6, "--namespace")
    assert "shop" in result.error["remedy"]


def test_the_page_needs_nothing_else_and_names_stay_data(run: Run, monkeypatch: pytest.MonkeyPatch, manifests: str) -> None:
    evil = json.loads(json.dumps(MATRIX))
    evil["workloads"][0]["name"] = "</script><script>alert(1)</script>"
    monkeypatch.setattr(policy_matrix, "ask_compiler", lambda *_: evil)
    page = run("policy", "matrix", "--file", manifests, "--output", "html").out
    assert page.startswith("<!doctype html>")
    assert page.count("<script") == page.count("</script>") == 2
    assert not re.search(r"(?:src|href)\s*=|https?://|@import|url\(", page)
    assert "default-src 'none'" in page
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    assert json.loads(data[1]) == {"title": "manifests", "matrix": evil}


@pytest.mark.parametrize(
    ("target", "port", "policies", "verdict"),
    [
        ("shop/back", "8080", (), "allowed"),
        ("shop/back", "8080", (ALLOW,), "allowed"),
        ("shop/back", "8081", (ALLOW,), "denied"),
        ("shop/web", "http", (ALLOW,), "allowed"),
        ("shop/back", "web", (policy("deny", policyTypes=["Ingress"]),), "denied"),
        ("192.0.2.1", "443", (policy("out", policyTypes=["Egress"], egress=[{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}]),), "allowed"),
        ("192.0.3.1", "443", (policy("out", policyTypes=["Egress"], egress=[{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}]),), "denied"),
    ],
)
def test_the_agent_s_own_compiler_answers_over_files_alone(
    run: Run, manifests: str, tmp_path: Path, target: str, port: str, policies: Any, verdict: str
) -> None:
    more = ("--file", written(tmp_path, *policies)) if policies else ()
    line = ("policy", "explain", "--from", "shop/front", "--to", target, "--port", port, "--file", manifests, *more)
    result = run(*line, "--output", "json", "--expect", verdict)
    assert (result.code, result.json["verdict"]) == (0, verdict)


def test_the_agent_s_own_compiler_draws_the_matrix_over_files_alone(run: Run, manifests: str, tmp_path: Path) -> None:
    found = run("policy", "matrix", "--file", manifests, "--file", written(tmp_path, ALLOW), "--output", "json").json
    names = [workload["name"] for workload in found["workloads"]]
    cells = {
        (names[i], names[j]): found["verdicts"][place]["verdict"] for i, row in enumerate(found["cells"]) for j, place in enumerate(row)
    }
    # Both pods are isolated: the policy selects every pod of the namespace.
    assert cells == {("back", "back"): "none", ("back", "front"): "denied", ("front", "back"): "partly", ("front", "front"): "none"}


def test_the_compiler_s_failure_is_told_with_its_own_words(run: Run, monkeypatch: pytest.MonkeyPatch, manifests: str) -> None:
    class Done:
        returncode, stdout, stderr = 1, "", "Traceback\nValueError: no such thing\n"

    monkeypatch.setattr(policy_objects.subprocess, "run", lambda *_, **__: Done())
    result = run("policy", "explain", *ENDS, "--file", manifests, "--output", "json")
    assert (result.code, result.error["id"]) == (1, "internal")
    assert "no such thing" in result.error["message"]
