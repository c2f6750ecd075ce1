"""Members, cgroups and links of the tests' own on this machine: names begin with `pvl-`, and what a killed run left goes first."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from provisioner.process import Unlimited
from provisioner.providers.local import cgroups, init, member, networks, rootfs
from provisioner.providers.local.layout import Addresses, Layout
from provisioner.providers.local.programs import Description, Program

CLUSTER = "pvl-members"
# Outside of what the provider picks from, so that no cluster of this machine is met.
SUBNET = IPv4Network("172.31.251.0/24")


def eventually(condition: Callable[[], bool], what: str = "", within: float = 10.0) -> None:
    give_up = time.monotonic() + within
    while not condition():
        assert time.monotonic() < give_up, f"not within {within} s: {what}"
        time.sleep(0.02)


def mounts(*words: str) -> list[str]:
    """The host's mounts that mention one of the words."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if any(word in line for word in words)]


def machine() -> Mapping[str, object]:
    """What a cluster could leave behind. Other tests' things come and go meanwhile, so only ours are looked at, by their names."""
    groups = [path for h in cgroups.hierarchies() for path in (h.mount / "provisioner").glob("pvl-*")]
    return {
        "mounts": mounts("pvl-"),
        "links": [path.name for path in Path("/sys/class/net").glob(f"{Layout(CLUSTER).link_stem}*")],
        "cgroups": [str(path) for path in groups],
        "processes": [name for name in _command_lines() if "pvl-" in name],
    }


def _command_lines() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "member-init" in text:
            yield text


@dataclass
class Rig:
    """Starts members of one cluster, each with the programs that a test gives."""

    layout: Layout
    addresses: Addresses
    hierarchies: Sequence[cgroups.Hierarchy] = field(default_factory=cgroups.hierarchies)

    def description(self, name: str, programs: Sequence[Program]) -> str:
        root = self.layout.member_root(name)
        rootfs.write_files(root, name, {}, "")
        directories = cgroups.create(self.hierarchies, self.layout.member_cgroup(name))
        items = rootfs.file_systems(root, Path("/usr/bin"), self.hierarchies, cgroups.links(), node=True)
        return Description(name, root, directories, items, programs).render()

    def start(self, index: int, *programs: Program, configure: Callable[[int], None] | None = None) -> int:
        name = self.layout.node(index)

        def connect(pid: int) -> None:
            cgroups.delegate(self.hierarchies, self.layout.member_cgroup(name))
            networks.attach(self.layout, name, pid, self.addresses.node(index), self.addresses)

        self.layout.run_dir.mkdir(parents=True, exist_ok=True)
        text = self.description(name, programs)
        return member.start(self.layout, name, init.ensure(Unlimited()), text, configure or connect, Unlimited())

    def remove(self) -> None:
        cgroups.remove(self.hierarchies, self.layout.cgroup)
        cgroups.remove_empty(self.hierarchies, self.layout.cgroup_root)
        networks.remove_links(self.layout)

    def log(self, index: int, program: str) -> str:
        path = self.layout.member_logs(self.layout.node(index)) / f"{program}.log"
        return path.read_text() if path.exists() else ""

    def inside(self, pid: int, *command: str) -> str:
        argv = ["nsenter", "-t", str(pid), "-a", "--", *command]
        result = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
        assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout


def shell(name: str, script: str, **options: object) -> Program:
    return Program(name, ("/bin/sh", "-c", script), **options)  # type: ignore[arg-type]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    if os.geteuid() != 0:
        pytest.fail("these tests make namespaces: run them as root")
    layout = Layout(CLUSTER, tmp_path / "state", tmp_path / "run")
    found = Rig(layout, Addresses.of(SUBNET, dual_stack=True))
    found.remove()
    before = machine()
    networks.ensure_bridge(layout, found.addresses)
    yield found
    found.remove()
    eventually(lambda: machine() == before, f"{machine()} as before: {before}")
