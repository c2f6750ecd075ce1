"""What of the node the tracer looks at besides the probes: its network namespace, the agent's store, the programs' tables."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

from agent.datapath import abi, maps, syscalls
from agent.datapath.abi import ConntrackFlag, FlowKey, IPAddress
from agent.trace import pods
from agent.trace.filters import Scope
from agent.trace.pods import Pods

STORE = Path("/var/lib/anetd/endpoints.jsonl")
BPFFS = Path("/sys/fs/bpf")


def tables(bpffs: Path = BPFFS) -> Path:
    """Where the agent's tables are pinned."""
    return bpffs / "anetd" / abi.LAYOUT / "maps"


@dataclass(slots=True)
class Node:
    """The pods as last read; `own` is the number of the node's network namespace, which is this process's."""

    store: Path = STORE
    own: int = field(default_factory=lambda: Path("/proc/self/ns/net").stat().st_ino)
    pods: Pods = field(default_factory=Pods)
    _seen: tuple[int, int, int] = (0, 0, 0)

    def refresh(self) -> bool:
        """Read the store again if it has changed; whether it had."""
        try:
            found = self.store.stat()
            seen = (found.st_ino, found.st_size, found.st_mtime_ns)
            if seen == self._seen:
                return False
            self.pods = pods.decode(self.store.read_text("utf-8", "replace"), self.pods)
        except OSError:
            return False
        self._seen = seen
        return True

    def owns(self, netns: int) -> bool:
        """Whether a network namespace is the node's own or a pod's. 0, which is nobody's, counts as its own."""
        return not netns or netns == self.own or netns in self.pods.namespaces

    def scope(self, pod: str) -> Scope:
        """What a pod has on this node; zeros if it is not here."""
        link = self.pods.link_of(pod)
        try:
            ifindex = socket.if_nametoindex(link) if link else 0
        except OSError:
            ifindex = 0
        return Scope(self.pods.netns_of(pod) if pod else 0, ifindex)


class Translations:
    """What the programs on devices made of connections to Services, packet by packet, from their table of connections."""

    def __init__(self, pins: Path) -> None:
        fd = syscalls.obj_get(pins / "conntrack")
        self._table = maps.Table("conntrack", fd, abi.FLOW_KEY, abi.CONNTRACK_ROW) if fd is not None else None

    def close(self) -> None:
        if self._table is not None:
            os.close(self._table.fd)

    def backend(self, protocol: int, client: tuple[IPAddress, int], asked: tuple[IPAddress, int]) -> tuple[IPAddress, int] | None:
        """The backend that the connection's packets go to, None where none was put in the asked address's place."""
        if self._table is None or client[0].version != asked[0].version:
            return None
        for a, b in ((client, asked), (asked, client)):  # which end is `a` is the programs' own business
            row = self._table.get(FlowKey(a[0], a[1], b[0], b[1], protocol))
            if row is not None and row.flags & ConntrackFlag.SERVICE_ROW and row.translated_address is not None:
                return row.translated_address, row.translated_port
        return None
