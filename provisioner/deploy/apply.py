"""Apply manifests to a cluster whose API server may still be coming up. Applying twice is applying once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from provisioner import errors
from provisioner.deploy.client import Access, ApiError, Client, UnavailableError
from provisioner.deploy.context import ContextAccess
from provisioner.deploy.render import Manifest
from provisioner.plan.steps import Deadline, Progress

FIELD_MANAGER = "provisioner"
_RETRY_SECONDS = 0.2

_ADMISSION = "admissionregistration.k8s.io"
_EXTENSIONS = "apiextensions.k8s.io/v1"
_LOGGING = "networking.gke.io/v1alpha1"
# What the templates use: (apiVersion, kind) -> (path of the API group, plural, namespaced).
_KINDS = {
    ("v1", "Namespace"): ("/api/v1", "namespaces", False),
    ("v1", "ServiceAccount"): ("/api/v1", "serviceaccounts", True),
    ("v1", "ConfigMap"): ("/api/v1", "configmaps", True),
    ("v1", "Service"): ("/api/v1", "services", True),
    (f"{_ADMISSION}/v1", "ValidatingAdmissionPolicy"): (f"/apis/{_ADMISSION}/v1", "validatingadmissionpolicies", False),
    (f"{_ADMISSION}/v1", "ValidatingAdmissionPolicyBinding"): (f"/apis/{_ADMISSION}/v1", "validatingadmissionpolicybindings", False),
    (_EXTENSIONS, "CustomResourceDefinition"): (f"/apis/{_EXTENSIONS}", "customresourcedefinitions", False),
    (_LOGGING, "NetworkLogging"): (f"/apis/{_LOGGING}", "networkloggings", False),
    ("apps/v1", "DaemonSet"): ("/apis/apps/v1", "daemonsets", True),
    ("apps/v1", "Deployment"): ("/apis/apps/v1", "deployments", True),
    ("policy/v1", "PodDisruptionBudget"): ("/apis/policy/v1", "poddisruptionbudgets", True),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"): ("/apis/rbac.authorization.k8s.io/v1", "clusterroles", False),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"): ("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings", False),
    ("rbac.authorization.k8s.io/v1", "Role"): ("/apis/rbac.authorization.k8s.io/v1", "roles", True),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): ("/apis/rbac.authorization.k8s.io/v1", "rolebindings", True),
}

# While an API server comes up it refuses (403) before its roles are there, and does not know (404) its own namespaces; 409 and
# 429 and the 5xx are its ways to say "again". After that grace a 403 or 404 is meant.
_ALWAYS_TRANSIENT = frozenset({409, 429, 500, 502, 503, 504})
_EARLY_TRANSIENT = frozenset({401, 403, 404})
_GRACE_SECONDS = 15.0


def object_path(document: Mapping[str, Any]) -> str:
    """Where an object lives in the API. Raises `KeyError` for a kind that the table lacks."""
    group, plural, namespaced = _KINDS[document["apiVersion"], document["kind"]]
    name = document["metadata"]["name"]
    return f"{group}/namespaces/{document['metadata']['namespace']}/{plural}/{name}" if namespaced else f"{group}/{plural}/{name}"


def apply_all(credentials: Access | ContextAccess, manifests: Sequence[Manifest], deadline: Deadline, progress: Progress) -> None:
    """Apply every object in order, waiting for the API server first.

    Raises `errors.UpstreamFailure` when the API server refuses an object for good, `errors.Timeout` when it does not come up.
    """
    documents = [document for manifest in manifests for document in manifest.objects]
    with Client(credentials, deadline) as client:
        progress("waiting for the API server")
        _retry(lambda: client.probe("/readyz"), "waiting for the API server", deadline)
        for number, document in enumerate(documents, 1):
            label = f"{document['kind']} {document['metadata']['name']}"
            progress(f"applied {number - 1} of {len(documents)} objects, next {label}")
            path = object_path(document)
            _retry(lambda path=path, document=document: client.apply(path, document, FIELD_MANAGER), f"applying {label}", deadline)  # type: ignore[misc]
        progress(f"applied {len(documents)} objects")


def _retry(attempt: Callable[[], object], doing: str, deadline: Deadline) -> None:
    began = time.monotonic()
    while True:
        try:
            attempt()
            return
        except ApiError as error:
            last = str(error)
            in_grace = time.monotonic() - began < _GRACE_SECONDS
            if error.status not in _ALWAYS_TRANSIENT and not (in_grace and error.status in _EARLY_TRANSIENT):
                raise errors.UpstreamFailure(
                    f"{doing} failed: the API server answered {error}",
                    remedy="Look at the API server's log; running the command again continues.",
                ) from error
        except UnavailableError as error:
            last = str(error)
        try:
            deadline.check(doing)
        except errors.Timeout as timeout:
            raise errors.Timeout(f"{timeout.message}; the last answer: {last}", remedy=timeout.remedy) from None
        time.sleep(min(_RETRY_SECONDS, max(0.01, deadline.remaining())))
