"""gcloud against the GKE of the tests: as it is, or many command lines in one start of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

GCLOUD = shutil.which("gcloud")
needs_gcloud = pytest.mark.skipif(GCLOUD is None, reason="gcloud (Google Cloud CLI) is not installed here")


def environment(url: str, config: Path) -> dict[str, str]:
    """For a gcloud that knows nothing but the server at `url`, and leaves nothing but in `config`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLOUDSDK_", "GOOGLE_"))}
    return kept | {
        "CLOUDSDK_CONFIG": str(config),
        "CLOUDSDK_CORE_PROJECT": "demo",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
        "CLOUDSDK_CORE_DISABLE_FILE_LOGGING": "true",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
        "CLOUDSDK_SURVEY_DISABLE_PROMPTS": "true",
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_CONTAINER": url,
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_SERVICEUSAGE": url,
        "KUBECONFIG": str(config / "kubeconfig"),
        "HOME": str(config),
    }


@dataclass(frozen=True)
class Ran:
    """How a command line ended."""

    code: int
    out: str
    err: str


def gcloud(url: str, config: Path, *arguments: str) -> Ran:
    """`gcloud container clusters ARGUMENTS`, the program itself."""
    assert GCLOUD is not None
    command = [GCLOUD, "container", *arguments]
    ran = subprocess.run(command, env=environment(url, config), capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
    return Ran(ran.returncode, ran.stdout, ran.stderr)


def gcloud_lines(url: str, config: Path, lines: Sequence[Sequence[str]]) -> list[Ran]:
    """Each of `lines` as a process that is gcloud with these arguments, forked from one that has loaded it."""
    assert GCLOUD is not None
    driver = str(Path(__file__).with_name("gcloud_lines.py"))
    env = environment(url, config) | {"CLOUDSDK_PYTHON_ARGS": driver}
    text = "".join(json.dumps(list(line)) + "\n" for line in lines)
    ran = subprocess.run([GCLOUD], env=env, input=text, capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stderr
    answers: list[dict[str, Any]] = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(answers) == len(lines), ran.stderr
    return [Ran(**answer) for answer in answers]
