"""The objects that a question about policies is asked over: a cluster's, those of files in their place, and what follows from them. Pure.

An object of a file stands for the cluster's of the same kind and name: "what if". What files lack is made up, and said: an address for a
pod that none has given one, the endpoints of a Service that no controller has seen, a namespace that objects are in.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

KINDS: Mapping[str, str] = {
    "Pod": "pods",
    "Namespace": "namespaces",
    "networking.k8s.io/NetworkPolicy": "networkpolicies",
    "Service": "services",
    "discovery.k8s.io/EndpointSlice": "endpointslices",
    "Node": "nodes",
}
"""GROUP/Kind -> the list of the document that the agent's compiler reads."""
PATHS: Mapping[str, str] = {
    "pods": "/api/v1/pods",
    "namespaces": "/api/v1/namespaces",
    "networkpolicies": "/apis/networking.k8s.io/v1/networkpolicies",
    "services": "/api/v1/services",
    "endpointslices": "/apis/discovery.k8s.io/v1/endpointslices",
    "nodes": "/api/v1/nodes",
}
"""Where an API server lists them."""
_CLUSTERWIDE = frozenset({"namespaces", "nodes"})
_SERVICE_LABEL = "kubernetes.io/service-name"
_FINISHED = frozenset({"Succeeded", "Failed"})
# Reserved for ever: in 0.0.0.0/0 and ::/0 as any pod's address would be, and in no network that a policy names by intent.
_MADE_UP = (ipaddress.ip_address("240.0.0.1"), ipaddress.ip_address("fd61:6e65:7464:ffff::1"))
_MADE_UP_SERVICE = ipaddress.ip_address("240.255.255.254")
Name = tuple[str, str]
Object = Mapping[str, Any]


@dataclass(slots=True)
class Objects:
    """By kind (as in KINDS' values) and (namespace, name). `notes` say what was made up."""

    kinds: dict[str, dict[Name, Object]] = field(default_factory=lambda: {kind: {} for kind in KINDS.values()})
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, item: Object) -> None:
        """The later of two of a name counts."""
        self.kinds[kind][name_of(kind, item)] = item

    def document(self) -> dict[str, list[Object]]:
        return {kind: list(items.values()) for kind, items in self.kinds.items()}


def name_of(kind: str, item: Object) -> Name:
    metadata = item.get("metadata") or {}
    return ("" if kind in _CLUSTERWIDE else metadata.get("namespace") or "default", metadata.get("name") or "")


def text_of(name: Name) -> str:
    return "/".join(part for part in name if part)


def is_finished(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in _FINISHED


def is_on_host(pod: Object) -> bool:
    return bool((pod.get("spec") or {}).get("hostNetwork"))


def addresses(pod: Object) -> list[str]:
    status = pod.get("status") or {}
    found = [entry["ip"] for entry in status.get("podIPs") or () if entry.get("ip")]
    return found or ([status["podIP"]] if status.get("podIP") else [])


def overlay(base: Objects, files: Objects) -> None:
    """Put the files' objects in the place of the cluster's; complete what they lack.

    A pod of a file keeps the address and node of the cluster's pod of that name, and the endpoints of every Service that pods or Services
    of files may have changed follow from selectors, as its controller would make them.
    """
    for kind, items in files.kinds.items():
        for name, item in items.items():
            live = base.kinds[kind].get(name)
            base.kinds[kind][name] = _COMPLETED[kind](item, live) if kind in _COMPLETED else item
    _complete(base, changed=set(files.kinds["services"]), all_services=bool(files.kinds["pods"]), given=files.kinds["endpointslices"])


def _with_status(pod: Object, live: Object | None) -> Object:
    if live is None or addresses(pod):
        return pod
    spec = {"nodeName": (live.get("spec") or {}).get("nodeName", "")} | dict(pod.get("spec") or {})
    return {**pod, "spec": spec, "status": live.get("status") or {}}


def _with_cluster_address(service: Object, live: Object | None) -> Object:
    """One without an address would count as headless. Which it is matters to nobody: policies see backends."""
    spec = service.get("spec") or {}
    if spec.get("clusterIP") or spec.get("clusterIPs") or spec.get("type") == "ExternalName":
        return service
    given = (live or {}).get("spec") or {}
    taken = {key: given[key] for key in ("clusterIP", "clusterIPs") if given.get(key)}
    return {**service, "spec": {**spec, **(taken or {"clusterIP": str(_MADE_UP_SERVICE), "clusterIPs": [str(_MADE_UP_SERVICE)]})}}


_COMPLETED = {"pods": _with_status, "services": _with_cluster_address}


def _complete(objects: Objects, *, changed: set[Name], all_services: bool, given: Mapping[Name, Object]) -> None:
    pods = objects.kinds["pods"]
    lacking = [name for name, pod in pods.items() if not addresses(pod) and not is_finished(pod) and not is_on_host(pod)]
    known = [address for pod in pods.values() for address in addresses(pod)]
    dual = not known or any(":" in address for address in known)
    for offset, name in enumerate(sorted(lacking)):
        ips = [{"ip": str(first + offset)} for first in _MADE_UP[: 2 if dual else 1]]
        pods[name] = {**pods[name], "status": {**(pods[name].get("status") or {}), "podIPs": ips}}
    if lacking:
        objects.notes.append(f"made up an address for {_some(lacking)}: no ipBlock but 0.0.0.0/0 and ::/0 matches it")
    spaces = {name[0] for kind, items in objects.kinds.items() if kind not in _CLUSTERWIDE for name in items}
    missing = sorted(spaces - {name for _, name in objects.kinds["namespaces"]})
    for space in missing:
        objects.add("namespaces", {"metadata": {"name": space, "labels": {"kubernetes.io/metadata.name": space}}})
    if missing:
        objects.notes.append(f"no object says what labels these namespaces have, so they have none but their name: {', '.join(missing)}")
    for name, service in objects.kinds["services"].items():
        sliced = any(_service_of(item) == name for item in given.values())
        if (name in changed or all_services) and (service.get("spec") or {}).get("selector") and not sliced:
            _slice(objects, name, service)


def _some(names: Iterable[Name]) -> str:
    shown = sorted(text_of(name) for name in names)
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} others" if len(shown) > 3 else "")


def _service_of(item: Object) -> Name:
    metadata = item.get("metadata") or {}
    return (metadata.get("namespace") or "default", (metadata.get("labels") or {}).get(_SERVICE_LABEL, ""))


def slices_of(objects: Objects, service: Name) -> list[Object]:
    """The EndpointSlices of a Service."""
    return [item for item in objects.kinds["endpointslices"].values() if _service_of(item) == service]


def selected(objects: Objects, service: Name) -> list[Name]:
    """The pods that a Service's selector selects: none where it has no selector."""
    wanted = (objects.kinds["services"][service].get("spec") or {}).get("selector") or {}
    found = []
    for name, pod in objects.kinds["pods"].items():
        labels = (pod.get("metadata") or {}).get("labels") or {}
        if wanted and name[0] == service[0] and not is_finished(pod) and all(labels.get(key) == value for key, value in wanted.items()):
            found.append(name)
    return sorted(found)


def _slice(objects: Objects, name: Name, service: Object) -> None:
    """In place of the Service's slices, those that its controller would make once all of its pods are ready."""
    slices = objects.kinds["endpointslices"]
    for own in [key for key, item in slices.items() if _service_of(item) == name]:
        del slices[own]
    pods = objects.kinds["pods"]
    families = (service.get("spec") or {}).get("ipFamilies") or ["IPv4", "IPv6"]
    for family in families:
        for number, pod_name in enumerate(selected(objects, name)):  # one a pod: named target ports differ between pods
            pod = pods[pod_name]
            fitting = [text for text in addresses(pod) if (":" in text) == (family == "IPv6")]
            ports = [entry for port in (service.get("spec") or {}).get("ports") or () if (entry := _slice_port(port, pod)) is not None]
            if fitting and ports:
                endpoint = {
                    "addresses": fitting[:1],
                    "conditions": {"ready": True},
                    "nodeName": (pod.get("spec") or {}).get("nodeName", ""),
                    "targetRef": {"kind": "Pod", "namespace": pod_name[0], "name": pod_name[1]},
                }
                metadata = {"namespace": name[0], "name": f"{name[1]}-{family.lower()}-{number}", "labels": {_SERVICE_LABEL: name[1]}}
                objects.add("endpointslices", {"metadata": metadata, "addressType": family, "endpoints": [endpoint], "ports": ports})


def _slice_port(port: Mapping[str, Any], pod: Object) -> dict[str, Any] | None:
    protocol = port.get("protocol") or "TCP"
    target = port.get("targetPort") or port.get("port")
    number = target if isinstance(target, int) else named_port(pod, str(target), protocol)
    return None if number is None else {"name": port.get("name") or "", "protocol": protocol, "port": number}


def container_ports(pod: Object) -> Iterator[tuple[str, str, int]]:
    """Name ("" without), protocol and number of each port that the pod's containers declare."""
    spec = pod.get("spec") or {}
    sidecars = [item for item in spec.get("initContainers") or () if item.get("restartPolicy") == "Always"]
    for container in [*(spec.get("containers") or ()), *sidecars]:
        for port in container.get("ports") or ():
            if isinstance(port.get("containerPort"), int):
                yield port.get("name") or "", port.get("protocol") or "TCP", port["containerPort"]


def named_port(pod: Object, name: str, protocol: str) -> int | None:
    return next((number for own, kind, number in container_ports(pod) if own == name and kind == protocol), None)
