"""The tracer on one node, as an object of the API: a Job whose pod is on that node. Pure.

A Job, because the cluster itself removes a finished one with its pod: the tracer ends with its standard input, and this happens though the
command was killed. What never comes to run ends by its deadline.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMESPACE = "kube-system"
APP = "provisioner-trace"
CONTAINER = "tracer"
PATH = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
LONGEST_SECONDS = 24 * 3600
"""Of a trace that has no end of its own."""

_CAPABILITIES = (
    "BPF",  # loading the probe
    "PERFMON",  # attaching it to tracepoints, and reading the kernel's memory there
    "SYSLOG",  # the names of the kernel's functions
)


def document(name: str, node: str, image: str, kind: str, wanted: str, seconds: int) -> Mapping[str, Any]:
    """`kind` and `wanted` are the tracer's arguments; `seconds` the end of all, for whatever reason it is still there."""
    labels = {"app": APP}
    pod = {
        "nodeName": node,
        "hostNetwork": True,  # the node's namespace is known by its number, and its devices by name
        "dnsPolicy": "Default",
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        "tolerations": [{"operator": "Exists"}],
        "containers": [
            {
                "name": CONTAINER,
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "args": [kind, wanted],
                "stdin": True,
                "stdinOnce": True,
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "securityContext": {
                    "privileged": False,
                    "runAsUser": 0,
                    "readOnlyRootFilesystem": True,
                    # Runtimes' default profile leaves bpf(2) to CAP_SYS_ADMIN, which is much more than what is asked for below.
                    "seccompProfile": {"type": "Unconfined"},
                    "capabilities": {"drop": ["ALL"], "add": list(_CAPABILITIES)},
                },
                "volumeMounts": [
                    {"name": "state", "mountPath": "/var/lib/anetd", "readOnly": True},
                    {"name": "bpffs", "mountPath": "/sys/fs/bpf", "mountPropagation": "HostToContainer"},
                    {"name": "tracefs", "mountPath": "/sys/kernel/tracing"},
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 -- the container's own
                ],
            }
        ],
        "volumes": [
            {"name": "state", "hostPath": {"path": "/var/lib/anetd", "type": "DirectoryOrCreate"}},
            {"name": "bpffs", "hostPath": {"path": "/sys/fs/bpf", "type": "Directory"}},
            {"name": "tracefs", "hostPath": {"path": "/sys/kernel/tracing"}},
            {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
        ],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": seconds,
            "ttlSecondsAfterFinished": 0,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def hindrance(pod: Mapping[str, Any]) -> str:
    """Why a pod's container does not run and will not by itself, "" where that is not so."""
    status = pod.get("status") or {}
    if status.get("phase") in {"Failed", "Succeeded"}:
        containers = status.get("containerStatuses") or ()
        words = [status.get("reason"), status.get("message")]
        words += [((container.get("state") or {}).get("terminated") or {}).get("message") for container in containers]
        return f"its pod has ended: {'; '.join(word.strip() for word in words if word) or status['phase']}"
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in {None, "", "ContainerCreating", "PodInitializing"}:
            return f"{waiting['reason']}: {waiting.get('message', '')}"
    return ""
