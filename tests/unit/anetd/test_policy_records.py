"""Pods, Namespaces and NetworkPolicies from their JSON: what is kept, what narrows, and what is told of a policy that would be refused."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from agent.watch.network_policies import network_policy, problems
from agent.watch.policy_records import Block, ContainerPort, Operator, Peer, PolicyPort, Requirement, Rule, Selector, namespace, pod
from agent.watch.records import Key

TCP, UDP, SCTP = 6, 17, 132


def test_of_a_pod_is_kept_what_policies_ask() -> None:
    found = pod(
        {
            "metadata": {
                "namespace": "n",
                "name": "p",
                "uid": "u",
                "labels": {"b": "2", "a": "1"},
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {
                "nodeName": "node",
                "initContainers": [
                    {"restartPolicy": "Always", "ports": [{"name": "proxy", "containerPort": 15001}]},
                    {"ports": [{"name": "once", "containerPort": 1}]},
                ],
                "containers": [
                    {
                        "ports": [
                            {"name": "http", "containerPort": 80},
                            {"containerPort": 81},
                            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                        ]
                    }
                ],
            },
            "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, {"ip": ""}]},
        }
    )
    assert found.key == Key("n", "p")
    assert found.labels == (("a", "1"), ("b", "2"))
    assert found.addresses == (ip_address("10.0.0.1"), ip_address("fd00::1"))
    assert found.ports == (ContainerPort("http", TCP, 80), ContainerPort("dns", UDP, 53), ContainerPort("proxy", TCP, 15001))
    assert (found.node, found.host_network, found.finished) == ("node", False, False)


@pytest.mark.parametrize(
    ("phase", "finished"), [("Pending", False), ("Running", False), ("Succeeded", True), ("Failed", True), ("Unknown", False)]
)
def test_a_pod_that_succeeded_or_failed_has_finished(phase: str, finished: bool) -> None:
    assert pod({"metadata": {"name": "p"}, "status": {"phase": phase}}).finished is finished


@pytest.mark.parametrize(
    ("owner", "labels", "workload"),
    [
        (None, {}, ("Pod", "p")),
        ({"kind": "ReplicaSet", "name": "web-7d4b9c"}, {"pod-template-hash": "7d4b9c"}, ("Deployment", "web")),
        ({"kind": "ReplicaSet", "name": "web-7d4b9c"}, {}, ("ReplicaSet", "web-7d4b9c")),
        ({"kind": "ReplicaSet", "name": "own"}, {"pod-template-hash": "7d4b9c"}, ("ReplicaSet", "own")),
        ({"kind": "StatefulSet", "name": "db"}, {}, ("StatefulSet", "db")),
        ({"kind": "Job", "name": "once"}, {}, ("Job", "once")),
        ({"kind": "Job", "name": "nightly-29012345"}, {}, ("CronJob", "nightly")),
        ({"kind": "Node", "name": "node"}, {}, ("Pod", "p")),
    ],
)
def test_the_workload_of_a_pod_follows_from_its_controller(owner: Any, labels: dict[str, str], workload: tuple[str, str]) -> None:
    owners = [{"kind": "Other", "name": "other"}, {**owner, "controller": True}] if owner else []
    assert pod({"metadata": {"name": "p", "labels": labels, "ownerReferences": owners}}).workload == workload


def test_a_namespace_asks_for_its_log_with_the_word_true() -> None:
    annotation = "policy.network.gke.io/enable-deny-logging"
    assert namespace({"metadata": {"name": "n", "annotations": {annotation: "true"}}}).log_denied
    assert not namespace({"metadata": {"name": "n", "annotations": {annotation: "yes"}}}).log_denied


def policy(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "n", "name": "p", "uid": "u"},
        "spec": {"podSelector": {}, **spec},
    }


@pytest.mark.parametrize(
    ("spec", "ingress", "egress"),
    [
        ({}, (), None),
        ({"ingress": []}, (), None),
        ({"egress": []}, (), None),
        ({"egress": [{}]}, (), (Rule(),)),
        ({"policyTypes": ["Egress"]}, None, ()),
        ({"policyTypes": ["Egress"], "ingress": [{}]}, None, ()),
        ({"policyTypes": ["Ingress", "Egress"], "ingress": [{}]}, (Rule(),), ()),
        ({"policyTypes": [], "egress": [{}]}, (), (Rule(),)),
    ],
)
def test_directions_default_as_the_api_says(spec: dict[str, Any], ingress: Any, egress: Any) -> None:
    found = network_policy(policy(**spec))
    assert (found.ingress, found.egress) == (ingress, egress)
    assert problems(policy(**spec)) == []


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ({}, Rule()),
        ({"from": [], "ports": []}, Rule()),
        ({"from": None, "ports": None}, Rule()),
        ({"ports": [{}]}, Rule(None, (PolicyPort(TCP),))),
        ({"ports": [{"protocol": "SCTP", "port": 7}]}, Rule(None, (PolicyPort(SCTP, 7),))),
        ({"ports": [{"port": "http"}]}, Rule(None, (PolicyPort(TCP, "http"),))),
        ({"ports": [{"port": 1, "endPort": 65535, "protocol": "UDP"}]}, Rule(None, (PolicyPort(UDP, 1, 65535),))),
        ({"from": [{"podSelector": {}}]}, Rule((Peer(Selector()),))),
        ({"from": [{"namespaceSelector": {}}]}, Rule((Peer(None, Selector()),))),
        ({"from": [{"ipBlock": {"cidr": "10.0.0.1/8"}}]}, Rule((Peer(block=Block(ip_network("10.0.0.0/8"))),))),
        (
            {"from": [{"ipBlock": {"cidr": "fd00::/8", "except": ["fd01::/16"]}}]},
            Rule((Peer(block=Block(ip_network("fd00::/8"), (ip_network("fd01::/16"),))),)),
        ),
        (
            {
                "from": [
                    {
                        "podSelector": {
                            "matchLabels": {"b": "2"},
                            "matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["y", "x"]}],
                        }
                    }
                ]
            },
            Rule((Peer(Selector((Requirement("a", Operator.NOT_IN, ("x", "y")), Requirement("b", Operator.IN, ("2",))))),)),
        ),
    ],
)
def test_rules_are_read_as_the_api_says(rule: dict[str, Any], wanted: Rule) -> None:
    assert network_policy(policy(ingress=[rule])).ingress == (wanted,)
    assert problems(policy(ingress=[rule])) == []


NOTHING = Rule((), ())
NOBODY, NO_PORT = Rule(()), Rule(None, ())
BAD_RULES: list[tuple[Any, Rule, str]] = [
    ("all", NOTHING, "spec.ingress[0]: "),
    ({"form": [{"podSelector": {}}]}, NOTHING, "spec.ingress[0].form: "),
    ({"from": {"podSelector": {}}}, NOTHING, "spec.ingress[0].from: "),
    ({"from": [{}]}, NOBODY, "spec.ingress[0].from[0]: "),
    ({"from": [{"podSelector": None}]}, NOBODY, "spec.ingress[0].from[0]: "),
    ({"from": [{"podselector": {}}]}, NOBODY, "spec.ingress[0].from[0].podselector: "),
    ({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}, NOBODY, "spec.ingress[0].from[0]: "),
    ({"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}, NOBODY, "spec.ingress[0].from[0].ipBlock.cidr: "),
    ({"from": [{"ipBlock": {"cidr": "10.0.0.1"}}]}, NOBODY, "spec.ingress[0].from[0].ipBlock.cidr: "),
    ({"from": [{"ipBlock": {"cidr": "::ffff:10.0.0.0/104"}}]}, NOBODY, "spec.ingress[0].from[0].ipBlock.cidr: "),
    ({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["ten"]}}]}, NOBODY, "spec.ingress[0].from[0].ipBlock.except[0]: "),
    ({"from": [{"podSelector": {"matchLabels": {"a": 1}}}]}, NOBODY, "spec.ingress[0].from[0].podSelector.matchLabels['a']: "),
    ({"from": [{"podSelector": {"matchLabels": {"-a": "b"}}}]}, NOBODY, "spec.ingress[0].from[0].podSelector.matchLabels['-a']: "),
    (
        {"from": [{"namespaceSelector": {"matchExpressions": [{"key": "not a key", "operator": "DoesNotExist"}]}}]},
        NOBODY,
        "spec.ingress[0].from[0].namespaceSelector.matchExpressions[0].key: ",
    ),
    (
        {"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "in", "values": ["b"]}]}}]},
        NOBODY,
        "spec.ingress[0].from[0].podSelector.matchExpressions[0].operator: ",
    ),
    (
        {"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "NotIn"}]}}]},
        NOBODY,
        "spec.ingress[0].from[0].podSelector.matchExpressions[0].values: ",
    ),
    (
        {"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}}]},
        NOBODY,
        "spec.ingress[0].from[0].podSelector.matchExpressions[0].values: ",
    ),
    ({"ports": [{"protocol": "tcp"}]}, NO_PORT, "spec.ingress[0].ports[0].protocol: "),
    ({"ports": [{"port": 0}]}, NO_PORT, "spec.ingress[0].ports[0].port: "),
    ({"ports": [{"port": 65536}]}, NO_PORT, "spec.ingress[0].ports[0].port: "),
    ({"ports": [{"port": True}]}, NO_PORT, "spec.ingress[0].ports[0].port: "),
    ({"ports": [{"port": "80"}]}, NO_PORT, "spec.ingress[0].ports[0].port: "),
    ({"ports": [{"port": "HTTP"}]}, NO_PORT, "spec.ingress[0].ports[0].port: "),
    ({"ports": [{"endPort": 80}]}, NO_PORT, "spec.ingress[0].ports[0].endPort: "),
    ({"ports": [{"port": "http", "endPort": 80}]}, NO_PORT, "spec.ingress[0].ports[0].endPort: "),
    ({"ports": [{"port": 80, "endPort": 79}]}, NO_PORT, "spec.ingress[0].ports[0].endPort: "),
    ({"ports": [{"prot": "TCP"}]}, NO_PORT, "spec.ingress[0].ports[0].prot: "),
]


@pytest.mark.parametrize(("rule", "wanted", "where"), BAD_RULES)
def test_what_the_api_would_refuse_in_a_rule_allows_nothing_and_is_told(rule: Any, wanted: Rule, where: str) -> None:
    document = policy(ingress=[rule, {}])
    assert network_policy(document).ingress == (wanted, Rule())
    (problem,) = problems(document)
    assert problem.startswith(where)
    assert "; " in problem


def test_of_a_rule_the_parts_that_can_be_read_still_allow() -> None:
    document = policy(ingress=[{"from": [{"podSelector": {}}, {}], "ports": [{"port": 0}, {"port": 80}]}])
    assert network_policy(document).ingress == (Rule((Peer(Selector()),), (PolicyPort(TCP, 80),)),)
    assert len(problems(document)) == 2


def test_an_exception_outside_of_its_block_is_told_and_changes_nothing() -> None:
    document = policy(ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8", "10.0.0.0/8"]}}]}])
    assert [line.partition(": ")[0] for line in problems(document)] == [f"spec.ingress[0].from[0].ipBlock.except[{n}]" for n in (0, 1)]
    (rule,) = network_policy(document).ingress or ()
    assert rule.peers is not None


@pytest.mark.parametrize("spec", [{"podSelector": {"matchLabels": "all"}}, {"podSelector": "all"}, {"podSelector": {"match": {}}}])
def test_a_policy_whose_selector_cannot_be_read_is_one_of_all_pods(spec: dict[str, Any]) -> None:
    assert network_policy(policy(**spec)).pods == Selector()
    assert len(problems(policy(**spec))) == 1


@pytest.mark.parametrize("types", ["Ingress", ["ingress"], [1]])
def test_a_policy_whose_types_cannot_be_read_isolates_in_both_directions(types: Any) -> None:
    found = network_policy(policy(policyTypes=types))
    assert (found.ingress, found.egress) == ((), ())
    assert len(problems(policy(policyTypes=types))) == 1


def test_a_spec_that_is_none_isolates_and_allows_nothing() -> None:
    found = network_policy({"metadata": {"namespace": "n", "name": "p"}, "spec": ["ingress"]})
    assert (found.pods, found.ingress, found.egress) == (Selector(), (), ())


@pytest.mark.parametrize("document", [None, [], "policy", {}, {"kind": "NetworkPolicy", "metadata": {"name": "A_B"}}, {"metadata": "p"}])
def test_documents_that_are_no_policy_are_told_and_never_raise(document: Any) -> None:
    assert problems(document)


def test_a_policy_asks_for_its_log_with_the_word_true() -> None:
    document = policy()
    document["metadata"]["annotations"] = {"policy.network.gke.io/enable-logging": "true"}
    assert network_policy(document).log_allowed
