"""Runs the real agent process with a test's paths and, where asked, the stand-in for the datapath: `launch.py DIRECTORY fake|real`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agent.main import run_agent
from agent.runtime import Paths

if __name__ == "__main__":
    directory, kind = Path(sys.argv[1]), sys.argv[2]
    paths = Paths(
        run=directory / "run",
        state=directory / "state",
        cni_config=directory / "net.d",
        cni_bin=directory / "bin",
        bpffs=directory / "bpffs",
        service_account=directory / "account",
        objects=directory / "objects",
    )
    open_datapath = None
    if kind == "fake":
        from tests.agent.datapath import FakeDatapath

        open_datapath = FakeDatapath.open
    status = run_agent(directory / "config.json", paths, open_datapath)
    os._exit(status)
