"""NetworkLogging: what is logged, as the one object `default` says it. Pure.

    nothing known, or deleted --> nothing is logged
    a spec that can be        --> it is in force, and a change is told (Normal, UpdateNetworkLogging)
    another name, or a spec that cannot be --> told (Warning, InvalidNetworkLogging); what was in force stays

Source: GKE's networking.gke.io/v1alpha1; `delegate` is only meant with `log`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.watch.policy_records import Logging
from agent.watch.records import Key, key_of
from agent.watch.reflector import Resource

API_VERSION = "networking.gke.io/v1alpha1"
KIND = "NetworkLogging"
NAME = Key("", "default")
INVALID, UPDATED = "InvalidNetworkLogging", "UpdateNetworkLogging"


@dataclass(frozen=True, slots=True)
class NetworkLogging:
    """An object: its `logging`, or the `problem` that it cannot be followed for."""

    uid: str
    logging: Logging | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """What is told of an object."""

    subject: Key
    uid: str
    reason: str
    message: str


def network_logging(document: Mapping[str, Any]) -> NetworkLogging:
    """A NetworkLogging from its JSON."""
    uid = (document.get("metadata") or {}).get("uid") or ""
    if key_of(document) != NAME:
        return NetworkLogging(uid, None, f"only the object named {NAME.name} is followed")
    spec = document.get("spec")
    cluster = (spec if isinstance(spec, dict) else {}).get("cluster")
    sides = {side: (cluster if isinstance(cluster, dict) else {}).get(side) or {} for side in ("allow", "deny")}
    values: list[bool] = []
    for side, fields in sides.items():
        for name in ("log", "delegate"):
            value = fields.get(name, False) if isinstance(fields, dict) else fields
            if not isinstance(value, bool):
                return NetworkLogging(uid, None, f"spec.cluster.{side}.{name} is neither true nor false")
            values.append(value)
    found = Logging(*values)
    for side, log, delegate in (("allow", found.allow, found.delegate_allow), ("deny", found.deny, found.delegate_deny)):
        if delegate and not log:
            return NetworkLogging(uid, None, f"spec.cluster.{side}.delegate needs spec.cluster.{side}.log")
    return NetworkLogging(uid, found)


RESOURCE: Resource[NetworkLogging] = Resource(f"/apis/{API_VERSION}/networkloggings", network_logging, optional=True)


def settle(before: Logging, changes: Mapping[Key, NetworkLogging | None]) -> tuple[Logging, list[Notice]]:
    """What is in force after `changes` (None: the object is gone), and what is to be told."""
    now, notices = before, []
    for key, found in sorted(changes.items(), key=lambda change: str(change[0])):
        if found is None:
            now = Logging() if key == NAME else now
        elif found.logging is None:
            notices.append(Notice(key, found.uid, INVALID, f"{found.problem}; it goes on as before: {describe(before)}"))
        elif found.logging != now:
            now = found.logging
            notices.append(Notice(key, found.uid, UPDATED, describe(now)))
    return now, notices


def describe(logging: Logging) -> str:
    """In words."""
    allow = "where a policy's annotation asks for it" if logging.delegate_allow else "of every policy"
    deny = "where a namespace's annotation asks for it" if logging.delegate_deny else "of every namespace"
    return (
        f"allowed connections are {f'logged, {allow}' if logging.allow else 'not logged'}; "
        f"denied ones are {f'logged, {deny}' if logging.deny else 'not logged'}"
    )
