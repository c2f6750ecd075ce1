"""The plan that makes a cluster of GKE, goes on with one, or finds that all is there: they are the same plan.

Creating twice is creating once: GKE knows a cluster by its name, so whoever meets `ALREADY_EXISTS` looks whether the cluster is the one
that was asked for, and if so waits for it, whoever asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from provisioner import errors
from provisioner.deploy.client import load_ahead
from provisioner.plan.steps import Deadline, Plan, Progress, Step
from provisioner.providers.gke import faults, memory
from provisioner.providers.gke.api import AlreadyThere, Api
from provisioner.providers.gke.differences import differences
from provisioner.providers.gke.request import Json
from provisioner.providers.gke.verify import Kubernetes, Unreachable
from provisioner.spec import ClusterSpec

# GKE is asked this often how far an operation is, so that a create adds little to GKE's own time. A project may read 3000 times a minute.
POLL_SECONDS = 0.5
# Two machines' clocks: a cluster made this much before the request was recorded is still ours.
_CLOCK_SKEW_SECONDS = 300.0
_COMING_UP = {"PROVISIONING", "STATUS_UNSPECIFIED", ""}
_BROKEN = {"ERROR", "DEGRADED"}


class Creation:
    """One create of one cluster. `found` is the cluster as it was when the plan was made."""

    def __init__(
        self,
        api: Api,
        root: Path,
        spec: ClusterSpec,
        request: Json,
        found: Json | None,
        kubernetes: Callable[[Json], Kubernetes],
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._api, self._root, self._spec, self._request, self._found = api, root, spec, request, found
        self._kubernetes, self._pause = kubernetes, pause
        self._parent: str = request["parent"]
        self._name = f"{self._parent}/clusters/{spec.name}"
        _, project, _, location = self._parent.split("/")
        record = memory.read(root, project, location, spec.name)
        self._record = record or memory.Record(project, location, spec.name, spec.to_document())

    def plan(self) -> Plan:
        where = f"{self._record.location}, project {self._record.project}"
        logging = self._spec.gke.network_logging
        steps = [
            Step("request-cluster", "Ask GKE for the cluster", self._ask, lambda: self._found is not None, (where,)),
            Step("wait-cluster", "Wait for GKE", self._wait, lambda: self._is_running() or None),
        ]
        if logging is not None:
            steps.append(Step("apply-logging", "Apply NetworkLogging", self._log, self._logs))
        steps.append(Step("verify-dataplane", "Look for anetd on every node", self._verify, self._is_verified))
        return Plan("create", self._spec.name, steps, self._request)

    # ---- the request ----

    def _ask(self, deadline: Deadline, progress: Progress) -> None:
        self._remember(spec=self._spec.to_document(), requested_at=time.time(), operation="", identity="", ours=False, verified=None)
        try:
            operation = self._api.create(self._request, deadline)
        except AlreadyThere as there:
            cluster = self._api.cluster(self._name, deadline)
            if cluster is None:
                raise errors.Conflict(
                    f"{self._spec.name} was there a moment ago and is gone", remedy="Run the same command again."
                ) from None
            refuse_differing(self._request, cluster)
            self._remember(ours=there.perhaps_ours, requested_at=self._record.requested_at if there.perhaps_ours else 0.0)
            progress("it is there already, and as asked for" if not there.perhaps_ours else "GKE has it from an earlier try")
            return
        self._remember(operation=operation["name"], ours=True)
        progress(f"GKE carries it out as {operation['name']}")

    def _remember(self, **changes: Any) -> None:
        self._record = memory.update(self._root, self._record, **changes)

    # ---- the wait ----

    def _is_running(self) -> bool:
        return self._found is not None and self._found.get("status") in {"RUNNING", "RECONCILING"}

    def _wait(self, deadline: Deadline, progress: Progress) -> None:
        load_ahead()
        operation = self._find_operation(deadline)
        if self._found is not None:
            self._adopt(self._found)
        line = ""
        while True:
            cluster: Json | None = None
            if operation is not None:
                operation = self._api.operation(f"{self._parent}/operations/{operation['name']}", deadline)
            if operation is None or operation.get("status") == "DONE":
                failure = faults.of_operation(operation) if operation else None
                if failure is not None:
                    raise failure
                cluster = self._api.cluster(self._name, deadline)
                self._refuse_broken(cluster, operation)
            if cluster is not None and cluster.get("status") not in _COMING_UP:
                self._found = cluster
                self._adopt(cluster)
                return
            now = how_far(operation, cluster)
            if now != line:
                progress(now)
                line = now
            deadline.check(f"waiting for GKE: {now}")
            self._pause(min(POLL_SECONDS, max(0.01, deadline.remaining())))

    def _find_operation(self, deadline: Deadline) -> Json | None:
        """The operation that makes the cluster: the one remembered, or the one that GKE's own list has."""
        name = self._record.operation
        if not name:
            for operation in self._api.operations(self._parent, deadline):
                # The link names the project by its number, and a zone's cluster in an older form: the last part alone is as asked for.
                ours = str(operation.get("targetLink", "")).endswith(f"/clusters/{self._spec.name}")
                if operation.get("operationType") == "CREATE_CLUSTER" and ours and operation.get("status") != "DONE":
                    name = operation["name"]
                    self._remember(operation=name)
        return {"name": name} if name else None

    def _adopt(self, cluster: Json) -> None:
        """Know the cluster for one's own, or no longer.

        A command that was killed between its request and the answer left a record that does not say whether it made the cluster. And
        one of the same name that was made since, by whomever, is another: GKE gives each an id.
        """
        identity = str(cluster.get("id", ""))
        if self._record.identity not in {"", identity}:
            self._remember(requested_at=0.0, operation="", ours=False, verified=None)
        if self._record.identity != identity:
            self._remember(identity=identity)
        asked = self._record.requested_at
        if asked and not self._record.ours and _seconds(cluster.get("createTime", "")) >= asked - _CLOCK_SKEW_SECONDS:
            self._remember(ours=True)

    def _refuse_broken(self, cluster: Json | None, operation: Json | None) -> None:
        if cluster is None:
            said = f"GKE says that {operation['name']} is done" if operation else "GKE had it"
            raise errors.UpstreamFailure(
                f"{said}, and there is no cluster {self._spec.name}",
                remedy="Somebody may have deleted it meanwhile; run the same command again to make it anew.",
            )
        if cluster.get("status") == "STOPPING":
            raise errors.Conflict(
                f"the cluster {self._spec.name} is being deleted", remedy="Wait until it is gone, and run the same command again."
            )
        if cluster.get("status") in _BROKEN:
            why = (
                cluster.get("statusMessage")
                or "; ".join(c.get("message", "") for c in cluster.get("conditions", ()))
                or "it does not say why"
            )
            raise errors.UpstreamFailure(
                f"{self._spec.name} is {cluster['status']}: {why}",
                remedy=f"Do away with the reason, and delete-cluster {self._spec.name} --provider gke before a new create.",
            )
        provider = cluster.get("networkConfig", {}).get("datapathProvider")
        if cluster.get("status") == "RUNNING" and provider != "ADVANCED_DATAPATH":
            raise errors.UpstreamFailure(
                f"{self._spec.name} runs, but its dataplane is {provider or 'not said'} rather than ADVANCED_DATAPATH",
                remedy=f"Delete it (delete-cluster {self._spec.name} --provider gke), and report this.",
            )

    # ---- inside the cluster ----

    def _cluster(self, deadline: Deadline) -> Json:
        if self._found is None:
            self._found = self._api.cluster(self._name, deadline)
        self._adopt(self._found or {})
        return self._found or {}

    def _noted(self, what: str) -> bool:
        """Whether an earlier run has seen it; then a look is enough to see that it still holds."""
        return self._is_running() and what in (self._record.verified or {})

    def _logs(self) -> bool | None:
        logging = self._spec.gke.network_logging
        return (self._noted("networkLogging") and logging is not None and self._kubernetes(self._found or {}).logging_is(logging)) or None

    def _log(self, deadline: Deadline, progress: Progress) -> None:
        logging = self._spec.gke.network_logging
        assert logging is not None  # noqa: S101 -- there is no such step without it
        try:
            applied = self._kubernetes(self._cluster(deadline)).apply_logging(logging, deadline, progress)
        except Unreachable as error:
            raise errors.UpstreamFailure(
                f"NetworkLogging was not applied: the control plane does not answer from here: {error}",
                remedy="Run the same command from where the control plane can be reached; the cluster itself is there.",
                field="spec.gke.networkLogging",
            ) from None
        self._note("networkLogging", applied)

    def _is_verified(self) -> bool | None:
        return (self._noted("anetd") and self._kubernetes(self._found or {}).agent_is_ready(self._least(self._found or {}))) or None

    def _least(self, cluster: Json) -> int:
        """Autopilot makes nodes when there are pods for them; any other cluster that asked for nodes has one at the least."""
        if self._spec.gke.autopilot:
            return 0
        asked = any(pool.get("initialNodeCount") for pool in cluster.get("nodePools", ()))
        return max(int(cluster.get("currentNodeCount", 0)), int(asked))

    def _verify(self, deadline: Deadline, progress: Progress) -> None:
        cluster = self._cluster(deadline)
        try:
            seen: Mapping[str, Any] = {"verified": True, **self._kubernetes(cluster).wait_agent(self._least(cluster), deadline, progress)}
        except Unreachable as error:
            if not is_shielded(cluster):
                raise errors.UpstreamFailure(
                    f"the control plane of {self._spec.name} does not answer from here: {error}",
                    remedy="Check the way from this machine to its endpoint, and run the same command again.",
                ) from None
            seen = {"verified": False, "reason": f"the control plane cannot be reached from here: {error}"}
            progress(f"not verified: {seen['reason']}")
        self._note("anetd", seen)

    def _note(self, what: str, seen: Mapping[str, Any]) -> None:
        self._remember(verified={**(self._record.verified or {}), what: seen})


def refuse_differing(request: Json, cluster: Json) -> None:
    """Raise `errors.Conflict` with each difference and what can be done about it."""
    if cluster.get("status") == "STOPPING":
        raise errors.Conflict(
            f"the cluster {cluster['name']} is being deleted", remedy="Wait until it is gone, and run the same command again."
        )
    found = differences(request["cluster"], cluster)
    if found:
        told = "".join(f"\n  {difference}" for difference in found)
        raise errors.Conflict(
            f"the cluster {cluster['name']} is there and differs from what is asked for:{told}",
            remedy="Ask for what it has, change it (gcloud container clusters update), or delete it first "
            f"(delete-cluster {cluster['name']} --provider gke).",
            field=found[0].field,
            details=[difference.data() for difference in found],
        )


def is_shielded(cluster: Json) -> bool:
    """Whether not everybody is meant to reach the control plane."""
    addresses = cluster.get("controlPlaneEndpointsConfig", {}).get("ipEndpointsConfig", {})
    private = cluster.get("privateClusterConfig", {}).get("enablePrivateEndpoint", False)
    authorized = addresses.get("authorizedNetworksConfig", {}).get("enabled", False)
    return bool(private or authorized or addresses.get("enablePublicEndpoint") is False or addresses.get("enabled") is False)


def how_far(operation: Json | None, cluster: Json | None) -> str:
    """An operation's state in a line: its progress, where it says any."""
    if operation is None:
        return f"the cluster is {str((cluster or {}).get('status', 'not there')).lower()}"
    metrics = {metric.get("name"): metric for metric in operation.get("progress", {}).get("metrics", ())}
    done, of = metrics.get("CLUSTER_CONFIGURING"), metrics.get("CLUSTER_CONFIGURING_TOTAL")
    parts = [f"{operation['name']} is {str(operation.get('status', 'PENDING')).lower()}"]
    if done and of:
        parts.append(f"{done.get('intValue', 0)} of {of.get('intValue', 0)} parts configured")
    if operation.get("detail"):
        parts.append(str(operation["detail"]))
    return ", ".join(parts)


def _seconds(text: str) -> float:
    import datetime as dt

    try:
        return dt.datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
