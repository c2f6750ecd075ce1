"""A BPF ring buffer, read by its memory: two pages of positions, then the data, which the kernel maps twice in a row.

A record is a header of eight bytes (its length, with a bit while it is being written and one if it was given up) and its content,
aligned to eight. The kernel's side is `kernel/bpf/ringbuf.c`; libbpf's reader, which calls back from C for each record, does the same.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

from agent.datapath import syscalls

_HEADER = 8
_BUSY, _DISCARDED = 1 << 31, 1 << 30
_POSITION = struct.Struct("@Q")  # native: read and written as one word, as the kernel does on its side
_LENGTH = struct.Struct("@I")


class RingBuffer:
    """The consumer's end of a ring; there must be one alone. Nothing here waits, so whoever reads comes by from time to time."""

    def __init__(self, fd: int) -> None:
        """`fd` stays the caller's, and may be closed. Raises `OSError`."""
        self._size = syscalls.map_info(fd).max_entries
        page = mmap.PAGESIZE
        fd = os.dup(fd)
        try:
            self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
            self._producer = mmap.mmap(fd, page + 2 * self._size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        finally:
            os.close(fd)
        self._data = page

    def read(self) -> Iterator[bytes]:
        """What is there, oldest first, up to the first record that is still being written. Room is given back record by record, so a
        reader that stops half-way loses nothing. Records that come meanwhile are read too, at most a ring full."""
        (position,) = _POSITION.unpack_from(self._consumer, 0)
        end = position + self._size
        while position < min(self._written(), end):
            start = self._data + (position & (self._size - 1))
            (head,) = _LENGTH.unpack_from(self._producer, start)
            if head & _BUSY:
                return
            length = head & ~(_BUSY | _DISCARDED)
            record = self._producer[start + _HEADER : start + _HEADER + length]
            position += (_HEADER + length + 7) // 8 * 8
            _POSITION.pack_into(self._consumer, 0, position)
            if not head & _DISCARDED:
                yield record

    def waiting(self) -> int:
        """Bytes that were not read yet."""
        (position,) = _POSITION.unpack_from(self._consumer, 0)
        return self._written() - int(position)

    def close(self) -> None:
        """Unmap; the ring goes on and keeps what was not read."""
        self._consumer.close()
        self._producer.close()

    def _written(self) -> int:
        return int(_POSITION.unpack_from(self._producer, 0)[0])
