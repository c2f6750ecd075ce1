"""`anetd policy explain` on a node: what the objects that the agent knows say, and beside it what the rows in its kernel say."""

from __future__ import annotations

import json
from ipaddress import ip_network
from typing import Any

from agent.datapath.abi import IPAddress
from agent.datapath.policy_rows import CLASS_ANY, CLASS_NONE, PREFIX_PORT, Direction, PolicyKey
from agent.observe.policy_documents import View
from agent.policy.explain import Side
from agent.policy.objects import Objects
from agent.policy.parties import PartyError
from agent.policy.question import answer, question
from agent.policy.verdict import Judgement
from agent.ports import AgentDatapath
from agent.runtime import Agent


def explain(agent: Agent, about: str) -> dict[str, Any]:
    """`about` is a JSON object of texts: `from`, `to`, `protocol`, `port`.

    A document of `agent.policy.explanation`, in which each side of a pod of this node that policies have a say over also has
    `kernel`: {"isolated", "allowed", "set", "class", "ruleId", "rules": ["a/one ingress[0]", ...]}; or {"error": words}.
    """
    asked = json.loads(about or "{}")
    serving = agent.serving
    if serving is None or not agent.policy.in_force:
        return {"error": "the agent does not know the cluster's policies yet; `anetd status` says what it waits for"}
    try:
        found = answer(_objects(agent), question(*(str(asked.get(name, "")) for name in ("from", "to", "protocol", "port"))))
    except PartyError as error:
        return {"error": str(error)}
    with serving.policies.looking() as view:
        if view is not None:
            for path, document in zip(found.paths, found.document["paths"], strict=True):
                for side, peer in ((path.egress, path.destination.address), (path.ingress, path.source.address)):
                    if side.judged and side.party.pod is not None and side.party.pod.key in view.pods:
                        judged = judge(serving.datapath, side, peer, path.protocol, path.destination.port)
                        document[side.direction.name.lower()]["kernel"] = _document(view, judged)
    return found.document


def _objects(agent: Agent) -> Objects:
    loop = agent.policy
    return Objects(
        pods=loop.pods.snapshot(),
        namespaces={key.name: each for key, each in loop.namespaces.snapshot().items()},
        policies=loop.policies.snapshot(),
        services=agent.services.snapshot(),
        slices=agent.slices.snapshot(),
        nodes={key.name: each for key, each in agent.nodes.snapshot().items()},
    )


def judge(datapath: AgentDatapath, side: Side, peer: IPAddress, protocol: int, port: int) -> Judgement:
    """What the programs would find: the same lookups, in the same order (bpf/lib/policy.h)."""
    isolation = datapath.isolation.get(side.party.address)
    if isolation is None:
        return Judgement(allowed=True)
    number = isolation.ingress_set if side.direction is Direction.INGRESS else isolation.egress_set
    if not number:
        return Judgement(allowed=True)
    peer_class = datapath.classes.get(ip_network(peer)) or CLASS_NONE
    for each in (peer_class, CLASS_ANY):
        row = datapath.policies.get(PolicyKey(number, each, protocol, port, PREFIX_PORT))
        if row is not None:
            return Judgement(True, number, peer_class, row)
    return Judgement(False, number, peer_class)


def _document(view: View, judged: Judgement) -> dict[str, Any]:
    rule = judged.row.rule if judged.row is not None else 0
    return {
        "isolated": judged.set != 0,
        "allowed": judged.allowed,
        "set": judged.set,
        "class": judged.peer_class,
        "ruleId": rule,
        "rules": [str(ref) for ref in view.compiler.rule(rule)] if rule else [],
    }
