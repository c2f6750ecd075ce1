"""Label selectors: whether one holds, and which of many hold for an object's labels. Pure.

What the API says of them: all requirements have to hold; NotIn and DoesNotExist hold where the key is absent; no requirement selects
everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from agent.watch.policy_records import Operator, Requirement, Selector

T = TypeVar("T")
EVERYTHING = Selector()


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Whether a selector selects what has these labels."""
    return all(holds(requirement, labels.get(requirement.key)) for requirement in selector.requirements)


def holds(requirement: Requirement, value: str | None) -> bool:
    """Whether a requirement holds for its key's value; None: the key is absent."""
    operator = requirement.operator
    if operator is Operator.IN:
        return value is not None and value in requirement.values
    if operator is Operator.NOT_IN:
        return value is None or value not in requirement.values
    return (value is not None) == (operator is Operator.EXISTS)


@dataclass(eq=False, slots=True)
class _Entry(Generic[T]):
    selector: Selector
    buckets: list[dict[_Entry[T], None]]
    items: dict[T, None] = field(default_factory=dict)


class SelectorIndex(Generic[T]):
    """Items by selector. An object's labels lead to the few selectors that may hold: one that wants a key to have a value is found below
    the pair, one that wants a key to be there below the key, and only what is content without any is tried every time."""

    def __init__(self) -> None:
        self._entries: dict[Selector, _Entry[T]] = {}
        self._pairs: dict[tuple[str, str], dict[_Entry[T], None]] = {}
        self._keys: dict[str, dict[_Entry[T], None]] = {}
        self._rest: dict[_Entry[T], None] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, selector: Selector, item: T) -> None:
        """Have `match` answer with the item."""
        entry = self._entries.get(selector)
        if entry is None:
            entry = self._entries[selector] = _Entry(selector, self._anchor(selector))
            for bucket in entry.buckets:
                bucket[entry] = None
        entry.items[item] = None

    def discard(self, selector: Selector, item: T) -> None:
        """Forget an item, if it is there."""
        entry = self._entries.get(selector)
        if entry is None:
            return
        entry.items.pop(item, None)
        if not entry.items:
            del self._entries[selector]
            for bucket in entry.buckets:
                bucket.pop(entry, None)

    def match(self, labels: Mapping[str, str]) -> Iterator[T]:
        """The items of all selectors that hold, each once for each of its selectors."""
        for key, value in labels.items():
            for buckets in (self._pairs.get((key, value)), self._keys.get(key)):
                for entry in buckets or ():
                    if matches(entry.selector, labels):
                        yield from entry.items
        for entry in self._rest:
            if matches(entry.selector, labels):
                yield from entry.items

    def _anchor(self, selector: Selector) -> list[dict[_Entry[T], None]]:
        """Where the entry is looked for: below the requirement that is the least common so far."""
        choices = [
            [self._pairs.setdefault((requirement.key, value), {}) for value in requirement.values]
            for requirement in selector.requirements
            if requirement.operator is Operator.IN
        ]
        choices += [[self._keys.setdefault(r.key, {})] for r in selector.requirements if r.operator is Operator.EXISTS]
        return min(choices, key=lambda buckets: sum(map(len, buckets))) if choices else [self._rest]
