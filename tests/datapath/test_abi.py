"""The two sides of the tables agree: every C structure has the size and the fields' places that Python packs."""

from __future__ import annotations

import json
import re
import struct
import subprocess
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from agent.datapath import abi, policy_rows
from agent.datapath import conntrack as collector

ROOT = Path(__file__).resolve().parent.parent.parent
OBJECTS = ("pod", "host", "overlay", "socket")
CODECS = [value for module in (abi, policy_rows) for value in vars(module).values() if isinstance(value, abi.Codec) and value.name]


@pytest.fixture(scope="module")
def structs() -> dict[str, dict[str, Any]]:
    """The structures of all objects, by name, from their BTF; `places` are the members' offsets in bytes, those of unions among them."""
    found: dict[str, dict[str, Any]] = {}
    for name in OBJECTS:
        dump = subprocess.run(
            ["bpftool", "-j", "btf", "dump", "file", str(ROOT / f"agent/objects/{name}.bpf.o")], check=True, capture_output=True, text=True
        ).stdout
        kinds = {kind["id"]: kind for kind in json.loads(dump)["types"]}
        for kind in kinds.values():
            if kind["kind"] == "STRUCT" and kind["name"] != "(anon)":
                found[kind["name"]] = kind | {"places": _places(kind, kinds)}
    return found


def _places(kind: dict[str, Any], kinds: dict[int, dict[str, Any]]) -> dict[str, int]:
    found = {}
    for member in kind["members"]:
        inside = kinds[member["type_id"]]["members"] if member["name"] == "(anon)" else [member]
        found |= {one["name"]: member["bits_offset"] // 8 for one in inside}
    return found


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_a_codec_has_the_size_of_its_structure(structs: dict[str, dict[str, Any]], codec: abi.Codec[Any]) -> None:
    assert structs[codec.name]["size"] == codec.size


def test_the_configuration_has_the_size_of_its_structure(structs: dict[str, dict[str, Any]]) -> None:
    record = abi.ConfigRecord(IPv4Address("192.0.2.1"), None, 1, 0, 1500, abi.ConfigFlag.IPV4)
    assert structs["datapath_config"]["size"] == len(record.pack())


def test_a_record_of_a_verdict_has_the_size_of_its_structure(structs: dict[str, dict[str, Any]]) -> None:
    assert structs["verdict_record"]["size"] == policy_rows.VERDICT_SIZE


@pytest.mark.parametrize("name", ["datapath_config", "verdict_record", *(codec.name for codec in CODECS if codec.name != "address")])
def test_a_structure_has_no_holes(structs: dict[str, dict[str, Any]], name: str) -> None:
    """A hole would be garbage in a key: every byte up to the end belongs to a member that begins where the last one ended."""
    header = (ROOT / "bpf/abi.h").read_text()
    # Of a union one member is enough.
    header = re.sub(r"union \{\n\t\t(struct address |__\w+ )\w+;[^\n]*\n.*?\n\t\};", r"\1either;", header, flags=re.DOTALL)
    body = re.search(rf"struct {name} \{{(.*?)\n\}};", header, re.DOTALL)
    assert body is not None
    sizes = {"__u8": 1, "__u16": 2, "__be16": 2, "__u32": 4, "__u64": 8, "struct address": 16}
    end = 0
    members = re.findall(r"^\t(struct address|__\w+) (?:.*?)(\w+)?(?:\[(\w+)\])?;", body.group(1), re.MULTILINE)
    assert len(members) == len(structs[name]["members"])
    for member, (kind, _, count) in zip(structs[name]["members"], members, strict=True):
        assert member["bits_offset"] == end * 8, member["name"]
        end += sizes[kind] * (1 if not count else int(count) if count.isdigit() else getattr(abi, count))
    assert end == structs[name]["size"]


FIELDS = [
    (abi.ENDPOINT, abi.Endpoint(7, 8, "02:00:00:00:00:01", "02:00:00:00:00:02"), {"ifindex": "=I7", "id": "=I8"}),
    (abi.ROUTE, abi.Route(abi.RouteKind.NODE, IPv4Address("192.0.2.1")), {"kind": "=I3"}),
    (abi.FRONTEND_KEY, abi.FrontendKey(IPv4Address("192.0.2.1"), 443, 6), {"port": ">H443", "protocol": "=B6"}),
    (abi.FRONTEND_KEY, abi.FrontendKey(abi.ANY_IPV4, 30080, 17, abi.FrontendScope.NODE_PORT), {"scope": "=B1"}),
    (
        abi.FRONTEND,
        abi.Frontend(5, 6, abi.FrontendFlag.MAGLEV, 7, 8, 9),
        {"service_id": "=I5", "outside_id": "=I7", "count": "=H6", "outside_count": "=H8", "flags": "=H16", "affinity_timeout": "=I9"},
    ),
    (abi.SOURCE_RANGE_KEY, abi.SourceRange(5, ip_network("192.0.2.0/24")), {"prefix_length": "=I152", "service_id": "=I5"}),
    (abi.AFFINITY_KEY, abi.AffinityKey(IPv4Address("192.0.2.1"), 5), {"service_id": "=I5"}),
    (abi.AFFINITY_ROW, abi.AffinityRow(3, 4), {"backend": "=I3", "last_used": "=I4"}),
    (abi.SOCKET_FLOW_KEY, abi.SocketFlowKey(7, IPv4Address("192.0.2.1"), 53), {"cookie": "=Q7", "port": ">H53"}),
    (abi.SOCKET_FLOW, abi.SocketFlow(IPv4Address("192.0.2.1"), 53), {"port": ">H53"}),
    (abi.BACKEND, abi.Backend(IPv4Address("192.0.2.1"), 443, 6), {"port": ">H443", "protocol": "=B6"}),
    (
        abi.FLOW_KEY,
        abi.FlowKey(IPv4Address("192.0.2.1"), 10, IPv4Address("192.0.2.2"), 20, 17),
        {"a_port": ">H10", "b_port": ">H20", "protocol": "=B17"},
    ),
    (
        abi.CONNTRACK_ROW,
        abi.ConntrackRow(
            9, abi.ConntrackState.CLOSED, abi.ConntrackFlag.HAIRPIN, 61001, IPv4Address("192.0.2.1"), 80, 0, policy_generation=77
        ),
        {
            "last_seen": "=I9",
            "state": "=B3",
            "flags": "=B64",
            "masquerade_port": ">H61001",
            "translated_port": ">H80",
            "policy_generation": "=I77",
        },
    ),
    (
        abi.CONNTRACK_ROW,
        abi.ConntrackRow(9, abi.ConntrackState.NEW, abi.ConntrackFlag.SERVICE_ROW, 0, IPv4Address("192.0.2.1"), 80, 77),
        {"backend_id": "=I77"},
    ),
    (abi.MASQUERADE_ROW, abi.MasqueradeRow(IPv4Address("192.0.2.1"), 99), {"pod_port": ">H99"}),
    (abi.FRAGMENT_KEY, abi.FragmentKey(IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"), 3, 17), {"protocol": "=B17"}),
    (abi.FRAGMENT_ROW, abi.FragmentRow(1, 2), {"source_port": ">H1", "destination_port": ">H2"}),
    (abi.DROP_KEY, abi.DropKey(3, 4), {"reason": "=B3", "direction": "=B4"}),
    (abi.DROP_COUNT, abi.DropCount(3, 4), {"packets": "=Q3", "bytes": "=Q4"}),
    (
        policy_rows.ISOLATION,
        policy_rows.Isolation(3, 4, policy_rows.IsolationFlag.LOG_EGRESS),
        {"ingress_set": "=I3", "egress_set": "=I4", "flags": "=I2"},
    ),
    (
        policy_rows.POLICY_KEY,
        policy_rows.PolicyKey(3, 4, 17, 53, 96),
        {"prefix_length": "=I96", "set": "=I3", "class": "=I4", "protocol": ">H17", "port": ">H53"},
    ),
    (policy_rows.POLICY_ROW, policy_rows.PolicyRow(3, policy_rows.PolicyFlag.LOG), {"rule": "=I3", "flags": "=I1"}),
    (policy_rows.POLICY_COUNT_KEY, policy_rows.PolicyCountKey(3, 4), {"set": "=I3", "rule": "=I4"}),
    (policy_rows.POLICY_COUNT, policy_rows.PolicyCount(3, 4), {"packets": "=Q3", "bytes": "=Q4"}),
    (
        policy_rows.DENIAL_KEY,
        policy_rows.DenialKey(IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"), 53, 17, policy_rows.Direction.EGRESS),
        {"destination_port": ">H53", "protocol": "=B17", "direction": "=B1"},
    ),
    (
        policy_rows.DENIAL,
        policy_rows.Denial(3, 4, 5, 6),
        {"told_at": "=Q3", "untold": "=I4", "untold_since": "=Q5", "set": "=I6"},
    ),
    (
        policy_rows.LAST_DROP,
        policy_rows.LastDrop(3, 4, 5, 6),
        {"time": "=Q3", "policy_set": "=I4", "reason": "=B5", "direction": "=B6"},
    ),
]


@pytest.mark.parametrize(("codec", "row", "fields"), FIELDS, ids=lambda value: getattr(value, "name", ""))
def test_fields_stand_where_c_reads_them_and_come_back(
    structs: dict[str, dict[str, Any]], codec: abi.Codec[Any], row: Any, fields: dict[str, str]
) -> None:
    packed = codec.pack(row)
    places = structs[codec.name]["places"]
    for name, expected in fields.items():
        assert struct.unpack_from(expected[:2], packed, places[name])[0] == int(expected[2:]), name
    assert codec.unpack(packed) == row


@pytest.mark.parametrize("text", ["192.0.2.0/24", "0.0.0.0/0", "192.0.2.1/32", "2001:db8::/64", "::/0", "2001:db8::1/128"])
def test_networks_survive_the_journey_through_a_key(text: str) -> None:
    network = ip_network(text)
    assert abi.ROUTE_KEY.unpack(abi.ROUTE_KEY.pack(network)) == network


@pytest.mark.parametrize("text", ["192.0.2.1", "2001:db8::1", "::", "::1"])
def test_addresses_survive_the_journey_through_a_key(text: str) -> None:
    assert abi.unpack_address(abi.pack_address(ip_address(text))) == ip_address(text)


def _enum(name: str) -> dict[str, int]:
    """A C enum of abi.h."""
    body = re.search(rf"enum {name} \{{(.*?)\}};", (ROOT / "bpf/abi.h").read_text(), re.DOTALL)
    assert body is not None
    return {key: int(eval(value)) for key, value in re.findall(r"(\w+) = ([\d <]+)", body.group(1))}


@pytest.mark.parametrize(
    ("name", "prefix", "python"),
    [
        ("config_flag", "CONFIG_", abi.ConfigFlag),
        ("route_kind", "ROUTE_", abi.RouteKind),
        ("frontend_scope", "FRONTEND_", abi.FrontendScope),
        ("frontend_flag", "FRONTEND_", abi.FrontendFlag),
        ("conntrack_state", "CT_STATE_", abi.ConntrackState),
        ("conntrack_flag", "CT_", abi.ConntrackFlag),
        ("drop_reason", "DROP_", abi.DropReason),
        ("drop_direction", "DROP_", abi.DropDirection),
        ("policy_direction", "POLICY_", policy_rows.Direction),
        ("isolation_flag", "ISOLATION_", policy_rows.IsolationFlag),
        ("policy_flag", "POLICY_", policy_rows.PolicyFlag),
        ("verdict_loss", "VERDICT_LOSS_", policy_rows.VerdictLoss),
    ],
)
def test_enums_are_the_same_in_both_languages(name: str, prefix: str, python: type[IntEnum]) -> None:
    defined = {key.removeprefix(prefix): value for key, value in _enum(name).items() if key != "VERDICT_LOSSES"}
    assert defined == {m.name: m.value for m in python}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POLICY_CLASS_ANY", policy_rows.CLASS_ANY),
        ("POLICY_PREFIX_ANY", policy_rows.PREFIX_ANY),
        ("POLICY_PREFIX_PROTOCOL", policy_rows.PREFIX_PROTOCOL),
    ],
)
def test_constants_are_the_same_in_both_languages(name: str, value: int) -> None:
    found = re.search(rf"#define {name} (\w+)", (ROOT / "bpf/abi.h").read_text())
    assert found is not None
    assert int(found.group(1), 0) == value


def test_a_record_of_a_verdict_is_read_where_c_writes_it(structs: dict[str, dict[str, Any]]) -> None:
    fields: dict[str, tuple[str, Any]] = {
        "time": ("=Q", 1),
        "source": ("16s", abi.pack_address(IPv4Address("192.0.2.1"))),
        "destination": ("16s", abi.pack_address(IPv6Address("2001:db8::1"))),
        "source_port": (">H", 2),
        "destination_port": (">H", 3),
        "protocol": ("=B", 6),
        "direction": ("=B", 1),
        "allowed": ("=B", 1),
        "set": ("=I", 4),
        "rule": ("=I", 5),
        "count": ("=I", 6),
    }
    record = bytearray(policy_rows.VERDICT_SIZE)
    for name, (kind, value) in fields.items():
        struct.pack_into(kind, record, structs["verdict_record"]["places"][name], value)
    assert policy_rows.unpack_verdict(bytes(record)) == policy_rows.Verdict(
        1, IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"), 2, 3, 6, policy_rows.Direction.EGRESS, True, 4, 5, 6
    )


def test_timeouts_are_the_same_in_both_languages() -> None:
    header = (ROOT / "bpf/lib/conntrack.h").read_text()
    defined = {key: int(value) for key, value in re.findall(r"#define TIMEOUT_(\w+) (\d+)", header)}
    states = abi.ConntrackState
    assert {
        "MINIMUM": min(collector.timeout(p, s) for p in (1, 6, 17) for s in states),
        "TCP_NEW": collector.timeout(6, states.NEW),
        "TCP_ESTABLISHED": collector.timeout(6, states.ESTABLISHED),
        "TCP_HALF_CLOSED": collector.timeout(6, states.HALF_CLOSED),
        "TCP_CLOSED": collector.timeout(6, states.CLOSED),
        "UDP_NEW": collector.timeout(17, states.NEW),
        "UDP_ESTABLISHED": collector.timeout(17, states.ESTABLISHED),
        "OTHER": collector.timeout(1, states.NEW),
    } == defined


def test_masquerading_stays_below_the_node_ports_and_the_kernels_ephemeral_ones() -> None:
    assert abi.MASQUERADE_PORTS[0] >= 1024
    assert abi.MASQUERADE_PORTS[-1] < 30000
    assert abi.pack_address(IPv6Address("::ffff:192.0.2.1")) == abi.pack_address(IPv4Address("192.0.2.1"))
