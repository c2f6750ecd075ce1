"""What LocalProvider says of what it finds, with state and run directories of the tests' own. Nothing here starts a cluster."""

from __future__ import annotations

import json
import os
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from provisioner import errors
from provisioner.process import Unlimited
from provisioner.providers.base import ClusterState
from provisioner.providers.local import locks, networks, records
from provisioner.providers.local.layout import Layout
from provisioner.providers.local.provider import LocalProvider
from provisioner.spec import ClusterSpec

NAME = "pvl-provider"
SPEC = ClusterSpec.make(NAME, num_nodes=2)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    if os.geteuid() != 0:
        pytest.fail("the local provider is for root: run these tests as root")
    return Layout(NAME, tmp_path / "state", tmp_path / "run")


@pytest.fixture
def provider(layout: Layout) -> LocalProvider:
    return LocalProvider(state_root=layout.state_root, run_root=layout.run_root)


def record(layout: Layout, *, complete: bool = True) -> None:
    records.write(layout, records.Record(SPEC, IPv4Network("172.31.252.0/24"), "2026-01-01T00:00:00Z", complete))


def test_planning_touches_nothing(provider: LocalProvider, layout: Layout) -> None:
    plan = provider.plan_create(SPEC)
    assert [step.id for step in plan.steps][-1] == "wait-dns"
    for step in plan.steps:
        step.done()
    assert not layout.state_root.exists()
    assert not layout.run_root.exists()
    assert networks.links_of(layout) == []


def test_another_spec_is_a_conflict_that_names_the_fields(provider: LocalProvider, layout: Layout) -> None:
    record(layout)
    with pytest.raises(errors.Conflict, match=r"spec\.numNodes, spec\.podCIDR") as failure:
        provider.plan_create(ClusterSpec.make(NAME, num_nodes=3, pod_cidr="10.99.0.0/16"))
    assert failure.value.field == "spec.numNodes"


@pytest.mark.parametrize("name", ["pvl-nobody", "../..", "/etc", "", "UPPER"])
def test_what_is_not_there_is_not_found_whatever_it_is_called(provider: LocalProvider, name: str) -> None:
    for ask in (provider.plan_delete, provider.plan_stop, provider.describe, provider.credentials):
        with pytest.raises(errors.NotFound):
            ask(name)


def test_a_stopped_cluster_is_listed_and_described(provider: LocalProvider, layout: Layout) -> None:
    record(layout)
    (info,) = provider.list()
    assert (info.name, info.state, info.num_nodes) == (NAME, ClusterState.STOPPED, 2)
    details = json.loads(json.dumps(dict(provider.describe(NAME).details)))
    assert [member["name"] for member in details["members"]] == ["control-plane", f"{NAME}-0", f"{NAME}-1"]
    assert details["gateway"] == "172.31.252.1"
    assert details["gatewayV6"] is None


def test_an_unfinished_cluster_is_incomplete(provider: LocalProvider, layout: Layout) -> None:
    record(layout, complete=False)
    assert provider.describe(NAME).state is ClusterState.INCOMPLETE


@pytest.mark.parametrize("text", [None, "", '{"spec": {"half'], ids=["no-record", "empty", "half"])
def test_a_damaged_record_is_listed_as_incomplete_and_can_be_deleted(provider: LocalProvider, layout: Layout, text: str | None) -> None:
    (layout.state_dir / "members" / "x" / "root").mkdir(parents=True)
    if text is not None:
        layout.state_file.write_text(text)
    assert [(info.name, info.state) for info in provider.list()] == [(NAME, ClusterState.INCOMPLETE)]
    with pytest.raises(errors.Conflict, match="no readable record"):
        provider.plan_stop(NAME)
    for step in provider.plan_delete(NAME).steps:
        step.apply(Unlimited(), lambda message: None)
    assert not layout.state_root.exists()
    assert provider.list() == []


def test_a_delete_that_was_cut_short_leaves_an_incomplete_cluster(provider: LocalProvider, layout: Layout) -> None:
    record(layout)
    first, *_ = provider.plan_delete(NAME).steps
    first.apply(Unlimited(), lambda message: None)
    again = LocalProvider(state_root=layout.state_root, run_root=layout.run_root)
    assert again.describe(NAME).state is ClusterState.INCOMPLETE


def test_two_commands_on_one_cluster_do_not_meet(provider: LocalProvider, layout: Layout) -> None:
    record(layout)
    other = locks.FileLock(layout.lock_file)
    assert other.try_acquire()
    with pytest.raises(errors.Conflict, match=rf"another command works on the cluster {NAME}: process {os.getpid()}"):
        provider.plan_delete(NAME).steps[0].apply(Unlimited(), lambda message: None)
    assert layout.state_file.exists()
    other.release()


def test_a_network_that_the_machine_uses_is_refused_before_anything_is_made(
    provider: LocalProvider, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "networks_in_use", lambda: [(IPv4Network("10.244.7.0/24"), "eth9")])
    with pytest.raises(errors.SpecInvalid, match=r"spec\.podCIDR 10\.244\.0\.0/16 overlaps 10\.244\.7\.0/24.*eth9"):
        provider.plan_create(SPEC)
    assert not layout.state_root.exists()


def test_a_cluster_without_credentials_says_what_to_do(provider: LocalProvider, layout: Layout) -> None:
    record(layout, complete=False)
    with pytest.raises(errors.Conflict, match="half-made"):
        provider.credentials(NAME)


def test_images_go_into_running_nodes_only(provider: LocalProvider, layout: Layout, tmp_path: Path) -> None:
    record(layout)
    with pytest.raises(errors.Conflict, match="not every node"):
        provider.load_image(NAME, [tmp_path / "x.tar"], Unlimited(), lambda message: None)
