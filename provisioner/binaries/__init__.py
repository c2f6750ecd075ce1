"""Where the Kubernetes, etcd and CoreDNS programs come from.

In this order: the directory that was given; the cache; the official release, checked against its published checksum; a build
from pinned Go modules. What was chosen is said, and only complete sets are ever used: the parts are cached one by one, so an
interrupted build of the last part does not cost the first.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from provisioner import cache, errors
from provisioner.binaries.pins import DEFAULT_VERSION, OPTIONAL, REQUIRED, UNRELEASED, Part, Pins, load, normalise
from provisioner.plan.steps import Deadline, Progress

__all__ = ["DEFAULT_VERSION", "Binaries", "ensure", "ensure_part"]

_LOCK = "binaries"
_RELEASE_SPACE = 2 << 30


@dataclass(frozen=True, slots=True)
class Binaries:
    """A complete set of programs. `source` says in a few words where it came from ("cache", "official release", ...)."""

    directory: Path
    source: str
    version: str

    def path(self, program: str) -> Path:
        return self.directory / program

    def has(self, program: str) -> bool:
        return (self.directory / program).is_file()


def ensure(version: str, bin_dir: Path | None, deadline: Deadline, progress: Progress) -> Binaries:
    """A complete directory of programs for Kubernetes `version` ("1.34.4" or "v1.34.4").

    Raises `errors.MachineUnfit` when `bin_dir` is incomplete or nothing here can build, `errors.UpstreamFailure` when a download
    is not what was published or a build fails, `errors.SpecInvalid` for a version without pins.
    """
    if bin_dir is not None:
        return _given(normalise(version), bin_dir)
    pins = load(version)
    entry = cached_directory(pins)
    if cache.is_intact(entry):
        return Binaries(entry, "cache", pins.version)
    with cache.lock(_LOCK, deadline, progress):
        if cache.is_intact(entry):
            return Binaries(entry, "cache", pins.version)
        sources = {part.name: _ensure_part(part, pins, deadline, progress) for part in pins.parts}
        with cache.filling(entry) as partial:
            for part in pins.parts:
                _link_programs(_part_directory(part, pins), partial)
    chosen = "; ".join(f"{name}: {source}" for name, source in sources.items())
    progress(f"programs of Kubernetes {pins.version}: {chosen}")
    return Binaries(entry, chosen, pins.version)


def ensure_part(name: str, version: str, deadline: Deadline, progress: Progress) -> Binaries:
    """A directory with the programs of one part alone, for those that no set has: `pins.ON_DEMAND`. Raises what `ensure` raises."""
    pins = load(version, (name,))
    (part,) = pins.parts
    entry = _part_directory(part, pins)
    if cache.is_intact(entry):
        return Binaries(entry, "cache", pins.version)
    with cache.lock(_LOCK, deadline, progress):
        return Binaries(entry, _ensure_part(part, pins, deadline, progress), pins.version)


def cached_directory(pins: Pins) -> Path:
    return cache.root() / "binaries" / pins.key


def _part_directory(part: Part, pins: Pins) -> Path:
    return cache.root() / "binaries" / "parts" / f"{part.name}-{part.version}-{pins.key}"


def _given(version: str, bin_dir: Path) -> Binaries:
    missing = [program for program in REQUIRED if not os.access(bin_dir / program, os.X_OK) or not (bin_dir / program).is_file()]
    if missing:
        raise errors.MachineUnfit(
            f"{bin_dir} lacks {', '.join(missing)}, or they are not executable files",
            remedy=f"Put all of {', '.join(REQUIRED)} (and, if wanted, {', '.join(OPTIONAL)}) there, or leave the flag out.",
            field="--kubernetes-bin-dir",
        )
    return Binaries(bin_dir.resolve(), "given directory", version)


def _ensure_part(part: Part, pins: Pins, deadline: Deadline, progress: Progress) -> str:
    from provisioner.binaries.build import expected_minutes
    from provisioner.binaries.download import UnreachableError
    from provisioner.binaries.release import fetch_part

    entry = _part_directory(part, pins)
    if cache.is_intact(entry):
        return "cache"
    try:
        with cache.filling(entry) as partial:
            cache.require_space(cache.root(), _RELEASE_SPACE, f"downloading {part.name} {part.version}")
            fetch_part(part, pins.architecture, partial, deadline, progress)
            extras = tuple(program for program in part.packages if program in UNRELEASED)
            if extras:
                _try_extras(part, extras, partial, deadline, progress)
        return "official release"
    except UnreachableError as reason:
        takes = f"about {expected_minutes(part)} min on this machine"
        progress(f"no official release of {part.name} {part.version} from here ({reason}): building it, {takes}")
    go = _build(part, entry, deadline, progress)
    return f"built from Go modules with {go}"


def _build(part: Part, entry: Path, deadline: Deadline, progress: Progress) -> str:
    from provisioner.binaries import toolchain
    from provisioner.binaries.build import build_part

    go = toolchain.ensure(part.go, deadline, progress)
    log = _log(part)
    with cache.filling(entry) as partial:
        build_part(part, go, partial, log, deadline, progress)
    return go.version


def _try_extras(part: Part, programs: tuple[str, ...], target: Path, deadline: Deadline, progress: Progress) -> None:
    """Programs that no release has. A cluster works without them, so a failure is said and not raised."""
    from provisioner.binaries import toolchain
    from provisioner.binaries.build import build_part

    try:
        go = toolchain.ensure(part.go, deadline, progress)
        build_part(part, go, target, _log(part), deadline, progress, only=programs)
    except errors.Timeout:
        raise
    except errors.ProvisionerError as error:
        shutil.rmtree(target / ".module", ignore_errors=True)
        progress(f"going on without {', '.join(programs)}: {error.message.splitlines()[0]}")


def _log(part: Part) -> Path:
    directory = cache.root() / "logs"
    directory.mkdir(exist_ok=True)
    log = directory / f"build-{part.name}-{part.version}.log"
    log.unlink(missing_ok=True)
    return log


def _link_programs(source: Path, target: Path) -> None:
    for path in source.iterdir():
        if path.name == cache.SEAL:
            continue
        try:
            os.link(path, target / path.name)
        except OSError:  # no hard links on this file system
            shutil.copy2(path, target / path.name)
