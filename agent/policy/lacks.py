"""Why a rule does not allow a packet: what its peers and its ports lack. Pure.

This is the API documentation's meaning read on the records themselves; a test holds it against what the compiled rows say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.datapath.policy_rows import Direction
from agent.policy import words
from agent.policy.parties import Party
from agent.policy.selectors import holds, matches
from agent.policy.terms import port_numbers
from agent.watch.policy_records import Namespace, Operator, Peer, PolicyPort, Requirement, Rule, Selector
from agent.watch.records import Key


def peer_lack(rule: Rule, policy: Key, other: Party, namespaces: Mapping[str, Namespace]) -> str:
    """Why an end is none of a rule's peers; "" if it is one."""
    if rule.peers is None:
        return ""
    reasons = [_peer(peer, policy.namespace, other, namespaces) for peer in rule.peers]
    return "" if "" in reasons else _join(reasons) or "it names nobody that can be read"


def port_lack(rule: Rule, direction: Direction, isolated: Party, other: Party, protocol: int, port: int) -> str:
    """Why a port is none of a rule's; "" if it is one."""
    if rule.ports is None:
        return ""
    destination = isolated if direction is Direction.INGRESS else other
    reasons = [_port(each, destination, protocol, port) for each in rule.ports]
    return "" if "" in reasons else _join(reasons) or "it names no port that can be read"


def _join(reasons: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(reasons))


def _peer(peer: Peer, namespace: str, other: Party, namespaces: Mapping[str, Namespace]) -> str:
    if peer.block is not None:
        address = other.address
        if address.version != peer.block.network.version or address not in peer.block.network:
            return f"{address} is not in {peer.block.network}"
        within = next((each for each in peer.block.excepts if address.version == each.version and address in each), None)
        return f"{address} is in the exception {within}" if within is not None else ""
    pod = other.pod
    if pod is None:
        return f"{other} is no pod, and selectors select pods"
    if pod.host_network:
        return f"{pod.key} is on the host's network, where selectors see no pod"
    if pod.finished:
        return f"{pod.key} has ended"
    if peer.namespaces is None:
        where = "" if pod.key.namespace == namespace else f"{pod.key} is not in namespace {namespace}"
    else:
        known = namespaces.get(pod.key.namespace)
        if known is None and peer.namespaces.requirements:
            where = f"namespace {pod.key.namespace} is not known"
        else:
            where = _selector(peer.namespaces, dict(known.labels) if known is not None else {}, f"namespace {pod.key.namespace}")
    what = _selector(peer.pods, dict(pod.labels), str(pod.key)) if peer.pods is not None else ""
    return " and ".join(reason for reason in (where, what) if reason)


def _selector(selector: Selector, labels: Mapping[str, str], what: str) -> str:
    if matches(selector, labels):
        return ""
    missed = [_requirement(each, labels) for each in selector.requirements if not holds(each, labels.get(each.key))]
    return f"{what} {' and '.join(missed)}"


def _requirement(each: Requirement, labels: Mapping[str, str]) -> str:
    value = labels.get(each.key)
    if value is None:
        return f"has no label {each.key} ({words.requirement(each)} is wanted)"
    if each.operator is Operator.DOES_NOT_EXIST:
        return f"has the label {each.key}"
    return f"has {each.key}={value} ({words.requirement(each)} is wanted)"


def _port(each: PolicyPort, destination: Party, protocol: int, port: int) -> str:
    asked = words.protocol_name(protocol)
    if each.protocol != protocol:
        return f"{words.port(each)} is not {asked}"
    if isinstance(each.port, str):
        if not destination.is_peer or destination.pod is None:
            return f"{destination} is no pod, so it has no port named {each.port}"
        number = port_numbers(destination.pod).get((each.port, protocol))
        if number is None:
            return f"{destination} has no {asked} port named {each.port}"
        return "" if number == port else f"{each.port} is {asked} {number} of {destination}, not {port}"
    if each.port is None or each.port <= port <= (each.end if each.end is not None else each.port):
        return ""
    return f"{words.port(each)} is not {port}"
