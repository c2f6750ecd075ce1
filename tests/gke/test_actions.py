"""The GitHub Actions: their steps are run as a runner runs them, against the GKE of the tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from provisioner.providers.gke import api
from tests.fakes.gke import Core, RestServer

ROOT = Path(__file__).parents[2]
ACTIONS = {name: yaml.safe_load((ROOT / name).read_text()) for name in ("action.yml", "cleanup/action.yml")}
CREATE, CLEANUP = ACTIONS.values()


@dataclass
class Runner:
    """A job: what its steps write to GITHUB_OUTPUT and GITHUB_ENV, the next ones see."""

    directory: Path
    url: str
    env: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)

    def step(self, action: dict[str, Any], identity: str, inputs: dict[str, str]) -> subprocess.CompletedProcess[str]:
        step = next(step for step in action["runs"]["steps"] if step["id"] == identity)
        values = {name: str(entry.get("default", "")) for name, entry in action["inputs"].items()} | inputs
        expressions = {f"inputs.{name}": value for name, value in values.items()} | {"github.action_path": str(ROOT)}
        files = {name: self.directory / name for name in ("GITHUB_OUTPUT", "GITHUB_ENV")}
        for path in files.values():
            path.write_text("")
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "RUNNER_TEMP": str(self.directory),
            "GITHUB_RUN_ID": "4711",
            "GITHUB_RUN_ATTEMPT": "1",
            "GITHUB_JOB": "e2e",
            api.ENDPOINT_VARIABLE: self.url,
            **{name: str(path) for name, path in files.items()},
            **self.env,
            **{name: re.sub(r"\$\{\{ (.*?) \}\}", lambda match: expressions[match[1]], text) for name, text in step["env"].items()},
        }
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=self.directory, timeout=300)
        self.outputs |= dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines())
        self.env |= dict(line.split("=", 1) for line in files["GITHUB_ENV"].read_text().splitlines())
        return ran


@pytest.fixture
def runner(tmp_path: Path, server: RestServer) -> Runner:
    program = tmp_path / "provisioner"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m provisioner.cli.main "$@"\n')
    program.chmod(0o755)
    return Runner(tmp_path, server.url, {"PROVISIONER": str(program)})


def test_a_job_creates_its_cluster_and_cleans_up(runner: Runner, core: Core) -> None:
    place = {"project": "demo", "location": "us-central1"}
    flags = "--enable-fqdn-network-policy\n--labels\nteam=a $(touch nothing),usage=ci\n"
    created = runner.step(CREATE, "create", place | {"flags": flags.replace("a $(touch nothing)", "a")})
    assert created.returncode == 0, created.stderr
    assert runner.outputs["cluster-name"] == "ci-4711-1-e2e"
    cluster = core.clusters["projects/demo/locations/us-central1/clusters/ci-4711-1-e2e"]
    assert cluster.network_config.enable_fqdn_network_policy
    assert set(cluster.resource_labels) == {"team", "usage", "provisioner-expires-at"}
    assert runner.env["KUBECONFIG"] == runner.outputs["kubeconfig"]
    assert runner.outputs["context"] in Path(runner.outputs["kubeconfig"]).read_text()
    assert json.loads(Path(runner.outputs["result-file"]).read_text())["outcome"] == "running"
    assert "<testsuites" in Path(runner.outputs["junit-file"]).read_text()

    for _ in range(2):
        deleted = runner.step(CLEANUP, "delete", place | {"cluster-name": runner.outputs["cluster-name"], "wait": "true"})
        assert deleted.returncode == 0, deleted.stderr
    assert core.clusters == {}


def test_a_job_whose_create_fails_has_its_name_its_files_and_no_cluster(runner: Runner, core: Core) -> None:
    core.operation_error = (13, "the zone is on fire")
    failed = runner.step(CREATE, "create", {"project": "demo", "location": "us-central1", "cluster-name": "mine"})
    assert failed.returncode == 9
    assert runner.outputs["cluster-name"] == "mine"
    assert "KUBECONFIG" not in runner.env
    assert "on fire" in Path(runner.outputs["junit-file"]).read_text()
    assert core.clusters == {}
    deleted = runner.step(CLEANUP, "delete", {"cluster-name": "mine", "project": "demo"})
    assert deleted.returncode == 0, deleted.stderr


def test_what_an_input_says_is_a_word_and_never_a_command(runner: Runner, core: Core) -> None:
    evil = '$(touch "$RUNNER_TEMP/owned"); `touch owned` "'
    for name in ("cluster-name", "location", "flags", "timeout"):
        assert runner.step(CREATE, "create", {"project": "demo", "location": "us-central1", name: evil}).returncode == 3
    assert not list(runner.directory.glob("owned"))
    assert core.clusters == {}


def test_a_job_that_created_nothing_cleans_up_nothing(runner: Runner, core: Core) -> None:
    assert runner.step(CLEANUP, "delete", {"cluster-name": ""}).returncode == 0
    assert core.requests == []


@pytest.mark.parametrize("name", ACTIONS)
def test_the_actions_are_well_formed(name: str) -> None:
    action = ACTIONS[name]
    assert all(entry["description"] for entry in [*action["inputs"].values(), *action.get("outputs", {}).values()])
    scripts = ""
    for step in action["runs"]["steps"]:
        assert subprocess.run(["bash", "-n"], input=step["run"], text=True).returncode == 0
        assert "${{" not in step["run"], "an expression in a script is a way to run what an input says"
        scripts += yaml.safe_dump(step["env"])
    assert set(re.findall(r"inputs\.([a-z-]+)", scripts)) == set(action["inputs"])
    written = action["runs"]["steps"][-1]["run"]
    assert all(f"{output}=" in written for output in action.get("outputs", {}))


def test_the_requirements_that_the_action_installs_are_the_project_s(tmp_path: Path) -> None:
    """The step itself is run up to what it would install."""
    script = next(step for step in CREATE["runs"]["steps"] if step["id"] == "install")["run"]
    program = script.partition("<<'EOF'\n")[2].partition("\nEOF")[0]
    ran = subprocess.run([sys.executable, "-", str(ROOT / "pyproject.toml")], input=program, capture_output=True, text=True, check=True)
    assert any(line.startswith("google-cloud-container") for line in ran.stdout.splitlines())
