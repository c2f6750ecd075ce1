"""Rows that nobody asks for any more: expired flows, choices without a flow, masqueraded ports without one, and a deleted pod's.

The programs never delete: an expired row counts as missing there and is overwritten. Tables are scanned in batches, and only bytes are
compared: a full table is a few hundred milliseconds, not seconds. A row is read once more before it goes, since its flow may
have come back to life after the scan; the window that is left costs that flow a lookup, not its translation.
"""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Collection, Iterable

from agent.datapath.abi import (
    AffinityKey,
    AffinityRow,
    ConntrackFlag,
    ConntrackRow,
    ConntrackState,
    FlowKey,
    IPAddress,
    MasqueradeRow,
    clock,
    pack_address,
)
from agent.datapath.maps import Table

_TCP, _UDP = 6, 17
_OTHER_TIMEOUT = 60
_TCP_TIMEOUT = {ConntrackState.NEW: 60, ConntrackState.ESTABLISHED: 21600, ConntrackState.HALF_CLOSED: 3600, ConntrackState.CLOSED: 10}
_UDP_TIMEOUT = {ConntrackState.NEW: 30}
_UDP_ESTABLISHED_TIMEOUT = 180
_FLOW_PROTOCOL = 36


def timeout(protocol: int, state: int) -> int:
    """Seconds of silence after which a flow is over; the same numbers as in bpf/lib/conntrack.h."""
    if protocol == _TCP:
        return _TCP_TIMEOUT.get(ConntrackState(state), _TCP_TIMEOUT[ConntrackState.CLOSED])
    if protocol == _UDP:
        return _UDP_TIMEOUT.get(ConntrackState(state), _UDP_ESTABLISHED_TIMEOUT)
    return _OTHER_TIMEOUT


def _expired(key: bytes, value: bytes, now: int) -> bool:
    return now - int.from_bytes(value[:4], sys.byteorder) >= timeout(key[_FLOW_PROTOCOL], value[4])


def collect(conntrack: Table[FlowKey, ConntrackRow], masquerade: Table[FlowKey, MasqueradeRow], now: int | None = None) -> int:
    """Remove what has expired, as of `now` (see `abi.clock`); how many rows went."""
    now = clock(time.monotonic_ns()) if now is None else now
    live: dict[bytes, bytes] = {}  # flow -> the port it is masqueraded with
    choices: list[tuple[bytes, bytes, bytes]] = []
    dead: list[bytes] = []
    for key, value in conntrack.raw_items():
        flags = value[5]
        if flags & ConntrackFlag.SERVICE_ROW:
            choices.append((key, value, _flow_of_choice(key, value)))
        elif _expired(key, value, now):
            dead.append(key)
        else:
            live[key] = value[6:8]
    # A choice lives as long as its flow: its own time only covers the moment before that row is written.
    orphans = [key for key, value, flow in choices if flow not in live and now - int.from_bytes(value[:4], sys.byteorder) > _OTHER_TIMEOUT]
    removed = conntrack.raw_delete(_still_expired(conntrack, dead, now)) + conntrack.raw_delete(orphans)
    unused = [key for key, value in masquerade.raw_items() if live.get(_inner_key(key, value[:16], value[16:18])) != key[34:36]]
    return removed + masquerade.raw_delete(_without_flow(conntrack, masquerade, unused))


def remove_pod(conntrack: Table[FlowKey, ConntrackRow], masquerade: Table[FlowKey, MasqueradeRow], address: IPAddress) -> int:
    """Remove every row of a pod that is gone, before its address is given to another; how many rows went."""
    wanted = pack_address(address)
    flows = [
        key
        for key, value in conntrack.raw_items()
        if key[:16] == wanted or key[16:32] == wanted or (value[5] & ConntrackFlag.SERVICE_ROW and value[16:32] == wanted)
    ]
    ports = [key for key, value in masquerade.raw_items() if value[:16] == wanted]
    return conntrack.raw_delete(flows) + masquerade.raw_delete(ports)


def remove_backends(
    conntrack: Table[FlowKey, ConntrackRow], affinity: Table[AffinityKey, AffinityRow], ids: Collection[int], datagrams: Collection[int]
) -> int:
    """Remove what leads to backends that are gone: affinities to any of `ids`, flows to those of `datagrams`; how many rows went.

    The programs follow neither any more; this is so that nothing is shown, or kept, that has no effect. A connection goes on to its end.
    """
    gone = {_u32(number) for number in ids}
    clients = [key for key, value in affinity.raw_items() if value[:4] in gone] if gone else []
    gone = {_u32(number) for number in datagrams}
    flows: list[bytes] = []
    for key, value in conntrack.raw_items() if gone else ():
        if value[5] & ConntrackFlag.SERVICE_ROW and value[12:16] in gone:
            flows += (key, _flow_of_choice(key, value))
    return affinity.raw_delete(clients) + conntrack.raw_delete(flows)


def _u32(number: int) -> bytes:
    return number.to_bytes(4, sys.byteorder)


def _still_expired(conntrack: Table[FlowKey, ConntrackRow], keys: Iterable[bytes], now: int) -> list[bytes]:
    return [key for key in keys if (value := conntrack.raw_get(key)) is not None and _expired(key, value, now)]


def _without_flow(conntrack: Table[FlowKey, ConntrackRow], masquerade: Table[FlowKey, MasqueradeRow], keys: Iterable[bytes]) -> list[bytes]:
    """A port is taken a moment before its flow's row is written: ask again."""
    found = []
    for key in keys:
        value = masquerade.raw_get(key)
        if value is None:
            continue
        row = conntrack.raw_get(_inner_key(key, value[:16], value[16:18]))
        if row is None or row[6:8] != key[34:36]:
            found.append(key)
    return found


def _inner_key(outside: bytes, pod: bytes, pod_port: bytes) -> bytes:
    """The flow behind a masqueraded port: its far end and the pod."""
    return _ordered(outside[:16], outside[32:34], pod, pod_port, outside[36:40])


def _flow_of_choice(key: bytes, value: bytes) -> bytes:
    """The client's flow to the backend that was chosen for it."""
    backend, backend_port = value[16:32], value[8:10]
    client, port = (key[16:32], key[34:36]) if value[5] & ConntrackFlag.INITIATOR_B else (key[:16], key[32:34])
    return _ordered(client, port, backend, backend_port, key[36:40])


def _ordered(first: bytes, first_port: bytes, second: bytes, second_port: bytes, tail: bytes) -> bytes:
    """The same order as `order_ends` in bpf/lib/conntrack.h: halves as host integers, the second half first."""

    def rank(address: bytes, port: bytes) -> tuple[int, int, int]:
        low, high = struct.unpack("=QQ", address)
        return high, low, int(struct.unpack("=H", port)[0])

    if rank(first, first_port) <= rank(second, second_port):
        return first + second + first_port + second_port + tail
    return second + first + second_port + first_port + tail
