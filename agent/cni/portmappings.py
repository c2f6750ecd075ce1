"""A pod's hostPorts, as a runtime passes them: `runtimeConfig.portMappings` of the capability of that name. Pure.

Invariants: what comes in is either a mapping that can be programmed or a `ValueError` that names the field, the reason and the remedy;
the order of mappings says nothing, so two lists of the same mappings are equal. Source: the CNI conventions, "port mappings".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from agent.services.hostports import HostPort

IPAddress = IPv4Address | IPv6Address

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_NAMES = {number: name for name, number in PROTOCOLS.items()}


@dataclass(frozen=True, slots=True)
class PortMapping:
    """`host_ip` None: every address of the node; 0.0.0.0 or :: every address of that family. `protocol` is the IP protocol number."""

    host_port: int
    container_port: int
    protocol: int
    host_ip: IPAddress | None = None

    def __str__(self) -> str:
        place = "" if self.host_ip is None else f"[{self.host_ip}]:" if self.host_ip.version == 6 else f"{self.host_ip}:"
        return f"{place}{self.host_port}/{_NAMES[self.protocol].upper()}"


def decode(document: object) -> tuple[PortMapping, ...]:
    """The mappings in `portMappings` of a runtimeConfig (or of a row of the store), sorted. Raises `ValueError`."""
    rows = document.get("portMappings") if isinstance(document, Mapping) else None
    if rows is None:
        return ()
    if not isinstance(rows, list):
        raise ValueError(f"runtimeConfig.portMappings: {rows!r} is not a list; pass one object a port")
    found: dict[tuple[int, int, IPAddress | None], PortMapping] = {}
    for number, row in enumerate(rows):
        field = f"runtimeConfig.portMappings[{number}]"
        if not isinstance(row, Mapping):
            raise ValueError(f"{field}: {row!r} is not an object; pass hostPort, containerPort and protocol")
        # containerd writes HostPort where the conventions have hostPort: Go reads either, and so do we.
        given = {str(name).lower(): value for name, value in row.items()}
        mapping = PortMapping(
            _port(f"{field}.hostPort", given.get("hostport")),
            _port(f"{field}.containerPort", given.get("containerport")),
            _protocol(f"{field}.protocol", given.get("protocol")),
            _address(f"{field}.hostIP", given.get("hostip")),
        )
        key = (mapping.host_port, mapping.protocol, mapping.host_ip)
        if found.setdefault(key, mapping) != mapping:
            raise ValueError(f"{field}.hostPort: {mapping} leads to two ports of the pod; give each a hostPort of its own")
    return tuple(sorted(found.values(), key=lambda each: (each.host_port, each.protocol, str(each.host_ip or ""))))


def encode(mappings: Sequence[PortMapping]) -> list[dict[str, Any]]:
    """The inverse of `decode`."""
    return [
        {
            "hostPort": each.host_port,
            "containerPort": each.container_port,
            "protocol": _NAMES[each.protocol],
            **({} if each.host_ip is None else {"hostIP": str(each.host_ip)}),
        }
        for each in mappings
    ]


def conflict(one: PortMapping, other: PortMapping) -> bool:
    """Whether some packet to the node would belong to both."""
    if (one.host_port, one.protocol) != (other.host_port, other.protocol):
        return False
    if one.host_ip is None or other.host_ip is None:
        return True
    same_family = one.host_ip.version == other.host_ip.version
    return one.host_ip == other.host_ip or (same_family and (one.host_ip.is_unspecified or other.host_ip.is_unspecified))


def host_ports(mappings: Sequence[PortMapping], addresses: Sequence[IPAddress]) -> list[HostPort]:
    """What the node's tables need for a pod with these addresses. Raises `ValueError` for a hostIP of a family that the pod lacks."""
    found = []
    for each in mappings:
        own = [address for address in addresses if each.host_ip is None or each.host_ip.version == address.version]
        if not own:
            version = each.host_ip.version if each.host_ip is not None else 4
            raise ValueError(f"hostPort {each}: the pod has no IPv{version} address to lead it to; leave hostIP out, or use another")
        host_ip = None if each.host_ip is None or each.host_ip.is_unspecified else each.host_ip
        found += [HostPort(host_ip, each.host_port, each.protocol, address, each.container_port) for address in own]
    return found


def _port(field: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 16:
        raise ValueError(f"{field}: {value!r} is not a port; use 1 to 65535")
    return value


def _protocol(field: str, value: object) -> int:
    number = PROTOCOLS.get(value.lower() if isinstance(value, str) else "tcp" if value is None else "")
    if number is None:
        raise ValueError(f"{field}: {value!r} is not known; use one of {', '.join(PROTOCOLS)}")
    return number


def _address(field: str, value: object) -> IPAddress | None:
    if value is None or value == "":
        return None
    try:
        address = ip_address(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError(f"{field}: {value!r} is not an IP address; leave it out for every address of the node") from None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
