"""A provider in memory, with a directory for what real ones keep on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from provisioner import errors
from provisioner.plan.steps import Deadline, Plan, Progress, Step
from provisioner.providers.base import ClusterInfo, ClusterState, Credentials
from provisioner.spec import ClusterSpec

KEY = "VERY SECRET KEY"


@dataclass
class FakeProvider:
    """`fault` runs as the second step of a create."""

    root: Path
    fault: Callable[[], None] = lambda: None
    clusters: dict[str, ClusterInfo] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)
    loaded: list[Path] = field(default_factory=list)
    name: str = "local"

    def plan_create(self, spec: ClusterSpec) -> Plan:
        found = self.clusters.get(spec.name)
        if found is not None and (differing := found.spec.differences(spec)):
            raise errors.Conflict(f"{spec.name} has another {differing[0]}", remedy="Delete it first.", field=differing[0])
        there = found is not None and found.state is ClusterState.RUNNING

        def make(deadline: Deadline, progress: Progress) -> None:
            progress("making")
            self._set(spec, ClusterState.INCOMPLETE)

        def start(deadline: Deadline, progress: Progress) -> None:
            self.fault()
            self._set(spec, ClusterState.RUNNING)

        steps = (
            Step("make-state", "Make the state", make, done=lambda: spec.name in self.clusters, details=("a detail",)),
            Step("start-it", "Start it", start, done=lambda: there or None),
        )
        return Plan("create", spec.name, steps)

    def plan_stop(self, name: str) -> Plan:
        info = self.describe(name)

        def stop(deadline: Deadline, progress: Progress) -> None:
            self._set(info.spec, ClusterState.STOPPED)

        return Plan("stop", name, (Step("stop-it", "Stop it", stop),))

    def plan_delete(self, name: str) -> Plan:
        self.describe(name)

        def remove(deadline: Deadline, progress: Progress) -> None:
            import shutil

            shutil.rmtree(self.journal(name).parent, ignore_errors=True)
            del self.clusters[name]

        return Plan("delete", name, (Step("remove-it", "Remove it", remove),))

    def journal(self, name: str) -> Path:
        return self.root / "clusters" / name / "journal.jsonl"

    def list(self) -> Sequence[ClusterInfo]:
        return list(self.clusters.values())

    def describe(self, name: str) -> ClusterInfo:
        if name not in self.clusters:
            raise errors.NotFound(f"there is no cluster {name}", remedy="See list-clusters.")
        return self.clusters[name]

    def credentials(self, name: str) -> Credentials:
        self.describe(name)
        return Credentials("https://172.30.0.2:6443", "CA", "CERT", KEY)

    def load_image(self, name: str, archives: Sequence[Path], deadline: Deadline, progress: Progress) -> Sequence[str]:
        self.describe(name)
        self.loaded += archives
        return [f"image-of-{archive.name}" for archive in archives]

    def has_image(self, name: str, image: str) -> bool:
        self.describe(name)
        return image in self.images

    def context(self, name: str) -> str:
        return f"provisioner-{name}"

    def going_on(self, name: str) -> str:
        return ""

    def made_here(self, name: str) -> bool:
        return True

    def _set(self, spec: ClusterSpec, state: ClusterState) -> None:
        self.clusters[spec.name] = ClusterInfo(
            spec.name, "local", state, spec.kubernetes_version, spec.num_nodes, "https://172.30.0.2:6443", "2026-01-02T03:04:05Z", spec,
            {"members": [{"name": f"{spec.name}-0", "address": "172.30.0.10"}]},
        )  # fmt: skip
