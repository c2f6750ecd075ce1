"""Runs the real agent with a test's paths: `launch.py DIRECTORY`. Tables have the sizes that DIRECTORY/sizes.json names, if it is there."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from agent.datapath.programs import Datapath, DatapathConfig
from agent.main import run_agent
from agent.runtime import Paths


def open_small(config: DatapathConfig, bpffs: Path, objects: Path) -> Datapath:
    chosen = directory / "sizes.json"
    sizes = json.loads(chosen.read_text()) if chosen.exists() else {}
    return Datapath.open(replace(config, map_sizes=replace(config.map_sizes, **sizes)), bpffs, objects)


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
        policy_log=directory / "network",
    )
    os._exit(run_agent(directory / "config.json", paths, open_small))
