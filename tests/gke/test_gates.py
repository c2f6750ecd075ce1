"""What the matrix forbids of a GKE cluster is refused with its rule and a way out before GKE hears of it: every rule's own case."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.result import Run
from tests.fakes.gke import Core

CASES = yaml.safe_load((Path(__file__).parents[1] / "unit" / "compatibility" / "cases.yaml").read_text())
TOLD_ONLY = {"encryption-fqdn", "routes-based", "windows-pool"}  # warnings and a note


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    """Rule -> the spec that trips it, with what a whole document needs besides."""
    for rule, case in CASES.items():
        document = json.loads(json.dumps(case["trips"]))
        if document.get("kind") != "Cluster" or document["spec"].get("provider") != "gke":
            continue
        document.setdefault("metadata", {})["name"] = "demo"
        gke = document["spec"].setdefault("gke", {})
        gke |= {"project": "demo", "location": "us-central1"}
        for number, pool in enumerate(gke.get("nodePools", [])):
            pool.setdefault("name", f"pool-{number}")
        if "stackType" in document["spec"]:
            gke["enableIpAlias"] = True
        yield rule, document


DOCUMENTS = dict(documents())


@pytest.mark.parametrize("rule", sorted(DOCUMENTS.keys() - TOLD_ONLY))
def test_what_the_matrix_forbids_is_refused_before_a_request_is_sent(run: Run, core: Core, tmp_path: Path, rule: str) -> None:
    document = tmp_path / "cluster.yaml"
    document.write_text(yaml.safe_dump(DOCUMENTS[rule]))
    asked = ("create-cluster", "--config", str(document), "--output", "json")
    without = rule.endswith("-without-dataplane-v2")
    result = run(*asked) if without else run(*asked, "--dataplane-v2")
    assert result.code == 4, result.err
    assert result.error["remedy"]
    assert without or rule in [finding["rule"] for finding in result.error["findings"]]
    assert core.requests == []


def test_every_rule_for_specs_of_gke_has_a_case_here() -> None:
    assert len(DOCUMENTS) >= 19


@pytest.mark.parametrize("rule", sorted(TOLD_ONLY))
def test_what_only_is_told_is_sent(run: Run, core: Core, tmp_path: Path, rule: str) -> None:
    document = tmp_path / "cluster.yaml"
    document.write_text(yaml.safe_dump(DOCUMENTS[rule]))
    result = run("create-cluster", "--config", str(document), "--dataplane-v2", "--dry-run")
    assert result.code == 2, result.err
    assert f"[{rule}]" in result.err
