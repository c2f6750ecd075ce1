"""How long a trace takes to begin, and to be gone: the whole command as a process, on a real cluster whose nodes have its image.

    python -m tests.bench.trace [--runs N] [--json FILE]

A pod sends a datagram to a closed port, and asks for a connection, every 20 ms. `first_s` is from the command's start to its first line about one
of them; `gone_s` from a SIGKILL of the command until neither an object nor a process of its tracers is left. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.cluster import distribution, timed
from tests.bench.services import cluster_of_two, say
from tests.cluster.kube import Cluster, container_pid, run, toolbox_pod
from tests.cluster.test_trace import alive

NAMESPACE, CLOSED = "bench-trace", 9
KINDS = {"drops": "drop", "connect": "connect"}
TRAFFIC = """
import socket, sys, time
address, port = sys.argv[1], int(sys.argv[2])
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    datagrams.sendto(b"lost", (address, port))
    with socket.socket() as stream:
        stream.connect_ex((address, port))
    time.sleep(0.02)
"""


@contextmanager
def traffic(cluster: Cluster) -> Iterator[None]:
    first, other = cluster.nodes()
    pods = [toolbox_pod(cluster, "client", first), toolbox_pod(cluster, "server", other)]
    for pod in pods:
        pod["metadata"]["namespace"] = NAMESPACE
    cluster.kubectl("create", "namespace", NAMESPACE)
    cluster.apply(*pods)
    cluster.wait_ready(NAMESPACE, "client", "server", within=120)
    address = cluster.pod_addresses(NAMESPACE, "server")[4]
    client = container_pid(cluster, first, cluster.pod(NAMESPACE, "client"))
    namespace = f"/proc/{cluster.member_pid(first)}/root/proc/{client}/ns/net"
    process = subprocess.Popen(["nsenter", f"--net={namespace}", sys.executable, "-c", TRAFFIC, address, str(CLOSED)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def once(cluster: Cluster, kind: str, nodes: dict[str, int]) -> tuple[float, float]:
    """Seconds to the first line, and from the SIGKILL after it to nothing left."""
    argv = [cluster.provisioner, "trace", kind, cluster.name, "--output", "json"]
    began = time.perf_counter()
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            document = json.loads(line)
            if document["type"] == KINDS[kind] and CLOSED in {document[end]["port"] for end in ("asked", "destination") if end in document}:
                break
        else:
            assert process.stderr is not None
            raise AssertionError(process.stderr.read())
        first = time.perf_counter() - began
        os.kill(process.pid, signal.SIGKILL)
    killed = time.perf_counter()
    while alive(cluster, nodes):
        time.sleep(0.05)
    return first, time.perf_counter() - killed


def measure(cluster: Cluster, runs: int) -> dict[str, Any]:
    nodes = {node: cluster.member_pid(node) for node in cluster.nodes()}
    with traffic(cluster):
        say("loading the tracer's image into the nodes")
        loading = timed(cluster.provisioner, "trace", "drops", cluster.name, "--duration", "1", timeout=600)
        found: dict[str, Any] = {"loading_s": round(loading, 3)}
        for kind in KINDS:
            say(f"trace {kind}")
            figures = [once(cluster, kind, nodes) for _ in range(runs)]
            found[kind] = {"first_s": distribution([first for first, _ in figures]), "gone_s": distribution([gone for _, gone in figures])}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    images = json.loads(run(sys.executable, "-m", "provisioner.images", "--json", timeout=1800))
    binaries = json.loads(run(sys.executable, "-m", "provisioner.binaries", "--json", timeout=3600))["directory"]
    kubectl = str(Path(binaries) / "kubectl")
    with tempfile.TemporaryDirectory() as directory, cluster_of_two(Path(directory), kubectl, images["toolbox"]) as cluster:
        text = json.dumps(measure(cluster, options.runs), indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
