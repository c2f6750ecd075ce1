"""The changes that lead from what is written to what is wanted, in an order that is right after every single step. Pure.

Order for services: backends, slots, frontends are written (so a count never counts a slot that is not there, and a slot never names
a backend that is not there), then frontends, slots, backends that are no longer wanted are deleted. For any other
table: everything is added or replaced before anything is deleted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from agent.services.rows import Rows

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Put(Generic[K, V]):
    """Add or replace rows of a table."""

    table: str
    rows: Mapping[K, V]


@dataclass(frozen=True, slots=True)
class Delete(Generic[K]):
    """Delete rows of a table."""

    table: str
    keys: tuple[K, ...]


Step = Put[Any, Any] | Delete[Any]


def put(table: str, desired: Mapping[K, V], written: Mapping[K, V]) -> list[Step]:
    """What is new or differs."""
    rows = {key: row for key, row in desired.items() if written.get(key) != row}
    return [Put(table, rows)] if rows else []


def delete(table: str, desired: Mapping[K, V], written: Mapping[K, V]) -> list[Step]:
    """What is no longer wanted."""
    keys = tuple(key for key in written if key not in desired)
    return [Delete(table, keys)] if keys else []


def table_steps(table: str, desired: Mapping[K, V], written: Mapping[K, V]) -> list[Step]:
    """For a table that stands alone."""
    return put(table, desired, written) + delete(table, desired, written)


def service_steps(desired: Rows, written: Rows) -> Sequence[Step]:
    """For the three tables of services."""
    return (
        *put("backends", desired.backends, written.backends),
        *put("backend_slots", desired.slots, written.slots),
        *put("frontends", desired.frontends, written.frontends),
        *delete("frontends", desired.frontends, written.frontends),
        *delete("backend_slots", desired.slots, written.slots),
        *delete("backends", desired.backends, written.backends),
    )
