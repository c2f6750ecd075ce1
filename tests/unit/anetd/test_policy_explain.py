"""Explanations and the matrix against the oracle, on examples, and as commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from agent.main import main
from agent.policy import explanation
from agent.policy.explain import Path as Way
from agent.policy.explain import explain
from agent.policy.matrix import join, matrix, meet
from agent.policy.objects import DocumentError, Objects, read
from agent.policy.parties import PartyError, parties, targets

from .policy_objects import NUMBERS, Cluster, Document, ask, namespace, peers_match, pod, pod_at, policy, ports_match
from .test_policy_oracle import LIGHT, PODS, PROBES, clusters


def objects(cluster: Cluster, **more: list[Document]) -> Objects:
    return read(json.dumps(document(cluster, **more)))


def document(cluster: Cluster, **more: list[Document]) -> Document:
    tables = {"pods": cluster.pods, "namespaces": cluster.namespaces, "networkpolicies": cluster.policies}
    return {name: list(found.values()) for name, found in tables.items()} | more


def sides(cluster: Cluster, way: Way, protocol: str, port: int) -> Iterator[tuple[Any, Any]]:
    """What is said of each end, and what the documentation says."""
    for side, own, other in ((way.egress, way.source, way.destination), (way.ingress, way.destination, way.source)):
        if side.judged:
            direction = side.direction.name.lower()
            yield side, ask(cluster, str(own.pod.key) if own.pod else "", str(other.address), direction, protocol, port)


@given(clusters())
@LIGHT
def test_every_explanation_says_what_the_documentation_says(cluster: Cluster) -> None:
    cluster.local = {}
    found = objects(cluster)
    ends = [end for name in PODS if name in cluster.pods for end in parties(found, name)]
    # A pod that another has taken the address of is not there any more.
    ends = [end for end in ends if pod_at(cluster, str(end.address)) is cluster.pods[str(end.pod.key if end.pod else "")]]
    for source in ends:
        for each in ends:
            if source.pod == each.pod or source.address.version != each.address.version:
                continue
            for protocol, port in PROBES[:4]:
                (destination,) = [
                    t for t in targets(found, str(each.pod.key if each.pod else ""), 6, str(port)) if t.address == each.address
                ]
                way = explain(found, source, destination, NUMBERS[protocol])
                for side, wanted in sides(cluster, way, protocol, port):
                    assert (side.allowed, side.isolated) == (wanted.allowed, wanted.isolated)
                    assert {(str(d.ref.policy), d.ref.direction.name.lower(), d.ref.index) for d in side.rules} == wanted.by
                    check_lacks(cluster, side, way, protocol, port)


def check_lacks(cluster: Cluster, side: Any, way: Way, protocol: str, port: int) -> None:
    direction, word = (side.direction.name.lower(), "from" if side.direction.name == "INGRESS" else "to")
    other = way.source if word == "from" else way.destination
    for change in side.changes:
        of = cluster.policies[str(change.policy)]
        rules = of["spec"].get(direction) or ()
        if change.index is None:
            assert not rules
            continue
        rule = rules[change.index]
        destination = cluster.pods[str(way.destination.pod.key)] if way.destination.pod else None
        peer = peers_match(cluster, of, rule.get(word), str(other.address), pod_at(cluster, str(other.address)))
        named = ports_match(rule.get("ports"), destination, protocol, port)
        assert change.lacks == tuple(name for name, holds in (("peer", peer), ("port", named)) if not holds)


@given(clusters())
@LIGHT
def test_every_cell_of_the_matrix_says_what_the_documentation_says(cluster: Cluster) -> None:
    cluster.local = {}
    for name, each in list(cluster.pods.items()):
        if any(pod_at(cluster, row["ip"]) is not each for row in each["status"]["podIPs"]):
            del cluster.pods[name]
    for protocol, port in PROBES[:2]:
        found = matrix(objects(cluster), ports=[(NUMBERS[protocol], port)])
        names = [f"{w['namespace']}/{w['name']}" for w in found["workloads"]]
        assert sorted(names) == sorted(cluster.pods)
        for source, row in zip(names, found["cells"], strict=True):
            for destination, place in zip(names, row, strict=True):
                answers = set(reachable(cluster, source, destination, protocol, port))
                wanted = "none" if not answers else "mixed" if len(answers) > 1 else "allowed" if True in answers else "denied"
                assert found["verdicts"][place]["verdict"] == wanted, (source, destination)


def reachable(cluster: Cluster, source: str, destination: str, protocol: str, port: int) -> Iterator[bool]:
    if source == destination:
        return
    for a in addresses(cluster, source):
        for b in addresses(cluster, destination):
            if (":" in a) == (":" in b):
                sends = ask(cluster, source, b, "egress", protocol, port)
                takes = ask(cluster, destination, a, "ingress", protocol, port)
                yield sends.allowed and takes.allowed


def addresses(cluster: Cluster, name: str) -> list[str]:
    return [row["ip"] for row in cluster.pods[name]["status"]["podIPs"]]


# Examples.

NODE = {"metadata": {"name": "node-1"}, "status": {"addresses": [{"type": "InternalIP", "address": "10.9.0.1"}]}}
SERVICE = {
    "metadata": {"namespace": "b", "name": "shop"},
    "spec": {"clusterIPs": ["10.96.0.1"], "ports": [{"name": "h", "port": 80, "targetPort": "http"}]},
}
SLICE = {
    "metadata": {"namespace": "b", "name": "shop-1", "labels": {"kubernetes.io/service-name": "shop"}},
    "addressType": "IPv4",
    "endpoints": [{"addresses": ["10.0.1.1"]}, {"addresses": ["10.0.1.2"]}, {"addresses": ["10.0.1.3"], "conditions": {"ready": False}}],
    "ports": [{"name": "h", "port": 8080}],
}


@pytest.fixture
def shop() -> Cluster:
    web = {"labels": {"app": "web"}, "ports": [("http", "TCP", 8080)], "node": "node-2"}
    return Cluster(
        {
            "a/p": pod("a/p", "10.0.0.1", labels={"app": "x"}),
            "b/one": pod("b/one", "10.0.1.1", **web),
            "b/two": pod("b/two", "10.0.1.2", **web),
            "c/host": pod("c/host", "10.9.0.1", host=True),
        },
        {name: namespace(name) for name in "abc"},
        {
            "b/web": policy(
                "b/web",
                podSelector={"matchLabels": {"app": "web"}},
                ingress=[
                    {"from": [{"podSelector": {"matchLabels": {"app": "y"}}}], "ports": [{"port": "http"}]},
                    {
                        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "a"}}}],
                        "ports": [{"port": 1, "endPort": 99}],
                    },
                    {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/24"]}}]},
                ],
            )
        },
    )


def asked(cluster: Cluster, source: str, destination: str, port: str, protocol: int = 6) -> Document:
    found = objects(cluster, nodes=[NODE], services=[SERVICE], endpointslices=[SLICE])
    ways = [explain(found, parties(found, source)[0], end, protocol) for end in targets(found, destination, protocol, port)]
    return explanation.document(source, destination, port, ways, found.problems)


def test_a_denial_says_what_each_rule_lacks(shop: Cluster) -> None:
    found = asked(shop, "a/p", "b/one", "http")
    (path,) = found["paths"]
    assert found["verdict"] == "denied"
    assert path["egress"]["why"] == "no policy isolates a/p for egress"
    changes = {change["index"]: change for change in path["ingress"]["changes"]}
    assert {index: change["lacks"] for index, change in changes.items()} == {0: ["peer"], 1: ["port"], 2: ["peer"]}
    assert "a/p is not in namespace b and a/p has app=x (app=y is wanted)" in changes[0]["words"]
    assert "TCP 1-99 is not 8080" in changes[1]["words"]
    assert "10.0.0.1 is in the exception 10.0.0.0/24" in changes[2]["words"]


def test_a_service_is_its_ready_backends_at_their_port(shop: Cluster) -> None:
    found = asked(shop, "c/host", "b/shop", "80")
    assert [(path["destination"]["pod"], path["destination"]["port"]) for path in found["paths"]] == [("b/one", 8080), ("b/two", 8080)]
    assert found["verdict"] == "allowed"
    assert {rule["index"] for path in found["paths"] for rule in path["ingress"]["rules"]} == {2}
    assert asked(shop, "c/host", "10.96.0.1", "h")["paths"] == found["paths"]


@pytest.mark.parametrize(
    ("source", "destination", "side", "why"),
    [
        ("c/host", "a/p", "egress", "c/host is on the host's network, which policies do not isolate"),
        ("c/host", "a/p", "ingress", "a pod and its own node node-1 always reach each other"),
        ("10.9.0.1", "a/p", "ingress", "a pod and its own node node-1 always reach each other"),
        ("a/p", "192.0.2.1", "ingress", "192.0.2.1 is no pod of the cluster"),
        ("b/one", "b/one", "ingress", "a pod always reaches itself"),
    ],
)
def test_where_policies_have_no_say_that_is_said(shop: Cluster, source: str, destination: str, side: str, why: str) -> None:
    shop.policies["a/deny"] = policy("a/deny", policyTypes=["Ingress", "Egress"])
    (path,) = asked(shop, source, destination, "80")["paths"]
    found = path[side]
    assert (found["judged"], found["allowed"], found["why"]) == (False, True, why)


def test_another_node_is_judged(shop: Cluster) -> None:
    shop.policies = {"b/deny": policy("b/deny")}
    (path,) = asked(shop, "10.9.0.1", "b/one", "80")["paths"]
    assert path["ingress"]["judged"]
    assert path["verdict"] == "denied"
    assert path["ingress"]["changes"][0]["lacks"] == ["rule"]


@pytest.mark.parametrize(
    ("source", "destination", "port", "message"),
    [
        ("a/q", "b/one", "80", "there is no pod a/q"),
        ("a/p", "b/none", "80", "there is neither a pod nor a Service b/none"),
        ("a/p", "service:b/none", "80", "there is no Service b/none"),
        ("a/p", "b/shop", "81", "the Service b/shop has no port TCP 81; it has TCP 80"),
        ("a/p", "b/one", "https", "b/one has no port TCP https"),
        ("a/p", "b/one", "70000", "b/one has no port TCP 70000"),
        ("somewhere", "b/one", "80", "'somewhere' is neither an address nor NAMESPACE/NAME"),
        ("a/", "b/one", "80", "'a/' is no NAMESPACE/NAME"),
    ],
)
def test_an_end_that_is_not_there_is_told(shop: Cluster, source: str, destination: str, port: str, message: str) -> None:
    with pytest.raises(PartyError, match=message.replace(".", r"\.")):
        asked(shop, source, destination, port)


def test_the_text_has_the_verdict_and_every_reason(shop: Cluster) -> None:
    shop.policies["c/bad"] = policy("c/bad", ingress=[{"form": []}])
    lines = explanation.text(asked(shop, "a/p", "b/shop", "80")).splitlines()
    assert lines[0] == "a/p -> b/shop, TCP 80: denied"
    assert "a/p (10.0.0.1) -> b/one (10.0.1.1), TCP 8080: denied" in lines
    assert "  ingress: denied: b/web isolates b/one for ingress, and no rule allows it" in lines
    assert lines[-1].startswith("  spec.ingress[0].form: ")


def test_the_matrix_groups_pods_by_workload_and_says_which_ports(shop: Cluster) -> None:
    for name in ("b/one", "b/two"):
        shop.pods[name]["metadata"]["ownerReferences"] = [{"kind": "StatefulSet", "name": "web", "controller": True}]
    found = matrix(objects(shop))
    assert [(w["namespace"], w["kind"], w["name"], w["pods"]) for w in found["workloads"]] == [
        ("a", "Pod", "p", 1),
        ("b", "StatefulSet", "web", 2),
    ]
    cells = [[found["verdicts"][place] for place in row] for row in found["cells"]]
    assert [[cell["verdict"] for cell in row] for row in cells] == [["none", "partly"], ["allowed", "allowed"]]
    assert cells[0][1]["ports"] == ["TCP 1-99"]
    assert cells[0][1]["ingress"] == {
        "isolated": True,
        "policies": ["b/web"],
        "rules": [{"policy": "b/web", "index": 1, "ports": ["TCP 1-99"]}],
    }
    assert cells[1][1]["ingress"]["rules"] == [{"policy": "b/web", "index": 2, "ports": ["everything"]}]


def test_workloads_whose_pods_differ_are_mixed(shop: Cluster) -> None:
    for name, app in (("b/one", "web"), ("b/two", "other")):
        shop.pods[name]["metadata"]["ownerReferences"] = [{"kind": "StatefulSet", "name": "web", "controller": True}]
        shop.pods[name]["metadata"]["labels"] = {"app": app}
    found = matrix(objects(shop), ports=[(6, 443)])
    (verdict,) = [found["verdicts"][found["cells"][0][1]]]
    assert (verdict["verdict"], verdict["ports"], verdict["ingress"]["policies"]) == ("mixed", [], ["b/web"])


def test_a_matrix_of_namespaces_has_no_others(shop: Cluster) -> None:
    assert [w["namespace"] for w in matrix(objects(shop), ["b"])["workloads"]] == ["b", "b"]


def test_intervals_meet_and_join() -> None:
    assert join([(5, 9), (1, 2), (3, 4), (20, 30), (25, 40)]) == ((1, 9), (20, 40))
    assert meet([(1, 9), (20, 40)], [(5, 25)]) == ((5, 9), (20, 25))
    assert meet([(1, 2)], [(3, 4)]) == ()


# Documents and commands.


def test_objects_may_come_as_kubectl_prints_them(shop: Cluster) -> None:
    parts = [
        {"kind": "List", "items": [{"kind": "Pod", **each} for each in shop.pods.values()]},
        {"kind": "NamespaceList", "items": list(shop.namespaces.values())},
        *shop.policies.values(),
        {"kind": "ConfigMap", "metadata": {"name": "other"}},
    ]
    found = read("\n---\n".join(map(json.dumps, parts)))
    same = read(json.dumps({"pods": {"items": list(shop.pods.values())}, "namespaces": list(shop.namespaces.values())}))
    assert (found.pods, found.namespaces) == (same.pods, same.namespaces)
    assert [str(each) for each in found.policies] == ["b/web"]


@pytest.mark.parametrize("text", ["{", "[]", '{"pods": ["a"]}', '"pods"'])
def test_what_is_no_document_of_objects_is_told(text: str) -> None:
    with pytest.raises(DocumentError):
        read(text)


def test_the_commands_answer_from_a_file(shop: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "objects.json"
    path.write_text(json.dumps(document(shop)))
    question = ["policy", "explain", "--objects", str(path), "--from", "a/p", "--to", "b/one", "--port", "80"]
    assert main([*question, "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "allowed"
    assert main(question) == 0
    assert capsys.readouterr().out.startswith("a/p -> b/one, TCP 80: allowed")
    assert main(["policy", "matrix", "--objects", str(path), "--port", "80", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["ports"] == ["TCP 80"]
    assert main(["policy", "matrix", "--objects", str(path), "--namespace", "b"]) == 0
    assert "b/one (Pod)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--from", "a/p", "--to", "b/one"], 1, "TCP needs a port"),
        (["--from", "a/nobody", "--to", "b/one", "--port", "80"], 1, "there is no pod a/nobody"),
    ],
)
def test_a_question_that_has_no_answer_fails(
    shop: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    path = tmp_path / "objects.json"
    path.write_text(json.dumps(document(shop)))
    assert main(["policy", "explain", "--objects", str(path), *arguments]) == status
    assert message in capsys.readouterr().err


def test_a_file_that_is_no_document_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "objects.json"
    path.write_text("{")
    for file in (str(path), str(tmp_path / "missing")):
        assert main(["policy", "matrix", "--objects", file]) == 2
        assert capsys.readouterr().err.startswith("anetd: ")
