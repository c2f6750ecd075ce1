#!/usr/bin/env python3
"""Compile what is not Python: the BPF programs, and the small static C programs.

A script (`python bpf/build.py [--force]`), and hatchling's build hook of the same work. What is made is keyed by the content of
its sources, the command and the compiler's version: a second run compiles nothing. Results appear by rename, so that nobody reads
half an object, and two runs at a time wait for each other.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
STAMPS = Path("build/stamps")
PACKAGES = {"clang": "clang", "llvm-strip": "llvm", "gcc": "gcc"}

BPF_FLAGS = ("-O2", "-g", "-target", "bpf", "-Wall", "-Werror", "-I", "bpf")
STATIC_FLAGS = ("-std=gnu11", "-Os", "-static", "-s", "-Wall", "-Wextra", "-Werror")
STATIC_PROGRAMS = {
    "agent/objects/anetd-cni": "agent/cni/plugin/anetd-cni.c",
    "provisioner/objects/member-init": "provisioner/providers/local/init/member-init.c",
    "provisioner/objects/pause": "provisioner/images/pause.c",
}


class BuildError(Exception):
    """A compiler said no, or is not there; the text is what a person needs to see."""


class Target(NamedTuple):
    """One file to make. `inputs` are all files that its content depends on; paths are relative to the root.

    A named tuple, because hatchling runs this file as a module that is not in sys.modules, where a dataclass cannot be made.
    """

    output: Path
    source: Path
    inputs: tuple[Path, ...]
    command: tuple[str, ...]
    strip_debug: bool


def targets(root: Path) -> Iterator[Target]:
    """What can be made from the sources that are there; those that are not are named on stderr."""
    headers = sorted(path.relative_to(root) for path in (root / "bpf").rglob("*.h"))
    programs = sorted(path.relative_to(root) for path in (root / "bpf").glob("*.bpf.c"))
    if not programs:
        say("no programs in bpf/*.bpf.c yet: passed over")
    for source in programs:
        flags = (*BPF_FLAGS, *_multiarch_include())
        yield Target(Path("agent/objects") / f"{source.stem}.o", source, (source, *headers), ("clang", *flags, "-c"), strip_debug=True)
    for output, name in STATIC_PROGRAMS.items():
        source = Path(name)
        if not (root / source).exists():
            say(f"{source} is not there yet: passed over")
            continue
        beside = sorted(path.relative_to(root) for path in (root / source).parent.glob("*.h"))
        yield Target(Path(output), source, (source, *beside), ("gcc", *STATIC_FLAGS), strip_debug=False)


def build(root: Path = ROOT, *, force: bool = False) -> Sequence[Path]:
    """Make what is missing or stale, side by side; the outputs that exist afterwards. Raises `BuildError` with every failure."""
    stamps = root / STAMPS
    stamps.mkdir(parents=True, exist_ok=True)
    with _locked(stamps / "lock"):
        wanted = list(targets(root))
        stale = [target for target in wanted if force or not _is_current(root, target)]
        started = time.monotonic()
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            failures = [failure for failure in pool.map(lambda target: _attempt(root, target), stale) if failure]
        if failures:
            raise BuildError("\n".join(failures))
        if stale:
            say(f"compiled {len(stale)} of {len(wanted)} objects in {time.monotonic() - started:.1f} s")
        else:
            say(f"{len(wanted)} native objects are up to date")
    return [target.output for target in wanted]


def say(text: str) -> None:
    print(f"native: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _stamp(root: Path, target: Target) -> Path:
    return root / STAMPS / str(target.output).replace("/", "--")


def _key(root: Path, target: Target) -> str:
    digest = hashlib.sha256("\0".join((*target.command, _tool_version(target.command[0]), str(target.strip_debug))).encode())
    for path in target.inputs:
        content = (root / path).read_bytes()
        digest.update(f"\0{path}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _is_current(root: Path, target: Target) -> bool:
    stamp = _stamp(root, target)
    return (root / target.output).exists() and stamp.exists() and stamp.read_text() == _key(root, target)


def _attempt(root: Path, target: Target) -> str | None:
    try:
        _compile(root, target)
    except BuildError as failure:
        return str(failure)
    return None


def _compile(root: Path, target: Target) -> None:
    key = _key(root, target)
    output = root / target.output
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".compiling-", dir=output.parent) as scratch:
        made = Path(scratch) / output.name
        _run(root, (*target.command, str(target.source), "-o", str(made)), target)
        if target.strip_debug:
            # DWARF goes, BTF and its line information stay: the verifier's log then shows C.
            _run(root, ("llvm-strip", "-g", str(made)), target)
        made.replace(output)
    _stamp(root, target).write_text(key)


def _run(root: Path, command: Sequence[str], target: Target) -> None:
    _require(command[0])
    result = subprocess.run(command, cwd=root, text=True, capture_output=True, check=False)
    if result.returncode:
        raise BuildError(f"{target.source}: {' '.join(command)}\n{result.stdout}{result.stderr}".rstrip())


def _require(tool: str) -> None:
    if shutil.which(tool) is None:
        raise BuildError(f"{tool} is not installed. Run: apt-get install {PACKAGES[tool]}")


@cache
def _tool_version(tool: str) -> str:
    _require(tool)
    return subprocess.run((tool, "--version"), text=True, capture_output=True, check=True).stdout


@cache
def _multiarch_include() -> tuple[str, ...]:
    """Debian keeps <asm/types.h> in a directory that clang does not search for the target bpf."""
    _require("gcc")
    triple = subprocess.run(("gcc", "-print-multiarch"), text=True, capture_output=True, check=True).stdout.strip()
    return ("-idirafter", f"/usr/include/{triple}") if triple else ()


def main(arguments: Sequence[str] | None = None) -> int:
    """The script."""
    parser = argparse.ArgumentParser(description="Compile the BPF programs and the static C programs.")
    parser.add_argument("--force", action="store_true", help="compile everything again")
    options = parser.parse_args(arguments)
    try:
        build(force=options.force)
    except BuildError as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


with contextlib.suppress(ImportError):  # hatchling is there only while a distribution is built
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface

    class NativeObjects(BuildHookInterface[Any]):
        """Makes the objects before they are packed. An editable install is not packed: there, setup has compiled already."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            """Called by hatchling with "standard" or "editable"."""
            if version == "editable" or self.target_name == "sdist":
                return
            build(Path(self.root))
            build_data["pure_python"] = False
            build_data["infer_tag"] = False
            build_data["tag"] = f"py3-none-linux_{os.uname().machine}"


if __name__ == "__main__":
    sys.exit(main())
