"""Find a Go toolchain that is new enough, or fetch one through the Go module proxy.

The proxy serves toolchains as modules (`golang.org/toolchain`); the pinned module hash is checked the way `go` checks it, so
a fresh machine needs no Go and nothing unverified runs.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

from provisioner import cache, errors
from provisioner.binaries.download import UnreachableError, fetch_file
from provisioner.binaries.pins import architecture, parse_go_version
from provisioner.plan.steps import Deadline, Progress

_FETCHED = "go1.26.8"
_HASHES = {  # the checksum database's h1 of golang.org/toolchain@v0.0.1-go1.26.8.linux-ARCHITECTURE
    "amd64": "h1:ZOmGe1OnfREDMIdb1Qi4G9JSuDPBLGExZMQ4nis1RXM=",
    "arm64": "h1:sYL/O6MqS68ML0kjsQ36WoYIpJqkw60TxizWUYUKQMc=",
}
_DEFAULT_PROXY = "https://proxy.golang.org"
_UNPACKED_BYTES = 400 << 20


@dataclass(frozen=True, slots=True)
class Go:
    """A `go` program and the version it says it is ("go1.26.8")."""

    program: Path
    version: str


def find(at_least: tuple[int, ...]) -> tuple[Go | None, list[str]]:
    """The first toolchain that is new enough, and what was found that is not, as "path (version)"."""
    rejected: list[str] = []
    for program in _candidates():
        version = _version_of(program)
        if version is None:
            continue
        if parse_go_version(version) >= at_least:
            return Go(program, version), rejected
        rejected.append(f"{program} ({version})")
    return None, rejected


def _candidates() -> list[Path]:
    found = [Path(on_path)] if (on_path := shutil.which("go")) else []
    found += [Path("/usr/local/go/bin/go"), Path.home() / "go/bin/go", Path("/snap/bin/go")]
    for directory, pattern in ((Path("/usr/lib"), "go-*/bin/go"), (Path.home() / "sdk", "go*/bin/go")):
        found += sorted(directory.glob(pattern), reverse=True)
    return list(dict.fromkeys(program for program in found if os.access(program, os.X_OK)))


def _version_of(program: Path) -> str | None:
    try:
        done = subprocess.run(
            [str(program), "env", "GOVERSION"],
            capture_output=True,
            text=True,
            timeout=20,
            env={**os.environ, "GOTOOLCHAIN": "local"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def ensure(at_least: tuple[int, ...], deadline: Deadline, progress: Progress) -> Go:
    """A toolchain of at least that version. Raises `errors.MachineUnfit`, saying what was found and what to do."""
    found, rejected = find(at_least)
    if found is not None:
        return found
    entry = cache.root() / "go" / f"{_FETCHED}-linux-{architecture()}"
    fetched = Go(entry / "go/bin/go", _FETCHED)
    if (entry / cache.SEAL).exists() and _version_of(fetched.program):  # thousands of files: running it is check enough
        return fetched
    progress(f"no Go {_dotted(at_least)} or newer here: fetching {_FETCHED} through the Go module proxy")
    try:
        _fetch(entry, deadline, progress)
    except UnreachableError as error:
        older = f"; found only {', '.join(rejected)}" if rejected else ""
        raise errors.MachineUnfit(
            f"the programs have to be built, which needs Go {_dotted(at_least)} or newer{older}, and none could be fetched: {error}",
            remedy=f"Install Go {_dotted(at_least)} or newer from https://go.dev/dl/ to /usr/local/go, set GOPROXY to a Go module proxy "
            "that this machine reaches, or give the programs with --kubernetes-bin-dir.",
        ) from error
    return fetched


def _fetch(entry: Path, deadline: Deadline, progress: Progress) -> None:
    module = f"v0.0.1-{_FETCHED}.linux-{architecture()}"
    cache.require_space(cache.root(), _UNPACKED_BYTES, "the Go toolchain")
    with cache.filling(entry) as partial:
        archive = partial / "toolchain.zip"
        fetch_file(f"{_proxy()}/golang.org/toolchain/@v/{module}.zip", archive, _FETCHED, deadline, progress)
        verify_and_unpack(archive, f"golang.org/toolchain@{module}/", _HASHES[architecture()], partial / "go")
        archive.unlink()


def _proxy() -> str:
    """The first proxy of GOPROXY, which is a list separated by commas or bars; "off" and "direct" are no proxies."""
    configured = os.environ.get("GOPROXY", "")
    for entry in configured.replace("|", ",").split(","):
        if entry.startswith(("http://", "https://")):
            return entry.rstrip("/")
    if configured:
        raise UnreachableError(f"GOPROXY={configured} names no proxy")
    return _DEFAULT_PROXY


def verify_and_unpack(archive: Path, prefix: str, expected: str, target: Path) -> None:
    """Check a module zip against its h1 hash and unpack it below `target`, without the `prefix` that every name has.

    h1 is SHA-256 over the sorted lines "SHA-256-of-file  name\\n". Module zips carry no modes, so programs are marked here.
    """
    with zipfile.ZipFile(archive) as source:
        lines = []
        for name in sorted(source.namelist()):
            if not name.startswith(prefix) or ".." in name.split("/"):
                raise errors.UpstreamFailure(f"the Go toolchain's archive has a file outside of itself: {name}", remedy="Check GOPROXY.")
            content = source.read(name)
            lines.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
            path = target / name.removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o755 if content[:4] == b"\x7fELF" or content[:2] == b"#!" else 0o644)
    found = "h1:" + base64.b64encode(hashlib.sha256("".join(lines).encode()).digest()).decode()
    if found != expected:
        raise errors.UpstreamFailure(
            f"the Go toolchain does not have its pinned hash: {found} instead of {expected}", remedy="Check what GOPROXY points to."
        )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(number) for number in version)
