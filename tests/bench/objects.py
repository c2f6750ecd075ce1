"""The objects of the Service benchmark, and a client that makes ten thousand of them in a minute: JSON over kept connections.

`provisioner.deploy.client` applies and reads, which is all that a product needs; a benchmark creates and deletes, on several connections
at once, and wants to know when the answer came.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from typing import Any, TypeVar

from tests.cluster.api import Api

T = TypeVar("T")

NAMESPACE = "bench"
MADE_BY = {"endpointslice.kubernetes.io/managed-by": "bench"}
ENDPOINTS = 4
CONNECTIONS = 32  # each waits for the disk most of the time


class Maker(Api):
    """The suite's client, for an API server that is to make thousands of objects."""

    def create(self, obj: dict[str, Any]) -> dict[str, Any]:
        return self.request("POST", collection(obj), obj)

    def create_all(self, objects: Iterable[dict[str, Any]]) -> None:
        self.each(self.create, objects)

    @staticmethod
    def each(work: Callable[[T], object], items: Iterable[T]) -> None:
        """`work` of every item, on as many connections as there are."""
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for _ in pool.map(work, items):
                pass

    def delete_slices(self, selector: str) -> None:
        """And wait until none is left."""
        path = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices?labelSelector={selector}"
        self.request("DELETE", path)
        while self.request("GET", path)["items"]:
            time.sleep(0.2)


def collection(obj: dict[str, Any]) -> str:
    group = "/api/v1" if "/" not in obj["apiVersion"] else f"/apis/{obj['apiVersion']}"
    return f"{group}/namespaces/{obj['metadata']['namespace']}/{obj['kind'].lower()}s"


def service(name: str, ports: list[dict[str, Any]], **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": ports, **spec}}


def plain_service(name: str) -> dict[str, Any]:
    """Without a selector: its endpoints are what the benchmark says."""
    return service(name, [{"port": 80}])


def endpoint_slice(name: str, addresses: Iterable[str], port: int, group: str) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": name, "bench": group, **MADE_BY}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
    }


def filler(numbers: Iterable[int], pods: IPv4Network) -> Iterator[dict[str, Any]]:
    """Services with `ENDPOINTS` endpoints each that nobody asks: addresses out of the upper half of the pods', which no node has."""
    half = pods.num_addresses // 2
    for number in numbers:
        addresses = (str(pods[half + (number * ENDPOINTS + each) % half]) for each in range(ENDPOINTS))
        yield plain_service(f"filler-{number}")
        yield endpoint_slice(f"filler-{number}", addresses, 8080, "filler")
