"""The command line in this process, with a provider in memory and a home of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.cli import backend, main

from .fake import FakeProvider
from .result import Result, Run


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("KUBECONFIG", "SUDO_UID", "SUDO_GID", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture
def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProvider:
    fake = FakeProvider(tmp_path / "state")
    monkeypatch.setattr(backend, "open_provider", lambda name="local", kubernetes_bin_dir=None, **place: fake)
    return fake


@pytest.fixture
def run(home: Path, provider: FakeProvider, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line against the provider in memory."""

    def call(*arguments: str) -> Result:
        capsys.readouterr()
        code = main.main(arguments)
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return call
