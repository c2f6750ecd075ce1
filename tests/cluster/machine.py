"""What clusters could leave on a machine, and the proof that they did not.

A machine has other inhabitants: what belongs to a cluster that the test did not make is left out, and what comes and goes while
one looks is not a remainder. A remainder is what was not there before, and is there every time one looks.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .kube import run

# Names that a cluster's processes have in /proc/PID/comm, which holds 15 bytes.
PROGRAMS = {"member-init", "etcd", "kube-apiserver", "kube-controller", "kube-scheduler", "kubelet", "containerd", "containerd-shim",
            "runc", "pause", "coredns", "ctr", "agnhost"}  # fmt: skip
# The directories of a node that a mistake would make on the host, and those where a cluster's own state is.
DIRECTORIES = (
    "/var/lib/provisioner", "/var/lib/provisioner/clusters", "/run/provisioner", "/var/lib/kubelet", "/var/lib/containerd", "/var/lib/anetd",
    "/var/lib/etcd", "/var/lib/cni", "/var/log/pods", "/var/log/containers", "/run/containerd", "/run/anetd", "/run/netns", "/run/flannel",
    "/etc/kubernetes", "/etc/cni/net.d", "/etc/anetd", "/etc/coredns", "/opt/cni/bin", "/opt/provisioner", "/sys/fs/bpf",
)  # fmt: skip


def inventory(own: tuple[str, ...]) -> set[str]:
    """Every thing of the machine that a cluster could have made, a line each, without those of clusters that are not in `own`."""
    foreign = {name for top in ("/var/lib/provisioner/clusters", "/run/provisioner") for name in _entries(top)}
    foreign = {name for name in (entry.removesuffix(".lock") for entry in foreign) if not name.startswith(".") and name not in own}
    foreign -= {"host.json"}
    stems = {hashlib.sha256(name.encode()).hexdigest()[:8] for name in foreign}
    found = {f"{kind} {line}" for kind, line in _network() if not any(stem in line for stem in stems)}
    found |= {f"file {top}/{entry}" for top in DIRECTORIES for entry in _entries(top) if entry.removesuffix(".lock") not in foreign}
    found |= {f"cgroup {path}" for path in _cgroups() if not any(f"/provisioner/{name}" in path for name in foreign)}
    found |= {f"mount {line.split()[4]}" for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    for pid, comm, groups, namespaces in _processes():
        if not any(f"/provisioner/{name}/" in f"{groups}/" for name in foreign):
            found |= {f"namespace {namespace}" for namespace in namespaces}
            if comm in PROGRAMS:
                found.add(f"process {pid} {comm}")
    if foreign:  # what clusters share may come with another and stay with it
        shared = {"file /run/provisioner/host.json", "setting ip_forward=1", "file /var/lib/provisioner/clusters"}
        found -= shared | {line for line in found if line.startswith("cgroup ") and line.endswith("/provisioner")}
    return found


def _entries(directory: str) -> list[str]:
    with suppress(OSError):
        return [path.name for path in Path(directory).iterdir()]
    return []


def _network() -> Iterator[tuple[str, str]]:
    for link in json.loads(run("ip", "-j", "link", "show")):
        yield "link", link["ifname"]
    for family in ("-4", "-6"):
        for route in json.loads(run("ip", "-j", family, "route", "show", "table", "all")):
            yield "route", f"{route.get('dst')} via {route.get('gateway')} dev {route.get('dev')}"
        for rule in json.loads(run("ip", "-j", family, "rule", "show")):
            yield "rule", f"{family} {rule.get('priority')} {rule.get('table')}"
    for line in subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout.splitlines():
        yield "nftables", line
    yield "setting", f"ip_forward={Path('/proc/sys/net/ipv4/ip_forward').read_text().strip()}"


def _cgroups() -> Iterator[str]:
    for hierarchy in {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup" in line}:
        for top in Path(hierarchy).glob("provisioner*"):
            yield str(top)
            yield from (str(path) for path in top.iterdir() if path.is_dir())


def _processes() -> Iterator[tuple[int, str, str, set[str]]]:
    """pid, name, control groups and namespaces of every process that is not a zombie."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                namespaces = {str(path.readlink()) for path in (entry / "ns").iterdir()}
                yield int(entry.name), (entry / "comm").read_text().strip(), (entry / "cgroup").read_text(), namespaces


@contextmanager
def left_as_it_was(*own: str, within: float = 15) -> Iterator[None]:
    """Fails when, some seconds after the block's end, a thing is there that was not there before. `own` are the clusters made in it."""
    before = inventory(own)
    yield
    end = time.monotonic() + within
    left = inventory(own) - before
    while left and time.monotonic() < end:
        time.sleep(0.3)
        left &= inventory(own)
    assert not left, "left on the machine:\n" + "\n".join(sorted(left))
