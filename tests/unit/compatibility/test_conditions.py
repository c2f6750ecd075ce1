"""Paths, operators and versions."""

from __future__ import annotations

import pytest

from provisioner.compatibility import conditions, versions
from provisioner.compatibility.conditions import UNKNOWN
from provisioner.compatibility.model import Condition


@pytest.mark.parametrize(
    ("version", "floors", "older"),
    [
        ("1.26.4-gke.499", ["1.26.4-gke.500", "1.27.1-gke.400"], True),
        ("1.26.4-gke.500", ["1.26.4-gke.500", "1.27.1-gke.400"], False),
        ("1.27.0-gke.9999", ["1.26.4-gke.500", "1.27.1-gke.400"], True),
        ("1.28.0", ["1.26.4-gke.500", "1.27.1-gke.400"], False),
        ("1.25.16-gke.1", ["1.26.4-gke.500", "1.27.1-gke.400"], True),
        ("v1.34.4", ["1.36.0-gke.4447000"], True),
        ("1.36", ["1.36.0-gke.4447000"], None),
        ("1.26", ["1.26.4-gke.500"], None),
        ("1.25", ["1.26.4-gke.500"], True),
        ("latest", ["1.26.4-gke.500"], None),
        ("-", ["1.26.4-gke.500"], None),
        ("1.30.0", [], None),
        ("5.4.0-150-generic", ["5.10"], True),
        ("5.10.0-8-amd64", ["5.10"], False),
        ("6.1.0-56-cloud-amd64", ["5.10"], False),
    ],
)
def test_versions_are_compared_by_their_minor_line(version, floors, older):
    assert versions.is_older(version, floors) is older


DOCUMENT = {"a": [{"b": 1}, {"b": "x", "c": {"d.e": True}}], "n": None, "u": UNKNOWN, "s": "text", "m": 3}


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (Condition("a[*].b", "equals", 1), ("a", 0, "b")),
        (Condition("a[*].b", "equals", True), None),
        (Condition("a[*].b", "equals", "x"), ("a", 1, "b")),
        (Condition("a[*].c['d.e']", "equals", True), ("a", 1, "c", "d.e")),
        (Condition("a[*].b", "above", 0), ("a", 0, "b")),
        (Condition("a[*].b", "above", 1), None),
        (Condition("a[*].b", "below", 2), ("a", 0, "b")),
        (Condition("s", "matches", "^te"), ("s",)),
        (Condition("a", "matches", "x"), None),
        (Condition("s", "differs", "text"), None),
        (Condition("s", "unlike", "m"), ("s",)),
        (Condition("s", "unlike", "s"), None),
        (Condition("s", "unlike", "missing"), None),
        (Condition("missing", "unlike", "s"), None),
        (Condition("s", "unlike", "u"), None),
        (Condition("missing", "differs", "text"), ()),
        (Condition("n", "present", True), None),
        (Condition("n", "absent", True), ()),
        (Condition("a[*].z", "absent", True), ()),
        (Condition("a[*].c", "absent", True), None),
        (Condition("u", "present", True), None),
        (Condition("u", "absent", True), None),
        (Condition("u", "differs", "v2"), None),
        (Condition("u.inner", "equals", 1), None),
        (Condition("s.inner[*].more", "equals", 1), None),
    ],
)
def test_conditions_hold_where_they_should_and_nothing_holds_for_the_unknown(condition, holds):
    assert conditions._holds(condition, DOCUMENT, ()) == holds


def test_a_place_is_written_as_people_write_it():
    assert conditions.dotted(("spec", "ports", 1, "protocol")) == "spec.ports[1].protocol"
