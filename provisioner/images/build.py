"""The images: what is in each, and their archives in the cache.

    pause     one static C program
    coredns   one Go program
    anetd     Python from Debian, libbpf, and the `agent` package with its compiled objects
    toolbox   the network tools that the demo and the tests run in pods
    tracer    the `agent` package again, with BCC and the LLVM that it needs: a quarter of a gigabyte that only a node has that is traced

An image is a Debian layer that rarely changes and a small layer of our own, so a change of the agent costs a second. The tag
carries the digest of the content: an unchanged image keeps its name, and a changed one is never taken for the old one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import py_compile
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from provisioner import cache, errors, process
from provisioner.binaries import Binaries
from provisioner.binaries.pins import architecture
from provisioner.images import oci, rootfs
from provisioner.plan.steps import Deadline, Progress
from provisioner.version import __version__

REGISTRY = "provisioner.local"  # resolves nowhere: a node that lacks the image fails at once instead of pulling a stranger's
_LOCK = "images"
_KEPT_ARCHIVES = 4
_FORMAT = 1  # raise it when this module changes what an image contains without any input changing
_LARGE = 4 << 20

ANETD_ROOTFS = rootfs.Rootfs("anetd", ("python3-minimal", "libpython3-stdlib", "libbpf1", "libelf1"), python=True)
TOOLBOX_ROOTFS = rootfs.Rootfs(
    "toolbox",
    (
        *("bash", "busybox", "ca-certificates", "coreutils", "dash", "grep", "procps", "sed"),
        *("bind9-dnsutils", "curl", "iperf3", "iproute2", "iputils-ping", "netcat-openbsd", "tcpdump", "traceroute", "wget"),
    ),
    links=(("usr/bin/nc", "nc.openbsd"), ("usr/bin/traceroute", "traceroute.db")),
)

TRACER_ROOTFS = rootfs.Rootfs("tracer", ("python3-minimal", "libpython3-stdlib", "python3-bpfcc", "libbpf1"), python=True)

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_AGENT_HOME = "opt/anetd"
_AGENT_ENV = (
    *(_PATH, f"PYTHONPATH=/{_AGENT_HOME}"),
    *("PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1", "PYTHONNOUSERSITE=1", "PYTHONSAFEPATH=1"),
)
_ANETD_CONFIG = oci.Config(entrypoint=("/usr/bin/python3", "-m", "agent.main", "agent"), env=_AGENT_ENV)
_TRACER_CONFIG = oci.Config(entrypoint=("/usr/bin/python3", "-m", "agent.trace"), env=_AGENT_ENV)
_ANETD_COMMAND = b"""#!/usr/bin/python3
import runpy

runpy.run_module("agent.main", run_name="__main__", alter_sys=True)
"""
_TRACER_PARTS = ("datapath", "trace")
_SOURCE_TREE = Path(__file__).resolve().parents[2]
_IMAGE_PYTHON = (3, 11)  # the suite's


@dataclass(frozen=True, slots=True)
class Image:
    """`name` is what a pod's `image:` says; `archive` an uncompressed OCI archive for `ctr -n k8s.io images import`."""

    name: str
    archive: Path


@dataclass(frozen=True, slots=True)
class Images:
    """What every cluster needs. The toolbox, for trying things out in one, is made by `ensure_toolbox` for who wants it."""

    pause: Image
    coredns: Image
    anetd: Image


def ensure_images(binaries: Binaries, deadline: Deadline, progress: Progress) -> Images:
    """Build whatever of a cluster's images is not in the cache.

    Raises `errors.MachineUnfit` where a tool or a compiled object is missing, `errors.UpstreamFailure` when packages cannot be
    fetched, `errors.Timeout`.
    """
    with cache.lock(_LOCK, deadline, progress):
        _refresh_objects(deadline, progress)
        return Images(
            pause=_simple("pause", _object("pause"), "/pause", "", progress),
            coredns=_simple("coredns", binaries.path("coredns"), "/coredns", "65532", progress),
            anetd=_anetd(deadline, progress),
        )


def ensure_toolbox(binaries: Binaries, deadline: Deadline, progress: Progress) -> Image:
    """Build the toolbox image if it is not in the cache. Raises what `ensure_images` raises."""
    with cache.lock(_LOCK, deadline, progress):
        return _toolbox(binaries, deadline, progress)


def ensure_tracer(deadline: Deadline, progress: Progress) -> Image:
    """Build the tracer's image if it is not in the cache. Raises what `ensure_images` raises; no Kubernetes program is needed."""
    package = _agent_package()
    # Whatever else of the agent changes, the image keeps its name, and nodes that have it need no other.
    files = [package / "__init__.py", *(path for part in _TRACER_PARTS for path in _modules(package / part))]
    base = rootfs.cached(TRACER_ROOTFS)
    # A tracer is waited for, and whoever holds the lock may be building something for a minute.
    if base is not None and (known := _known("tracer", base, files, _TRACER_CONFIG)) is not None:
        return known

    def entries(scratch: Path) -> Iterable[oci.Entry]:
        return _agent_entries(package, files, scratch)

    with cache.lock(_LOCK, deadline, progress):
        return _assemble("tracer", rootfs.ensure(TRACER_ROOTFS, deadline, progress), files, entries, _TRACER_CONFIG, progress)


def _simple(name: str, program: Path, entry: str, user: str, progress: Progress) -> Image:
    """An image of one static program and nothing else."""

    def entries(_: Path) -> Iterable[oci.Entry]:
        return [oci.Entry(entry.strip("/"), 0o755, source=program), oci.Entry("etc", 0o755), oci.Entry("tmp", 0o1777)]

    return _assemble(name, None, [program], entries, oci.Config(entrypoint=(entry,), env=(_PATH,), user=user), progress)


def _anetd(deadline: Deadline, progress: Progress) -> Image:
    base = rootfs.ensure(ANETD_ROOTFS, deadline, progress)
    package = _agent_package()

    def entries(scratch: Path) -> Iterable[oci.Entry]:
        return [*_agent_entries(package, agent_files(package), scratch), oci.Entry("usr/bin/anetd", 0o755, content=_ANETD_COMMAND)]

    return _assemble("anetd", base, agent_files(package), entries, _ANETD_CONFIG, progress)


def _toolbox(binaries: Binaries, deadline: Deadline, progress: Progress) -> Image:
    base = rootfs.ensure(TOOLBOX_ROOTFS, deadline, progress)
    agnhost = [binaries.path("agnhost")] if binaries.has("agnhost") else []

    def entries(_: Path) -> Iterable[oci.Entry]:
        own = [oci.Entry("www/index.html", content=b"provisioner\n")]
        return [*own, *(oci.Entry("agnhost", 0o755, source=program) for program in agnhost)]

    config = oci.Config(entrypoint=("/usr/bin/sleep",), command=("infinity",), env=(_PATH,))
    if agnhost:
        config = oci.Config(entrypoint=("/agnhost",), command=("pause",), env=(_PATH,))
    return _assemble("toolbox", base, agnhost, entries, config, progress)


def _assemble(
    name: str,
    base: oci.Layer | None,
    inputs: Sequence[Path],
    entries: Callable[[Path], Iterable[oci.Entry]],
    config: oci.Config,
    progress: Progress,
) -> Image:
    """The image of `base` and a layer of `entries(scratch)`, which are made from `inputs` and from this module.

    Unchanged inputs are recognised without making the layer: a file beside the archives keeps which image came out of them.
    """
    archives = _archives()
    archives.mkdir(parents=True, exist_ok=True)
    if (known := _known(name, base, inputs, config)) is not None:
        return known
    with tempfile.TemporaryDirectory(prefix=".layer-", dir=archives) as scratch:
        own = oci.write_layer(entries(Path(scratch)), Path(scratch) / "layer.tar")
        layers = [*([base] if base else []), own]
        tag = f"{_version()}-{oci.image_digest(layers, config, architecture())[:12]}"
        image = _image(archives, name, tag)
        if not cache.is_intact(image.archive.parent):
            progress(f"writing the image {image.name}")
            with cache.filling(image.archive.parent) as partial:
                oci.write_archive(partial / image.archive.name, image.name, layers, config, architecture())
    for stale in archives.glob(f".{name}-*"):
        stale.unlink()
    _memory(name, base, inputs, config).write_text(tag)
    cache.prune(archives, f"{name}-*", _KEPT_ARCHIVES)
    return image


def _archives() -> Path:
    return cache.root() / "images" / "archives"


def _known(name: str, base: oci.Layer | None, inputs: Sequence[Path], config: oci.Config) -> Image | None:
    """What came of the same inputs before, if it is still there."""
    with contextlib.suppress(OSError):
        image = _image(_archives(), name, _memory(name, base, inputs, config).read_text())
        if cache.is_intact(image.archive.parent):
            return image
    return None


def _memory(name: str, base: oci.Layer | None, inputs: Sequence[Path], config: oci.Config) -> Path:
    return _archives() / f".{name}-{_fingerprint(base, inputs, config)}"


def _image(archives: Path, name: str, tag: str) -> Image:
    return Image(f"{REGISTRY}/{name}:{tag}", archives / f"{name}-{tag}" / f"{name}.tar")


def _fingerprint(base: oci.Layer | None, inputs: Sequence[Path], config: oci.Config) -> str:
    """Small files by content; large ones, which are programs of a sealed set, by size and time."""
    digest = hashlib.sha256(repr((_FORMAT, _version(), sys.version_info[:2], base and base.digest, config)).encode())
    for path in inputs:
        found = path.stat()
        content = cache.file_digest(path) if found.st_size < _LARGE else f"{found.st_size}-{found.st_mtime_ns}"
        digest.update(f"{path}\0{content}\0".encode())
    return digest.hexdigest()[:16]


def _version() -> str:
    return __version__.replace("+", "-")  # a tag may not have a plus


def _agent_package() -> Path:
    """The `agent` package lies beside this one, in a checkout as in an installed distribution. It is read, never imported."""
    package = _SOURCE_TREE / "agent"
    if not (package / "main.py").is_file():
        raise errors.MachineUnfit(f"the agent's package is not in {package}", remedy="Install the distribution whole.")
    if not any((package / "objects").glob("*.o")):
        raise errors.MachineUnfit(f"there are no compiled programs in {package / 'objects'}", remedy="Run: python bpf/build.py")
    return package


def agent_files(package: Path) -> list[Path]:
    """The files of the agent's package that belong into the image: its modules and whatever was compiled for it."""
    found = _modules(package)
    found += [path for path in (package / "objects").glob("[!.]*") if path.is_file() and path.suffix != ".py"]
    return sorted(found)


def _modules(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*.py") if "__pycache__" not in path.parts)


def _agent_entries(package: Path, files: Iterable[Path], scratch: Path) -> Iterator[oci.Entry]:
    compiled = sys.version_info[:2] == _IMAGE_PYTHON  # another version's byte code would be ignored there
    for path in files:
        name = path.relative_to(package)
        inside = f"{_AGENT_HOME}/agent/{name}"
        is_program = path.suffix not in {".py", ".o"}
        yield oci.Entry(inside, 0o755 if is_program else 0o644, source=path)
        if compiled and path.suffix == ".py":
            target = scratch / name.with_suffix(".pyc")
            py_compile.compile(
                str(path), str(target), dfile=f"/{inside}", doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
            )
            cached = f"{_AGENT_HOME}/agent/{name.parent / '__pycache__' / name.stem}.cpython-{_IMAGE_PYTHON[0]}{_IMAGE_PYTHON[1]}.pyc"
            yield oci.Entry(cached, source=target)


def _object(name: str) -> Path:
    path = _SOURCE_TREE / "provisioner" / "objects" / name
    if not path.is_file():
        raise errors.MachineUnfit(f"the compiled program {path} is missing", remedy="Run: python bpf/build.py")
    return path


def _refresh_objects(deadline: Deadline, progress: Progress) -> None:
    """In a checkout, compile what is missing or older than its source; a distribution comes with its objects compiled."""
    script = _SOURCE_TREE / "bpf" / "build.py"
    if not script.is_file():
        return
    if not all(shutil.which(tool) for tool in ("clang", "llvm-strip", "gcc")):
        progress("compilers are missing: using the C programs as they were compiled before")
        return
    if not os.access(_SOURCE_TREE, os.W_OK):
        return  # another user's checkout: as it was compiled
    with tempfile.TemporaryDirectory(prefix="provisioner-objects-") as scratch:
        try:
            process.run_logged(
                [sys.executable, str(script)], log=Path(scratch) / "log", doing="compiling the C programs", deadline=deadline
            )
        except errors.UpstreamFailure as error:
            raise errors.UpstreamFailure(error.message, remedy="Run: python bpf/build.py") from None
