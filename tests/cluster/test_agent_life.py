"""The agent may die, the API server may vanish, pods may come and go in waves: traffic and tables stay right."""

from __future__ import annotations

import json
import os
import secrets
import signal
import time
from typing import Any

from .kube import AGENT_BACK, Cluster, agent_process, container_pid, eventually, listening, program_of, ready, status, toolbox_pod, url

# A sender numbers its datagrams (or lines) at 100 a second; the receiver prints every number that it sees.
# Busy cores make a shell's `sleep 0.01` several times as long; who tries again finds the last try's receivers still at their port.
UDP_SINK = "timeout 90 nc -u -l -p {port} > /tmp/udp.seen"
TCP_SINK = "timeout 90 nc -l -p {port} > /tmp/tcp.seen"
SENDER = "i=0; while [ $i -lt 800 ]; do echo $i; i=$((i+1)); sleep 0.01; done | nc {flags} -w 12 {address} {port}"


def test_streams_lose_nothing_while_the_agent_is_killed_and_comes_back(cluster: Cluster, playground: str) -> None:
    server = cluster.pod_addresses(playground, "b1")[4]
    node = cluster.pod(playground, "b1")["spec"]["nodeName"]
    port = 9300 + secrets.randbelow(500)
    receivers = [sink.format(port=port) for sink in (UDP_SINK, TCP_SINK)]
    sinks = [cluster.kubectl_process("exec", "-n", playground, "b1", "--", "sh", "-c", sink) for sink in receivers]
    eventually(lambda: listening(cluster, playground, "b1", port) == 2, what="both receivers")
    senders = [
        cluster.kubectl_process("exec", "-n", playground, "a1", "--", "sh", "-c", SENDER.format(flags=flags, address=server, port=port))
        for flags in ("-u", "-q 1")
    ]
    try:
        for kind in ("udp", "tcp"):
            eventually(lambda kind=kind: "99" in cluster.exec(playground, "b1", "cat", f"/tmp/{kind}.seen").split(), what=f"{kind} flows")
        for victim in (node, cluster.pod(playground, "a1")["spec"]["nodeName"]):
            cluster.in_member(victim, "kill", f"-{signal.SIGKILL.value}", str(agent_process(cluster, victim)))
        for sender in senders:
            sender.wait(timeout=90)
    finally:
        for process in (*senders, *sinks):
            process.kill()
            process.wait()
    for kind in ("udp", "tcp"):
        seen = cluster.exec(playground, "b1", "cat", f"/tmp/{kind}.seen").split()
        assert seen == [str(n) for n in range(800)], f"{kind}: {len(seen)} of 800 arrived"
    eventually(lambda: ready(cluster, node), within=AGENT_BACK, what="the agent is ready again")


def test_running_pods_do_not_notice_that_the_api_server_is_away(cluster: Cluster, playground: str) -> None:
    service = cluster.get("service", "-n", playground, "web")["spec"]["clusterIP"]
    pods = {name: cluster.pod(playground, name) for name in ("a1", "b1")}
    target = cluster.pod_addresses(playground, "b1")[4]
    control_plane = cluster.member_pid("control-plane")
    apiserver = program_of(control_plane, "kube-apiserver")
    node = pods["a1"]["spec"]["nodeName"]
    pid = container_pid(cluster, node, pods["a1"])
    os.kill(apiserver, signal.SIGSTOP)
    try:
        end = time.monotonic() + 8
        while time.monotonic() < end:
            for address, port, path in ((target, 8080, "/hostname"), (service, 80, "/hostname")):
                answer = cluster.in_member(node, "nsenter", "-t", pid, "-n", "curl", "-sS", "--max-time", "3", url(address, port, path))
                assert answer.strip() in {"a1", "a2", "b1", "b2"}
    finally:
        os.kill(apiserver, signal.SIGCONT)
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
    links = {link["ifname"] for link in json.loads(cluster.in_member(node, "ip", "-j", "link", "show", "type", "veth"))}
    pins = cluster.in_member(node, "ls", "/sys/fs/bpf/anetd/v2/links").split()
    found = status(cluster, node)
    return {
        "links": sorted(links),
        # A pod that stays gets its pins in a quiet minute, so those of living pods may come at any time.
        "pins": sorted(pin for pin in pins if pin.removeprefix("pod-").rpartition("-")[0] not in links),
        "endpoints": sorted(row["address"] for row in found["endpoints"]),
        "addresses": sorted(found["ipam"]["allocated"]),
    }
