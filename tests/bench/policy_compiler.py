"""What the policy compiler costs the agent: rows, time and memory on one node of clusters that grow, and what one change takes.

    python -m tests.bench.policy_compiler [--sizes 1000:100,10000:1000] [--json FILE]

A size is PODS:POLICIES. The cluster has a namespace for every hundred pods and a workload for every ten; half of the policies are what clusters
have most (deny all, allow one's own namespace, allow one workload to another), the rest selects by expressions, namespaces' labels, CIDRs with
exceptions, ports by name and in ranges. 110 of the pods are the node's. Times are of one core (CPU time of the process). A change's time is from
the call to its rows, packed as the kernel gets them; what is left for a quiet moment is tidied up between changes and not counted.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from agent.datapath import abi, policy_rows
from agent.observe.metrics import resident_bytes
from agent.policy.compiler import Compiler
from agent.policy.inputs import Changes, Rows
from agent.watch.policy_records import (
    Block,
    ContainerPort,
    Namespace,
    NetworkPolicy,
    Operator,
    Peer,
    Pod,
    PolicyPort,
    Requirement,
    Rule,
    Selector,
)
from agent.watch.records import Key

SIZES = ((100, 10), (1000, 100), (1000, 500), (3000, 300), (10_000, 1000))
LOCAL, ROUNDS = 110, 200
CODECS: dict[str, tuple[abi.Codec[Any], abi.Codec[Any]]] = {
    "policies": (policy_rows.POLICY_KEY, policy_rows.POLICY_ROW),
    "classes": (abi.ROUTE_KEY, policy_rows.CLASS),
    "isolation": (abi.ADDRESS, policy_rows.ISOLATION),
}


APPS = 10


def app(number: int) -> str:
    return f"app-{number % APPS}"


def one_of(**labels: str) -> Selector:
    return Selector(tuple(sorted((Requirement(key, Operator.IN, (value,)) for key, value in labels.items()), key=lambda r: r.key)))


def pod(number: int, pods: int) -> Pod:
    spaces = max(1, pods // 100)
    workload = number // 10
    labels = {"app": app(workload // spaces), "pod-template-hash": f"{workload:x}", "tier": "web" if workload % 3 else "db"}
    key = Key(f"namespace-{workload % spaces}", f"pod-{number}")
    address = IPv4Address("10.128.0.0") + number
    ports = (ContainerPort("http", 6, 8080 + workload % 2), ContainerPort("metrics", 6, 9090))
    return Pod(
        key, f"uid-{number}", tuple(sorted(labels.items())), (address,), f"node-{number % 100}", ports, created="2026-01-01T00:00:00Z"
    )


def namespace(number: int) -> Namespace:
    return Namespace(f"namespace-{number}", (("kubernetes.io/metadata.name", f"namespace-{number}"), ("team", f"team-{number % 10}")))


def policy(number: int, pods: int) -> NetworkPolicy:
    spaces = max(1, pods // 100)
    key, kind = Key(f"namespace-{number % spaces}", f"policy-{number}"), number // spaces % 10
    turn = number // spaces
    mine, http = one_of(app=app(turn)), PolicyPort(6, 8080)
    named = PolicyPort(6, "http")
    team = one_of(team=f"team-{number % 10}")
    dns = Rule(
        (Peer(one_of(app="app-0"), one_of(**{"kubernetes.io/metadata.name": "namespace-0"})),), (PolicyPort(17, 53), PolicyPort(6, 53))
    )
    outside = Block(IPv4Network("0.0.0.0/0"), (IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12")))
    office = Block(IPv4Network(f"10.{number % 100}.0.0/16"), (IPv4Network(f"10.{number % 100}.{number % 200}.0/24"),))
    not_db = Selector((Requirement("tier", Operator.NOT_IN, ("db",)),))
    shapes: tuple[tuple[Selector, tuple[Rule, ...] | None, tuple[Rule, ...] | None], ...] = (
        (Selector(), (), None),
        (Selector(), (Rule((Peer(Selector()),)),), None),
        (mine, (Rule((Peer(one_of(app=app(turn + 1))),), (http,)),), None),
        (mine, (Rule((Peer(one_of(app=app(turn + 2))),), (named,)),), None),
        (Selector(), (), (dns, Rule((Peer(Selector()),)))),
        (mine, (Rule((Peer(None, team),), (named, PolicyPort(6, 9000, 9100))),), None),
        (mine, None, (Rule((Peer(None, team),), (named,)), Rule((Peer(block=outside),), (PolicyPort(6, 443),)))),
        (not_db, (Rule((Peer(not_db, Selector()),), (PolicyPort(6, 9090),)),), None),
        (mine, (Rule((Peer(block=office),), (PolicyPort(6, 30000, 32767),)),), None),
        (mine, (Rule(None, (http,)),), None),
    )
    selector, ingress, egress = shapes[kind]
    return NetworkPolicy(key, f"uid-{number}", selector, ingress, egress)


class Meter:
    """A compiler whose rows are packed and counted."""

    def __init__(self) -> None:
        self.compiler = Compiler()
        self.rows = dict.fromkeys(CODECS, 0)
        self.written = 0

    def apply(self, changes: Changes) -> float:
        """Seconds."""
        began = time.process_time()
        rows = self.compiler.apply(changes)
        self.written = pack(rows)
        return time.process_time() - began

    def tidy(self) -> None:
        self.compiler.apply(Changes())


def pack(rows: Rows) -> int:
    count = 0
    for table, (key, value) in CODECS.items():
        for each, row in rows.puts.get(table, {}).items():
            key.pack(each)
            value.pack(row)
            count += 1
        for each in rows.deletes.get(table, ()):
            key.pack(each)
            count += 1
    return count


def measure(size: tuple[int, int]) -> dict[str, Any]:
    """All figures of one size."""
    pods, policies = size
    here = range(0, pods, max(1, pods // LOCAL))
    everything = Changes(
        {each.key: each for each in (pod(number, pods) for number in range(pods))},
        {each.name: each for each in (namespace(number) for number in range(max(1, pods // 100)))},
        {each.key: each for each in (policy(number, pods) for number in range(policies))},
        {pod(number, pods).key: pod(number, pods).addresses for number in here},
    )
    gc.collect()
    before = resident_bytes()
    meter = Meter()
    began = time.process_time()
    rows = meter.compiler.apply(everything)
    compiling = time.process_time() - began
    began = time.process_time()
    pack(rows)
    packing = time.process_time() - began
    counts = {table: len(rows.puts[table]) for table in CODECS}
    del rows
    gc.collect()
    gc.freeze()
    after = resident_bytes()
    return {
        "pods": pods,
        "policies": policies,
        "rows": counts,
        "sets": meter.compiler.counts["sets"],
        "peerClasses": meter.compiler.counts["peer_classes"],
        "seconds": {"compile": round(compiling, 3), "pack": round(packing, 3)},
        "mib": round((after - before) / (1 << 20), 1),
        "changes": {name: series(meter, steps) for name, steps in changes(pods, policies, list(here)).items()},
    }


def series(meter: Meter, steps: Iterable[Changes | tuple[Changes, Changes]]) -> dict[str, float]:
    """Of two changes the second puts the first right again, and is not counted."""
    times, written = [], []
    for step in steps:
        change, undo = step if isinstance(step, tuple) else (step, Changes())
        times.append(meter.apply(change) * 1000)
        written.append(meter.written)
        meter.apply(undo)
        meter.tidy()
    times.sort()
    return {
        "p50Ms": round(statistics.median(times), 3),
        "p99Ms": round(times[len(times) * 99 // 100], 3),
        "maxMs": round(times[-1], 3),
        "rows": statistics.median(written),
    }


def changes(pods: int, policies: int, here: list[int]) -> dict[str, Sequence[Changes | tuple[Changes, Changes]]]:
    """Series of changes by what they are; after each the cluster is as before, or nearly."""
    away = [number for number in range(pods) if number not in set(here)][:: max(1, pods // ROUNDS)] or here
    many = range(0, policies, max(1, policies // ROUNDS))

    def relabelled(number: int, turn: int) -> Pod:
        old = pod(number, pods)
        return replace(old, labels=tuple(sorted({**dict(old.labels), "app": app(turn)}.items())))

    def labels(numbers: list[int]) -> list[Changes]:
        return [step for turn, n in enumerate(numbers) for step in (_pod(relabelled(n, turn)), _pod(pod(n, pods)))]

    def fresh(turn: int) -> Pod:
        old = pod(turn * 37 % pods, pods)
        return replace(old, key=Key(old.key.namespace, f"fresh-{turn}"), uid=f"fresh-{turn}", addresses=(IPv4Address("10.250.0.0") + turn,))

    everybody = NetworkPolicy(Key("namespace-0", "everybody"), "uid", Selector(), (Rule((Peer(None, Selector()),)),), None)
    flap = policy(2, pods)
    return {
        "label change, pod elsewhere": labels(away[: ROUNDS // 2]),
        "label change, local pod": labels((here * 2)[: ROUNDS // 2]),
        "new pod elsewhere, and gone": [
            step for turn in range(ROUNDS // 2) for step in (_pod(fresh(turn)), Changes(pods={fresh(turn).key: None}))
        ],
        "new local pod, and gone": [
            step
            for turn in range(ROUNDS // 2)
            for step in (
                Changes({fresh(turn).key: fresh(turn)}, endpoints={fresh(turn).key: fresh(turn).addresses}),
                Changes({fresh(turn).key: None}, endpoints={fresh(turn).key: None}),
            )
        ],
        "policy edited": [step for n in many for step in (_policy(_edited(policy(n, pods))), _policy(policy(n, pods)))],
        "policy gone, and new": [step for n in many for step in (Changes(policies={policy(n, pods).key: None}), _policy(policy(n, pods)))],
        "policy for all pods of the cluster, new": [(_policy(everybody), Changes(policies={everybody.key: None}))] * 20,
        "namespace relabelled": [
            Changes(
                namespaces={
                    f"namespace-{n % max(1, pods // 100)}": replace(namespace(n), labels=(*namespace(n).labels, ("turn", str(turn))))
                }
            )
            for turn, n in enumerate(range(50))
        ],
        "policy flaps": [(Changes(policies={flap.key: None}), _policy(flap))] * 20,
    }


def _pod(record: Pod) -> Changes:
    return Changes(pods={record.key: record})


def _policy(record: NetworkPolicy) -> Changes:
    return Changes(policies={record.key: record})


def _edited(old: NetworkPolicy) -> NetworkPolicy:
    return replace(old, ingress=(*(old.ingress or ()), Rule((Peer(one_of(app="app-7")),), (PolicyPort(6, 7777),))))


def crowded() -> dict[str, Any]:
    """A thousand policies on one pod, of which one is edited."""
    target, meter = pod(0, 100), Meter()
    made = {
        Key(target.key.namespace, f"p-{n}"): NetworkPolicy(
            Key(target.key.namespace, f"p-{n}"), "u", Selector(), (Rule((Peer(one_of(app=app(n))),), (PolicyPort(6, 1000 + n),)),), None
        )
        for n in range(1000)
    }
    pods = {pod(n, 100).key: pod(n, 100) for n in range(100)}
    began = time.process_time()
    meter.compiler.apply(Changes(pods, {"namespace-0": namespace(0)}, made, {target.key: target.addresses}))
    seconds = time.process_time() - began
    steps = [step for each in list(made.values())[:50] for step in (_policy(_edited(each)), _policy(each))]
    labels = replace(target, labels=(("app", "app-19"),))
    return {
        "seconds": round(seconds, 3),
        "edit": series(meter, steps),
        "label": series(meter, [_pod(each) for _ in range(25) for each in (labels, target)]),
    }


def alone(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """In a process of its own, so that one size's memory is not another's."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default=",".join(f"{pods}:{policies}" for pods, policies in SIZES))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sizes = [tuple(map(int, size.split(":"))) for size in options.sizes.split(",")]
    found = {"sizes": [alone(measure, size) for size in sizes], "thousandOnOnePod": alone(crowded)}
    text = json.dumps(found, indent=1)
    if options.json is not None:
        options.json.write_text(text + "\n")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
