"""What the API server would refuse of a NetworkPolicy. Pure.

A file may hold what no cluster would take, and an answer about such a policy would be an answer about nothing. Unknown fields are refused
as kubectl refuses them. Source: the API reference of networking.k8s.io/v1, and the server's words when it was asked (1.34).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

Path = tuple[str | int, ...]
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_NAME_PART = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_DNS = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_PORT_NAME = re.compile(r"(?=.{1,15}$)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")
_PROTOCOLS = ("TCP", "UDP", "SCTP")
_MAX_NAME, _MAX_PORT = 253, 65535
_OPERATORS = {"In": True, "NotIn": True, "Exists": False, "DoesNotExist": False}
"""Whether the operator takes values."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A field that the API server would refuse: where it is, what is wrong with it, and the way out."""

    path: Path
    reason: str
    remedy: str

    @property
    def field(self) -> str:
        """Dotted, as in the YAML: spec.ingress[0].from[1].ipBlock."""
        text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)
        return text.removeprefix(".")


Check = Callable[[Any, Path], Iterator[Problem]]


def problems(policy: Mapping[str, Any]) -> list[Problem]:
    """All that is wrong with a NetworkPolicy, in the order of its fields; a policy that is well formed has none."""
    return [*_metadata(policy.get("metadata"), ("metadata",)), *_object(policy.get("spec"), ("spec",), _SPEC)]


def _metadata(value: Any, path: Path) -> Iterator[Problem]:
    if not isinstance(value, Mapping):
        yield _kind(path, "a mapping")
        return
    for name, most in (("name", _MAX_NAME), ("namespace", 63)):
        text = value.get(name)
        if text is None and name == "namespace":
            continue
        if not isinstance(text, str) or not _DNS.fullmatch(text) or len(text) > most or (name == "namespace" and "." in text):
            yield Problem((*path, name), "is no name" if text is not None else "is missing", "Use lower-case letters, digits, '-' and '.'.")


def _object(value: Any, path: Path, fields: Mapping[str, Check]) -> Iterator[Problem]:
    """A mapping with these fields and no others; one that is absent or null is as good as empty."""
    if value is None:
        return
    if not isinstance(value, Mapping):
        yield _kind(path, "a mapping")
        return
    for name, item in value.items():
        check = fields.get(name)
        if check is None:
            known = ", ".join(fields)
            yield Problem((*path, str(name)), "is no field that a NetworkPolicy has there", f"There are {known}.")
        elif item is not None:
            yield from check(item, (*path, name))


def _each(check: Check) -> Check:
    def checked(value: Any, path: Path) -> Iterator[Problem]:
        if not isinstance(value, Sequence) or isinstance(value, str):
            yield _kind(path, "a list")
            return
        for index, item in enumerate(value):
            yield from check(item, (*path, index))

    return checked


def _fields(fields: Mapping[str, Check]) -> Check:
    return lambda value, path: _object(value, path, fields)


def _kind(path: Path, wanted: str) -> Problem:
    return Problem(path, f"is not {wanted}", f"Write {wanted} there.")


def _labels(value: Any, path: Path) -> Iterator[Problem]:
    if not isinstance(value, Mapping):
        yield _kind(path, "a mapping")
        return
    for key, text in value.items():
        yield from _label_key(key, (*path, str(key)))
        yield from _label_value(text, (*path, str(key)))


def _label_key(key: Any, path: Path) -> Iterator[Problem]:
    prefix, slash, name = str(key).rpartition("/")
    good_prefix = not slash or (_DNS.fullmatch(prefix) is not None and len(prefix) <= _MAX_NAME)
    if not isinstance(key, str) or not good_prefix or not _NAME_PART.fullmatch(name):
        yield Problem(path, f"{key!r} is no key of a label", "Write NAME or PREFIX/NAME: letters, digits, '-', '_' and '.', 63 at most.")


def _label_value(text: Any, path: Path) -> Iterator[Problem]:
    if not isinstance(text, str):
        yield Problem(path, f"{text!r} is not a text", f'Put it in quotes: "{text}".')
    elif not _LABEL_VALUE.fullmatch(text):
        yield Problem(path, f"{text!r} is no value of a label", "Use letters, digits, '-', '_' and '.', 63 at most.")


def _expression(value: Any, path: Path) -> Iterator[Problem]:
    value = {} if value is None else value
    yield from _object(value, path, {"key": _label_key, "operator": _nothing, "values": _each(_label_value)})
    if not isinstance(value, Mapping):
        return
    operator, values = value.get("operator"), value.get("values")
    if "key" not in value:
        yield Problem((*path, "key"), "is missing", "Name the label that the expression is about.")
    if not isinstance(operator, str) or operator not in _OPERATORS:
        yield Problem((*path, "operator"), f"{operator!r} is no operator", f"There are {', '.join(_OPERATORS)}.")
    elif _OPERATORS[operator] and not values:
        yield Problem((*path, "values"), f"is empty, and {operator} needs values", "List the values, or use Exists or DoesNotExist.")
    elif not _OPERATORS[operator] and values:
        yield Problem((*path, "values"), f"are given, and {operator} takes none", "Leave the values out, or use In or NotIn.")


def _nothing(_value: Any, _path: Path) -> Iterator[Problem]:
    """For what another check looks at."""
    return iter(())


def _protocol(value: Any, path: Path) -> Iterator[Problem]:
    if value not in _PROTOCOLS:
        yield Problem(path, f"{value!r} is no protocol of a NetworkPolicy", f"There are {', '.join(_PROTOCOLS)}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _port(value: Any, path: Path) -> Iterator[Problem]:
    yield from _object(value, path, {"protocol": _protocol, "port": _port_number, "endPort": _nothing})
    if not isinstance(value, Mapping) or value.get("endPort") is None:
        return
    first, last, where = value.get("port"), value["endPort"], (*path, "endPort")
    if not _is_number(last) or not 1 <= last <= _MAX_PORT:
        yield Problem(where, f"{last!r} is no port", f"Use a number from 1 to {_MAX_PORT}.")
    elif not _is_number(first):
        reason = "stands without a port" if first is None else f"cannot end a range that begins at the name {first!r}"
        yield Problem(where, reason, "Give the first port of the range as a number.")
    elif last < first:
        yield Problem(where, f"{last} is less than the port {first}", "Write the smaller one as port, the larger one as endPort.")


def _port_number(value: Any, path: Path) -> Iterator[Problem]:
    if _is_number(value):
        if not 1 <= value <= _MAX_PORT:
            yield Problem(path, f"{value} is no port", f"Use a number from 1 to {_MAX_PORT}.")
    elif not isinstance(value, str) or not _PORT_NAME.fullmatch(value):
        remedy = "Use a number, or a name of lower-case letters, digits and '-', 15 at most, with a letter in it."
        if isinstance(value, str) and value.isdigit():
            remedy = f"Take the quotes away: {value}."
        yield Problem(path, f"{value!r} is neither a port's number nor a name", remedy)


def _peer(value: Any, path: Path) -> Iterator[Problem]:
    yield from _object(value, path, {"podSelector": _SELECTOR, "namespaceSelector": _SELECTOR, "ipBlock": _block})
    if value is None or isinstance(value, Mapping):
        given = {name for name in ("podSelector", "namespaceSelector", "ipBlock") if (value or {}).get(name) is not None}
        if not given:
            yield Problem(
                path, "selects nothing", "Give it a podSelector, a namespaceSelector or an ipBlock; `podSelector: {}` is every pod."
            )
        elif "ipBlock" in given and len(given) > 1:
            yield Problem(
                (*path, "ipBlock"), "stands beside a selector", "Make two peers of it: one with the ipBlock, one with the selectors."
            )


def _block(value: Any, path: Path) -> Iterator[Problem]:
    yield from _object(value, path, {"cidr": _nothing, "except": _each(_nothing)})
    if not isinstance(value, Mapping):
        return
    whole = _network(value.get("cidr"))
    if whole is None:
        reason = "is missing" if value.get("cidr") is None else f"{value['cidr']!r} is no network"
        yield Problem((*path, "cidr"), reason, "Write it as in 10.0.0.0/8 or 2001:db8::/32; one address has /32 or /128.")
    exceptions = value.get("except")
    for index, text in enumerate(exceptions if isinstance(exceptions, Sequence) and not isinstance(exceptions, str) else ()):
        part, where = _network(text), (*path, "except", index)
        if part is None:
            yield Problem(where, f"{text!r} is no network", "Write it as in 10.1.0.0/16.")
        elif whole is not None and not _is_inside(part, whole):
            yield Problem(where, f"{text} is no part of {value['cidr']}", "An exception must be smaller than its block, and inside of it.")


def _network(value: Any) -> IPv4Network | IPv6Network | None:
    """As the API server reads it: an address with the length of its prefix; bits beyond that are let pass."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-fA-F:.]+/\d{1,3}", value):
        return None
    try:
        return ip_network(value, strict=False)
    except ValueError:
        return None


def _is_inside(part: IPv4Network | IPv6Network, whole: IPv4Network | IPv6Network) -> bool:
    if isinstance(part, IPv4Network) and isinstance(whole, IPv4Network):
        return part != whole and part.subnet_of(whole)
    return isinstance(part, IPv6Network) and isinstance(whole, IPv6Network) and part != whole and part.subnet_of(whole)


def _policy_type(value: Any, path: Path) -> Iterator[Problem]:
    if value not in ("Ingress", "Egress"):
        yield Problem(path, f"{value!r} is no type of policy", "There are Ingress and Egress.")


def _policy_types(value: Any, path: Path) -> Iterator[Problem]:
    yield from _each(_policy_type)(value, path)
    if isinstance(value, Sequence) and len(value) > 2:
        yield Problem(path, "has more than two entries", "Name Ingress and Egress once.")


_SELECTOR: Check = _fields({"matchLabels": _labels, "matchExpressions": _each(_expression)})
_SPEC: Mapping[str, Check] = {
    "podSelector": _SELECTOR,
    "policyTypes": _policy_types,
    "ingress": _each(_fields({"from": _each(_peer), "ports": _each(_port)})),
    "egress": _each(_fields({"to": _each(_peer), "ports": _each(_port)})),
}
