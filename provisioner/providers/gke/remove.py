"""The plan that removes a cluster of GKE, also one on which another operation works: GKE refuses then, so it is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from provisioner.plan.steps import Deadline, Plan, Progress, Step
from provisioner.providers.gke import faults, memory
from provisioner.providers.gke.api import Api
from provisioner.providers.gke.create import POLL_SECONDS, how_far
from provisioner.providers.gke.request import Json


def plan_delete(api: Api, root: Path, name: str, pause: Callable[[float], None] = time.sleep) -> Plan:
    """`name` is the full name, projects/P/locations/L/clusters/N."""
    _, project, _, location, _, short = name.split("/")
    parent = name.partition("/clusters/")[0]
    begun: list[Json] = []

    def wait(deadline: Deadline, doing: str) -> None:
        deadline.check(doing)
        pause(min(POLL_SECONDS, max(0.01, deadline.remaining())))

    def ask(deadline: Deadline, progress: Progress) -> None:
        while True:
            try:
                operation = api.delete(name, deadline)
            except faults.Busy as busy:
                cluster = api.cluster(name, deadline)
                if cluster is None or cluster.get("status") == "STOPPING":
                    return
                progress(busy.message)
                wait(deadline, busy.message)
                continue
            if operation is not None:
                begun.append(operation)
                progress(f"GKE carries it out as {operation['name']}")
            return

    def wait_gone(deadline: Deadline, progress: Progress) -> None:
        line = ""
        while (cluster := api.cluster(name, deadline)) is not None:
            operation = api.operation(f"{parent}/operations/{begun[0]['name']}", deadline) if begun else None
            failure = faults.of_operation(operation) if operation is not None and operation.get("status") == "DONE" else None
            if failure is not None:
                raise failure
            now = how_far(operation, cluster)
            if now != line:
                progress(now)
                line = now
            wait(deadline, f"waiting for GKE: {now}")
        memory.forget(root, project, location, short)

    steps = (
        Step("request-deletion", "Ask GKE to delete the cluster", ask, details=(f"{location}, project {project}",)),
        Step("wait-gone", "Wait for GKE", wait_gone),
    )
    return Plan("delete", short, steps)
