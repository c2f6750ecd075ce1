"""NetworkPolicies as the API documentation means them: truth tables over nine pods in three namespaces, and what happens when things change."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from .kube import Cluster, agent_process, eventually, run, toolbox_pod
from .policylab import (
    SERVICE_PORTS,
    Lab,
    Probe,
    add_pod,
    add_services,
    build_image,
    clear_policies,
    enforce,
    explained,
    outside,
    policies,
    policy,
    prober_pod,
    wait_running,
)

HERE = Path(__file__).parent
TABLES = yaml.safe_load((HERE / "network_policies.yaml").read_text())
REFUSED = yaml.safe_load((HERE.parent / "unit" / "policies" / "refused.yaml").read_text())
SPACES = {"x": {"ns": "x", "team": "red"}, "y": {"ns": "y", "team": "red"}, "z": {"ns": "z", "team": "blue"}}
TIERS = {"a": {"tier": "web"}, "b": {"tier": "db"}, "c": {}}
NAMED = {"a": (80, "TCP"), "b": (81, "TCP"), "c": (80, "UDP")}
PORTS = ("80/TCP", "81/TCP", "80/UDP", "81/UDP")
SERVED = ("79/TCP", "82/TCP", *PORTS)
SPACE_X = {"matchLabels": {"ns": "x"}}

on = partial(pytest.mark.parametrize, "cluster", indirect=True)
one_kind = on(["native-dual"])
every_path = on(["native-dual", "vxlan-dual"])


def node_of(space: str, pod: str) -> int:
    return 1 if pod == "b" or (space, pod) == ("y", "c") else 0


@pytest.fixture(scope="module")
def lab(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Nine pods in x, y and z, a host-network pod on each node, and the outside."""
    directory = tmp_path_factory.mktemp("prober")
    image, archive = build_image(directory)
    run(cluster.provisioner, "load-image", cluster.name, str(archive), timeout=120)
    made = Lab(cluster, image)
    nodes = cluster.nodes()
    with ExitStack() as stack:
        stack.callback(made.close)
        for space, labels in SPACES.items():
            stack.enter_context(cluster.namespace(space))
            cluster.kubectl("label", "namespace", space, *(f"{key}={value}" for key, value in labels.items()))
        pods = []
        for space in SPACES:
            for pod, tier in TIERS.items():
                number, protocol = NAMED[pod]
                ports = {"ports": [{"name": "serve", "containerPort": number, "protocol": protocol}]}
                pods.append(prober_pod(made, space, pod, nodes[node_of(space, pod)], {"pod": pod, **tier}, SERVED, container=ports))
        for number, node in enumerate(nodes):
            pods.append(
                prober_pod(made, "x", f"host-{number}", node, {"pod": "host"}, SERVED, serves_as=f"node/{number}", hostNetwork=True)
            )
        cluster.apply(*pods)
        for space in SPACES:
            wait_running(cluster, space, *TIERS, *(f"host-{number}" for number in range(len(nodes)) if space == "x"))
        for pod in pods:
            add_pod(made, pod["metadata"]["namespace"], pod["metadata"]["name"])
        for space in SPACES:
            add_services(made, space, TIERS)
        stack.enter_context(outside(made, directory, SERVED))
        yield made


@pytest.fixture(autouse=True)
def without_policies(request: pytest.FixtureRequest) -> None:
    if "lab" in request.fixturenames:
        clear_policies(request.getfixturevalue("cluster"), SPACES)


def of_table(table: dict[str, Any], lab: Lab) -> list[dict[str, Any]]:
    return [policy(*name.split("/"), lab.filled(spec)) for name, spec in table["policies"].items()]


@every_path
def test_without_policies_everybody_reaches_everybody(lab: Lab) -> None:
    """The control of all that follows: whatever is silent there is so by a policy."""
    lab.settle(dict.fromkeys(lab.probes(SERVED), True))


@one_kind
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table["name"])
def test_a_truth_table(lab: Lab, table: dict[str, Any]) -> None:
    judge(lab, table)


@on(["vxlan-dual"])
@pytest.mark.parametrize("table", [table for table in TABLES if table.get("short")], ids=lambda table: table["name"])
def test_a_truth_table_without_socket_hooks_and_over_the_tunnel(lab: Lab, table: dict[str, Any]) -> None:
    judge(lab, table)


def judge(lab: Lab, table: dict[str, Any]) -> None:
    probes = lab.probes(table.get("ports", PORTS))
    wanted = lab.wanted(table["closed"], table.get("open", ()), probes)
    assert not all(wanted.values())
    with policies(lab.cluster, *of_table(table, lab)):
        lab.settle(wanted)


ONE = ("80/TCP", "80/UDP")
"""Where one port of each protocol says all there is to say."""
DENY = {"podSelector": {}, "policyTypes": ["Ingress"]}


def only_from(pod: str, peer: dict[str, Any]) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": {"pod": pod}}, "ingress": [{"from": [peer]}]}


def settle(lab: Lab, closed: list[str], opened: list[str] | None = None, **which: Any) -> None:
    lab.settle(lab.wanted(closed, opened or (), lab.probes(ONE, **which)))


@every_path
def test_the_labels_of_a_peer_that_change_open_and_close(lab: Lab) -> None:
    cluster = lab.cluster
    targets = ["x/a", "z/c"]
    with policies(cluster, policy("x", "p", only_from("a", {"namespaceSelector": {}, "podSelector": {"matchLabels": {"friend": "yes"}}}))):
        settle(lab, ["* -> x/a"], targets=targets)
        try:
            cluster.kubectl("label", "pod", "-n", "y", "b", "friend=yes")
            settle(lab, ["* -> x/a"], ["y/b -> x/a"], targets=targets)
        finally:
            cluster.kubectl("label", "pod", "-n", "y", "b", "friend-")
        settle(lab, ["* -> x/a"], targets=targets)


@one_kind
def test_the_labels_of_an_isolated_pod_that_change_free_it_and_isolate_it(lab: Lab) -> None:
    cluster = lab.cluster
    targets = ["x/c", "z/c"]
    cluster.kubectl("label", "pod", "-n", "x", "c", "isolated=yes")
    try:
        spec = {"podSelector": {"matchLabels": {"isolated": "yes"}}, "policyTypes": ["Ingress", "Egress"]}
        with policies(cluster, policy("x", "p", spec)):
            settle(lab, ["* -> x/c", "x/c -> *"], targets=targets)
            cluster.kubectl("label", "pod", "-n", "x", "c", "isolated=no", "--overwrite")
            settle(lab, [], targets=targets)
            cluster.kubectl("label", "pod", "-n", "x", "c", "isolated=yes", "--overwrite")
            settle(lab, ["* -> x/c", "x/c -> *"], targets=targets)
    finally:
        cluster.kubectl("label", "pod", "-n", "x", "c", "isolated-")


@one_kind
def test_the_labels_of_a_namespace_that_change_open_and_close(lab: Lab) -> None:
    cluster = lab.cluster
    targets = ["x/a", "z/c"]
    with policies(cluster, policy("x", "p", only_from("a", {"namespaceSelector": {"matchLabels": {"team": "blue"}}}))):
        settle(lab, ["* -> x/a"], ["z/* -> x/a"], targets=targets)
        try:
            cluster.kubectl("label", "namespace", "y", "team=blue", "--overwrite")
            settle(lab, ["* -> x/a"], ["[yz]/* -> x/a"], targets=targets)
        finally:
            cluster.kubectl("label", "namespace", "y", "team=red", "--overwrite")
        settle(lab, ["* -> x/a"], ["z/* -> x/a"], targets=targets)


@one_kind
def test_a_policy_that_is_edited_and_deleted_is_followed(lab: Lab) -> None:
    cluster = lab.cluster
    targets = ["x/a", "z/c"]
    with policies(cluster, policy("x", "p", DENY)):
        settle(lab, ["* -> x/*"], targets=targets)
        enforce(cluster, policy("x", "p", {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": 80}]}]}))
        settle(lab, ["* -> x/*"], ["x/* -> x/* 80/TCP"], targets=targets)
        enforce(cluster, policy("x", "p", {"podSelector": {"matchLabels": {"pod": "b"}}}))
        settle(lab, [], targets=targets)
        enforce(cluster, policy("x", "p", DENY))
        settle(lab, ["* -> x/*"], targets=targets)
    settle(lab, [], targets=targets)


def kept(lab: Lab, source: str, target: str, name: str) -> None:
    """Open a connection that stays."""
    address = lab.address(target, lab.cluster.families[-1])
    eventually(lambda: lab.askers[source].ask([f"keep {name} {address} 80"], 3000)[name].startswith(f"= {target} "), what=f"{name} is open")


def speaks(lab: Lab, source: str, name: str, milliseconds: int = 2000) -> str:
    return lab.askers[source].ask([f"say {name}"], milliseconds)[name]


@every_path
@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_a_live_connection_is_cut_with_its_allow_and_goes_on_when_the_last_policy_goes(lab: Lab, direction: str) -> None:
    """TCP repeats what is lost ever more seldom: what was silent for a while may take as long again to be heard."""
    flows = {"cut": ("y/b", "x/a"), "kept": ("z/a", "x/a"), "near": ("z/c", "x/a")}

    to_x = [{"to": [{"namespaceSelector": SPACE_X}]}]

    def spec(*names: str) -> list[dict[str, Any]]:
        chosen = {"matchExpressions": [{"key": "ns", "operator": "In", "values": list(names)}]}
        if direction == "ingress":
            return [policy("x", "p", only_from("a", {"namespaceSelector": chosen}))]
        return [
            policy(space, "p", {"podSelector": {}, "policyTypes": ["Egress"], "egress": to_x if space in names else []})
            for space in ("y", "z")
        ]

    for name, (source, target) in flows.items():
        kept(lab, source, target, name)
    try:
        with policies(lab.cluster, *spec("y", "z")):
            settle(lab, ["x/[bc]|node/1|outside -> x/a"] if direction == "ingress" else ["[yz]/* -> z/b"], targets=["x/a", "z/b"])
            assert {name: speaks(lab, source, name) for name, (source, _) in flows.items()} == dict.fromkeys(flows, "= again")
            enforce(lab.cluster, *spec("z"))
            eventually(lambda: speaks(lab, "y/b", "cut") == "silent", what="the flow is cut")
            assert [speaks(lab, flows[name][0], name) for name in ("kept", "near", "cut")] == ["= again", "= again", "silent"]
        for name, (source, _) in flows.items():
            eventually(lambda name=name, source=source: speaks(lab, source, name, 4000) == "= again", within=60, what=f"{name} goes on")
    finally:
        for name, (source, _) in flows.items():
            lab.askers[source].ask([f"end {name}"], 10)


@one_kind
def test_answers_of_an_isolated_pod_pass_and_what_it_begins_does_not(lab: Lab) -> None:
    """A connection has one direction, and it is judged in that one alone."""
    with policies(lab.cluster, policy("x", "p", {"podSelector": {}, "policyTypes": ["Egress"]}), policy("z", "p", DENY)):
        settle(lab, ["x/* -> *", "* -> z/*"], sources=["x/a", "y/a", "z/a", "z/b", "node/1"])


@every_path
def test_a_pod_reaches_itself_through_its_service_whatever_policies_say(lab: Lab) -> None:
    with policies(lab.cluster, policy("x", "p", {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})):
        settle(lab, ["* -> x/*", "x/* -> *"], targets=["x/a", "x/b", "z/c"])
        probes = lab.probes(PORTS, ["x/a"], ["x/a"])
        assert {probe.via for probe in probes} == {"", "x/s-a"}
        lab.settle(dict.fromkeys(probes, True))


@one_kind
def test_probes_of_the_kubelet_pass_a_default_deny_and_a_pod_starts_under_it(lab: Lab) -> None:
    cluster = lab.cluster
    nodes = cluster.nodes()
    checks = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1, "timeoutSeconds": 2}
    with policies(cluster, policy("x", "deny", {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})):
        settle(lab, ["* -> x/*", "x/* -> *"], targets=["x/a", "z/c"])
        pods = [toolbox_pod(cluster, f"probed-{number}", node) for number, node in enumerate(nodes)]
        for pod in pods:
            pod["metadata"]["namespace"] = "x"
            pod["spec"]["containers"][0] |= {"livenessProbe": {**checks, "failureThreshold": 2}, "readinessProbe": checks}
        cluster.apply(*pods)
        try:
            cluster.wait_ready("x", *(pod["metadata"]["name"] for pod in pods))
            time.sleep(6)  # longer than a liveness probe that failed would let it live
            for pod in pods:
                (container,) = cluster.pod("x", pod["metadata"]["name"])["status"]["containerStatuses"]
                assert (container["restartCount"], container["ready"]) == (0, True)
        finally:
            cluster.kubectl("delete", "pods", "-n", "x", *(pod["metadata"]["name"] for pod in pods), "--wait=true")


@every_path
def test_a_pod_that_starts_under_a_policy_is_never_open(lab: Lab) -> None:
    """Its very first packets are its own: it asks at once and goes on asking. Beside it one that no policy selects does the same."""
    cluster = lab.cluster
    target = lab.address("z/c", 4)
    ask = f"for i in $(seq 60); do nc -z -w 1 {target} 80 && echo open || echo closed; sleep 0.02; done; sleep 600"
    deny = {"podSelector": {"matchLabels": {"app": "shut"}}, "policyTypes": ["Egress"]}
    with policies(cluster, policy("y", "deny", deny)):
        time.sleep(1)
        pods = [toolbox_pod(cluster, name, node) for name in ("shut", "free") for node in cluster.nodes()[:1]]
        for pod in pods:
            pod["metadata"]["namespace"] = "y"
            pod["spec"]["containers"][0].pop("readinessProbe")
            pod["spec"]["containers"][0]["command"] = ["sh", "-c", ask]
        cluster.apply(*pods)
        try:
            cluster.wait_ready("y", "shut", "free")
            eventually(lambda: cluster.kubectl("logs", "-n", "y", "free").split().count("open") > 10, what="a free pod is open")
            eventually(lambda: cluster.kubectl("logs", "-n", "y", "shut").split().count("closed") >= 5, what="a shut pod has asked")
            assert "open" not in cluster.kubectl("logs", "-n", "y", "shut")
        finally:
            cluster.kubectl("delete", "pods", "-n", "y", "shut", "free", "--wait=true")


@one_kind
def test_a_terminating_pod_keeps_its_policy_and_its_place_as_a_peer_until_it_is_gone(lab: Lab) -> None:
    """The prober takes no notice of SIGTERM, so it lives as long as it may."""
    cluster = lab.cluster
    cluster.apply(prober_pod(lab, "x", "old", cluster.nodes()[1], {"pod": "old"}, SERVED, terminationGracePeriodSeconds=600))
    wait_running(cluster, "x", "old")
    add_pod(lab, "x", "old")
    try:
        rules = [policy("z", "p", only_from("a", {"namespaceSelector": {}, "podSelector": {"matchLabels": {"pod": "old"}}}))]
        rules.append(policy("x", "p", only_from("old", {"namespaceSelector": {"matchLabels": {"ns": "y"}}})))
        with policies(cluster, *rules):
            lines = ["* -> z/a", "* -> x/old"], ["x/old -> z/a", "y/* -> x/old"]
            settle(lab, *lines, targets=["x/old", "z/a", "z/c"])
            cluster.kubectl("delete", "pod", "-n", "x", "old", "--wait=false")
            eventually(lambda: cluster.pod("x", "old")["metadata"].get("deletionTimestamp"), what="it is terminating")
            time.sleep(2)
            settle(lab, *lines, targets=["x/old", "z/a", "z/c"])
            assert cluster.pod("x", "old")["metadata"]["deletionTimestamp"]
    finally:
        lab.askers.pop("x/old").close()
        del lab.ends["x/old"]
        cluster.kubectl("delete", "pod", "-n", "x", "old", "--grace-period=0", "--force")


@one_kind
def test_a_completed_pod_is_nobodys_peer_though_its_address_is_in_its_status(lab: Lab) -> None:
    """As after a job, whose address another pod has by now. The first pod is one of the API alone: no kubelet has it."""
    cluster = lab.cluster
    metadata = {"name": "job", "namespace": "y", "labels": {"role": "job"}}
    container = {"name": "none", "image": lab.image}
    spec = {"schedulerName": "nobody", "restartPolicy": "Never", "containers": [container], "terminationGracePeriodSeconds": 0}
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    ips = [{"ip": lab.address("y/b", family)} for family in cluster.families]

    def has(phase: str) -> None:
        status = {"status": {"phase": phase, "podIP": ips[0]["ip"], "podIPs": ips}}
        cluster.kubectl("patch", "pod", "-n", "y", "job", "--subresource=status", "--type=merge", "-p", json.dumps(status))

    try:
        with policies(
            cluster, policy("x", "p", only_from("a", {"namespaceSelector": {}, "podSelector": {"matchLabels": {"role": "job"}}}))
        ):
            has("Running")  # the control: who has the address last is who is meant
            settle(lab, ["* -> x/a"], ["y/b -> x/a"], targets=["x/a", "z/c"])
            for phase in ("Succeeded", "Failed"):
                has(phase)
                settle(lab, ["* -> x/a"], targets=["x/a", "z/c"])
    finally:
        cluster.kubectl("delete", "pod", "-n", "y", "job", "--grace-period=0", "--force")


@every_path
def test_the_source_that_a_node_port_shows_is_the_one_that_is_judged(lab: Lab) -> None:
    """externalTrafficPolicy Local keeps the client's address; Cluster shows the node's, which is no address of the client's."""
    cluster = lab.cluster
    allowed = [{"ipBlock": {"cidr": f"{lab.address('outside', family)}/{32 if family == 4 else 128}"}} for family in cluster.families]
    ports = [{"name": "http", "port": 80}]
    made = {}
    for kind in ("Local", "Cluster"):
        spec = {
            "type": "NodePort",
            "externalTrafficPolicy": kind,
            "selector": {"pod": "b"},
            "ports": ports,
            "ipFamilyPolicy": "PreferDualStack",
        }
        cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": kind.lower(), "namespace": "z"}, "spec": spec})
        made[kind] = cluster.get("service", "-n", "z", kind.lower())["spec"]["ports"][0]["nodePort"]

    def answers(kind: str, node: int) -> set[str]:
        lines = [f"try {family} tcp {lab.address(f'node/{node}', family)} {made[kind]}" for family in cluster.families]
        return {result.split()[1] if result.startswith("=") else result for result in lab.askers["outside"].ask(lines, 2000).values()}

    try:
        for kind, node in (("Local", 1), ("Cluster", 1), ("Cluster", 0)):
            eventually(lambda kind=kind, node=node: answers(kind, node) == {"z/b"}, what=f"{kind} at node {node} without policies")
        spec = {"podSelector": {"matchLabels": {"pod": "b"}}, "ingress": [{"from": allowed}]}
        with policies(cluster, policy("z", "p", spec)):
            settle(lab, ["* -> z/b"], ["outside -> z/b"], targets=["z/b", "z/c"])
            assert answers("Local", 1) == {"z/b"}
            # z/b is on node 1. Through node 0 the client is hidden behind that node.
            assert answers("Cluster", 0) == {"silent"}
            assert answers("Cluster", 1) == {"z/b"}
    finally:
        cluster.kubectl("delete", "service", "-n", "z", *(kind.lower() for kind in made))


@one_kind
def test_a_default_deny_survives_the_agent_and_what_changed_meanwhile_is_followed(lab: Lab) -> None:
    cluster = lab.cluster
    with policies(cluster, policy("x", "p", DENY), policy("z", "p", DENY)):
        settle(lab, ["* -> x/*", "* -> z/*"], targets=["x/a", "x/b", "y/a", "z/a"])
        wanted = lab.wanted(["* -> x/*"], (), lab.probes(ONE, targets=["x/a", "x/b", "y/a"]))
        for node in cluster.nodes():
            cluster.in_member(node, "kill", "-9", str(agent_process(cluster, node)))
        cluster.kubectl("delete", "networkpolicy", "-n", "z", "p")
        end = time.monotonic() + 8
        while time.monotonic() < end:  # however far the new agents are
            assert [text for text in lab.wrong(wanted) if "silent" in text.rpartition(",")[2]] == []
        settle(lab, ["* -> x/*"], targets=["x/a", "x/b", "y/a", "z/a"])


@one_kind
def test_the_api_server_refuses_and_takes_what_explain_does(cluster: Cluster) -> None:
    """The same cases as in the unit test of the tool's own checks, in one request each to a real server."""
    specs = {f"refused-{number}": case["spec"] for number, case in enumerate(REFUSED["refused"].values()) if "metadata" not in case}
    specs |= {f"taken-{number}": spec for number, spec in enumerate(REFUSED["taken"].values())}
    items = [policy("default", name, {}) | {"spec": spec} for name, spec in specs.items()]
    words = ("create", "--dry-run=server", "--validate=strict", "-o", "name", "-f", "-")
    taken = cluster.kubectl(*words, stdin="\n---\n".join(map(json.dumps, items)), check=False).split()
    assert {line.rpartition("/")[2] for line in taken} == {name for name in specs if name.startswith("taken")}


QUESTIONS = (
    "x/b -> x/a 80/TCP", "x/b -> x/a 81/TCP", "y/c -> x/a 81/UDP", "z/a -> x/a 81/TCP", "z/a -> x/a 80/UDP",
    "x/a -> z/b 80/TCP", "node/1 -> x/a 80/TCP", "outside -> x/a 81/TCP",
)  # fmt: skip


@one_kind
def test_explain_and_the_matrix_say_what_the_packets_do_and_the_kernels_agree(lab: Lab) -> None:
    (table,) = [table for table in TABLES if table["name"] == "peers and ports together, and rules that add up"]
    with policies(lab.cluster, *of_table(table, lab)):
        wanted = lab.wanted(table["closed"], table["open"], lab.probes(PORTS))
        lab.settle(wanted)
        for text in QUESTIONS:
            source, _, target, port = text.split()
            number, _, protocol = port.partition("/")
            allowed = wanted[Probe(source, target, protocol, int(number), 4)]
            verify(lab, source, target, number, protocol, "allowed" if allowed else "denied")
        assert drawn(lab) == {
            pair: {"TF": "partly", "T": "allowed", "F": "denied"}[said] for pair, said in between_pods(lab, wanted).items()
        }


def verify(lab: Lab, source: str, target: str, number: str, protocol: str, verdict: str) -> None:
    """The tool says so by the pod's address, with the kernels' consent, and through the pod's Service."""
    end = source if lab.ends[source].is_pod else lab.address(source, 4)
    found = explained(lab.cluster, "--from", end, "--to", target, "--port", number, "--protocol", protocol, "--verify")
    assert found["verdict"] == verdict, (source, target, number, protocol)
    kernels = [path[side]["kernel"]["state"] for path in found["paths"] for side in ("egress", "ingress") if path[side]["judged"]]
    assert set(kernels) == {"agrees"}, found
    if lab.ends[source].is_pod:
        service, port = target.replace("/", "/s-"), str(int(number) + SERVICE_PORTS)
        assert explained(lab.cluster, "--from", end, "--to", service, "--port", port, "--protocol", protocol)["verdict"] == verdict


def between_pods(lab: Lab, wanted: Mapping[Probe, bool]) -> dict[tuple[str, str], str]:
    """T, F or TF for each two pods: what all of the connections from one to the other come to."""
    pods = [end.name for end in lab.ends.values() if end.is_pod]
    said = {pair: {wanted[probe] for probe in wanted if (probe.source, probe.target) == pair} for pair in itertools.permutations(pods, 2)}
    return {pair: "".join(str(answer)[0] for answer in sorted(answers, reverse=True)) for pair, answers in said.items()}


def drawn(lab: Lab) -> dict[tuple[str, str], str]:
    """What `policy matrix` says of the nine pods."""
    matrix = json.loads(run(lab.cluster.provisioner, "policy", "matrix", lab.cluster.name, "--output", "json"))
    names = [f"{item['namespace']}/{item['name']}" for item in matrix["workloads"]]
    cells = {(names[i], names[j]): place for i, row in enumerate(matrix["cells"]) for j, place in enumerate(row) if i != j}
    return {pair: matrix["verdicts"][place]["verdict"] for pair, place in cells.items() if set(pair) <= set(lab.ends)}
