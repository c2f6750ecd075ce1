"""What `explain` found, as a JSON document and as text for people. Pure.

    {"from": "a/p", "to": "b/web", "protocol": "TCP", "port": "http", "verdict": "allowed" | "denied" | "mixed",
     "paths": [{"verdict": "allowed" | "denied",
                "source": END, "destination": END,
                "egress": SIDE, "ingress": SIDE}, ...],
     "problems": {"b/one": ["spec.ingress[0].ports[0].port: ...", ...]}}

    END   {"address": "10.0.0.1", "pod": "a/p" | null, "node": "node-1" | "", "workload": "Deployment/web" | "", "port": 8080}
          (`port` of the destination only, 0 where the protocol has none)
    SIDE  {"judged": bool, "allowed": bool, "isolated": bool, "why": "...", "policies": ["b/one", ...], "ruleId": 0,
           "rules": [{"policy": "b/one", "direction": "ingress", "index": 0, "words": "TCP 80 from ..."}, ...],
           "changes": [{"policy": "b/one", "direction": "ingress", "index": 0 | null, "lacks": ["peer" | "port" | "rule"], "words": "..."},
                       ...]}

The agent of a node adds to each side of one of its pods what its kernel's rows say: "kernel": {"isolated", "allowed", "set", "class",
"ruleId", "rules": ["b/one ingress[0]", ...]}.

There is a path for each pair of addresses of one family, and for each backend of a Service; "mixed" says that they differ. `judged`
false: policies have no say on that side, and `why` says for which reason. `rules` allow it, `changes` are the rules that could and do
not, those that lack least first. `problems` is of all policies that were given: what the API server would refuse in them, and what
therefore allows nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent.policy import words
from agent.policy.explain import Path, Side
from agent.policy.parties import Party
from agent.watch.records import Key


def document(source: str, destination: str, port: str, paths: Sequence[Path], problems: Mapping[Key, Sequence[str]]) -> dict[str, Any]:
    """`source`, `destination` and `port` as they were asked for."""
    return {
        "from": source,
        "to": destination,
        "protocol": words.protocol_name(paths[0].protocol),
        "port": port,
        "verdict": verdict(paths),
        "paths": [_path(path) for path in paths],
        "problems": {str(key): list(lines) for key, lines in sorted(problems.items(), key=lambda item: str(item[0]))},
    }


def verdict(paths: Sequence[Path]) -> str:
    """ "allowed", "denied", or "mixed"."""
    answers = {path.allowed for path in paths}
    return "mixed" if len(answers) > 1 else "allowed" if True in answers else "denied"


def text(found: Mapping[str, Any]) -> str:
    """A document as lines for people."""
    return "".join(f"{line}\n" for line in _lines(found))


def _path(path: Path) -> dict[str, Any]:
    return {
        "verdict": "allowed" if path.allowed else "denied",
        "source": _end(path.source),
        "destination": {**_end(path.destination), "port": path.destination.port},
        "egress": _side(path.egress),
        "ingress": _side(path.ingress),
    }


def _end(party: Party) -> dict[str, Any]:
    kind, name = party.pod.workload if party.pod is not None else ("", "")
    return {
        "address": str(party.address),
        "pod": str(party.pod.key) if party.pod is not None else None,
        "node": party.node,
        "workload": f"{kind}/{name}" if name else "",
    }


def _side(side: Side) -> dict[str, Any]:
    direction = side.direction.name.lower()
    return {
        "judged": side.judged,
        "allowed": side.allowed,
        "isolated": side.isolated,
        "why": side.why,
        "policies": list(map(str, side.policies)),
        "ruleId": side.rule,
        "rules": [
            {"policy": str(each.ref.policy), "direction": direction, "index": each.ref.index, "words": each.words} for each in side.rules
        ],
        "changes": [
            {"policy": str(each.policy), "direction": direction, "index": each.index, "lacks": list(each.lacks), "words": each.words}
            for each in side.changes
        ],
    }


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    what = f"{found['protocol']} {found['port']}".strip()
    yield f"{found['from']} -> {found['to']}, {what}: {found['verdict']}"
    for path in found["paths"]:
        yield ""
        yield f"{_who(path['source'])} -> {_who(path['destination'])}, {found['protocol']} {path['destination']['port'] or ''}".rstrip() + (
            f": {path['verdict']}"
        )
        for direction in ("egress", "ingress"):
            side = path[direction]
            yield f"  {direction}: {'allowed' if side['allowed'] else 'denied'}: {side['why']}"
            for rule in side["rules"]:
                yield f"    {rule['policy']} {direction}[{rule['index']}] allows {rule['words']}"
            for change in side["changes"]:
                yield f"    {change['words']}"
            if "kernel" in side:
                yield f"    {_rows(side['kernel'])}"
    for policy, lines in found["problems"].items():
        yield ""
        yield f"{policy} is none that the API server takes; what cannot be read allows nothing:"
        yield from (f"  {line}" for line in lines)


def _rows(kernel: Mapping[str, Any]) -> str:
    if not kernel["isolated"]:
        return "the kernel has no rows that isolate it"
    said = (
        f"allows it by {' and '.join(kernel['rules']) or 'a rule that is not known'}" if kernel["allowed"] else "has no row that allows it"
    )
    return f"the kernel {said} (set {kernel['set']}, class {kernel['class']})"


def _who(end: Mapping[str, Any]) -> str:
    return f"{end['pod']} ({end['address']})" if end["pod"] else f"{end['address']}{' of node ' + end['node'] if end['node'] else ''}"
