"""create, stop and delete, interrupted at every step: the next run continues or removes, and nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .conftest import PREFIX, spec_file
from .kube import eventually, run
from .machine import left_as_it_was

CLUSTERS = Path("/var/lib/provisioner/clusters")


@dataclass(frozen=True)
class Commands:
    """The command line with one cluster's name and files in place."""

    provisioner: str
    kubectl_path: str
    name: str
    directory: Path

    @property
    def kubeconfig(self) -> Path:
        return self.directory / f"{self.name}.kubeconfig"

    @property
    def journal(self) -> Path:
        return CLUSTERS / self.name / "journal.jsonl"

    def create_argv(self, *options: str, **spec: object) -> list[str]:
        config = spec_file(self.directory, self.name, **({"numNodes": 1} | spec))
        files = ["--config", str(config), "--kubeconfig", str(self.kubeconfig)]
        return [self.provisioner, "create-cluster", self.name, "--dataplane-v2", *files, "--output", "json", *options]

    def create(self) -> Any:
        return json.loads(run(*self.create_argv("--timeout", "3m"), timeout=200))

    def delete(self) -> None:
        run(self.provisioner, "delete-cluster", self.name, "--quiet", timeout=60)

    def describe(self) -> Any:
        return json.loads(run(self.provisioner, "describe-cluster", self.name, "--output", "json"))

    def state(self) -> str:
        """As the list shows it."""
        listed = json.loads(run(self.provisioner, "list-clusters", "--output", "json"))["items"]
        return next((str(entry["state"]) for entry in listed if entry["name"] == self.name), "none")

    def member_pid(self, member: str) -> int:
        return next(int(entry["pid"]) for entry in self.describe()["details"]["members"] if entry["name"] == member)

    def kubectl(self, *argv: str) -> str:
        return run(self.kubectl_path, "--kubeconfig", str(self.kubeconfig), *argv)

    def events(self) -> list[tuple[str, str]]:
        """(step, event) of every whole line of the journal."""
        try:
            lines = self.journal.read_text().split("\n")[:-1]
        except OSError:
            return []
        return [(entry["step"], entry["event"]) for entry in map(json.loads, lines)]


@pytest.fixture(scope="module")
def commands(provisioner: str, images: object, kubectl_path: str, tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """For the cluster that this file's tests share. The images are there, so that a create takes as long as its own work."""
    return Commands(provisioner, kubectl_path, f"{PREFIX}life", tmp_path_factory.mktemp("life"))


@pytest.fixture(scope="module")
def living(commands: Commands) -> Iterator[Commands]:
    """The shared cluster, running; each test leaves it so."""
    commands.create()
    yield commands
    commands.delete()


@contextlib.contextmanager
def taken_on_the_machine(*ports: int) -> Iterator[None]:
    """Somebody listens on these ports of the machine, on every address."""
    with contextlib.ExitStack() as sockets:
        for port in ports:
            listener = sockets.enter_context(socket.socket())
            with contextlib.suppress(OSError):  # in use already, which is as good
                listener.bind(("0.0.0.0", port))
                listener.listen()
        yield


def test_two_clusters_live_side_by_side_and_leave_the_machine_as_it_was(commands: Commands, tmp_path: Path) -> None:
    """Ports that they use may be taken on the machine: each member has a network of its own."""
    left, right = (Commands(commands.provisioner, commands.kubectl_path, f"{PREFIX}{side}", tmp_path) for side in ("left", "right"))
    with left_as_it_was(left.name, right.name):
        with (
            taken_on_the_machine(6443, 10250, 10257, 2379, 9879, 53),
            ThreadPoolExecutor() as pool,
        ):  # made at the same time: they must not choose the same subnet
            first, second = pool.map(Commands.create, (left, right))
        assert first["details"]["subnets"] != second["details"]["subnets"]
        for each in (left, right):
            assert each.kubectl("get", "nodes", "-o", "name").split() == [f"node/{each.name}-0"]
            assert each.state() == "RUNNING"
        left.delete()
        assert right.kubectl("get", "--raw", "/readyz") == "ok"
        assert right.kubectl("get", "nodes", "-o", "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}") == "True"
        right.delete()
    assert not left.kubeconfig.exists()  # nothing but its own entries was in it
    assert not right.kubeconfig.exists()


def test_a_second_create_finds_everything_done_in_seconds(living: Commands) -> None:
    before = len(living.events())
    pids = {entry["name"]: entry["pid"] for entry in living.describe()["details"]["members"]}
    start = time.monotonic()
    again = living.create()
    assert time.monotonic() - start < 10
    assert again["state"] == "RUNNING"
    assert {event for _, event in living.events()[before:]} == {"present"}
    assert {entry["name"]: entry["pid"] for entry in again["details"]["members"]} == pids


def test_another_spec_for_a_running_cluster_conflicts_and_changes_nothing(living: Commands, tmp_path: Path) -> None:
    record = (CLUSTERS / living.name / "cluster.json").read_text()
    other = Commands(living.provisioner, living.kubectl_path, living.name, tmp_path)
    clash = subprocess.run(
        other.create_argv(podCIDR="10.99.0.0/16"), capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert clash.returncode == 5
    assert "podCIDR" in clash.stdout + clash.stderr
    assert (CLUSTERS / living.name / "cluster.json").read_text() == record
    assert not other.kubeconfig.exists()


def test_a_program_that_dies_makes_the_cluster_degraded_until_it_runs_again(living: Commands) -> None:
    """member-init starts it again by itself, later each time."""
    node = living.member_pid(f"{living.name}-0")

    def kubelet() -> int:
        children = Path(f"/proc/{node}/task/{node}/children").read_text().split()
        return next((int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text().strip() == "kubelet"), 0)

    first = kubelet()
    os.kill(first, signal.SIGKILL)
    eventually(lambda: kubelet() not in {0, first}, within=20, what="kubelet runs again")
    eventually(lambda: living.state() == "RUNNING", within=10)


def test_a_killed_node_is_seen_and_comes_back_with_create(living: Commands) -> None:
    node = living.member_pid(f"{living.name}-0")
    os.kill(node, signal.SIGKILL)
    eventually(lambda: living.state() == "DEGRADED", within=10)
    again = living.create()
    assert again["state"] == "RUNNING"
    assert living.member_pid(f"{living.name}-0") != node


def test_a_killed_control_plane_is_seen_and_comes_back_with_its_data(living: Commands) -> None:
    living.kubectl("create", "configmap", "before", "--from-literal=a=b")
    control_plane, node = living.member_pid("control-plane"), living.member_pid(f"{living.name}-0")
    os.kill(control_plane, signal.SIGKILL)
    eventually(lambda: living.state() == "DEGRADED", within=10)
    living.create()
    assert living.kubectl("get", "configmap", "before", "-o", "jsonpath={.data.a}") == "b"
    assert living.member_pid(f"{living.name}-0") == node


def test_a_stopped_cluster_keeps_its_data_and_nothing_else_and_starts_again(living: Commands) -> None:
    living.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    run(living.provisioner, "stop-cluster", living.name, timeout=60)
    assert living.state() == "STOPPED"
    stem = living.describe()["details"]["bridge"]
    assert stem not in run("ip", "link", "show")
    assert not [path for path in Path("/sys/fs/cgroup").glob(f"**/provisioner/{living.name}") if path.is_dir()]
    living.create()
    assert living.state() == "RUNNING"
    assert living.kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.a}") == "b"


@pytest.mark.parametrize(("number", "removed"), [(signal.SIGKILL, 0), (signal.SIGINT, 1)], ids=["killed", "interrupted"])
def test_a_create_that_is_cut_short_in_any_step_is_continued_or_removed(
    commands: Commands, tmp_path: Path, number: signal.Signals, removed: int
) -> None:
    """Every step is cut short, by each signal; after every other one the cluster is removed, after the rest the next create goes on.

    The two signals remove after different steps, so that each step is once followed by a delete and once by a create.
    """
    cut = Commands(commands.provisioner, commands.kubectl_path, f"{PREFIX}cut", tmp_path)
    steps = [step["id"] for step in json.loads(run(*cut.create_argv("--dry-run"), check=False))["steps"]]
    assert len(steps) > 8
    with left_as_it_was(cut.name):
        missed = [step for place, step in enumerate(steps) if not cut_short(cut, step, number, delete=place % 2 == removed)]
        assert cut.create()["state"] == "RUNNING"
        cut.delete()
    assert not missed, f"never cut short: {missed}"


def cut_short(cut: Commands, step: str, number: signal.Signals, *, delete: bool) -> bool:
    """End a create shortly after the journal says that `step` begins; whether it came to that."""
    before = len(cut.events())
    command = subprocess.Popen(cut.create_argv(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while (step, "begun") not in cut.events()[before:] and command.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.02)
    came = (step, "begun") in cut.events()[before:]
    command.send_signal(number)
    _, said = command.communicate(timeout=30)
    if number is signal.SIGINT:
        assert command.returncode in ((0, 130) if came else (0,)), said
        assert "Traceback" not in said
        begun = [name for name, event in cut.events()[before:] if event == "begun"]
        ended = [name for name, event in cut.events()[before:] if event in {"done", "interrupted", "failed"}]
        assert sorted(begun) == sorted(ended)
    assert cut.state() in {"none", "INCOMPLETE", "RUNNING"}
    if delete:
        cut.delete()
        assert not cut.journal.parent.exists()
    return came
