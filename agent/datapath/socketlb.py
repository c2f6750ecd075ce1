"""Load balancing at the socket: the programs of bpf/socket.bpf.c at a cgroup, one pinned link a hook.

Attaching is idempotent and swaps a hook's program atomically, so a connect() meets the old one or the new one, never none. A link
leaves other programs at the same hook alone, and ends with its cgroup. All hooks are attached or none is: what one of them translates
another has to put back.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.datapath import syscalls
from agent.datapath.errors import DatapathError
from agent.datapath.syscalls import Attach

HOOKS: Mapping[str, Attach] = {
    "sock_release": Attach.CGROUP_INET_SOCK_RELEASE,
    "recvmsg4": Attach.CGROUP_UDP4_RECVMSG,
    "recvmsg6": Attach.CGROUP_UDP6_RECVMSG,
    "getpeername4": Attach.CGROUP_INET4_GETPEERNAME,
    "getpeername6": Attach.CGROUP_INET6_GETPEERNAME,
    "sendmsg4": Attach.CGROUP_UDP4_SENDMSG,
    "sendmsg6": Attach.CGROUP_UDP6_SENDMSG,
    "connect4": Attach.CGROUP_INET4_CONNECT,
    "connect6": Attach.CGROUP_INET6_CONNECT,
    "bind4": Attach.CGROUP_INET4_BIND,
    "bind6": Attach.CGROUP_INET6_BIND,
}
"""Program -> where it belongs, in the order of attaching: what forgets and what puts back comes before what translates."""

CGROUP_MOUNT = Path("/sys/fs/cgroup")
_PIN_PREFIX = "socket-"


@dataclass(frozen=True, slots=True)
class SocketLB:
    """Whether Services are translated at the socket; `reason` says why they are not."""

    on: bool
    reason: str = ""


def find_cgroup(mount: Path = CGROUP_MOUNT) -> Path:
    """The root of the node's cgroup2 tree: `mount`, or `mount`/unified beside the hierarchies of version 1. Raises `DatapathError`."""
    for path in (mount, mount / "unified"):
        if syscalls.is_cgroup2(path):
            return path
    raise DatapathError(f"neither {mount} nor {mount}/unified is a cgroup2 file system")


def attach(pins: Path, cgroup: Path, programs: Mapping[str, int]) -> None:
    """Attach `programs[hook]` for every hook to `cgroup`, or swap what is pinned there. Raises `DatapathError` that names the hook."""
    try:
        directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise DatapathError(f"the cgroup {cgroup} cannot be opened: {error.strerror}") from error
    try:
        for hook, attach_type in HOOKS.items():
            try:
                _ensure(pins / f"{_PIN_PREFIX}{hook}", directory, attach_type, programs[hook])
            except OSError as error:
                raise DatapathError(f"{hook}: attaching to the cgroup {cgroup} failed: {error}") from error
    finally:
        os.close(directory)


def detach(pins: Path) -> None:
    """End every link that is pinned below `pins`; no error if there is none."""
    for hook in reversed(tuple(HOOKS)):
        pin = pins / f"{_PIN_PREFIX}{hook}"
        fd = syscalls.obj_get(pin)
        if fd is None:
            continue
        try:
            syscalls.link_detach(fd)
        finally:
            os.close(fd)
        pin.unlink(missing_ok=True)


def _ensure(pin: Path, directory: int, attach_type: Attach, program: int) -> None:
    fd = syscalls.obj_get(pin)
    if fd is not None:
        try:
            if syscalls.cgroup_link_info(fd).cgroup == os.fstat(directory).st_ino:
                syscalls.link_update(fd, program)
                return
        finally:
            os.close(fd)
        pin.unlink(missing_ok=True)
    fd = syscalls.cgroup_link_create(program, directory, attach_type)
    try:
        syscalls.obj_pin(fd, pin)
    finally:
        os.close(fd)
