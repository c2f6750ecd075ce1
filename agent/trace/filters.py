"""What is to be traced, as it is asked for and as it stands in a probe: what does not match costs the node a compare. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

from agent.datapath.abi import IPAddress, pack_address

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "icmpv6": 58}


@dataclass(frozen=True, slots=True)
class Filter:
    """Everything that is said must hold; of a list, one of it.

    addresses  of either end; `pod` too has them, so that its packets are known on other nodes.
    pod        "namespace/name": also what happens in its network namespace and on its device, whatever the addresses say.
    port       of either end; 0 for any.
    protocol   an IP protocol number; 0 for any.
    """

    addresses: Sequence[IPAddress] = ()
    pod: str = ""
    port: int = 0
    protocol: int = 0


def decode(text: str) -> Filter:
    """Of the JSON that the command line sends. Raises `ValueError` for what is none."""
    try:
        row = json.loads(text or "{}")
        return Filter(
            tuple(ip_address(address) for address in row.get("addresses", ())),
            str(row.get("pod", "")),
            int(row.get("port", 0)),
            int(row.get("protocol", 0)),
        )
    except (AttributeError, TypeError) as error:
        raise ValueError(f"this is not a filter: {text}") from error


@dataclass(frozen=True, slots=True)
class Scope:
    """The part of a filter that is a pod's on this node: its network namespace and its host end's interface; 0 where it is not here."""

    netns: int = 0
    ifindex: int = 0


def address_matches(addresses: Sequence[IPAddress], variables: Sequence[str]) -> str:
    """A C expression: whether one of the variables, each four u32 (IPv4 as ::ffff:a.b.c.d), is one of the addresses."""
    parts = []
    for variable in variables:
        for address in addresses:
            words = [int.from_bytes(pack_address(address)[at : at + 4], "big") for at in range(0, 16, 4)]
            first = 2 if isinstance(address, IPv4Address) else 0
            # The most telling word first: others differ there.
            parts.append(" && ".join(f"{variable}[{at}] == bpf_htonl({words[at]:#x}U)" for at in range(3, first - 1, -1)))
    return " || ".join(f"({part})" for part in parts) or "0"


def conditions(wanted: Filter, scope: Scope, *, addresses: Sequence[str], ports: Sequence[str], protocol: str, place: str) -> list[str]:
    """C expressions that must all be true. `place` is one of the pod's own netns and device, "0" if there is nothing such."""
    found = []
    if wanted.protocol:
        found.append(f"{protocol} == {wanted.protocol}")
    if wanted.port:
        found.append(" || ".join(f"{port} == bpf_htons({wanted.port})" for port in ports))
    if wanted.addresses or wanted.pod:
        here = [place] if scope.netns or scope.ifindex else []
        found.append(" || ".join([*here, address_matches(wanted.addresses, addresses)]))
    return found
