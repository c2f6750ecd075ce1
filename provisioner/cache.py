"""The cache below XDG_CACHE_HOME: directories that are either complete or not there.

An entry is a directory with a seal: a file that names every other file with its size, modification time and SHA-256. Entries
are filled in a temporary directory beside the target, sealed, and renamed as a whole, so an interrupted download or build is
never taken for a finished one. An entry whose files no longer match the seal is thrown away and made again. Who fills holds
the file lock of its kind; who reads a sealed entry needs none.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from provisioner import errors
from provisioner.plan.steps import Deadline, Progress

SEAL = ".complete.json"
_PARTIAL = ".partial-"
_LOCK_POLL_SECONDS = 0.2


def root() -> Path:
    """`$XDG_CACHE_HOME/provisioner`, made when it is not there. A relative XDG_CACHE_HOME is ignored, as its specification says."""
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = configured if configured.is_absolute() else Path.home() / ".cache"
    directory = base / "provisioner"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.MachineUnfit(
            f"the cache directory {directory} cannot be made: {error.strerror}",
            remedy="Set XDG_CACHE_HOME to a directory that can be written.",
        ) from error
    return directory


def file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def lock(name: str, deadline: Deadline, progress: Progress) -> Iterator[None]:
    """Hold the lock `name`, waiting for another command within the deadline. It ends with the process that holds it."""
    with _open_lock(root() / f"{name}.lock") as stream:
        said = False
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not said:
                    progress(f"waiting for another command that prepares the {name}")
                    said = True
                deadline.check(f"waiting for another command that prepares the {name}")
                time.sleep(_LOCK_POLL_SECONDS)
        yield


def _open_lock(path: Path) -> IO[str]:
    """To be locked, a file need not be writable: a cache that root has filled serves other users as it is."""
    try:
        return path.open("a")
    except PermissionError:
        if path.exists():
            return path.open("r")
        raise _not_writable(path.parent) from None


def _not_writable(directory: Path) -> errors.MachineUnfit:
    return errors.MachineUnfit(
        f"the cache {directory} cannot be written by this user",
        remedy="Run the command as the user who owns it, or set XDG_CACHE_HOME to another directory.",
    )


def is_intact(entry: Path) -> bool:
    """Whether `entry` is sealed and its files are the ones that were sealed.

    Sizes and modification times are compared; only a file whose time differs is read, so a copied cache stays valid and a
    changed one does not.
    """
    try:
        sealed: dict[str, dict[str, object]] = json.loads((entry / SEAL).read_text())["files"]
        for name, expected in sealed.items():
            path = entry / name
            found = path.stat()
            if found.st_size != expected["size"]:
                return False
            if found.st_mtime_ns != expected["mtime_ns"] and file_digest(path) != expected["sha256"]:
                return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


def sealed_digest(entry: Path, name: str) -> str:
    """The SHA-256 that a file had when its entry was sealed, without reading the file."""
    return str(json.loads((entry / SEAL).read_text())["files"][name]["sha256"])


def _seal(entry: Path) -> None:
    files = {}
    for path in sorted(entry.rglob("*")):
        if path.is_file() and path.name != SEAL:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            found = path.stat()
            files[str(path.relative_to(entry))] = {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "sha256": file_digest(path)}
    with (entry / SEAL).open("w") as stream:
        json.dump({"files": files}, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())


@contextlib.contextmanager
def filling(entry: Path) -> Iterator[Path]:
    """A temporary directory that becomes `entry` when the block ends well, and is removed when it does not.

    The caller holds the lock, so whatever partial directory is found was left by a command that was killed.
    """
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=entry.parent))
    except PermissionError:
        raise _not_writable(entry.parent) from None
    for leftover in entry.parent.glob(f"{_PARTIAL}*"):
        if leftover != partial:
            shutil.rmtree(leftover, ignore_errors=True)
    try:
        yield partial
        _seal(partial)
        partial.chmod(0o755)
        if entry.exists():  # damaged: a rename cannot replace a directory that has files
            doomed = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=entry.parent))
            entry.replace(doomed / "damaged")
            partial.replace(entry)
            shutil.rmtree(doomed, ignore_errors=True)
        else:
            partial.replace(entry)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_space(path: Path, needed: int, doing: str) -> None:
    """Raise `errors.MachineUnfit` unless `needed` bytes are free where `path` is."""
    free = shutil.disk_usage(path).free
    if free < needed:
        raise errors.MachineUnfit(
            f"{doing} needs {needed / 2**30:.1f} GiB free in {path}, and there are {free / 2**30:.1f} GiB",
            remedy="Free space there, or set XDG_CACHE_HOME to a directory on a larger file system.",
        )


def prune(directory: Path, pattern: str, keep: int) -> None:
    """Remove all but the `keep` entries of `directory` that were made last and match `pattern`."""
    entries = sorted(directory.glob(pattern), key=lambda entry: entry.stat().st_mtime, reverse=True)
    for entry in entries[keep:]:
        shutil.rmtree(entry, ignore_errors=True)
