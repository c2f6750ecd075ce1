"""`render` prints what create would apply, without a cluster and without touching one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from provisioner import binaries

from .result import Run

IMAGES = ("--anetd-image", "example/anetd:1", "--coredns-image", "example/coredns:2")


def test_render_prints_documents_that_name_the_images_and_the_networks(run: Run) -> None:
    result = run("render", "demo", *IMAGES, "--pod-cidr", "10.50.0.0/16", "--routing-mode", "vxlan")
    assert result.code == 0, result.err
    objects = [item for item in yaml.safe_load_all(result.out) if item]
    kinds = {item["kind"] for item in objects}
    assert {"DaemonSet", "Deployment", "ConfigMap", "ServiceAccount", "ClusterRole", "Service"} <= kinds
    text = result.out
    assert "example/anetd:1" in text
    assert "example/coredns:2" in text
    config = next(item for item in objects if item["metadata"]["name"] == "anetd-config")
    assert "10.50.0.0/16" in config["data"]["config.json"]
    assert "vxlan" in config["data"]["config.json"]


def test_render_in_json_is_a_list_and_in_a_directory_one_file_a_manifest(run: Run, tmp_path: Path) -> None:
    listed = run("render", "demo", *IMAGES, "--output", "json").json
    assert listed["kind"] == "List"
    directory = tmp_path / "out" / "manifests"
    result = run("render", "demo", *IMAGES, "--output-dir", str(directory))
    assert (result.code, result.out) == (0, "")
    written = [item for path in sorted(directory.iterdir()) for item in yaml.safe_load_all(path.read_text()) if item]
    assert written == listed["items"]


def test_the_api_server_can_be_given(run: Run) -> None:
    assert "https://10.1.2.3:6443" in run("render", "demo", *IMAGES, "--api-server", "https://10.1.2.3:6443").out
    assert "https://10.9.0.2:6443" in run("render", "demo", *IMAGES, "--node-subnet", "10.9.0.0/24").out


def test_a_directory_that_cannot_be_made_is_an_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert run("render", "demo", *IMAGES, "--output-dir", str(tmp_path / "file")).code == 7


def test_a_spec_that_is_wrong_is_refused_before_anything_is_built(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*arguments: object) -> None:
        raise AssertionError("something was built")

    monkeypatch.setattr(binaries, "ensure", build)
    assert run("render", "demo", "--num-nodes", "0").code == 3
