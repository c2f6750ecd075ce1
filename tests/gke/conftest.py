"""The command line in this process, against a GKE of the tests', with a home and a state of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.cli import main
from provisioner.providers.gke import api, create, verify
from tests.cli.result import Result, Run
from tests.fakes.gke import Core, RestServer
from tests.fakes.kubernetes import Kubernetes
from tests.gke.gcloud import Gcloud

PROJECT, LOCATION = "demo", "us-central1"
PLACE = ("--provider", "gke", "--project", PROJECT, "--location", LOCATION)


@pytest.fixture(scope="session")
def gcloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gcloud]:
    """Google's command line, loaded once for all tests."""
    with RestServer(Core()) as warm, Gcloud(tmp_path_factory.mktemp("gcloud"), warm.url) as program:
        yield program


@pytest.fixture
def kubernetes() -> Iterator[Kubernetes]:
    """The API server of the clusters that are made."""
    with Kubernetes() as cluster:
        yield cluster


@pytest.fixture
def core(kubernetes: Kubernetes) -> Core:
    return Core(endpoint=kubernetes.endpoint, ca_certificate=kubernetes.encoded_authority)


@pytest.fixture
def server(core: Core) -> Iterator[RestServer]:
    with RestServer(core) as rest:
        yield rest


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment that knows no cloud, and quick polls."""
    home = tmp_path / "home"
    home.mkdir()
    for name in list(os.environ):
        if name.startswith(("CLOUDSDK_", "GOOGLE_", "GITHUB_", "CI_", "BUILD_ID")) or name in {"KUBECONFIG", "SUDO_UID", "XDG_STATE_HOME"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(create, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(verify, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(verify, "UNREACHABLE_SECONDS", 0.3)
    monkeypatch.setattr(verify, "LOOK_SECONDS", 2.0)
    monkeypatch.setattr(api, "_FIRST_PAUSE", 0.02)
    return home


@pytest.fixture
def run(home: Path, server: RestServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv(api.ENDPOINT_VARIABLE, server.url)

    def call(*arguments: str) -> Result:
        code = main.main(list(arguments))
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return call
