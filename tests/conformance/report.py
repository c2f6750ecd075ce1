"""What a run of upstream's specs found, and docs/conformance.md out of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_FAILED = frozenset({"failed", "panicked", "timedout", "interrupted", "aborted"})
_TAGS = re.compile(r"\s*\[(?:sig-network|Conformance|NodeConformance|LinuxOnly|Feature:NetworkPolicy)\]")
# Sections of the page: title, and what of a spec's text puts it there; the last takes what is left.
_SECTIONS = (("Conformance", r"\[Conformance\]"), ("NetworkPolicy", r"\] Netpol "), ("Others", ""))


@dataclass(frozen=True)
class Spec:
    """One spec that was selected: its full text, how it ended ("passed", "failed", "skipped"), its seconds, and its words if it did not pass."""

    text: str
    state: str
    seconds: float
    message: str = ""

    @property
    def short(self) -> str:
        """The text without the tags that all of them have."""
        return _TAGS.sub("", self.text).strip()


def specs(document: Sequence[dict[str, Any]]) -> list[Spec]:
    """The selected specs of a Ginkgo JSON report, in the order of their texts.

    A spec that was filtered out is "skipped" without a reason there; one that skipped itself gives one.
    """
    found = []
    for suite in document:
        for spec in suite["SpecReports"] or []:
            message = spec.get("Failure", {}).get("Message", "")
            state = "failed" if spec["State"] in _FAILED else spec["State"]
            if spec["LeafNodeType"] == "It" and state != "pending" and (state != "skipped" or message):
                text = " ".join([*(spec["ContainerHierarchyTexts"] or []), spec["LeafNodeText"]])
                found.append(Spec(text, state, spec["RunTime"] / 1e9, message))
            elif spec["LeafNodeType"] != "It" and state == "failed":  # the suite's own preparation: without it no spec has run
                found.append(Spec(f"({spec['LeafNodeType']})", state, spec["RunTime"] / 1e9, message))
    return sorted(found, key=lambda spec: spec.text)


def count(found: Sequence[Spec]) -> dict[str, int]:
    return {state: sum(spec.state == state for spec in found) for state in ("passed", "failed", "skipped")}


def summary(found: Sequence[Spec]) -> Iterator[str]:
    """For the terminal: what did not pass, with its first line, and the counts."""
    for spec in found:
        if spec.state != "passed":
            yield f"{spec.state}: {spec.text}\n    {spec.message.strip().splitlines()[0] if spec.message.strip() else ''}"
    yield ", ".join(f"{number} {state}" for state, number in count(found).items())


def page(found: Sequence[Spec], facts: dict[str, str]) -> Iterator[str]:
    """docs/conformance.md, line by line. `facts` are shown as they are: what was run, on what."""
    yield "# Conformance"
    yield ""
    yield (
        "Made by `make conformance`: Kubernetes' own end-to-end test program, built from the module of the pinned version, with the specs "
        "of sig-network that are marked [Conformance] and its suite for NetworkPolicies, Netpol, on a local cluster that the run makes and "
        "deletes. The reports in JUnit's and Ginkgo's formats are kept in `build/conformance/`."
    )
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield from (f"| {name} | {value} |" for name, value in facts.items())
    yield f"| result | {_counted(found)} |"
    left = list(found)
    for title, pattern in _SECTIONS:
        own = [spec for spec in left if re.search(pattern, spec.text)]
        left = [spec for spec in left if spec not in own]
        if own:
            yield from ("", f"## {title}", "", f"{_counted(own)}.", "", "| spec | result | seconds |", "|---|---|---|")
            yield from (_row(spec) for spec in own)


def _counted(found: Sequence[Spec]) -> str:
    numbers = count(found)
    return f"**{numbers['passed']} of {len(found)} passed**, {numbers['failed']} failed, {numbers['skipped']} skipped"


def _row(spec: Spec) -> str:
    return f"| {spec.short.replace('|', '&#124;')} | {spec.state if spec.state == 'passed' else f'**{spec.state}**'} | {spec.seconds:.1f} |"
