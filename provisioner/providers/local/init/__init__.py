"""The member-init executable: the one that was built with the package, or one compiled from the source beside this file.

A compiled one is kept in the cache under the digest of its source, so a changed source is never run as its old self.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from provisioner import cache, errors
from provisioner.plan.steps import Deadline
from provisioner.process import run_logged

SOURCE = Path(__file__).with_name("member-init.c")
_BUILT = Path(__file__).parents[3] / "objects" / "member-init"
_FLAGS = ("-std=gnu11", "-static", "-Os", "-Wall", "-Wextra")
COMPILERS = ("cc", "gcc", "clang")


def cached() -> Path:
    digest = hashlib.sha256(SOURCE.read_bytes() + " ".join(_FLAGS).encode()).hexdigest()
    return cache.root() / "member-init" / digest[:16] / "member-init"


def find() -> Path | None:
    """The executable, if it needs no compiling."""
    # In a checkout the source may have been changed since; where both were installed they have one time.
    if os.access(_BUILT, os.X_OK) and _BUILT.stat().st_mtime >= SOURCE.stat().st_mtime:
        return _BUILT
    return cached() if os.access(cached(), os.X_OK) else None


def ensure(deadline: Deadline) -> Path:
    """The executable, compiled if need be. Raises `errors.MachineUnfit` where there is no C compiler."""
    found = find()
    if found:
        return found
    compiler = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        raise errors.MachineUnfit("no C compiler is installed to build member-init", remedy="Run: apt-get install gcc libc6-dev")
    target = cached()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        built = Path(directory) / "member-init"
        run_logged(
            [compiler, *_FLAGS, "-o", str(built), str(SOURCE)],
            log=target.parent / "build.log",
            doing="compiling member-init",
            deadline=deadline,
        )
        built.replace(target)
    return target
