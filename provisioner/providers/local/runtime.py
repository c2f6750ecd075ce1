"""Images in the nodes' containerds, driven from the host through each node's socket."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from provisioner import errors
from provisioner.plan.steps import Deadline
from provisioner.process import require_tool
from provisioner.providers.local import api, member
from provisioner.providers.local.layout import CONTAINERD_SOCKET, Layout

_NAMESPACE = "k8s.io"
_UNPACKED = re.compile(r"^unpacking (\S+) \(", re.MULTILINE)


def _ctr(pid: int) -> list[str]:
    tool = require_tool("ctr", "containerd")
    return [tool, "--address", str(member.inside(pid, CONTAINERD_SOCKET)), "--namespace", _NAMESPACE]


def wait_for_containerd(layout: Layout, node: str, pid: int, deadline: Deadline) -> None:
    def answers() -> bool:
        if not member.inside(pid, CONTAINERD_SOCKET).exists():
            return False
        return subprocess.run([*_ctr(pid), "version"], capture_output=True, check=False).returncode == 0

    api.wait_until(answers, deadline, f"waiting for containerd of {node}", lambda: member.check_programs(layout, node, pid))


def image_names(pid: int) -> set[str]:
    """The names of the images that a node has; empty when its containerd does not answer."""
    result = subprocess.run([*_ctr(pid), "images", "ls", "-q"], capture_output=True, text=True, check=False)
    return set(result.stdout.split()) if result.returncode == 0 else set()


def import_archive(node: str, pid: int, archive: Path, snapshotter: str, deadline: Deadline) -> Sequence[str]:
    """The names of the images that were in the archive. Raises `errors.UpstreamFailure` with containerd's reason."""
    argv = [*_ctr(pid), "images", "import", "--snapshotter", snapshotter, str(archive)]
    deadline.check(f"loading {archive.name} into {node}")
    limit = deadline.remaining()
    try:
        result = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=None if limit == float("inf") else limit, start_new_session=True
        )
    except subprocess.TimeoutExpired:
        deadline.check(f"loading {archive.name} into {node}")
        raise
    if result.returncode:
        raise errors.UpstreamFailure(
            f"{node} cannot load {archive}: {(result.stderr or result.stdout).strip().splitlines()[-1:]}",
            remedy="Give a docker or OCI archive, as `docker save` or `buildah push ... docker-archive:` write it.",
        )
    return _UNPACKED.findall(result.stdout)
