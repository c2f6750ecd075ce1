"""Findings for other programs: SARIF 2.1.0 and JUnit XML. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from provisioner.compatibility.matrix import Matrix
from provisioner.compatibility.model import Finding, Severity
from provisioner.version import __version__

SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVEL = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "note"}


def sarif(findings: Sequence[Finding], matrix: Matrix) -> dict[str, Any]:
    """A log with one run. What --allow lets pass is a suppressed result, with its reason."""
    names = list(dict.fromkeys(finding.rule for finding in findings))
    return {
        "$schema": SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "provisioner check",
                        "semanticVersion": _semantic(__version__),
                        "rules": [_rule(name, matrix) for name in names],
                    }
                },
                "results": [_result(finding, names.index(finding.rule)) for finding in findings],
                "columnKind": "unicodeCodePoints",
            }
        ],
    }


def _semantic(version: str) -> str:
    """SARIF wants a semantic version; Python's pre-releases are written otherwise."""
    head = ".".join(version.split(".")[:3])
    return head if head.replace(".", "").isdigit() else "0.0.0"


def _rule(name: str, matrix: Matrix) -> dict[str, Any]:
    rule = matrix.rules.get(name)
    if rule is None:
        return {"id": name}
    return {"id": name, "shortDescription": {"text": rule.feature.title}, "help": {"text": rule.remedy}}


def _result(finding: Finding, index: int) -> dict[str, Any]:
    head = f"{finding.subject}: " if finding.subject else ""
    sources = "".join(f" Source: {source}." for source in finding.sources)
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": index,
        "level": _LEVEL[finding.severity],
        "message": {"text": f"{head}{finding.reason} {finding.remedy}{sources}"},
    }
    location: dict[str, Any] = {}
    if finding.place.file:
        location["physicalLocation"] = {"artifactLocation": {"uri": quote(finding.place.file)}}
        if finding.place.line:
            location["physicalLocation"]["region"] = {"startLine": finding.place.line}
    if finding.subject:
        location["logicalLocations"] = [{"fullyQualifiedName": f"{finding.subject}{' ' + finding.field if finding.field else ''}"}]
    if location:
        result["locations"] = [location]
    if finding.allowed:
        result["suppressions"] = [{"kind": "external", "justification": finding.allowed}]
    return result


def junit(findings: Sequence[Finding], objects: int) -> str:
    """One suite; a case for every finding, and one that passes for the whole when nothing refuses.

    An error fails its case, what --allow lets pass is skipped, warnings and notes pass and say so in their output.
    """
    from xml.etree import ElementTree as ET

    failures = sum(finding.refuses for finding in findings)
    skipped = sum(bool(finding.allowed) for finding in findings)
    counts: Mapping[str, int] = {"tests": len(findings) + 1, "failures": failures, "errors": 0, "skipped": skipped}
    texts = {key: str(value) for key, value in counts.items()}
    root = ET.Element("testsuites", texts)
    suite = ET.SubElement(root, "testsuite", {"name": "provisioner check", **texts})
    whole = ET.SubElement(suite, "testcase", {"classname": "provisioner.check", "name": "all objects were read"})
    ET.SubElement(whole, "system-out").text = f"{objects} objects were checked"
    for finding in findings:
        attributes = {
            "classname": f"provisioner.check.{finding.rule}",
            "name": _printable(finding.subject or str(finding.place) or finding.rule),
        }
        if finding.place.file:
            attributes["file"] = _printable(finding.place.file)
        if finding.place.line:
            attributes["line"] = str(finding.place.line)
        case = ET.SubElement(suite, "testcase", attributes)
        text = _printable(f"{finding.place}: {finding.reason} {finding.remedy}")
        if finding.refuses:
            ET.SubElement(case, "failure", {"type": finding.rule, "message": _printable(finding.reason)}).text = text
        elif finding.allowed:
            ET.SubElement(case, "skipped", {"message": _printable(f"allowed: {finding.allowed}")})
        else:
            ET.SubElement(case, "system-out").text = f"{finding.severity}: {text}"
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _printable(text: str) -> str:
    """XML has no way to write most control characters."""
    return "".join(char if char in "\t\n" or char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
