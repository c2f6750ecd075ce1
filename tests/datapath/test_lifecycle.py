"""The datapath as an object: loaded in every configuration, pinned, adopted, attached, detached, cleaned."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest

from agent.datapath import abi, libbpf, probe, socketlb, syscalls
from agent.datapath import conntrack as collector
from agent.datapath.abi import ConntrackFlag, ConntrackRow, ConntrackState, Endpoint, FlowKey, MasqueradeRow
from agent.datapath.errors import DatapathError, IncompatiblePin, VerifierError
from agent.datapath.programs import AttachMode, Datapath, DatapathConfig, MapSizes, RoutingMode

from .lab import HOST_MAC, NODE, OBJECTS, POD_MAC, bpffs, index, namespace, sh

SMALL = MapSizes(endpoints=64, routes=64, frontends=64, backend_slots=64, backends=64, conntrack=4096, masquerade=4096, fragments=64)


@pytest.fixture
def node() -> Iterator[Path]:
    """Inside the lab's namespace, with a bpffs."""
    with namespace(), bpffs() as pins:
        yield pins


Opener = Callable[..., Datapath]


@pytest.fixture
def opened(node: Path) -> Iterator[Opener]:
    """Opens datapaths on one bpffs, one after another; closes them all."""
    datapaths = []

    def open_one(attach: str = "auto", mode: str = "native", layout: str = "v1", sizes: MapSizes = SMALL) -> Datapath:
        config = DatapathConfig(
            node_ipv4=IPv4Address(NODE[4]),
            node_ipv6=IPv6Address(NODE[6]),
            device="eth0",
            device_ifindex=index("eth0"),
            overlay_ifindex=index("anetd-vxlan") if mode == "vxlan" else 0,
            routing_mode=RoutingMode(mode),
            attach_mode=AttachMode(attach),
            layout=layout,
            map_sizes=sizes,
        )
        datapaths.append(Datapath.open(config, node, OBJECTS))
        return datapaths[-1]

    yield open_one
    for datapath in datapaths:
        datapath.close()


def running_programs(ifname: str) -> list[int]:
    """Ids of the programs on a device, as the kernel lists them."""
    filters = subprocess.run(
        f"tc filter show dev {ifname} ingress; tc filter show dev {ifname} egress", shell=True, check=True, capture_output=True, text=True
    ).stdout.split()
    return sorted(int(b) for a, b in itertools.pairwise(filters) if a == "id")


CONFIGURATIONS = [
    (families, mode, masquerade, coarse)
    for families in ("4", "6", "46", "")
    for mode in ("native", "vxlan")
    for masquerade in (True, False)
    for coarse in (True, False)
]


@pytest.mark.parametrize(("families", "mode", "masquerade", "coarse"), CONFIGURATIONS)
def test_every_configuration_is_accepted_by_this_kernel(families: str, mode: str, masquerade: bool, coarse: bool) -> None:
    flags = abi.ConfigFlag(0)
    for flag, on in (
        (abi.ConfigFlag.IPV4, "4" in families),
        (abi.ConfigFlag.IPV6, "6" in families),
        (abi.ConfigFlag.VXLAN, mode == "vxlan"),
        (abi.ConfigFlag.MASQUERADE, masquerade),
        (abi.ConfigFlag.COARSE_CLOCK, coarse),
    ):
        flags |= flag if on else 0
    record = abi.ConfigRecord(
        IPv4Address(NODE[4]) if "4" in families else None, IPv6Address(NODE[6]) if "6" in families else None, 2, 3, 1500, flags
    )
    with bpffs() as pins:
        for name, programs in (
            ("pod", {"from_pod", "to_pod"}),
            ("host", {"from_netdev", "to_netdev"}),
            ("overlay", {"from_overlay", "to_overlay"}),
            ("socket", set(socketlb.HOOKS)),
        ):
            loaded = libbpf.load(OBJECTS / f"{name}.bpf.o", config=record.pack(), pins=pins, max_entries={"conntrack": 1024})
            assert set(loaded.programs) == programs
            loaded.close()


def test_a_second_process_adopts_tables_and_links(opened: Opener) -> None:
    first = opened("tcx")
    if_index = index("dplab0")
    first.endpoints.put(ip_address("198.19.16.10"), Endpoint(if_index, 1, POD_MAC, HOST_MAC))
    first.attach_device()
    first.attach_pod("dplab0", if_index)
    links = {path.name: path for path in (first._root / "links").iterdir()}
    ids = {name: _link(path) for name, path in links.items()}
    first.close()
    second = opened("tcx")
    assert second.attached() == {"dplab0"}
    assert dict(second.endpoints.items())[ip_address("198.19.16.10")].ifindex == if_index
    for name, path in links.items():
        assert _link(path).id == ids[name].id, "the link is the same"
        assert _link(path).prog_id != ids[name].prog_id, "and runs the new program"
    assert _link(links["pod-dplab0-ingress"]).prog_id == syscalls.prog_id(second.program_fd("from_pod"))


def _link(path: Path) -> syscalls.LinkInfo:
    fd = syscalls.obj_get(path)
    assert fd is not None
    try:
        return syscalls.tcx_link_info(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("attach", ["tcx", "clsact"])
def test_attaching_is_idempotent_and_detaching_forgives(opened: Opener, attach: str) -> None:
    datapath = opened(attach)
    assert datapath.attached() == frozenset()
    for _ in range(3):
        datapath.attach_pod("dplab0", index("dplab0"))
        datapath.attach_device()
    assert datapath.attached() == {"dplab0"}
    if attach == "clsact":
        assert len(running_programs("dplab0")) == 2
    datapath.detach_pod("dplab0")
    datapath.detach_pod("dplab0")
    datapath.detach_pod("never-there")
    assert datapath.attached() == frozenset()


@pytest.mark.parametrize("attach", ["tcx", "clsact"])
def test_a_device_that_is_gone_is_not_attached_and_its_name_can_be_used_again(opened: Opener, attach: str) -> None:
    datapath = opened(attach)
    datapath.attach_pod("dplab1", index("dplab1"))
    sh("ip link del dplab1")
    assert datapath.attached() == frozenset()
    sh("ip link add dplab1 type veth peer name dplab1p")
    datapath.attach_pod("dplab1", index("dplab1"))
    assert datapath.attached() == {"dplab1"}
    datapath.detach_pod("dplab1")
    sh("ip link del dplab1")
    datapath.detach_pod("dplab1")


def test_attaching_to_no_device_names_it(opened: Opener) -> None:
    for attach in ("tcx", "clsact"):
        with pytest.raises(DatapathError, match="dpnone"):
            opened(attach).attach_pod("dpnone", 99999)


def test_filters_are_adopted_too(opened: Opener) -> None:
    first = opened("clsact")
    first.attach_pod("dplab0", index("dplab0"))
    before = running_programs("dplab0")
    first.close()
    second = opened("clsact")
    assert second.attached() == {"dplab0"}
    assert running_programs("dplab0") == sorted(syscalls.prog_id(second.program_fd(name)) for name in ("from_pod", "to_pod"))
    assert running_programs("dplab0") != before


def test_pods_settle_on_links_and_stay_there(opened: Opener) -> None:
    first = opened("auto")
    for name in ("dplab0", "dplab1"):
        first.attach_pod(name, index(name))
    links = first._root / "links"
    assert (list(links.iterdir()), len(running_programs("dplab0"))) == ([], 2)
    assert first.settle(at_most=1) == 1
    assert first.attached() == {"dplab0", "dplab1"}
    assert (first.settle(), first.settle()) == (1, 0)
    assert len(list(links.iterdir())) == 4
    assert running_programs("dplab0") == []
    first.close()
    second = opened("auto")
    second.attach_pod("dplab0", index("dplab0"))
    assert (second.attached(), running_programs("dplab0")) == ({"dplab0", "dplab1"}, [])
    second.detach_pod("dplab0")
    second.detach_pod("dplab1")
    assert (second.attached(), list(links.iterdir())) == (frozenset(), [])
    second.attach_pod("dplab0", index("dplab0"))
    assert second.settle() == 1, "right after its links were let go"


def test_going_from_links_to_filters_leaves_no_link(opened: Opener) -> None:
    opened("tcx").attach_pod("dplab0", index("dplab0"))
    datapath = opened("clsact")
    datapath.attach_pod("dplab0", index("dplab0"))
    assert list((datapath._root / "links").iterdir()) == []


def test_another_layout_starts_afresh_and_takes_the_devices_over(opened: Opener) -> None:
    old = opened("tcx", layout="v1")
    old.attach_pod("dplab0", index("dplab0"))
    new = opened("tcx", layout="v2")
    assert list(new.endpoints.items()) == []
    assert new.attached() == frozenset()
    new.attach_pod("dplab0", index("dplab0"))
    assert (old.attached(), new.attached()) == (frozenset(), {"dplab0"})


def test_a_pinned_table_of_another_shape_is_named(node: Path, opened: Opener) -> None:
    (node / "anetd/v1/maps").mkdir(parents=True)
    sh(f"bpftool map create {node}/anetd/v1/maps/conntrack type hash key 8 value 8 entries 16 name conntrack")
    with pytest.raises(IncompatiblePin, match=r"maps/conntrack.*layout version"):
        opened()


def test_a_pinned_table_keeps_its_size(opened: Opener) -> None:
    first = opened(sizes=replace(SMALL, routes=100))
    assert first.routes.max_entries == 100
    assert opened(sizes=replace(SMALL, routes=200)).routes.max_entries == 100


def test_a_place_that_is_no_bpffs_is_named(tmp_path: Path) -> None:
    config = DatapathConfig(IPv4Address(NODE[4]), None, "lo", 1)
    with pytest.raises(DatapathError, match="bpffs"):
        Datapath.open(config, tmp_path, OBJECTS)


def test_a_missing_object_is_named(node: Path) -> None:
    config = DatapathConfig(IPv4Address(NODE[4]), None, "lo", 1)
    with pytest.raises(DatapathError, match=r"pod\.bpf\.o.*build"):
        Datapath.open(config, node, node)


def test_a_program_that_the_verifier_refuses_is_named_with_its_log(node: Path, tmp_path: Path) -> None:
    source = tmp_path / "bad.bpf.c"
    source.write_text(
        '#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\nSEC("tc") int reads_beyond(struct __sk_buff *skb)\n'
        '{ return *((char *)(long)skb->data + 100); }\nchar l[] SEC("license") = "GPL";\n'
    )
    arch = subprocess.run(["gcc", "-print-multiarch"], check=True, capture_output=True, text=True).stdout.strip()
    sh(f"clang -O2 -g -target bpf -I/usr/include/{arch} -c {source} -o {tmp_path}/bad.bpf.o")
    with pytest.raises(VerifierError, match="reads_beyond") as caught:
        libbpf.load(tmp_path / "bad.bpf.o", config=b"", pins=node, max_entries={})
    assert "invalid access to packet" in caught.value.log


def test_both_ways_to_attach_work_on_this_kernel() -> None:
    """Where one is missing, the tests that need it would prove nothing."""
    assert probe.probe("tcx").present
    assert all(feature.present for feature in probe.probe_all() if feature.required)


# --- tables ---------------------------------------------------------------------------------------------------------------------


def test_tables_hold_what_is_put_and_forget_what_is_deleted(opened: Opener) -> None:
    table = opened(sizes=replace(SMALL, backends=5000)).backends
    rows = {number: abi.Backend(IPv4Address(0xC6120000 + number), number % 65536, 6) for number in range(3000)}
    table.put_many(rows)
    assert dict(table.items()) == rows
    assert len(table) == 3000
    assert table.delete_many([*range(0, 3000, 2), 77777]) == 1500
    assert sorted(key for key, _ in table.items()) == list(range(1, 3000, 2))
    assert (table.get(0), table.get(1)) == (None, rows[1])
    assert (table.delete(1), table.delete(1)) == (True, False)
    assert table.clear() == 1499
    assert list(table.items()) == []


def test_a_full_table_says_so(opened: Opener) -> None:
    table = opened().backends
    with pytest.raises(OSError, match="Argument list too long"):
        table.put_many({number: abi.Backend(IPv4Address("192.0.2.1"), 1, 6) for number in range(200)})


def test_the_route_table_lists_its_rows(opened: Opener) -> None:
    """A prefix table has no batches on every kernel."""
    table = opened().routes
    rows = {
        abi.ip_network("198.19.16.0/24"): abi.Route(abi.RouteKind.LOCAL_PODS),
        abi.ip_network("2001:db8::/64"): abi.Route(abi.RouteKind.REMOTE_PODS, IPv6Address("2001:db8::2")),
        abi.ip_network("0.0.0.0/0"): abi.Route(abi.RouteKind.NOT_MASQUERADED),
    }
    table.put_many(rows)
    assert dict(table.items()) == rows
    assert table.delete_many(rows) == 3


NOW, NO_FLAGS = 1_000_000, ConntrackFlag(0)
POD, PEER, FAR = IPv4Address("198.19.16.10"), IPv4Address("198.19.17.10"), IPv4Address("198.18.1.1")
VIP_ADDRESS, NODE_ADDRESS = IPv4Address("198.19.96.1"), IPv4Address(NODE[4])


def ordered(a: IPv4Address, a_port: int, b: IPv4Address, b_port: int, protocol: int = 6) -> FlowKey:
    """Lower end first, as the programs have it."""
    packed = abi.FLOW_KEY.pack(FlowKey(a, a_port, b, b_port, protocol))
    return abi.FLOW_KEY.unpack(collector._ordered(packed[:16], packed[32:34], packed[16:32], packed[34:36], packed[36:]))


def row(age: int, state: ConntrackState = ConntrackState.ESTABLISHED, flags: ConntrackFlag = NO_FLAGS, **more: object) -> ConntrackRow:
    values: dict[str, object] = {"masquerade_port": 0, "translated_address": None, "translated_port": 0, "backend_id": 0}
    return ConntrackRow(NOW - age, state, flags, **(values | more))  # type: ignore[arg-type]


def test_garbage_is_what_expired_and_what_hung_on_it(opened: Opener) -> None:
    datapath = opened()
    kept, gone = ordered(POD, 1, PEER, 80), ordered(POD, 2, PEER, 80)
    datapath.conntrack.put(kept, row(1000))
    datapath.conntrack.put(gone, row(1000, ConntrackState.CLOSED))
    for port, age in ((10, 5), (11, 50000)):
        datapath.conntrack.put(ordered(POD, port, FAR, 443), row(age, masquerade_port=61000 + port))
        datapath.masquerade.put(FlowKey(FAR, 443, NODE_ADDRESS, 61000 + port, 6), MasqueradeRow(POD, port))
    for port, flow in ((20, True), (21, False)):
        key = ordered(POD, port, VIP_ADDRESS, 80)
        flags = ConntrackFlag.SERVICE_ROW | (NO_FLAGS if key.a == POD else ConntrackFlag.INITIATOR_B)
        datapath.conntrack.put(key, row(500, flags=flags, translated_address=PEER, translated_port=8080))
        if flow:
            datapath.conntrack.put(ordered(POD, port, PEER, 8080), row(500, flags=ConntrackFlag.TRANSLATED, translated_address=VIP_ADDRESS))
    assert collector.collect(datapath.conntrack, datapath.masquerade, NOW) == 4
    assert {k for k, _ in datapath.conntrack.items()} == {
        kept,
        ordered(POD, 10, FAR, 443),
        ordered(POD, 20, VIP_ADDRESS, 80),
        ordered(POD, 20, PEER, 8080),
    }
    assert [k.b_port for k, _ in datapath.masquerade.items()] == [61010]
    assert collector.collect(datapath.conntrack, datapath.masquerade, NOW) == 0


def test_a_deleted_pod_leaves_no_row(opened: Opener) -> None:
    datapath = opened()
    other = IPv4Address("198.19.16.11")
    datapath.endpoints.put(POD, Endpoint(3, 1, POD_MAC, HOST_MAC))
    datapath.conntrack.put(ordered(POD, 1, PEER, 80), row(1))
    datapath.conntrack.put(ordered(other, 1, PEER, 80), row(1))
    datapath.conntrack.put(ordered(other, 2, POD, 80), row(1))
    datapath.conntrack.put(ordered(other, 3, VIP_ADDRESS, 80), row(1, flags=ConntrackFlag.SERVICE_ROW, translated_address=POD))
    datapath.masquerade.put(FlowKey(FAR, 443, NODE_ADDRESS, 61000, 6), MasqueradeRow(POD, 1))
    datapath.masquerade.put(FlowKey(FAR, 443, NODE_ADDRESS, 61001, 6), MasqueradeRow(other, 1))
    datapath.remove_endpoint_state(POD)
    datapath.remove_endpoint_state(POD)
    assert list(datapath.endpoints.items()) == []
    assert [k for k, _ in datapath.conntrack.items()] == [ordered(other, 1, PEER, 80)]
    assert [r.pod_address for _, r in datapath.masquerade.items()] == [other]


def test_a_backend_that_is_gone_takes_datagrams_and_affinities_along_and_leaves_connections(opened: Opener) -> None:
    datapath = opened()
    choices = {}
    for protocol, number in ((6, 1), (17, 2), (17, 3)):
        key = ordered(POD, number, VIP_ADDRESS, 80, protocol)
        flags = ConntrackFlag.SERVICE_ROW | (NO_FLAGS if key.a == POD else ConntrackFlag.INITIATOR_B)
        datapath.conntrack.put(key, row(1, flags=flags, translated_address=PEER, translated_port=8080, backend_id=number))
        datapath.conntrack.put(ordered(POD, number, PEER, 8080, protocol), row(1, flags=ConntrackFlag.TRANSLATED))
        datapath.affinity.put(abi.AffinityKey(POD, number), abi.AffinityRow(number, NOW))
        choices[number] = {key, ordered(POD, number, PEER, 8080, protocol)}
    gone = {number: abi.Backend(PEER, 8080, protocol) for number, protocol in ((1, 6), (2, 17))}
    assert datapath.forget_backends(gone) == 4
    assert {key for key, _ in datapath.conntrack.items()} == choices[1] | choices[3]
    assert [key.service_id for key, _ in datapath.affinity.items()] == [3]
