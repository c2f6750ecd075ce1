"""The dataplanes that the Service benchmark compares, switched on and off on the nodes of one cluster.

    anetd       as the cluster was made
    kube-proxy  the real one, in nftables or iptables mode, on pods that the ptp plugin wires and static routes join

anetd is off when no node matches its DaemonSet and its pins are gone, which takes its programs off every device. Pods have the network
of the plane under which they were started, so whoever switches makes pods anew.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.cluster.kube import Cluster, eventually, ready, run, status

PLUGINS = "/usr/lib/cni"
CONFLIST = "/etc/cni/net.d/10-bench.conflist"
# Minutes, where other measurements take seconds: kube-proxy's first synchronisation with ten thousand Services.
SYNC_SECONDS = 300


def anetd_off(cluster: Cluster) -> None:
    """No agent, no program and no table of it on any node."""
    cluster.kubectl("patch", "-n", "kube-system", "daemonset/anetd", "--patch", json.dumps(_nodes_with({"bench": "no-node-has-this"})))
    eventually(lambda: not cluster.get("pods", "-n", "kube-system", "-l", "app=anetd")["items"], within=120, what="no agent")
    for node in cluster.nodes():
        cluster.in_member(node, "rm", "-rf", "/sys/fs/bpf/anetd", "/etc/cni/net.d/05-anetd.conflist")
        cluster.in_member(node, "tc", "qdisc", "del", "dev", _device(cluster, node), "clsact", check=False)


def anetd_on(cluster: Cluster) -> None:
    cluster.kubectl("patch", "-n", "kube-system", "daemonset/anetd", "--patch", json.dumps(_nodes_with({"bench": None})))

    def is_on(node: str) -> bool:
        with suppress(IndexError):  # its pod is not there yet
            return ready(cluster, node) and bool(status(cluster, node)["ready"])
        return False

    for node in cluster.nodes():
        eventually(lambda node=node: is_on(node), within=180, what=f"a ready agent on {node}")


def _nodes_with(labels: dict[str, Any]) -> dict[str, Any]:
    return {"spec": {"template": {"spec": {"nodeSelector": labels}}}}


def _device(cluster: Cluster, node: str) -> str:
    """The device with the node's address."""
    address = cluster.node_address(node)
    found = json.loads(cluster.in_member(node, "ip", "-j", "-4", "address", "show"))
    return next(str(link["ifname"]) for link in found if any(each["local"] == address for each in link["addr_info"]))


def ptp_on(cluster: Cluster) -> None:
    """The ptp plugin for new pods of every node, and routes between the nodes' pods."""
    nodes = cluster.nodes()
    ranges = {node: str(cluster.get("node", node)["spec"]["podCIDR"]) for node in nodes}
    for node in nodes:
        device = _device(cluster, node)
        mtu = json.loads(cluster.in_member(node, "ip", "-j", "link", "show", device))[0]["mtu"]
        for plugin in ("ptp", "host-local"):
            cluster.in_member(node, "cp", f"{PLUGINS}/{plugin}", "/opt/cni/bin/")
        ipam = {"type": "host-local", "ranges": [[{"subnet": ranges[node]}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/run/bench-cni"}
        conflist = {"cniVersion": "1.0.0", "name": "bench", "plugins": [{"type": "ptp", "mtu": mtu, "ipam": ipam}]}
        write = f"cat > {CONFLIST}.new && mv {CONFLIST}.new {CONFLIST}"
        run("nsenter", "-t", str(cluster.member_pid(node)), "-a", "--", "sh", "-c", write, stdin=json.dumps(conflist))
        cluster.in_member(node, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        for other in nodes:
            if other != node:
                cluster.in_member(node, "ip", "route", "replace", ranges[other], "via", cluster.node_address(other))


def ptp_off(cluster: Cluster) -> None:
    for node in cluster.nodes():
        cluster.in_member(node, "rm", "-rf", CONFLIST, "/run/bench-cni")


class KubeProxy:
    """A kube-proxy that runs on one node: on the other nobody asks a Service's address."""

    def __init__(self, process: subprocess.Popen[bytes], began: float, inside: list[str]) -> None:
        self._process, self._began, self._inside = process, began, inside

    def synced_seconds(self) -> float | None:
        """From its start to the end of its first synchronisation; None when that takes longer than `SYNC_SECONDS`."""
        while time.monotonic() < self._began + SYNC_SECONDS:
            assert self._process.poll() is None, f"kube-proxy ended with {self._process.returncode}"
            # Counted by family; the first to have counted has seen every Service.
            counts = re.findall(r"^kubeproxy_sync_proxy_rules_duration_seconds_count\S* (\d+)", self._metrics(), re.MULTILINE)
            if any(int(count) for count in counts):
                return round(time.monotonic() - self._began, 2)
            time.sleep(0.1)
        return None

    def resident_mib(self) -> float:
        return resident_mib(self._process.pid)

    def _metrics(self) -> str:
        return run(*self._inside, "curl", "-s", "--max-time", "5", "http://127.0.0.1:10249/metrics", check=False)


@contextmanager
def kube_proxy(program: Path, mode: str, cluster: Cluster, node: str, pods: str, scratch: Path) -> Iterator[KubeProxy]:
    """kube-proxy in the network namespace of a node; its rules are gone afterwards."""
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": mode,
        "clusterCIDR": pods,
        "hostnameOverride": node,
        "clientConnection": {"kubeconfig": str(cluster.kubeconfig)},
        "metricsBindAddress": "127.0.0.1:10249",
        "healthzBindAddress": "127.0.0.1:10256",
        # The machine's connection tracking is as it is.
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
    path = scratch / f"kube-proxy-{mode}.json"
    path.write_text(json.dumps(config))
    inside = ["nsenter", "-t", str(cluster.member_pid(node)), "-n", "--"]
    argv = [*inside, str(program), f"--config={path}"]
    with (scratch / f"kube-proxy-{mode}.log").open("wb") as log:
        began = time.monotonic()
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield KubeProxy(process, began, inside)
        finally:
            process.terminate()
            process.wait(timeout=60)
            run(*argv, "--cleanup", timeout=300, check=False)


def resident_mib(pid: int) -> float:
    """What a process of this machine has in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return round(int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024, 1)


def rows_changed(cluster: Cluster, node: str) -> dict[str, int] | None:
    """ "written TABLE" or "deleted TABLE" -> rows, since the agent started; None where it does not count them."""
    metrics = cluster.in_member(node, "curl", "-s", "--max-time", "5", "http://127.0.0.1:9879/metrics")
    found = re.findall(r'^anetd_table_rows_(written|deleted)_total\{table="([^"]+)"\} (\d+)', metrics, re.MULTILINE)
    return {f"{verb} {table}": int(count) for verb, table, count in found} or None
