"""Frontends -> rows of the tables `frontends`, `backend_slots` and `backends`. Pure.

Numbers: what is written keeps its service and backend ids (rows of conntrack refer to them, also over a restart); what is new gets
one that follows from its content, moved on while it is taken. Invariant: no number that stands in `written` is given to something
else, so a packet that still sees the old rows never meets a stranger behind an old number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from agent.datapath.abi import Backend, Frontend, FrontendKey, SlotKey, pack_address
from agent.services.frontends import Resolved

T = TypeVar("T")

_IDS = 1 << 32
MAX_BACKENDS = (1 << 16) - 1
"""Slots of one frontend: its count has 16 bits."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The three tables."""

    frontends: Mapping[FrontendKey, Frontend] = field(default_factory=dict)
    slots: Mapping[SlotKey, int] = field(default_factory=dict)
    backends: Mapping[int, Backend] = field(default_factory=dict)


def desired_rows(resolved: Mapping[FrontendKey, Resolved], written: Rows) -> Rows:
    """The rows for `resolved`, given what stands in the tables now."""
    service_ids = _number(
        sorted(resolved, key=_frontend_seed), {key: row.service_id for key, row in written.frontends.items()}, _frontend_seed
    )
    wanted = {backend for each in resolved.values() for backend in each.backends}
    backend_ids = _number(sorted(wanted, key=_backend_seed), {row: number for number, row in written.backends.items()}, _backend_seed)
    frontends: dict[FrontendKey, Frontend] = {}
    slots: dict[SlotKey, int] = {}
    for key, each in resolved.items():
        number = service_ids[key]
        ends = each.backends[:MAX_BACKENDS]
        frontends[key] = Frontend(number, len(ends))
        slots.update((SlotKey(number, slot), backend_ids[backend]) for slot, backend in enumerate(ends))
    return Rows(frontends, slots, {backend_ids[backend]: backend for backend in wanted})


def _frontend_seed(key: FrontendKey) -> bytes:
    return pack_address(key.address) + key.port.to_bytes(2, "big") + bytes((key.protocol,))


def _backend_seed(row: Backend) -> bytes:
    return pack_address(row.address) + row.port.to_bytes(2, "big") + bytes((row.protocol,))


def _number(wanted: Iterable[T], known: Mapping[T, int], seed: Callable[[T], bytes]) -> dict[T, int]:
    taken = set(known.values()) | {0}
    numbers = {}
    for item in wanted:
        number = known.get(item)
        if number is None:
            number = int.from_bytes(hashlib.sha256(seed(item)).digest()[:4], "big")
            while number in taken:
                number = (number + 1) % _IDS
            taken.add(number)
        numbers[item] = number
    return numbers
