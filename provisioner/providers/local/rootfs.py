"""What a member sees as its file system: the host's programs read-only, and everything else its own.

The root is a directory of the cluster's state on the host, so whatever a pod's hostPath volume writes to /etc, /opt or /var is
the node's alone and goes with the cluster. Nothing here mounts: it lists what member-init is to mount, and writes files.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path

from provisioner.providers.local.cgroups import Hierarchy
from provisioner.providers.local.files import PUBLIC, write_if_changed
from provisioner.providers.local.layout import BIN_DIR
from provisioner.providers.local.programs import Bind, Directory, FileSystem, Mount, Symlink

_PROGRAM_DIRS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_CERTIFICATE_DIRS = ("/etc/ssl", "/etc/ca-certificates", "/etc/pki")
_CNI_DIRS = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "kmsg", "fuse")
_DEVICE_LINKS = {
    "/proc/self/fd": "/dev/fd",
    "/proc/self/fd/0": "/dev/stdin",
    "/proc/self/fd/1": "/dev/stdout",
    "/proc/self/fd/2": "/dev/stderr",
}
_OWN_DIRS = {
    "/etc": 0o755,
    "/root": 0o700,
    "/var/lib": 0o755,
    "/var/log": 0o755,
    "/tmp": 0o1777,  # noqa: S108 - the member's
    "/opt": 0o755,
    "/home": 0o755,
    "/mnt": 0o755,
}

# What kubelet wants of the kernel. These are settings of the whole machine, so kubelet is shown files that already say what it
# wants, and the machine keeps its own.
KUBELET_SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
_SYSCTL_FILES = "/var/lib/provisioner-sysctl"
_TRACEFS = "/sys/kernel/tracing"


def file_systems(
    root: Path,
    binaries: Path,
    hierarchies: Sequence[Hierarchy],
    cgroup_links: Mapping[str, str],
    *,
    node: bool,
) -> list[FileSystem]:
    """In the order in which they are mounted."""
    items: list[FileSystem] = [Directory(path, mode) for path, mode in _OWN_DIRS.items()]
    for path in _PROGRAM_DIRS:
        if Path(path).is_symlink():
            items.append(Symlink(str(Path(path).readlink()), path))
        elif Path(path).is_dir():
            items.append(Bind(path, path))
    items += [Bind(path, path) for path in _CERTIFICATE_DIRS if Path(path).is_dir()]
    items.append(Bind(str(binaries), BIN_DIR))
    items += [
        Mount("proc", "/proc"),
        Mount("sysfs", "/sys"),
        Mount("tmpfs", "/run", "nosuid,nodev,mode=755"),
        Mount("tmpfs", "/dev", "nosuid,mode=755,size=64k"),
        Directory("/dev/pts"),
        Mount("devpts", "/dev/pts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=620,gid=5"),
        Symlink("pts/ptmx", "/dev/ptmx"),
        Mount("tmpfs", "/dev/shm", "nosuid,nodev,mode=1777"),  # noqa: S108
        Mount("mqueue", "/dev/mqueue"),
        Symlink("/run", "/var/run"),
        Directory("/run/lock", 0o1777),
        Symlink("/run/lock", "/var/lock"),
    ]
    items += [Bind(f"/dev/{name}", f"/dev/{name}", read_only=False) for name in _DEVICES if Path(f"/dev/{name}").exists()]
    items += [Symlink(target, path) for target, path in _DEVICE_LINKS.items()]
    items += _cgroup_mounts(hierarchies, cgroup_links)
    if node:
        # containerd asks for it beside every network, and a node's own packages have it there.
        items += [Bind(str(plugin), "/opt/cni/bin/loopback") for plugin in [find_loopback()] if plugin is not None]
        items.append(Mount("bpf", "/sys/fs/bpf", "nosuid,nodev,noexec,mode=700"))
        if Path(_TRACEFS).is_dir():  # for the tracer, which finds it on other nodes too
            items.append(Mount("tracefs", _TRACEFS, "nosuid,nodev,noexec"))
        for name in KUBELET_SYSCTLS:
            if Path(f"/proc/sys/{name}").exists():
                items.append(Bind(f"{root}{_SYSCTL_FILES}/{name}", f"/proc/sys/{name}"))
    return items


def find_loopback() -> Path | None:
    """The CNI plugin that containerd cannot do without."""
    return next((path for directory in _CNI_DIRS if (path := Path(directory) / "loopback").is_file()), None)


def _cgroup_mounts(hierarchies: Sequence[Hierarchy], links: Mapping[str, str]) -> list[FileSystem]:
    """The hierarchies where the host has them; in a member's cgroup namespace each has the member's own directory as its root."""
    items: list[FileSystem] = []
    if any(hierarchy.mount != Path("/sys/fs/cgroup") for hierarchy in hierarchies):
        items.append(Mount("tmpfs", "/sys/fs/cgroup", "nosuid,nodev,noexec,mode=755"))
    for hierarchy in hierarchies:
        if hierarchy.version == 2:
            items.append(Mount("cgroup2", str(hierarchy.mount)))
        else:
            items.append(Mount("cgroup", str(hierarchy.mount), ",".join(("nosuid", "nodev", "noexec", *_v1_options(hierarchy)))))
    items += [Symlink(target, f"/sys/fs/cgroup/{name}") for name, target in links.items()]
    return items


def _v1_options(hierarchy: Hierarchy) -> Sequence[str]:
    named = any(controller.startswith("name=") for controller in hierarchy.controllers)
    return ("none", *hierarchy.controllers) if named and len(hierarchy.controllers) == 1 else hierarchy.controllers


def write_files(root: Path, hostname: str, hosts: Mapping[str, str], resolv_conf: str) -> None:
    """The few files of /etc that programs expect, and what is shown in place of the machine's settings. `hosts`: address -> name."""
    etc = root / "etc"
    etc.mkdir(parents=True, exist_ok=True)
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost", *(f"{address}\t{name}" for address, name in hosts.items())]
    contents = {
        "hostname": f"{hostname}\n",
        "machine-id": f"{hashlib.sha256(hostname.encode()).hexdigest()[:32]}\n",
        "hosts": "\n".join(lines) + "\n",
        "resolv.conf": resolv_conf,
        "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
        "group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
        "os-release": _read("/etc/os-release") or "NAME=Linux\nID=linux\n",
    }
    for name, content in contents.items():
        write_if_changed(etc / name, content, PUBLIC)
    for name, value in KUBELET_SYSCTLS.items():
        path = Path(f"{root}{_SYSCTL_FILES}/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_if_changed(path, f"{value}\n", PUBLIC)


def resolv_conf() -> str:
    """The host's resolvers as a member can reach them.

    A stub on the host's loopback cannot be reached from another network namespace; systemd-resolved keeps the servers behind its
    own stub in a file beside it.
    """
    for path in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        text = _read(path)
        servers = [line.split()[1] for line in text.splitlines() if line.startswith("nameserver") and len(line.split()) > 1]
        if servers and not all(_is_loopback(server) for server in servers):
            return text if text.endswith("\n") else text + "\n"
    return ""


def _is_loopback(server: str) -> bool:
    try:
        return ipaddress.ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return True


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
