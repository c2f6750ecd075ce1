"""Whether a create has nothing to do: the same inputs as last time, and everything that they led to is there and well.

The inputs (this program's files, the programs that were given) are told apart by names, sizes and times. When they differ, or
anything is amiss, the create's steps run as ever: they observe and repair. So this only spares work, and is never trusted to
find out what is wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from provisioner.providers.local import api, dns, networks, pki
from provisioner.providers.local.layout import PKI_DIR, Layout
from provisioner.version import __version__

_SOURCES = Path(__file__).resolve().parents[3]
_TREES = ("provisioner", "agent", "templates")


def fingerprint(bin_dir: Path | None) -> str:
    """Of everything that programs, images and manifests are made from."""
    digest = hashlib.sha256(__version__.encode())
    for path in [*_files(), *(sorted(bin_dir.iterdir()) if bin_dir else ())]:
        found = path.stat()
        digest.update(f"\0{path}\0{found.st_size}\0{found.st_mtime_ns}".encode())
    return digest.hexdigest()


def _files() -> Iterator[Path]:
    for name in _TREES:
        for path in sorted((_SOURCES / name).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def is_well(layout: Layout, nodes: Sequence[str], pids: Sequence[int], admin: api.Api, dns_server: str) -> bool:
    """Links, certificates, nodes, agents and DNS. `pids` are the nodes' members."""
    if not networks.is_complete(layout) or any(pki.is_near_expiry(path.read_bytes()) for path in _certificates(layout)):
        return False
    if not (admin.is_ready() and admin.has_bindings()):
        return False
    ready = admin.ready_nodes()
    agents = admin.running_since("kube-system", "app=anetd")
    return all(name in ready and name in agents for name in nodes) and dns.answers_from_a_pod(pids, dns_server, dns.KUBERNETES)


def _certificates(layout: Layout) -> Iterator[Path]:
    yield from layout.pki_dir.glob("*.crt")
    yield from (layout.state_dir / "members").glob(f"*/root{PKI_DIR}/*.crt")
