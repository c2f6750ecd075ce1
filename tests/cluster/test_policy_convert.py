"""`provisioner policy convert` on every convertible form: what it writes does in a cluster what Cilium's documentation promises of the original.

The forms and the verdicts are those of the converter's own unit test, which reads the result; here packets do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from .kube import Cluster, run
from .policylab import Lab, Probe, add_pod, build_image, clear_policies, outside, policies, prober_pod, wait_running

DATA = yaml.safe_load((Path(__file__).parents[1] / "unit" / "compatibility" / "conversions.yaml").read_text())
SPACES = tuple(DATA["namespaces"])
CONNECTIONS = {
    name: {text: verdict == "allowed" for verdict in ("allowed", "denied") for text in case[verdict]}
    for name, case in DATA["cases"].items()
}
NODE = "172.30.0.10"
"""In the forms, a node of the cluster."""
PORTS = tuple(sorted({text.split()[2] for connections in CONNECTIONS.values() for text in connections}))
OUTSIDE = tuple(
    sorted({end for connections in CONNECTIONS.values() for text in connections for end in text.split()[:2] if "/" not in end} - {NODE})
)

pytestmark = pytest.mark.parametrize("cluster", ["native-dual"], indirect=True)


@pytest.fixture(scope="module")
def lab(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The forms' pods, on both nodes, the node that they mean, and a host outside with all of the addresses that they mean."""
    directory = tmp_path_factory.mktemp("prober")
    image, archive = build_image(directory)
    run(cluster.provisioner, "load-image", cluster.name, str(archive), timeout=120)
    made, nodes = Lab(cluster, image), cluster.nodes()
    with ExitStack() as stack:
        stack.callback(made.close)
        for space in SPACES:
            stack.enter_context(cluster.namespace(space))
            labels = {key: value for key, value in DATA["namespaces"][space].items() if key != "kubernetes.io/metadata.name"}
            cluster.kubectl("label", "namespace", space, *(f"{key}={value}" for key, value in labels.items()))
        pods = [prober_pod(made, *name.split("/"), nodes[0], labels, PORTS) for name, labels in DATA["pods"].items()]
        # Its own node reaches a pod whatever policies say, so the node that is meant is the other one.
        pods.append(prober_pod(made, SPACES[0], "host", nodes[1], {}, PORTS, serves_as="node/1", hostNetwork=True))
        cluster.apply(*pods)
        for pod in pods:
            wait_running(cluster, pod["metadata"]["namespace"], pod["metadata"]["name"])
            add_pod(made, pod["metadata"]["namespace"], pod["metadata"]["name"])
        stack.enter_context(outside(made, directory, PORTS, OUTSIDE))
        yield made


def cluster_ranges(cluster: Cluster) -> list[str]:
    """What --cluster-cidr is to be told: the pods' and the nodes' addresses."""
    found = [cidr for node in cluster.get("nodes")["items"] for cidr in node["spec"]["podCIDRs"]]
    return found + [f"{cluster.node_address(node, family)}/{32 if family == 4 else 128}" for node in cluster.nodes() for family in (4, 6)]


def wanted(name: str) -> dict[Probe, bool]:
    """The connections that a form's verdicts are about."""
    found = {}
    for text, verdict in CONNECTIONS[name].items():
        source, target, port = text.replace(NODE, "node/1").split()
        number, _, protocol = port.partition("/")
        # What a pod sends to its own address never leaves it; the form's verdict is about its rules.
        found[Probe(source, target, protocol, int(number), 4)] = verdict or source == target
    return found


@pytest.mark.parametrize("name", CONNECTIONS)
def test_a_converted_policy_does_what_the_original_promises(lab: Lab, name: str, tmp_path: Path) -> None:
    cluster, case = lab.cluster, DATA["cases"][name]
    metadata = {"name": "p", "namespace": "shop"}
    original = {"apiVersion": "cilium.io/v2", "kind": case.get("kind", "CiliumNetworkPolicy"), "metadata": metadata}
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(original | {key: case[key] for key in ("spec", "specs") if key in case}))
    ranges = [word for text in cluster_ranges(cluster) for word in ("--cluster-cidr", text)]
    made = json.loads(run(cluster.provisioner, "policy", "convert", str(file), *ranges, "--output", "json"))
    assert made["noEqual"] == []
    clear_policies(cluster, SPACES)
    lab.settle(dict.fromkeys(wanted(name), True))  # the control: without it, all of them are answered
    with policies(cluster, *made["policies"]):
        lab.settle(wanted(name))
