"""`anetd conntrack`: the flows that the programs know, as documents. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from agent.datapath import conntrack
from agent.datapath.abi import CONNTRACK_ROW, FLOW_KEY, ConntrackFlag, ConntrackRow, FlowKey, IPAddress, pack_address

_NAMES = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}
_FLAGS_OFFSET, _TRANSLATED = 5, slice(16, 32)


def flows(
    rows: Iterable[tuple[bytes, bytes]], now: int, pod_of: Callable[[IPAddress], str], wanted: Collection[IPAddress] = (), limit: int = 100
) -> dict[str, Any]:
    """Up to `limit` of the flows that have an end in `wanted` (empty: of all), in the order of the table, and how many there are of them.

    `rows` are the table's bytes, for it may have a million; `now` as `abi.clock`. Expired rows, which the programs take for none, are left
    out.
    """
    ends = {pack_address(address) for address in wanted}
    found: list[dict[str, Any]] = []
    matching = 0
    for key, value in rows:
        if ends and not _touches(key, value, ends):
            continue
        flow, row = FLOW_KEY.unpack(key), CONNTRACK_ROW.unpack(value)
        idle = max(0, now - row.last_seen)
        if idle >= conntrack.timeout(flow.protocol, row.state):
            continue
        matching += 1
        if len(found) < limit:
            found.append(_document(flow, row, idle, pod_of))
    return {"matching": matching, "flows": found}


def _touches(key: bytes, value: bytes, ends: set[bytes]) -> bool:
    translated = value[_FLAGS_OFFSET] & (ConntrackFlag.SERVICE_ROW | ConntrackFlag.TRANSLATED) and value[_TRANSLATED] in ends
    return key[:16] in ends or key[16:32] in ends or bool(translated)


def _document(flow: FlowKey, row: ConntrackRow, idle: int, pod_of: Callable[[IPAddress], str]) -> dict[str, Any]:
    ends = ((flow.a, flow.a_port), (flow.b, flow.b_port))
    (client, client_port), (server, server_port) = ends[::-1] if row.flags & ConntrackFlag.INITIATOR_B else ends
    is_choice = bool(row.flags & ConntrackFlag.SERVICE_ROW)
    via = (
        f"{_end(row.translated_address, row.translated_port)}" if row.flags & (ConntrackFlag.SERVICE_ROW | ConntrackFlag.TRANSLATED) else ""
    )
    return {
        "protocol": _NAMES.get(flow.protocol, str(flow.protocol)),
        "from": _end(client, client_port),
        "fromPod": pod_of(client),
        "to": _end(server, server_port),
        "toPod": pod_of(server),
        "state": row.state.name,
        "idleSeconds": idle,
        "service": "" if is_choice else via,
        "backend": via if is_choice else "",
        "masqueradePort": row.masquerade_port,
        "flags": list(_flag_names(row.flags)),
        "policyRevision": row.policy_generation,
    }


def _flag_names(flags: ConntrackFlag) -> Iterator[str]:
    return (str(flag.name) for flag in ConntrackFlag if flag & flags)


def _end(address: IPAddress | None, port: int) -> str:
    text = f"[{address}]" if address is not None and address.version == 6 else str(address)
    return f"{text}:{port}" if port else text
