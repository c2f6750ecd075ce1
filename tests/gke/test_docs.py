"""What docs/gke.md and docs/ci.md say is so: documents load, flags exist, errors have these ids and codes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from provisioner import errors
from provisioner.cli import main
from provisioner.spec import load_spec

DOCS = {name: (Path(__file__).parents[2] / "docs" / name).read_text() for name in ("gke.md", "ci.md")}
COMMANDS = ("create-cluster", "delete-cluster", "list-clusters", "describe-cluster", "get-credentials", "sweep")


def test_the_document_loads() -> None:
    blocks = re.findall(r"```yaml\n(apiVersion: provisioner.*?)```", DOCS["gke.md"], re.DOTALL)
    assert len(blocks) == 1
    assert load_spec(blocks[0], source="docs/gke.md").gke.network_logging is not None


@pytest.mark.parametrize("name", DOCS)
def test_every_flag_exists(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        assert main.main([command, "--help"]) == 0
    known = set(re.findall(r"--[a-z0-9-]+", capsys.readouterr().out))
    theirs = {"--monitoring"}  # shown with gcloud's words, and ours as well
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", DOCS[name]))
    assert mentioned - theirs <= known


def test_every_error_has_this_id_and_code() -> None:
    def kinds(kind: type[errors.ProvisionerError]) -> list[type[errors.ProvisionerError]]:
        return [kind, *(each for child in kind.__subclasses__() for each in kinds(child))]

    codes = {kind.id: kind.exit_code for kind in kinds(errors.ProvisionerError)}
    rows = re.findall(r"^\| (`[a-z-]+`(?:, `[a-z-]+`)*) \| (\d+) \|", DOCS["gke.md"], re.MULTILINE)
    told = {identity: int(code) for identities, code in rows for identity in re.findall(r"[a-z-]+", identities)}
    assert len(told) >= 12
    assert {identity: codes[identity] for identity in told} == told
