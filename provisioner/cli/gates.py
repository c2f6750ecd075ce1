"""The gates at the command line: print findings, and refuse with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from provisioner import errors
from provisioner.cli.output import note

if TYPE_CHECKING:
    from provisioner.compatibility.model import Finding
    from provisioner.spec import ClusterSpec


def check_spec(spec: ClusterSpec, file: str = "") -> Sequence[Finding]:
    """The gates that a create or deploy goes through before anything is touched. What `spec.allow` names passes."""
    from provisioner.compatibility import allowances, check, matrix
    from provisioner.compatibility.model import Place

    document = spec.to_document()
    found = matrix.load()
    gate = check.Gate(found, check.dataplane_of_spec(document), allowed=allowances.known(spec.allow, found))
    checked = check.Checked()
    check.check_document(document, Place(file), gate, checked)
    return checked.all_findings()


def require(findings: Sequence[Finding], doing: str) -> None:
    """Say what there is to say; raise `errors.RefusedByGate` (exit code 4) with the findings when one of them refuses."""
    refused = [finding for finding in findings if finding.refuses]
    for finding in findings:
        if not finding.refuses:
            note(line(finding))
    if refused:
        first = refused[0]
        told = "".join(f"\n  {line(finding)}" for finding in refused)
        raise errors.RefusedByGate(
            f"{doing} is refused by {len(refused)} of the compatibility gates:{told}",
            remedy=f"Do as each says, or let one pass: --allow {first.rule}='why it may pass'.",
            field=first.field,
            findings=[finding.to_data() for finding in findings],
        )


def line(finding: Finding) -> str:
    """A finding in a sentence or three."""
    where = f"{finding.place}: " if str(finding.place) else ""
    what = f"{finding.subject}: " if finding.subject else ""
    if finding.allowed:
        return f"allowed [{finding.rule}]: {where}{what}{finding.reason} Let pass because: {finding.allowed}"
    return f"{finding.severity} [{finding.rule}]: {where}{what}{finding.reason} {finding.remedy}".rstrip()


def table(findings: Sequence[Finding], objects: int) -> str:
    """What `check` prints for people: each finding with its remedy below, then the sum."""
    counts: Mapping[str, int] = {
        name: sum(finding.severity == name and not finding.allowed for finding in findings) for name in ("error", "warning", "note")
    }
    lines = [text for finding in findings for text in _lines(finding)]
    told = ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items())
    return "\n".join([*lines, f"{objects} object{'' if objects == 1 else 's'} checked: {told}\n"])


def _lines(finding: Finding) -> list[str]:
    head = (finding.severity.upper() if not finding.allowed else "ALLOWED", finding.rule, str(finding.place) or "-", finding.subject or "-")
    way_out = f"Let pass because: {finding.allowed}" if finding.allowed else finding.remedy
    return ["  ".join(head), f"    {finding.reason}", f"    {way_out}", *(f"    source: {source}" for source in finding.sources)]


def data(findings: Sequence[Finding], objects: int, dataplane: str) -> dict[str, Any]:
    """What `check` prints as JSON."""
    return {
        "dataplane": dataplane,
        "objects": objects,
        "refused": any(finding.refuses for finding in findings),
        "findings": [finding.to_data() for finding in findings],
    }
