"""NetworkPolicies from their JSON, and what is wrong with one. Pure.

One reading serves both: what the API server would refuse is told, and narrows. A rule, a peer or a port that cannot be read allows
nothing, and a policy whose own selector or types cannot be read is one of all pods of its namespace, or of both directions. (The API
server admits none of that; a file may hold it.)
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv6Network, ip_network
from typing import Any

from agent.watch.policy_records import (
    ALLOW_LOG_ANNOTATION,
    Block,
    NetworkPolicy,
    Operator,
    Peer,
    PolicyPort,
    Requirement,
    Rule,
    Selector,
    is_annotated,
)
from agent.watch.records import PROTOCOLS, Network, key_of

API_VERSION = "networking.k8s.io/v1"
_TYPES = ("Ingress", "Egress")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")
_MAPPED = IPv6Network("::ffff:0:0/96")
_VALUELESS = {Operator.EXISTS, Operator.DOES_NOT_EXIST}


class _UnreadableError(Exception):
    """A part that allows nothing; what is wrong was said."""


@dataclass(slots=True)
class _Reading:
    """What was found wrong: field, reason and remedy in one line each."""

    problems: list[str] = field(default_factory=list)

    def tell(self, where: str, reason: str, remedy: str) -> _UnreadableError:
        self.problems.append(f"{where}: {reason}; {remedy}")
        return _UnreadableError()

    def mapping(self, where: str, value: Any) -> Mapping[str, Any]:
        """Null is an empty one, as to the API server."""
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise self.tell(where, f"it is {_kind(value)}", "write an object of fields")
        return value

    def sequence(self, where: str, value: Any) -> Sequence[Any]:
        if value is None:
            return ()
        if not isinstance(value, list | tuple):
            raise self.tell(where, f"it is {_kind(value)}", "write a list")
        return value


def network_policy(document: Mapping[str, Any]) -> NetworkPolicy:
    """A NetworkPolicy from its JSON."""
    return _policy(document, _Reading())


def problems(document: Any) -> list[str]:
    """What the API server would refuse in a NetworkPolicy: a line for each with the field, the reason and what to do; [] if it is good."""
    reading = _Reading()
    if not isinstance(document, Mapping):
        return [f"the document: it is {_kind(document)}; write an object of kind NetworkPolicy"]
    for field_name, wanted in (("apiVersion", API_VERSION), ("kind", "NetworkPolicy")):
        if document.get(field_name) != wanted:
            reading.tell(field_name, f"it is {document.get(field_name)!r}", f"write {wanted}")
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > 253:
        reading.tell("metadata.name", f"it is {name!r}", "give it a name of lower case letters, digits, '-' and '.'")
    _policy(document, reading)
    return reading.problems


def _policy(document: Mapping[str, Any], reading: _Reading) -> NetworkPolicy:
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    try:
        spec = reading.mapping("spec", document.get("spec"))
    except _UnreadableError:
        return NetworkPolicy(key_of({"metadata": metadata}), metadata.get("uid") or "", Selector(), (), ())
    try:
        pods = _selector(reading, "spec.podSelector", spec.get("podSelector"))
    except _UnreadableError:
        pods = Selector()
    types = _types(reading, spec)
    rules = [
        tuple(_rules(reading, f"spec.{direction}", spec.get(direction), peers)) if name in types else None
        for name, direction, peers in (("Ingress", "ingress", "from"), ("Egress", "egress", "to"))
    ]
    uid = metadata.get("uid") or ""
    return NetworkPolicy(key_of({"metadata": metadata}), uid, pods, rules[0], rules[1], is_annotated(metadata, ALLOW_LOG_ANNOTATION))


def _types(reading: _Reading, spec: Mapping[str, Any]) -> Sequence[str]:
    """Where none are said: Ingress, and Egress if there are rules for it."""
    try:
        given = reading.sequence("spec.policyTypes", spec.get("policyTypes"))
    except _UnreadableError:
        return _TYPES
    if not given:
        return _TYPES if spec.get("egress") else _TYPES[:1]
    unknown = [each for each in given if each not in _TYPES]
    if unknown:
        reading.tell("spec.policyTypes", f"{unknown[0]!r} is none", "choose from Ingress and Egress")
        return _TYPES
    if len(given) > len(_TYPES):
        reading.tell("spec.policyTypes", "there are more than two", "name each direction once")
    return tuple(given)


def _rules(reading: _Reading, where: str, value: Any, peers: str) -> Iterator[Rule]:
    try:
        rows = reading.sequence(where, value)
    except _UnreadableError:
        return
    for index, row in enumerate(rows):
        place = f"{where}[{index}]"
        try:
            fields = reading.mapping(place, row)
            for unknown in sorted(map(str, fields.keys() - {peers, "ports"})):
                # A misspelt `from` would be a rule for everybody.
                raise reading.tell(f"{place}.{unknown}", "there is no such field", f"a rule has {peers} and ports")
            from_or_to = reading.sequence(f"{place}.{peers}", fields.get(peers))
            ports = reading.sequence(f"{place}.ports", fields.get("ports"))
        except _UnreadableError:
            # It stays in its place, so that rules keep their numbers.
            yield Rule((), ())
            continue
        yield Rule(
            tuple(_readable(_peer, reading, f"{place}.{peers}", from_or_to)) if from_or_to else None,
            tuple(_readable(_port, reading, f"{place}.ports", ports)) if ports else None,
        )


def _readable(read: Any, reading: _Reading, where: str, rows: Sequence[Any]) -> Iterator[Any]:
    for index, row in enumerate(rows):
        try:
            yield read(reading, f"{where}[{index}]", row)
        except _UnreadableError:
            continue


def _peer(reading: _Reading, where: str, value: Any) -> Peer:
    fields = reading.mapping(where, value)
    known = {"podSelector", "namespaceSelector", "ipBlock"}
    for unknown in sorted(map(str, fields.keys() - known)):
        raise reading.tell(f"{where}.{unknown}", "there is no such field", "a peer has podSelector, namespaceSelector or ipBlock")
    said = [name for name in sorted(known) if fields.get(name) is not None]
    if not said:
        raise reading.tell(where, "it names nobody", "say a podSelector, a namespaceSelector or an ipBlock")
    if "ipBlock" in said:
        if len(said) > 1:
            raise reading.tell(where, "an ipBlock stands beside a selector", "make two peers of it")
        return Peer(block=_block(reading, f"{where}.ipBlock", fields["ipBlock"]))
    pods, namespaces = (
        _selector(reading, f"{where}.{name}", fields[name]) if name in said else None for name in ("podSelector", "namespaceSelector")
    )
    return Peer(pods, namespaces)


def _block(reading: _Reading, where: str, value: Any) -> Block:
    fields = reading.mapping(where, value)
    network = _network(reading, f"{where}.cidr", fields.get("cidr"))
    excepts = tuple(
        _network(reading, f"{where}.except[{index}]", text)
        for index, text in enumerate(reading.sequence(f"{where}.except", fields.get("except")))
    )
    for index, each in enumerate(excepts):
        if each.version != network.version or each == network or not each.subnet_of(network):  # type: ignore[arg-type]
            reading.tell(f"{where}.except[{index}]", f"{each} is no part of {network}", "take it out, or correct it")
    return Block(network, excepts)


def _network(reading: _Reading, where: str, value: Any) -> Network:
    try:
        found = ip_network(value, strict=False) if isinstance(value, str) and "/" in value else None
    except ValueError:
        found = None
    if found is None:
        raise reading.tell(where, f"{value!r} is no CIDR", "write one like 192.0.2.0/24 or 2001:db8::/64")
    if isinstance(found, IPv6Network) and found.subnet_of(_MAPPED):
        raise reading.tell(where, f"{value} is IPv4 in IPv6's clothes", "write it as IPv4")
    return found


def _port(reading: _Reading, where: str, value: Any) -> PolicyPort:
    fields = reading.mapping(where, value)
    for unknown in sorted(map(str, fields.keys() - {"protocol", "port", "endPort"})):
        raise reading.tell(f"{where}.{unknown}", "there is no such field", "a port has protocol, port and endPort")
    name, port, end = fields.get("protocol") or "TCP", fields.get("port"), fields.get("endPort")
    if not isinstance(name, str) or name not in PROTOCOLS:
        raise reading.tell(f"{where}.protocol", f"{name!r} is none", "choose from TCP, UDP and SCTP")
    protocol = PROTOCOLS[name]
    if isinstance(port, str):
        if not _PORT_NAME.fullmatch(port) or len(port) > 15:
            remedy = "write a number without quotes" if port.isdecimal() else "use at most 15 lower case letters, digits and '-'"
            raise reading.tell(f"{where}.port", f"{port!r} is no port's name", remedy)
        port = sys.intern(port)
    elif port is not None and not _is_port(port):
        raise reading.tell(f"{where}.port", f"{port!r} is no port", "write a number from 1 to 65535 or a container port's name")
    if end is None:
        return PolicyPort(protocol, port)
    if not isinstance(port, int):
        raise reading.tell(f"{where}.endPort", "it needs a number as port", "write port as a number, or leave endPort out")
    if not _is_port(end) or end < port:
        raise reading.tell(f"{where}.endPort", f"{end!r} is no port from {port} up", f"write a number from {port} to 65535")
    return PolicyPort(protocol, port, end)


def _is_port(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536


_selectors = lru_cache(4096)(Selector)


def _selector(reading: _Reading, where: str, value: Any) -> Selector:
    fields = reading.mapping(where, value)
    for unknown in sorted(map(str, fields.keys() - {"matchLabels", "matchExpressions"})):
        raise reading.tell(f"{where}.{unknown}", "there is no such field", "a selector has matchLabels and matchExpressions")
    found = set[Requirement]()
    for key, text in reading.mapping(f"{where}.matchLabels", fields.get("matchLabels")).items():
        place = f"{where}.matchLabels[{key!r}]"
        found.add(Requirement(_label_key(reading, place, key), Operator.IN, (_label_value(reading, place, text),)))
    for index, row in enumerate(reading.sequence(f"{where}.matchExpressions", fields.get("matchExpressions"))):
        found.add(_requirement(reading, f"{where}.matchExpressions[{index}]", row))
    return _selectors(tuple(sorted(found, key=lambda r: (r.key, r.operator, r.values))))


def _requirement(reading: _Reading, where: str, value: Any) -> Requirement:
    fields = reading.mapping(where, value)
    key = _label_key(reading, f"{where}.key", fields.get("key"))
    try:
        operator = Operator(fields.get("operator") or "")
    except ValueError:
        wanted = "choose from In, NotIn, Exists and DoesNotExist"
        raise reading.tell(f"{where}.operator", f"{fields.get('operator')!r} is none", wanted) from None
    values = reading.sequence(f"{where}.values", fields.get("values"))
    if operator in _VALUELESS and values:
        raise reading.tell(f"{where}.values", f"{operator} has none", "leave them out, or choose In or NotIn")
    if operator not in _VALUELESS and not values:
        raise reading.tell(f"{where}.values", f"{operator} needs some", "name at least one value")
    return Requirement(key, operator, tuple(sorted({_label_value(reading, f"{where}.values", text) for text in values})))


def _label_key(reading: _Reading, where: str, value: Any) -> str:
    prefix, slash, name = value.rpartition("/") if isinstance(value, str) else ("", "", "")
    if not name or len(name) > 63 or not _LABEL.fullmatch(name) or (slash and (len(prefix) > 253 or not _NAME.fullmatch(prefix))):
        raise reading.tell(where, f"{value!r} is no label's key", "write one like app or example.com/app")
    return sys.intern(value)


def _label_value(reading: _Reading, where: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > 63 or not _LABEL.fullmatch(value):
        remedy = "at most 63 letters, digits, '-', '_' and '.'" if isinstance(value, str) else "put it in quotes"
        raise reading.tell(where, f"{value!r} is no label's value", remedy)
    return sys.intern(value)


def _kind(value: Any) -> str:
    return {str: "a text", bool: "a truth value", int: "a number", float: "a number", list: "a list"}.get(type(value), repr(value))
