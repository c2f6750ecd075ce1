"""The matrix is whole, every statement has its source, and everything made from it is equal to it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from provisioner import errors
from provisioner.compatibility import admission, cel, conditions, matrix, page
from provisioner.compatibility.model import SEVERITY_OF, Admission, Dataplane, Severity, Verdict

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
MATRIX = matrix.load()
CASES = yaml.safe_load((HERE / "cases.yaml").read_text())
ROWS = yaml.safe_load((HERE / "rows.yaml").read_text())


@pytest.mark.parametrize(("row", "feature"), ROWS["rows"].items())
def test_every_row_of_the_comparisons_has_its_feature(row, feature):
    assert feature in MATRIX.features, row


def test_every_feature_is_asked_for_by_a_row_or_a_rule():
    asked = set(ROWS["rows"].values()) | {rule.feature.id for rule in MATRIX.rules.values()}
    assert set(MATRIX.features) == asked


@pytest.mark.parametrize("dataplane", list(Dataplane))
def test_what_has_no_source_is_unknown_and_what_is_known_has_one(dataplane):
    for feature in MATRIX.features.values():
        cell = feature.cell(dataplane)
        assert bool(cell.sources) == (cell.verdict is not Verdict.UNKNOWN), feature.id
        assert all(source.url and source.title for source in cell.sources)
    for name in ROWS["unknown"].get(dataplane.value, ()):
        assert MATRIX.features[name].cell(dataplane).verdict is Verdict.UNKNOWN, f"{name}: found a source? Then take it from the list"


def test_what_is_refused_says_why_and_the_way_out():
    for feature in MATRIX.features.values():
        assert feature.way_out.endswith((".", ")."))
        for cell in feature.cells.values():
            if SEVERITY_OF[cell.verdict] is not None:
                assert cell.reason.endswith("."), feature.id
    for rule in MATRIX.rules.values():
        for dataplane in rule.dataplanes:
            if rule.severity_on(dataplane) is not None:
                assert rule.reason(dataplane), rule.id
                assert rule.remedy, rule.id


def test_every_rule_has_a_case_and_a_near_miss():
    assert set(CASES) == set(MATRIX.rules)
    assert all(set(case) == {"trips", "passes"} for case in CASES.values())


def kind_of(document):
    group = document["apiVersion"].rpartition("/")[0]
    return f"{group}/{document['kind']}" if group else document["kind"]


def tripped(document):
    kind = kind_of(document)
    return {rule.id for rule in MATRIX.rules_for(kind) if list(conditions.trips(rule, kind, document))}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_trips_on_its_case_and_not_on_the_near_miss(name):
    assert name in tripped(CASES[name]["trips"])
    assert name not in tripped(CASES[name]["passes"])


@pytest.mark.parametrize("dataplane", list(Dataplane))
def test_the_admission_policy_says_what_the_matrix_says_and_nothing_else(dataplane):
    wanted = {Admission.DENY: set(), Admission.WARN: set()}
    for rule in MATRIX.rules.values():
        where = rule.admission_on(dataplane)
        if where is not Admission.NONE and any(admission._is_served(kind) for kind in rule.kinds):
            wanted[where].add(admission.message(rule, dataplane))
    made = admission.policies(MATRIX, dataplane)
    found = {policy.actions[0]: {validation["message"] for validation in policy.validations} for policy in made}
    assert found == {action: wanted[where] for action, where in (("Deny", Admission.DENY), ("Warn", Admission.WARN)) if wanted[where]}
    for policy in made:
        groups = {group for rule in policy.resources for group in rule["apiGroups"]}
        for validation in policy.validations:
            for group in re.findall(r'request\.kind\.group == "([^"]*)"', validation["expression"]):
                assert group in groups


def test_every_rule_that_denies_refuses_the_definition_of_its_kinds_where_it_says_so():
    (deny, *_) = admission.policies(MATRIX, Dataplane.ANETD)
    refused = [item for item in deny.validations if "CustomResourceDefinition" in item["expression"]]
    for rule in MATRIX.rules.values():
        if rule.defines and rule.admission_on(Dataplane.ANETD) is Admission.DENY:
            own = " ".join(item["expression"] for item in refused if item["message"].startswith(f"[{rule.id}]"))
            for kind in rule.kinds:
                group, _, name = kind.rpartition("/")
                assert f'object.spec.group == "{group}"' in own, rule.id
                assert name == "*" or f'"{name}"' in own, rule.id


def test_what_is_allowed_is_neither_denied_nor_warned_about():
    allowed = {"cilium-network-policy": "because", "sctp-service": "because"}
    before, after = (json.dumps([p.validations for p in admission.policies(MATRIX, Dataplane.ANETD, allowed=a)]) for a in (None, allowed))
    for name in allowed:
        assert f"[{name}]" in before
        assert f"[{name}]" not in after


def test_by_setting_what_would_be_denied_is_warned_about():
    assert {policy.actions for policy in admission.policies(MATRIX, Dataplane.ANETD, mode="warn")} == {("Warn",)}
    assert {policy.actions for policy in admission.policies(MATRIX, Dataplane.ANETD, mode="off")} == {("Audit",)}


def test_expressions_name_fields_as_cel_can():
    for rule in MATRIX.rules.values():
        if rule.admission_on(Dataplane.ANETD) is not Admission.NONE:
            for kind in rule.kinds:
                text = cel.expression(rule, kind)
                assert not re.search(r"\.\?[^a-zA-Z_]", text)


def test_the_page_is_the_matrix():
    assert (ROOT / "docs" / "compatibility.md").read_text() == page.render(MATRIX), "run `make docs`"


def test_the_page_links_every_feature_to_its_paragraph():
    text = page.render(MATRIX)
    for feature in MATRIX.features:
        assert f"](#{feature})" in text
        assert f'<a id="{feature}"></a>' in text


def test_the_export_is_json_and_holds_every_feature_and_rule():
    data = json.loads(json.dumps(matrix.export(MATRIX)))
    assert [feature["id"] for feature in data["features"]] == list(MATRIX.features)
    assert [rule["id"] for rule in data["rules"]] == list(MATRIX.rules)
    fqdn = next(feature for feature in data["features"] if feature["id"] == "fqdn-network-policy")
    assert fqdn["verdicts"]["gke"]["since"] == ["1.26.4-gke.500", "1.27.1-gke.400"]
    floor = next(rule for rule in data["rules"] if rule["id"] == "fqdn-version")
    assert {"path": "spec.gke.clusterVersion", "op": "older", "value": fqdn["verdicts"]["gke"]["since"]} in floor["when"]


def test_severity_follows_from_the_verdict_unless_the_rule_has_its_own():
    for rule in MATRIX.rules.values():
        for dataplane in rule.dataplanes:
            expected = rule.severity or SEVERITY_OF[rule.feature.cell(dataplane).verdict]
            assert rule.severity_on(dataplane) is expected
    assert MATRIX.rules["network-logging-name"].severity_on(Dataplane.CILIUM) is None
    assert MATRIX.rules["cilium-network-policy"].severity_on(Dataplane.GKE) is Severity.ERROR


@pytest.mark.parametrize(("asked", "found"), [("hubble", "hubble"), ("L7_HTTP", "l7-http"), ("cnp", "cilium-network-policy")])
def test_a_feature_is_found_by_its_name_or_another_word_for_it(asked, found):
    assert MATRIX.feature(asked).id == found


@pytest.mark.parametrize(("asked", "near"), [("hubbel", "hubble"), ("sctp-servces", "sctp-services"), ("netwrk-policy", "network-policy")])
def test_for_an_unknown_feature_the_nearest_is_offered(asked, near):
    with pytest.raises(errors.NotFound) as caught:
        MATRIX.feature(asked)
    assert near in caught.value.remedy
