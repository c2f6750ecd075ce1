"""The local-cluster example as a user runs it: an apply that is interrupted, apply again, and again, destroy."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.terraform.conftest import PROVIDER_PYTHON, ROOT, Done, Terraform, installer

from .conftest import PREFIX
from .kube import eventually, run
from .machine import left_as_it_was


@dataclass(frozen=True)
class Example:
    """The example in a directory of its own, over this checkout's command."""

    terraform: Terraform
    directory: Path
    name: str
    provisioner: str
    kubectl: str

    @property
    def variables(self) -> list[str]:
        return [f"-var=name={self.name}", "-var=num_nodes=1", f"-var=command={json.dumps([self.provisioner])}"]

    def do(self, verb: str, *options: str) -> str:
        return self.terraform.run(self.directory, verb, "-input=false", *self.variables, *options).out

    def apply(self) -> str:
        return self.do("apply", "-auto-approve")

    def destroy(self) -> None:
        self.do("destroy", "-auto-approve")

    def clusters(self) -> dict[str, str]:
        listed = json.loads(run(self.provisioner, "list-clusters", "--output", "json"))["items"]
        return {entry["name"]: entry["state"] for entry in listed}


@pytest.fixture
def example(provisioner: str, images: object, kubectl_path: str, tmp_path: Path) -> Iterator[Example]:
    program = shutil.which("terraform")
    if program is None:
        pytest.skip("terraform is not on this machine")
    if not PROVIDER_PYTHON.exists():
        pytest.skip("the Terraform provider's environment is not there: .ci/setup terraform")
    install = installer()
    mirror = tmp_path / "mirror"
    install.install(mirror, install.ADDRESS, install.VERSION, "terraform_provider_provisioner.main", install.SOURCES, str(PROVIDER_PYTHON))
    install.configure(tmp_path / "terraform.rc", mirror, install.ADDRESS)
    shutil.copytree(ROOT / "terraform", tmp_path / "terraform", ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
    terraform = Terraform(program, tmp_path / "terraform.rc")
    made = Example(terraform, tmp_path / "terraform" / "examples" / "local-cluster", f"{PREFIX}terraform", provisioner, kubectl_path)
    terraform.init(made.directory)
    yield made
    subprocess.run([provisioner, "delete-cluster", made.name, "--quiet"], capture_output=True, timeout=120, check=False)


def test_an_interrupted_apply_is_continued_a_second_changes_nothing_and_destroy_leaves_nothing(example: Example) -> None:
    with left_as_it_was(example.name):
        said = interrupted_apply(example)
        assert "Run terraform apply again: it continues" in said
        assert example.clusters()[example.name] == "INCOMPLETE"
        assert "1 added, 0 changed, 0 destroyed" in example.apply()
        assert example.clusters()[example.name] == "RUNNING"
        kubeconfig = example.directory / "kubeconfig"
        assert stat.S_IMODE(kubeconfig.stat().st_mode) == 0o600
        ready = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"
        assert run(example.kubectl, "--kubeconfig", str(kubeconfig), "get", "nodes", "-o", ready) == "True"
        assert "0 added, 0 changed, 0 destroyed" in example.apply()
        assert "PRIVATE KEY" not in (example.directory / "terraform.tfstate").read_text()
        example.destroy()
        assert example.name not in example.clusters()
        assert not kubeconfig.exists()


def interrupted_apply(example: Example) -> str:
    """Ctrl-C while the create is at work; what Terraform said."""
    process = example.terraform.start(example.directory, "apply", "-input=false", *example.variables, "-auto-approve")
    try:
        eventually(lambda: example.clusters().get(example.name) == "INCOMPLETE", within=180, what="a create at work")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=180)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0, out
    return Done(process.returncode, out, err).text
