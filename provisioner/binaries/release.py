"""The official releases: single programs of Kubernetes, archives of its tests, etcd and CoreDNS, all with published SHA-256 sums."""

from __future__ import annotations

import tarfile
from pathlib import Path

from provisioner import errors
from provisioner.binaries.download import UnreachableError, fetch_file, fetch_text, find_checksum
from provisioner.binaries.pins import Part
from provisioner.plan.steps import Deadline, Progress


def fetch_part(part: Part, architecture: str, target: Path, deadline: Deadline, progress: Progress) -> None:
    """Put the required programs of `part` into `target`. Raises `UnreachableError` when the network does not have them."""
    if part.name == "e2e":
        url = f"https://dl.k8s.io/release/{part.version}/kubernetes-test-linux-{architecture}.tar.gz"
        _fetch_archive(url, f"{url}.sha256", part, target, deadline, progress)
    elif part.of_kubernetes:
        _fetch_programs(part, f"https://dl.k8s.io/release/{part.version}/bin/linux/{architecture}", target, deadline, progress)
    elif part.name == "etcd":
        base = f"https://github.com/etcd-io/etcd/releases/download/{part.version}"
        archive = f"etcd-{part.version}-linux-{architecture}.tar.gz"
        _fetch_archive(f"{base}/{archive}", f"{base}/SHA256SUMS", part, target, deadline, progress)
    else:
        version = part.version.removeprefix("v")
        url = f"https://github.com/coredns/coredns/releases/download/{part.version}/coredns_{version}_linux_{architecture}.tgz"
        _fetch_archive(url, f"{url}.sha256", part, target, deadline, progress)


def _published(url: str, file_name: str) -> str:
    checksum = find_checksum(fetch_text(url), file_name)
    if not checksum:
        raise UnreachableError(f"{url} has no SHA-256 of {file_name}")
    return checksum


def _fetch_programs(part: Part, base: str, target: Path, deadline: Deadline, progress: Progress) -> None:
    for program in part.required:
        checksum = _published(f"{base}/{program}.sha256", program)
        fetch_file(f"{base}/{program}", target / program, f"{program} {part.version}", deadline, progress, sha256=checksum)
        (target / program).chmod(0o755)


def _fetch_archive(url: str, checksums: str, part: Part, target: Path, deadline: Deadline, progress: Progress) -> None:
    file_name = url.rsplit("/", 1)[-1]
    archive = target / ".archive"
    fetch_file(url, archive, file_name, deadline, progress, sha256=_published(checksums, file_name))
    for program in part.required:
        extract_program(archive, program, target / program)
    archive.unlink()


def extract_program(archive: Path, program: str, target: Path) -> None:
    """Take the regular file called `program` out of a tar archive, wherever it lies in it."""
    with tarfile.open(archive) as tar:
        for member in tar:
            source = tar.extractfile(member) if member.isreg() and member.name.rsplit("/", 1)[-1] == program else None
            if source is not None:
                with source, target.open("wb") as output:
                    while chunk := source.read(1 << 20):
                        output.write(chunk)
                target.chmod(0o755)
                return
    raise errors.UpstreamFailure(f"the archive {archive.name} has no program {program}", remedy="Use --kubernetes-bin-dir.")
