"""Runs the real agent with a test's paths: `launch.py DIRECTORY`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from agent.main import run_agent
from agent.runtime import Paths

if __name__ == "__main__":
    directory = Path(sys.argv[1])
    paths = Paths(
        run=directory / "run",
        state=directory / "state",
        cni_config=directory / "net.d",
        cni_bin=directory / "bin",
        bpffs=directory / "bpffs",
        cgroups=directory / "cgroup",
        service_account=directory / "account",
        objects=directory / "objects",
    )
    os._exit(run_agent(directory / "config.json", paths))
