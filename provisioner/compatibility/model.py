"""The vocabulary of the matrix: verdicts, features, rules, findings. Frozen data, and nothing that reads or writes.

A rule is declarative, so that one text of it is judged here, compiled to CEL for the API server, shown in the docs and exported:
it names kinds of documents, where in them to look (`each`), and what has to hold there (`when`, all of it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Dataplane(StrEnum):
    """Whose datapath a verdict is about."""

    GKE = "gke"
    ANETD = "anetd"
    CILIUM = "cilium"


class Verdict(StrEnum):
    """What a dataplane does with a feature."""

    SUPPORTED = "supported"
    OPT_IN = "opt-in"  # it works once it is asked for, or within the limits that the reason names
    UNVETTED = "unvetted"  # accepted today; nobody promises that it works tomorrow
    UNSUPPORTED = "unsupported"
    UNKNOWN = "unknown"  # no source was found that says so or otherwise


class Severity(StrEnum):
    """An error refuses, a warning and a note only tell."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Admission(StrEnum):
    """What the API server does with an object that trips a rule."""

    DENY = "deny"
    WARN = "warn"
    NONE = "none"


SEVERITY_OF: Mapping[Verdict, Severity | None] = {
    Verdict.SUPPORTED: None,
    Verdict.OPT_IN: None,
    Verdict.UNVETTED: Severity.WARNING,
    Verdict.UNSUPPORTED: Severity.ERROR,
    Verdict.UNKNOWN: Severity.NOTE,
}


@dataclass(frozen=True, slots=True)
class Citation:
    """Where a statement was read: a source's title and address, and the place in it (may be empty)."""

    key: str
    title: str
    url: str
    place: str = ""

    def __str__(self) -> str:
        return f"{self.title}{', ' + self.place if self.place else ''} <{self.url}>"


@dataclass(frozen=True, slots=True)
class Cell:
    """One dataplane's verdict on one feature.

    since   the first version of each minor line that has it; empty where every version does, or where nobody says.
    reason  one sentence or more; empty only where the verdict says it all.
    """

    verdict: Verdict
    reason: str
    since: Sequence[str]
    sources: Sequence[Citation]


@dataclass(frozen=True, slots=True)
class Feature:
    """A row of the matrix.

    needs  the words by which `recommend --need` may ask for it, besides the id.
    """

    id: str
    title: str
    area: str
    cells: Mapping[Dataplane, Cell]
    way_out: str
    needs: Sequence[str]

    def cell(self, dataplane: Dataplane) -> Cell:
        return self.cells[dataplane]


@dataclass(frozen=True, slots=True)
class Condition:
    """`op` of conditions.OPERATORS holds for a value at `path` (below the rule's `each`), which may contain [*]."""

    path: str
    op: str
    value: Any


@dataclass(frozen=True, slots=True)
class Rule:
    """What trips a gate.

    kinds      GROUP/Kind, Kind for the core group, GROUP/* for every kind of a group.
    dataplanes those that the rule is about; for each, the severity is `severity` or follows from the feature's verdict there.
    each       places to look at one by one, each on its own; empty is the document itself. `pod` stands for a pod's spec
               wherever the kind keeps it.
    admission  None: a severity of error denies, everything else is not asked at admission.
    defines    whether a CustomResourceDefinition of the kind trips the rule as well.
    """

    id: str
    feature: Feature
    kinds: Sequence[str]
    dataplanes: Sequence[Dataplane]
    each: Sequence[str]
    when: Sequence[Condition]
    severity: Severity | None
    admission: Admission | None
    defines: bool
    own_reason: str
    own_remedy: str
    own_sources: Sequence[Citation]

    def severity_on(self, dataplane: Dataplane) -> Severity | None:
        """None when the rule has nothing to say about the dataplane."""
        if dataplane not in self.dataplanes:
            return None
        return self.severity or SEVERITY_OF[self.feature.cell(dataplane).verdict]

    def admission_on(self, dataplane: Dataplane) -> Admission:
        severity = self.severity_on(dataplane)
        if severity is None:
            return Admission.NONE
        if self.admission is not None:
            return self.admission
        return Admission.DENY if severity is Severity.ERROR else Admission.NONE

    def reason(self, dataplane: Dataplane) -> str:
        return self.own_reason or self.feature.cell(dataplane).reason

    @property
    def remedy(self) -> str:
        return self.own_remedy or self.feature.way_out

    def sources(self, dataplane: Dataplane) -> Sequence[Citation]:
        return self.own_sources or self.feature.cell(dataplane).sources


@dataclass(frozen=True, slots=True)
class Place:
    """Where a document was found. `line` is 1-based, 0 where there are none."""

    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a gate has to say. `allowed` is the reason for which it was let pass, empty when it was not."""

    rule: str
    severity: Severity
    subject: str
    place: Place
    field: str
    reason: str
    remedy: str
    sources: Sequence[str] = ()
    allowed: str = ""

    @property
    def refuses(self) -> bool:
        return self.severity is Severity.ERROR and not self.allowed

    def to_data(self) -> dict[str, Any]:
        """In JSON's types."""
        return {
            "rule": self.rule,
            "severity": self.severity.value,
            "object": self.subject,
            "file": self.place.file,
            "line": self.place.line,
            "field": self.field,
            "reason": self.reason,
            "remedy": self.remedy,
            "sources": list(self.sources),
            "allowed": self.allowed,
        }
