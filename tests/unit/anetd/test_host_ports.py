"""hostPorts: what a runtime passes is taken whole or refused with words, survives in the store, and becomes the node's host ports."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cni import protocol
from agent.cni.install import network_config
from agent.cni.portmappings import PROTOCOLS, PortMapping, conflict, decode, encode, host_ports
from agent.cni.protocol import Attachment, CniError, Code
from agent.cni.store import Record, State, Store
from agent.services.hostports import HostPort

POD = (ip_address("10.0.0.2"), ip_address("fd00::2"))
addresses = st.sampled_from([None, *map(ip_address, ("0.0.0.0", "::", "127.0.0.1", "192.0.2.1", "192.0.2.2", "2001:db8::1"))])
mappings = st.builds(PortMapping, st.integers(1, 65535), st.integers(1, 65535), st.sampled_from(list(PROTOCOLS.values())), addresses)


def rows(*found: dict[str, Any]) -> dict[str, Any]:
    return {"portMappings": list(found)}


def row(**changes: Any) -> dict[str, Any]:
    return {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", **changes}


def test_the_configuration_asks_the_runtime_for_port_mappings() -> None:
    assert json.loads(network_config())["plugins"] == [{"type": "anetd-cni", "capabilities": {"portMappings": True}}]


def test_mappings_are_decoded_as_runtimes_write_them() -> None:
    found = decode(rows(row(protocol="UDP", hostIP="192.0.2.1"), row(hostIP=""), row(hostIP="::ffff:192.0.2.9", hostPort=1)))
    assert found == (
        PortMapping(1, 80, 6, ip_address("192.0.2.9")),
        PortMapping(8080, 80, 6),
        PortMapping(8080, 80, 17, ip_address("192.0.2.1")),
    )
    assert decode(rows({"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""})) == (PortMapping(8080, 80, 6),)
    assert [str(each) for each in found] == ["192.0.2.9:1/TCP", "8080/TCP", "192.0.2.1:8080/UDP"]
    assert decode(None) == decode({}) == decode({"portMappings": None}) == decode(rows()) == ()


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"portMappings": {}}, "runtimeConfig.portMappings:"),
        (rows("x"), "runtimeConfig.portMappings[0]:"),  # type: ignore[arg-type]
        (rows(row(), row(hostPort=0)), "runtimeConfig.portMappings[1].hostPort:"),
        (rows(row(hostPort=65536)), "runtimeConfig.portMappings[0].hostPort:"),
        (rows(row(hostPort=True)), "runtimeConfig.portMappings[0].hostPort:"),
        (rows(row(hostPort="80")), "runtimeConfig.portMappings[0].hostPort:"),
        (rows(row(containerPort=-1)), "runtimeConfig.portMappings[0].containerPort:"),
        (rows(row(containerPort=None)), "runtimeConfig.portMappings[0].containerPort:"),
        (rows(row(protocol="icmp")), "runtimeConfig.portMappings[0].protocol:"),
        (rows(row(protocol=6)), "runtimeConfig.portMappings[0].protocol:"),
        (rows(row(hostIP="node-1")), "runtimeConfig.portMappings[0].hostIP:"),
        (rows(row(hostIP=5)), "runtimeConfig.portMappings[0].hostIP:"),
        (rows(row(), row(containerPort=81)), "runtimeConfig.portMappings[1].hostPort:"),
    ],
)
def test_what_cannot_be_programmed_is_refused_with_its_field_and_a_remedy(document: Any, field: str) -> None:
    with pytest.raises(ValueError, match="; ") as caught:
        decode(document)
    assert str(caught.value).startswith(field)


def request(command: str, config: dict[str, Any]) -> bytes:
    variables = {"CNI_COMMAND": command, "CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0", "CNI_NETNS": "/run/netns/c"}
    stdin = {"cniVersion": "1.0.0", "name": "anetd", "type": "anetd-cni", **config}
    return protocol.GREETING + b"".join(f"{k}={v}".encode() + b"\0" for k, v in variables.items()) + b"\0" + json.dumps(stdin).encode()


def test_a_bad_mapping_fails_add_and_check_but_never_a_del() -> None:
    bad = {"runtimeConfig": rows(row(hostPort=0))}
    for command in ("ADD", "CHECK"):
        with pytest.raises(CniError) as caught:
            protocol.decode(request(command, bad))
        assert caught.value.code is Code.INVALID_CONFIG
        assert caught.value.version == "1.0.0"
    assert protocol.decode(request("DEL", bad)).port_mappings == ()
    assert protocol.decode(request("ADD", {"runtimeConfig": rows(row())})).port_mappings == (PortMapping(8080, 80, 6),)


@settings(max_examples=50)
@given(st.lists(mappings, max_size=6, unique_by=lambda each: (each.host_port, each.protocol, each.host_ip)))
def test_mappings_survive_the_store(tmp_path_factory: pytest.TempPathFactory, found: list[PortMapping]) -> None:
    wanted = decode(rows(*encode(found)))
    assert set(wanted) == set(found)
    path = tmp_path_factory.mktemp("s") / "s"
    record = Record(Attachment("a", "eth0"), State.READY, POD, "/run/netns/a", (4, 1), 1500, 1, port_mappings=wanted)
    Store(path).put(record)
    assert Store(path).all() == [record]


def test_a_record_of_an_agent_that_knew_no_host_ports_is_read(tmp_path: Path) -> None:
    old = {
        "container": "a",
        "ifname": "eth0",
        "state": "ready",
        "addresses": ["10.0.0.2"],
        "netns": "/n",
        "netnsId": [4, 1],
        "mtu": 1500,
        "id": 1,
    }
    (tmp_path / "s").write_text(json.dumps(old) + "\n")
    (found,) = Store(tmp_path / "s").all()
    assert found.port_mappings == ()


def test_every_address_of_the_pod_that_hostip_allows_is_led_to() -> None:
    assert host_ports([PortMapping(80, 8080, 6)], POD) == [HostPort(None, 80, 6, pod, 8080) for pod in POD]
    assert host_ports([PortMapping(80, 8080, 6, ip_address("0.0.0.0"))], POD) == [HostPort(None, 80, 6, POD[0], 8080)]
    assert host_ports([PortMapping(80, 8080, 17, ip_address("2001:db8::1"))], POD) == [
        HostPort(ip_address("2001:db8::1"), 80, 17, POD[1], 8080)
    ]
    with pytest.raises(ValueError, match="no IPv6 address"):
        host_ports([PortMapping(80, 8080, 6, ip_address("::"))], POD[:1])


@settings(max_examples=50)
@given(mappings, mappings)
def test_two_pods_conflict_exactly_when_some_packet_would_be_both_theirs(one: PortMapping, other: PortMapping) -> None:
    def takes(mapping: PortMapping) -> set[str]:
        node = [ip_address(text) for text in ("127.0.0.1", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::9")]
        if mapping.host_ip is None:
            return set(map(str, node))
        if mapping.host_ip.is_unspecified:
            return {str(each) for each in node if each.version == mapping.host_ip.version}
        return {str(mapping.host_ip)}

    same = (one.host_port, one.protocol) == (other.host_port, other.protocol)
    assert conflict(one, other) == conflict(other, one) == (same and bool(takes(one) & takes(other)))
