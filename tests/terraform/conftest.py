"""Terraform on this machine, with the providers of this checkout: ours, and a stub that has the schema of Google's.

Where Terraform or the provider's environment is missing, each test says so as a skip of its own, so that the run's summary counts them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from provisioner.cli.output import cluster_data

ROOT = Path(__file__).resolve().parents[2]
MODULES = ROOT / "terraform" / "modules"
EXAMPLES = ROOT / "terraform" / "examples"
PROVIDER_PYTHON = ROOT / ".venv-terraform" / "bin" / "python"
GOOGLE = "registry.terraform.io/hashicorp/google"
TIMEOUT_SECONDS = 600


def installer() -> ModuleType:
    """terraform/provider/install.py, which is no package."""
    spec = importlib.util.spec_from_file_location("install", ROOT / "terraform" / "provider" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Done:
    """How a run of terraform ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Both streams without the frames and line ends that Terraform draws its messages with."""
        return " ".join((self.out + self.err).replace("│", " ").replace("╷", " ").replace("╵", " ").split())


@dataclass(frozen=True)
class Terraform:
    """Runs terraform with these providers, and nothing from anywhere else."""

    program: str
    configuration: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, directory: Path, *arguments: str) -> subprocess.Popen[str]:
        argv = [self.program, arguments[0], "-no-color", *arguments[1:]]
        return subprocess.Popen(
            argv, cwd=directory, env=self.env, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip

    def ask(self, directory: Path, *arguments: str) -> Done:
        """Run to its end, whatever that is. A run that hangs is killed with its plugins."""
        process = self.start(directory, *arguments)
        try:
            out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"terraform {' '.join(arguments)} hung\n{out}\n{err}") from None
        return Done(process.returncode, out, err)

    def run(self, directory: Path, *arguments: str) -> Done:
        done = self.ask(directory, *arguments)
        assert done.code == 0, f"terraform {' '.join(arguments)} ended with {done.code}\n{done.out}\n{done.err}"
        return done

    def init(self, directory: Path) -> None:
        self.run(directory, "init", "-input=false")

    def outputs(self, directory: Path) -> dict[str, Any]:
        return {name: output["value"] for name, output in json.loads(self.run(directory, "output", "-json").out).items()}

    def state(self, directory: Path, address: str) -> dict[str, Any]:
        """The attributes of a resource as the state has them."""
        values = json.loads(self.run(directory, "show", "-json").out).get("values", {}).get("root_module", {})
        return next((entry["values"] for entry in values.get("resources", ()) if entry["address"] == address), {})

    @property
    def env(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
        return kept | {"TF_CLI_CONFIG_FILE": str(self.configuration), "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"} | self.environment


@pytest.fixture(scope="session")
def shared_plugins(terraform: Terraform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terraform]:
    """Terraform with providers that run already: Google's stub, and ours, which has no command to do any work with."""
    directory = tmp_path_factory.mktemp("plugins")
    argv = [str(PROVIDER_PYTHON), "-m", "tests.terraform.serve_plugins", str(directory)]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        try:
            assert server.stdout.readline() == "ready\n"
            plugin = {"Protocol": "grpc", "ProtocolVersion": 6, "Pid": server.pid, "Test": True}
            reattach = {
                address: {**plugin, "Addr": {"Network": "unix", "String": str(directory / name)}}
                for address, name in ((GOOGLE, "google"), (installer().ADDRESS, "provisioner"))
            }
            yield replace(terraform, environment={"TF_REATTACH_PROVIDERS": json.dumps(reattach)})
        finally:
            server.stdin.close()
            server.wait(timeout=10)


@pytest.fixture(scope="session")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    program = shutil.which("terraform")
    if program is None:
        pytest.skip("terraform is not on this machine")
    if not PROVIDER_PYTHON.exists():
        pytest.skip("the Terraform provider's environment is not there: .ci/setup terraform")
    directory = tmp_path_factory.mktemp("terraform")
    install = installer()
    mirror = directory / "mirror"
    python = str(PROVIDER_PYTHON)
    install.install(mirror, install.ADDRESS, install.VERSION, "terraform_provider_provisioner.main", install.SOURCES, python)
    install.configure(directory / "terraform.rc", mirror, install.ADDRESS)
    return Terraform(program, directory / "terraform.rc")


@dataclass(frozen=True)
class Machine:
    """The state of the stand-in for the command: see stand_in.py."""

    directory: Path

    @property
    def command(self) -> list[str]:
        return [sys.executable, str(ROOT / "tests" / "terraform" / "stand_in.py"), str(self.directory)]

    @property
    def hold(self) -> Path:
        return self.directory / "hold"

    @property
    def busy(self) -> Path:
        return self.directory / "busy"

    def calls(self) -> list[list[str]]:
        path = self.directory / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def clusters(self) -> dict[str, dict[str, Any]]:
        """As list-clusters prints them, read without a command of its own: some tests look often."""
        saved = self.directory / "clusters.pickle"
        infos = pickle.loads(saved.read_bytes()) if saved.exists() else {}
        return {name: cluster_data(info) for name, info in infos.items()}

    def provisioner(self, *arguments: str) -> str:
        return subprocess.run([*self.command, *arguments, "--output", "json"], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    directory = tmp_path / "machine"
    directory.mkdir()
    return Machine(directory)


@pytest.fixture
def configured(tmp_path: Path, terraform: Terraform, machine: Machine) -> Callable[..., Path]:
    """Write a configuration over the stand-in, initialised; called again, it writes it anew."""
    directory = tmp_path / "configuration"

    def write(body: str) -> Path:
        directory.mkdir(exist_ok=True)
        head = f"""
            terraform {{
              required_providers {{ provisioner = {{ source = "provisioner.dev/provisioner/provisioner" }} }}
            }}
            provider "provisioner" {{ command = {json.dumps(machine.command)} }}
        """
        (directory / "main.tf").write_text(head + body)
        if not (directory / ".terraform").exists():
            terraform.init(directory)
        return directory

    return write
