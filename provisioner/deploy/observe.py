"""What a running cluster has that the gates ask about: its objects, page by page, and facts about its network. Only reads.

Which kinds to list follows from the matrix; the API server says where they are served, and a kind that it does not serve has no objects.
What may not be read is told apart from what is not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from provisioner.deploy.apply import FIELD_MANAGER
from provisioner.deploy.client import ApiError, Client
from provisioner.deploy.render import AGENT, DNS, NAMESPACE

_PAGE = "500"
_NOT_THERE = 404
FACTS_KIND = "ClusterFacts"
API_VERSION = "provisioner.dev/v1alpha1"


@dataclass(frozen=True, slots=True)
class Unread:
    """A kind (GROUP/Kind) whose objects could not be listed."""

    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Facts:
    """`agent`: anetd of this project is deployed. `ready_nodes` that are Ready without it have another network."""

    version: str
    nodes: int
    ready_nodes: int
    agent: bool
    own_dns: bool
    foreign_dns: bool
    pod_cidrs: Sequence[str]
    service_cidrs: Sequence[str]
    dns_addresses: Sequence[str]
    api_server: str

    @property
    def is_gke(self) -> bool:
        return "-gke." in self.version

    def to_document(self, pod_cidrs: Iterable[Any] = (), service_cidrs: Iterable[Any] = ()) -> dict[str, Any]:
        """For the gates; the networks are those that anetd would be told."""
        return {
            "apiVersion": API_VERSION,
            "kind": FACTS_KIND,
            "metadata": {"name": self.version},
            "otherNetwork": self.is_gke or (self.ready_nodes > 0 and not self.agent),
            "podCIDRsOutside": _outside(self.pod_cidrs, list(pod_cidrs)),
            "serviceCIDRsOutside": _outside(self.service_cidrs, list(service_cidrs)),
        }


def _outside(found: Iterable[str], told: Sequence[Any]) -> list[str]:
    networks = [ip_network(text) for text in found]
    families = {network.version for network in told}
    return [
        str(network)
        for network in networks
        if network.version in families and not any(network.version == other.version and network.subnet_of(other) for other in told)
    ]


def objects(client: Client, kinds: Iterable[str], unread: list[Unread]) -> Iterator[dict[str, Any]]:
    """Every object of the kinds (GROUP/Kind, Kind, GROUP/*) that the cluster serves, but for what a controller made for another object."""
    groups: dict[str, set[str]] = {}
    for kind in kinds:
        group, _, name = kind.rpartition("/")
        groups.setdefault(group, set()).add(name)
    for group, names in sorted(groups.items()):
        try:
            base = _preferred(client, group)
            if base is None:
                continue
            resources = client.get(base).get("resources") or []
        except ApiError as error:
            if error.status != _NOT_THERE:
                unread.append(Unread(f"{group}/*" if group else "core", str(error)))
            continue
        for resource in resources:
            is_wanted = "*" in names or resource["kind"] in names
            if is_wanted and "/" not in resource["name"] and "list" in resource.get("verbs", ()):
                yield from _list(client, base, group, resource, unread)


def _preferred(client: Client, group: str) -> str | None:
    if not group:
        return "/api/v1"
    try:
        version: str = client.get(f"/apis/{group}")["preferredVersion"]["groupVersion"]
    except ApiError as error:
        if error.status == _NOT_THERE:
            return None
        raise
    return f"/apis/{version}"


def _list(client: Client, base: str, group: str, resource: Mapping[str, Any], unread: list[Unread]) -> Iterator[dict[str, Any]]:
    kind = resource["kind"]
    query = {"limit": _PAGE}
    while True:
        try:
            page = client.get(f"{base}/{resource['name']}", **query)
        except ApiError as error:
            unread.append(Unread(f"{group}/{kind}" if group else kind, str(error)))
            return
        for item in page.get("items") or ():
            if not any(owner.get("controller") for owner in item["metadata"].get("ownerReferences") or ()):
                yield {"apiVersion": base.removeprefix("/apis/").removeprefix("/api/"), "kind": kind, **item}
        token = page.get("metadata", {}).get("continue")
        if not token:
            return
        query["continue"] = token


def facts(client: Client) -> Facts:
    """Raises `ApiError` where even this may not be read, `UnavailableError` where nobody answers."""
    nodes = client.get("/api/v1/nodes")["items"]
    agent = _optional(client, f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/{AGENT}")
    dns_service = _optional(client, f"/api/v1/namespaces/{NAMESPACE}/services/kube-dns")
    dns = _optional(client, f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{DNS}")
    return Facts(
        version=client.get("/version").get("gitVersion", ""),
        nodes=len(nodes),
        ready_nodes=sum(_is_ready(node) for node in nodes),
        agent=agent is not None and _is_ours(agent),
        own_dns=dns is not None and _is_ours(dns),
        foreign_dns=dns_service is not None and not _is_ours(dns_service),
        pod_cidrs=[cidr for node in nodes for cidr in node["spec"].get("podCIDRs") or ()],
        service_cidrs=_service_cidrs(client),
        dns_addresses=(dns_service or {}).get("spec", {}).get("clusterIPs") or (),
        api_server=_api_server(client),
    )


def settings(client: Client) -> dict[str, Any]:
    """The configuration of the anetd that is there already; empty where there is none."""
    import json

    config = _optional(client, f"/api/v1/namespaces/{NAMESPACE}/configmaps/anetd-config")
    found: dict[str, Any] = {} if config is None else json.loads(config["data"]["config.json"])
    return found


def admission_mode(client: Client) -> str | None:
    """What the admission policies of an earlier deploy do."""
    config = _optional(client, f"/api/v1/namespaces/{NAMESPACE}/configmaps/provisioner-gates") or {}
    mode: str | None = config.get("data", {}).get("admission")
    return mode


def pod_ranges(client: Client) -> Sequence[str]:
    """What kubeadm's configuration says of the pods' range; empty where it says nothing."""
    import yaml

    config = _optional(client, f"/api/v1/namespaces/{NAMESPACE}/configmaps/kubeadm-config") or {}
    networking = (yaml.safe_load(config.get("data", {}).get("ClusterConfiguration", "")) or {}).get("networking") or {}
    return [text for text in str(networking.get("podSubnet", "")).split(",") if text]


def _optional(client: Client, path: str) -> dict[str, Any] | None:
    try:
        return client.get(path)
    except ApiError as error:
        if error.status == _NOT_THERE:
            return None
        raise


def _is_ours(document: Mapping[str, Any]) -> bool:
    return any(entry.get("manager") == FIELD_MANAGER for entry in document["metadata"].get("managedFields") or ())


def _is_ready(node: Mapping[str, Any]) -> bool:
    conditions = node.get("status", {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _service_cidrs(client: Client) -> Sequence[str]:
    """From the ServiceCIDR objects (Kubernetes 1.33 and later), else the one address that is known to be in the range."""
    listed = _optional(client, "/apis/networking.k8s.io/v1/servicecidrs")
    found = [cidr for item in (listed or {}).get("items") or () for cidr in item["spec"].get("cidrs") or ()]
    if found:
        return found
    service = _optional(client, "/api/v1/namespaces/default/services/kubernetes") or {}
    return [str(ip_network(address)) for address in service.get("spec", {}).get("clusterIPs") or ()]


def _api_server(client: Client) -> str:
    """As the nodes reach it: where the Service `kubernetes` leads. Empty where it leads nowhere."""
    listed = _optional(client, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes") or {}
    for endpoint in listed.get("endpoints") or ():
        for address in endpoint["addresses"]:
            host = f"[{address}]" if ":" in address else address
            return f"https://{host}:{listed['ports'][0]['port']}"
    return ""
