"""The agent may die, the API server may vanish, pods may come and go in waves: traffic and tables stay right."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

from .kube import Cluster, eventually, toolbox_pod, url
from .test_pod_network import agent_on

# A sender numbers its datagrams (or lines) at 100 a second; the receiver prints every number that it sees.
UDP_SINK = "timeout 20 nc -u -l -p 9300 > /tmp/udp.seen"
TCP_SINK = "timeout 20 nc -l -p 9300 > /tmp/tcp.seen"
SENDER = "i=0; while [ $i -lt 800 ]; do echo $i; i=$((i+1)); sleep 0.01; done | nc {flags} -w 12 {address} 9300"


def agent_process(cluster: Cluster, node: str) -> int:
    """The agent's pid inside the node."""
    listing = cluster.in_member(
        node, "sh", "-c", "for p in /proc/[0-9]*; do printf '%s ' ${p#/proc/}; tr '\\0' ' ' < $p/cmdline; echo; done"
    )
    found = [int(line.split()[0]) for line in listing.splitlines() if "agent.main agent" in line]
    assert found, f"no agent runs on {node}"
    return found[0]


def status(cluster: Cluster, node: str) -> Any:
    return json.loads(cluster.exec("kube-system", agent_on(cluster, node), "anetd", "status", "--output", "json"))


def ready(cluster: Cluster, node: str) -> bool:
    conditions = cluster.pod("kube-system", agent_on(cluster, node))["status"]["conditions"]
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def test_streams_lose_nothing_while_the_agent_is_killed_and_comes_back(cluster: Cluster, playground: str) -> None:
    server = cluster.pod_addresses(playground, "b1")[4]
    node = cluster.pod(playground, "b1")["spec"]["nodeName"]
    sinks = [cluster.kubectl_process("exec", "-n", playground, "b1", "--", "sh", "-c", sink) for sink in (UDP_SINK, TCP_SINK)]
    time.sleep(1.5)
    senders = [
        cluster.kubectl_process("exec", "-n", playground, "a1", "--", "sh", "-c", SENDER.format(flags=flags, address=server))
        for flags in ("-u", "-q 1")
    ]
    try:
        time.sleep(2)
        for victim in (node, cluster.pod(playground, "a1")["spec"]["nodeName"]):
            cluster.in_member(victim, "kill", f"-{signal.SIGKILL.value}", str(agent_process(cluster, victim)))
        for sender in senders:
            sender.wait(timeout=40)
    finally:
        for process in (*senders, *sinks):
            process.kill()
            process.wait()
    for kind in ("udp", "tcp"):
        seen = cluster.exec(playground, "b1", "cat", f"/tmp/{kind}.seen").split()
        assert seen == [str(n) for n in range(800)], f"{kind}: {len(seen)} of 800 arrived"
    eventually(lambda: ready(cluster, node), within=60, what="the agent is ready again")


def test_running_pods_do_not_notice_that_the_api_server_is_away(cluster: Cluster, playground: str) -> None:
    service = cluster.get("service", "-n", playground, "web")["spec"]["clusterIP"]
    pods = {name: cluster.pod(playground, name) for name in ("a1", "b1")}
    target = cluster.pod_addresses(playground, "b1")[4]
    control_plane = cluster.member_pid("control-plane")
    apiserver = program_of(control_plane, "kube-apiserver")
    node = pods["a1"]["spec"]["nodeName"]
    pid = container_pid(cluster, node, pods["a1"])
    Path(f"/proc/{apiserver}/stat").read_text()  # it is ours: a child of the member's first process
    signal_process(apiserver, signal.SIGSTOP)
    try:
        end = time.monotonic() + 8
        while time.monotonic() < end:
            for address, port, path in ((target, 8080, "/hostname"), (service, 80, "/hostname")):
                answer = cluster.in_member(node, "nsenter", "-t", pid, "-n", "curl", "-sS", "--max-time", "3", url(address, port, path))
                assert answer.strip() in {"a1", "a2", "b1", "b2"}
    finally:
        signal_process(apiserver, signal.SIGCONT)
    eventually(lambda: cluster.kubectl("get", "nodes", check=False), within=60)
    assert all(ready(cluster, each) for each in cluster.nodes())


def test_waves_of_pods_leave_nothing_behind(cluster: Cluster) -> None:
    nodes = cluster.nodes()
    before = {node: inventory(cluster, node) for node in nodes}
    # A hundred pods on the first kind of cluster; the others show that their kind makes no difference.
    for wave in range(4 if cluster.name.endswith("native-ipv4") else 1):
        with cluster.namespace(f"wave-{wave}") as namespace:
            pods = [toolbox_pod(cluster, f"w{n}", nodes[n % 2]) for n in range(25)]
            for pod in pods:
                pod["metadata"]["namespace"] = namespace
                pod["spec"]["containers"][0].pop("readinessProbe")
            cluster.apply(*pods)
            cluster.wait_ready(namespace, *(pod["metadata"]["name"] for pod in pods), within=120)
            cluster.kubectl("delete", "pods", "--all", "-n", namespace, "--wait=true", timeout=120)
    for node in nodes:
        eventually(lambda node=node: inventory(cluster, node) == before[node], within=30, what=f"{node}: {before[node]}")


def inventory(cluster: Cluster, node: str) -> dict[str, Any]:
    """Everything that the agent keeps for pods on a node."""
    links = json.loads(cluster.in_member(node, "ip", "-j", "link", "show", "type", "veth"))
    found = status(cluster, node)
    return {
        "links": sorted(link["ifname"] for link in links),
        "pins": sorted(cluster.in_member(node, "ls", "/sys/fs/bpf/anetd/v1/links").split()),
        "endpoints": sorted(row["address"] for row in found["endpoints"]),
        "addresses": sorted(found["ipam"]["allocated"]),
    }


def program_of(parent: int, name: str) -> int:
    """The pid (as the machine sees it) of a member's program."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            argv = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(fields[1]) == parent and Path(argv[0].decode()).name == name:
            return int(entry.name)
    raise AssertionError(f"{name} does not run under {parent}")


def container_pid(cluster: Cluster, node: str, pod: Any) -> str:
    container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    tasks = cluster.in_member(node, "ctr", "-n", "k8s.io", "task", "ls")
    return next(line.split()[1] for line in tasks.splitlines() if line.startswith(container))


def signal_process(pid: int, number: signal.Signals) -> None:
    import os

    os.kill(pid, number)
