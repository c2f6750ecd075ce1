"""What GKE does, without a wire: clusters, operations that take time, refusals, and faults on demand.

Requests and answers are the protobuf messages of google-cloud-container. Nothing runs in the background: what time has brought about is
looked up when somebody asks. The server's refusals are worded as GKE's are where a source has them.
"""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from google.cloud.container_v1 import types

Cluster = types.Cluster.pb()
Operation = types.Operation.pb()
_Type, _OpStatus, _Status = types.Operation.Type, types.Operation.Status, types.Cluster.Status

DEFAULT_VERSION = "1.34.1-gke.1829001"
CALICO_REFUSED = "Enabling NetworkPolicy for clusters with DatapathProvider=ADVANCED_DATAPATH is not allowed."
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
_PLACE = re.compile(r"projects/([^/]+)/locations/([^/]+)")
# google.rpc.Code
INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, EXHAUSTED, PRECONDITION, INTERNAL, UNAVAILABLE, UNAUTHENTICATED = (
    3, 5, 6, 7, 8, 9, 13, 14, 16,
)  # fmt: skip


class ServerError(Exception):
    """A refusal: a google.rpc.Code, GKE's sentence, and the reason that ErrorInfo carries."""

    def __init__(self, code: int, message: str, reason: str = "", metadata: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.reason, self.metadata = code, message, reason, metadata or {}


@dataclass
class Fault:
    """What goes wrong with the next `times` calls of a method ("*": of any), once `after` of them have gone well.

    kind  "hang" (no answer), "reset" (the connection breaks unanswered), "reset-after" (the same, but the deed is done), "half" (the answer
          breaks off), or a `ServerError`.
    """

    method: str
    kind: str | ServerError
    times: int = 1
    after: int = 0


@dataclass
class _Running:
    """An operation, when it ends, and what its end brings."""

    message: Any
    target: str
    ends: float
    finish: Callable[[], None]


@dataclass
class Core:
    """One GKE. `operation_seconds` of `clock` is what an operation takes."""

    operation_seconds: float = 0.0
    clock: Callable[[], float] = time.monotonic
    projects: set[str] = field(default_factory=lambda: {"demo"})
    endpoint: str = "203.0.113.10"
    ca_certificate: str = ""  # base64 of a PEM
    # An error that each new create operation ends with: (google.rpc.Code, message).
    operation_error: tuple[int, str] | None = None
    # Operations end well, and the cluster is not there.
    lies: bool = False
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, Any]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)  # of creates, as they came over REST
    clusters: dict[str, Any] = field(default_factory=dict)
    operations: dict[str, _Running] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    released: threading.Event = field(default_factory=threading.Event)  # ends what hangs
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    # ---- what the transports call ----

    def take_fault(self, method: str) -> str | ServerError | None:
        with self.lock:
            for fault in self.faults:
                if fault.method not in {method, "*"} or fault.times <= 0:
                    continue
                if fault.after > 0:
                    fault.after -= 1
                    continue
                fault.times -= 1
                return fault.kind
        return None

    def call(self, method: str, request: Any) -> Any:
        """The answer to one request. Raises `ServerError`."""
        with self.lock:
            self.requests.append((method, request))
            self._advance()
            return getattr(self, method)(request)

    def count(self, method: str) -> int:
        """How many requests of a method came."""
        with self.lock:
            return sum(1 for name, _ in self.requests if name == method)

    # ---- the service ----

    def create_cluster(self, request: Any) -> Any:
        project, location = self._place(request.parent)
        asked = request.cluster
        self._check_new(asked)
        name = f"{request.parent}/clusters/{asked.name}"
        if name in self.clusters:
            raise ServerError(ALREADY_EXISTS, f"Already exists: {name}.")
        cluster = Cluster()
        cluster.CopyFrom(asked)
        self._fill_in(cluster, project, location)
        cluster.status = _Status.PROVISIONING
        self.clusters[name] = cluster

        def finish() -> None:
            if self.lies:
                self.clusters.pop(name, None)
            elif name in self.clusters:
                cluster.status = _Status.ERROR if operation.error.code else _Status.RUNNING

        operation = self._begin(_Type.CREATE_CLUSTER, name, location, finish)
        if self.operation_error is not None:
            operation.error.code, operation.error.message = self.operation_error
        return operation

    def get_cluster(self, request: Any) -> Any:
        return self._found(request.name)

    def list_clusters(self, request: Any) -> Any:
        project, location = self._place(request.parent)
        answer = types.ListClustersResponse.pb()()
        for name, cluster in sorted(self.clusters.items()):
            if name.startswith(f"projects/{project}/") and location in {"-", cluster.location}:
                answer.clusters.append(cluster)
        return answer

    def delete_cluster(self, request: Any) -> Any:
        cluster = self._found(request.name)
        self._refuse_while_busy(cluster, request.name)
        cluster.status = _Status.STOPPING

        def finish() -> None:
            self.clusters.pop(request.name, None)

        return self._begin(_Type.DELETE_CLUSTER, request.name, cluster.location, finish)

    def update_cluster(self, request: Any) -> Any:
        cluster, update = self._found(request.name), request.update
        self._refuse_while_busy(cluster, request.name)
        network = cluster.network_config
        for name, where in (
            ("desired_enable_fqdn_network_policy", (network, "enable_fqdn_network_policy")),
            ("desired_enable_cilium_clusterwide_network_policy", (network, "enable_cilium_clusterwide_network_policy")),
            ("desired_in_transit_encryption_config", (network, "in_transit_encryption_config")),
            ("desired_enable_multi_networking", (network, "enable_multi_networking")),
        ):
            if update.HasField(name):
                setattr(*where, getattr(update, name))
        if update.HasField("desired_monitoring_config"):
            cluster.monitoring_config.MergeFrom(update.desired_monitoring_config)
        if update.desired_datapath_provider:
            raise ServerError(INVALID_ARGUMENT, "DatapathProvider cannot be changed.")
        return self._begin(_Type.UPDATE_CLUSTER, request.name, cluster.location, lambda: None)

    def set_network_policy(self, request: Any) -> Any:
        cluster = self._found(request.name)
        self._check_calico(request.network_policy, cluster.network_config)
        cluster.network_policy.CopyFrom(request.network_policy)
        return self._begin(_Type.UPDATE_CLUSTER, request.name, cluster.location, lambda: None)

    def set_labels(self, request: Any) -> Any:
        cluster = self._found(request.name)
        if request.label_fingerprint != cluster.label_fingerprint:
            raise ServerError(PRECONDITION, "Labels could not be set due to fingerprint mismatch.")
        cluster.resource_labels.clear()
        cluster.resource_labels.update(request.resource_labels)
        cluster.label_fingerprint = f"{next(self._numbers):08x}"
        return self._begin(_Type.UPDATE_CLUSTER, request.name, cluster.location, lambda: None)

    def get_operation(self, request: Any) -> Any:
        self._place(request.name)
        running = self.operations.get(request.name)
        if running is None:
            raise ServerError(NOT_FOUND, f"Not found: {request.name}.")
        return running.message

    def list_operations(self, request: Any) -> Any:
        project, location = self._place(request.parent)
        answer = types.ListOperationsResponse.pb()()
        for name, running in self.operations.items():
            if name.startswith(f"projects/{project}/") and location in {"-", running.message.location}:
                answer.operations.append(running.message)
        return answer

    def get_server_config(self, request: Any) -> Any:
        self._place(request.name)
        answer = types.ServerConfig.pb()()
        answer.default_cluster_version = DEFAULT_VERSION
        answer.valid_master_versions.append(DEFAULT_VERSION)
        return answer

    # ---- inside ----

    def _advance(self) -> None:
        for running in self.operations.values():
            if running.message.status != _OpStatus.DONE and self.clock() >= running.ends:
                running.message.status = _OpStatus.DONE
                running.message.end_time = _now()
                running.finish()

    def _begin(self, kind: Any, target: str, location: str, finish: Callable[[], None]) -> Any:
        project = target.split("/")[1]
        # As GKE does it: by the project's number.
        link = target.replace(f"projects/{project}/", "projects/123456789012/")
        number = f"operation-{next(self._numbers):013d}-test"
        operation = Operation(
            name=number,
            operation_type=kind,
            status=_OpStatus.RUNNING,
            location=location,
            zone=location,
            start_time=_now(),
            target_link=f"https://container.googleapis.com/v1/{link}",
            self_link=f"https://container.googleapis.com/v1/projects/{project}/locations/{location}/operations/{number}",
        )
        full = f"projects/{project}/locations/{location}/operations/{number}"
        self.operations[full] = _Running(operation, target, self.clock() + self.operation_seconds, finish)
        answer = Operation()
        answer.CopyFrom(operation)
        return operation if kind == _Type.CREATE_CLUSTER else answer

    def _place(self, name: str) -> tuple[str, str]:
        match = _PLACE.match(name)
        if match is None:
            raise ServerError(INVALID_ARGUMENT, f"Invalid resource name {name!r}.")
        project, location = match.groups()
        if project not in self.projects:
            metadata = {"consumer": f"projects/{project}", "service": "container.googleapis.com"}
            raise ServerError(PERMISSION_DENIED, f"Permission denied on resource project {project}.", "CONSUMER_INVALID", metadata)
        return project, location

    def _found(self, name: str) -> Any:
        self._place(name)
        if name not in self.clusters:
            raise ServerError(NOT_FOUND, f"Not found: {name}.")
        return self.clusters[name]

    def _refuse_while_busy(self, cluster: Any, name: str) -> None:
        for running in self.operations.values():
            if running.message.status != _OpStatus.DONE and running.target == name:
                text = f"Cluster is running incompatible operation {running.message.name}."
                raise ServerError(PRECONDITION, text, "CLUSTER_ALREADY_HAS_OPERATION")

    def _check_new(self, asked: Any) -> None:
        if not _NAME.fullmatch(asked.name):
            raise ServerError(INVALID_ARGUMENT, f'Invalid value for field "cluster.name": {asked.name!r}.')
        if asked.node_pools and (asked.initial_node_count or asked.HasField("node_config")):
            raise ServerError(INVALID_ARGUMENT, "Cluster.node_pools and the deprecated fields of nodes cannot be specified together.")
        if not asked.node_pools and not asked.initial_node_count:
            raise ServerError(INVALID_ARGUMENT, "Cluster.initial_node_count must be greater than zero.")
        self._check_calico(asked.network_policy, asked.network_config)

    def _check_calico(self, policy: Any, network: Any) -> None:
        if policy.enabled and network.datapath_provider == types.DatapathProvider.ADVANCED_DATAPATH:
            raise ServerError(INVALID_ARGUMENT, CALICO_REFUSED)

    def _fill_in(self, cluster: Any, project: str, location: str) -> None:
        """The fields that GKE answers with and nobody asked for."""
        region = location if location.count("-") == 1 else location.rpartition("-")[0]
        zones = [location] if region != location else [f"{region}-{letter}" for letter in "abc"]
        cluster.location = cluster.zone = location
        if not cluster.locations:
            cluster.locations.extend(zones)
        version = cluster.initial_cluster_version
        full = version if "-gke." in version else f"{version}.1-gke.1829001" if version.count(".") == 1 else DEFAULT_VERSION
        cluster.initial_cluster_version = cluster.current_master_version = cluster.current_node_version = full
        cluster.id = f"{next(self._numbers):064x}"
        cluster.endpoint = self.endpoint
        cluster.master_auth.cluster_ca_certificate = self.ca_certificate
        cluster.create_time = _now()
        cluster.self_link = f"https://container.googleapis.com/v1/projects/{project}/locations/{location}/clusters/{cluster.name}"
        cluster.label_fingerprint = f"{next(self._numbers):08x}"
        cluster.network = cluster.network or "default"
        cluster.subnetwork = cluster.subnetwork or cluster.ip_allocation_policy.subnetwork_name or "default"
        cluster.network_config.network = f"projects/{project}/global/networks/{cluster.network}"
        cluster.network_config.subnetwork = f"projects/{project}/regions/{region}/subnetworks/{cluster.subnetwork}"
        policy = cluster.ip_allocation_policy
        if not policy.use_routes:
            policy.use_ip_aliases = True
            policy.create_subnetwork = False  # an input alone
        cluster.cluster_ipv4_cidr = cluster.cluster_ipv4_cidr or policy.cluster_ipv4_cidr_block or "10.64.0.0/14"
        policy.cluster_ipv4_cidr_block = cluster.cluster_ipv4_cidr
        policy.services_ipv4_cidr_block = policy.services_ipv4_cidr_block or "34.118.224.0/20"
        cluster.services_ipv4_cidr = policy.services_ipv4_cidr_block
        if cluster.autopilot.enabled:
            cluster.network_config.datapath_provider = types.DatapathProvider.ADVANCED_DATAPATH
            cluster.network_config.enable_intra_node_visibility = True
        for pool in cluster.node_pools:
            pool.status = types.NodePool.Status.RUNNING
            pool.version = pool.version or full
            pool.config.machine_type = pool.config.machine_type or "e2-medium"
            if not pool.locations:
                pool.locations.extend(cluster.locations)
        cluster.current_node_count = sum(pool.initial_node_count * len(pool.locations) for pool in cluster.node_pools)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
