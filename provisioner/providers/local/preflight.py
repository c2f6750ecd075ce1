"""What this machine must have for a local cluster, looked at before anything is touched.

Kernel features are tried rather than guessed from the version: links in a network namespace that belongs to a thread and ends
with it, an overlay in a mount namespace of the same kind. Each failure is an `errors.MachineUnfit` that says what to do.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from provisioner import errors
from provisioner.providers.local import cgroups, init, networks, rootfs

_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
_BPF_SYSCALL = {"x86_64": 321, "aarch64": 280}
_BPF_MAP_CREATE, _BPF_MAP_TYPE_ARRAY = 0, 2

_TOOLS = {"containerd": "containerd", "ctr": "containerd", "runc": "runc"}
_MIB = 1 << 20
_DISK_BASE, _DISK_PER_NODE = 1024 * _MIB, 768 * _MIB
_MEMORY_BASE, _MEMORY_PER_NODE = 512 * _MIB, 192 * _MIB
_RUN_SPACE = 8 * _MIB
# What the programs open for themselves, counted; and some for what else runs.
_INOTIFY_BASE, _INOTIFY_PER_NODE, _INOTIFY_SPARE = 13, 7, 8
_INOTIFY_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")


@dataclass(frozen=True, slots=True)
class Feature:
    """Something of the kernel: since when it has it, and what to switch on where it was left out."""

    name: str
    since: str
    option: str
    present: Callable[[], bool]


def check(num_nodes: int, *, vxlan: bool, state_root: Path, run_root: Path) -> None:
    """Raise `errors.PermissionMissing` or `errors.MachineUnfit` for the first thing that is missing.

    num_nodes  those that are still to be started: what runs has the memory that it needs.
    """
    check_root()
    _check_tools()
    cgroups.hierarchies()
    for feature in features(vxlan=vxlan):
        if not feature.present():
            raise errors.MachineUnfit(
                f"the kernel {platform.release()} lacks {feature.name}, which Linux has since {feature.since}",
                remedy=f"Use a kernel of that version or later that was built with {feature.option}.",
            )
    if num_nodes:
        _check_space(num_nodes, state_root, run_root)
        _check_memory(num_nodes)
        _check_inotify(num_nodes)


def check_root() -> None:
    """Raise `errors.PermissionMissing` for anybody else."""
    if os.geteuid() != 0:
        raise errors.PermissionMissing(
            "a local cluster needs root: it makes namespaces, links and cgroups", remedy="Run the command with sudo."
        )


def _check_tools() -> None:
    missing = sorted({package for tool, package in _TOOLS.items() if find_tool(tool) is None})
    if rootfs.find_loopback() is None:
        missing.append("containernetworking-plugins")
    if init.find() is None and not any(find_tool(compiler) for compiler in init.COMPILERS):
        missing += ["gcc", "libc6-dev"]
    if missing:
        raise errors.MachineUnfit(
            f"these Debian packages are not installed: {', '.join(missing)}", remedy=f"Run: apt-get install {' '.join(missing)}"
        )


def find_tool(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")


def features(*, vxlan: bool) -> Sequence[Feature]:
    found = [
        Feature("bpf(2)", "4.18 in the form that is needed", "CONFIG_BPF_SYSCALL", has_bpf),
        Feature("BTF of itself", "5.4", "CONFIG_DEBUG_INFO_BTF", lambda: Path("/sys/kernel/btf/vmlinux").exists()),
        Feature("control group v2", "4.5", "CONFIG_CGROUPS and CONFIG_CGROUP_BPF", lambda: "cgroup2" in _file_systems()),
        Feature("veth links", "2.6.24", "CONFIG_VETH", lambda: _can_make_link("veth")),
        Feature("bridges", "2.6", "CONFIG_BRIDGE", lambda: _can_make_link("bridge")),
        Feature("tcx or clsact attach points", "6.6 (tcx) or 4.5 (clsact)", "CONFIG_NET_XGRESS, or CONFIG_NET_SCH_INGRESS", _has_clsact),
    ]
    if vxlan:
        found.append(Feature("VXLAN links", "3.12", "CONFIG_VXLAN", lambda: _can_make_link("vxlan")))
    return found


def _file_systems() -> set[str]:
    return {line.split("\t")[-1] for line in Path("/proc/filesystems").read_text().splitlines()}


def has_bpf() -> bool:
    """Whether a map can be made."""
    number = _BPF_SYSCALL.get(platform.machine())
    if number is None:
        return Path("/sys/fs/bpf").is_dir()
    attributes = (ctypes.c_uint32 * 32)(_BPF_MAP_TYPE_ARRAY, 4, 4, 1)
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(ctypes.c_long(number), ctypes.c_long(_BPF_MAP_CREATE), attributes, ctypes.c_long(ctypes.sizeof(attributes)))
    if descriptor < 0:
        return False
    os.close(descriptor)
    return True


def in_new_namespace(flag: int, function: Callable[[], bool]) -> bool:
    """Call `function` in a thread with a namespace of its own, which goes with the thread. False when that cannot be made."""
    libc = ctypes.CDLL(None, use_errno=True)
    results: list[bool] = []

    def work() -> None:
        if libc.unshare(flag) == 0:
            results.append(function())

    thread = threading.Thread(target=work, name="probe")
    thread.start()
    thread.join()
    return results == [True]


@contextlib.contextmanager
def _false_on_netlink_error(results: list[bool]) -> Iterator[None]:
    from pyroute2 import NetlinkError

    try:
        yield
        results.append(True)
    except NetlinkError:
        results.append(False)


def _can_make_link(kind: str) -> bool:
    needed: Mapping[str, Mapping[str, object]] = {"veth": {"peer": {"ifname": "probe1"}}, "vxlan": {"vxlan_id": 1, "vxlan_port": 8472}}

    def work() -> bool:
        results: list[bool] = []
        with networks.netlink() as ipr, _false_on_netlink_error(results):
            ipr.link("add", ifname="probe0", kind=kind, **needed.get(kind, {}))
        return results[0]

    return in_new_namespace(_CLONE_NEWNET, work)


def _has_clsact() -> bool:
    def work() -> bool:
        results: list[bool] = []
        with networks.netlink() as ipr, _false_on_netlink_error(results):
            ipr.tc("add", kind="clsact", index=1)
        return results[0]

    return in_new_namespace(_CLONE_NEWNET, work)


def snapshotter(directory: Path) -> str:
    """`overlayfs` where `directory`'s file system can be the upper layer of an overlay, else `native` (which copies)."""
    libc = ctypes.CDLL(None, use_errno=True)
    with tempfile.TemporaryDirectory(prefix=".overlay-probe-", dir=directory) as scratch:
        for name in ("lower", "upper", "work", "merged"):
            (Path(scratch) / name).mkdir()

        def work() -> bool:
            options = f"lowerdir={scratch}/lower,upperdir={scratch}/upper,workdir={scratch}/work"
            libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)
            if libc.mount(b"overlay", f"{scratch}/merged".encode(), b"overlay", ctypes.c_ulong(0), options.encode()):
                return False
            libc.umount2(f"{scratch}/merged".encode(), ctypes.c_int(0))
            return True

        return "overlayfs" if in_new_namespace(_CLONE_NEWNS, work) else "native"


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _check_space(num_nodes: int, state_root: Path, run_root: Path) -> None:
    needed = _DISK_BASE + num_nodes * _DISK_PER_NODE
    for directory, minimum in ((state_root, needed), (run_root, _RUN_SPACE)):
        free = shutil.disk_usage(_existing(directory)).free
        if free < minimum:
            raise errors.MachineUnfit(
                f"{directory} has {free // _MIB} MiB free, and a cluster of {num_nodes} nodes needs {minimum // _MIB} MiB there",
                remedy="Free space on that file system, or ask for fewer nodes.",
            )


def available_memory(meminfo: str) -> int:
    """Bytes, from the text of /proc/meminfo."""
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _check_memory(num_nodes: int) -> None:
    needed = _MEMORY_BASE + num_nodes * _MEMORY_PER_NODE
    free = available_memory(Path("/proc/meminfo").read_text())
    if free < needed:
        raise errors.MachineUnfit(
            f"{free // _MIB} MiB of memory are available, and a cluster of {num_nodes} nodes needs {needed // _MIB} MiB",
            remedy="End other programs or delete other clusters, or ask for fewer nodes.",
        )


def _check_inotify(num_nodes: int) -> None:
    limit, used = int(_INOTIFY_LIMIT.read_text()), _inotify_instances()
    needed = used + _INOTIFY_BASE + num_nodes * _INOTIFY_PER_NODE + _INOTIFY_SPARE
    if needed > limit:
        raise errors.MachineUnfit(
            f"programs watch files through {used} of {limit} inotify instances, and a cluster of {num_nodes} nodes brings that to {needed}",
            remedy=f"Run: sysctl -w fs.inotify.max_user_instances={max(1024, 2 * needed)}",
        )


def _inotify_instances() -> int:
    """Those of all processes; root's share is not told apart, and is nearly all of them."""
    found = 0
    for directory in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):
            found += sum(os.readlink(entry.path) == "anon_inode:inotify" for entry in os.scandir(directory))  # noqa: PTH115 - many
    return found
