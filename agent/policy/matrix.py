"""Who may reach whom: workloads by workloads, with the policies that decide. Pure.

    {"namespaces": ["a", ...],            the ones that were asked for; [] for all
     "ports": ["TCP 80", ...],            likewise
     "workloads": [{"namespace": "a", "kind": "Deployment", "name": "web", "pods": 3}, ...],
     "verdicts": [{"verdict": "allowed" | "denied" | "partly" | "mixed" | "none",
                   "ports": ["TCP 80", "UDP 53-60"] | ["everything"] | [],
                   "egress": HALF, "ingress": HALF}, ...],
     "cells": [[0, 1, ...], ...]}         places in `verdicts`: a row for each workload as the source, in it each as the destination

    HALF  {"isolated": bool, "policies": ["a/one", ...],
           "rules": [{"policy": "a/one", "index": 0, "ports": ["TCP 80"]}, ...]}

Of "partly" some of the ports that were asked for are allowed, namely `ports`. "mixed" says that pods of the two workloads differ in what
they may; `ports` are then those that all may, and the halves are of all of them together. "none": there are no two pods to ask about, as
from a single pod to itself, or from IPv4 to IPv6. Pods on the host's network and pods that have ended are left out. A rule's `ports` are
what it lets these pods do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from agent.datapath.abi import IPAddress
from agent.datapath.policy_rows import CLASS_ANY, PREFIX_ANY, Direction, PolicyKey, PolicyRow
from agent.policy import words
from agent.policy.compiler import Compiler
from agent.policy.inputs import Changes, Limits
from agent.policy.objects import Objects, is_peer
from agent.policy.portprefix import SPAN_BITS
from agent.policy.terms import RuleRef
from agent.watch.policy_records import Pod
from agent.watch.records import Key

Interval = tuple[int, int]
"""First and last of what a lookup may ask for: protocol << 16 | port."""
Workload = tuple[str, str, str]
EVERYTHING: tuple[Interval, ...] = ((0, (1 << SPAN_BITS) - 1),)
_NO_LIMITS = Limits(*(1 << 31,) * 3)


@dataclass(frozen=True, slots=True)
class _Shape:
    """Pods with the same are the same to every policy: sets, and the class of each address family."""

    sets: tuple[int, int]
    classes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _Half:
    """What one end's policies allow, and by which rules."""

    isolated: bool
    allowed: tuple[Interval, ...]
    policies: tuple[Key, ...] = ()
    rules: tuple[tuple[RuleRef, tuple[Interval, ...]], ...] = ()


@dataclass(slots=True)
class _Tables:
    """`rows` by set and class."""

    compiler: Compiler
    rows: dict[tuple[int, int], list[tuple[Interval, PolicyRow]]] = field(default_factory=dict)
    halves: dict[tuple[int, int], _Half] = field(default_factory=dict)

    def half(self, number: int, peer_class: int) -> _Half:
        found = self.halves.get((number, peer_class))
        if found is None:
            found = self.halves[number, peer_class] = self._half(number, peer_class)
        return found

    def _half(self, number: int, peer_class: int) -> _Half:
        if not number:
            return _Half(isolated=False, allowed=EVERYTHING)
        rows = [*self.rows.get((number, peer_class), ()), *self.rows.get((number, CLASS_ANY), ())]
        rules: dict[RuleRef, list[Interval]] = {}
        for interval, row in rows:
            for ref in self.compiler.rule(row.rule):
                rules.setdefault(ref, []).append(interval)
        joined = tuple((ref, join(parts)) for ref, parts in sorted(rules.items(), key=lambda item: str(item[0])))
        return _Half(True, join(interval for interval, _ in rows), self.compiler.policies_in(number), joined)


def matrix(objects: Objects, namespaces: Collection[str] = (), ports: Sequence[tuple[int, int]] = ()) -> dict[str, Any]:
    """`ports`: protocol and port of each that is asked for; none: all."""
    asked = join((p << 16 | n, p << 16 | n) for p, n in ports) if ports else EVERYTHING
    pods = {k: p for k, p in objects.pods.items() if is_peer(p) and p.addresses and (not namespaces or k.namespace in namespaces)}
    tables = _compile(objects, pods)
    shapes: dict[Workload, dict[_Shape, int]] = {}
    for key, pod in pods.items():
        of = shapes.setdefault((key.namespace, *pod.workload), {})
        shape = _shape(tables.compiler, key, pod)
        of[shape] = of.get(shape, 0) + 1
    workloads = sorted(shapes)
    verdicts: list[dict[str, Any]] = []
    places: dict[Any, int] = {}
    cells = []
    for source in workloads:
        row = []
        for destination in workloads:
            pairs = _pairs(shapes[source], shapes[destination], is_same=source == destination)
            place = places.get(pairs)
            if place is None:
                place = places[pairs] = len(verdicts)
                verdicts.append(_verdict(tables, pairs, asked))
            row.append(place)
        cells.append(row)
    return {
        "namespaces": sorted(namespaces),
        "ports": [words.interval(p << 16 | n, p << 16 | n) for p, n in ports],
        "workloads": [{"namespace": w[0], "kind": w[1], "name": w[2], "pods": sum(shapes[w].values())} for w in workloads],
        "verdicts": verdicts,
        "cells": cells,
    }


def join(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """The same, in order, and what touches made one."""
    found: list[Interval] = []
    for first, last in sorted(intervals):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return tuple(found)


def meet(one: Sequence[Interval], other: Sequence[Interval]) -> tuple[Interval, ...]:
    """What is in both."""
    parts = ((max(a, c), min(b, d)) for a, b in one for c, d in other)
    return join((first, last) for first, last in parts if first <= last)


def _compile(objects: Objects, pods: Mapping[Key, Pod]) -> _Tables:
    """As if all of them were on one node."""
    namespaces = {key.namespace for key in pods}
    policies = {key: each for key, each in objects.policies.items() if key.namespace in namespaces}
    compiler = Compiler(_NO_LIMITS)
    endpoints: dict[Key, tuple[IPAddress, ...]] = {key: pod.addresses for key, pod in pods.items()}
    rows = compiler.apply(Changes(pods, {n: objects.namespaces[n] for n in namespaces if n in objects.namespaces}, policies, endpoints))
    tables = _Tables(compiler)
    for key, row in rows.puts["policies"].items():
        tables.rows.setdefault((key.set, key.peer_class), []).append((_interval(key), row))
    return tables


def _interval(key: PolicyKey) -> Interval:
    first = key.protocol << 16 | key.port
    return first, first + (1 << (SPAN_BITS - (key.prefix - PREFIX_ANY))) - 1


def _shape(compiler: Compiler, key: Key, pod: Pod) -> _Shape:
    row = compiler.set_of(key)
    sets = (row.ingress_set, row.egress_set) if row is not None else (0, 0)
    return _Shape(sets, tuple(sorted({(address.version, compiler.class_of(address)) for address in pod.addresses})))


_Pair = tuple[int, int, int, int]
"""The source's egress set, the destination's class, the destination's ingress set, the source's class."""


def _pairs(sources: Mapping[_Shape, int], destinations: Mapping[_Shape, int], *, is_same: bool) -> frozenset[_Pair]:
    """What differs to policies among pods of two workloads."""
    return frozenset(
        (source.sets[Direction.EGRESS], to, destination.sets[Direction.INGRESS], of)
        for source, count in sources.items()
        for destination in destinations
        if not (is_same and source == destination and count == 1)
        for version, of in source.classes
        for other, to in destination.classes
        if version == other
    )


def _verdict(tables: _Tables, pairs: frozenset[_Pair], asked: tuple[Interval, ...]) -> dict[str, Any]:
    egress = [tables.half(sends, to) for sends, to, _, _ in sorted(pairs)]
    ingress = [tables.half(takes, of) for _, _, takes, of in sorted(pairs)]
    answers = {meet(meet(one.allowed, other.allowed), asked) for one, other in zip(egress, ingress, strict=True)}
    common = reduce(meet, answers, asked) if answers else ()
    if not answers:
        verdict = "none"
    elif len(answers) > 1:
        verdict = "mixed"
    else:
        verdict = "allowed" if common == asked else "partly" if common else "denied"
    return {"verdict": verdict, "ports": _words(common), "egress": _merged(egress, asked), "ingress": _merged(ingress, asked)}


def _merged(halves: Sequence[_Half], asked: tuple[Interval, ...]) -> dict[str, Any]:
    rules: dict[RuleRef, list[Interval]] = {}
    for half in dict.fromkeys(halves):
        for ref, intervals in half.rules:
            rules.setdefault(ref, []).extend(meet(intervals, asked))
    return {
        "isolated": any(half.isolated for half in halves),
        "policies": sorted({str(policy) for half in halves for policy in half.policies}),
        "rules": [
            {"policy": str(ref.policy), "index": ref.index, "ports": _words(join(intervals))}
            for ref, intervals in sorted(rules.items(), key=lambda item: str(item[0]))
            if intervals
        ],
    }


def _words(intervals: Iterable[Interval]) -> list[str]:
    return [words.interval(first, last) for first, last in _by_protocol(intervals)]


def _by_protocol(intervals: Iterable[Interval]) -> Iterable[Interval]:
    """An interval that is more than a protocol is everything, or protocols side by side."""
    for first, last in intervals:
        if (first, last) == EVERYTHING[0]:
            yield first, last
            continue
        for protocol in range(first >> 16, (last >> 16) + 1):
            yield max(first, protocol << 16), min(last, (protocol << 16) + 0xFFFF)


_MARKS = {"allowed": "+", "denied": "-", "partly": "~", "mixed": "?", "none": " "}


def text(found: Mapping[str, Any]) -> str:
    """A matrix for people."""
    workloads = [f"{w['namespace']}/{w['name']} ({w['kind']})" for w in found["workloads"]]
    width = max(map(len, workloads), default=0)
    lines = ["from \\ to".ljust(width + 4) + " " + " ".join(f"{n:>3}" for n in range(1, len(workloads) + 1))]
    for number, (name, row) in enumerate(zip(workloads, found["cells"], strict=True), 1):
        marks = " ".join(f"{_MARKS[found['verdicts'][place]['verdict']]:>3}" for place in row)
        lines.append(f"{number:>3} {name.ljust(width)} {marks}")
    lines.append("+ allowed  - denied  ~ some ports  ? pods differ")
    return "\n".join(lines) + "\n"
