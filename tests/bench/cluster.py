"""How long a local cluster takes, and how small its agent is: distributions over several runs, all from one machine in one run.

    python -m tests.bench.cluster [--runs N] [--json FILE]

Nothing here asserts a time. The figures go to docs/benchmarks.md by `make bench`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.cluster.conftest import PROVISIONER, spec_file
from tests.cluster.kube import Cluster, agent_process, eventually, ready, run, status, toolbox_pod

NAME = "pvt-bench"
PODS = 30


def timed(*argv: str, timeout: float = 400) -> float:
    """Wall seconds of a command that must succeed."""
    start = time.perf_counter()
    run(*argv, timeout=timeout)
    return time.perf_counter() - start


def distribution(values: list[float]) -> dict[str, float]:
    """min, median and max; three decimals are more than a shared machine can repeat."""
    return {"min": round(min(values), 3), "median": round(statistics.median(values), 3), "max": round(max(values), 3), "runs": len(values)}


def step_seconds(journal: Path) -> dict[str, float]:
    """Step id -> seconds between its begin and its end, from the cluster's own journal."""
    begun: dict[str, float] = {}
    taken: dict[str, float] = {}
    for line in journal.read_text().splitlines():
        entry = json.loads(line)
        if entry["event"] == "begun":
            begun[entry["step"]] = entry["at"]
        elif entry["event"] == "done":
            taken[entry["step"]] = entry["at"] - begun[entry["step"]]
    return taken


def resident_mib(cluster: Cluster, node: str) -> float:
    lines = cluster.in_member(node, "cat", f"/proc/{agent_process(cluster, node)}/status").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def creation(runs: int, directory: Path) -> dict[str, Any]:
    """create-cluster with two nodes and a warm cache, and delete-cluster, in turn."""
    config = spec_file(directory, NAME, numNodes=2)
    create: list[float] = []
    delete: list[float] = []
    steps: dict[str, list[float]] = defaultdict(list)
    for _ in range(runs):
        argv = [PROVISIONER, "create-cluster", NAME, "--dataplane-v2", "--config", str(config), "--kubeconfig", str(directory / "kc")]
        create.append(timed(*argv))
        for step, seconds in step_seconds(Path("/var/lib/provisioner/clusters") / NAME / "journal.jsonl").items():
            steps[step].append(seconds)
        delete.append(timed(PROVISIONER, "delete-cluster", NAME, "--quiet"))
    return {
        "create": distribution(create),
        "delete": distribution(delete),
        "steps": {step: distribution(values) for step, values in steps.items()},
    }


def agent(directory: Path, kubectl: str, images: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One node with thirty pods: the agent's memory, CNI ADD as the agent times it, and a restart to readiness."""
    config = spec_file(directory, NAME, numNodes=1)
    run(PROVISIONER, "create-cluster", NAME, "--dataplane-v2", "--config", str(config), "--kubeconfig", str(directory / "kc"), timeout=400)
    try:
        run(PROVISIONER, "load-image", NAME, images["toolbox"]["archive"], timeout=120)
        cluster = Cluster(NAME, directory / "kc", {}, images["toolbox"]["name"], PROVISIONER, kubectl)
        (node,) = cluster.nodes()
        with cluster.namespace("bench") as namespace:
            pods = [toolbox_pod(cluster, f"p{n}", node) for n in range(PODS)]
            for pod in pods:
                pod["metadata"]["namespace"] = namespace
            start = time.perf_counter()
            cluster.apply(*pods)
            cluster.wait_ready(namespace, *(pod["metadata"]["name"] for pod in pods), within=180)
            started = time.perf_counter() - start
            resident = resident_mib(cluster, node)
            add = status(cluster, node)["cni"]["ADD"]
            restarts = [restart_seconds(cluster, node) for _ in range(3)]
            cluster.kubectl("delete", "pods", "--all", "-n", namespace, "--wait=true", timeout=120)
            singles = one_after_the_other(cluster, namespace, node)
            return {
                "cni_add_alone_ms": singles,
                "pods": PODS,
                "pods_ready_s": round(started, 2),
                "resident_mib": round(resident, 1),
                "cni_add_ms": add,
                "plugin_ms": plugin_ms(cluster, node),
                "exec_to_ready_s": distribution(restarts),
            }
    finally:
        run(PROVISIONER, "delete-cluster", NAME, "--quiet", timeout=120)


def one_after_the_other(cluster: Cluster, namespace: str, node: str) -> dict[str, float]:
    """CNI ADD as the agent times it when nothing else happens. The agent was just restarted, so it has timed nothing before."""
    for number in range(15):
        pod = toolbox_pod(cluster, f"single{number}", node)
        pod["metadata"]["namespace"] = namespace
        cluster.apply(pod)
        cluster.wait_ready(namespace, f"single{number}")
    return dict(status(cluster, node)["cni"]["ADD"])


def restart_seconds(cluster: Cluster, node: str) -> float:
    """From the agent's exec to its readiness, by the agent's own clock."""
    before = agent_process(cluster, node)
    cluster.in_member(node, "kill", "-9", str(before))
    eventually(lambda: agent_process(cluster, node) != before, within=120, what="a new agent")  # kubelet waits longer each time
    eventually(lambda: ready(cluster, node) and status(cluster, node)["ready"], within=60, what="a ready agent")
    return float(status(cluster, node)["startupSeconds"])


def plugin_ms(cluster: Cluster, node: str) -> dict[str, float]:
    """The plugin as a process: started, asked for its versions, ended; a hundred times, less what /bin/true costs."""
    script = (
        "import os,subprocess,time,statistics\n"
        "def cost(argv,env):\n"
        "  v=[]\n"
        "  for _ in range(100):\n"
        '    s=time.perf_counter();subprocess.run(argv,env=env,input=b\'{"cniVersion":"1.1.0"}\',stdout=subprocess.DEVNULL);'
        "v.append((time.perf_counter()-s)*1000)\n"
        "  return statistics.median(v)\n"
        "print(cost(['/opt/cni/bin/anetd-cni'],{'CNI_COMMAND':'VERSION'}),cost(['/bin/true'],{}))\n"
    )
    plugin, nothing = map(float, cluster.in_member(node, "/usr/bin/python3", "-c", script).split())
    return {"plugin": round(plugin, 2), "bin_true": round(nothing, 2)}


def command_line(runs: int) -> dict[str, float]:
    return distribution([timed(PROVISIONER, "--help") for _ in range(runs * 3)])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=5)
    options.add_argument("--agent-only", action="store_true", help="measure the agent anew, keep the rest of the file")
    options.add_argument("--json", type=Path, default=None)
    chosen = options.parse_args()
    images = json.loads(run(sys.executable, "-m", "provisioner.images", "--json", timeout=1800))
    kubectl = str(Path(json.loads(run(sys.executable, "-m", "provisioner.binaries", "--json", timeout=3600))["directory"]) / "kubectl")
    subprocess.run([PROVISIONER, "delete-cluster", NAME, "--quiet"], capture_output=True, timeout=120, check=False)
    with tempfile.TemporaryDirectory() as directory:
        found = json.loads(chosen.json.read_text()) if chosen.agent_only else {}
        if not chosen.agent_only:
            found["help"] = command_line(chosen.runs)
            found["creation"] = creation(chosen.runs, Path(directory))
            found["image_mib"] = {name: round(image["unpacked_bytes"] / 2**20, 1) for name, image in images.items()}
        found["agent"] = agent(Path(directory), kubectl, images)
    text = json.dumps(found, indent=2)
    if chosen.json:
        chosen.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
