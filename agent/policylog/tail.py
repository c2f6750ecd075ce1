"""The log's lines from its oldest file on, over however many files, and those that come.

    old file --end of it--> next file --...--> the file of now --put away--> goes on in it to its end --> the file that follows it

Invariants: what is put away under the reader is read to its end first, so no line is missed unless five files go by within one look; half
a line is not read before its end is there, so one that is taken back (the disk was full) was never seen. A reader keeps one file open.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.policylog.writer import ACTIVE, DIRECTORY, old_files

LOOK_SECONDS = 0.1
_PIECE = 1 << 18


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records are wanted; "" is all. `pod` and `namespace` are of either end, both of the same one. `since` is a timestamp."""

    namespace: str = ""
    pod: str = ""
    disposition: str = ""
    since: str = ""

    def wants(self, line: bytes) -> bool:
        """Whether a line is one of them. What is no record is not."""
        try:
            record = json.loads(line)
            if self.disposition and record["disposition"] != self.disposition:
                return False
            if self.since and _sortable(record["timestamp"]) < _sortable(self.since):
                return False
            return self._meets(record["src"]) or self._meets(record["dest"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return False

    def _meets(self, end: dict[str, Any]) -> bool:
        return self.namespace in {"", end.get("pod_namespace")} and self.pod in {"", end.get("pod_name")}


def _sortable(timestamp: str) -> str:
    """RFC 3339 in UTC with or without a fraction, so that text sorts as time does."""
    seconds, _, fraction = timestamp.removesuffix("Z").partition(".")
    return f"{seconds}.{fraction:0<9}"


class Tail:
    """A reader of `directory`."""

    def __init__(self, directory: Path = DIRECTORY) -> None:
        self._directory = directory
        self._file = -1
        self._position = 0

    def close(self) -> None:
        """No more lines."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def read(self) -> Iterator[bytes]:
        """Every whole line that there is and was not read before, without its end."""
        while self._file >= 0 or self._begin():
            # Looked up before the rest is read: whatever was written until the file was put away is then in it.
            following = self._following()
            yield from self._rest()
            if following is None:
                return
            self.close()
            self._file, self._position = following, 0

    def _begin(self) -> bool:
        self._file, self._position = self._open_after(None), 0
        return self._file >= 0

    def _rest(self) -> Iterator[bytes]:
        size = os.fstat(self._file).st_size
        self._position = min(self._position, size)
        while data := os.pread(self._file, _PIECE, self._position):
            whole = data.rfind(b"\n") + 1
            if not whole:
                if len(data) < _PIECE:
                    return
                whole = len(data)
            self._position += whole
            yield from data[:whole].splitlines()

    def _following(self) -> int | None:
        """The next file, open, if this one was put away; None if it is the one of now, or nothing follows yet."""
        own = os.fstat(self._file)
        try:
            now = (self._directory / ACTIVE).stat(follow_symlinks=False)
        except OSError:
            return None
        if os.path.samestat(own, now):
            return None
        descriptor = self._open_after(own)
        return descriptor if descriptor >= 0 else None

    def _open_after(self, own: os.stat_result | None) -> int:
        """The file after `own`, or the oldest where that is gone or None; -1 if there is none."""
        while True:
            chain = old_files(self._directory)
            following = chain
            for index, path in enumerate(chain):
                with contextlib.suppress(OSError):
                    if own is not None and os.path.samestat(own, path.stat(follow_symlinks=False)):
                        following = chain[index + 1 :]
            descriptor = _open_first([*following, self._directory / ACTIVE])
            if old_files(self._directory) == chain:
                return descriptor
            # One was put away meanwhile, and what was opened may be the one after it.
            if descriptor >= 0:
                os.close(descriptor)


def _open_first(paths: Iterable[Path]) -> int:
    for path in paths:
        with contextlib.suppress(OSError):
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    return -1


def follow(tail: Tail, wants: Callable[[bytes], bool], ended: Callable[[float], bool]) -> Iterator[bytes]:
    """Lines that are wanted, as they come. `ended(seconds)` waits, and says whether that was all."""
    while True:
        yield from (line for line in tail.read() if wants(line))
        if ended(LOOK_SECONDS):
            return
