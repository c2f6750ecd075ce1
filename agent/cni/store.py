"""What the agent must know after it was killed: every attachment, written down before any link is made.

One file of JSON lines: a line replaces or removes one attachment. A line that says what is about to be done (an intent, a removal)
is synced to the disk before it is done; that something is complete may be lost, for it is found out again. A torn last line
(the machine lost power) is dropped. The file is rewritten whole, by rename, at start and when it has grown.

Invariant: memory never holds what the file does not: when an intent cannot be written the ADD fails. A removal that cannot be
written is done all the same (a full disk must not keep pods from going): the next start finds the namespace gone.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

from agent.cni import portmappings
from agent.cni.portmappings import PortMapping
from agent.cni.protocol import Attachment

Address = IPv4Address | IPv6Address

log = logging.getLogger(__name__)

_REWRITE_AFTER = 2000
"""Superfluous lines (about 600 kB) that are borne before the file is rewritten."""


class State(StrEnum):
    """`INTENT`: links may or may not exist. `READY`: the ADD was complete."""

    INTENT = "intent"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class Record:
    """An attachment and what it holds. `netns_id` is (device, inode) of its namespace, `id` the endpoint's number."""

    attachment: Attachment
    state: State
    addresses: tuple[Address, ...]
    netns: str
    netns_id: tuple[int, int]
    mtu: int
    id: int
    pod: str = ""
    version: str = ""
    port_mappings: tuple[PortMapping, ...] = ()

    def ready(self) -> Record:
        """The same, complete."""
        return replace(self, state=State.READY)


@dataclass(slots=True)
class _Loaded:
    records: dict[Attachment, Record] = field(default_factory=dict)
    released: dict[Address, float] = field(default_factory=dict)
    lines: int = 0


def _encode(record: Record) -> dict[str, Any]:
    return {
        "container": record.attachment.container_id,
        "ifname": record.attachment.ifname,
        "state": record.state.value,
        "addresses": [str(address) for address in record.addresses],
        "netns": record.netns,
        "netnsId": list(record.netns_id),
        "mtu": record.mtu,
        "id": record.id,
        "pod": record.pod,
        "version": record.version,
        **({"portMappings": portmappings.encode(record.port_mappings)} if record.port_mappings else {}),
    }


def _encode_removal(record: Record, at: float) -> dict[str, Any]:
    return {
        "container": record.attachment.container_id,
        "ifname": record.attachment.ifname,
        "state": "removed",
        "addresses": [str(address) for address in record.addresses],
        "at": round(at, 3),
    }


def _decode(row: dict[str, Any]) -> Record:
    device, inode = row["netnsId"]
    return Record(
        attachment=Attachment(row["container"], row["ifname"]),
        state=State(row["state"]),
        addresses=tuple(ip_address(text) for text in row["addresses"]),
        netns=row["netns"],
        netns_id=(int(device), int(inode)),
        mtu=int(row["mtu"]),
        id=int(row["id"]),
        pod=row.get("pod", ""),
        version=row.get("version", ""),
        port_mappings=portmappings.decode(row),
    )


def _load(path: Path) -> _Loaded:
    loaded = _Loaded()
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return loaded
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        loaded.lines += 1
        try:
            row = json.loads(line)
            attachment = Attachment(row["container"], row["ifname"])
            if row.get("state") == "removed":
                loaded.records.pop(attachment, None)
                loaded.released.update((ip_address(text), float(row["at"])) for text in row["addresses"])
            else:
                loaded.records[attachment] = _decode(row)
        except (ValueError, KeyError, TypeError) as error:
            log.warning(
                "a line of the endpoint store cannot be read and is dropped", extra={"path": str(path), "line": number, "error": str(error)}
            )
    return loaded


class Store:
    """The attachments of this node. Methods may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        loaded = _load(path)
        self._records = loaded.records
        self._released = loaded.released
        self._lines = loaded.lines
        self._fd = -1
        self._rewrite()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def get(self, attachment: Attachment) -> Record | None:
        """The record of an attachment."""
        with self._lock:
            return self._records.get(attachment)

    def all(self) -> list[Record]:
        """Every record."""
        with self._lock:
            return list(self._records.values())

    def released(self) -> dict[Address, float]:
        """Addresses that were released before this process began, with the wall-clock time of it."""
        return dict(self._released)

    def put(self, record: Record) -> None:
        """Write a record down; an intent reaches the disk before this returns."""
        with self._lock:
            self._append(_encode(record), sync=record.state is State.INTENT)
            self._records[record.attachment] = record
            self._tidy()

    def remove(self, attachment: Attachment) -> Record | None:
        """Forget an attachment; what it was."""
        with self._lock:
            record = self._records.pop(attachment, None)
            if record is None:
                return None
            try:
                self._append(_encode_removal(record, time.time()), sync=False)
            except OSError as error:
                log.warning("a removal cannot be written down", extra={"path": str(self._path), "error": str(error)})
            self._tidy()
            return record

    def _append(self, row: dict[str, Any], *, sync: bool) -> None:
        line = json.dumps(row, separators=(",", ":")).encode() + b"\n"
        start = os.lseek(self._fd, 0, os.SEEK_END)
        try:
            view = memoryview(line)
            while view:
                view = view[os.write(self._fd, view) :]
            if sync:
                os.fdatasync(self._fd)
        except OSError:
            # A full disk leaves half a line: without this the next line would be glued to it, and both be lost.
            os.ftruncate(self._fd, start)
            raise
        self._lines += 1

    def _tidy(self) -> None:
        if self._lines - len(self._records) > _REWRITE_AFTER:
            try:
                self._rewrite()
            except OSError as error:
                log.warning("the endpoint store cannot be rewritten and grows", extra={"path": str(self._path), "error": str(error)})

    def _rewrite(self) -> None:
        rows = [json.dumps(_encode(record), separators=(",", ":")) for record in self._records.values()]
        write_atomically(self._path, "".join(f"{row}\n" for row in rows).encode(), mode=0o600)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._lines = len(rows)


def write_atomically(path: Path, content: bytes, *, mode: int) -> None:
    """Replace `path` by `content`: whoever reads sees the old or the new, also after a loss of power."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        try:
            os.fchmod(fd, mode)
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def used_ids(records: Iterable[Record]) -> set[int]:
    """Endpoint numbers in use."""
    return {record.id for record in records}
