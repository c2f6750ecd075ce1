"""Tables of typed rows over the file descriptors of BPF maps.

Every method is one system call or, for many rows, one a chunk. Nothing is cached: the kernel's table is the truth.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

from agent.datapath import syscalls
from agent.datapath.abi import Codec

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")

_CHUNK = 1024
_ENOTSUPP = 524  # the kernel's own, which leaks to user space from tables without batches


@dataclass(frozen=True, slots=True)
class Usage:
    """Rows there are and rows there may be."""

    rows: int
    capacity: int

    @property
    def pressure(self) -> float:
        """From 0 to 1."""
        return self.rows / self.capacity if self.capacity else 0.0


def _chunks(rows: Iterable[R]) -> Iterator[list[R]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk


class Table(Generic[K, V]):
    """A hash or longest-prefix table. The file descriptor stays the caller's."""

    def __init__(self, name: str, fd: int, key: Codec[K], value: Codec[V]) -> None:
        self.name = name
        self.fd = fd
        self.max_entries = syscalls.map_info(fd).max_entries
        self._key = key
        self._value = value

    def get(self, key: K) -> V | None:
        """The row, or None."""
        data = syscalls.map_lookup(self.fd, self._key.pack(key), self._value.size)
        return None if data is None else self._value.unpack(data)

    def put(self, key: K, value: V) -> None:
        """Add or replace. Raises `OSError` E2BIG when the table is full."""
        syscalls.map_update(self.fd, self._key.pack(key), self._value.pack(value))

    def delete(self, key: K) -> bool:
        """Whether there was such a row."""
        return syscalls.map_delete(self.fd, self._key.pack(key))

    def items(self) -> Iterator[tuple[K, V]]:
        """Every row. Rows that come and go meanwhile may or may not be seen."""
        for key, value in self.raw_items():
            yield self._key.unpack(key), self._value.unpack(value)

    def put_many(self, rows: Mapping[K, V] | Iterable[tuple[K, V]]) -> None:
        """As `put` for each, in the order given."""
        pairs = rows.items() if isinstance(rows, Mapping) else rows
        for chunk in _chunks(pairs):
            keys = [self._key.pack(k) for k, _ in chunk]
            values = [self._value.pack(v) for _, v in chunk]
            self._put_chunk(keys, values)

    def delete_many(self, keys: Iterable[K]) -> int:
        """As `delete` for each; how many there were."""
        return self.raw_delete([self._key.pack(key) for key in keys])

    def clear(self) -> int:
        """Delete every row; how many there were."""
        return self.raw_delete([key for key, _ in self.raw_items()])

    def __len__(self) -> int:
        return sum(1 for _ in self.raw_items())

    def raw_get(self, key: bytes) -> bytes | None:
        """As `get`, of bytes."""
        return syscalls.map_lookup(self.fd, key, self._value.size)

    def raw_delete(self, keys: Iterable[bytes]) -> int:
        """As `delete_many`, of bytes."""
        return sum(self._delete_chunk(chunk) for chunk in _chunks(keys))

    def raw_items(self) -> Iterator[tuple[bytes, bytes]]:
        """As `items`, of bytes: for scans of large tables."""
        return _raw_items(self.fd, self._key.size, self._value.size)

    def _put_chunk(self, keys: list[bytes], values: list[bytes]) -> None:
        if len(keys) > 1:
            try:
                syscalls.map_update_batch(self.fd, b"".join(keys), b"".join(values), len(keys))
                return
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, _ENOTSUPP):
                    raise
        for key, value in zip(keys, values, strict=True):
            syscalls.map_update(self.fd, key, value)

    def _delete_chunk(self, keys: list[bytes]) -> int:
        deleted, rest = 0, keys
        while rest:
            try:
                done = syscalls.map_delete_batch(self.fd, b"".join(rest), len(rest))
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, _ENOTSUPP):
                    raise
                return deleted + sum(syscalls.map_delete(self.fd, key) for key in rest)
            deleted += done
            rest = rest[done + 1 :]  # the one after the last that was deleted is missing
        return deleted


def _raw_items(fd: int, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    """Every row, in batches where the kernel has them for this kind of table. `value_size`: of all copies, if there is one a CPU."""
    started = False
    try:
        for row in syscalls.map_lookup_batch(fd, key_size, value_size):
            started = True
            yield row
        return
    except OSError as error:
        if started or error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, _ENOTSUPP):
            raise
    for key in syscalls.map_keys(fd, key_size):
        value = syscalls.map_lookup(fd, key, value_size)
        if value is not None:
            yield key, value


class RouteTable(Table[K, V]):
    """The routes, with the generation by which the programs know whether a next hop that they remember is still right."""

    def __init__(self, name: str, fd: int, key: Codec[K], value: Codec[V], generation_fd: int) -> None:
        super().__init__(name, fd, key, value)
        self._generation_fd = generation_fd

    def put(self, key: K, value: V) -> None:
        """As `Table.put`."""
        super().put(key, value)
        self._advance()

    def delete(self, key: K) -> bool:
        """As `Table.delete`."""
        deleted = super().delete(key)
        self._advance()
        return deleted

    def put_many(self, rows: Mapping[K, V] | Iterable[tuple[K, V]]) -> None:
        """As `Table.put_many`."""
        try:
            super().put_many(rows)
        finally:
            self._advance()

    def raw_delete(self, keys: Iterable[bytes]) -> int:
        """As `Table.raw_delete`, which the other deletions use."""
        try:
            return super().raw_delete(keys)
        finally:
            self._advance()

    def _advance(self) -> None:
        """After the change: who remembered the old row before it did so under the old generation."""
        advance(self._generation_fd)


def generation(fd: int) -> int:
    """The number in an array of one."""
    return int.from_bytes(syscalls.map_lookup(fd, bytes(4), 4) or bytes(4), sys.byteorder)


def advance(fd: int) -> int:
    """Make it another one, never 0; the new one."""
    now = generation(fd) % 0xFFFFFFFF + 1
    syscalls.map_update(fd, bytes(4), now.to_bytes(4, sys.byteorder))
    return now


class PerCpuTable(Generic[K, V]):
    """A per-CPU table, read as the sum that `combine` makes of each row's copies, one a possible CPU."""

    def __init__(self, name: str, fd: int, key: Codec[K], value: Codec[V], combine: Callable[[Iterable[V]], V]) -> None:
        self.name = name
        self.fd = fd
        self.max_entries = syscalls.map_info(fd).max_entries
        self._key = key
        self._value = value
        self._combine = combine
        self._stride = (value.size + 7) // 8 * 8
        self._cpus = possible_cpus()

    def get(self, key: K) -> V | None:
        """The sum over all CPUs, or None."""
        return self._read(self._key.pack(key))

    def items(self) -> Iterator[tuple[K, V]]:
        """Every row, summed. Rows that come and go meanwhile may or may not be seen."""
        for key, copies in _raw_items(self.fd, self._key.size, self._stride * self._cpus):
            yield self._key.unpack(key), self._combine(self._split(copies))

    def raw_get(self, key: bytes) -> V | None:
        """As `get`, by the key's bytes."""
        return self._read(key)

    def parts(self, key: K) -> list[V]:
        """The row's copies, one a possible CPU; none if there is no such row."""
        return self._parts(self._key.pack(key))

    def delete_many(self, keys: Iterable[K]) -> int:
        """As `Table.delete_many`; every copy goes."""
        return sum(syscalls.map_delete(self.fd, self._key.pack(key)) for key in keys)

    def clear(self) -> int:
        """As `Table.clear`."""
        return sum(syscalls.map_delete(self.fd, key) for key, _ in list(_raw_items(self.fd, self._key.size, self._stride * self._cpus)))

    def __len__(self) -> int:
        return sum(1 for _ in syscalls.map_keys(self.fd, self._key.size))

    def _read(self, key: bytes) -> V | None:
        parts = self._parts(key)
        return self._combine(parts) if parts else None

    def _parts(self, key: bytes) -> list[V]:
        return self._split(syscalls.map_lookup(self.fd, key, self._stride * self._cpus) or b"")

    def _split(self, copies: bytes) -> list[V]:
        size = self._value.size
        return [self._value.unpack(copies[i : i + size]) for i in range(0, len(copies), self._stride)]


def possible_cpus() -> int:
    """How many CPUs the kernel made room for: the number of copies of a per-CPU row."""
    ranges = Path("/sys/devices/system/cpu/possible").read_text().strip().split(",")
    return 1 + max(int(r.rpartition("-")[2]) for r in ranges)
