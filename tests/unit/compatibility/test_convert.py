"""What `policy convert` writes means what the original means: judged by a reading of NetworkPolicy that shares no line with the converter."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
import yaml

from provisioner.compatibility.convert import convert

DATA = yaml.safe_load((Path(__file__).parent / "conversions.yaml").read_text())
RANGES = [ip_network("10.244.0.0/16"), ip_network("172.30.0.0/24")]
ADDRESSES = {name: f"10.244.1.{number}" for number, name in enumerate(DATA["pods"], 1)}


def original(case):
    body = {key: case[key] for key in ("spec", "specs") if key in case}
    return {
        "apiVersion": "cilium.io/v2",
        "kind": case.get("kind", "CiliumNetworkPolicy"),
        "metadata": {"name": "p", "namespace": "shop"},
        **body,
    }


def matches(selector, labels):
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for expression in selector.get("matchExpressions", []):
        value = labels.get(expression["key"])
        holds = {
            "In": value is not None and value in expression.get("values", []),
            "NotIn": value not in expression.get("values", []),
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }[expression["operator"]]
        if not holds:
            return False
    return True


def is_peer(peer, policy_namespace, end):
    if "ipBlock" in peer:
        address = ip_address(ADDRESSES.get(end, end))
        block = peer["ipBlock"]
        return address in ip_network(block["cidr"]) and not any(address in ip_network(text) for text in block.get("except", []))
    if end not in DATA["pods"]:
        return False
    namespace = end.split("/")[0]
    if "namespaceSelector" in peer:
        if not matches(peer["namespaceSelector"], DATA["namespaces"][namespace]):
            return False
    elif namespace != policy_namespace:
        return False
    return matches(peer.get("podSelector", {}), DATA["pods"][end])


def is_port(port, number, protocol):
    if port.get("protocol", "TCP") != protocol:
        return False
    return "port" not in port or port["port"] <= number <= port.get("endPort", port["port"])


def passes(policies, source, target, number, protocol):
    for pod, other, direction, rules, peers in ((target, source, "Ingress", "ingress", "from"), (source, target, "Egress", "egress", "to")):
        if pod not in DATA["pods"]:
            continue
        selecting = [
            policy
            for policy in policies
            if policy["metadata"]["namespace"] == pod.split("/")[0]
            and direction in policy["spec"]["policyTypes"]
            and matches(policy["spec"]["podSelector"], DATA["pods"][pod])
        ]
        allowed = any(
            (not rule.get(peers) or any(is_peer(peer, policy["metadata"]["namespace"], other) for peer in rule[peers]))
            and (not rule.get("ports") or any(is_port(port, number, protocol) for port in rule["ports"]))
            for policy in selecting
            for rule in policy["spec"].get(rules, [])
        )
        if selecting and not allowed:
            return False
    return True


CONNECTIONS = [
    (name, connection, verdict) for name, case in DATA["cases"].items() for verdict in ("allowed", "denied") for connection in case[verdict]
]


@pytest.mark.parametrize(("name", "connection", "verdict"), CONNECTIONS, ids=[" | ".join(item) for item in CONNECTIONS])
def test_a_converted_policy_gives_the_verdicts_of_the_original(name, connection, verdict):
    conversion = convert(original(DATA["cases"][name]), RANGES)
    assert not conversion.lacks
    source, target, port = connection.split()
    number, protocol = port.split("/")
    assert passes(conversion.policies, source, target, int(number), protocol) == (verdict == "allowed")


@pytest.mark.parametrize("name", DATA["no_equal"])
def test_what_has_no_equal_is_named_by_its_field_and_nothing_is_written(name):
    case = DATA["no_equal"][name]
    conversion = convert(original(case), RANGES)
    assert sorted(lack.field for lack in conversion.lacks) == sorted(case["fields"])
    assert all(lack.reason for lack in conversion.lacks)
    assert conversion.policies == []


def test_a_cidr_has_no_equal_where_the_cluster_s_ranges_are_not_known():
    case = DATA["cases"]["a CIDR with exceptions"]
    conversion = convert(original(case))
    assert [lack.field for lack in conversion.lacks] == ["spec.egress[0].toCIDRSet[0].cidr"]
    assert "--cluster-cidr" in conversion.lacks[0].reason


def test_names_labels_and_annotations_are_kept_but_for_kubectl_s_copy_of_the_original():
    policy = original(DATA["cases"]["an empty rule allows nothing"])
    policy["metadata"] |= {
        "labels": {"a": "b"},
        "annotations": {"policy.network.gke.io/enable-logging": "true", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
    }
    (made,) = convert(policy).policies
    assert made["metadata"] == {
        "name": "p",
        "namespace": "shop",
        "labels": {"a": "b"},
        "annotations": {"policy.network.gke.io/enable-logging": "true"},
    }


@pytest.mark.parametrize(
    "policy", [{}, {"spec": 1}, {"spec": {"endpointSelector": [], "ingress": {}, "egress": "x"}}, {"metadata": 1, "specs": {}}]
)
def test_policies_of_strange_shapes_have_no_equal_and_are_no_crash(policy):
    assert convert(policy).lacks
