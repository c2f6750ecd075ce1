"""The cgroup directories of members, in the v1, v2 and hybrid layouts.

A member owns `provisioner/CLUSTER/MEMBER` in every hierarchy that is mounted. Its PID 1 lives in the leaf `init` below, so
that the member's own directory, which is the root of its cgroup namespace, has no process: v2 lets controllers be handed
down only from such a directory.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from provisioner import errors

CGROUP_MOUNT = Path("/sys/fs/cgroup")
_REMOVAL_SECONDS = 5.0
_POLL_SECONDS = 0.02
_FAVOURED_SHARES, _FAVOURED_WEIGHT = "4096", "400"  # of 1024 and 100


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A mounted hierarchy. `controllers` is empty for v2; a named v1 hierarchy has "name=NAME"."""

    mount: Path
    version: int
    controllers: tuple[str, ...] = ()


_V1_CONTROLLERS = frozenset(
    (
        "cpu",
        "cpuacct",
        "cpuset",
        "memory",
        "devices",
        "freezer",
        "net_cls",
        "net_prio",
        "blkio",
        "perf_event",
        "pids",
        "hugetlb",
        "rdma",
        "misc",
    )
)


def parse_hierarchies(mountinfo: str, below: Path = CGROUP_MOUNT) -> tuple[Hierarchy, ...]:
    """The hierarchies in a /proc/PID/mountinfo, in its order; what is mounted outside `below` is left out."""
    found: dict[Path, Hierarchy] = {}
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, super_options = [*rest.split(" "), "", ""][:3]
        mount = Path(fields.split(" ")[4]) if fields.count(" ") >= 4 else Path("/")
        if not mount.is_relative_to(below):
            continue
        if kind == "cgroup2":
            found[mount] = Hierarchy(mount, 2)
        elif kind == "cgroup":
            options = super_options.split(",")
            controllers = tuple(o for o in options if o in _V1_CONTROLLERS or o.startswith("name="))
            found[mount] = Hierarchy(mount, 1, controllers)
    return tuple(found.values())


def hierarchies() -> tuple[Hierarchy, ...]:
    """Raises `errors.MachineUnfit` when no hierarchy is mounted."""
    found = parse_hierarchies(Path("/proc/self/mountinfo").read_text())
    if not found:
        raise errors.MachineUnfit(
            f"no cgroup hierarchy is mounted below {CGROUP_MOUNT}", remedy=f"Mount one: mount -t cgroup2 cgroup2 {CGROUP_MOUNT}"
        )
    return found


def links(below: Path = CGROUP_MOUNT) -> dict[str, str]:
    """The symlinks beside the mounts (`cpu` -> `cpu,cpuacct`), which a member needs too."""
    with contextlib.suppress(OSError):
        return {path.name: str(path.readlink()) for path in below.iterdir() if path.is_symlink()}
    return {}


def create(layout: Sequence[Hierarchy], group: str) -> list[Path]:
    """Make the empty directory `group` and its leaf `init` in every hierarchy; what was there of it is removed first.

    Raises `errors.Conflict` when a process that does not end keeps it.
    """
    remove(layout, group)
    return prepare(layout, group)


def prepare(layout: Sequence[Hierarchy], group: str) -> list[Path]:
    """As `create`, but what is there is kept."""
    made = []
    for hierarchy in layout:
        directory = hierarchy.mount
        for part in Path(group).parts:
            directory = directory / part
            with _explained(directory):
                directory.mkdir(exist_ok=True)
                _fill(hierarchy, directory)
        with _explained(directory / "init"):
            (directory / "init").mkdir(exist_ok=True)
            if hierarchy.version == 1:  # v2: not before the PID 1 has moved on to the leaf
                _fill(hierarchy, directory / "init")
        made.append(directory)
    return made


def favour(layout: Sequence[Hierarchy], group: str) -> None:
    """Let `group` go before its siblings where the machine's CPUs are short; without a CPU controller there is nothing to set."""
    for hierarchy in layout:
        for name, value in (("cpu.shares", _FAVOURED_SHARES), ("cpu.weight", _FAVOURED_WEIGHT)):
            target = hierarchy.mount / group / name
            if target.exists():
                with contextlib.suppress(OSError):
                    target.write_text(value)


def delegate(layout: Sequence[Hierarchy], group: str) -> None:
    """Hand every v2 controller down to what will be below `group`. To be called once its PID 1 has moved to the leaf."""
    for hierarchy in layout:
        if hierarchy.version == 2:
            _enable_controllers(hierarchy.mount / group)


@contextlib.contextmanager
def _explained(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise errors.MachineUnfit(
            f"the cgroup {directory} cannot be made: {error.strerror}",
            remedy="Run where the cgroup file systems can be written; in a container, with its own cgroup namespace and a writable mount.",
        ) from error


def _fill(hierarchy: Hierarchy, directory: Path) -> None:
    if hierarchy.version == 2:
        _enable_controllers(directory.parent)
        return
    # A cpuset without CPUs or memory nodes takes no process, and a new one has none.
    for name in ("cpuset.cpus", "cpuset.mems"):
        target = directory / name
        if "cpuset" in hierarchy.controllers and not target.read_text().strip():
            target.write_text((directory.parent / name).read_text())


def _enable_controllers(directory: Path) -> None:
    available = (directory / "cgroup.controllers").read_text().split()
    for controller in available:
        # One at a time: a controller that cannot be handed down must not keep back the others.
        with contextlib.suppress(OSError):
            (directory / "cgroup.subtree_control").write_text(f"+{controller}")


def processes(layout: Sequence[Hierarchy], group: str) -> set[int]:
    """The processes in `group` and everything below it, in any hierarchy. Zombies have left already."""
    found: set[int] = set()
    for hierarchy in layout:
        for directory, _, _ in os.walk(hierarchy.mount / group):
            with contextlib.suppress(OSError):
                found |= {int(pid) for pid in (Path(directory) / "cgroup.procs").read_text().split()}
    return found - {0}


def groups(layout: Sequence[Hierarchy], group: str) -> list[Path]:
    """The directories of `group` that exist."""
    return [hierarchy.mount / group for hierarchy in layout if (hierarchy.mount / group).is_dir()]


def remove(layout: Sequence[Hierarchy], group: str) -> None:
    """Kill what is in `group` and below, and remove the directories. Returns when they are gone."""
    give_up = time.monotonic() + _REMOVAL_SECONDS
    while existing := groups(layout, group):
        for pid in processes(layout, group):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for directory in existing:
            _remove_tree(directory)
        if not groups(layout, group):
            return
        if time.monotonic() > give_up:
            left = ", ".join(str(pid) for pid in sorted(processes(layout, group)))
            raise errors.Conflict(
                f"the cgroup {existing[0]} cannot be removed" + (f": process {left} does not end" if left else ""),
                remedy="Look at the process (it may wait for a disk), then run the command again.",
            )
        time.sleep(_POLL_SECONDS)


def _remove_tree(directory: Path) -> None:
    # rmdir is the only removal that cgroupfs has: its files go with the directory.
    for path, _, _ in os.walk(directory, topdown=False):
        with contextlib.suppress(OSError):
            Path(path).rmdir()


def remove_empty(layout: Sequence[Hierarchy], group: str) -> None:
    """Remove the directory `group` where nothing is below it; another cluster's keep it."""
    for hierarchy in layout:
        with contextlib.suppress(OSError):
            (hierarchy.mount / group).rmdir()
