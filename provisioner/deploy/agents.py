"""Where anetd runs in a cluster."""

from __future__ import annotations

from provisioner.deploy.client import Client
from provisioner.deploy.execute import Container
from provisioner.deploy.render import AGENT, NAMESPACE


def agents(client: Client) -> dict[str, Container]:
    """Node -> the container of the agent that runs there, by the nodes' names. Raises `ApiError` or `UnavailableError`."""
    found = {}
    for pod in client.get(f"/api/v1/namespaces/{NAMESPACE}/pods", labelSelector=f"app={AGENT}").get("items") or ():
        node, status = pod["spec"].get("nodeName", ""), pod.get("status") or {}
        running = any(
            each.get("name") == AGENT and "running" in (each.get("state") or {}) for each in status.get("containerStatuses") or ()
        )
        if node and running and "deletionTimestamp" not in pod["metadata"]:
            found[node] = Container(NAMESPACE, pod["metadata"]["name"], AGENT)
    return dict(sorted(found.items()))
