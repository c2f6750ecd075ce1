"""The images of a cluster, built here and never pulled; stub of the final signatures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from provisioner.binaries import Binaries
from provisioner.plan.steps import Deadline, Progress


@dataclass(frozen=True, slots=True)
class Image:
    """`name` is what a pod's `image:` says; `archive` an uncompressed OCI archive for `ctr -n k8s.io images import`."""

    name: str
    archive: Path


@dataclass(frozen=True, slots=True)
class Images:
    pause: Image
    coredns: Image
    anetd: Image
    toolbox: Image


def ensure_images(binaries: Binaries, deadline: Deadline, progress: Progress) -> Images:
    """Build whatever of the four images is not in the cache yet."""
    raise NotImplementedError
