"""rtnetlink as this agent needs it: messages built from attributes, one request and its answers at a time.

Why not pyroute2: importing it costs 16 to 26 MiB and a fifth of a second or more, as much as the rest of the agent; the
agent speaks six message types. Invariants: a socket stays in the network namespace of the thread that made it; one request is
in flight per socket, whatever thread asks; an error is raised as `NetlinkError` with the kernel's own words where it gives any.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Self

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_DUMP_INTR = 0x10
_NLM_F_ACK_TLVS, _NLM_F_CAPPED = 0x200, 0x100
_NLA_F_NESTED, _NLA_TYPE_MASK = 0x8000, 0x3FFF
_NLMSGERR_ATTR_MSG = 1
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
_HEADER = struct.Struct("=IHHII")
_RECEIVE_SIZE = 1 << 17
_DUMP_ATTEMPTS = 5


class NetlinkError(OSError):
    """The kernel refused a request; `errno` is its reason, the text says what was asked."""


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = 4 + len(payload)
    return struct.pack("=HH", length, kind) + payload + bytes(-length % 4)


def text(kind: int, value: str) -> bytes:
    """A string attribute, with its final zero."""
    return attribute(kind, value.encode() + b"\0")


def u8(kind: int, value: int) -> bytes:
    """An attribute of one byte."""
    return attribute(kind, struct.pack("=B", value))


def u32(kind: int, value: int) -> bytes:
    """An attribute of four bytes in host order."""
    return attribute(kind, struct.pack("=I", value))


def nested(kind: int, *children: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NLA_F_NESTED, b"".join(children))


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in `data` by type; of two with one type the later wins."""
    found = {}
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            break
        found[kind & _NLA_TYPE_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence number, body) of each message in a datagram."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            break
        yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def kernel_message(body: bytes, flags: int) -> str:
    """The kernel's explanation in an error's body, "" if it gave none."""
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    (inner,) = struct.unpack_from("=I", body, 4)
    start = 20 if flags & _NLM_F_CAPPED else 4 + ((inner + 3) & ~3)
    return attributes(body[start:]).get(_NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")


class Netlink:
    """A netlink socket in the namespace of the calling thread, of rtnetlink unless another family's number is given."""

    def __init__(self, family: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        try:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
            self._socket.bind((0, 0))
        except BaseException:
            self._socket.close()
            raise
        self._lock = threading.Lock()
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def request(self, kind: int, flags: int, body: bytes, doing: str) -> list[bytes]:
        """Send one request; the bodies of its answers. Raises `NetlinkError` that says what was being done."""
        with self._lock:
            attempts = _DUMP_ATTEMPTS if flags & NLM_F_DUMP == NLM_F_DUMP else 1
            for _ in range(attempts):
                answers, complete = self._exchange(kind, flags, body, doing)
                if complete:
                    return answers
        raise NetlinkError(errno.EAGAIN, f"{doing}: the tables changed during every one of {attempts} readings")

    def dump(self, kind: int, body: bytes, doing: str) -> list[bytes]:
        """Every row that matches; read again when the kernel says that the table changed meanwhile."""
        return self.request(kind, NLM_F_DUMP, body, doing)

    def _exchange(self, kind: int, flags: int, body: bytes, doing: str) -> tuple[list[bytes], bool]:
        self._sequence = (self._sequence + 1) & 0x7FFFFFFF
        dump = flags & NLM_F_DUMP == NLM_F_DUMP
        head = _HEADER.pack(_HEADER.size + len(body), kind, flags | NLM_F_REQUEST | (0 if dump else NLM_F_ACK), self._sequence, 0)
        self._socket.send(head + body)
        answers: list[bytes] = []
        complete = True
        while True:
            for answer, answer_flags, sequence, payload in messages(self._socket.recv(_RECEIVE_SIZE)):
                if sequence != self._sequence:
                    continue
                complete = complete and not answer_flags & _NLM_F_DUMP_INTR
                if answer == _NLMSG_DONE:
                    return answers, complete
                if answer == _NLMSG_ERROR:
                    (code,) = struct.unpack_from("=i", payload)
                    if code == 0:
                        return answers, complete
                    said = kernel_message(payload, answer_flags)
                    raise NetlinkError(-code, f"{doing}: {os.strerror(-code)}" + (f" ({said})" if said else ""))
                answers.append(payload)
