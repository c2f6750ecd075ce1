"""One DNS question, asked from inside a pod: the shortest proof that a cluster's network works.

The pod is any whose network namespace the node's runtime has named below /run/netns. The packet meets what every packet of
that pod meets: the programs on its device, the translation of the Service, the pod that answers, and the way back.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable
from ipaddress import ip_address

from provisioner.providers.local import member, networks

KUBERNETES = "kubernetes.default.svc.cluster.local"
_TYPE_A, _TYPE_AAAA, _CLASS_IN = 1, 28, 1
_RESPONSE, _RCODE_MASK = 0x8000, 0x000F
_TIMEOUT_SECONDS = 0.5


def question(name: str, identifier: int, *, ipv6: bool = False) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return (
        struct.pack("!6H", identifier, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", _TYPE_AAAA if ipv6 else _TYPE_A, _CLASS_IN)
    )


def is_answer(packet: bytes, identifier: int) -> bool:
    """Whether it is a response without error to that question, with at least one record."""
    if len(packet) < 12:
        return False
    found, flags, _, answers, _, _ = struct.unpack("!6H", packet[:12])
    return found == identifier and bool(flags & _RESPONSE) and not flags & _RCODE_MASK and answers > 0


def _ask(server: str, name: str) -> bool:
    ipv6 = ip_address(server).version == 6
    identifier = int.from_bytes(os.urandom(2), "big")
    with socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM) as query:
        query.settimeout(_TIMEOUT_SECONDS)
        try:
            query.connect((server, 53))
            query.send(question(name, identifier, ipv6=ipv6))
            return is_answer(query.recv(1500), identifier)
        except OSError:
            return False


def answers_from_a_pod(nodes: Iterable[int], server: str, name: str) -> bool:
    """Ask from the pods of the nodes (by their PID 1) one after the other, until one gets an answer."""
    for pid in nodes:
        directory = member.inside(pid, "/run/netns")
        paths = sorted(directory.iterdir()) if directory.is_dir() else []
        for path in paths:
            try:
                if networks.in_network(str(path), lambda: _ask(server, name)):
                    return True
            except OSError:  # the pod has just ended
                continue
    return False
