"""What the CLI asks of a provider. One instance lives as long as one command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from provisioner.plan.steps import Deadline, Plan, Progress
from provisioner.spec import ClusterSpec


class ClusterState(StrEnum):
    """What is found, not what was asked for."""

    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    INCOMPLETE = "INCOMPLETE"  # a create or delete was interrupted; either continues it
    DEGRADED = "DEGRADED"  # all of it was created, some of it does not run


@dataclass(frozen=True, slots=True)
class ClusterInfo:
    """A row of list-clusters, and the head of describe-cluster."""

    name: str
    provider: str
    state: ClusterState
    kubernetes_version: str
    num_nodes: int
    endpoint: str  # https://address:port, empty while there is none
    created: str  # RFC 3339
    spec: ClusterSpec
    details: Mapping[str, Any] = field(default_factory=dict)  # provider-specific, JSON-able: members, paths, addresses


@dataclass(frozen=True, slots=True)
class Credentials:
    """What goes into a kubeconfig. PEM texts; the key never appears in a log or an error.

    exec_plugin  the program that gives kubectl a token, where there is no client certificate.
    """

    server: str
    ca_certificate: str  # empty: the machine's authorities
    client_certificate: str
    client_key: str = field(repr=False)
    exec_plugin: str = ""


class Provider(Protocol):
    """Plans are returned, not run: the CLI prints them (--dry-run) or gives them to the engine."""

    name: str

    def plan_create(self, spec: ClusterSpec) -> Plan:
        """Everything between what is found and `spec`; the last step is the wait for readiness.

        Raises `errors.Conflict` when a cluster of that name differs from `spec`, naming the fields.
        Checks of the machine (root, kernel, tools, space) are made here, before anything is touched.
        """

    def plan_stop(self, name: str) -> Plan: ...

    def plan_delete(self, name: str) -> Plan:
        """Removes whatever is found of the cluster, whatever state it is in. Raises `errors.NotFound` when nothing is."""

    def journal(self, name: str) -> Path:
        """The file that the engine appends to while it walks a plan of the cluster `name`; it need not exist."""

    def list(self) -> Sequence[ClusterInfo]: ...

    def describe(self, name: str) -> ClusterInfo:
        """Raises `errors.NotFound`."""

    def credentials(self, name: str) -> Credentials: ...

    def load_image(self, name: str, archives: Sequence[Path], deadline: Deadline, progress: Progress) -> Sequence[str]:
        """Load docker or OCI archives into every node; the image names that were loaded."""

    def has_image(self, name: str, image: str) -> bool:
        """Whether every node has the image of that name already."""

    def context(self, name: str) -> str:
        """What a kubeconfig calls the cluster."""

    def going_on(self, name: str) -> str:
        """What goes on without the command that was interrupted, and the way to go on with it; empty where nothing does."""

    def made_here(self, name: str) -> bool:
        """Whether the cluster was made by this tool from this machine, so that a create that failed may delete it."""
