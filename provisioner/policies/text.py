"""The compiler's answers for people at a terminal. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Answer = Mapping[str, Any]
_WIDTH = 118
_SHOWN = 3
_SHOWN_CHANGES = 5
_SIDES = ("egress", "ingress")


def explanation(answer: Answer) -> str:
    """What `policy explain` prints: the verdict, then each way that a packet may go, with who decides on either side."""
    groups: dict[str, list[Answer]] = {}
    for path in answer["paths"]:
        groups.setdefault(_signature(path), []).append(path)
    mixed = ": it depends on the backend or the IP family" if answer["verdict"] == "mixed" else ""
    at = f"{answer['port']}/{answer['protocol']}".removeprefix("/")
    lines = [f"{answer['verdict'].upper()}  {answer['from']} -> {answer['to']}, {at}{mixed}"]
    for group in groups.values():
        lines += ["", *_group(group, str(answer["protocol"]))]
    return "\n".join(lines) + "\n"


def _signature(path: Answer) -> str:
    """Ways that are judged by the same rules for the same reasons are told once."""
    ends = {path[end]["pod"] or path[end]["address"] for end in ("source", "destination")}
    sides = [{**path[name], "kernel": [path[name].get("kernel", {}).get(key) for key in ("state", "words")]} for name in _SIDES]
    text = repr((path["verdict"], path["destination"]["port"], sides))
    for end in sorted(ends, key=len, reverse=True):
        text = text.replace(str(end), "")
    return text


def _group(group: Sequence[Answer], protocol: str) -> Iterator[str]:
    first = group[0]
    sources, targets = (_ends([path[end] for path in group]) for end in ("source", "destination"))
    port = f"{first['destination']['port'] or ''}/{protocol}".removeprefix("/")
    yield from _wrapped(f"{_some(sources)} -> {_some(targets)}, {port}: {first['verdict']}", "  ")
    for name in _SIDES:
        yield from _side(name, first[name])


def _ends(ends: Sequence[Answer]) -> list[str]:
    """Each pod with its addresses, each address that is no pod's with its node."""
    found: dict[str, list[str]] = {}
    for end in ends:
        of = end["pod"] or (f"node {end['node']}" if end["node"] else "")
        found.setdefault(of, []).append(end["address"])
    texts = []
    for name, addresses in found.items():
        own = list(dict.fromkeys(addresses))
        texts += [f"{name} ({', '.join(own)})"] if name else own
    return texts


def _some(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more


def _side(name: str, side: Answer) -> Iterator[str]:
    head = f"    {name:<8} {'allowed' if side['allowed'] else 'denied':<8} "
    margin = " " * len(head)
    yield from _wrapped(side["why"], head)
    for rule in side["rules"]:
        yield from _wrapped(f"{rule['policy']}, {name}[{rule['index']}]: {rule['words']}", margin)
    if side["changes"]:
        yield from _wrapped("To allow it, one of these would have to change:", margin)
        for change in side["changes"][:_SHOWN_CHANGES]:
            yield from _wrapped(f"- {change['words']}", margin)
        left = len(side["changes"]) - _SHOWN_CHANGES
        if left > 0:
            yield from _wrapped(f"- {left} other{'s' if left > 1 else ''}, further from it; --output json has them all", margin)
    if side.get("kernel"):
        yield from _wrapped(f"the kernel of {side['kernel']['node']} {side['kernel']['words']}", margin)


def _wrapped(text: str, head: str) -> Iterable[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_long_words=False, break_on_hyphens=False
    )


MARKS = {"allowed": "+", "partly": "o", "denied": "-", "mixed": "?", "none": " "}
"""In the matrix's table; the legend says what they mean. "none": there are no two pods to ask about."""


def matrix(answer: Answer) -> str:
    """What `policy matrix` prints: a row for who asks, a column for who is asked; columns have numbers, since names would not fit."""
    workloads = answer["workloads"]
    if not workloads:
        return "There are no pods.\n"
    labels = [f"{workload['namespace']}/{workload['name']}" for workload in workloads]
    width = max(len(label) for label in labels)
    digits = len(str(len(workloads)))
    head = " " * (width + digits + 3) + " ".join(str(number).rjust(digits) for number in range(1, len(workloads) + 1))
    lines = [head]
    for number, (label, row) in enumerate(zip(labels, answer["cells"], strict=True), 1):
        marks = " ".join(MARKS[answer["verdicts"][index]["verdict"]].rjust(digits) for index in row)
        lines.append(f"{str(number).rjust(digits)}  {label.ljust(width)} {marks}")
    lines += ["", "Rows ask, columns are asked.  + every port   o some ports   - nothing   ? pods of the workload differ"]
    return "\n".join(lines) + "\n"
