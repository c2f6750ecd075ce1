"""What this machine remembers of a GKE cluster: where it is, what was asked for, and which operation makes it.

One directory a cluster, `$XDG_STATE_HOME/provisioner/gke/PROJECT/LOCATION/NAME` (0700): `record.json`, the journal and the list of
kubeconfigs. GKE knows all else, so a directory that is lost costs nothing but the operation's name and whether the cluster was made from
here. The record is written before the request is sent: a command killed between the two finds its own cluster again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from provisioner.kubeconfig import write_private


@dataclass(frozen=True, slots=True)
class Record:
    """`requested_at` (seconds since 1970) is set before the request, `operation` when it was accepted; `ours` says that it was by us.

    `identity` is GKE's id of the cluster that was seen; another of the same name has another.
    """

    project: str
    location: str
    name: str
    spec: Mapping[str, Any]
    requested_at: float = 0.0
    operation: str = ""
    identity: str = ""
    ours: bool = False
    verified: Mapping[str, Any] | None = None


def state_root(environment: Mapping[str, str] = os.environ) -> Path:
    base = environment.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "provisioner" / "gke"


def directory(root: Path, project: str, location: str, name: str) -> Path:
    return root / _part(project) / _part(location) / _part(name)


def _part(text: str) -> str:
    """A name as one directory, whatever somebody typed: a project of a domain is written example.com:project, and `..` is nobody's name."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", text)
    return f"_{plain}" if plain.startswith(".") or not plain else plain


def read(root: Path, project: str, location: str, name: str) -> Record | None:
    try:
        return Record(**json.loads((directory(root, project, location, name) / "record.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write(root: Path, record: Record) -> None:
    where = directory(root, record.project, record.location, record.name)
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(where / "record.json", json.dumps(asdict(record), indent=1))


def update(root: Path, record: Record, **changes: Any) -> Record:
    changed = replace(record, **changes)
    write(root, changed)
    return changed


def forget(root: Path, project: str, location: str, name: str) -> None:
    """Remove the directory, and those above it that then hold nothing."""
    where = directory(root, project, location, name)
    shutil.rmtree(where, ignore_errors=True)
    with contextlib.suppress(OSError):
        where.parent.rmdir()
        where.parent.parent.rmdir()


def remembered(root: Path, name: str) -> Sequence[Record]:
    """The records of all clusters of a name, in every project and location."""
    records = []
    for path in sorted(root.glob(f"*/*/{_part(name)}/record.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            records.append(Record(**json.loads(path.read_text(encoding="utf-8"))))
    return records
