"""What is looked at in the cluster itself once GKE says that it runs: anetd on every node, and network policy logging.

Google's agent is the DaemonSet `anetd` in kube-system, its pods labelled k8s-app=cilium. Policy logging is the one object `default` of
NetworkLogging, which has no field in the API of GKE.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from provisioner import errors
from provisioner.deploy.client import ApiError, Client, UnavailableError
from provisioner.plan.steps import Deadline, Progress
from provisioner.providers.base import Credentials
from provisioner.spec.gke import NetworkLogging

AGENT, AGENT_PODS, NAMESPACE = "anetd", "k8s-app=cilium", "kube-system"
_LOGGING_PATH = "/apis/networking.gke.io/v1alpha1/networkloggings/default"
_FIELD_MANAGER = "provisioner"
# How often a cluster that has just come up is looked at.
POLL_SECONDS = 1.0
# One request of a look that nobody waits for.
LOOK_SECONDS = 5.0
# An API server that never answered within this is not reachable from here; GKE has said that it runs.
UNREACHABLE_SECONDS = 60.0


class Unreachable(Exception):
    """The control plane does not answer from here."""


class Kubernetes:
    """The API server of a cluster; `token` gives a fresh access token."""

    def __init__(self, credentials: Credentials, token: Callable[[], str], pause: Callable[[float], None] = time.sleep) -> None:
        self._credentials, self._token, self._pause = credentials, token, pause

    def apply_logging(self, logging: NetworkLogging, deadline: Deadline, progress: Progress) -> Mapping[str, Any]:
        """Make the object `default` what the spec says; what it then says."""
        wanted = logging_spec(logging)
        manifest = {
            "apiVersion": "networking.gke.io/v1alpha1", "kind": "NetworkLogging", "metadata": {"name": "default"}, "spec": wanted,
        }  # fmt: skip

        def look(client: Client) -> tuple[bool, str]:
            client.apply(_LOGGING_PATH, manifest, _FIELD_MANAGER)
            found = client.get(_LOGGING_PATH).get("spec", {})
            return found.get("cluster") == wanted["cluster"], "NetworkLogging is applied"

        self._until(look, "applying NetworkLogging", deadline, progress)
        return wanted

    def logging_is(self, logging: NetworkLogging) -> bool:
        wanted = logging_spec(logging)["cluster"]
        return bool(self._once(lambda client: client.get(_LOGGING_PATH).get("spec", {}).get("cluster") == wanted))

    def _once(self, look: Callable[[Client], Any]) -> Any:
        """What a look says, or None where nobody answers."""
        with Client(self._credentials, request_seconds=LOOK_SECONDS, token=self._token()) as client:
            try:
                return look(client)
            except (ApiError, UnavailableError):
                return None

    def wait_agent(self, least: int, deadline: Deadline, progress: Progress) -> Mapping[str, Any]:
        """Until anetd is ready on every Linux node, of which there are `least` or more; how many that are."""
        seen: dict[str, int] = {}

        def look(client: Client) -> tuple[bool, str]:
            done, nodes, late = _agent(client, least)
            seen.update(nodes=nodes, ready=nodes - len(late))
            told = f"{AGENT} is ready on {nodes - len(late)} of {max(nodes, least)} nodes"
            return done, told + (f"; not yet on {', '.join(late[:5])}" if late else "")

        self._until(look, f"waiting for {AGENT}", deadline, progress)
        return dict(seen)

    def agent_is_ready(self, least: int) -> bool:
        """The same in one look."""
        return bool(self._once(lambda client: _agent(client, least)[0]))

    def _until(self, look: Callable[[Client], tuple[bool, str]], doing: str, deadline: Deadline, progress: Progress) -> None:
        line, answered, began = "", False, time.monotonic()
        while True:
            with Client(self._credentials, deadline, token=self._token()) as client:
                try:
                    done, now = look(client)
                    answered = True
                except ApiError as error:
                    answered = True
                    if error.status in {401, 403}:
                        raise errors.PermissionMissing(
                            f"{doing}: the cluster's API server says {error.status}: {error.message}",
                            remedy="Ask for the role roles/container.admin (Kubernetes Engine Admin) in the project.",
                        ) from None
                    done, now = False, f"the cluster's API server says {error}"
                except UnavailableError as error:
                    if not answered and time.monotonic() - began > UNREACHABLE_SECONDS:
                        raise Unreachable(str(error)) from None
                    done, now = False, f"the cluster's API server does not answer: {error}"
            if now != line:
                progress(now)
                line = now
            if done:
                return
            deadline.check(f"{doing}: {line}")
            self._pause(min(POLL_SECONDS, max(0.01, deadline.remaining())))


def _agent(client: Client, least: int) -> tuple[bool, int, list[str]]:
    """Whether anetd is ready everywhere, the number of Linux nodes, and those where it is not."""
    nodes = {node["metadata"]["name"] for node in client.get("/api/v1/nodes")["items"] if _is_linux(node)}
    pods = client.get(f"/api/v1/namespaces/{NAMESPACE}/pods", labelSelector=AGENT_PODS)["items"]
    ready = {pod["spec"].get("nodeName") for pod in pods if _is_ready(pod)}
    status = client.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/{AGENT}").get("status", {})
    scheduled, late = status.get("desiredNumberScheduled", 0), sorted(nodes - ready)
    done = not late and len(nodes) >= least and scheduled >= len(nodes) and status.get("numberReady", 0) >= scheduled
    return done, len(nodes), late


def logging_spec(logging: NetworkLogging) -> dict[str, Any]:
    """NetworkLogging's spec."""
    return {
        "cluster": {side: {"log": rule.log, "delegate": rule.delegate} for side, rule in (("allow", logging.allow), ("deny", logging.deny))}
    }


def _is_linux(node: Mapping[str, Any]) -> bool:
    return bool(node["metadata"].get("labels", {}).get("kubernetes.io/os", "linux") == "linux")


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
