"""What a user does every day with kubectl behaves as on any cluster."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from .kube import Cluster, eventually, toolbox_pod

DEPLOYMENT = "greeter"


def deployment(cluster: Cluster, replicas: int = 4) -> dict[str, object]:
    pod = toolbox_pod(cluster, DEPLOYMENT, "")
    spec = pod["spec"]
    del spec["nodeName"], spec["tolerations"]
    spec["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app": DEPLOYMENT}},
        }
    ]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": DEPLOYMENT},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": DEPLOYMENT}},
            "template": {"metadata": {"labels": {"app": DEPLOYMENT}}, "spec": spec},
        },
    }


def running(cluster: Cluster, namespace: str) -> dict[str, str]:
    """Name -> node of the Deployment's pods that are Running and not going away."""
    items = cluster.get("pods", "-n", namespace, "-l", f"app={DEPLOYMENT}")["items"]
    live = [p for p in items if p["status"]["phase"] == "Running" and "deletionTimestamp" not in p["metadata"]]
    return {p["metadata"]["name"]: p["spec"]["nodeName"] for p in live}


def test_kubectl_run_attaches_and_shows_what_the_command_printed(cluster: Cluster, playground: str) -> None:
    # The command waits for a line: kubectl attaches when it has heard that the pod runs, and what was printed before is not replayed.
    answer = cluster.kubectl(
        "run", "once", "-n", playground, "--image", cluster.toolbox, "--restart=Never", "--stdin", "--rm", "--quiet", "--command", "--",
        "sh", "-c", "read -r word; echo forty-$word; sleep 1",
        stdin="two\n",
    )  # fmt: skip
    assert "forty-two" in answer


def test_logs_follow_until_the_pod_ends(cluster: Cluster, playground: str) -> None:
    cluster.kubectl(
        "run", "counter", "-n", playground, "--image", cluster.toolbox, "--restart=Never", "--command", "--",
        "sh", "-c", "for i in 1 2 3 4; do echo line $i; sleep 0.5; done",
    )  # fmt: skip
    eventually(lambda: cluster.pod(playground, "counter")["status"]["phase"] != "Pending")
    follower = cluster.kubectl_process("logs", "-f", "-n", playground, "counter")
    try:
        output, _ = follower.communicate(timeout=20)
    finally:
        follower.kill()
        cluster.kubectl("delete", "pod", "-n", playground, "counter", "--wait=false")
    assert output.split("\n")[:4] == ["line 1", "line 2", "line 3", "line 4"]


def test_exec_carries_standard_input_and_the_exit_status(cluster: Cluster, playground: str) -> None:
    echoed = cluster.kubectl("exec", "-i", "-n", playground, "b1", "--", "cat", stdin="through and back")
    assert echoed == "through and back"
    command = [cluster.kubectl_path, "--kubeconfig", str(cluster.kubeconfig), "exec", "-n", playground, "b1", "--", "sh", "-c", "exit 7"]
    assert subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 7


def test_files_are_copied_into_a_pod_and_out_of_it(cluster: Cluster, playground: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(bytes(range(256)) * 4096)
    cluster.kubectl("cp", str(tmp_path / "in"), f"{playground}/b1:/tmp/copied")
    cluster.kubectl("cp", f"{playground}/b1:/tmp/copied", str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()


def test_attach_joins_a_running_container_with_its_standard_input(cluster: Cluster, playground: str) -> None:
    cluster.kubectl(
        "run", "listener", "-n", playground, "--image", cluster.toolbox, "--restart=Never", "--stdin", "--attach=false", "--command", "--",
        "sh", "-c", "read line; echo heard $line; sleep 1",
    )  # fmt: skip
    try:
        cluster.wait_ready(playground, "listener")
        assert "heard a word" in cluster.kubectl("attach", "-i", "-n", playground, "listener", stdin="a word\n")
    finally:
        cluster.kubectl("delete", "pod", "-n", playground, "listener", "--wait=false")


@pytest.mark.parametrize("pod", ["a1", "b1"])
def test_port_forward_reaches_the_pod(cluster: Cluster, playground: str, pod: str) -> None:
    forward = cluster.kubectl_process("port-forward", "-n", playground, f"pod/{pod}", "--address", "127.0.0.1", ":8080")
    try:
        assert forward.stdout is not None
        port = int(forward.stdout.readline().split("127.0.0.1:")[1].split()[0])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/hostname", timeout=10) as answer:
            assert answer.read().decode() == pod
    finally:
        forward.terminate()
        forward.wait(timeout=10)


def test_the_api_server_proxies_to_pods_and_services(cluster: Cluster, playground: str) -> None:
    for pod in ("a1", "b1"):
        assert cluster.kubectl("get", "--raw", f"/api/v1/namespaces/{playground}/pods/{pod}:8080/proxy/hostname") == pod
    answer = cluster.kubectl("get", "--raw", f"/api/v1/namespaces/{playground}/services/web:http/proxy/hostname")
    assert answer in {"a1", "a2", "b1", "b2"}


def test_a_deployment_restarts_in_a_rolling_way_and_drains(cluster: Cluster) -> None:
    with cluster.namespace("rollout") as namespace:
        cluster.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(deployment(cluster)))
        cluster.kubectl("rollout", "status", "-n", namespace, f"deployment/{DEPLOYMENT}", "--timeout=60s", timeout=70)
        before = running(cluster, namespace)
        assert set(before.values()) == set(cluster.nodes())

        cluster.kubectl("rollout", "restart", "-n", namespace, f"deployment/{DEPLOYMENT}")
        cluster.kubectl("rollout", "status", "-n", namespace, f"deployment/{DEPLOYMENT}", "--timeout=90s", timeout=100)
        after = eventually(lambda: (now := running(cluster, namespace)) and len(now) == 4 and now)
        assert not set(before) & set(after)

        drained = cluster.nodes()[1]
        try:
            cluster.kubectl(
                "drain", drained, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=90s",
                f"--pod-selector=app={DEPLOYMENT}", timeout=100,
            )  # fmt: skip
            assert drained not in running(cluster, namespace).values()
            cluster.kubectl("rollout", "status", "-n", namespace, f"deployment/{DEPLOYMENT}", "--timeout=60s", timeout=70)
        finally:
            cluster.kubectl("uncordon", drained)


def test_a_service_follows_its_pods(cluster: Cluster) -> None:
    """Pods that go stop being chosen at once: no request is lost while a Deployment shrinks and grows."""
    with cluster.namespace("follow") as namespace:
        cluster.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(deployment(cluster, 2)))
        cluster.kubectl("expose", "-n", namespace, f"deployment/{DEPLOYMENT}", "--port=80", "--target-port=8080")
        cluster.kubectl("rollout", "status", "-n", namespace, f"deployment/{DEPLOYMENT}", "--timeout=60s", timeout=70)
        client = toolbox_pod(cluster, "client", cluster.nodes()[0])
        client["metadata"]["namespace"] = namespace
        cluster.apply(client)
        cluster.wait_ready(namespace, "client")

        def answers() -> set[str]:
            script = f"for i in $(seq 20); do curl -sS --max-time 2 http://{DEPLOYMENT}/hostname; echo; done"
            return set(cluster.exec(namespace, "client", "sh", "-c", script, timeout=60).split())

        assert answers() == set(running(cluster, namespace))
        cluster.kubectl("scale", "-n", namespace, f"deployment/{DEPLOYMENT}", "--replicas=1")
        (left,) = eventually(lambda: (now := running(cluster, namespace)) and len(now) == 1 and now)
        time.sleep(1)
        assert answers() == {left}
