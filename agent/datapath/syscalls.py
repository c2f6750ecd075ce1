"""bpf(2) by ctypes: maps, pins, links and test runs. One function a command, no policy.

Every function raises `OSError` as the kernel said it, except where the docstring says otherwise. libbpf has most of these too, but the
versions in use do not know tcx links, and a dictionary of one attribute layout is smaller than a second set of bindings.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}[os.uname().machine]
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_ATTR_SIZE = 128
_BPF_FS_MAGIC = 0xCAFE4A11
_CGROUP2_MAGIC = 0x63677270


class Command(IntEnum):
    """`enum bpf_cmd`, as far as it is used here."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_TEST_RUN = 10
    OBJ_GET_INFO_BY_FD = 15
    MAP_LOOKUP_BATCH = 24
    MAP_UPDATE_BATCH = 26
    MAP_DELETE_BATCH = 27
    LINK_CREATE = 28
    LINK_UPDATE = 29
    LINK_DETACH = 34


class Attach(IntEnum):
    """`enum bpf_attach_type`, as far as it is used here."""

    CGROUP_INET4_BIND = 8
    CGROUP_INET6_BIND = 9
    CGROUP_INET4_CONNECT = 10
    CGROUP_INET6_CONNECT = 11
    CGROUP_UDP4_SENDMSG = 14
    CGROUP_UDP6_SENDMSG = 15
    CGROUP_UDP4_RECVMSG = 19
    CGROUP_UDP6_RECVMSG = 20
    CGROUP_INET4_GETPEERNAME = 29
    CGROUP_INET6_GETPEERNAME = 30
    CGROUP_INET_SOCK_RELEASE = 34
    TCX_INGRESS = 46
    TCX_EGRESS = 47


BPF_ANY, BPF_NOEXIST, BPF_EXIST = 0, 1, 2


def _bpf(command: Command, attr: bytes) -> int:
    buffer = ctypes.create_string_buffer(attr, _ATTR_SIZE)
    result = int(_libc.syscall(_SYSCALL, command, buffer, _ATTR_SIZE))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"bpf({command.name}): {os.strerror(number)}")
    return result


def _bpf_inout(command: Command, attr: bytes) -> tuple[int, bytes]:
    """As `_bpf` for commands that answer in the attribute; the errno is returned, not raised."""
    buffer = ctypes.create_string_buffer(attr, _ATTR_SIZE)
    result = int(_libc.syscall(_SYSCALL, command, buffer, _ATTR_SIZE))
    return (ctypes.get_errno() if result < 0 else 0), buffer.raw


def _pointer(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


def map_lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """The value, or None if there is no such key."""
    k, v = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value_size)
    try:
        _bpf(Command.MAP_LOOKUP_ELEM, struct.pack("=IIQQQ", fd, 0, _pointer(k), _pointer(v), 0))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return v.raw


def map_update(fd: int, key: bytes, value: bytes, flags: int = BPF_ANY) -> None:
    k, v = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    _bpf(Command.MAP_UPDATE_ELEM, struct.pack("=IIQQQ", fd, 0, _pointer(k), _pointer(v), flags))


def map_delete(fd: int, key: bytes) -> bool:
    """Whether there was such a key."""
    k = ctypes.create_string_buffer(key, len(key))
    try:
        _bpf(Command.MAP_DELETE_ELEM, struct.pack("=IIQ", fd, 0, _pointer(k)))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def map_keys(fd: int, key_size: int) -> Iterator[bytes]:
    """Every key, by walking. A table that changes meanwhile may show a key twice or start over."""
    previous: ctypes.Array[ctypes.c_char] | None = None
    while True:
        following = ctypes.create_string_buffer(key_size)
        attr = struct.pack("=IIQQ", fd, 0, _pointer(previous) if previous else 0, _pointer(following))
        try:
            _bpf(Command.MAP_GET_NEXT_KEY, attr)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        yield following.raw
        previous = following


_BATCH_BYTES = 1 << 20
"""Of values in one chunk: of tables with large rows, such as Maglev's, the buffers would else be most of the agent's memory."""


def map_lookup_batch(fd: int, key_size: int, value_size: int, chunk: int = 4096) -> Iterator[tuple[bytes, bytes]]:
    """Every row of a hash table, a chunk a system call. Raises ENOTSUPP or EINVAL where the kind of table has no batches."""
    # The cursor of a hash table is a bucket's number, but the kernel copies a key's size of a generic table's.
    cursor_in, cursor_out = ctypes.create_string_buffer(max(key_size, 8)), ctypes.create_string_buffer(max(key_size, 8))
    chunk = min(chunk, max(64, _BATCH_BYTES // value_size))
    first = True
    while True:
        keys, values = ctypes.create_string_buffer(key_size * chunk), ctypes.create_string_buffer(value_size * chunk)
        attr = struct.pack(
            "=QQQQIIQQ", 0 if first else _pointer(cursor_in), _pointer(cursor_out), _pointer(keys), _pointer(values), chunk, fd, 0, 0
        )
        number, answer = _bpf_inout(Command.MAP_LOOKUP_BATCH, attr)
        if number == errno.ENOSPC:  # one bucket holds more than a chunk
            chunk *= 2
            continue
        if number not in (0, errno.ENOENT):
            raise OSError(number, f"bpf(MAP_LOOKUP_BATCH): {os.strerror(number)}")
        (count,) = struct.unpack_from("=I", answer, 32)
        key_bytes, value_bytes = keys.raw, values.raw
        for i in range(count):
            yield key_bytes[i * key_size : (i + 1) * key_size], value_bytes[i * value_size : (i + 1) * value_size]
        if number == errno.ENOENT:
            return
        ctypes.memmove(cursor_in, cursor_out, len(cursor_in))
        first = False


def map_update_batch(fd: int, keys: bytes, values: bytes, count: int) -> None:
    k, v = ctypes.create_string_buffer(keys, len(keys)), ctypes.create_string_buffer(values, len(values))
    _bpf(Command.MAP_UPDATE_BATCH, struct.pack("=QQQQIIQQ", 0, 0, _pointer(k), _pointer(v), count, fd, 0, 0))


def map_delete_batch(fd: int, keys: bytes, count: int) -> int:
    """How many were deleted before the first key that is missing (all: `count`)."""
    k = ctypes.create_string_buffer(keys, len(keys))
    number, answer = _bpf_inout(Command.MAP_DELETE_BATCH, struct.pack("=QQQQIIQQ", 0, 0, _pointer(k), 0, count, fd, 0, 0))
    if number not in (0, errno.ENOENT):
        raise OSError(number, f"bpf(MAP_DELETE_BATCH): {os.strerror(number)}")
    return int(struct.unpack_from("=I", answer, 32)[0]) if number else count


def obj_pin(fd: int, path: Path) -> None:
    name = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(Command.OBJ_PIN, struct.pack("=QII", _pointer(name), fd, 0))


def obj_get(path: Path) -> int | None:
    """A new file descriptor of what is pinned, None if nothing is."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    try:
        return _bpf(Command.OBJ_GET, struct.pack("=QII", _pointer(name), 0, 0))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise


@dataclass(frozen=True, slots=True)
class MapInfo:
    """The head of `struct bpf_map_info`."""

    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


def _info(fd: int) -> bytes:
    info = ctypes.create_string_buffer(256)
    _bpf(Command.OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, len(info), _pointer(info)))
    return info.raw


def map_info(fd: int) -> MapInfo:
    return MapInfo(*struct.unpack_from("=6I", _info(fd)))


def prog_id(fd: int) -> int:
    return int(struct.unpack_from("=II", _info(fd))[1])


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """`ifindex` is 0 once the device is gone."""

    id: int
    prog_id: int
    ifindex: int
    attach_type: int


def tcx_link_info(fd: int) -> LinkInfo:
    _, id_, prog, _, ifindex, attach_type = struct.unpack_from("=6I", _info(fd))
    return LinkInfo(id_, prog, ifindex, attach_type)


def tcx_link_create(prog_fd: int, ifindex: int, attach: Attach) -> int:
    return _bpf(Command.LINK_CREATE, struct.pack("=IIII", prog_fd, ifindex, attach, 0))


@dataclass(frozen=True, slots=True)
class CgroupLinkInfo:
    """`cgroup` is the inode number of the cgroup's directory, 0 once that is gone."""

    id: int
    prog_id: int
    cgroup: int
    attach_type: int


def cgroup_link_info(fd: int) -> CgroupLinkInfo:
    _, id_, prog, _, cgroup, attach_type = struct.unpack_from("=4IQI", _info(fd))
    return CgroupLinkInfo(id_, prog, cgroup, attach_type)


def cgroup_link_create(prog_fd: int, cgroup_fd: int, attach: Attach) -> int:
    return _bpf(Command.LINK_CREATE, struct.pack("=IIII", prog_fd, cgroup_fd, attach, 0))


def link_update(link_fd: int, prog_fd: int) -> None:
    _bpf(Command.LINK_UPDATE, struct.pack("=IIII", link_fd, prog_fd, 0, 0))


def link_detach(link_fd: int) -> None:
    """End a link now; closing its last reference ends it a little later."""
    _bpf(Command.LINK_DETACH, struct.pack("=I", link_fd))


def is_bpffs(path: Path) -> bool:
    """Whether objects can be pinned below `path`."""
    return _file_system(path) == _BPF_FS_MAGIC


def is_cgroup2(path: Path) -> bool:
    """Whether `path` is a cgroup of the version that programs can be attached to."""
    return _file_system(path) == _CGROUP2_MAGIC


def _file_system(path: Path) -> int:
    buffer = ctypes.create_string_buffer(512)
    if _libc.statfs(os.fsencode(path), buffer):
        return 0
    return int(struct.unpack_from("=l", buffer.raw)[0]) & 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class TestRun:
    """`verdict` is the program's return value as a signed number; `nanoseconds` the mean over the repeats."""

    verdict: int
    data: bytes
    context: bytes
    nanoseconds: int


def prog_test_run(prog_fd: int, data: bytes, context: bytes = b"", repeat: int = 1) -> TestRun:
    """`context` is a `struct __sk_buff`; all zero but what the kernel lets a test set (mark, priority, ingress_ifindex, ifindex, ...)."""
    data_in, data_out = ctypes.create_string_buffer(data, len(data)), ctypes.create_string_buffer(len(data) + 4096)
    ctx_in, ctx_out = ctypes.create_string_buffer(context, len(context) or 1), ctypes.create_string_buffer(len(context) or 1)
    attr = struct.pack(
        "=IIIIQQIIIIQQ",
        prog_fd,
        0,
        len(data),
        len(data_out),
        _pointer(data_in),
        _pointer(data_out),
        repeat,
        0,
        len(context),
        len(context),
        _pointer(ctx_in) if context else 0,
        _pointer(ctx_out) if context else 0,
    )
    number, answer = _bpf_inout(Command.PROG_TEST_RUN, attr)
    if number:
        raise OSError(number, f"bpf(PROG_TEST_RUN): {os.strerror(number)}")
    verdict, _, size_out = struct.unpack_from("=iII", answer, 4)
    (duration,) = struct.unpack_from("=I", answer, 36)
    return TestRun(verdict, data_out.raw[:size_out], ctx_out.raw[: len(context)], duration)


def prog_load(prog_type: int, instructions: bytes, expected_attach_type: int = 0) -> int:
    """Load a few instructions, to see whether the kernel takes them."""
    code, licence = ctypes.create_string_buffer(instructions, len(instructions)), ctypes.create_string_buffer(b"GPL")
    head = struct.pack("=IIQQIIQII", prog_type, len(instructions) // 8, _pointer(code), _pointer(licence), 0, 0, 0, 0, 0)
    attr = head + struct.pack("=16sII", b"probe", 0, expected_attach_type)
    return _bpf(Command.PROG_LOAD, attr)
