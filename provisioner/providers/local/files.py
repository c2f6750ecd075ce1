"""Files that are either the old or the new whole, whatever interrupts the writing, and directories that others cannot read."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from provisioner import errors

SECRET = 0o600
PUBLIC = 0o644


def write_atomically(path: Path, content: str | bytes, mode: int = SECRET, *, durable: bool = True) -> None:
    """Write beside `path`, flush to the disk, rename. `durable` False leaves out the flush: for what a reboot makes void."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(descriptor, mode)
        stream.write(data)
        if durable:
            stream.flush()
            os.fsync(descriptor)
    temporary.replace(path)
    if durable:
        sync_directory(path.parent)


def write_if_changed(path: Path, content: str | bytes, mode: int = SECRET) -> bool:
    """As `write_atomically`, but leaves a file alone that has this content and mode; True when it was written."""
    data = content.encode() if isinstance(content, str) else content
    with contextlib.suppress(OSError):
        if path.read_bytes() == data and path.stat().st_mode & 0o777 == mode:
            return False
    write_atomically(path, data, mode, durable=False)
    return True


@contextlib.contextmanager
def explained(doing: str) -> Iterator[None]:
    """Raise what the operating system refuses as an error that says what to do."""
    try:
        yield
    except OSError as error:
        where = f" at {error.filename}" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise errors.MachineUnfit(f"{doing}: no space is left{where}", remedy="Free space there and run the command again.") from error
        raise errors.UpstreamFailure(f"{doing}: {error.strerror or error}{where}", remedy="Run the command again.") from error


def sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_directory(path: Path) -> Path:
    """`path` with mode 0700; its parents as the umask has them."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def last_lines(path: Path, count: int = 8, window: int = 16384) -> list[str]:
    """The last lines of a log that may be long; empty when there is none."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - window))
            return stream.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []
