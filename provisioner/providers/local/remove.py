"""The plans that stop and delete a cluster. They remove what is found, not what was written down.

Processes are found by the cgroup they are in, links by their stem, directories by the cluster's name; so a cluster whose
record was never written, or is damaged, is removed like any other.
"""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from provisioner.plan.steps import Deadline, Plan, Progress, Step
from provisioner.providers.local import cgroups, host, locks, member, networks, records
from provisioner.providers.local.files import explained
from provisioner.providers.local.layout import CONTROL_PLANE, Layout

# etcd and the API server end well within this; nodes have nothing to save.
_STOP_GRACE = {"control-plane": 8.0, "node": 3.0}


def plan_stop(layout: Layout, lock: locks.FileLock, observed: records.Observed) -> Plan:
    removal = _Removal(layout, lock)
    nodes = [name for name in observed.members if name != CONTROL_PLANE]
    alive = bool(observed.members)
    steps = [
        removal.step("stop-nodes", "Stop the nodes", lambda: removal.end(nodes, _STOP_GRACE["node"]), nodes, done=not nodes),
        removal.step(
            "stop-control-plane",
            "Stop the control plane",
            lambda: removal.end([CONTROL_PLANE], _STOP_GRACE["control-plane"]),
            done=CONTROL_PLANE not in observed.members,
        ),
        removal.step("remove-cgroups", "Remove the cgroups", removal.cgroups, done=not alive and not observed.cgroups),
        removal.step("remove-network", "Remove the nodes' network", removal.network, observed.links, done=not observed.links),
        removal.step(
            "remove-run-state", "Remove what a stopped cluster does not need", removal.run_state, done=not layout.run_dir.exists()
        ),
    ]
    return Plan("stop", layout.name, steps)


def plan_delete(layout: Layout, lock: locks.FileLock, observed: records.Observed) -> Plan:
    removal = _Removal(layout, lock)
    steps = [
        removal.step("end-members", "End the members", lambda: removal.begin_delete(list(observed.members)), tuple(observed.members)),
        removal.step(
            "remove-cgroups", "Remove the cgroups and what runs in them", removal.cgroups, [str(path) for path in observed.cgroups]
        ),
        removal.step("remove-network", "Remove the nodes' network", removal.network, observed.links),
        removal.step("remove-state", "Remove the state", removal.state, [str(path) for path in observed.directories]),
    ]
    return Plan("delete", layout.name, steps)


class _Removal:
    def __init__(self, layout: Layout, lock: locks.FileLock) -> None:
        self._layout = layout
        self._lock = lock
        self._acquiring = threading.Lock()

    def step(self, step_id: str, title: str, work: Callable[[], None], details: Iterable[str] = (), *, done: bool | None = None) -> Step:
        def apply(_deadline: Deadline, _progress: Progress) -> None:
            with self._acquiring:
                locks.acquire_cluster(self._lock, self._layout.name)
            with explained(title):
                work()

        return Step(step_id, title, apply, lambda: done, tuple(details))

    def end(self, members: Sequence[str], grace: float) -> None:
        pids = [pid for name in members if (pid := member.find(self._layout, name)) is not None]
        if not pids:
            return
        with ThreadPoolExecutor(max_workers=len(pids)) as pool:
            list(pool.map(lambda pid: member.stop(pid, grace), pids))

    def begin_delete(self, members: Sequence[str]) -> None:
        """From here on the record says that the cluster is not whole."""
        record = records.read(self._layout)
        if record is not None and record.complete:
            records.write(self._layout, dataclasses.replace(record, complete=False))
        self.end(members, 0)

    def cgroups(self) -> None:
        layout, hierarchies = self._layout, cgroups.hierarchies()
        cgroups.remove(hierarchies, layout.cgroup)
        with locks.shared(layout.run_root):
            cgroups.remove_empty(hierarchies, layout.cgroup_root)

    def network(self) -> None:
        networks.remove_links(self._layout)
        networks.remove_masquerade(self._layout)
        host.restore_forwarding(self._layout)

    def run_state(self) -> None:
        self._remove_tree_of_run()
        self._finish()

    def state(self) -> None:
        layout = self._layout
        if layout.state_dir.exists():
            # Nodes' images are most of it, and side by side they go faster.
            members = layout.state_dir / "members"
            with ThreadPoolExecutor(max_workers=4) as pool:
                list(pool.map(_remove, members.iterdir() if members.is_dir() else ()))
            # The record goes last: an interrupted delete leaves a cluster that still says what it was.
            for path in layout.state_dir.iterdir():
                if path != layout.state_file:
                    _remove(path)
            shutil.rmtree(layout.state_dir)
        self._remove_tree_of_run()
        for directory in (layout.state_root / "clusters", layout.state_root):
            _remove_if_empty(directory)
        self._finish()

    def _remove_tree_of_run(self) -> None:
        if self._layout.run_dir.exists():
            shutil.rmtree(self._layout.run_dir)

    def _finish(self) -> None:
        self._lock.release(remove=True)
        _remove_if_empty(self._layout.run_root)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_if_empty(directory: Path) -> None:
    try:
        directory.rmdir()
    except OSError:
        return
