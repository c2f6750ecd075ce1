"""Render what runs in the cluster, apply it, wait for it; stub of the final signatures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from provisioner.plan.steps import Deadline, Progress
from provisioner.spec import ClusterSpec


class Access(Protocol):
    """What `providers.base.Credentials` has; named here so that this package does not import the providers."""

    @property
    def server(self) -> str: ...
    @property
    def ca_certificate(self) -> str: ...
    @property
    def client_certificate(self) -> str: ...
    @property
    def client_key(self) -> str: ...


@dataclass(frozen=True, slots=True)
class DeployContext:
    """What the provider knows and the spec does not."""

    api_server: str  # https://172.30.0.2:6443
    cluster_dns: Sequence[str]  # the kube-dns Service's addresses, the primary family's first
    anetd_image: str
    coredns_image: str
    layout: str = "v1"


@dataclass(frozen=True, slots=True)
class Manifest:
    """One file of rendered objects. `name` ends in .yaml and sorts in the order of application."""

    name: str
    text: str
    objects: Sequence[Mapping[str, Any]]


def render_all(spec: ClusterSpec, context: DeployContext) -> list[Manifest]:
    raise NotImplementedError


def apply_all(credentials: Access, manifests: Sequence[Manifest], deadline: Deadline, progress: Progress) -> None:
    raise NotImplementedError


def wait_nodes_ready(credentials: Access, count: int, deadline: Deadline, progress: Progress) -> None:
    raise NotImplementedError


def wait_agent_ready(credentials: Access, count: int, deadline: Deadline, progress: Progress) -> None:
    """anetd ready on `count` nodes."""
    raise NotImplementedError


def wait_dns_ready(credentials: Access, deadline: Deadline, progress: Progress) -> None:
    raise NotImplementedError
