"""The agent's configuration: /etc/anetd/config.json, checked field by field. Pure but for `load`.

Invariant: an unknown field, a wrong type or an impossible value is refused with the field's name, the reason and the remedy;
nothing is silently taken for something else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Network = IPv4Network | IPv6Network

ROUTING_MODES = ("native", "vxlan")
ATTACH_MODES = ("auto", "tcx", "clsact")
LOAD_BALANCER_MODES = ("snat", "dsr")
MIN_MTU, MAX_MTU = 1280, 65535


class ConfigError(ValueError):
    """`field` is wrong for `reason`; `remedy` says what to write instead."""

    def __init__(self, field: str, reason: str, remedy: str) -> None:
        super().__init__(f"{field}: {reason}; {remedy}")
        self.field = field


@dataclass(frozen=True, slots=True)
class Config:
    """Names are the JSON's, in snake case. `device` "" and `mtu` 0 mean: find out; without a `load_balancer_pool` nobody is given an
    address of a load balancer."""

    cluster_name: str
    api_server: str
    pod_cidrs: tuple[Network, ...]
    service_cidrs: tuple[Network, ...]
    routing_mode: str = "native"
    device: str = ""
    mtu: int = 0
    masquerade: bool = True
    non_masquerade_cidrs: tuple[Network, ...] = ()
    attach_mode: str = "auto"
    socket_lb: bool = True
    load_balancer_mode: str = "snat"
    layout: str = "v2"
    load_balancer_pool: tuple[Network, ...] = ()
    policy_log_deny_policies: bool = False
    """Whether the policy log's denials name the policies that isolate the pod, which GKE's do not."""


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(field, f"{value!r} is not a string", "write it in quotes")
    return value


def _name(field: str, value: object) -> str:
    text = _text(field, value)
    if not text:
        raise ConfigError(field, "it is empty", "give it a name")
    return text


def _pin_name(field: str, value: object) -> str:
    text = _name(field, value)
    if not text.isalnum():
        raise ConfigError(field, f"{text!r} would be a directory's name", "use letters and digits alone, such as v1")
    return text


def _url(field: str, value: object) -> str:
    text = _text(field, value)
    parts = urlsplit(text)
    if parts.scheme not in {"https", "http"} or not parts.hostname:
        raise ConfigError(field, f"{text!r} is not the URL of an API server", "write https://HOST:PORT")
    return text.rstrip("/")


def _choice(*allowed: str) -> Callable[[str, object], str]:
    def check(field: str, value: object) -> str:
        if value not in allowed:
            raise ConfigError(field, f"{value!r} is not known", f"use one of {', '.join(allowed)}")
        return str(value)

    return check


def _flag(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(field, f"{value!r} is neither true nor false", "write true or false without quotes")
    return value


def _mtu(field: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not (value == 0 or MIN_MTU <= value <= MAX_MTU):
        raise ConfigError(field, f"{value!r} is not an MTU", f"use 0 (the device's) or {MIN_MTU} to {MAX_MTU}")
    return value


def _networks(field: str, value: object) -> tuple[Network, ...]:
    if not isinstance(value, list):
        raise ConfigError(field, f"{value!r} is not a list", 'write ["10.0.0.0/16"]')
    found = []
    for item in value:
        try:
            found.append(ip_network(_text(field, item)))
        except ValueError as error:
            raise ConfigError(field, str(error), "write network/length with no bits set behind the length") from error
    return tuple(found)


def _some_networks(field: str, value: object) -> tuple[Network, ...]:
    found = _networks(field, value)
    if not found:
        raise ConfigError(field, "it is empty", "name at least one CIDR")
    return found


_FIELDS: Mapping[str, tuple[str, Callable[[str, object], Any]]] = {
    "clusterName": ("cluster_name", _name),
    "apiServer": ("api_server", _url),
    "podCIDRs": ("pod_cidrs", _some_networks),
    "serviceCIDRs": ("service_cidrs", _some_networks),
    "routingMode": ("routing_mode", _choice(*ROUTING_MODES)),
    "device": ("device", _text),
    "mtu": ("mtu", _mtu),
    "masquerade": ("masquerade", _flag),
    "nonMasqueradeCIDRs": ("non_masquerade_cidrs", _networks),
    "attachMode": ("attach_mode", _choice(*ATTACH_MODES)),
    "socketLB": ("socket_lb", _flag),
    "loadBalancerMode": ("load_balancer_mode", _choice(*LOAD_BALANCER_MODES)),
    "layout": ("layout", _pin_name),
    "loadBalancerPool": ("load_balancer_pool", _networks),
    "policyLogDenyPolicies": ("policy_log_deny_policies", _flag),
}


def parse(document: object) -> Config:
    """A Config from decoded JSON. Raises `ConfigError`."""
    if not isinstance(document, dict):
        raise ConfigError("config", "it is not a JSON object", "write {...}")
    unknown = sorted(set(document) - set(_FIELDS))
    if unknown:
        raise ConfigError(unknown[0], "there is no such field", f"the fields are {', '.join(_FIELDS)}")
    values = {name: check(key, document[key]) for key, (name, check) in _FIELDS.items() if key in document}
    required = {f.name for f in fields(Config)[:4]}
    for key, (name, _) in _FIELDS.items():
        if name in required and name not in values:
            raise ConfigError(key, "it is missing", "add it")
    return Config(**values)


def load(path: Path) -> Config:
    """Read and check `path`. Raises `ConfigError`, also when the file cannot be read."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read ({error.strerror})", "mount the ConfigMap anetd-config there") from error
    except ValueError as error:
        raise ConfigError(str(path), f"is not JSON ({error})", "correct the ConfigMap anetd-config") from error
    return parse(document)
