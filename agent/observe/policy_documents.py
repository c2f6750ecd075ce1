"""`anetd policy`, and what `anetd endpoints` says of each pod's policies: the compiler's view beside the kernel's counters."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.datapath.abi import IPAddress
from agent.datapath.policy_rows import Direction, Isolation, PolicyCount, PolicyCountKey
from agent.policy.compiler import Compiler
from agent.policy.inputs import Trouble
from agent.policy.terms import RuleRef
from agent.watch.records import Key

_WORDS = {Direction.INGRESS: "ingress", Direction.EGRESS: "egress"}
NOTHING: dict[str, Any] = {
    "isolated": False,
    "set": 0,
    "policies": [],
    "rows": 0,
    "closed": False,
    "allowed": [],
    "denied": {"packets": 0, "bytes": 0},
}


@dataclass(frozen=True, slots=True)
class View:
    """What the tables say at one moment. `pods` are this node's, with their addresses; `rows`: how many of `policies` a set has;
    `revision` as in the kernel."""

    compiler: Compiler
    pods: Mapping[Key, tuple[IPAddress, ...]]
    rows: Mapping[int, int]
    counts: Mapping[PolicyCountKey, PolicyCount]
    revision: int

    def isolation(self, pod: Key) -> Isolation:
        """The sets that judge a pod; zeros for one that is not isolated, or not known."""
        return self.compiler.set_of(pod) or Isolation(0, 0)


def of_pod(view: View, pod: Key) -> dict[str, Any]:
    """A pod's policies in both directions, and the revision that its rows are of."""
    sets = view.isolation(pod)
    return {
        "revision": view.revision,
        "ingress": _direction(view, pod, sets.ingress_set),
        "egress": _direction(view, pod, sets.egress_set),
    }


def _direction(view: View, pod: Key, number: int) -> dict[str, Any]:
    if not number:
        return NOTHING
    counts = {key.rule: count for key, count in view.counts.items() if key.set == number}
    denied = counts.pop(0, PolicyCount(0, 0))
    return {
        "isolated": True,
        "set": number,
        "policies": [str(policy) for policy in view.compiler.policies_in(number)],
        "rows": view.rows.get(number, 0),
        "closed": any(pod in trouble.pods for trouble in view.compiler.troubles) and not view.rows.get(number),
        "allowed": [
            {"rules": [str(ref) for ref in view.compiler.rule(rule)], "packets": count.packets, "bytes": count.bytes}
            for rule, count in sorted(counts.items())
        ],
        "denied": {"packets": denied.packets, "bytes": denied.bytes},
    }


def policies(view: View, name: str = "") -> list[dict[str, Any]]:
    """The policies that select pods of this node, or the one of that name."""
    members: dict[Key, list[Key]] = defaultdict(list)
    for pod in view.pods:
        for policy in view.compiler.policies_of(pod):
            members[policy].append(pod)
    sets: dict[Key, dict[int, Direction]] = defaultdict(dict)
    for pod in view.pods:
        row = view.isolation(pod)
        for direction, number in ((Direction.INGRESS, row.ingress_set), (Direction.EGRESS, row.egress_set)):
            for policy in view.compiler.policies_in(number) if number else ():
                sets[policy][number] = direction
    allowed = _allowed_by_rule(view)
    return [
        {
            "policy": str(policy),
            "directions": sorted({_WORDS[direction] for direction in sets[policy].values()}, reverse=True),
            "pods": sorted(map(str, pods)),
            "sets": sorted(sets[policy]),
            "rows": sum(view.rows.get(number, 0) for number in sets[policy]),
            "allowed": [
                {"rule": str(ref), "packets": count.packets, "bytes": count.bytes}
                for ref, count in sorted(allowed.items(), key=lambda item: (item[0].direction, item[0].index))
                if ref.policy == policy
            ],
            "troubles": [trouble.message for trouble in view.compiler.troubles if trouble.policy == policy],
        }
        for policy, pods in sorted(members.items(), key=lambda item: (item[0].namespace, item[0].name))
        if name in {"", str(policy)}
    ]


def _allowed_by_rule(view: View) -> dict[RuleRef, PolicyCount]:
    """What each rule allowed. Where several allow the same, it counts for each of them."""
    packets: Counter[RuleRef] = Counter()
    size: Counter[RuleRef] = Counter()
    for key, count in view.counts.items():
        for ref in view.compiler.rule(key.rule) if key.rule else ():
            packets[ref] += count.packets
            size[ref] += count.bytes
    return {ref: PolicyCount(packets[ref], size[ref]) for ref in packets}


def troubles(found: Iterable[Trouble]) -> list[dict[str, Any]]:
    """Policies that do not fit."""
    return [{"policy": str(each.policy), "pods": [str(pod) for pod in each.pods], "message": each.message} for each in found]
