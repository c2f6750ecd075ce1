"""Debian root file systems out of packages, as one layer each, made with mmdebstrap and cached by package list.

Packages are extracted, not configured: no maintainer script runs, so nothing depends on the machine that builds. What the scripts
would have made and somebody needs (users, alternatives, byte code) is made here. What no container uses is left out: package
management, documentation, locales, character set converters, the parts of Python's library for development.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from provisioner import cache, errors, process
from provisioner.binaries.pins import architecture
from provisioner.images import oci
from provisioner.plan.steps import Deadline, Progress

SUITE = "bookworm"
MIRROR_VARIABLE = "PROVISIONER_DEBIAN_MIRROR"
_FORMAT = 2  # raise it when this module changes what a layer contains
_SPACE = 1 << 30


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_LEFT_OUT = tuple(
    f"{directory}/"
    for directory in _words(
        """
        boot dev proc sys run tmp home media mnt srv opt
        etc/apt etc/cron.daily etc/default etc/dpkg etc/init.d etc/logrotate.d etc/rc0.d etc/systemd etc/ufw
        usr/games usr/include usr/local usr/src
        usr/lib/apt usr/lib/dpkg usr/lib/systemd usr/lib/sysusers.d usr/lib/tmpfiles.d usr/lib/udev
        usr/lib/python3.11/curses usr/lib/python3.11/dbm usr/lib/python3.11/distutils usr/lib/python3.11/ensurepip
        usr/lib/python3.11/idlelib usr/lib/python3.11/lib2to3 usr/lib/python3.11/pydoc_data usr/lib/python3.11/sqlite3
        usr/lib/python3.11/test usr/lib/python3.11/tkinter usr/lib/python3.11/unittest usr/lib/python3.11/wsgiref
        usr/share/applications usr/share/bash-completion usr/share/bug usr/share/common-licenses usr/share/debconf usr/share/doc
        usr/share/doc-base usr/share/dpkg usr/share/gdb usr/share/icons usr/share/info usr/share/initramfs-tools usr/share/lintian
        usr/share/locale usr/share/man usr/share/menu usr/share/perl usr/share/perl5 usr/share/pixmaps usr/share/polkit-1 usr/share/zsh
        var/backups var/cache var/lib var/log var/mail var/spool var/tmp
        """
    )
)
_LEFT_OUT_NAMES = frozenset(
    _words(
        """
        usr/bin/dpkg usr/bin/dpkg-deb usr/bin/dpkg-divert usr/bin/dpkg-maintscript-helper usr/bin/dpkg-query usr/bin/dpkg-realpath
        usr/bin/dpkg-split usr/bin/dpkg-statoverride usr/bin/dpkg-trigger usr/bin/perl usr/bin/perl5.36.0
        usr/bin/update-alternatives usr/sbin/start-stop-daemon
        usr/lib/python3.11/doctest.py usr/lib/python3.11/pydoc.py usr/lib/python3.11/turtle.py
        """
    )
)
_LEFT_OUT_PARTS = (
    "/gconv/",
    "/lib-dynload/_codecs_",
    "/__pycache__/turtle.",
    "/__pycache__/pydoc.",
    "/__pycache__/doctest.",
    "/perl-base/",
    "/engines-3/",
    "/lib-dynload/_sqlite3",
    "/lib-dynload/_curses",
    "/lib-dynload/_test",
)
_LEFT_OUT_LIBRARIES = ("libsqlite3.so", "libdb-5.3.so", "libmvec.so", "libperl.so")

_COMMON = (
    *(oci.Entry(path, 0o755) for path in ("dev", "proc", "sys", "run", "etc", "var", "var/lib", "root", "opt")),
    oci.Entry("tmp", 0o1777),
    oci.Entry("var/run", link="/run"),
    oci.Entry("etc/passwd", content=b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"),
    oci.Entry("etc/group", content=b"root:x:0:\nnogroup:x:65534:\n"),
    oci.Entry("etc/nsswitch.conf", content=b"passwd: files\ngroup: files\nhosts: files dns\n"),
)


@dataclass(frozen=True, slots=True)
class Rootfs:
    """What a base layer is made of.

    packages  Debian package names; what they depend on comes with them, what they recommend does not.
    links     names that Debian's alternatives would have made: path -> target.
    python    compile the byte code: the container's file system is read-only, so Python could not keep it.
    """

    name: str
    packages: Sequence[str]
    links: Sequence[tuple[str, str]] = ()
    python: bool = False

    @property
    def key(self) -> str:
        text = repr((_FORMAT, SUITE, architecture(), sorted(self.packages), sorted(self.links), self.python))
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def ensure(rootfs: Rootfs, deadline: Deadline, progress: Progress) -> oci.Layer:
    """The layer from the cache, or made now. The caller holds the images' lock."""
    entry = _entry(rootfs)
    if not cache.is_intact(entry):
        cache.require_space(cache.root(), _SPACE, f"building the {rootfs.name} image")
        progress(f"building the {rootfs.name} image from {len(rootfs.packages)} Debian packages and what they need: about half a minute")
        with cache.filling(entry) as partial:
            _make(rootfs, partial / "layer.tar", deadline, progress)
        cache.prune(entry.parent, f"{rootfs.name}-*", keep=1)
    return _layer(entry)


def cached(rootfs: Rootfs) -> oci.Layer | None:
    """The layer if it is in the cache."""
    entry = _entry(rootfs)
    return _layer(entry) if cache.is_intact(entry) else None


def _entry(rootfs: Rootfs) -> Path:
    return cache.root() / "images" / "layers" / rootfs.key


def _layer(entry: Path) -> oci.Layer:
    layer = entry / "layer.tar"
    return oci.Layer(layer, cache.sealed_digest(entry, layer.name), layer.stat().st_size)


def _make(rootfs: Rootfs, target: Path, deadline: Deadline, progress: Progress) -> None:
    tool = process.require_tool("mmdebstrap", "mmdebstrap")
    logs = cache.root() / "logs"
    logs.mkdir(exist_ok=True)
    log = logs / f"image-{rootfs.name}.log"
    log.unlink(missing_ok=True)
    argv = [tool, "--variant=extract", f"--include={','.join(rootfs.packages)}", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"]
    if rootfs.python:
        # Hash-based and unchecked: the sources have no times of their own, and a start shall not read them at all.
        compiling = "python3 -m compileall -q --invalidation-mode unchecked-hash /usr/lib/python3.11 /usr/lib/python3"
        argv.append(f'--extract-hook=chroot "$1" /usr/bin/{compiling}')
    with tempfile.TemporaryDirectory(prefix="provisioner-rootfs-") as scratch:
        raw = Path(scratch) / "rootfs.tar"
        try:
            doing = f"fetching Debian packages for the {rootfs.name} image"
            command = [*argv, SUITE, str(raw), *_mirrors()]
            process.run_logged(command, log=log, doing=doing, deadline=deadline, beat=lambda s: progress(f"{doing}: {process.duration(s)}"))
        except errors.UpstreamFailure as error:
            remedy = f"{error.remedy} Where Debian's mirrors cannot be reached, set {MIRROR_VARIABLE} to one that can."
            raise errors.UpstreamFailure(error.message, remedy=remedy) from None
        links = (oci.Entry(path, 0o777, link=destination) for path, destination in rootfs.links)
        oci.rewrite_layer(raw, target, is_wanted, [*_COMMON, *links])


def is_wanted(name: str) -> bool:
    """Whether a file of a Debian package goes into an image; `name` has no leading slash."""
    if f"{name}/".startswith(_LEFT_OUT) or name in _LEFT_OUT_NAMES:
        return False
    return not any(part in f"/{name}/" for part in _LEFT_OUT_PARTS) and not name.rsplit("/", 1)[-1].startswith(_LEFT_OUT_LIBRARIES)


def _mirrors() -> list[str]:
    """The mirror to use: as the environment says, else this machine's own if it runs the same suite, else Debian's."""
    if mirror := os.environ.get(MIRROR_VARIABLE):
        return [mirror]
    release = Path("/etc/os-release")
    if release.exists() and f"VERSION_CODENAME={SUITE}\n" in release.read_text():
        for sources in (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")):
            if sources.exists() and SUITE in sources.read_text():
                return [str(sources)]
    return []
