"""One trace: a probe is made, and what it tells becomes JSON lines until whoever asked is gone.

Lines: `ready` first (what the kernel lacks is in it), then `drop` or `connect`, now and then `lost`; at the end `end`. `unsupported`
instead of all of them says what stands in the way. The other end is there as long as standard input brings something now and then: the
end of it, silence, or a line `end` ends the trace, so that nothing is left on the node whatever becomes of the command.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agent.datapath import syscalls
from agent.datapath.abi import IPAddress
from agent.trace import connects, drops, namespaces, probe
from agent.trace.connects import Connect, Outcome
from agent.trace.drops import Drop
from agent.trace.filters import Filter
from agent.trace.node import Node, Translations, tables
from agent.trace.packets import NAMES

Document = dict[str, Any]
SILENCE_SECONDS = 20.0
"""After so long without a word the other side counts as gone."""
_POLL_MS = 50
_LOST_SECONDS = 1.0


class Tracer(Protocol):
    """A kind of trace on a compiled probe."""

    lacks: list[str]
    probe: probe.Probe

    def netns(self, record: bytes) -> int:
        """The network namespace that a record is of."""

    def document(self, record: bytes, node: Node) -> Document:
        """The line that it becomes."""

    def lost(self) -> list[Document]:
        """Lines for what was not told since this was asked last: `count` packets of a `reason` and `ownReason`, or connections."""

    def close(self) -> None: ...


class Drops:
    """Lost packets."""

    def __init__(self, wanted: Filter, node: Node) -> None:
        format_ = probe.format_of(drops.TRACEPOINT)
        offsets = probe.offsets(drops.MEMBERS)
        self._reasons: Mapping[int, str] = format_.names.get("reason", {})
        pin = tables() / "last_drops"
        self._last_drops = syscalls.obj_get(pin)
        self.lacks: list[str] = []
        if not self._reasons:
            self.lacks.append("the kernel tells no reasons: it has them since 5.17")
        if self._last_drops is None:
            self.lacks.append(f"the agent's reasons are not known: {pin} is not there")
        fd = -1 if self._last_drops is None else self._last_drops
        text = _supported(lambda: drops.text(wanted, node.scope(wanted.pod), format_, offsets, fd))
        self.probe = probe.Probe(text, {drops.TRACEPOINT: drops.FUNCTION})

    def netns(self, record: bytes) -> int:
        return namespaces.decode_netns(record)

    def document(self, record: bytes, node: Node) -> Document:
        drop = drops.decode(record)
        return drop_document(drop, node, self._reasons, self.probe.symbol(drop.location))

    def lost(self) -> list[Document]:
        rows = [(*drops.decode_lost(key), count) for key, count in self.probe.take_counts("lost")]
        return [
            {"type": "lost", "reason": drops.reason_name(reason, self._reasons), "ownReason": drops.own_reason_name(own), "count": count}
            for reason, own, count in rows
        ]

    def close(self) -> None:
        self.probe.close()
        if self._last_drops is not None:
            os.close(self._last_drops)


class Connects:
    """Connections."""

    def __init__(self, wanted: Filter, node: Node) -> None:
        formats = {connects.STATE: probe.format_of(connects.STATE)}
        self.lacks: list[str] = []
        try:
            formats |= {name: probe.format_of(name) for name in (connects.ENTER, connects.EXIT)}
        except probe.Unsupported as error:
            self.lacks.append(f"{error}: neither what was asked for nor UDP is seen (CONFIG_FTRACE_SYSCALLS)")
        offsets = probe.offsets(connects.MEMBERS)
        text = _supported(lambda: connects.text(wanted, node.scope(wanted.pod), formats, offsets))
        self.probe = probe.Probe(text, {name: connects.FUNCTIONS[name] for name in formats})
        self._translations = Translations(tables())

    def netns(self, record: bytes) -> int:
        return namespaces.decode_netns(record)

    def document(self, record: bytes, node: Node) -> Document:
        return connect_document(connects.decode(record), node, self._translations)

    def lost(self) -> list[Document]:
        return [{"type": "lost", "reason": "", "ownReason": "", "count": count} for _, count in self.probe.take_counts("lost")]

    def close(self) -> None:
        self.probe.close()
        self._translations.close()


KINDS: Mapping[str, Callable[[Filter, Node], Tracer]] = {"drops": Drops, "connect": Connects}


def _supported(make: Callable[[], str]) -> str:
    try:
        return make()
    except ValueError as error:
        raise probe.Unsupported(str(error)) from error


def drop_document(drop: Drop, node: Node, reasons: Mapping[int, str], function: str) -> Document:
    """`pod`: in whose network namespace, or on the host end of whose device; "" for the node's own."""
    heads = drop.heads
    return {
        "type": "drop",
        "time": wall_time(drop.time),
        "reason": drops.reason_name(drop.reason, reasons),
        "ownReason": drops.own_reason_name(drop.own_reason),
        "program": drops.own_direction_name(drop.own_direction),
        "policySet": drop.policy_set,
        "protocol": heads.protocol,
        "source": _end((heads.source, heads.source_port) if heads.source else None, node),
        "destination": _end((heads.destination, heads.destination_port) if heads.destination else None, node),
        "detail": heads.detail,
        "length": drop.length,
        "device": drop.device,
        "pod": node.pods.namespaces.get(drop.netns) or node.pods.links.get(drop.device, ""),
        "function": function,
    }


def connect_document(connect: Connect, node: Node, translations: Translations) -> Document:
    """`translatedBy`: "socket" or "packets", "" if nothing was put in the asked address's place; `destination` is whom it reaches then."""
    destination, by = connect.destination, ""
    if connect.asked and destination and connect.asked != destination:
        by = "socket"
    elif destination and (backend := translations.backend(connect.protocol, connect.source, destination)):
        destination, by = backend, "packets"
    asked = connect.asked or connect.destination
    return {
        "type": "connect",
        "time": wall_time(connect.time),
        "pod": node.pods.namespaces.get(connect.netns, ""),
        "command": connect.command,
        "process": connect.process,
        "protocol": NAMES.get(connect.protocol, str(connect.protocol)),
        "outcome": Outcome(connect.outcome).name.lower(),
        "error": connect.error_name,
        "errorText": connect.error_text,
        "latencyMs": round(connect.latency / 1e6, 3),
        "source": _end(connect.source, node),
        "asked": _end(asked, node),
        "destination": _end(destination, node),
        "translatedBy": by,
    }


def _end(end: tuple[IPAddress, int] | None, node: Node) -> Document:
    if end is None:
        return {"address": "", "port": 0, "pod": ""}
    return {"address": str(end[0]), "port": end[1], "pod": node.pods.addresses.get(end[0], "")}


def wall_time(monotonic_ns: int) -> str:
    """RFC 3339 in UTC, of a time of CLOCK_MONOTONIC."""
    moment = time.time_ns() - time.monotonic_ns() + monotonic_ns
    return dt.datetime.fromtimestamp(moment // 10**9, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{moment % 10**9:09d}Z"


@dataclass(slots=True)
class Listener:
    """Whether the other side is still there. `begun` once it has said a word; `ended` when it is gone."""

    begun: threading.Event
    ended: threading.Event
    heard: float

    @classmethod
    def on(cls, descriptor: int) -> Listener:
        """Listen on a file descriptor, in a thread."""
        listener = cls(threading.Event(), threading.Event(), time.monotonic())
        threading.Thread(target=listener._listen, args=(descriptor,), name="listener", daemon=True).start()
        return listener

    def _listen(self, descriptor: int) -> None:
        while not self.ended.is_set():
            try:
                data = os.read(descriptor, 4096)
            except OSError:
                data = b""
            self.heard = time.monotonic()
            if not data or b"end" in data:
                self.ended.set()
            self.begun.set()

    def is_there(self) -> bool:
        return not self.ended.is_set() and time.monotonic() - self.heard < SILENCE_SECONDS


def run(kind: str, wanted: Filter, listener: Listener, say: Callable[[list[Document]], None], node: Node | None = None) -> int:
    """Trace until the other side is gone; 0, or 1 where the kernel cannot."""
    node = node or Node()
    node.refresh()
    try:
        tracer = KINDS[kind](wanted, node)
    except probe.Unsupported as error:
        _await(listener)
        say([{"type": "unsupported", "message": str(error)}])
        return 1
    try:
        _await(listener)
        if listener.is_there():
            say([{"type": "ready", "kernel": platform.release(), "lacks": tracer.lacks}])
        _follow(tracer, node, listener, say)
    finally:
        tracer.close()
    return 0


def _await(listener: Listener) -> None:
    """What is said before the other side listens is lost, so it has the first word."""
    listener.begun.wait(SILENCE_SECONDS)


def _follow(tracer: Tracer, node: Node, listener: Listener, say: Callable[[list[Document]], None]) -> None:
    owners = Owners(node, tracer.probe)
    asked = time.monotonic()
    while listener.is_there():
        say(_told(tracer, owners, tracer.probe.poll(_POLL_MS)))
        if time.monotonic() - asked >= _LOST_SECONDS:
            asked = time.monotonic()
            owners.look_again()
            say(tracer.lost())
    say([*_told(tracer, owners, tracer.probe.poll(0)), *tracer.lost(), {"type": "end"}])


def _told(tracer: Tracer, owners: Owners, records: Sequence[bytes]) -> list[Document]:
    return [tracer.document(record, owners.node) for record in records if owners.is_ours(tracer.netns(record))]


class Owners:
    """Which network namespaces are this node's, as the probe is told: of the others it says nothing more.

    On one machine there may be several nodes, and the probe sees the whole kernel.
    """

    def __init__(self, node: Node, probe_: probe.Probe) -> None:
        self.node = node
        self._probe = probe_
        self._known: dict[int, bool] = {}

    def is_ours(self, netns: int) -> bool:
        if netns not in self._known:
            self.look_again()
            self._known[netns] = self.node.owns(netns)
            self._probe.put("namespaces", netns, namespaces.THIS_NODE if self._known[netns] else namespaces.FOREIGN)
        return self._known[netns]

    def look_again(self) -> None:
        """A namespace's number may come to be another's: what the store says now counts."""
        if self.node.refresh():
            for netns, ours in list(self._known.items()):
                if ours != self.node.owns(netns):
                    del self._known[netns]
                    self._probe.delete("namespaces", netns)


def write_lines(documents: list[Document]) -> None:
    """To standard output, at once."""
    if documents:
        sys.stdout.write("".join(f"{json.dumps(document, separators=(',', ':'))}\n" for document in documents))
        sys.stdout.flush()
