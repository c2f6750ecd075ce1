"""Steps that lead from what is written to what is wanted, in an order that is right after every single one of them. Pure.

For the tables of Services: backends, slots, Maglev, source ranges, frontends are written (so a count never counts a slot that is not
there, and a slot never names a backend that is not there), then what is no longer wanted is deleted the other way round. For any
other table: everything is added or replaced before anything is deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

SERVICE_TABLES = ("backends", "backend_slots", "maglev", "source_ranges", "frontends")
"""In the order of writing."""


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


def round_steps(puts: Mapping[str, Mapping[Any, Any]], deletes: Mapping[str, tuple[Any, ...]]) -> list[Step]:
    """For the tables of Services, by table."""
    steps: list[Step] = [Put(table, puts[table]) for table in SERVICE_TABLES if puts.get(table)]
    return steps + [Delete(table, deletes[table]) for table in reversed(SERVICE_TABLES) if deletes.get(table)]
