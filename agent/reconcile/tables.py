"""The five tables of Services as they stand in the kernel and as the current round leaves them. Pure but for its own state.

A group's slots are changed as little as can be: who stays keeps the place, who comes takes the place of one who goes or a new one
at the end, and a place that is left empty is filled from the end. Rows of an earlier process are adopted with their ids.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agent.datapath.abi import Backend, Frontend, FrontendKey, MaglevRow, SlotKey, SourceRange
from agent.reconcile.diff import Step, round_steps
from agent.reconcile.ids import backend_seed, free_number
from agent.reconcile.mirror import Mirror
from agent.services.maglev import populate

K = TypeVar("K")

_SLOT_BITS = 16


class FullError(Exception):
    """A table has no room for `growth` more rows."""

    def __init__(self, table: str, growth: int) -> None:
        super().__init__(table)
        self.table = table
        self.growth = growth


@dataclass(frozen=True, slots=True)
class KernelRows:
    """What an earlier process, or one that failed, left in the tables; of a Maglev row no more than its backends' ids, sorted."""

    frontends: Mapping[FrontendKey, Frontend] = field(default_factory=dict)
    slots: Mapping[SlotKey, int] = field(default_factory=dict)
    backends: Mapping[int, Backend] = field(default_factory=dict)
    maglev: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    source_ranges: Collection[SourceRange] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Rows at most."""

    frontends: int = 65536
    backend_slots: int = 262144
    backends: int = 131072
    maglev: int = 8192
    source_ranges: int = 65536


def _place(group: int, slot: int) -> int:
    """A slot's key in one integer: there are many, and an object each would be half of the agent's memory."""
    return group << _SLOT_BITS | slot


class Tables:
    """Not for two threads at a time."""

    def __init__(self, found: KernelRows, limits: Limits) -> None:
        # A Maglev row follows from its backends: their ids are kept instead of it, a hundredth of its size.
        self.frontends = Mirror("frontends", dict(found.frontends), limits.frontends)
        slots = {_place(key.service_id, key.slot): number for key, number in found.slots.items() if key.slot >> _SLOT_BITS == 0}
        self._slots = Mirror("backend_slots", slots, limits.backend_slots)
        self._backends = Mirror("backends", dict(found.backends), limits.backends)
        self._maglev = Mirror("maglev", dict(found.maglev), limits.maglev)
        self._ranges = Mirror("source_ranges", dict.fromkeys(found.source_ranges, 1), limits.source_ranges)
        self.adopting = bool(slots or found.frontends or found.backends or found.maglev or found.source_ranges)
        """Whether there are rows of an earlier process that were not pruned yet."""
        self._leaving: set[int] = set()
        self._standing_groups = {place >> _SLOT_BITS for place in slots} | {place.service_id for place in found.source_ranges}
        self._standing_groups |= {number for row in found.frontends.values() for number in (row.service_id, row.outside_id)}
        self._standing_groups |= set(found.maglev)

    @property
    def mirrors(self) -> tuple[Mirror[Any, Any], ...]:
        """All five, in the order of writing."""
        return self._backends, self._slots, self._maglev, self._ranges, self.frontends

    @property
    def deletions(self) -> int:
        """Rows that go when the round is closed."""
        return sum(mirror.deletions for mirror in self.mirrors)

    def room(self, table: str) -> int:
        """Rows that may still be added."""
        return next(mirror.limit - mirror.standing for mirror in self.mirrors if mirror.table == table)

    def mark(self) -> None:
        """Begin a change that is made as a whole or not at all."""
        for mirror in self.mirrors:
            mirror.mark()

    def check(self) -> None:
        """Raises `FullError`, with everything undone since `mark`."""
        for mirror in self.mirrors:
            if mirror.standing > mirror.limit:
                after = mirror.standing
                for each in self.mirrors:
                    each.rollback()
                raise FullError(mirror.table, after - mirror.standing)

    def new_group(self, seed: bytes, taken: Collection[int]) -> int:
        """A number for a group that no other has, nor had before this round."""
        return free_number(seed, lambda number: number in taken or number in self._standing_groups)

    def claim(self, groups: Iterable[int]) -> None:
        """These numbers are in use."""
        self._standing_groups.update(groups)
        self._leaving.difference_update(groups)

    def has_backend(self, number: int) -> bool:
        """Whether a backend's row stands in the kernel."""
        return number in self._backends.rows

    def backends(self, group: int) -> tuple[tuple[int, Backend], ...]:
        """A group's backends with their ids, by slot, as the round leaves them."""
        found = []
        for number in self._members(group):
            backend = self._backends.get(number)
            if backend is not None:
                found.append((number, backend))
        return tuple(found)

    def _members(self, group: int) -> list[int]:
        found: list[int] = []
        while (number := self._slots.get(_place(group, len(found)))) is not None:
            found.append(number)
        return found

    def fill(self, group: int, wanted: Iterable[Backend]) -> int:
        """Give a group these backends, of which no two are alike; how many it has."""
        members = self._members(group)
        missing = dict.fromkeys(wanted)
        slots: list[int | None] = []
        for number in members:
            backend = self._backends.get(number)
            if backend is not None and backend in missing:
                del missing[backend]
                slots.append(number)
            else:
                slots.append(None)
        if not missing and None not in slots:
            return len(slots)
        gaps = [slot for slot, number in enumerate(slots) if number is None][::-1]
        for backend in missing:
            number = free_number(backend_seed(group, backend.address, backend.port), self._backends.__contains__)
            self._backends.put(number, backend)
            if gaps:
                slots[gaps.pop()] = number
            else:
                slots.append(number)
        kept = _compacted(slots)
        for slot, number in enumerate(kept):
            self._slots.put(_place(group, slot), number)
        for slot in range(len(kept), len(members)):
            self._slots.drop(_place(group, slot))
        for number in set(members).difference(kept):
            self._backends.drop(number)
        return len(kept)

    def balance(self, group: int, *, wanted: bool) -> bool:
        """Give a group its Maglev row or take it away; whether it has one. Without room for it the choice is left to chance."""
        members = tuple(sorted(self._members(group))) if wanted else ()
        if members and (group in self._maglev or self._maglev.standing < self._maglev.limit):
            self._maglev.put(group, members)
            return True
        self._maglev.drop(group)
        return False

    def guard(self, wanted: Collection[SourceRange], old: Iterable[SourceRange]) -> None:
        """Replace source ranges."""
        for each in wanted:
            self._ranges.put(each, 1)
        for each in old:
            if each not in wanted:
                self._ranges.drop(each)

    def empty(self, group: int) -> None:
        """Take a group away."""
        self.fill(group, ())
        self._maglev.drop(group)
        self._leaving.add(group)

    def prune(self, groups: Collection[int], frontends: Collection[FrontendKey], ranges: Collection[SourceRange]) -> None:
        """Delete what an earlier process left and nobody wants, and what one that was killed between two steps left loose."""
        places: set[int] = set()
        backends: set[int] = set()
        for group in groups:
            members = self._members(group)
            backends.update(members)
            places.update(_place(group, slot) for slot in range(len(members)))
        _keep(self._slots, places)
        _keep(self._backends, backends)
        _keep(self._maglev, groups)
        _keep(self._ranges, ranges)
        _keep(self.frontends, frontends)
        self._leaving |= self._standing_groups.difference(groups)
        self.adopting = False

    def close(self) -> tuple[list[Step], dict[int, Backend]]:
        """End the round: its steps, and the backends that are gone after them."""
        backends, gone = self._backends.close()
        slots, no_slots = self._slots.close()
        maglev, no_maglev = self._maglev.close()
        ranges, no_ranges = self._ranges.close()
        frontends, no_frontends = self.frontends.close()
        self._standing_groups -= self._leaving
        self._leaving.clear()
        backends_now = self._backends.rows
        puts: dict[str, Mapping[Any, Any]] = {
            "backends": backends,
            "backend_slots": {_slot_key(place): number for place, number in slots.items()},
            "maglev": _MaglevRows(
                {group: tuple((number, backends_now[number]) for number in members) for group, members in maglev.items()}
            ),
            "source_ranges": ranges,
            "frontends": frontends,
        }
        deletes: dict[str, tuple[Any, ...]] = {
            "backends": tuple(gone),
            "backend_slots": tuple(map(_slot_key, no_slots)),
            "maglev": tuple(no_maglev),
            "source_ranges": tuple(no_ranges),
            "frontends": tuple(no_frontends),
        }
        return round_steps(puts, deletes), dict(gone)


class _MaglevRows(Mapping[int, MaglevRow]):
    """Rows that are computed when they are written: all at once they would be most of the agent's memory."""

    def __init__(self, groups: Mapping[int, tuple[tuple[int, Backend], ...]]) -> None:
        self._groups = groups

    def __getitem__(self, group: int) -> MaglevRow:
        return populate(self._groups[group])

    def __iter__(self) -> Iterator[int]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)


def _keep(mirror: Mirror[K, Any], wanted: Collection[K]) -> None:
    for key in [key for key in mirror.rows if key not in wanted]:
        mirror.drop(key)


def _compacted(slots: list[int | None]) -> list[int]:
    """Without gaps: each is filled from the end."""
    slots = list(slots)
    for slot in range(len(slots)):
        while slots and slots[-1] is None:
            slots.pop()
        if slot < len(slots) and slots[slot] is None:
            slots[slot] = slots.pop()
    return [number for number in slots if number is not None]


def _slot_key(place: int) -> SlotKey:
    return SlotKey(place >> _SLOT_BITS, place & ((1 << _SLOT_BITS) - 1))
