"""Kernel settings below net.

In the agent's own container /proc/sys is read-only, so the host's /proc/sys/net is mounted at /host/proc/sys/net. Both show the
settings of the network namespace of the thread that opens the file: in a pod's namespace these functions act on the pod.
"""

from __future__ import annotations

import functools
from pathlib import Path

_HOST = Path("/host/proc/sys/net")
_OWN = Path("/proc/sys/net")


@functools.cache
def root() -> Path:
    """The directory that stands for `net`."""
    return _HOST if _HOST.is_dir() else _OWN


def get(name: str) -> str | None:
    """The value of `ipv4/ip_forward` and its like; None when this kernel has no such setting."""
    try:
        return (root() / name).read_text().strip()
    except FileNotFoundError:
        return None


def ensure(name: str, value: str) -> bool:
    """Set `name` unless it has that value already; whether it was changed. A setting that does not exist is left alone."""
    found = get(name)
    if found is None or found == value:
        return False
    (root() / name).write_text(value)
    return True
