"""The four images: what is in each, and their archives in the cache.

    pause     one static C program
    coredns   one Go program
    anetd     Python from Debian, libbpf, and the `agent` package with its compiled objects
    toolbox   the network tools that the demo and the tests run in pods

An image is a Debian layer that rarely changes and a small layer of our own, so a change of the agent costs a second. The tag
carries the digest of the content: an unchanged image keeps its name, and a changed one is never taken for the old one.
"""

from __future__ import annotations

import importlib.metadata
import py_compile
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from provisioner import cache, errors, process
from provisioner.binaries import Binaries
from provisioner.binaries.pins import architecture
from provisioner.images import oci, rootfs
from provisioner.plan.steps import Deadline, Progress

REGISTRY = "provisioner.local"  # resolves nowhere: a node that lacks the image fails at once instead of pulling a stranger's
_LOCK = "images"
_KEPT_ARCHIVES = 4

ANETD_ROOTFS = rootfs.Rootfs("anetd", ("python3-minimal", "libpython3-stdlib", "libbpf1", "libelf1"), python=True)
TOOLBOX_ROOTFS = rootfs.Rootfs(
    "toolbox",
    (
        *("bash", "busybox", "ca-certificates", "coreutils", "dash", "grep", "procps", "sed"),
        *("bind9-dnsutils", "curl", "iperf3", "iproute2", "iputils-ping", "netcat-openbsd", "tcpdump", "traceroute", "wget"),
    ),
    links=(("usr/bin/nc", "nc.openbsd"), ("usr/bin/traceroute", "traceroute.db")),
)

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_AGENT_HOME = "opt/anetd"
_ANETD_CONFIG = oci.Config(
    entrypoint=("/usr/bin/python3", "-m", "agent.main", "agent"),
    env=(_PATH, f"PYTHONPATH=/{_AGENT_HOME}", "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1", "PYTHONNOUSERSITE=1", "PYTHONSAFEPATH=1"),
)
_ANETD_COMMAND = b"""#!/usr/bin/python3
import runpy

runpy.run_module("agent.main", run_name="__main__", alter_sys=True)
"""
_SOURCE_TREE = Path(__file__).resolve().parents[2]
_IMAGE_PYTHON = (3, 11)  # the suite's


@dataclass(frozen=True, slots=True)
class Image:
    """`name` is what a pod's `image:` says; `archive` an uncompressed OCI archive for `ctr -n k8s.io images import`."""

    name: str
    archive: Path


@dataclass(frozen=True, slots=True)
class Images:
    """What a cluster needs (pause, coredns, anetd), and the toolbox for trying things out in it."""

    pause: Image
    coredns: Image
    anetd: Image
    toolbox: Image

    def all(self) -> tuple[Image, ...]:
        return (self.pause, self.coredns, self.anetd, self.toolbox)


def ensure_images(binaries: Binaries, deadline: Deadline, progress: Progress) -> Images:
    """Build whatever of the four images is not in the cache.

    Raises `errors.MachineUnfit` where a tool or a compiled object is missing, `errors.UpstreamFailure` when packages cannot be
    fetched, `errors.Timeout`.
    """
    with cache.lock(_LOCK, deadline, progress):
        return Images(
            pause=_simple("pause", _object("pause"), "/pause", "", progress),
            coredns=_simple("coredns", binaries.path("coredns"), "/coredns", "65532", progress),
            anetd=_anetd(deadline, progress),
            toolbox=_toolbox(binaries, deadline, progress),
        )


def _simple(name: str, program: Path, entry: str, user: str, progress: Progress) -> Image:
    """An image of one static program and nothing else."""
    own = [oci.Entry(entry.strip("/"), 0o755, source=program), oci.Entry("etc", 0o755), oci.Entry("tmp", 0o1777)]
    return _assemble(name, None, own, oci.Config(entrypoint=(entry,), env=(_PATH,), user=user), progress)


def _anetd(deadline: Deadline, progress: Progress) -> Image:
    base = rootfs.ensure(ANETD_ROOTFS, deadline, progress)
    with tempfile.TemporaryDirectory(prefix="provisioner-agent-") as scratch:
        own = [*_agent_entries(_agent_package(), Path(scratch)), oci.Entry("usr/bin/anetd", 0o755, content=_ANETD_COMMAND)]
        # /usr exists in the base: a directory entry would only repeat it, but its mode must agree.
        return _assemble("anetd", base, own, _ANETD_CONFIG, progress)


def _toolbox(binaries: Binaries, deadline: Deadline, progress: Progress) -> Image:
    base = rootfs.ensure(TOOLBOX_ROOTFS, deadline, progress)
    own = [oci.Entry("www/index.html", content=b"provisioner\n")]
    config = oci.Config(entrypoint=("/usr/bin/sleep",), command=("infinity",), env=(_PATH,))
    if binaries.has("agnhost"):
        own.append(oci.Entry("agnhost", 0o755, source=binaries.path("agnhost")))
        config = oci.Config(entrypoint=("/agnhost",), command=("pause",), env=(_PATH,))
    return _assemble("toolbox", base, own, config, progress)


def _assemble(name: str, base: oci.Layer | None, own: Sequence[oci.Entry], config: oci.Config, progress: Progress) -> Image:
    archives = cache.root() / "images" / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".layer-", dir=archives) as scratch:
        layers = [*([base] if base else []), oci.write_layer(own, Path(scratch) / "layer.tar")]
        tag = f"{_version()}-{oci.image_digest(layers, config, architecture())[:12]}"
        image = Image(f"{REGISTRY}/{name}:{tag}", archives / f"{name}-{tag}" / f"{name}.tar")
        if not cache.is_intact(image.archive.parent):
            progress(f"writing the image {image.name}")
            with cache.filling(image.archive.parent) as partial:
                oci.write_archive(partial / image.archive.name, image.name, layers, config, architecture())
    cache.prune(archives, f"{name}-*", _KEPT_ARCHIVES)
    return image


def _version() -> str:
    try:
        version = importlib.metadata.version("provisioner")
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        version = "0"
    return version.replace("+", "-")


def _agent_package() -> Path:
    """The `agent` package lies beside this one, in a checkout as in an installed distribution. It is read, never imported."""
    package = _SOURCE_TREE / "agent"
    if not (package / "main.py").is_file():
        raise errors.MachineUnfit(f"the agent's package is not in {package}", remedy="Install the distribution whole.")
    if not any((package / "objects").glob("*.o")):
        _compile_objects()
    return package


def _agent_entries(package: Path, scratch: Path) -> Iterator[oci.Entry]:
    compiled = sys.version_info[:2] == _IMAGE_PYTHON  # another version's byte code would be ignored there
    for path in sorted(package.rglob("*")):
        name = path.relative_to(package)
        if not path.is_file() or "__pycache__" in name.parts:
            continue
        inside = f"{_AGENT_HOME}/agent/{name}"
        is_object = name.parts[0] == "objects"
        if path.suffix != ".py" and not is_object:
            continue
        yield oci.Entry(inside, 0o755 if is_object and path.suffix != ".o" else 0o644, source=path)
        if compiled and path.suffix == ".py":
            target = scratch / name.with_suffix(".pyc")
            py_compile.compile(
                str(path), str(target), dfile=f"/{inside}", doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
            )
            cached = f"{_AGENT_HOME}/agent/{name.parent / '__pycache__' / name.stem}.cpython-{_IMAGE_PYTHON[0]}{_IMAGE_PYTHON[1]}.pyc"
            yield oci.Entry(cached, source=target)


def _object(name: str) -> Path:
    """A compiled C program that comes with the distribution, or is compiled now in a checkout."""
    path = _SOURCE_TREE / "provisioner" / "objects" / name
    if not path.is_file():
        _compile_objects()
    if not path.is_file():
        raise errors.MachineUnfit(f"the compiled program {path} is missing", remedy="Run: python bpf/build.py")
    return path


def _compile_objects() -> None:
    script = _SOURCE_TREE / "bpf" / "build.py"
    if not script.is_file():
        raise errors.MachineUnfit("the distribution lacks its compiled objects", remedy="Install a built distribution, or use a checkout.")
    process.require_tool("clang", "clang llvm libbpf-dev gcc libc6-dev")
    with tempfile.TemporaryDirectory(prefix="provisioner-objects-") as scratch:
        log = Path(scratch) / "log"
        try:
            process.run_logged([sys.executable, str(script)], log=log, doing="compiling the C programs", deadline=process.Unlimited())
        except errors.UpstreamFailure:
            kept = cache.root() / "logs"
            kept.mkdir(exist_ok=True)
            shutil.copyfile(log, kept / "objects.log")
            raise
