"""What is written down of a cluster (`cluster.json`), and what is found of it on the machine.

The record says what was asked for and which subnet was reserved. Whether the cluster runs is never written down: it is looked at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from provisioner.providers.base import ClusterState
from provisioner.providers.local import cgroups, member, networks
from provisioner.providers.local.files import private_directory, write_atomically
from provisioner.providers.local.layout import RUN_ROOT, STATE_ROOT, Addresses, Layout, Network
from provisioner.spec import ClusterSpec


@dataclass(frozen=True, slots=True)
class Record:
    """`complete` once a create has come to its end.

    binaries     where the Kubernetes programs came from.
    fingerprint  of the inputs of the last create that came to its end (`settled.fingerprint`).
    """

    spec: ClusterSpec
    subnet: IPv4Network
    created: str
    complete: bool = False
    binaries: str = ""
    fingerprint: str = ""

    @property
    def addresses(self) -> Addresses:
        return Addresses.of(self.subnet, dual_stack=self.spec.dual_stack)

    def to_json(self) -> str:
        document = {
            "spec": self.spec.to_document(),
            "subnet": str(self.subnet),
            "created": self.created,
            "complete": self.complete,
            "binaries": self.binaries,
            "fingerprint": self.fingerprint,
        }
        return json.dumps(document, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Raises ValueError, KeyError or TypeError when it is not one."""
        document: Mapping[str, Any] = json.loads(text)
        return cls(
            ClusterSpec.from_document(document["spec"]),
            IPv4Network(document["subnet"]),
            str(document["created"]),
            bool(document["complete"]),
            str(document["binaries"]),
            str(document["fingerprint"]),
        )


def read(layout: Layout) -> Record | None:
    """None when there is none, or none that can be understood: the cluster is then half-made, and can be deleted."""
    try:
        return Record.from_json(layout.state_file.read_text())
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(layout: Layout, record: Record) -> None:
    private_directory(layout.state_dir)
    write_atomically(layout.state_file, record.to_json())


@dataclass(frozen=True, slots=True)
class Observed:
    """members  the pids of those that run.

    broken   programs (MEMBER/PROGRAM) that ended and wait for their next start.
    """

    record: Record | None
    members: Mapping[str, int]
    links: tuple[str, ...]
    cgroups: tuple[Path, ...]
    directories: tuple[Path, ...]
    broken: tuple[str, ...] = ()

    @property
    def exists(self) -> bool:
        return bool(self.record or self.members or self.links or self.cgroups or self.directories)

    @property
    def state(self) -> ClusterState:
        if self.record is None or not self.record.complete:
            return ClusterState.INCOMPLETE
        expected = self.record.spec.num_nodes + 1
        if len(self.members) == expected and not self.broken:
            return ClusterState.RUNNING
        return ClusterState.DEGRADED if self.members else ClusterState.STOPPED


def observe(layout: Layout) -> Observed:
    """Everything that is there of the cluster. Only reads."""
    names = {path.stem for path in layout.run_dir.glob("*.json")} if layout.run_dir.is_dir() else set()
    members = {name: pid for name in sorted(names) if (pid := member.find(layout, name)) is not None}
    directories = tuple(path for path in (layout.state_dir, layout.run_dir) if path.exists())
    groups = cgroups.groups(cgroups.hierarchies(), layout.cgroup)
    broken = tuple(
        f"{name}/{status.name}"
        for name, pid in members.items()
        for status in member.statuses(pid).values()
        if not status.pid and status.restarts
    )
    return Observed(read(layout), members, tuple(networks.links_of(layout)), tuple(groups), directories, broken)


def reserved_networks(layout: Layout) -> list[Network]:
    """What other clusters have reserved, running or not."""
    found: list[Network] = []
    for name in names(layout.state_root, layout.run_root):
        other = read(Layout(name, layout.state_root, layout.run_root))
        if other is not None and name != layout.name:
            found += other.addresses.networks
    return found


def names(state_root: Path = STATE_ROOT, run_root: Path = RUN_ROOT) -> list[str]:
    """The clusters that have a state or a run directory."""
    found = set()
    for directory in (state_root / "clusters", run_root):
        if directory.is_dir():
            found |= {path.name for path in directory.iterdir() if path.is_dir() and not path.name.startswith(".")}
    return sorted(found)
