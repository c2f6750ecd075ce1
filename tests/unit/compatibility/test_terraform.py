"""Plans are read as specs and changes; what an apply alone will tell trips nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from provisioner.compatibility import check, matrix, terraform
from provisioner.compatibility.model import Dataplane, Place

PLANS = yaml.safe_load((Path(__file__).parent / "plans.yaml").read_text())
GATE = check.Gate(matrix.load(), Dataplane.GKE)
ADDRESS = "module.gke.google_container_cluster.primary"


def plan(change, *others):
    resource = {"address": ADDRESS, "type": "google_container_cluster", "change": change}
    return {"format_version": "1.2", "terraform_version": "1.11.4", "resource_changes": [resource, *others]}


def tripped(document):
    checked = check.Checked()
    for found in terraform.documents_of(document):
        check.check_document(found, Place("plan.json"), GATE, checked)
    return checked.all_findings()


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_trips_what_it_should(name):
    assert sorted(found.rule for found in tripped(plan(PLANS[name]["change"]))) == PLANS[name]["rules"]


def test_a_finding_names_the_resource():
    (found,) = tripped(plan(PLANS["calico-with-dataplane-v2"]["change"]))
    assert ADDRESS in found.subject


def test_node_pools_count_for_the_cluster():
    pool = {
        "address": "p",
        "type": "google_container_node_pool",
        "change": {"after": {"node_config": [{"image_type": "WINDOWS_LTSC_CONTAINERD"}]}},
    }
    change = {"actions": ["create"], "after": {"datapath_provider": "ADVANCED_DATAPATH"}, "after_unknown": {}}
    assert [found.rule for found in tripped(plan(change, pool))] == ["windows-pool"]


@pytest.mark.parametrize("version", [None, "0.1", "2.0", 1, "10.0"])
def test_a_plan_of_another_format_is_said_not_to_be_checked(version):
    problem = terraform.format_problem({"format_version": version, "terraform_version": "9.9", "resource_changes": []}, Place("p"))
    assert problem is not None
    assert problem.refuses
    assert repr(version) in problem.reason
    assert "9.9" in problem.reason


@pytest.mark.parametrize("version", ["1.0", "1.2", "1.99"])
def test_minor_versions_of_the_format_are_understood(version):
    assert terraform.format_problem({"format_version": version}, Place("p")) is None


@pytest.mark.parametrize(
    "resource", [None, 1, {}, {"type": "google_container_cluster"}, {"type": "google_container_cluster", "change": {"actions": None}}]
)
def test_strange_plans_are_no_crash(resource):
    assert list(terraform.documents_of({"format_version": "1.2", "resource_changes": [resource]})) == []


def test_a_manifest_is_no_plan():
    assert not terraform.is_plan({"apiVersion": "v1", "kind": "List", "resource_changes": []})
    assert not terraform.is_plan([])
    assert terraform.is_plan({"format_version": "1.2", "terraform_version": "1.5.0", "planned_values": {}})
