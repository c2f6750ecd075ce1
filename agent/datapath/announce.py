"""Tell the link that addresses are here now: gratuitous ARP, unsolicited neighbour advertisements.

The programs answer whoever asks (bpf/lib/neighbour.h); this is for those who asked before, while another node had the address, and would
go on sending to it until they ask again.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from agent.datapath.links import mac_bytes

_BROADCAST = b"\xff" * 6
_ALL_NODES = IPv6Address("ff02::1")
_ALL_NODES_MAC = bytes.fromhex("333300000001")
_ETH_P_ARP, _ETH_P_IPV6 = 0x0806, 0x86DD
_ETHERNET, _ARP_REQUEST = 1, 1
_ADVERTISEMENT, _OVERRIDE, _TARGET_ADDRESS = 136, 0x20000000, 2


def announce(ifname: str, mac: str, addresses: Iterable[IPv4Address | IPv6Address]) -> int:
    """Say on a device's link that each address is at `mac`; how many were said. Raises `OSError`."""
    frames = [frame(mac_bytes(mac), address) for address in addresses]
    if frames:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
            link.bind((ifname, 0))
            for each in frames:
                link.send(each)
    return len(frames)


def frame(mac: bytes, address: IPv4Address | IPv6Address) -> bytes:
    """The Ethernet frame that says so."""
    if isinstance(address, IPv4Address):
        head = struct.pack("!HHBBH", _ETHERNET, 0x0800, 6, 4, _ARP_REQUEST)
        return _BROADCAST + mac + struct.pack("!H", _ETH_P_ARP) + head + mac + address.packed + bytes(6) + address.packed
    body = struct.pack("!BBHI", _ADVERTISEMENT, 0, 0, _OVERRIDE) + address.packed + struct.pack("!BB", _TARGET_ADDRESS, 1) + mac
    pseudo = address.packed + _ALL_NODES.packed + struct.pack("!II", len(body), socket.IPPROTO_ICMPV6)
    body = body[:2] + struct.pack("!H", _checksum(pseudo + body)) + body[4:]
    head = struct.pack("!IHBB", 6 << 28, len(body), socket.IPPROTO_ICMPV6, 255) + address.packed + _ALL_NODES.packed
    return _ALL_NODES_MAC + mac + struct.pack("!H", _ETH_P_IPV6) + head + body


def _checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
