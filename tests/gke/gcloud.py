"""gcloud against the GKE of the tests: the program itself, started once and forked for each command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

GCLOUD = shutil.which("gcloud")
needs_gcloud = pytest.mark.skipif(GCLOUD is None, reason="gcloud (Google Cloud CLI) is not installed here")


def endpoints(url: str) -> dict[str, str]:
    return {"CLOUDSDK_API_ENDPOINT_OVERRIDES_CONTAINER": url, "CLOUDSDK_API_ENDPOINT_OVERRIDES_SERVICEUSAGE": url}


def environment(config: Path) -> dict[str, str]:
    """For a gcloud that has no account, and leaves nothing but in `config`."""
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
        "KUBECONFIG": str(config / "kubeconfig"),
        "HOME": str(config),
    }


@dataclass(frozen=True)
class Ran:
    """How a command line ended."""

    code: int
    out: str
    err: str


@dataclass
class Gcloud:
    """A context manager: `run` is `gcloud container ARGUMENTS`, in a process forked from one that has loaded gcloud."""

    config: Path
    warm_url: str
    _process: Any = field(default=None, repr=False)

    def __enter__(self) -> Self:
        assert GCLOUD is not None
        env = environment(self.config) | endpoints(self.warm_url)
        env["CLOUDSDK_PYTHON_ARGS"] = str(Path(__file__).with_name("gcloud_lines.py"))
        with (self.config / "driver.log").open("w") as log:
            self._process = subprocess.Popen([GCLOUD], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(60)

    def run(self, url: str, *arguments: str, env: Mapping[str, str] | None = None) -> Ran:
        line = {"arguments": ["container", *arguments], "environment": endpoints(url) | dict(env or {})}
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, (self.config / "driver.log").read_text()
        return Ran(**json.loads(answer))
