"""Faults of a running cluster: what they touch says so, what they do not touch goes on, and afterwards all is as it was."""

from __future__ import annotations

import os
import secrets
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .conftest import KINDS, ready_endpoints, spec_file
from .kube import AGENT_BACK, Cluster, agent_on, agent_process, eventually, listening, program_of, ready, run, status, toolbox_pod, url
from .service_kit import by_source_port, free_ports, node_port, service, settled
from .test_agent_life import inventory

pytestmark = pytest.mark.parametrize("cluster", [next(iter(KINDS))], indirect=True)  # the kind does not matter to a fault: one is enough

# In a node: take `count` addresses for namespaces FILL-0 … by the plugin itself, as a runtime does, and give them back.
PLUGIN = """
work() {
  [ $1 = ADD ] && ip netns add fill-$2
  echo '{"cniVersion":"1.1.0","name":"anetd","type":"anetd-cni"}' | CNI_COMMAND=$1 CNI_CONTAINERID=fill-$2 CNI_NETNS=/run/netns/fill-$2 \\
    CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin /opt/cni/bin/anetd-cni >/tmp/fill-$2.$1 || echo "$1 $2: $(cat /tmp/fill-$2.$1)"
  [ $1 = DEL ] && ip netns del fill-$2
  rm -f /tmp/fill-$2.$1
}
"""


def by_plugin(cluster: Cluster, node: str, command: str, numbers: range) -> str:
    """What went wrong, a line each."""
    lanes = [f"for n in $(seq {numbers.start + lane} 4 {numbers.stop - 1}); do work {command} $n; done &" for lane in range(4)]
    return cluster.in_member(node, "sh", "-c", PLUGIN + "\n".join([*lanes, "wait"]), timeout=120)


def test_a_pod_for_which_no_address_is_left_says_so_and_gets_the_first_that_is_given_back(cluster: Cluster) -> None:
    node = cluster.nodes()[1]
    before = inventory(cluster, node)
    cidr = cluster.get("node", node)["spec"]["podCIDR"]
    free = 253 - len(before["addresses"])
    with cluster.namespace("used-up") as namespace:
        pod = toolbox_pod(cluster, "late", node)
        pod["metadata"]["namespace"] = namespace
        try:
            assert by_plugin(cluster, node, "ADD", range(free)) == ""
            cluster.apply(pod)

            def told() -> bool:
                events = cluster.get("events", "-n", namespace, "--field-selector", "involvedObject.name=late")["items"]
                return any(f"no address left in {cidr}" in event["message"] for event in events)

            eventually(told, within=30, what="an event of the pod that names the network")
        finally:
            failures = by_plugin(cluster, node, "DEL", range(free))
        assert failures == ""
        cluster.wait_ready(namespace, "late", within=60)
        cluster.kubectl("delete", "pod", "-n", namespace, "late")
    eventually(lambda: inventory(cluster, node) == before, what=f"{node} as before")


@contextmanager
def numbered_streams(cluster: Cluster, namespace: str, client: str, server: str) -> Iterator[None]:
    """A UDP and a TCP stream, a hundred numbered lines a second, around the block; afterwards every number has arrived, in order."""
    cluster.exec(namespace, client, "rm", "-f", "/tmp/halt")
    address = cluster.pod_addresses(namespace, server)[4]
    port = 9400 + secrets.randbelow(500)  # whoever tries again finds the last try's receivers still at theirs
    sender = "i=0; while [ ! -e /tmp/halt ]; do echo $i; i=$((i+1)); sleep 0.01; done | nc {flags} {address} {port}"
    kinds = {"udp": "-u", "tcp": ""}
    receivers = [f"timeout 240 nc {flag} -l -p {port} > /tmp/{kind}.numbers" for kind, flag in kinds.items()]
    sinks = [cluster.kubectl_process("exec", "-n", namespace, server, "--", "sh", "-c", receiver) for receiver in receivers]
    senders: list[subprocess.Popen[str]] = []

    def numbers(kind: str) -> list[int]:
        return [int(number) for number in cluster.exec(namespace, server, "cat", f"/tmp/{kind}.numbers").split()]

    try:
        eventually(lambda: listening(cluster, namespace, server, port) == 2, what="both receivers")
        for flag in kinds.values():
            command = sender.format(flags=f"{flag} -q 1", address=address, port=port)
            senders.append(cluster.kubectl_process("exec", "-n", namespace, client, "--", "sh", "-c", command))
        eventually(lambda: all(len(numbers(kind)) > 50 for kind in kinds), what="both streams")
        started = time.monotonic()
        yield
        lasted = time.monotonic() - started
        cluster.exec(namespace, client, "touch", "/tmp/halt")
        for process in senders:
            process.wait(timeout=30)
        time.sleep(1)
    finally:
        for process in (*senders, *sinks):
            process.kill()
            process.wait()
    for kind in kinds:
        seen = numbers(kind)
        lost = sorted(set(range(max(seen, default=0))) - set(seen))
        assert not lost, f"{kind}: {len(lost)} of {max(seen)} lost, from {lost[0]} on"
        assert seen == sorted(seen)
        assert len(seen) > 30 * lasted  # a shell's `sleep 0.01` takes longer where cores are busy


def test_streams_lose_nothing_while_the_agent_is_upgraded(cluster: Cluster, playground: str) -> None:
    daemonset = ("-n", "kube-system", "daemonset/anetd")
    image = cluster.get("daemonset", "-n", "kube-system", "anetd")["spec"]["template"]["spec"]["containers"][0]["image"]
    newer = f"{image}-newer"
    pods = {node: agent_on(cluster, node) for node in cluster.nodes()}
    for node in pods:
        cluster.in_member(node, "ctr", "-n", "k8s.io", "image", "tag", "--force", image, newer)
    try:
        with numbered_streams(cluster, playground, "a1", "b1"):
            cluster.kubectl("set", "image", *daemonset, f"anetd={newer}")
            cluster.kubectl("rollout", "status", *daemonset, "--timeout=90s", timeout=100)
        for node, pod in pods.items():
            new = cluster.pod("kube-system", agent_on(cluster, node))
            assert new["metadata"]["name"] != pod
            assert new["spec"]["containers"][0]["image"] == newer
    finally:
        cluster.kubectl("set", "image", *daemonset, f"anetd={image}")
        cluster.kubectl("rollout", "status", *daemonset, "--timeout=90s", timeout=100)


def test_a_killed_node_takes_no_other_pod_along_and_its_pods_come_back_with_create(
    cluster: Cluster, playground: str, tmp_path: Path
) -> None:
    """Nor a client outside: whoever was balanced by the lost node to a pod of another gets the same one by any node that is left."""
    victim = cluster.pod(playground, "b1")["spec"]["nodeName"]
    target = cluster.pod_addresses(playground, "a2")[4]
    sources = free_ports(24)
    nodes = [cluster.node_address(node) for node in cluster.nodes()]
    survivor = next(address for address in nodes if address != cluster.node_address(victim))
    with service(cluster, playground, "balanced", {"group": "web"}, type="NodePort"):
        settled(cluster, playground, "balanced", 4)
        port = node_port(cluster, playground, "balanced")
        before, same = (by_source_port(address, port, sources) for address in nodes)
        assert before == same
        kept = {source: pod for source, pod in before.items() if pod in {"a1", "a2"}}
        assert kept
        with unbroken_talk(cluster, playground, "a1", target, "a2"):
            os.kill(cluster.member_pid(victim), signal.SIGKILL)
            eventually(lambda: cluster.describe()["state"] == "DEGRADED", within=10)
            assert by_source_port(survivor, port, list(kept)) == kept
            time.sleep(3)
            config = spec_file(tmp_path, cluster.name, numNodes=2, **cluster.spec)
            run(
                cluster.provisioner, "create-cluster", cluster.name, "--dataplane-v2", "--config", str(config),
                "--kubeconfig", str(cluster.kubeconfig), "--timeout", "3m", timeout=200,
            )  # fmt: skip
            assert cluster.describe()["state"] == "RUNNING"

        def back(pod: str) -> bool:
            address = cluster.pod_addresses(playground, pod)[4]
            return cluster.exec(playground, "a1", "curl", "-sS", "--max-time", "2", url(address, 8080, "/hostname")) == pod

        for pod in ("b1", "b2"):
            eventually(lambda pod=pod: back(pod), within=90, what=f"{pod} answers again")
        eventually(lambda: len(ready_endpoints(cluster, playground, "web")) == 4, within=60)
        cluster.wait_ready(playground, "host-b", within=60)
        assert cluster.exec(playground, "b1", "curl", "-sS", "--max-time", "2", url(target, 8080, "/hostname")) == "a2"
        settled(cluster, playground, "balanced", 4)
        first, second = (by_source_port(address, port, sources) for address in nodes)
        assert first == second
        assert set(first.values()) >= set(kept.values())


@contextmanager
def unbroken_talk(cluster: Cluster, namespace: str, client: str, address: str, server: str) -> Iterator[None]:
    """Requests from one pod to another around the block, twenty a second: each is answered."""
    loop = (
        f"n=0; while [ ! -e /tmp/enough ]; do curl -sS --max-time 2 {url(address, 8080, '/hostname')} || echo LOST; echo; n=$((n+1)); "
        "sleep 0.05; done; echo asked $n"
    )
    talk = cluster.kubectl_process("exec", "-n", namespace, client, "--", "sh", "-c", loop)
    try:
        time.sleep(1)
        yield
        cluster.exec(namespace, client, "touch", "/tmp/enough")
        said, _ = talk.communicate(timeout=20)
    finally:
        cluster.exec(namespace, client, "rm", "-f", "/tmp/enough", check=False)
        talk.kill()
        talk.wait()
    words = said.split()
    assert set(words[:-2]) == {server}, said
    assert int(words[-1]) > 50


def test_a_pod_that_goes_while_the_api_server_is_away_is_forgotten_although_the_agent_restarts(cluster: Cluster, playground: str) -> None:
    node = cluster.nodes()[1]
    before = inventory(cluster, node)
    with cluster.namespace("away") as namespace:
        pod = toolbox_pod(cluster, "leaving", node)
        pod["metadata"]["namespace"] = namespace
        pod["spec"]["containers"][0]["command"] = ["sh", "-c", "sleep 1000"]  # deaf to SIGTERM: it goes when its grace ends
        del pod["spec"]["containers"][0]["readinessProbe"]
        cluster.apply(pod)
        cluster.wait_ready(namespace, "leaving")
        address = cluster.pod_addresses(namespace, "leaving")[4]
        assert address in inventory(cluster, node)["addresses"]
        agent = agent_process(cluster, node)
        pid = cluster.member_pid(node)
        apiserver = program_of(cluster.member_pid("control-plane"), "kube-apiserver")
        cluster.kubectl("delete", "pod", "-n", namespace, "leaving", "--grace-period=3", "--wait=false")
        time.sleep(0.5)  # kubelet has heard of it
        os.kill(apiserver, signal.SIGSTOP)
        try:
            in_node = ["nsenter", "-t", str(pid), "-a", "--"]
            run(*in_node, "kill", f"-{signal.SIGKILL.value}", str(agent))
            eventually(
                lambda: address not in run(*in_node, "ip", "route", "show", "table", "all"), within=AGENT_BACK, what="its route goes"
            )
        finally:
            os.kill(apiserver, signal.SIGCONT)
        eventually(lambda: "leaving" not in cluster.kubectl("get", "pods", "-n", namespace, "-o", "name", check=False), within=60)
    eventually(lambda: ready(cluster, node), within=AGENT_BACK, what="the agent is ready again")
    eventually(lambda: inventory(cluster, node) == before, within=30, what=f"{node} as before: {before}")
    assert agent_process(cluster, node) != agent
    pods = cluster.get("pods", "-A", "--field-selector", f"spec.nodeName={node},status.phase=Running")["items"]
    wanted = sorted(p["status"]["podIP"] for p in pods if not p["spec"].get("hostNetwork"))
    assert sorted(row["address"] for row in status(cluster, node)["endpoints"]) == wanted


def test_no_private_key_is_readable_by_others_shown_or_logged(cluster: Cluster, tmp_path: Path) -> None:
    state = Path(cluster.describe()["details"]["stateDirectory"])
    files = [path for path in (cluster.kubeconfig, *files_below(state)) if not path.is_symlink() and path.is_file()]
    logs = [path for path in files if "/var/log/" in str(path) or path.suffix in {".log", ".jsonl"} or path.name == "cluster.json"]
    assert {"journal.jsonl", "kube-apiserver.log", "kubelet.log"} <= {path.name for path in logs}
    own = [path for path in files if path.suffix in {".key", ".conf"} or "/pki/" in str(path) or path == cluster.kubeconfig]
    secrets: set[str] = set()
    for path in own:
        found = secret_parts(path.read_text(errors="replace"))
        secrets |= found
        if found:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
            assert path.stat().st_uid == 0
    assert len(secrets) > 8
    assert stat.S_IMODE(state.stat().st_mode) == 0o700

    other = spec_file(tmp_path, cluster.name, numNodes=2, podCIDR="10.99.0.0/16")
    shown = [
        subprocess.run([cluster.provisioner, *words], capture_output=True, text=True, timeout=60, check=False)
        for words in (
            ("describe-cluster", cluster.name, "--output", "json"),
            ("list-clusters", "--output", "yaml"),
            ("get-credentials", cluster.name, "--kubeconfig", str(tmp_path / "kubeconfig")),
            ("create-cluster", cluster.name, "--dataplane-v2", "--config", str(other), "--output", "json"),
            ("get-credentials", cluster.name, "--kubeconfig", "/proc/kubeconfig"),
        )
    ]
    assert [done.returncode == 0 for done in shown] == [True, True, True, False, False]
    assert stat.S_IMODE((tmp_path / "kubeconfig").stat().st_mode) == 0o600
    texts = {f"{done.args}": done.stdout + done.stderr for done in shown}
    texts |= {str(path): path.read_text(errors="replace") for path in logs}
    texts |= {f"process {pid}": text for pid, text in command_lines()}
    for place, text in texts.items():
        assert "PRIVATE KEY" not in text, place
        assert not any(secret in text for secret in secrets), place


def files_below(top: Path) -> Iterator[Path]:
    """Without images and volumes, which are the pods' own."""
    for directory, below, names in os.walk(top):
        below[:] = [name for name in below if not Path(directory, name).match("var/lib/containerd") and name != "pods"]
        yield from (Path(directory, name) for name in names)


def secret_parts(text: str) -> set[str]:
    """A line from the middle of every private key in a PEM file or in a kubeconfig, as it is written there."""
    found = set()
    for block in text.split("PRIVATE KEY-----")[1::2]:
        lines = [line for line in block.splitlines() if len(line) >= 32 and "-----" not in line]
        found |= set(lines[len(lines) // 2 :][:1])
    for line in text.splitlines():
        name, _, value = line.strip().partition(": ")
        if name == "client-key-data":
            found.add(value[64:128])
    return found


def command_lines() -> Iterator[tuple[str, str]]:
    """Arguments and environment of every process, as root sees them."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            for name in ("cmdline", "environ"):
                try:
                    yield f"{entry.name} {name}", (entry / name).read_bytes().decode(errors="replace")
                except OSError:
                    continue
