"""The command as a process: what it imports, how it reads a closed pipe, the entry points."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "provisioner.cli.main"]
# Each costs more than all that --help may take.
HEAVY = {"kubernetes", "cryptography", "google", "jinja2", "pydantic", "yaml", "rich", "pyroute2", "urllib3", "requests"}


@pytest.mark.parametrize(
    ("arguments", "needs"),
    [(["--help"], set()), (["create-cluster", "--help"], set()), (["--version"], {"pydantic", "yaml"}), (["features"], {"yaml"})],
    ids=lambda case: " ".join(case),
)
def test_what_answers_at_once_loads_nothing_heavy_but_what_it_needs(arguments: list[str], needs: set[str]) -> None:
    loaded = {name.split(".")[0] for name in imported(arguments)}
    assert "typer" in loaded
    assert loaded & HEAVY == needs


def test_a_command_loads_no_other() -> None:
    loaded = imported(["features", "hubble"])
    assert "provisioner.cli.features" in loaded
    assert not loaded & {"provisioner.cli.create_cluster", "provisioner.cli.check", "provisioner.cli.policy"}


def imported(arguments: list[str]) -> set[str]:
    code = "import sys; from provisioner.cli.main import main; status = main(sys.argv[1:]); print(*sys.modules, file=sys.stderr); sys.exit(status)"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_help_names_every_command() -> None:
    text = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True).stdout
    commands = "create-cluster stop-cluster delete-cluster list-clusters describe-cluster get-credentials load-image deploy check features recommend policy render schema version"
    for command in commands.split():
        assert f"\n  {command} " in text, command
        shown = subprocess.run([*COMMAND, command, "--help"], capture_output=True, text=True, check=False)
        assert shown.returncode == 0, command
        assert f"Usage: provisioner {command} " in shown.stdout


def test_without_a_command_the_help_is_shown() -> None:
    done = subprocess.run(COMMAND, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "create-cluster" in done.stdout


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    script = f"{sys.executable} -m provisioner.cli.main schema | head -c 1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_the_console_scripts_are_there() -> None:
    for script in ("provisioner", "create-cluster"):
        path = Path(sys.executable).parent / script
        assert "--dataplane-v2" in subprocess.run([path, *(["create-cluster"] if script == "provisioner" else []), "--help"],
                                                  capture_output=True, text=True, check=True).stdout  # fmt: skip
