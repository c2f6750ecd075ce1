"""A question about policies, as it was typed, and its answer. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agent.policy import explanation
from agent.policy.explain import Path, explain
from agent.policy.objects import Objects
from agent.policy.parties import PartyError, parties, targets
from agent.policy.protocols import PORTLESS, PROTOCOLS


@dataclass(frozen=True, slots=True)
class Question:
    """`source`: NS/POD or an address, `destination`: these or NS/SERVICE; `port` "" where the protocol has none."""

    source: str
    destination: str
    protocol: int
    port: str


@dataclass(frozen=True, slots=True)
class Answer:
    """`document` is one of `agent.policy.explanation`, in which the places of its paths are those of `paths`."""

    paths: tuple[Path, ...]
    document: dict[str, Any]


def question(source: str, destination: str, protocol: str, port: str) -> Question:
    """Raises `PartyError`."""
    number = PROTOCOLS.get(protocol.upper())
    if number is None:
        raise PartyError(f"{protocol!r} is no protocol to ask about: there are {', '.join(PROTOCOLS)}")
    if not port and number not in PORTLESS:
        raise PartyError(f"{protocol} needs a port: say --port")
    return Question(source, destination, number, "" if number in PORTLESS else port)


def answer(objects: Objects, asked: Question) -> Answer:
    """One path for each pair of addresses of one IP family, and for each backend of a Service. Raises `PartyError`."""
    sources, ends = parties(objects, asked.source), targets(objects, asked.destination, asked.protocol, asked.port)
    paths = tuple(explain(objects, a, b, asked.protocol) for b in ends for a in sources if a.address.version == b.address.version)
    if not paths:
        raise PartyError(f"{asked.source} and {asked.destination} have no addresses of one IP family")
    return Answer(paths, explanation.document(asked.source, asked.destination, asked.port, paths, objects.problems))
