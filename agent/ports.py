"""What the agent's parts use of the datapath, so that tests may stand in for the kernel. Types only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from agent.cni.commands import PodDatapath
from agent.datapath.abi import DropCount, DropKey
from agent.datapath.programs import DatapathConfig


class Table(Protocol):
    """What the agent does with a table that it keeps as it wants it."""

    def items(self) -> Iterator[tuple[Any, Any]]: ...
    def put_many(self, rows: Mapping[Any, Any], /) -> None: ...
    def delete_many(self, keys: Iterable[Any], /) -> int: ...


class Drops(Protocol):
    """The drop counters."""

    def items(self) -> Iterator[tuple[DropKey, DropCount]]: ...


class AgentDatapath(PodDatapath, Protocol):
    """What of `agent.datapath.programs.Datapath` the agent uses."""

    @property
    def routes(self) -> Table: ...
    @property
    def frontends(self) -> Table: ...
    @property
    def backend_slots(self) -> Table: ...
    @property
    def backends(self) -> Table: ...
    @property
    def drops(self) -> Drops: ...
    def attach_device(self) -> None: ...
    def attach_overlay(self) -> None: ...
    def collect_garbage(self) -> int: ...
    def settle(self) -> int: ...
    def close(self) -> None: ...


OpenDatapath = Callable[[DatapathConfig, Path, Path], AgentDatapath]
