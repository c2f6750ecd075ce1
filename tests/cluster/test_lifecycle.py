"""create, stop and delete, interrupted at every step: the next run continues or removes, and nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import spec_file
from .kube import eventually, run

NAME = "pvt-life"
STEPS = 10  # more than a plan has; an index beyond the plan's end only means that the create was over


def machine() -> dict[str, list[str]]:
    """What a cluster could leave on a machine."""
    links = json.loads(run("ip", "-j", "link", "show"))
    routes = json.loads(run("ip", "-j", "route", "show", "table", "all")) + json.loads(
        run("ip", "-j", "-6", "route", "show", "table", "all")
    )
    namespaces = json.loads(run("lsns", "--json", "-o", "ns,type,command"))["namespaces"]
    cgroups = [str(p) for root in Path("/sys/fs/cgroup").glob("**/provisioner*") for p in [root]]
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout.splitlines()
    return {
        "links": sorted(link["ifname"] for link in links),
        "routes": sorted(f"{r.get('dst')} {r.get('dev')}" for r in routes),
        "namespaces": sorted(str(n["ns"]) for n in namespaces),
        "mounts": sorted(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        "cgroups": sorted(cgroups),
        "state": sorted(str(p) for top in ("/var/lib/provisioner/clusters", "/run/provisioner") for p in Path(top).glob("*")),
        "processes": sorted(run("ps", "-e", "-o", "comm=").split()),
        "nft": sorted(tables),
    }


def compare(before: dict[str, list[str]]) -> None:
    """Everything as before; processes by the names that a cluster runs, for a machine has others that come and go."""
    ours = {"etcd", "kube-apiserver", "kube-controller", "kube-scheduler", "kubelet", "containerd", "member-init", "containerd-shim"}

    def reduced(found: dict[str, list[str]]) -> dict[str, list[str]]:
        return {**found, "processes": [p for p in found["processes"] if p in ours]}

    eventually(lambda: reduced(machine()) == reduced(before), within=10, what=str(difference(reduced(before), reduced(machine()))))


def difference(before: dict[str, list[str]], after: dict[str, list[str]]) -> dict[str, list[str]]:
    return {key: sorted(set(after[key]) ^ set(before[key])) for key in before if after[key] != before[key]}


def create(provisioner: str, name: str, directory: Path, *options: str, **spec: object) -> str:
    config = spec_file(directory, name, **({"numNodes": 1} | spec))
    return run(
        provisioner, "create-cluster", name, "--dataplane-v2", "--config", str(config), "--kubeconfig", str(directory / f"{name}.kubeconfig"),
        "--output", "json", "--timeout", "5m", *options, timeout=330,
    )  # fmt: skip


def test_two_clusters_live_side_by_side_and_leave_the_machine_as_it_was(provisioner: str, kubectl_path: str, tmp_path: Path) -> None:
    before = machine()
    names = ("pvt-left", "pvt-right")
    for name in names:
        create(provisioner, name, tmp_path)
    for name in names:
        nodes = run(kubectl_path, "--kubeconfig", str(tmp_path / f"{name}.kubeconfig"), "get", "nodes", "-o", "name").split()
        assert nodes == [f"node/{name}-0"]
    listed = {c["name"]: c["state"] for c in json.loads(run(provisioner, "list-clusters", "--output", "json"))["items"]}
    assert {name: listed[name] for name in names} == dict.fromkeys(names, "RUNNING")
    run(provisioner, "delete-cluster", names[0], "--quiet", timeout=60)
    assert run(kubectl_path, "--kubeconfig", str(tmp_path / f"{names[1]}.kubeconfig"), "get", "--raw", "/readyz") == "ok"
    run(provisioner, "delete-cluster", names[1], "--quiet", timeout=60)
    compare(before)


def test_a_second_create_finds_everything_done_and_another_spec_conflicts(provisioner: str, tmp_path: Path) -> None:
    create(provisioner, NAME, tmp_path)
    try:
        start = time.monotonic()
        again = json.loads(create(provisioner, NAME, tmp_path))
        assert time.monotonic() - start < 15
        assert again["state"] == "RUNNING"
        other = spec_file(tmp_path, f"{NAME}", numNodes=1, podCIDR="10.99.0.0/16")
        clash = subprocess.run(
            [provisioner, "create-cluster", NAME, "--dataplane-v2", "--config", str(other), "--output", "json"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert clash.returncode == 5
        assert "podCIDR" in clash.stdout + clash.stderr
    finally:
        run(provisioner, "delete-cluster", NAME, "--quiet", timeout=60)


def test_a_stopped_cluster_keeps_its_data_and_starts_again(provisioner: str, kubectl_path: str, tmp_path: Path) -> None:
    create(provisioner, NAME, tmp_path)
    kubeconfig = str(tmp_path / f"{NAME}.kubeconfig")
    try:
        run(kubectl_path, "--kubeconfig", kubeconfig, "create", "configmap", "kept", "--from-literal=a=b")
        run(provisioner, "stop-cluster", NAME, timeout=60)
        states = {c["name"]: c["state"] for c in json.loads(run(provisioner, "list-clusters", "--output", "json"))["items"]}
        assert states[NAME] == "STOPPED"
        create(provisioner, NAME, tmp_path)
        assert run(kubectl_path, "--kubeconfig", kubeconfig, "get", "configmap", "kept", "-o", "jsonpath={.data.a}") == "b"
    finally:
        run(provisioner, "delete-cluster", NAME, "--quiet", timeout=60)


def test_a_killed_node_comes_back_with_create(provisioner: str, kubectl_path: str, tmp_path: Path) -> None:
    create(provisioner, NAME, tmp_path)
    try:
        members = json.loads(run(provisioner, "describe-cluster", NAME, "--output", "json"))["details"]["members"]
        node = next(m for m in members if m["name"] == f"{NAME}-0")
        os.kill(node["pid"], signal.SIGKILL)
        eventually(lambda: not Path(f"/proc/{node['pid']}").exists())
        found = json.loads(run(provisioner, "describe-cluster", NAME, "--output", "json"))
        assert found["state"] == "DEGRADED"
        create(provisioner, NAME, tmp_path)
        found = json.loads(run(provisioner, "describe-cluster", NAME, "--output", "json"))
        assert found["state"] == "RUNNING"
    finally:
        run(provisioner, "delete-cluster", NAME, "--quiet", timeout=60)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_create_that_is_cut_short_anywhere_is_continued_and_removed(provisioner: str, tmp_path: Path, number: signal.Signals) -> None:
    """The command is ended shortly after each step begins; every time the next create goes on, and a delete leaves nothing."""
    before = machine()
    config = spec_file(tmp_path, NAME, numNodes=1)
    argv = [provisioner, "create-cluster", NAME, "--dataplane-v2", "--config", str(config), "--kubeconfig", str(tmp_path / "kc")]
    journal = Path("/var/lib/provisioner/clusters") / NAME / "journal.jsonl"
    for step in range(1, STEPS + 1):
        command = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        begun = begun_steps(journal)
        end = time.monotonic() + 60
        while command.poll() is None and begun_steps(journal) < begun + step and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.15)
        over = command.poll() is not None
        if not over:
            command.send_signal(number)
        code = command.wait(timeout=30)
        if number is signal.SIGINT and not over:
            assert code in (0, 130)
        if step % 3 == 0:
            run(provisioner, "delete-cluster", NAME, "--quiet", timeout=60)
            compare(before)
        if over:
            break
    create(provisioner, NAME, tmp_path)
    run(provisioner, "delete-cluster", NAME, "--quiet", timeout=60)
    compare(before)


def begun_steps(journal: Path) -> int:
    try:
        return sum('"begun"' in line for line in journal.read_text().splitlines())
    except OSError:
        return 0
