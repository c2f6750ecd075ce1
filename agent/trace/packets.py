"""The heads of a dropped packet, as far as they were captured. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from agent.datapath.abi import IPAddress

IPV4, IPV6 = 0x0800, 0x86DD
_ETHERTYPES = {IPV4: "IPv4", IPV6: "IPv6", 0x0806: "ARP"}
NAMES = {1: "ICMP", 2: "IGMP", 6: "TCP", 17: "UDP", 47: "GRE", 58: "ICMPv6", 132: "SCTP"}
_WITH_PORTS = frozenset({6, 17, 132})
_EXTENSIONS = frozenset({0, 43, 44, 60})  # hop by hop, routing, fragment, destination options
_FRAGMENT = 44
_TCP_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")


@dataclass(frozen=True, slots=True)
class Heads:
    """`protocol` is a name, or a number as text; ports are 0 and `detail` empty where there are none, or they were not captured.

    detail  TCP's flags, ICMP's type and code, or that this is a later fragment.
    length  of the whole packet, as its head says, in bytes; 0 where it says none.
    """

    protocol: str
    source: IPAddress | None = None
    destination: IPAddress | None = None
    source_port: int = 0
    destination_port: int = 0
    detail: str = ""
    length: int = 0


def decode(ethertype: int, data: bytes) -> Heads:
    """Of the bytes from the network header on."""
    if ethertype == IPV4 and len(data) >= 20 and data[0] >> 4 == 4:
        offset = int.from_bytes(data[6:8], "big") & 0x1FFF
        heads = _transport(data[9], IPv4Address(data[12:16]), IPv4Address(data[16:20]), data[(data[0] & 15) * 4 :], offset)
        return replace(heads, length=int.from_bytes(data[2:4], "big"))
    if ethertype == IPV6 and len(data) >= 40 and data[0] >> 4 == 6:
        protocol, rest, offset = _past_extensions(data[6], data[40:])
        heads = _transport(protocol, IPv6Address(data[8:24]), IPv6Address(data[24:40]), rest, offset)
        payload = int.from_bytes(data[4:6], "big")
        return replace(heads, length=payload and payload + 40)
    return Heads(_ETHERTYPES.get(ethertype, f"{ethertype:#06x}"))


def _past_extensions(protocol: int, data: bytes) -> tuple[int, bytes, int]:
    offset = 0
    while protocol in _EXTENSIONS and len(data) >= 8:
        if protocol == _FRAGMENT:
            offset = int.from_bytes(data[2:4], "big") >> 3
        length = 8 if protocol == _FRAGMENT else 8 + 8 * data[1]
        protocol, data = data[0], data[length:]
    return protocol, data, offset


def _transport(protocol: int, source: IPAddress, destination: IPAddress, data: bytes, fragment_offset: int) -> Heads:
    name = NAMES.get(protocol, str(protocol))
    if fragment_offset:
        return Heads(name, source, destination, detail="later fragment")
    if protocol in _WITH_PORTS and len(data) >= 4:
        source_port, destination_port = struct.unpack_from("!HH", data)
        flags = [word for bit, word in enumerate(_TCP_FLAGS) if protocol == 6 and len(data) >= 14 and data[13] >> bit & 1]
        return Heads(name, source, destination, source_port, destination_port, " ".join(flags))
    detail = f"type {data[0]} code {data[1]}" if protocol in {1, 58} and len(data) >= 2 else ""
    return Heads(name, source, destination, detail=detail)
