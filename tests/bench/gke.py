"""What create-cluster adds to GKE's own time: the whole command as a process, less what the server's operation took.

    python -m tests.bench.gke [--runs N] [--json FILE]

The server is that of the tests, its operation takes three seconds. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from provisioner.providers.gke.api import ENDPOINT_VARIABLE
from tests.bench.cluster import distribution
from tests.fakes.gke import Core, RestServer
from tests.fakes.kubernetes import Kubernetes

OPERATION_SECONDS = 3.0
WORDS = ("create-cluster", "bench", "--provider", "gke", "--project", "demo", "--location", "us-central1", "--dataplane-v2")


def once(words: tuple[str, ...], url: str, home: str) -> float:
    """Wall seconds of one command that must succeed."""
    environment = {**os.environ, "HOME": home, ENDPOINT_VARIABLE: url}
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "provisioner.cli.main", *words], env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def measure(runs: int) -> dict[str, Any]:
    created, again = [], []
    for _ in range(runs):
        with Kubernetes() as kubernetes, tempfile.TemporaryDirectory() as home:
            core = Core(operation_seconds=OPERATION_SECONDS, endpoint=kubernetes.endpoint, ca_certificate=kubernetes.encoded_authority)
            with RestServer(core) as server:
                created.append(once(WORDS, server.url, home) - OPERATION_SECONDS)
                again.append(once(WORDS, server.url, home))
    return {"added_s": distribution(created), "again_s": distribution(again), "operation_s": OPERATION_SECONDS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    text = json.dumps(measure(options.runs), indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
