"""One command at a time on a cluster, and short turns at what clusters share.

A lock is a flock on a file, so it ends with the process that holds it. The file is removed by whoever deletes the cluster; a
lock counts only while its file is still the one at its path.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from provisioner import errors

_SHARED_SECONDS = 30.0
_POLL_SECONDS = 0.02


class FileLock:
    """Held from `acquire` until `release` or the end of the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def try_acquire(self) -> bool:
        """False when somebody else holds it."""
        while self._descriptor is None:
            descriptor = self._open()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            if self._is_at_path(descriptor):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                self._descriptor = descriptor
            else:  # its last holder removed it between our opening and locking
                os.close(descriptor)
        return True

    def _open(self) -> int:
        while True:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # The directory may go between the two lines: the last cluster's delete removes it.
            with contextlib.suppress(FileNotFoundError):
                return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _is_at_path(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def holder(self) -> str:
        """The pid that the file names; empty when it names none."""
        try:
            return self.path.read_text().strip()
        except OSError:
            return ""

    def release(self, *, remove: bool = False) -> None:
        if self._descriptor is None:
            return
        if remove:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
        os.close(self._descriptor)
        self._descriptor = None


def acquire_cluster(lock: FileLock, cluster: str) -> None:
    """Raise `errors.ClusterBusy` when another command works on the cluster."""
    if lock.held or lock.try_acquire():
        return
    holder = lock.holder()
    raise errors.ClusterBusy(
        f"another command works on the cluster {cluster}" + (f": process {holder}" if holder else ""),
        remedy="Wait until it has ended" + (f", or end it: kill {holder}." if holder else "."),
    )


@contextlib.contextmanager
def shared(run_root: Path) -> Iterator[None]:
    """Hold what clusters share (free subnets, the host's forwarding) for a moment."""
    lock = FileLock(run_root / ".shared.lock")
    give_up = time.monotonic() + _SHARED_SECONDS
    while not lock.try_acquire():
        if time.monotonic() > give_up:
            raise errors.Conflict(f"process {lock.holder()} holds {lock.path}", remedy="Wait until it has ended, or end it.")
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        lock.release(remove=True)
