"""OCI archives: deterministic layers, and the tar file that `ctr images import` takes.

The same input gives the same bytes: names sorted, times zero, owners numeric. Layers stay uncompressed, because an archive is
read from the local disk once a node, and unpacking is what that costs. Nothing here knows what is inside an image.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

_LAYER = "application/vnd.oci.image.layer.v1.tar"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a layer: exactly one of `content`, `source` and `link`, or none of them for a directory."""

    path: str  # without a leading slash
    mode: int = 0o644
    content: bytes | None = None
    source: Path | None = None
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's tar file. Uncompressed, so its digest is the diff id as well."""

    path: Path
    digest: str  # hex SHA-256
    size: int


@dataclass(frozen=True, slots=True)
class Config:
    """What runs when a container of the image starts."""

    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    env: Sequence[str] = ()
    working_dir: str = "/"
    user: str = ""
    labels: dict[str, str] = field(default_factory=dict)


def layer_at(path: Path) -> Layer:
    with path.open("rb") as stream:
        return Layer(path, hashlib.file_digest(stream, "sha256").hexdigest(), path.stat().st_size)


def write_layer(entries: Iterable[Entry], target: Path) -> Layer:
    """Write a layer out of files of our own, with the directories above them."""
    files = {entry.path: entry for entry in entries}
    for path in list(files):
        parents = path.split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            files.setdefault("/".join(parents[:depth]), Entry("/".join(parents[:depth]), 0o755))
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(files):
            _add_entry(tar, files[path])
    return layer_at(target)


def _add_entry(tar: tarfile.TarFile, entry: Entry) -> None:
    info = _plain(tarfile.TarInfo(entry.path))
    info.mode = entry.mode
    if entry.link is not None:
        info.type, info.linkname = tarfile.SYMTYPE, entry.link
        tar.addfile(info)
    elif entry.source is not None:
        info.size = entry.source.stat().st_size
        with entry.source.open("rb") as stream:
            tar.addfile(info, stream)
    elif entry.content is not None:
        info.size = len(entry.content)
        tar.addfile(info, io.BytesIO(entry.content))
    else:
        info.type = tarfile.DIRTYPE
        tar.addfile(info)


def rewrite_layer(source: Path, target: Path, wanted: Callable[[str], bool], extra: Iterable[Entry] = ()) -> Layer:
    """A tar file made by another tool as a deterministic layer: the `wanted` names only, with `extra` files on top.

    Device nodes are left out: the runtime makes /dev. Hard links come last, so that what they point to is there.
    """
    added = {entry.path: entry for entry in extra}
    with tarfile.open(source) as original, tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        members = {}
        for member in original:
            name = member.name.removeprefix("./").strip("/")
            if name and name != "." and wanted(name) and name not in added and not (member.ischr() or member.isblk() or member.isfifo()):
                members[name] = member
        for name in sorted(members, key=lambda name: (members[name].islnk(), name)):
            member = members[name]
            info = _plain(tarfile.TarInfo(name))
            info.mode, info.type, info.uid, info.gid = member.mode, member.type, member.uid, member.gid
            if member.isreg():
                info.size = member.size
                tar.addfile(info, cast("BinaryIO", original.extractfile(member)))
                continue
            info.linkname = member.linkname.removeprefix("./") if member.islnk() else member.linkname
            if member.islnk() and info.linkname not in members:
                continue
            tar.addfile(info)
        for path in sorted(added):
            _add_entry(tar, added[path])
    return layer_at(target)


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
    return info


def image_digest(layers: Sequence[Layer], config: Config, architecture: str) -> str:
    """The digest that names the content of an image: that of its configuration, which has the digests of the layers."""
    return hashlib.sha256(_config_json(layers, config, architecture)).hexdigest()


def write_archive(
    target: Path, name: str, layers: Sequence[Layer], config: Config, architecture: str, also_called: Sequence[str] = ()
) -> None:
    """Write the OCI layout of one image as a tar file; whoever imports it gets it as `name`, and under its other names."""
    configuration = _config_json(layers, config, architecture)
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor(_CONFIG, configuration),
            "layers": [{"mediaType": _LAYER, "digest": f"sha256:{layer.digest}", "size": layer.size} for layer in layers],
        }
    )
    index = {
        "schemaVersion": 2,
        "mediaType": _INDEX,
        "manifests": [
            {
                **_descriptor(_MANIFEST, manifest),
                "platform": {"architecture": architecture, "os": "linux"},
                "annotations": dict.fromkeys(_NAME_ANNOTATIONS, called),
            }
            for called in (name, *also_called)
        ],
    }
    blobs: dict[str, bytes | Layer] = {layer.digest: layer for layer in layers}
    blobs |= {hashlib.sha256(content).hexdigest(): content for content in (configuration, manifest)}
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", _json(index))
        for digest in sorted(blobs):
            _add(tar, f"blobs/sha256/{digest}", blobs[digest])


def _add(tar: tarfile.TarFile, path: str, content: bytes | Layer) -> None:
    info = _plain(tarfile.TarInfo(path))
    info.mode = 0o644
    if isinstance(content, Layer):
        info.size = content.size
        with content.path.open("rb") as stream:
            tar.addfile(info, stream)
    else:
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


def _config_json(layers: Sequence[Layer], config: Config, architecture: str) -> bytes:
    running: dict[str, object] = {"Env": list(config.env), "WorkingDir": config.working_dir}
    running |= {"Entrypoint": list(config.entrypoint)} if config.entrypoint else {}
    running |= {"Cmd": list(config.command)} if config.command else {}
    running |= {"User": config.user} if config.user else {}
    running |= {"Labels": config.labels} if config.labels else {}
    return _json(
        {
            "architecture": architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": running,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}" for layer in layers]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "provisioner"} for _ in layers],
        }
    )


def _descriptor(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": f"sha256:{hashlib.sha256(content).hexdigest()}", "size": len(content)}


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
