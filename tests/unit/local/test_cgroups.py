"""Reading the layouts of control groups, and making and removing directories in a tree of plain files."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.providers.local import cgroups
from provisioner.providers.local.cgroups import Hierarchy

HYBRID = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset,clone_children
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
99 27 0:77 / /other/cgroup rw - cgroup2 cgroup2 rw
"""
PURE_V2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
PURE_V1 = "\n".join(line for line in HYBRID.splitlines() if "unified" not in line)
CGROUP = Path("/sys/fs/cgroup")


def test_the_hybrid_layout_has_both_versions() -> None:
    assert cgroups.parse_hierarchies(HYBRID) == (
        Hierarchy(CGROUP / "cpu,cpuacct", 1, ("cpu", "cpuacct")),
        Hierarchy(CGROUP / "cpuset", 1, ("cpuset",)),
        Hierarchy(CGROUP / "systemd", 1, ("name=systemd",)),
        Hierarchy(CGROUP / "unified", 2),
    )


def test_the_pure_v2_layout_is_one_hierarchy() -> None:
    assert cgroups.parse_hierarchies(PURE_V2) == (Hierarchy(CGROUP, 2),)


def test_the_pure_v1_layout_has_no_unified_one() -> None:
    assert {hierarchy.version for hierarchy in cgroups.parse_hierarchies(PURE_V1)} == {1}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Directories in place of mounts. A plain directory has no control files, so each test puts the ones that it is about."""
    for name in ("cpuset", "unified"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_a_v2_directory_is_handed_all_controllers_of_its_parents_but_gives_none_on_yet(tree: Path) -> None:
    unified = tree / "unified"
    for directory in (unified, unified / "provisioner", unified / "provisioner/demo", unified / "provisioner/demo/demo-0"):
        directory.mkdir(exist_ok=True)
        (directory / "cgroup.controllers").write_text("memory pids")
        (directory / "cgroup.subtree_control").write_text("")
    hierarchy = Hierarchy(unified, 2)
    cgroups.prepare((hierarchy,), "provisioner/demo/demo-0")
    # The last write stands: a control file takes one word, a plain file keeps it.
    assert (unified / "provisioner/demo/cgroup.subtree_control").read_text() == "+pids"
    assert (unified / "provisioner/demo/demo-0/cgroup.subtree_control").read_text() == ""
    cgroups.delegate((hierarchy,), "provisioner/demo/demo-0")
    assert (unified / "provisioner/demo/demo-0/cgroup.subtree_control").read_text() == "+pids"


def test_an_empty_cpuset_is_filled_from_its_parent(tree: Path) -> None:
    cpuset = tree / "cpuset"
    for directory in (cpuset, cpuset / "provisioner", cpuset / "provisioner/init"):
        directory.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            (directory / name).write_text("\n")
    (cpuset / "cpuset.cpus").write_text("0-3\n")
    (cpuset / "cpuset.mems").write_text("0\n")
    cgroups.prepare((Hierarchy(cpuset, 1, ("cpuset",)),), "provisioner")
    for directory in (cpuset / "provisioner", cpuset / "provisioner/init"):
        assert (directory / "cpuset.cpus").read_text() == "0-3\n"
        assert (directory / "cpuset.mems").read_text() == "0\n"


def test_processes_are_found_in_every_hierarchy_and_below(tree: Path) -> None:
    for path, pids in (
        ("cpuset/provisioner/demo", "1\n2\n"),
        ("unified/provisioner/demo/demo-0/kubepods", "3\n"),
        ("unified/other", "4\n"),
    ):
        directory = tree / path
        directory.mkdir(parents=True)
        (directory / "cgroup.procs").write_text(pids)
    layout = (Hierarchy(tree / "cpuset", 1), Hierarchy(tree / "unified", 2))
    assert cgroups.processes(layout, "provisioner/demo") == {1, 2, 3}


def test_removal_takes_the_whole_tree_and_nothing_beside_it(tree: Path) -> None:
    (tree / "unified/provisioner/demo/demo-0/kubepods/pod").mkdir(parents=True)
    (tree / "unified/provisioner/other").mkdir()
    layout = (Hierarchy(tree / "cpuset", 1), Hierarchy(tree / "unified", 2))
    cgroups.remove(layout, "provisioner/demo")
    cgroups.remove_empty(layout, "provisioner")
    assert [path.name for path in (tree / "unified/provisioner").iterdir()] == ["other"]
