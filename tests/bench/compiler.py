"""What the tables of Services cost the agent: from the API server's JSON to the bytes of the rows, with the kernel left out.

    python -m tests.bench.compiler [--services 10000] [--endpoints 4] [--kind ClusterIP] [--json FILE]

Pages of 500 objects, as the agent lists them, are decoded into records, the records compiled into rows, and the rows packed as the
kernel gets them. Then slices change one at a time. Seconds are of one core (CPU time of the process); memory is resident.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agent.datapath import abi
from agent.observe.metrics import resident_bytes
from agent.reconcile.applier import apply
from agent.reconcile.compiler import Compiler
from agent.reconcile.diff import Delete, Put, Step
from agent.reconcile.tables import KernelRows, Limits
from agent.services.inputs import Inputs
from agent.services.vantage import Vantage
from agent.watch import records
from agent.watch.reflector import PAGE_SIZE, Reflector, Replace, Resource, Upsert

CODECS: dict[str, tuple[abi.Codec[Any], abi.Codec[Any]]] = {
    "frontends": (abi.FRONTEND_KEY, abi.FRONTEND),
    "backend_slots": (abi.SLOT_KEY, abi.BACKEND_ID),
    "backends": (abi.BACKEND_ID, abi.BACKEND),
    "maglev": (abi.BACKEND_ID, abi.MAGLEV_ROW),
    "source_ranges": (abi.SOURCE_RANGE_KEY, abi.SOURCE_RANGE_ROW),
}
CHANGES = 500


class Packer:
    """A table that packs rows and keeps none."""

    def __init__(self, table: str) -> None:
        self.key, self.value = CODECS[table]

    def put_many(self, rows: Any) -> None:
        for key, row in rows.items():
            self.key.pack(key)
            self.value.pack(row)

    def delete_many(self, keys: Any) -> int:
        for key in keys:
            self.key.pack(key)
        return len(keys)


TABLES = {name: Packer(name) for name in CODECS}


def service(number: int, kind: str) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "type": kind,
        "clusterIP": f"10.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}",
        "clusterIPs": [f"10.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"],
        "ports": [
            {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080, "nodePort": 20000 + number if kind != "ClusterIP" else 0}
        ],
        "selector": {"app": f"service-{number}"},
        "sessionAffinity": "None",
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "internalTrafficPolicy": "Cluster",
    }
    return {"metadata": metadata(number, f"service-{number}"), "spec": spec, "status": {"loadBalancer": {}}}


def metadata(number: int, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": f"namespace-{number % 100}",
        "uid": f"00000000-0000-4000-8000-{number:012d}",
        "resourceVersion": str(1000 + number),
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }


def endpoint_slice(number: int, endpoints: int, version: int = 0) -> dict[str, Any]:
    found = metadata(number, f"service-{number}-abcde") | {"labels": {"kubernetes.io/service-name": f"service-{number}"}}
    ends = [
        {
            "addresses": [f"10.{128 + (place >> 16)}.{place >> 8 & 255}.{place & 255}"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": f"node-{place % 100}",
            "zone": "zone-a",
            "targetRef": {"kind": "Pod", "namespace": found["namespace"], "name": f"service-{number}-{place}", "uid": found["uid"]},
        }
        for place in range(number * endpoints, (number + 1) * endpoints)
    ]
    if version:
        ends[version % endpoints]["addresses"] = [f"10.200.{version >> 8 & 255}.{version & 255}"]
    return {"metadata": found, "addressType": "IPv4", "endpoints": ends, "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}


def pages(make: Callable[[int], dict[str, Any]], count: int) -> Iterator[bytes]:
    """One at a time: what has been read is not the agent's memory."""
    for first in range(0, count, PAGE_SIZE):
        items = [make(number) for number in range(first, min(first + PAGE_SIZE, count))]
        more = str(first) if first + PAGE_SIZE < count else ""
        yield json.dumps({"metadata": {"resourceVersion": "1", "continue": more}, "items": items}).encode()


def listed(resource: Resource[Any], make: Callable[[int], dict[str, Any]], count: int) -> tuple[dict[records.Key, Any], float]:
    """The records of a whole list, and the seconds that decoding it took."""
    reflector, found, seconds = Reflector(resource), {}, 0.0
    for body in pages(make, count):
        began = time.process_time()
        for change in reflector.page(body):
            assert isinstance(change, Replace)
            found = dict(change.records)
        seconds += time.process_time() - began
    return found, seconds


def measure(services: int, endpoints: int, kind: str) -> dict[str, Any]:
    """All figures."""
    before = resident_bytes()
    inputs = Inputs(Vantage("node-1", "zone-a"))
    slices = Resource("/apis/discovery.k8s.io/v1/endpointslices", records.endpoint_slice)
    found, decoding = listed(Resource("/api/v1/services", records.service), lambda number: service(number, kind), services)
    found_slices, more = listed(slices, lambda number: endpoint_slice(number, endpoints), services)
    began = time.process_time()
    inputs.take_services(found)
    inputs.take_slices(found_slices)
    compiler = Compiler(inputs, KernelRows(), Limits())
    plan = compiler.plan()
    compiling = time.process_time() - began
    began = time.process_time()
    apply(plan.steps, TABLES.__getitem__)
    packing = time.process_time() - began
    rows = compiler.rows
    del plan
    gc.collect()
    gc.freeze()
    after = resident_bytes()
    times, written = [], Counter[int]()
    stream = Reflector(slices)
    for change in range(1, CHANGES + 1):
        number = change * 7919 % services
        line = json.dumps({"type": "MODIFIED", "object": endpoint_slice(number, endpoints, change)}).encode()
        began = time.perf_counter()
        for event in stream.line(line):
            assert isinstance(event, Upsert)
            inputs.take_slices({event.key: event.record})
        plan = compiler.plan()
        apply(plan.steps, TABLES.__getitem__)
        times.append((time.perf_counter() - began) * 1000)
        written[sum(map(size, plan.steps))] += 1
    return {
        "services": services,
        "endpoints": endpoints,
        "kind": kind,
        "seconds": {"decode": decoding + more, "compile": compiling, "pack": packing, "all": decoding + more + compiling + packing},
        "mib": {"before": before / (1 << 20), "after": after / (1 << 20)},
        "rows": rows,
        "change_ms": {"p50": statistics.median(times), "p99": sorted(times)[len(times) * 99 // 100], "max": max(times)},
        "change_rows": dict(written),
    }


def size(step: Step) -> int:
    """Rows that a step writes or deletes."""
    return len(step.rows) if isinstance(step, Put) else len(step.keys) if isinstance(step, Delete) else 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--endpoints", type=int, default=4)
    parser.add_argument("--kind", default="ClusterIP", choices=("ClusterIP", "NodePort"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = measure(options.services, options.endpoints, options.kind)
    text = json.dumps(found, indent=1)
    if options.json is not None:
        options.json.write_text(text + "\n")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
