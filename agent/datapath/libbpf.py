"""Object files into the kernel, by libbpf through ctypes.

libbpf does the ELF, BTF and relocation work; opening, configuring and loading is three calls here. Tables are found in, or pinned to,
one directory by name, so that all objects and all generations of the agent share them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from agent.datapath import syscalls
from agent.datapath.errors import DatapathError, IncompatiblePin, VerifierError

_CONFIG_SECTION = ".rodata.config"
_Print = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class _OpenOptions(ctypes.Structure):
    """The head of `struct bpf_object_open_opts`; libbpf takes what is not there as zero."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("object_name", ctypes.c_char_p),
        ("relaxed_maps", ctypes.c_bool),
        ("pin_root_path", ctypes.c_char_p),
    )


class LoadedObject:
    """Programs and tables of one object file in the kernel. The file descriptors are the caller's to close."""

    def __init__(self, programs: dict[str, int], maps: dict[str, int]) -> None:
        self.programs = programs
        self.maps = maps

    def close(self) -> None:
        """Close every file descriptor that was not taken over (set to -1)."""
        for fd in (*self.programs.values(), *self.maps.values()):
            if fd >= 0:
                os.close(fd)
        self.programs, self.maps = {}, {}


def load(path: Path, *, config: bytes, pins: Path, max_entries: Mapping[str, int]) -> LoadedObject:
    """Load every program of `path`, its read-only section set to `config`, its tables reused from `pins` or made and pinned there.

    `max_entries` sizes tables that are made; one that is pinned keeps its size.
    Raises `VerifierError`, `IncompatiblePin`, `DatapathError`.
    """
    lib = _library()
    with _opened(lib, path, pins) as handle:
        logs = []
        for map_ in _iterate(lib.bpf_object__next_map, handle):
            _prepare_map(lib, map_, path, config, pins, max_entries)
        for program in _iterate(lib.bpf_object__next_program, handle):
            # Only a failing load writes into it: libbpf tries without a log first.
            log = ctypes.create_string_buffer(_LOG_SIZE)
            lib.bpf_program__set_log_buf(program, log, len(log))
            logs.append((lib.bpf_program__name(program).decode(), log))
        result = lib.bpf_object__load(handle)
        if result:
            _raise_load_error(path, -result, [(name, log.value.decode(errors="replace")) for name, log in logs])
        programs = {
            lib.bpf_program__name(p).decode(): os.dup(lib.bpf_program__fd(p)) for p in _iterate(lib.bpf_object__next_program, handle)
        }
        maps = {lib.bpf_map__name(m).decode(): os.dup(lib.bpf_map__fd(m)) for m in _iterate(lib.bpf_object__next_map, handle)}
        return LoadedObject(programs, maps)


_LOG_SIZE = 1 << 20


def _raise_load_error(path: Path, number: int, logs: list[tuple[str, str]]) -> None:
    for name, log in logs:
        if "processed" in log and not log.rstrip().endswith("total_states 0") and _is_refusal(log):
            raise VerifierError(f"{path.name}: the kernel refused the program {name} ({os.strerror(number)}):", log)
    remedy = "the agent needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON" if number in (errno.EPERM, errno.EACCES) else "see the log of libbpf"
    raise DatapathError(f"{path.name} could not be loaded: {os.strerror(number)}; {remedy}")


def _is_refusal(log: str) -> bool:
    """A log that ends in statistics alone is one of a program that was accepted."""
    return bool(log.strip())


def _prepare_map(lib: ctypes.CDLL, map_: int, path: Path, config: bytes, pins: Path, max_entries: Mapping[str, int]) -> None:
    name = lib.bpf_map__name(map_).decode()
    if name.endswith(_CONFIG_SECTION):
        if lib.bpf_map__value_size(map_) != len(config):
            raise DatapathError(
                f"{path.name} expects {lib.bpf_map__value_size(map_)} bytes of configuration, not {len(config)}: rebuild it"
            )
        _check(lib.bpf_map__set_initial_value(map_, config, len(config)), f"configure {path.name}")
        return
    if not lib.bpf_map__pin_path(map_):
        return
    fd = syscalls.obj_get(pins / name)
    if fd is None:
        if name in max_entries:
            _check(lib.bpf_map__set_max_entries(map_, max_entries[name]), f"size the table {name}")
        return
    try:
        pinned = syscalls.map_info(fd)
    finally:
        os.close(fd)
    found = (pinned.type, pinned.key_size, pinned.value_size, pinned.flags)
    wanted = (lib.bpf_map__type(map_), lib.bpf_map__key_size(map_), lib.bpf_map__value_size(map_), lib.bpf_map__map_flags(map_))
    if found != wanted:
        raise IncompatiblePin(
            f"the pinned table {pins / name} has (type, key size, value size, flags) {found}, the programs need {wanted}: "
            "raise the layout version, or remove the pin and restart the node's pods"
        )
    _check(lib.bpf_map__set_max_entries(map_, pinned.max_entries), f"size the table {name}")


def _iterate(following: ctypes._NamedFuncPointer, handle: int) -> Iterator[int]:
    item = following(handle, None)
    while item:
        yield item
        item = following(handle, item)


@contextlib.contextmanager
def _opened(lib: ctypes.CDLL, path: Path, pins: Path) -> Iterator[int]:
    root = os.fsencode(pins)
    options = _OpenOptions(sz=ctypes.sizeof(_OpenOptions), pin_root_path=root)
    handle = lib.bpf_object__open_file(os.fsencode(path), ctypes.byref(options))
    if not handle:
        number = ctypes.get_errno()
        raise DatapathError(f"{path} could not be opened: {os.strerror(number)}; is it built (python bpf/build.py)?")
    try:
        yield handle
    finally:
        lib.bpf_object__close(handle)


def _check(result: int, doing: str) -> None:
    if result:
        raise DatapathError(f"libbpf could not {doing}: {os.strerror(-result)}")


@cache
def _library() -> ctypes.CDLL:
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise DatapathError(f"libbpf.so.1 is missing ({error}): install Debian's libbpf1") from error
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures: dict[str, tuple[type | None, tuple[type, ...]]] = {
        "bpf_object__open_file": (pointer, (text, pointer)),
        "bpf_object__load": (number, (pointer,)),
        "bpf_object__close": (None, (pointer,)),
        "bpf_object__next_map": (pointer, (pointer, pointer)),
        "bpf_object__next_program": (pointer, (pointer, pointer)),
        "bpf_program__name": (text, (pointer,)),
        "bpf_program__fd": (number, (pointer,)),
        "bpf_program__set_log_buf": (number, (pointer, pointer, ctypes.c_size_t)),
        "bpf_map__name": (text, (pointer,)),
        "bpf_map__fd": (number, (pointer,)),
        "bpf_map__type": (number, (pointer,)),
        "bpf_map__key_size": (ctypes.c_uint32, (pointer,)),
        "bpf_map__value_size": (ctypes.c_uint32, (pointer,)),
        "bpf_map__map_flags": (ctypes.c_uint32, (pointer,)),
        "bpf_map__pin_path": (text, (pointer,)),
        "bpf_map__set_max_entries": (number, (pointer, ctypes.c_uint32)),
        "bpf_map__set_initial_value": (number, (pointer, text, ctypes.c_size_t)),
        "libbpf_set_print": (pointer, (pointer,)),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    lib.libbpf_set_print(None)  # what matters is in the errors raised here
    return lib
