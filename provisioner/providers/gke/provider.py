"""Clusters of Google Kubernetes Engine. `GkeProvider` plans from what GKE says; the steps are in `create.py` and `remove.py`."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provisioner import errors
from provisioner.plan.steps import Deadline, Plan, Progress
from provisioner.providers.base import ClusterInfo, ClusterState, Credentials
from provisioner.providers.gke import memory, remove
from provisioner.providers.gke.api import LOCATION_VARIABLES, Api
from provisioner.providers.gke.create import Creation, refuse_differing
from provisioner.providers.gke.differences import EXPIRY_LABEL
from provisioner.providers.gke.request import Json, create_request, parent
from provisioner.providers.gke.verify import Kubernetes
from provisioner.spec import ClusterSpec

PLUGIN = "gke-gcloud-auth-plugin"
_EVERYWHERE = "-"
_STATES: Mapping[str, ClusterState] = {
    "PROVISIONING": ClusterState.INCOMPLETE,
    "RUNNING": ClusterState.RUNNING,
    "RECONCILING": ClusterState.RUNNING,
    "STOPPING": ClusterState.INCOMPLETE,
}


@dataclass
class GkeProvider:
    """`project` and `location` are the command's; what is left out comes from the credentials and gcloud's variables."""

    api: Api
    project: str = ""
    location: str = ""
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    pause: Callable[[float], None] = time.sleep
    name: str = "gke"

    @property
    def _root(self) -> Path:
        return memory.state_root(self.environment)

    def _project(self, of_spec: str | None = None) -> str:
        project = of_spec or self.project or self.api.project
        if not project:
            raise errors.SpecInvalid(
                "no project is given, and the credentials do not name one", remedy="Give --project ID.", field="spec.gke.project"
            )
        return project

    def _location(self, of_spec: str | None = None) -> str:
        """A region or zone; empty where none is given."""
        return of_spec or self.location or next((self.environment[name] for name in LOCATION_VARIABLES if self.environment.get(name)), "")

    # ---- plans ----

    def plan_create(self, spec: ClusterSpec) -> Plan:
        """Between what GKE has and `spec`. Raises `errors.Conflict` for a cluster that differs, with each difference."""
        location = self._location(spec.gke.location)
        if not location:
            raise errors.SpecInvalid("no location is given", remedy="Give --location REGION or ZONE.", field="spec.gke.location")
        self.project, self.location = self._project(spec.gke.project), location
        request = self.api.canonical(create_request(spec, self.project, location))
        found = self.api.cluster(f"{request['parent']}/clusters/{spec.name}")
        if found is not None:
            refuse_differing(request, found)
        return Creation(
            self.api, self._root, spec, create_request(spec, self.project, location), found, self._kubernetes, self.pause
        ).plan()

    def plan_stop(self, name: str) -> Plan:
        raise errors.RefusedByGate(
            f"{name} cannot be stopped: GKE has no such state", remedy=f"Delete it: delete-cluster {name} --provider gke."
        )

    def plan_delete(self, name: str) -> Plan:
        """Removes the cluster. Raises `errors.NotFound` when there is none."""
        return remove.plan_delete(self.api, self._root, self._full_name(self._find(name)), self.pause)

    # ---- questions ----

    def journal(self, name: str) -> Path:
        """In the state directory of the user."""
        return memory.directory(self._root, self._project(), self._location() or _EVERYWHERE, name) / "journal.jsonl"

    def list(self) -> Sequence[ClusterInfo]:
        return [self._info(cluster) for cluster in self.api.clusters(parent(self._project(), self._location() or _EVERYWHERE))]

    def expired(self, now: float) -> Sequence[tuple[ClusterInfo, float]]:
        """The clusters whose time is over, of those that have one, and since how many seconds."""
        infos = ((info, expires_at(info.details["labels"])) for info in self.list())
        return [(info, now - end) for info, end in infos if end is not None and end <= now]

    def describe(self, name: str) -> ClusterInfo:
        return self._info(self._find(name))

    def credentials(self, name: str) -> Credentials:
        return self._credentials(self._find(name))

    def load_image(self, name: str, archives: Sequence[Path], _deadline: Deadline, _progress: Progress) -> Sequence[str]:
        raise errors.RefusedByGate(
            f"{len(archives)} archives cannot be loaded into {name}: nodes of GKE pull their images",
            remedy="Push them to Artifact Registry, which the nodes can reach.",
        )

    def has_image(self, _name: str, _image: str) -> bool:
        """Never: nobody here sees what nodes of GKE have pulled."""
        return False

    def context(self, name: str) -> str:
        """gcloud's name for it."""
        return f"gke_{self._project()}_{self._location() or self._find(name)['location']}_{name}"

    def going_on(self, name: str) -> str:
        """What GKE does without us."""
        record = memory.read(self._root, self._project(), self._location(), name)
        if record is None or not record.requested_at:
            return ""
        operation = record.operation or "the request, if it was sent,"
        return (
            f"{operation} goes on in GKE without this command. Run the same command again to wait for it, or remove the cluster with: "
            f"provisioner delete-cluster {name} --provider gke --project {record.project} --location {record.location}"
        )

    def made_here(self, name: str) -> bool:
        record = memory.read(self._root, self._project(), self._location(), name)
        return record is not None and record.ours

    # ---- inside ----

    def _find(self, name: str) -> Json:
        """The one cluster of a name. The place may be left out where only one has it."""
        project, location = self._project(), self._location()
        if location and location != _EVERYWHERE:
            cluster = self.api.cluster(f"{parent(project, location)}/clusters/{name}")
            found = [cluster] if cluster is not None else []
        else:
            found = [cluster for cluster in self.api.clusters(parent(project, _EVERYWHERE)) if cluster.get("name") == name]
        if not found:
            where = f"in {location} of project {project}" if location else f"in project {project}"
            raise errors.NotFound(f"there is no cluster {name} {where}", remedy=f"See: list-clusters --provider gke --project {project}.")
        if len(found) > 1:
            places = ", ".join(sorted(cluster["location"] for cluster in found))
            raise errors.Usage(f"{name} is in several places: {places}", remedy="Say which with --location.", field="--location")
        self.project, self.location = project, found[0]["location"]
        return found[0]

    def _full_name(self, cluster: Json) -> str:
        return f"{parent(self._project(), cluster['location'])}/clusters/{cluster['name']}"

    def _credentials(self, cluster: Json) -> Credentials:
        server = endpoint(cluster)
        if not server:
            raise errors.Conflict(
                f"the cluster {cluster['name']} has no endpoint yet", remedy="Run create-cluster again, which waits for it."
            )
        authority = base64.b64decode(cluster.get("masterAuth", {}).get("clusterCaCertificate", "")).decode("ascii", "replace")
        return Credentials(server, "" if _has_dns(cluster, server) else authority, "", "", exec_plugin=PLUGIN)

    def _kubernetes(self, cluster: Json) -> Kubernetes:
        return Kubernetes(self._credentials(cluster), self.api.token, self.pause)

    def _info(self, cluster: Json) -> ClusterInfo:
        name, location = cluster["name"], cluster.get("location", "")
        record = memory.read(self._root, self._project(), location, name)
        spec = _spec_of(record, name, self._project(), location)
        network = cluster.get("networkConfig", {})
        labels = cluster.get("resourceLabels", {})
        end = expires_at(labels)
        details = {
            "project": self._project(),
            "location": location,
            "locations": cluster.get("locations", []),
            "status": cluster.get("status", ""),
            "statusMessage": cluster.get("statusMessage", ""),
            "autopilot": cluster.get("autopilot", {}).get("enabled", False),
            "datapathProvider": network.get("datapathProvider", ""),
            "releaseChannel": cluster.get("releaseChannel", {}).get("channel", ""),
            "networkConfig": network,
            "nodePools": [_pool(pool) for pool in cluster.get("nodePools", ())],
            "labels": labels,
            "expires": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end)) if end is not None else None,
            "operation": record.operation if record else None,
            "verified": record.verified if record else None,
        }  # fmt: skip
        return ClusterInfo(
            name=name,
            provider=self.name,
            state=_STATES.get(str(cluster.get("status")), ClusterState.DEGRADED),
            kubernetes_version=cluster.get("currentMasterVersion", ""),
            num_nodes=int(cluster.get("currentNodeCount", 0)),
            endpoint=endpoint(cluster),
            created=cluster.get("createTime", ""),
            spec=spec,
            details=details,
        )


def _pool(pool: Json) -> Json:
    told = {key: pool.get(key, "") for key in ("name", "version", "status")}
    return told | {"machineType": pool.get("config", {}).get("machineType", "")}


def endpoint(cluster: Json) -> str:
    """Where the API server is: its DNS name where that is the only way in for everybody, else its address."""
    dns = cluster.get("controlPlaneEndpointsConfig", {}).get("dnsEndpointConfig", {})
    addresses = cluster.get("controlPlaneEndpointsConfig", {}).get("ipEndpointsConfig", {})
    closed = addresses.get("enablePublicEndpoint") is False or addresses.get("enabled") is False
    if dns.get("allowExternalTraffic") and dns.get("endpoint") and closed:
        return f"https://{dns['endpoint']}"
    address = cluster.get("endpoint", "")
    return f"https://{address}" if address else ""


def _has_dns(cluster: Json, server: str) -> bool:
    """A DNS endpoint has a certificate that every machine trusts, not one of the cluster's own authority."""
    dns = cluster.get("controlPlaneEndpointsConfig", {}).get("dnsEndpointConfig", {}).get("endpoint")
    return bool(dns) and server == f"https://{dns}"


def expires_at(labels: Mapping[str, Any]) -> float | None:
    """Seconds since 1970 at which a cluster's time is over, or None for one without a (readable) end."""
    text = str(labels.get(EXPIRY_LABEL, ""))
    return float(text) if text.isdigit() else None


def _spec_of(record: memory.Record | None, name: str, project: str, location: str) -> ClusterSpec:
    """What was asked for from here; of clusters that others made, no more than where they are."""
    if record is not None:
        try:
            return ClusterSpec.from_document(record.spec)
        except ValueError:
            pass  # written by another version
    document = {
        "apiVersion": "provisioner.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": {"name": name},
        "spec": {"provider": "gke", "gke": {"project": project, "location": location}},
    }
    return ClusterSpec.from_document(document)
