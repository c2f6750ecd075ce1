"""The real command line over the provider in memory, kept in a directory between runs: what the Terraform provider starts in these tests.

    python tests/terraform/stand_in.py DIRECTORY SUBCOMMAND...

In the directory: `clusters.pickle`, what there is; `calls.jsonl`, a line a run; `hold`, while it is there a create does not end; `busy`, how
many creates are told that another command works on the cluster.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from provisioner import errors
from provisioner.cli import backend, main
from provisioner.plan.steps import Deadline, Plan, Progress
from provisioner.providers.base import ClusterState
from provisioner.spec import ClusterSpec
from tests.cli.fake import FakeProvider


@dataclass
class StandIn(FakeProvider):
    """Remembers its clusters when one changes, and can hold a create up."""

    def plan_create(self, spec: ClusterSpec) -> Plan:
        busy = self.root / "busy"
        times = int(busy.read_text()) if busy.exists() else 0
        if times:
            busy.write_text(str(times - 1))
            raise errors.ClusterBusy(f"another command works on the cluster {spec.name}", remedy="Wait until it has ended.")
        plan = super().plan_create(spec)
        *before, last = plan.steps

        def held(deadline: Deadline, progress: Progress) -> None:
            while (self.root / "hold").exists():
                deadline.check("waiting for the hold's end")
                time.sleep(0.02)
            last.apply(deadline, progress)

        return Plan(plan.verb, plan.cluster, (*before, replace(last, apply=held)))

    def plan_delete(self, name: str) -> Plan:
        plan = super().plan_delete(name)

        def kept(deadline: Deadline, progress: Progress) -> None:
            plan.steps[-1].apply(deadline, progress)
            self.save()

        return Plan(plan.verb, plan.cluster, (*plan.steps[:-1], replace(plan.steps[-1], apply=kept)))

    def save(self) -> None:
        whole = self.root / f"clusters.{os.getpid()}"
        whole.write_bytes(pickle.dumps(self.clusters))
        whole.rename(self.root / "clusters.pickle")

    def _set(self, spec: ClusterSpec, state: ClusterState) -> None:
        super()._set(spec, state)
        self.save()


def run(directory: Path, arguments: list[str]) -> int:
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    saved = directory / "clusters.pickle"
    provider = StandIn(directory, clusters=pickle.loads(saved.read_bytes()) if saved.exists() else {})
    backend.open_provider = lambda name="local", kubernetes_bin_dir=None: provider  # type: ignore[assignment]
    return main.main(arguments)


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2:]))
