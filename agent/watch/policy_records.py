"""What the agent keeps of Pods, Namespaces, NetworkPolicies and NetworkLogging. Pure.

The invariants of `agent.watch.records` hold. What is malformed in a policy narrows it, never widens: a rule or a peer that cannot be read
allows nothing, a selector that cannot be read selects nothing as a peer and, as the policy's own, everything of its namespace. (The API
server admits none of that; a file may hold it, and is told.)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agent.watch.records import Address, Key, Network

Labels = tuple[tuple[str, str], ...]
"""Sorted pairs, so that equal labels are equal values."""


class Operator(StrEnum):
    """Of a label selector's requirement, in the API's words."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on labels. NotIn and DoesNotExist hold where the key is absent. `values` are sorted, () for the last two operators."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Selector:
    """All of its requirements (sorted; a matchLabels entry is an In of one value). () selects everything."""

    requirements: tuple[Requirement, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """An ipBlock: the addresses of `network` that are in none of `excepts`."""

    network: Network
    excepts: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Peer:
    """`block`, or else pods: those that `pods` selects (None: all) in the namespaces that `namespaces` selects (None: the policy's)."""

    pods: Selector | None = None
    namespaces: Selector | None = None
    block: Block | None = None


@dataclass(frozen=True, slots=True)
class PolicyPort:
    """`port`: a number, a name, or None for all of the protocol; `end`: the last of a range that begins at the number."""

    protocol: int
    port: int | str | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Peers and ports that are allowed together. `peers` None: everybody; `ports` None: everything, ports or not. An empty tuple of either
    is left by what could not be read, and allows nothing."""

    peers: tuple[Peer, ...] | None = None
    ports: tuple[PolicyPort, ...] | None = None


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """`ingress` and `egress`: None where the policy does not isolate in that direction, () where it isolates and allows nothing.
    `log_allowed`: its annotation asks for the log where that is left to policies."""

    key: Key
    uid: str
    pods: Selector
    ingress: tuple[Rule, ...] | None
    egress: tuple[Rule, ...] | None
    log_allowed: bool = False


@dataclass(frozen=True, slots=True)
class ContainerPort:
    """A named port of a pod's container."""

    name: str
    protocol: int
    port: int


@dataclass(frozen=True, slots=True)
class Pod:
    """`ports` are the named ones; of two of one name and protocol the first counts. `workload`: kind and name of what runs it, or
    ("Pod", its name)."""

    key: Key
    uid: str
    labels: Labels
    addresses: tuple[Address, ...]
    node: str
    ports: tuple[ContainerPort, ...] = ()
    host_network: bool = False
    finished: bool = False
    """Succeeded or Failed: its address may be another's by now, so it is nobody's peer and has no policy."""
    workload: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True)
class Namespace:
    """`log_denied`: its annotation asks for the log of what its pods are denied, where that is left to namespaces."""

    name: str
    labels: Labels
    log_denied: bool = False


@dataclass(frozen=True, slots=True)
class Logging:
    """What of verdicts is logged: NetworkLogging's spec.cluster. With `delegate_*`, annotations decide."""

    allow: bool = False
    delegate_allow: bool = False
    deny: bool = False
    delegate_deny: bool = False
