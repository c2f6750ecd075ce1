"""Probes in the kernel: what they need to know of it, compiling them, and reading what they tell. The only module that knows BCC.

BCC is Debian's python3-bpfcc, imported when a probe is made and not before: it brings LLVM along. It wants the source tree of the running
kernel; a probe uses nothing of that (see `btf`), so it gets one of a few lines. No tree fits every kernel, and this one compiles faster.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.trace import btf, formats

TRACEFS = Path("/sys/kernel/tracing")
_BTF = Path("/sys/kernel/btf/vmlinux")
_BATCH = 2048

_TYPES = """
typedef signed char s8, __s8;
typedef unsigned char u8, __u8;
typedef short s16, __s16;
typedef unsigned short u16, __u16, __be16, __le16, __sum16;
typedef int s32, __s32, pid_t;
typedef unsigned int u32, __u32, __be32, __le32, __wsum;
typedef long long s64, __s64;
typedef unsigned long long u64, __u64, __be64, __le64;
typedef unsigned long size_t, uintptr_t;
typedef long ssize_t;
typedef _Bool bool;
#define NULL ((void *)0)
#define true 1
#define false 0
#define __aligned_u64 __u64 __attribute__((aligned(8)))
"""
# The kernel's version is only asked by helpers of BCC that no probe uses.
_VERSION = """
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 8, 0)
"""
_TREE = {
    "linux/kconfig.h": "#define CONFIG_BPF_SYSCALL 1\n",
    "linux/types.h": _TYPES,
    "linux/version.h": _VERSION,
    "asm/page.h": f"#define PAGE_SIZE {os.sysconf('SC_PAGE_SIZE')}\n",
    **dict.fromkeys(("linux/bpf.h", "linux/bpf_common.h", "linux/log2.h"), ""),
    **dict.fromkeys((f"uapi/linux/{name}.h" for name in ("bpf", "if_ether", "if_packet", "ptrace")), ""),
}


class Unsupported(Exception):
    """What this kernel, or this container, lacks; the sentence says what it is needed for."""


def offsets(paths: Iterable[str]) -> dict[str, int]:
    """Of members of the running kernel's structures. Raises `Unsupported`."""
    try:
        return btf.offsets(_BTF.read_bytes(), paths)
    except (OSError, btf.UnknownLayout) as error:
        raise Unsupported(
            f"the kernel's structures are not known ({error}): tracing needs a kernel with BTF (CONFIG_DEBUG_INFO_BTF)"
        ) from error


def format_of(tracepoint: str) -> formats.Format:
    """Of "category:name". Raises `Unsupported` where the kernel has no such tracepoint, or does not show them."""
    mount_tracefs()
    category, _, name = tracepoint.partition(":")
    try:
        return formats.parse((TRACEFS / "events" / category / name / "format").read_text())
    except (OSError, ValueError) as error:
        raise Unsupported(f"the kernel has no tracepoint {tracepoint} ({error})") from error


def mount_tracefs() -> None:
    """Where the node has none mounted, this process's mount namespace gets one. Raises `Unsupported` where that is not allowed."""
    if (TRACEFS / "events").is_dir():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tracefs", os.fsencode(TRACEFS), b"tracefs", 0, None):
        reason = os.strerror(ctypes.get_errno())
        raise Unsupported(f"tracefs is not mounted on {TRACEFS}, and cannot be ({reason}): on the node, mount -t tracefs tracefs {TRACEFS}")


class Probe:
    """A compiled program on its tracepoints. Ends, and leaves nothing, with `close` or the process."""

    def __init__(self, text: str, functions: Mapping[str, str]) -> None:
        """`functions`: tracepoint -> the function for it; the text's ring is `events`. Raises `Unsupported` when the kernel refuses it."""
        self._records: list[bytes] = []
        self._bpf = _compiled(text)
        try:
            self._bpf["events"].open_ring_buffer(self._on_record)
            for tracepoint, function in functions.items():
                self._bpf.attach_tracepoint(tp=tracepoint, fn_name=function)
        except Exception as error:  # BCC raises nothing more exact
            self.close()
            raise Unsupported(f"the kernel does not take the probe: {' '.join(str(error).split())}") from error

    def close(self) -> None:
        self._bpf.cleanup()

    def poll(self, milliseconds: int) -> list[bytes]:
        """The records that came, after so long at most; no more than `_BATCH` at once, so that a flood does not keep its reader."""
        self._bpf.ring_buffer_poll(milliseconds)
        records, self._records = self._records, []
        return records

    def _on_record(self, _: int, data: int, size: int) -> int:
        self._records.append(ctypes.string_at(data, size))
        return -1 if len(self._records) >= _BATCH else 0

    def put(self, table: str, key: int, value: int) -> None:
        """In a table of u32 -> u32."""
        self._bpf[table][ctypes.c_uint32(key)] = ctypes.c_uint32(value)

    def delete(self, table: str, key: int) -> None:
        """Of a table of u32 -> u32; nothing if there is no such row."""
        try:
            del self._bpf[table][ctypes.c_uint32(key)]
        except KeyError:
            return

    def take_counts(self, table: str) -> Iterator[tuple[bytes, int]]:
        """Each row of a table with u64 values, which is deleted."""
        rows = self._bpf[table]
        for key, value in rows.items():
            del rows[key]
            yield bytes(key), int(value.value)

    def symbol(self, address: int) -> str:
        """The kernel's function at an address; "" where it may not be known."""
        name = self._bpf.ksym(address).decode("utf-8", "replace")
        return "" if name == "[unknown]" else name


def preload() -> None:
    """Import BCC, which takes a while: for a thread, while something else is waited for."""
    import bcc  # noqa: F401


def _compiled(text: str) -> Any:
    from bcc import BPF

    with tempfile.TemporaryDirectory(prefix="trace-") as tree:
        for name, content in _TREE.items():
            path = Path(tree) / "include" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        os.environ["BCC_KERNEL_SOURCE"] = tree
        try:
            return BPF(text=text.encode())
        except Exception as error:  # as above; the compiler's words are on stderr
            raise Unsupported(f"the probe cannot be compiled: {' '.join(str(error).split())}") from error
