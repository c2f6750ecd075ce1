"""Protocols and ports as prefixes, the way the table `policies` is looked up. Pure.

A span is (length, value): the first `length` of 32 bits, protocol before port; the rest of `value` is 0. Length 0 is everything, 16 all
of a protocol, 32 one port.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Span = tuple[int, int]

ALL: Span = (0, 0)
PROTOCOL_BITS, SPAN_BITS = 16, 32
HIGHEST_PORT = 65535


def whole_protocol(protocol: int) -> Span:
    return PROTOCOL_BITS, protocol << 16


def one_port(protocol: int, port: int) -> Span:
    return SPAN_BITS, protocol << 16 | port


def port_range(protocol: int, first: int, last: int) -> Iterator[Span]:
    """The fewest prefixes that are the ports from `first` to `last`, in order."""
    while first <= last:
        size = first & -first or 1 << 16
        while size > last - first + 1:
            size >>= 1
        yield SPAN_BITS - size.bit_length() + 1, protocol << 16 | first
        first += size


def cut(value: int, length: int) -> int:
    """The first bits of a value, the others 0."""
    return value >> (SPAN_BITS - length) << (SPAN_BITS - length)


def covers(outer: Span, inner: Span) -> bool:
    """Whether a span is a part of another, or the same."""
    return outer[0] <= inner[0] and cut(inner[1], outer[0]) == outer[1]


def covering(span: Span, lengths: Iterable[int]) -> Iterator[Span]:
    """The spans of these lengths (ascending) that cover one, itself included if its length is among them."""
    for length in lengths:
        if length > span[0]:
            return
        yield length, cut(span[1], length)
