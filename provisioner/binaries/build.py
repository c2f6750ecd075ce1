"""Build programs from their pinned Go modules. Every module is checked against go.sum by `go` itself."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from pathlib import Path

from provisioner import cache, process
from provisioner.binaries.pins import Part
from provisioner.binaries.toolchain import Go
from provisioner.plan.steps import Deadline, Progress

# Module and build cache, measured and rounded up.
SPACE = {"kubernetes": 6 << 30, "etcd": 2 << 30, "coredns": 3 << 30, "e2e": 6 << 30, "kube-proxy": 3 << 30}
_CPU_MINUTES = {"kubernetes": 18, "etcd": 2, "coredns": 4, "e2e": 12, "kube-proxy": 6}


def expected_minutes(part: Part) -> int:
    """How long building all of `part` takes here while nothing else runs, measured and rounded up."""
    return math.ceil(_CPU_MINUTES[part.name] / len(os.sched_getaffinity(0)))


def build_part(part: Part, go: Go, target: Path, log: Path, deadline: Deadline, progress: Progress, only: tuple[str, ...] = ()) -> None:
    """Put all programs of `part` (or `only` those) into `target`, one at a time: linking two at once needs twice the memory."""
    cache.require_space(cache.root(), SPACE[part.name], f"building {part.name} {part.version}")
    env = _environment(go)
    module = target / ".module"
    module.mkdir()
    for name in ("go.mod", "go.sum"):
        shutil.copyfile(part.directory / name, module / name)
    programs = only or tuple(part.packages)
    for number, program in enumerate(programs, 1):
        doing = f"building {program} {part.version} with {go.version}"
        progress(f"{doing} ({number} of {len(programs)})" if len(programs) > 1 else doing)
        package = part.packages[program]
        verb = ["test", "-c"] if program.endswith(".test") else ["build", "-v"]
        argv = [str(go.program), *verb, "-trimpath", "-ldflags", _link_flags(part), "-o", str(target / program), package]
        before = log.stat().st_size if log.exists() else 0

        def beat(seconds: float, doing: str = doing, before: int = before) -> None:
            progress(f"{doing}: {process.duration(seconds)}{_done_so_far(log, before)}")

        process.run_logged(argv, log=log, doing=doing, deadline=deadline, cwd=module, env=env, beat=beat)
    shutil.rmtree(module)


def _done_so_far(log: Path, before: int) -> str:
    """What `go build -v` has written since the offset `before`: modules that it fetches, then a line a package compiled."""
    with log.open("rb") as stream:
        stream.seek(before)
        lines = stream.read().splitlines()
    fetched = sum(line.startswith(b"go: downloading ") for line in lines)
    compiled = sum(not line.startswith((b"go: ", b"$ ", b"#")) for line in lines)
    if compiled:
        return f", {compiled} packages compiled"
    return f", {fetched} modules fetched" if fetched else ""  # nothing at all: it links what was compiled before


def _link_flags(part: Part) -> str:
    if not part.of_kubernetes:
        return "-s -w"
    major, minor, _ = part.version.removeprefix("v").split(".", 2)
    values = {"gitVersion": part.version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return " ".join(["-s", "-w", *(f"-X k8s.io/component-base/version.{name}={value}" for name, value in values.items())])


def _environment(go: Go) -> dict[str, str]:
    """The user's environment (proxies, GOPROXY, caches), with what would change the result taken out."""
    env = {name: value for name, value in os.environ.items() if name not in {"GOROOT", "GOOS", "GOARCH", "GOFLAGS", "GOBIN"}}
    env |= {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off", "GO111MODULE": "on", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    if subprocess.run([str(go.program), "env", "GOCACHE"], env=env, capture_output=True, check=False).returncode != 0:  # no HOME
        env |= {"GOPATH": str(cache.root() / "go" / "path"), "GOCACHE": str(cache.root() / "go" / "build")}
    return env
