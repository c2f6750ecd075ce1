"""The log's file: lines that are whole, 10 MB, five old files, and no trouble for anybody when the disk has some.

    policy_action.log                          the lines of now
    policy_action-2026-01-02T03-04-05.678.log  an old file, named by the local time at which it was put away, as lumberjack names them

Invariants: a file ends with a whole line, also where the disk filled up in the middle of one; what cannot be written is given back with
the reason, and the next call tries again; a file that somebody moved or removed is begun anew. Only its owner, root, may read it: it says
who talks to whom.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from agent.policylog.counts import DISK_FULL, NOT_WRITTEN, READ_ONLY

DIRECTORY = Path("/var/log/network")
ACTIVE = "policy_action.log"
MAX_BYTES = 10 << 20
OLD_FILES = 5
MODE = 0o600
_OLD = re.compile(r"policy_action-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{3}\.log")
_REASONS = {errno.ENOSPC: DISK_FULL, errno.EDQUOT: DISK_FULL, errno.EFBIG: DISK_FULL, errno.EROFS: READ_ONLY}
_RETRY_SECONDS = 1.0


def old_files(directory: Path) -> list[Path]:
    """Those that were put away, the oldest first.

    By the time of their last line, not by name: local time goes back once a year.
    """
    found = []
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if _OLD.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
    return [directory / name for _, name in sorted(found)]


class Writer:
    """The file of one node. For one thread."""

    def __init__(
        self,
        directory: Path = DIRECTORY,
        *,
        max_bytes: int = MAX_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
        local: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.trouble = ""
        """What is wrong with the file, in words; "" when the last line was written."""
        self._directory, self._path = directory, directory / ACTIVE
        self._max_bytes = max_bytes
        self._monotonic, self._local = monotonic, local
        self._file = -1
        self._identity = (0, 0)
        self._size = 0
        self._not_before = 0.0
        self._reason = NOT_WRITTEN

    def close(self) -> None:
        """No more lines for now."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def write(self, lines: Sequence[bytes]) -> tuple[int, str]:
        """Write lines, each with its end: how many were written, and why the rest was not ("" if there is none)."""
        written = 0
        try:
            if self._monotonic() < self._not_before:
                return 0, self._reason
            for chunk, count in self._chunks(lines):
                self._append(chunk)
                written += count
        except OSError as error:
            self._reason = _REASONS.get(error.errno or 0, NOT_WRITTEN)
            self.trouble = f"{self._path}: {error.strerror or error}"
            self._not_before = self._monotonic() + _RETRY_SECONDS
            self.close()
            return written + (error.lines if isinstance(error, _PartlyError) else 0), self._reason
        if lines:
            self.trouble = ""
        return written, ""

    def _chunks(self, lines: Sequence[bytes]) -> Iterator[tuple[bytes, int]]:
        """Lines in as few pieces as files have room for; each piece's file is open when it is yielded."""
        begin = 0
        while begin < len(lines):
            self._open()
            if self._size and self._size + len(lines[begin]) > self._max_bytes:
                self._put_away()
            end, size = begin, 0
            while end < len(lines) and (end == begin or self._size + size + len(lines[end]) <= self._max_bytes):
                size += len(lines[end])
                end += 1
            yield b"".join(lines[begin:end]), end - begin
            begin = end

    def _append(self, chunk: bytes) -> None:
        before, left = self._size, memoryview(chunk)
        try:
            while left:
                done = os.write(self._file, left)
                self._size += done
                left = left[done:]
        except OSError as error:
            # Half a line would spoil the next one, for whoever reads JSON.
            whole = chunk.rfind(b"\n", 0, self._size - before) + 1
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, before + whole)
            raise _PartlyError(error, chunk.count(b"\n", 0, whole)) from error

    def _open(self) -> None:
        if self._file >= 0:
            try:
                found = self._path.stat(follow_symlinks=False)
            except FileNotFoundError:
                self.close()
            else:
                if (found.st_dev, found.st_ino) == self._identity:
                    return
                self.close()
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)
        status = os.fstat(self._file)
        self._identity, self._size = (status.st_dev, status.st_ino), status.st_size
        if self._size and os.pread(self._file, 1, self._size - 1) != b"\n":
            # A machine that lost its power in the middle of a line.
            os.write(self._file, b"\n")
            self._size += 1

    def _put_away(self) -> None:
        self.close()
        moment = self._local()
        while (target := self._directory / f"policy_action-{moment:%Y-%m-%dT%H-%M-%S}.{moment.microsecond // 1000:03d}.log").exists():
            moment += timedelta(milliseconds=1)
        self._path.rename(target)
        for path in old_files(self._directory)[:-OLD_FILES]:
            with contextlib.suppress(OSError):
                path.unlink()
        self._open()


class _PartlyError(OSError):
    """An error after some lines of a piece were written."""

    def __init__(self, error: OSError, lines: int) -> None:
        super().__init__(error.errno, error.strerror)
        self.lines = lines
