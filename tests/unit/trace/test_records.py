"""What probes send becomes what people are told: packets' heads, records of drops and connections, and whose they are."""

from __future__ import annotations

import errno
import json
import struct
from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop

from agent.cni.protocol import Attachment
from agent.cni.store import Record, State, Store
from agent.datapath.abi import pack_address
from agent.datapath.links import pod_link_name
from agent.trace import connects, drops, namespaces, packets, pods
from agent.trace.connects import Outcome
from agent.trace.filters import Filter, Scope
from agent.trace.formats import Field, Format

V4 = {"src": "10.0.0.1", "dst": "10.0.0.2"}
V6 = {"src": "fd00::1", "dst": "fd00::2"}


def summary(heads):
    return heads.protocol, str(heads.source), heads.source_port, str(heads.destination), heads.destination_port, heads.detail, heads.length


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (IP(**V4) / UDP(sport=1, dport=53) / b"abc", ("UDP", "10.0.0.1", 1, "10.0.0.2", 53, "", 31)),
        (IP(**V4) / TCP(sport=2, dport=80, flags="SA"), ("TCP", "10.0.0.1", 2, "10.0.0.2", 80, "SYN ACK", 40)),
        (IP(**V4, options=[b"\x01\x01\x01\x00"]) / UDP(sport=1, dport=53), ("UDP", "10.0.0.1", 1, "10.0.0.2", 53, "", 32)),
        (IP(**V4) / ICMP(type=8), ("ICMP", "10.0.0.1", 0, "10.0.0.2", 0, "type 8 code 0", 28)),
        (IP(**V4, frag=10, proto=17) / (b"x" * 16), ("UDP", "10.0.0.1", 0, "10.0.0.2", 0, "later fragment", 36)),
        (IP(**V4, proto=99) / b"xxxxxxxx", ("99", "10.0.0.1", 0, "10.0.0.2", 0, "", 28)),
        (IPv6(**V6) / UDP(sport=1, dport=53), ("UDP", "fd00::1", 1, "fd00::2", 53, "", 48)),
        (IPv6(**V6) / ICMPv6EchoRequest(), ("ICMPv6", "fd00::1", 0, "fd00::2", 0, "type 128 code 0", 48)),
        (IPv6(**V6) / IPv6ExtHdrHopByHop() / TCP(sport=3, dport=4, flags="R"), ("TCP", "fd00::1", 3, "fd00::2", 4, "RST", 68)),
        (IPv6(**V6) / IPv6ExtHdrFragment(offset=0, m=1) / UDP(sport=1, dport=2), ("UDP", "fd00::1", 1, "fd00::2", 2, "", 56)),
        (IPv6(**V6) / IPv6ExtHdrFragment(offset=9, nh=17) / (b"x" * 8), ("UDP", "fd00::1", 0, "fd00::2", 0, "later fragment", 56)),
    ],
)
def test_a_packets_heads(packet, expected):
    ethertype = packets.IPV6 if isinstance(packet, IPv6) else packets.IPV4
    assert summary(packets.decode(ethertype, bytes(packet))) == expected


@pytest.mark.parametrize("size", range(40))
def test_heads_that_are_cut_short_say_what_is_there(size):
    whole = bytes(IP(**V4) / TCP(sport=2, dport=80, flags="S"))
    found = packets.decode(packets.IPV4, whole[:size])
    assert found.protocol == ("TCP" if size >= 20 else "IPv4")
    assert found.destination_port == (80 if size >= 24 else 0)
    assert packets.decode(packets.IPV6, whole[:size]).source is None


def test_what_is_no_ip_packet_has_its_number():
    assert [packets.decode(number, b"x" * 60).protocol for number in (0x0806, 0x88CC)] == ["ARP", "0x88cc"]


def drop_record(heads: bytes, **fields: int) -> bytes:
    values = {
        "time": 5,
        "location": 0xFFFF,
        "netns": 77,
        "ifindex": 3,
        "reason": 9,
        "length": 99,
        "policy_set": 4,
        "ethertype": packets.IPV4,
    }
    values |= {"captured": len(heads), "own_reason": 0, "own_direction": 0} | fields
    return struct.pack("=QQIIIIIHHBB6x16s128s", *values.values(), b"eth0", heads)


def test_a_dropped_packet():
    heads = bytes(IP(**V4) / UDP(sport=1, dport=53) / b"abc")
    record = drop_record(heads, own_reason=18, own_direction=1)
    found = drops.decode(record)
    assert (found.time, found.netns, found.device, found.reason, found.policy_set) == (5, 77, "eth0", 9, 4)
    assert (found.length, found.heads.destination_port) == (31, 53)
    assert namespaces.decode_netns(record) == 77
    assert (drops.own_reason_name(18), drops.own_direction_name(1)) == ("EGRESS_DENIED", "FROM_POD")


def test_the_length_is_the_kernels_where_the_packet_does_not_say():
    assert drops.decode(drop_record(b"", ethertype=0x88CC)).length == 99


def test_names_of_reasons():
    names = {2: "NOT_SPECIFIED", 3: "NO_SOCKET"}
    assert [drops.reason_name(number, names) for number in (3, 200, 0, 2 << 16 | 5)] == ["NO_SOCKET", "200", "NOT_SPECIFIED", "2:5"]
    assert [drops.own_reason_name(number) for number in (0, 2, 250)] == ["", "SPOOFED_SOURCE", "250"]


FORMAT = Format(
    "kfree_skb",
    {name: Field(8 * index, 8) for index, name in enumerate(("skbaddr", "location", "protocol", "reason", "rx_sk"), 1)},
    {"reason": {2: "NOT_SPECIFIED", 73: "TC_INGRESS", 62: "TC_EGRESS", 104: "QUEUE_PURGE"}},
)
OFFSETS = dict.fromkeys((*drops.MEMBERS, *connects.MEMBERS), 8)


def test_the_probe_asks_for_our_reason_only_where_the_kernel_says_that_a_program_dropped():
    text = drops.text(Filter(), Scope(), FORMAT, OFFSETS, 12)
    assert "reason == 73 || reason == 62" in text
    assert "bpf_pseudo_fd(1, 12)" in text
    assert "bpf_pseudo_fd" not in drops.text(Filter(), Scope(), FORMAT, OFFSETS)


def test_a_probe_without_filter_does_not_parse_and_one_with_a_filter_does():
    assert "ports" not in drops.text(Filter(), Scope(), FORMAT, OFFSETS)
    assert "ports[0] == bpf_htons(53)" in drops.text(Filter(port=53), Scope(), FORMAT, OFFSETS)


def test_a_kernel_that_does_not_tell_what_a_probe_needs_is_named():
    lacking = Format("kfree_skb", {"location": Field(8, 8)}, {})
    with pytest.raises(ValueError, match="protocol, skbaddr"):
        drops.text(Filter(), Scope(), lacking, OFFSETS)
    with pytest.raises(ValueError, match="inet_sock_set_state does not tell newstate"):
        states = Format("inet_sock_set_state", dict.fromkeys(("skaddr", "oldstate", "protocol"), Field(8, 8)), {})
        connects.text(Filter(), Scope(), {connects.STATE: states}, OFFSETS)


def test_without_the_system_calls_tracepoints_only_sockets_states_are_traced():
    states = Format("inet_sock_set_state", dict.fromkeys(("skaddr", "oldstate", "newstate", "protocol"), Field(8, 8)), {})
    text = connects.text(Filter(), Scope(), {connects.STATE: states}, OFFSETS)
    assert "on_state" in text
    assert "on_enter" not in text


def connect_record(asked: str, to: str, **fields: int) -> bytes:
    values = {
        "time": 5,
        "latency": 1500,
        "netns": 77,
        "process": 42,
        "error": 0,
        "family": 2,
        "protocol": 6,
        "outcome": 0,
        "is_asked": 1,
    } | fields
    ends = [pack_address(ip_address(text)) for text in (asked, to, "10.0.0.9")]
    ports = [struct.pack("!H", port) for port in (80, 8080, 40000)]
    return struct.pack("=QQIIiHHBB2x16s16s16s2s2s2s2x16s", *values.values(), *ends, *ports, b"curl")


def test_a_connection():
    found = connects.decode(connect_record("10.96.0.1", "10.0.0.2"))
    assert (found.asked, found.destination, found.source) == tuple(
        (ip_address(text), port) for text, port in (("10.96.0.1", 80), ("10.0.0.2", 8080), ("10.0.0.9", 40000))
    )
    assert (found.command, found.process, found.outcome, found.latency, found.error_name) == ("curl", 42, Outcome.SUCCEEDED, 1500, "")


def test_a_failed_connection_has_the_errors_name_and_one_that_nobody_asked_for_no_address_that_was_asked():
    found = connects.decode(connect_record("::", "::", error=errno.ECONNREFUSED, outcome=1, is_asked=0))
    assert (found.error_name, found.error_text, found.asked, found.destination) == ("ECONNREFUSED", "Connection refused", None, None)
    assert connects.decode(connect_record("::", "::", error=512, outcome=1)).error_name == "512"


def record(container: str, pod: str, inode: int, *addresses: str) -> Record:
    found = tuple(ip_address(text) for text in addresses)
    return Record(Attachment(container, "eth0"), State.READY, found, "/run/netns/x", (4, inode), 1500, 1, pod)


@pytest.fixture
def store(tmp_path):
    found = Store(tmp_path / "endpoints.jsonl")
    yield found
    found.close()


def test_pods_are_known_by_namespace_device_and_address_as_the_agent_writes_them_down(store, tmp_path):
    store.put(record("c1", "default/a", 11, "10.0.0.1", "fd00::1"))
    store.put(record("c2", "default/b", 12, "10.0.0.2"))
    found = pods.decode((tmp_path / "endpoints.jsonl").read_text())
    assert found.namespaces == {11: "default/a", 12: "default/b"}
    assert found.links == {pod_link_name("c1", "eth0"): "default/a", pod_link_name("c2", "eth0"): "default/b"}
    assert found.addresses == {ip_address("10.0.0.1"): "default/a", ip_address("fd00::1"): "default/a", ip_address("10.0.0.2"): "default/b"}
    assert (found.netns_of("default/b"), found.link_of("default/b")) == (12, pod_link_name("c2", "eth0"))
    assert (found.netns_of("default/c"), found.link_of("default/c")) == (0, "")


def test_a_pod_that_is_gone_is_known_until_another_has_its_place(store, tmp_path):
    path = tmp_path / "endpoints.jsonl"
    store.put(record("c1", "default/a", 11, "10.0.0.1"))
    before = pods.decode(path.read_text())
    store.remove(Attachment("c1", "eth0"))
    gone = pods.decode(path.read_text(), before)
    assert gone.addresses[ip_address("10.0.0.1")] == "default/a"
    store.put(record("c3", "default/c", 11, "10.0.0.1"))
    after = pods.decode(path.read_text(), gone)
    assert (after.namespaces[11], after.addresses[ip_address("10.0.0.1")]) == ("default/c", "default/c")


def test_of_two_attachments_of_one_name_the_later_is_the_pods(store, tmp_path):
    store.put(record("c1", "default/a-0", 11, "10.0.0.1"))
    store.put(record("c2", "default/a-0", 12, "10.0.0.2"))
    found = pods.decode((tmp_path / "endpoints.jsonl").read_text())
    assert (found.netns_of("default/a-0"), found.link_of("default/a-0")) == (12, pod_link_name("c2", "eth0"))


def test_a_half_written_line_is_passed_over():
    whole = {"container": "c", "ifname": "eth0", "state": "ready", "addresses": ["10.0.0.1"], "netnsId": [4, 11], "pod": "default/a"}
    text = json.dumps(whole) + "\n" + '{"container": "d", "ifna\n[]\n5\n{"state": "ready"}\n'
    assert pods.decode(text).namespaces == {11: "default/a"}
