"""A policy is refused for what an API server refuses, by the field that is wrong, and not for more."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from provisioner.policies.validate import problems

DATA = yaml.safe_load((Path(__file__).parent / "refused.yaml").read_text())
USUAL = {"name": "p", "namespace": "default"}


@pytest.mark.parametrize("name", DATA["refused"])
def test_what_the_api_server_refuses_is_named_by_its_field_with_a_way_out(name):
    case = DATA["refused"][name]
    found = problems({"metadata": case.get("metadata", USUAL), "spec": case["spec"]})
    assert [problem.field for problem in found] == [case["field"]]
    assert all(problem.reason and problem.remedy.endswith(".") for problem in found)


@pytest.mark.parametrize("name", DATA["taken"])
def test_what_the_api_server_takes_has_no_problem(name):
    assert problems({"metadata": USUAL, "spec": DATA["taken"][name]}) == []


def test_all_that_is_wrong_is_said_at_once():
    spec = {"podSelector": {"matchLabels": {"a": 1}}, "ingress": [{"ports": [{"port": 0}]}, {"from": [{}]}]}
    assert [problem.field for problem in problems({"metadata": USUAL, "spec": spec})] == [
        "spec.podSelector.matchLabels.a",
        "spec.ingress[0].ports[0].port",
        "spec.ingress[1].from[0]",
    ]


FIELDS = (
    *("metadata", "name", "spec", "podSelector", "policyTypes", "ingress", "from", "ports", "port", "endPort", "ipBlock", "cidr", "except"),
    *("matchLabels", "matchExpressions", "key", "operator", "values", "x"),
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["metadata", "spec"]), JUNK))
def test_no_shape_is_a_crash(policy):
    for problem in problems(policy):
        assert problem.path
