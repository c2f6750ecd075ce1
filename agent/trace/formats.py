"""A tracepoint's `format` file: where its fields are, and the names of its numbers. Pure.

The kernel says both itself, so neither is assumed: fields move from version to version, and reasons are added in the middle of their list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_FIELD = re.compile(r"^\s*field:(?P<type>.+?)\s*\b(?P<name>\w+)(?P<array>\[\w*\])?;\s*offset:(?P<offset>\d+);\s*size:(?P<size>\d+);")
_SYMBOLIC = re.compile(r"__print_symbolic\(\s*(?:REC->)?(\w+)\s*,((?:\s*\{[^{}]*\}\s*,?)*)\s*\)")
_PAIR = re.compile(r'\{\s*(0[xX][0-9a-fA-F]+|\d+)\s*,\s*"([^"]*)"\s*\}')


@dataclass(frozen=True, slots=True)
class Field:
    """Where a field is in the record that a probe gets, in bytes."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Format:
    """`names`: of the fields that stand for one of several words, number -> word."""

    name: str
    fields: Mapping[str, Field]
    names: Mapping[str, Mapping[int, str]]


def parse(text: str) -> Format:
    """The format of one tracepoint. Raises `ValueError` if this is none."""
    name = next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("name:")), "")
    fields = {found["name"]: Field(int(found["offset"]), int(found["size"])) for found in map(_FIELD.match, text.splitlines()) if found}
    if not name or not fields:
        raise ValueError("this is not the format of a tracepoint")
    printed = text.partition("print fmt:")[2]
    names = {field: {int(number, 0): word for number, word in _PAIR.findall(pairs)} for field, pairs in _SYMBOLIC.findall(printed)}
    return Format(name, fields, {field: words for field, words in names.items() if words})
