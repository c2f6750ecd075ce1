"""Where the Kubernetes, etcd and CoreDNS programs come from; stub of the final signatures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from provisioner.plan.steps import Deadline, Progress

DEFAULT_VERSION = "v1.34.4"


@dataclass(frozen=True, slots=True)
class Binaries:
    """A complete set of programs. `source` says in a few words where it came from ("cache", "official release", ...)."""

    directory: Path
    source: str
    version: str

    def path(self, name: str) -> Path:
        return self.directory / name


def ensure(version: str, bin_dir: Path | None, deadline: Deadline, progress: Progress) -> Binaries:
    """A complete directory of programs for Kubernetes `version` ("1.34.4" or "v1.34.4")."""
    raise NotImplementedError
