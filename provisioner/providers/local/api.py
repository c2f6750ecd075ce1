"""The few requests that the provider itself makes to a cluster's API server: is it ready, the bindings, the nodes' CIDRs.

Plain HTTPS with a client certificate that need not be on disk: OpenSSL reads it from an anonymous file in memory.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from provisioner import errors
from provisioner.plan.steps import Deadline
from provisioner.providers.local import pki

_POLL_SECONDS = 0.1
_TIMEOUT_SECONDS = 5.0
_RBAC = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"


class Api:
    """One client identity's connection to one API server."""

    def __init__(self, server: str, authority: str, pair: pki.Pair) -> None:
        parts = urlsplit(server)
        self._address = (parts.hostname or "", parts.port or 443)
        self._context = ssl.create_default_context(cadata=authority)
        with _in_memory(pair.certificate + pair.key) as path:
            self._context.load_cert_chain(path)

    def request(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> tuple[int, Any]:
        """(status, parsed JSON or text); status 0 when nothing answers."""
        connection = http.client.HTTPSConnection(*self._address, context=self._context, timeout=_TIMEOUT_SECONDS)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": content_type} if data else {})
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
            is_json = (response.getheader("Content-Type") or "").startswith("application/json")
            return response.status, json.loads(text) if is_json else text
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def is_ready(self) -> bool:
        return self.request("GET", "/readyz")[0] == 200

    def apply_bindings(self) -> None:
        """The administrators' group, and what the API server may ask of kubelets."""
        for binding in bindings():
            path = f"{_RBAC}/{binding['metadata']['name']}?fieldManager=provisioner&force=true"
            status, answer = self.request("PATCH", path, binding, "application/apply-patch+yaml")
            if status not in (200, 201):
                raise errors.UpstreamFailure(
                    f"the API server answered {status} to the binding {binding['metadata']['name']}: {_message(answer)}",
                    remedy="Run the command again.",
                )

    def has_bindings(self) -> bool:
        """Whether a create got as far as `apply_bindings`. As the administrator, this also says that the binding works."""
        return all(self.request("GET", f"{_RBAC}/{binding['metadata']['name']}")[0] == 200 for binding in bindings())

    def pod_cidrs(self) -> dict[str, list[str]]:
        """The pod CIDRs of each node that has some."""
        status, answer = self.request("GET", "/api/v1/nodes")
        if status != 200:
            return {}
        return {item["metadata"]["name"]: item["spec"]["podCIDRs"] for item in answer["items"] if item["spec"].get("podCIDRs")}

    def lease_times(self) -> dict[str, str]:
        """When each node's kubelet last renewed its lease (RFC 3339)."""
        status, answer = self.request("GET", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases")
        if status != 200:
            return {}
        return {item["metadata"]["name"]: item["spec"].get("renewTime", "") for item in answer["items"]}

    def ready_nodes(self) -> set[str]:
        """The names of the nodes that are Ready."""
        status, answer = self.request("GET", "/api/v1/nodes")
        return {
            item["metadata"]["name"]
            for item in (answer["items"] if status == 200 else ())
            if any(c["type"] == "Ready" and c["status"] == "True" for c in item["status"].get("conditions", ()))
        }

    def running_since(self, namespace: str, selector: str) -> dict[str, str]:
        """Node -> when the first container of its ready pod with those labels started (RFC 3339)."""
        status, answer = self.request("GET", f"/api/v1/namespaces/{namespace}/pods?labelSelector={quote(selector)}")
        found = {}
        for item in answer["items"] if status == 200 else ():
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


def _message(answer: object) -> str:
    return str(answer.get("message", "")) if isinstance(answer, dict) else str(answer)


@contextlib.contextmanager
def _in_memory(text: str) -> Iterator[str]:
    descriptor = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
