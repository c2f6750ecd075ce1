"""Real local clusters for the suite: one at a time, a kind after the other, each made by the command line as a user makes it.

Every kind of cluster (routing mode x stack type) runs the same tests. Names begin with `PREFIX`, and what an earlier, killed run left
under those names is deleted first.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from .kube import Cluster, eventually, run, toolbox_pod

PROVISIONER = shutil.which("provisioner", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}") or "provisioner"
# For working on a test: clusters are kept between runs (create continues with what is there), and two may work side by side.
KEEP = bool(os.environ.get("PROVISIONER_TEST_KEEP"))
PREFIX = os.environ.get("PROVISIONER_TEST_PREFIX", "pvt-")
KINDS = {
    "native-ipv4": {"stackType": "ipv4", "dataplane": {"routingMode": "native", "loadBalancerMode": "dsr"}},
    "vxlan-ipv4": {"stackType": "ipv4", "dataplane": {"routingMode": "vxlan", "loadBalancerMode": "dsr"}},
    "native-dual": {"stackType": "ipv4-ipv6", "dataplane": {"routingMode": "native"}},
    # Without the socket's hooks, every client's packets are translated one by one: the same cases by the other path.
    "vxlan-dual": {"stackType": "ipv4-ipv6", "dataplane": {"routingMode": "vxlan", "socketLB": False}},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one cluster stand together, so that each cluster is made once."""
    kinds = list(KINDS)

    def rank(item: pytest.Item) -> int:
        callspec = getattr(item, "callspec", None)
        return kinds.index(callspec.params["cluster"]) if callspec and "cluster" in callspec.params else -1

    items.sort(key=rank)


@pytest.fixture(scope="session")
def provisioner() -> str:
    """The command under test, after whatever a killed run left is gone."""
    clusters = json.loads(run(PROVISIONER, "list-clusters", "--output", "json"))
    for entry in clusters["items"]:
        if entry["name"].startswith(PREFIX) and not KEEP:
            run(PROVISIONER, "delete-cluster", entry["name"], "--quiet", timeout=120)
    return PROVISIONER


@pytest.fixture(scope="session")
def images() -> dict[str, dict[str, str]]:
    """The images of this checkout: name -> {name, archive}."""
    return json.loads(run(sys.executable, "-m", "provisioner.images", "--json", timeout=1800))


@pytest.fixture(scope="session")
def kubectl_path() -> str:
    directory = json.loads(run(sys.executable, "-m", "provisioner.binaries", "--json", timeout=3600))["directory"]
    return str(Path(directory) / "kubectl")


def spec_file(directory: Path, name: str, **spec: object) -> Path:
    """A ClusterSpec as a user would write it."""
    document = {"apiVersion": "provisioner.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": name}, "spec": spec}
    path = directory / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(scope="session", params=list(KINDS))
def cluster(
    request: pytest.FixtureRequest,
    provisioner: str,
    images: dict[str, dict[str, str]],
    kubectl_path: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    """A two-node cluster of the kind that the test asks for, with the toolbox image loaded."""
    directory = tmp_path_factory.mktemp(request.param)
    name = f"{PREFIX}{request.param}"
    spec = KINDS[request.param]
    kubeconfig = directory / "kubeconfig"
    config = spec_file(directory, name, numNodes=2, **spec)
    # The creation's own output goes to the test log: where a creation fails, that is what one wants to read.
    subprocess.run(
        [
            provisioner,
            "create-cluster",
            name,
            "--dataplane-v2",
            "--config",
            str(config),
            "--kubeconfig",
            str(kubeconfig),
            "--timeout",
            "5m",
        ],
        check=True,
        timeout=330,
    )
    run(provisioner, "load-image", name, images["toolbox"]["archive"], timeout=120)
    families = (4, 6) if spec["stackType"] == "ipv4-ipv6" else (4,)
    made = Cluster(name, kubeconfig, dict(spec), images["toolbox"]["name"], provisioner, kubectl_path, families)
    try:
        yield made
    finally:
        made.close()
        if not KEEP:
            run(provisioner, "delete-cluster", name, "--quiet", timeout=120)


@pytest.fixture(scope="session")
def playground(cluster: Cluster) -> Iterator[str]:
    """A namespace with two pods on each node, a host-network pod on each, and a Service over the four pods."""
    with cluster.namespace("playground") as namespace:
        first, second = cluster.nodes()[:2]
        pods = [
            toolbox_pod(cluster, "a1", first, labels={"group": "web"}),
            toolbox_pod(cluster, "a2", first, labels={"group": "web"}),
            toolbox_pod(cluster, "b1", second, labels={"group": "web"}),
            toolbox_pod(cluster, "b2", second, labels={"group": "web"}),
            toolbox_pod(cluster, "host-a", first, host_network=True),
            toolbox_pod(cluster, "host-b", second, host_network=True),
        ]
        for pod in pods:
            pod["metadata"]["namespace"] = namespace
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", "namespace": namespace},
            "spec": {
                "selector": {"group": "web"},
                "ipFamilyPolicy": "PreferDualStack",
                "ports": [
                    {"name": "http", "port": 80, "targetPort": 8080},
                    {"name": "udp", "port": 8081, "targetPort": 8081, "protocol": "UDP"},
                ],
            },
        }
        cluster.apply(*pods, service)
        cluster.wait_ready(namespace, "a1", "a2", "b1", "b2", "host-a", "host-b")
        eventually(lambda: len(ready_endpoints(cluster, namespace, "web")) == 4 * len(cluster.families), what="endpoints of web")
        yield namespace


def ready_endpoints(cluster: Cluster, namespace: str, service: str) -> list[str]:
    slices = cluster.get("endpointslices", "-n", namespace, "-l", f"kubernetes.io/service-name={service}")["items"]
    return [e["addresses"][0] for s in slices for e in s["endpoints"] or [] if e["conditions"].get("ready")]
