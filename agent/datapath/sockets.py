"""Connected UDP sockets that outlived their backend: found and ended by the kernel's socket diagnosis (NETLINK_SOCK_DIAG).

A datagram socket that was connected through a Service goes on sending to the backend that it got then, and nothing tells it when that is
gone. Ended, it has no peer any more: who waits for an answer gets ECONNABORTED at once, who sends gets EDESTADDRREQ, and a new connect()
leads to a backend that lives. Whoever connected to the same address by himself is left alone: sockets are told by their cookies.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from agent.datapath import netns
from agent.datapath.abi import IPAddress, unpack_address
from agent.datapath.errors import DatapathError
from agent.datapath.netlink import Netlink, NetlinkError

End = tuple[IPAddress, int]
"""Address and port."""

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 20, 21
_ESTABLISHED = 1 << 1
_REQUEST = struct.Struct("=BBBxI")
_ID, _COOKIE = slice(4, 52), slice(44, 52)
"""Of an answer: ports, addresses, device and cookie, which is how the kernel wants to be told the socket again; the cookie alone."""


@dataclass(frozen=True, slots=True)
class _Connected:
    """A socket that has a peer. `id` is the kernel's `struct inet_diag_sockid`."""

    family: int
    cookie: int
    peer: End
    id: bytes


def destroy_udp(wanted: Mapping[int, End], namespaces: Iterable[str]) -> int:
    """End the UDP sockets with the cookies `wanted`, each if it is still connected to its end; how many were.

    They are looked for in this thread's network namespace and in those at the paths `namespaces`; one that is gone has none. An IPv6
    socket's IPv4 peer is IPv4. Raises `DatapathError` about the namespaces that could not be searched, after the others were; CAP_NET_ADMIN
    is needed in each.
    """
    left, ended, failures = dict(wanted), 0, []
    for path in ("", *dict.fromkeys(namespaces)):
        if not left:
            break
        try:
            for each in _in_namespace(path, left):
                del left[each]
                ended += 1
        except netns.NamespaceGoneError:
            continue
        except OSError as error:
            failures.append(f"{path or 'the node'}: {error}")
    if failures:
        raise DatapathError(f"connected UDP sockets may still point at backends that are gone: {'; '.join(failures)}")
    return ended


def _in_namespace(path: str, wanted: Mapping[int, End]) -> list[int]:
    """The cookies of those that were ended."""
    if not path:
        return _here(wanted)
    fd = netns.open_namespace(path)
    try:
        return netns.run_in(fd, lambda: _here(wanted))
    finally:
        os.close(fd)


def _here(wanted: Mapping[int, End]) -> list[int]:
    with Netlink(_NETLINK_SOCK_DIAG) as diag:
        found = [each for each in _connected(diag) if wanted.get(each.cookie) == each.peer]
        return [each.cookie for each in found if _destroy(diag, each)]


def _connected(diag: Netlink) -> Iterator[_Connected]:
    for family in (socket.AF_INET, socket.AF_INET6):
        request = _REQUEST.pack(family, socket.IPPROTO_UDP, 0, _ESTABLISHED) + bytes(48)
        for answer in diag.dump(_SOCK_DIAG_BY_FAMILY, request, "list connected UDP sockets"):
            (port,) = struct.unpack_from(">H", answer, 6)
            peer: IPAddress = IPv4Address(answer[24:28]) if family == socket.AF_INET else unpack_address(answer[24:40])
            yield _Connected(family, int.from_bytes(answer[_COOKIE], sys.byteorder), (peer, port), answer[_ID])


def _destroy(diag: Netlink, found: _Connected) -> bool:
    """Whether it was still there."""
    request = _REQUEST.pack(found.family, socket.IPPROTO_UDP, 0, _ESTABLISHED) + found.id
    try:
        diag.request(_SOCK_DESTROY, 0, request, f"end a UDP socket connected to {found.peer[0]} port {found.peer[1]}")
    except NetlinkError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True
