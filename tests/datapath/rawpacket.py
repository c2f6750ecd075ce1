"""Send one IPv4 packet as it is written: python rawpacket.py udp|tcp SOURCE DESTINATION PORT [CHECKSUM].

The kernel fills in IP's own checksum and nothing else, so whose address the source is and whether the checksum is right is the caller's business.
No import beyond the standard library: it is started dozens of times.
"""

import socket
import struct
import sys

SOURCE_PORT = 4242


def main(kind: str, source: str, destination: str, port: str, checksum: str = "0") -> None:
    body = b"raw packet"
    if kind == "udp":
        protocol, head = 17, struct.pack("!HHHH", SOURCE_PORT, int(port), 8 + len(body), int(checksum, 0))
    else:
        protocol, body = 6, b""
        head = struct.pack("!HHIIBBHHH", SOURCE_PORT, int(port), 1, 0, 5 << 4, 2, 1024, int(checksum, 0), 0)
    packet = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(head) + len(body), 1, 0, 64, protocol, 0)
    packet += socket.inet_aton(source) + socket.inet_aton(destination) + head + body
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(packet, (destination, 0))


if __name__ == "__main__":
    main(*sys.argv[1:])
