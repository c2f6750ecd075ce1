"""Which kubeconfig a command writes to, and the memory of it, so that a delete finds every entry.

The paths are remembered beside the cluster's journal. Under sudo, the default is the kubeconfig of the user who called sudo, and
the file is touched with that user's rights: root must not follow links that a user laid.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner import errors

if TYPE_CHECKING:
    from provisioner.providers.base import Provider

_MEMORY = "kubeconfigs.json"


@dataclass(frozen=True, slots=True)
class Target:
    """A kubeconfig, and the user whose rights are used for it; None: the process's own."""

    path: Path
    uid: int | None = None


def default_target(environment: Mapping[str, str] = os.environ, euid: int | None = None) -> Target:
    """$KUBECONFIG's first file that exists, or its first; else ~/.kube/config of the user, behind sudo if need be."""
    named = [Path(part) for part in environment.get("KUBECONFIG", "").split(os.pathsep) if part]
    if named:
        return Target(next((path for path in named if path.exists()), named[0]))
    caller = environment.get("SUDO_UID", "")
    if (os.geteuid() if euid is None else euid) == 0 and caller.isdigit() and caller != "0":
        with contextlib.suppress(KeyError):
            return Target(Path(pwd.getpwuid(int(caller)).pw_dir) / ".kube" / "config", int(caller))
    return Target(Path.home() / ".kube" / "config")


def write(provider: Provider, cluster: str, path: Path | None) -> Path:
    """Merge the cluster's credentials into a kubeconfig and make it the current context; the path."""
    from provisioner import kubeconfig

    target = Target(path.absolute()) if path is not None else default_target()
    found = provider.credentials(cluster)
    _remember(provider.journal(cluster).with_name(_MEMORY), target)
    with _acting_as(target.uid):
        kubeconfig.merge(target.path, provider.context(cluster), found)
    return target.path


def remembered(provider: Provider, cluster: str) -> Sequence[Target]:
    """The kubeconfigs that hold the cluster's entries; read before the delete that removes the memory."""
    try:
        entries = json.loads(provider.journal(cluster).with_name(_MEMORY).read_text())
        return [Target(Path(entry["path"]), entry["uid"]) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def forget(context: str, targets: Sequence[Target]) -> tuple[Sequence[Path], Sequence[errors.ProvisionerError]]:
    """Remove the entries of a cluster's context: the files that held any, and what kept others from being looked at or written."""
    from provisioner import kubeconfig

    touched: list[Path] = []
    failures: list[errors.ProvisionerError] = []
    for target in dict.fromkeys(targets):
        try:
            with _acting_as(target.uid):
                if kubeconfig.remove(target.path, context):
                    touched.append(target.path)
        except errors.ProvisionerError as error:
            failures.append(error)
    return touched, failures


def _remember(memory: Path, target: Target) -> None:
    """Before the entry is written: a path too many does no harm, one too few leaves an entry behind."""
    from provisioner.kubeconfig import write_private

    try:
        entries = json.loads(memory.read_text())
    except (OSError, ValueError):
        entries = []
    entry = {"path": str(target.path), "uid": target.uid}
    if entry not in entries:
        with contextlib.suppress(FileNotFoundError):  # a provider that keeps no state on this machine
            write_private(memory, json.dumps([*entries, entry]))


@contextlib.contextmanager
def _acting_as(uid: int | None) -> Iterator[None]:
    """With the file rights of `uid` alone, and back to root's afterwards."""
    if uid is None or uid == os.geteuid():
        yield
        return
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        raise errors.NotFound(f"the user {uid}, whose kubeconfig was written, is gone", remedy="Remove the entry by hand.") from None
    groups, gid = os.getgroups(), os.getegid()
    os.setgroups(os.getgrouplist(user.pw_name, user.pw_gid))
    os.setegid(user.pw_gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)
