"""Wait until what was applied runs, and say why when it does not.

Short polls rather than watches: a poll has no state to lose while the API server comes up, and costs a millisecond. The reason
for a wait that ran out comes from the cluster itself: conditions, the containers' states, the last warnings.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from provisioner import errors
from provisioner.deploy.client import Access, ApiError, Client, UnavailableError
from provisioner.deploy.context import ContextAccess
from provisioner.deploy.render import AGENT, DNS, NAMESPACE
from provisioner.plan.steps import Deadline, Progress

_POLL_SECONDS = 0.2
_SHOWN_REASONS = 6
_AGENT_PODS = f"app={AGENT}"
# The kubelet doubles its pause with each restart: this many take minutes, and the next would take more.
_HOPELESS_RESTARTS = 4

# A look returns whether it is done, and the line that says how far it is.
_Look = Callable[[Client], tuple[bool, str]]


def wait_nodes_ready(credentials: Access | ContextAccess, count: int, deadline: Deadline, progress: Progress) -> None:
    """Until `count` nodes are Ready. Raises `errors.Timeout` with each late node's reason."""

    def look(client: Client) -> tuple[bool, str]:
        ready = sum(1 for node in client.get("/api/v1/nodes")["items"] if _condition(node, "Ready").get("status") == "True")
        return ready >= count, f"{ready} of {count} nodes ready"

    _wait(credentials, look, lambda client: _late_nodes(client, count), "waiting for the nodes", deadline, progress)


def wait_agent_ready(credentials: Access | ContextAccess, count: int, deadline: Deadline, progress: Progress) -> None:
    """Until the current version of anetd is ready on `count` nodes.

    Raises `errors.UpstreamFailure` when it ends again and again: what it fails at does not change by waiting.
    """
    restarts_before: dict[str, int] = {}  # of each pod, when it was first seen: a create that continues begins to count anew

    def look(client: Client) -> tuple[bool, str]:
        found = daemonset_progress(client.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/{AGENT}"), count)
        if not found[0]:
            for pod in _pods(client, _AGENT_PODS):
                before = restarts_before.setdefault(pod["metadata"]["name"], _restarts(pod))
                _refuse_crash_loop(pod, before)
        return found

    _wait(credentials, look, lambda client: _late_pods(client, _AGENT_PODS), f"waiting for {AGENT}", deadline, progress)


def wait_dns_ready(credentials: Access | ContextAccess, deadline: Deadline, progress: Progress) -> None:
    """Until CoreDNS is available in its current version."""

    def look(client: Client) -> tuple[bool, str]:
        return deployment_progress(client.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{DNS}"))

    _wait(credentials, look, lambda client: _late_pods(client, "k8s-app=kube-dns"), "waiting for CoreDNS", deadline, progress)


def daemonset_progress(daemonset: Mapping[str, Any], count: int) -> tuple[bool, str]:
    """Ready counts pods of every version, so the updated ones have to be all of them as well."""
    status = daemonset.get("status", {})
    ready, updated = status.get("numberReady", 0), status.get("updatedNumberScheduled", 0)
    current = status.get("observedGeneration", 0) >= daemonset["metadata"].get("generation", 0)
    return current and min(ready, updated) >= count, f"{AGENT} ready on {min(ready, updated) if current else 0} of {count} nodes"


def deployment_progress(deployment: Mapping[str, Any]) -> tuple[bool, str]:
    status, wanted = deployment.get("status", {}), deployment["spec"].get("replicas", 1)
    current = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    available = min(status.get("availableReplicas", 0), status.get("updatedReplicas", 0)) if current else 0
    done = current and available > 0 and _condition(deployment, "Available").get("status") == "True"
    return done, f"{available} of {wanted} CoreDNS pods ready"


def _wait(
    credentials: Access | ContextAccess,
    look: _Look,
    explain: Callable[[Client], Sequence[str]],
    doing: str,
    deadline: Deadline,
    progress: Progress,
) -> None:
    line = ""
    with Client(credentials, deadline) as client:
        while True:
            try:
                done, now = look(client)
            except (ApiError, UnavailableError) as error:
                done, now = False, f"the API server does not answer: {error}"
            if now != line:
                progress(now)
                line = now
            if done:
                return
            try:
                deadline.check(doing)
            except errors.Timeout as timeout:
                reasons = "".join(f"\n  {reason}" for reason in _reasons(client, explain))
                raise errors.Timeout(
                    f"{timeout.message}: {line}{reasons}",
                    remedy=timeout.remedy or "Run the command again with a longer --timeout: it continues where this one ended.",
                ) from None
            time.sleep(min(_POLL_SECONDS, max(0.01, deadline.remaining())))


def _reasons(client: Client, explain: Callable[[Client], Sequence[str]]) -> Sequence[str]:
    try:
        return list(dict.fromkeys(explain(client)))[:_SHOWN_REASONS]
    except (ApiError, UnavailableError) as error:
        return [f"the API server does not answer: {error}"]


def _condition(document: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    conditions = document.get("status", {}).get("conditions") or []
    return next((condition for condition in conditions if condition["type"] == kind), {})


def _late_nodes(client: Client, count: int) -> Sequence[str]:
    nodes = client.get("/api/v1/nodes")["items"]
    reasons = [] if len(nodes) >= count else [f"only {len(nodes)} of {count} nodes have registered: see the kubelets' logs"]
    for node in nodes:
        ready = _condition(node, "Ready")
        if ready.get("status") != "True":
            reasons.append(f"node {node['metadata']['name']}: {ready.get('message') or 'has not reported'}")
    return reasons


def _pods(client: Client, selector: str) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = client.get(f"/api/v1/namespaces/{NAMESPACE}/pods", labelSelector=selector)["items"]
    return found


def _containers(pod: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = pod.get("status", {}).get("containerStatuses") or ()
    return found


def _restarts(pod: Mapping[str, Any]) -> int:
    return sum(container.get("restartCount", 0) for container in _containers(pod))


def _refuse_crash_loop(pod: Mapping[str, Any], restarts_before: int) -> None:
    restarts = _restarts(pod) - restarts_before
    in_back_off = any(container.get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff" for container in _containers(pod))
    if restarts >= _HOPELESS_RESTARTS and in_back_off and "deletionTimestamp" not in pod["metadata"]:
        reasons = "".join(f"\n  {reason}" for reason in pod_reasons(pod))
        raise errors.UpstreamFailure(
            f"{AGENT} does not stay up: it was restarted {restarts} times{reasons}",
            remedy="Do away with what the agent's last words complain about and run the command again: it continues where this one ended.",
        )


def _late_pods(client: Client, selector: str) -> Sequence[str]:
    pods = _pods(client, selector)
    late = [pod for pod in pods if _condition(pod, "Ready").get("status") != "True"]
    reasons = [reason for pod in late for reason in pod_reasons(pod)] if pods else [f"no pod with {selector} was created"]
    names = {pod["metadata"]["name"] for pod in late}
    events = client.get(f"/api/v1/namespaces/{NAMESPACE}/events", fieldSelector="type=Warning")["items"]
    events.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "", reverse=True)
    for event in events:
        involved = event["involvedObject"]
        if involved.get("name") in names or (not pods and involved.get("kind") in {"DaemonSet", "ReplicaSet"}):
            reasons.append(f"{involved['kind'].lower()} {involved['name']}: {event.get('reason')}: {event.get('message')}")
    return reasons


def last_words(log: str) -> str:
    """The message of a log's last line, which may be plain text or a JSON record, possibly without its beginning."""
    line = next((line for line in reversed(log.splitlines()) if line.strip()), "").strip()
    try:
        return str(json.loads(line)["message"])
    except (ValueError, KeyError, TypeError):
        return line


def pod_reasons(pod: Mapping[str, Any]) -> list[str]:
    """Why a pod is not ready, in the cluster's own words."""
    name, status = pod["metadata"]["name"], pod.get("status", {})
    head = f"pod {name} on {pod['spec'].get('nodeName', 'no node')}"
    reasons = []
    for container in _containers(pod):
        waiting = container.get("state", {}).get("waiting")
        ended = container.get("lastState", {}).get("terminated") or container.get("state", {}).get("terminated")
        if waiting:
            reasons.append(f"{head}: {waiting.get('reason')}: {waiting.get('message', '')}".rstrip(": "))
        if ended:
            reasons.append(
                f"{head}: {container['name']} ended with {ended.get('exitCode')}: {last_words(ended.get('message', ''))}".rstrip(": ")
            )
        if not waiting and not container.get("ready"):
            reasons.append(f"{head}: {container['name']} runs and is not ready")
    if not reasons:
        scheduled = _condition(pod, "PodScheduled")
        reasons.append(f"{head}: {scheduled.get('message') or status.get('phase', 'Unknown')}")
    return reasons
