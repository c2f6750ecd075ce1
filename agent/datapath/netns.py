"""Work in a pod's network namespace.

Invariants: a thread that enters a namespace never leaves it and ends with its work, so no other work can find itself in the
wrong one; a netlink socket that it made stays usable from any thread. Python 3.11 has no os.setns, hence ctypes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703
_SO_NETNS_COOKIE = 71
_libc = ctypes.CDLL(None, use_errno=True)


class NamespaceGoneError(OSError):
    """There is no network namespace at that path."""


@dataclass(frozen=True, slots=True)
class NamespaceId:
    """What tells one living namespace from another."""

    device: int
    inode: int


def local_path(path: str) -> Path:
    """Where this process finds a namespace that the container runtime names: /var/run is a link to /run on every node."""
    return Path("/run" + path[len("/var/run") :]) if path.startswith("/var/run/") else Path(path)


def open_namespace(path: str) -> int:
    """A file descriptor of the network namespace at `path`. Raises `NamespaceGoneError`, also for a file that is none."""
    where = local_path(path)
    try:
        fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise NamespaceGoneError(errno.ENOENT, f"there is no network namespace at {where}") from error
    if not _is_network_namespace(fd):
        os.close(fd)
        raise NamespaceGoneError(errno.EINVAL, f"{where} is not a network namespace: whatever was mounted there is gone")
    return fd


def _is_network_namespace(fd: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode) and _libc.ioctl(fd, _NS_GET_NSTYPE) == _CLONE_NEWNET


def identify(fd: int) -> NamespaceId:
    """The identity of an open namespace."""
    found = os.fstat(fd)
    return NamespaceId(found.st_dev, found.st_ino)


def identify_path(path: str) -> NamespaceId | None:
    """The identity of the namespace at `path`, None when it is gone."""
    try:
        fd = open_namespace(path)
    except OSError:
        return None
    try:
        return identify(fd)
    finally:
        os.close(fd)


def cookie() -> int:
    """The number by which programs know the calling thread's namespace; 0 where the kernel does not tell (before 5.14)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            return int.from_bytes(asking.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
        except OSError:
            return 0


def run_in(fd: int, work: Callable[[], T]) -> T:
    """`work()` in the namespace, in a thread of its own; its result or its exception."""
    worker: _Worker[T] = _Worker(fd, work)
    worker.start()
    worker.join()
    return worker.outcome()


class _Worker(threading.Thread, Generic[T]):
    def __init__(self, fd: int, work: Callable[[], T]) -> None:
        super().__init__(name="in-netns", daemon=True)
        self._fd = fd
        self._work = work
        self._results: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            if _libc.setns(self._fd, _CLONE_NEWNET):
                number = ctypes.get_errno()
                raise OSError(number, f"cannot enter the pod's network namespace: {os.strerror(number)}; anetd needs CAP_SYS_ADMIN")
            self._results.append(self._work())
        except BaseException as error:  # noqa: BLE001 (it is raised again where the work was asked for)
            self._error = error

    def outcome(self) -> T:
        if self._error is not None:
            raise self._error
        return self._results[0]
