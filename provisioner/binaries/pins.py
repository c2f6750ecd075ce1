"""The pins: for each Kubernetes version the Go modules that its programs are built from, as package data.

`pins/VERSION/PART/go.{mod,sum}`; the programs are the `tool` directives of go.mod. The same pins say which releases of etcd and
CoreDNS go with a Kubernetes version, so a download and a build give the same versions. A set is made of `PARTS`; `ON_DEMAND` names
parts that no cluster needs: what judges one, and what one is compared with.
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from provisioner import errors

DEFAULT_VERSION = "v1.34.4"
PARTS = ("kubernetes", "etcd", "coredns")
ON_DEMAND = ("e2e", "kube-proxy")
REQUIRED = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl", "etcd", "coredns")
OPTIONAL = ("agnhost",)  # not part of any release: the toolbox image has it only where it could be built
UNRELEASED = (*OPTIONAL, "regression-issue-74839")  # the server of one of upstream's specs

_PINS = Path(__file__).parent / "pins"
_MAIN_MODULES = {
    **dict.fromkeys(("kubernetes", *ON_DEMAND), "k8s.io/kubernetes"),
    "etcd": "go.etcd.io/etcd/server/v3",
    "coredns": "github.com/coredns/coredns",
}
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Part:
    """One Go module and the programs that come out of it."""

    name: str
    version: str  # of the main module, "v3.6.13"
    directory: Path  # has go.mod and go.sum
    packages: dict[str, str]  # program -> Go package
    go: tuple[int, ...]  # the least Go version, (1, 25, 0)

    @property
    def required(self) -> tuple[str, ...]:
        return tuple(program for program in self.packages if program not in UNRELEASED)

    @property
    def of_kubernetes(self) -> bool:
        """Whether the programs are Kubernetes' own, which carry its version."""
        return _MAIN_MODULES[self.name] == "k8s.io/kubernetes"


@dataclass(frozen=True, slots=True)
class Pins:
    """All parts that make a set for one Kubernetes version on one architecture."""

    version: str  # of Kubernetes, "v1.34.4"
    architecture: str  # as Go names it
    parts: tuple[Part, ...]

    @property
    def go(self) -> tuple[int, ...]:
        return max(part.go for part in self.parts)

    @property
    def key(self) -> str:
        """Names the set in the cache: another pin or architecture is another set."""
        digest = hashlib.sha256()
        for part in self.parts:
            for name in ("go.mod", "go.sum"):
                digest.update((part.directory / name).read_bytes() + b"\0")
        return f"{self.version}-linux-{self.architecture}-{digest.hexdigest()[:12]}"


def normalise(version: str) -> str:
    return version if version.startswith("v") else f"v{version}"


def known_versions() -> list[str]:
    return sorted(path.name for path in _PINS.iterdir() if path.is_dir())


def architecture() -> str:
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise errors.MachineUnfit(
            f"the architecture {machine} is not supported", remedy=f"Use a machine with one of: {', '.join(sorted(_ARCHITECTURES))}."
        )
    return _ARCHITECTURES[machine]


def load(version: str, parts: Sequence[str] = PARTS) -> Pins:
    """The pins of a Kubernetes version; `errors.SpecInvalid` when there are none."""
    wanted = normalise(version)
    if wanted not in known_versions():
        raise errors.SpecInvalid(
            f"there are no programs pinned for Kubernetes {version}",
            remedy=f"Use one of: {', '.join(known_versions())}; or give the programs with --kubernetes-bin-dir.",
            field="kubernetesVersion",
        )
    return Pins(wanted, architecture(), tuple(_load_part(name, _PINS / wanted / name) for name in parts))


def _load_part(name: str, directory: Path) -> Part:
    text = (directory / "go.mod").read_text()
    tools = re.findall(r"^(?:tool|\t)\s*(\S+)$", text, re.MULTILINE)
    module = re.escape(_MAIN_MODULES[name])
    version = re.search(rf"^\s*(?:require\s+)?{module} (v\S+)", text, re.MULTILINE)
    go = re.search(r"^go (\S+)$", text, re.MULTILINE)
    if version is None or go is None or not tools:
        raise errors.ProvisionerError(f"{directory / 'go.mod'} lacks a version, a go directive or a tool")
    packages = {_program(package): package for package in tools if package != "("}
    return Part(name, version[1], directory, packages, parse_go_version(go[1]))


def _program(package: str) -> str:
    """A program is called like the last element of its package, but etcd's is a module's major version, and e2e is a package's test."""
    names = {"go.etcd.io/etcd/server/v3": "etcd", "k8s.io/kubernetes/test/e2e": "e2e.test"}
    return names.get(package, package.rsplit("/", 1)[-1])


def parse_go_version(text: str) -> tuple[int, ...]:
    """ "go1.26.8" or "1.25" or "go1.26rc1 X:something" -> numbers that compare."""
    match = re.match(r"(?:go)?(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(number or 0) for number in match.groups()) if match else (0, 0, 0)
