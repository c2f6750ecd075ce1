"""Records of the ring `verdicts` for tests, as the programs write them."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from agent.datapath.abi import pack_address
from agent.datapath.policy_rows import Direction

TCP, UDP, ICMP, ICMP6, SCTP = 6, 17, 1, 58, 132


def verdict(
    source: str,
    destination: str,
    ports: tuple[int, int] = (40522, 8080),
    protocol: int = TCP,
    *,
    direction: Direction = Direction.INGRESS,
    rule: int = 0,
    count: int = 1,
    time: int = 0,
) -> bytes:
    """Allowed by `rule`, or denied where it is 0."""
    return struct.pack(
        "=Q16s16s2s2sBBBxIIIxxxx",
        time,
        pack_address(ip_address(source)),
        pack_address(ip_address(destination)),
        ports[0].to_bytes(2, "big"),
        ports[1].to_bytes(2, "big"),
        protocol,
        direction,
        int(rule != 0),
        7,
        rule,
        count,
    )
