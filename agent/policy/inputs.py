"""What the compiler is told, and what it answers with: the two ends of its only method. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.datapath.abi import IPAddress
from agent.watch.policy_records import Logging, Namespace, NetworkPolicy, Pod
from agent.watch.records import Key

POLICY_TABLES = ("policies", "classes", "isolation")
"""In the order of writing; deletions go the other way round."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What is new, changed, or (None) gone. `endpoints`: the addresses of this node's own pods as CNI gave them, which may be known before
    or without the Pod: one that is not known is closed, and one whose Pod is gone has the policies that it had. Only pods in it are
    isolated here. `logging` None: as before."""

    pods: Mapping[Key, Pod | None] = field(default_factory=dict)
    namespaces: Mapping[str, Namespace | None] = field(default_factory=dict)
    policies: Mapping[Key, NetworkPolicy | None] = field(default_factory=dict)
    endpoints: Mapping[Key, tuple[IPAddress, ...] | None] = field(default_factory=dict)
    logging: Logging | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """Changes of the tables by name: to be written in the order of POLICY_TABLES, then deleted the other way round. After any prefix of
    that walk every verdict is one that the rows before or after the round give (if the round is of several changes: one that some of them
    give). Both are to be walked in their order. A row may be in both: it is needed on the way."""

    puts: Mapping[str, Mapping[Any, Any]] = field(default_factory=dict)
    deletes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(self.puts.values()) or any(self.deletes.values())


@dataclass(frozen=True, slots=True)
class Limits:
    """Rows at most: of `policies` for one set and altogether, and of `classes`. A part of the maps' sizes, as old and new rows stand side
    by side for a moment."""

    set_rows: int = 16_384
    policies: int = 196_608
    classes: int = 98_304

    @property
    def networks(self) -> int:
        """Of the classes those for networks of ipBlocks; the rest is for addresses of pods."""
        return self.classes // 4

    @property
    def peers(self) -> int:
        """Addresses of pods."""
        return self.classes - self.networks


@dataclass(frozen=True, slots=True)
class Trouble:
    """A policy that does not fit: its pods are closed in that direction, since their rows would be too many. `pods` are this node's."""

    policy: Key
    uid: str
    pods: tuple[Key, ...]
    message: str
