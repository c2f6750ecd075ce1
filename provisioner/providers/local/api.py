"""The few requests that the provider itself makes to a cluster's API server: is it ready, the bindings, the nodes' CIDRs.

They go through `deploy.client`, so the client's key is in memory only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from provisioner import errors
from provisioner.deploy.client import ApiError, Client, UnavailableError
from provisioner.plan.steps import Deadline
from provisioner.providers.base import Credentials
from provisioner.providers.local import pki

_POLL_SECONDS = 0.1
# A member that is gone answers nothing at all, not even that; whoever polls wants to look at the members in between.
_REQUEST_SECONDS = 5.0
_RBAC = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"


class Api:
    """One client identity's connection to one API server."""

    def __init__(self, server: str, authority: str, pair: pki.Pair) -> None:
        self._client = Client(Credentials(server, authority, pair.certificate, pair.key), request_seconds=_REQUEST_SECONDS)

    def _get(self, path: str, **query: str) -> Mapping[str, Any] | None:
        """None when there is no answer, or another one."""
        try:
            return self._client.get(path, **query)
        except (ApiError, UnavailableError):
            return None

    def _items(self, path: str, **query: str) -> Sequence[Mapping[str, Any]]:
        found = self._get(path, **query) or {}
        return found.get("items") or ()

    def is_ready(self) -> bool:
        try:
            self._client.probe("/readyz")
        except (ApiError, UnavailableError):
            return False
        return True

    def apply_bindings(self) -> None:
        """The administrators' group, and what the API server may ask of kubelets."""
        for binding in bindings():
            name = binding["metadata"]["name"]
            try:
                self._client.apply(f"{_RBAC}/{name}", binding, "provisioner")
            except (ApiError, UnavailableError) as error:
                raise errors.UpstreamFailure(
                    f"the API server did not take the binding {name}: {error}", remedy="Run the command again: it continues."
                ) from error

    def has_bindings(self) -> bool:
        """Whether a create got as far as `apply_bindings`. As the administrator, this also says that the binding works."""
        return all(self._get(f"{_RBAC}/{binding['metadata']['name']}") is not None for binding in bindings())

    def pod_cidrs(self) -> dict[str, list[str]]:
        """The pod CIDRs of each node that has some."""
        nodes = self._items("/api/v1/nodes")
        return {item["metadata"]["name"]: item["spec"]["podCIDRs"] for item in nodes if item["spec"].get("podCIDRs")}

    def lease_times(self) -> dict[str, str]:
        """When each node's kubelet last renewed its lease (RFC 3339)."""
        leases = self._items("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases")
        return {item["metadata"]["name"]: item["spec"].get("renewTime", "") for item in leases}

    def ready_nodes(self) -> set[str]:
        """The names of the nodes that are Ready."""
        return {
            item["metadata"]["name"]
            for item in self._items("/api/v1/nodes")
            if any(c["type"] == "Ready" and c["status"] == "True" for c in item["status"].get("conditions", ()))
        }

    def running_since(self, namespace: str, selector: str) -> dict[str, str]:
        """Node -> when the first container of its ready pod with those labels started (RFC 3339)."""
        found = {}
        for item in self._items(f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector):
            for container in item["status"].get("containerStatuses", [])[:1]:
                if container["ready"]:
                    found[item["spec"]["nodeName"]] = container["state"].get("running", {}).get("startedAt", "")
        return found


def bindings() -> Sequence[Mapping[str, Any]]:
    return (
        _binding("provisioner:cluster-admins", "cluster-admin", "Group", pki.ADMIN_GROUP),
        _binding("provisioner:kubelet-api-admin", "system:kubelet-api-admin", "User", pki.KUBELET_CLIENT_USER),
    )


def _binding(name: str, role: str, kind: str, subject: str) -> Mapping[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": subject}],
    }


def wait_until(condition: Callable[[], bool], deadline: Deadline, doing: str, look: Callable[[], None]) -> None:
    """Poll `condition`; `look` raises when waiting has become pointless."""
    while not condition():
        look()
        deadline.check(doing)
        time.sleep(_POLL_SECONDS)
