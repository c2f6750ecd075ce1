"""`anetd policy explain` on a node: the objects' answer, and beside it that of the rows which the kernel really has."""

from __future__ import annotations

import json
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

import pytest

from agent.datapath.policy_rows import PolicyKey
from agent.observe.policy_metrics import PolicyMetrics
from agent.observe.policy_question import explain
from agent.policy.inputs import Changes
from agent.policy.objects import Objects, read
from agent.policy.verdict import Tables
from agent.policysync import PolicySynchronizer
from agent.watch.records import Key

from .policy_kernel import Kernel
from .policy_objects import namespace, pod, policy

PODS = [
    pod("n/web", "10.1.0.1", "fd00::1", ports=[("http", "TCP", 8080)], labels={"app": "web"}),
    pod("n/friend", "10.1.0.2", "fd00::2", labels={"friend": "yes"}),
    pod("n/far", "10.2.0.3", labels={"app": "far"}, node="node-2"),
    pod("n/host", "172.30.0.1", host=True),
]
RULE = {"from": [{"podSelector": {"matchLabels": {"friend": "yes"}}}], "ports": [{"port": "http"}]}
WEB = policy("n/web", podSelector={"matchLabels": {"app": "web"}}, ingress=[RULE])
NODE = {"metadata": {"name": "node-1"}, "status": {"addresses": [{"type": "InternalIP", "address": "172.30.0.1"}]}}


class Node:
    """An agent with a kernel in memory, whose pods are those of node-1."""

    def __init__(self, *policies: Any) -> None:
        objects = read(json.dumps({"pods": PODS, "namespaces": [namespace("n")], "networkpolicies": policies, "nodes": [NODE]}))
        self.kernel = Kernel()
        datapath = self.kernel.datapath()
        tables = Tables(self.kernel.rows["policies"], self.kernel.rows["classes"], self.kernel.rows["isolation"])
        # As the kernel looks its tables up: by the longest row that covers the key.
        datapath.isolation.get = tables.isolation.get
        datapath.classes.get = lambda network: tables.class_of(network.network_address)
        datapath.policies.get = lambda key: tables._row(key.set, key.peer_class, key.protocol << 16 | key.port)
        synchronizer = PolicySynchronizer(datapath, PolicyMetrics())
        here = {key: each.addresses for key, each in objects.pods.items() if each.node == "node-1" and not each.host_network}
        synchronizer.begin(Changes(objects.pods, objects.namespaces, objects.policies, here))
        self.agent: Any = SimpleNamespace(
            serving=SimpleNamespace(policies=synchronizer, datapath=datapath),
            policy=SimpleNamespace(in_force=True, **_watches(objects)),
            nodes=_watch({Key("", name): each for name, each in objects.nodes.items()}),
            services=_watch(objects.services),
            slices=_watch(objects.slices),
        )

    def ask(self, source: str, destination: str, port: str = "8080", protocol: str = "TCP") -> Any:
        return explain(self.agent, json.dumps({"from": source, "to": destination, "port": port, "protocol": protocol}))


def _watch(found: Any) -> Any:
    return SimpleNamespace(snapshot=lambda: found)


def _watches(objects: Objects) -> dict[str, Any]:
    spaces = {Key("", name): each for name, each in objects.namespaces.items()}
    return {"pods": _watch(objects.pods), "namespaces": _watch(spaces), "policies": _watch(objects.policies)}


def sides(document: Any, name: str) -> list[Any]:
    return [path[name].get("kernel") for path in document["paths"]]


@pytest.mark.parametrize(
    ("source", "port", "allowed"),
    [
        ("n/friend", "8080", True),
        ("n/friend", "http", True),
        ("n/friend", "8081", False),
        ("n/far", "8080", False),
        ("192.0.2.1", "8080", False),
    ],
)
def test_a_kernel_that_has_the_rows_says_what_the_objects_say(source: str, port: str, allowed: bool) -> None:
    found = Node(WEB).ask(source, "n/web", port)
    assert found["verdict"] == ("allowed" if allowed else "denied")
    for kernel in sides(found, "ingress"):
        assert (kernel["isolated"], kernel["allowed"]) == (True, allowed)
        assert kernel["rules"] == (["n/web ingress[0]"] if allowed else [])
        assert bool(kernel["ruleId"]) == allowed


def test_a_pod_that_nothing_isolates_has_no_rows_and_passes() -> None:
    found = Node().ask("n/friend", "n/web")
    for name in ("egress", "ingress"):
        assert [(each["isolated"], each["allowed"], each["set"]) for each in sides(found, name)] == [(False, True, 0)] * 2


def test_a_kernel_that_lost_or_kept_a_row_is_seen() -> None:
    node = Node(WEB)
    gone = [key for key in node.kernel.rows["policies"] if isinstance(key, PolicyKey)]
    for key in gone:
        del node.kernel.rows["policies"][key]
    found = node.ask("n/friend", "n/web")
    assert found["verdict"] == "allowed"
    assert [each["allowed"] for each in sides(found, "ingress")] == [False, False]
    node.kernel.rows["isolation"].pop(ip_address("10.1.0.1"))
    assert [each["isolated"] for each in sides(node.ask("n/friend", "n/web"), "ingress")] == [False, True]


def test_the_kernel_is_asked_for_this_node_s_pods_alone_and_only_where_policies_have_a_say() -> None:
    node = Node(WEB)
    assert sides(node.ask("n/web", "n/far"), "ingress") == [None]
    assert sides(node.ask("n/web", "n/far"), "egress") != [None]
    assert sides(node.ask("n/web", "n/web"), "ingress") == [None, None]
    assert sides(node.ask("172.30.0.1", "n/web"), "ingress") == [None]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("n/nobody", "n/web"), "there is no pod n/nobody"),
        (("n/friend", "n/web", ""), "needs a port"),
        (("n/friend", "n/web", "1", "GRE"), "GRE"),
        (("n/friend", "n/web", "dns"), "dns"),
    ],
)
def test_a_question_that_cannot_be_answered_says_why(asked: tuple[str, ...], words: str) -> None:
    assert words in Node(WEB).ask(*asked)["error"]


def test_an_agent_that_has_not_heard_of_everything_says_so() -> None:
    node = Node(WEB)
    node.agent.policy.in_force = False
    assert "does not know" in node.ask("n/friend", "n/web")["error"]
