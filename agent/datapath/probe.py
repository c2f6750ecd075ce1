"""What the running kernel can do, found by trying, never by its version."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass

from agent.datapath import syscalls

_SCHED_CLS, _CGROUP_SOCK, _CGROUP_SOCK_ADDR = 3, 9, 18
_NO_SUCH_IFINDEX = 0x7FFFFFFF


@dataclass(frozen=True, slots=True)
class Feature:
    """`since` is the mainline version that brought it; `reason` says what the kernel answered where it is missing."""

    name: str
    present: bool
    required: bool
    since: str
    use: str
    reason: str = ""


def _instruction(code: int, dst: int = 0, imm: int = 0) -> bytes:
    return struct.pack("=BBhi", code, dst, 0, imm)


_EXIT = _instruction(0x95)


def _move(register: int, value: int) -> bytes:
    return _instruction(0xB7, register, value)


def _call(helper: int) -> bytes:
    return _instruction(0x85, 0, helper)


_TRIVIAL = _move(0, 0) + _EXIT


def _loads(program: bytes, kind: int = _SCHED_CLS, attach: int = 0) -> str:
    """ "" if the kernel takes the program, else what it said."""
    try:
        os.close(syscalls.prog_load(kind, program, attach))
    except OSError as error:
        return str(error)
    return ""


def _tcx() -> str:
    """Attaching to no device: a kernel with tcx misses the device, one without does not know the attach type."""
    try:
        program = syscalls.prog_load(_SCHED_CLS, _TRIVIAL)
    except OSError as error:
        return str(error)
    try:
        os.close(syscalls.tcx_link_create(program, _NO_SUCH_IFINDEX, syscalls.Attach.TCX_INGRESS))
    except OSError as error:
        return "" if error.errno == errno.ENODEV else str(error)
    finally:
        os.close(program)
    return ""


_PROBES: tuple[tuple[str, bool, str, str, Callable[[], str]], ...] = (
    ("sched-cls", True, "4.1", "programs at a device's ingress and egress", lambda: _loads(_TRIVIAL)),
    (
        "redirect-neigh",
        True,
        "5.10",
        "sending past the host's stack",
        lambda: _loads(b"".join((_move(1, 1), _move(2, 0), _move(3, 0), _move(4, 0), _call(152), _EXIT))),
    ),
    (
        "redirect-peer",
        True,
        "5.10",
        "delivering to pods past the host's stack",
        lambda: _loads(b"".join((_move(1, 1), _move(2, 0), _call(155), _EXIT))),
    ),
    ("coarse-clock", False, "5.11", "a cheaper clock for connection tracking", lambda: _loads(b"".join((_call(160), _TRIVIAL)))),
    (
        "socket-hooks",  # the latest of those that are used
        False,
        "5.9",
        "load balancing at the socket",
        lambda: _loads(_TRIVIAL, _CGROUP_SOCK, syscalls.Attach.CGROUP_INET_SOCK_RELEASE),
    ),
    (
        "set-retval",
        False,
        "5.18",
        "connect() to nobody says so (ECONNREFUSED, not EPERM)",
        lambda: _loads(b"".join((_move(1, 0), _call(187), _TRIVIAL)), _CGROUP_SOCK_ADDR, syscalls.Attach.CGROUP_INET4_CONNECT),
    ),
    ("tcx", False, "6.6", "links that are swapped and pinned; clsact filters do otherwise", _tcx),
)


def probe(name: str) -> Feature:
    """One feature. Raises `KeyError` for a name that is none."""
    for known, required, since, use, check in _PROBES:
        if known == name:
            reason = check()
            return Feature(known, not reason, required, since, use, reason)
    raise KeyError(name)


def probe_all() -> tuple[Feature, ...]:
    """Every feature that the datapath knows of."""
    return tuple(probe(name) for name, *_ in _PROBES)
