"""Requests as the plugin writes them, results and errors in the shape of each version."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cni import protocol
from agent.cni.protocol import Attachment, CniError, Code, Command, Result

CONFIG = {"cniVersion": "1.0.0", "name": "anetd", "type": "anetd-cni"}
ENVIRONMENT = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": "/run/netns/x"}


def request(config: Any = None, **changes: str | None) -> bytes:
    variables = {name: value for name, value in {**ENVIRONMENT, **changes}.items() if value is not None}
    stdin = config if isinstance(config, bytes) else json.dumps({**CONFIG, **(config or {})}).encode()
    return protocol.GREETING + b"".join(f"{name}={value}".encode() + b"\0" for name, value in variables.items()) + b"\0" + stdin


def test_a_request_is_decoded() -> None:
    found = protocol.decode(request(CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p"))
    assert found.command is Command.ADD
    assert found.attachment == Attachment("c1", "eth0")
    assert found.netns == "/run/netns/x"
    assert found.pod == "ns/p"
    assert found.version == "1.0.0"


@pytest.mark.parametrize(
    ("data", "code", "word"),
    [
        (b"", Code.DECODING_FAILURE, "version 1"),
        (b"anetd-cni/2\n\0{}", Code.DECODING_FAILURE, "version 1"),
        (protocol.GREETING + b"CNI_COMMAND=ADD", Code.DECODING_FAILURE, "middle"),
        (protocol.GREETING + b"CNI_COMMAND\0\0{}", Code.DECODING_FAILURE, "value"),
        (protocol.GREETING + b"CNI_COMMAND=\xff\0\0{}", Code.INVALID_ENVIRONMENT, "UTF-8"),
        (request(b"not json"), Code.DECODING_FAILURE, "JSON"),
        (request(b"[" * 100_000), Code.DECODING_FAILURE, "JSON"),
        (request(b"[]"), Code.DECODING_FAILURE, "object"),
        (request({"cniVersion": "0.2.0"}), Code.INCOMPATIBLE_VERSION, "0.2.0"),
        (request({"cniVersion": 1}), Code.INCOMPATIBLE_VERSION, "cniVersion"),
        (request({"cniVersion": ["1.0.0"]}), Code.INCOMPATIBLE_VERSION, "cniVersion"),
        (request({"name": ""}), Code.INVALID_CONFIG, "name"),
        (request({"name": "a/b"}), Code.INVALID_CONFIG, "name"),
        (request({"ipam": {"type": "host-local"}}), Code.UNSUPPORTED_FIELD, "ipam"),
        (request(CNI_COMMAND="FROB"), Code.INVALID_ENVIRONMENT, "CNI_COMMAND"),
        (request(CNI_COMMAND=None), Code.INVALID_ENVIRONMENT, "CNI_COMMAND"),
        (request(CNI_CONTAINERID="../x"), Code.INVALID_ENVIRONMENT, "CNI_CONTAINERID"),
        (request(CNI_IFNAME="sixteen-letters-"), Code.INVALID_ENVIRONMENT, "CNI_IFNAME"),
        (request(CNI_IFNAME=".."), Code.INVALID_ENVIRONMENT, "CNI_IFNAME"),
        (request(CNI_NETNS=None), Code.INVALID_ENVIRONMENT, "CNI_NETNS"),
        (request(CNI_NETNS="x"), Code.INVALID_ENVIRONMENT, "CNI_NETNS"),
        (request(CNI_ARGS="novalue"), Code.INVALID_ENVIRONMENT, "CNI_ARGS"),
        (request({"cniVersion": "0.3.1"}, CNI_COMMAND="CHECK"), Code.INCOMPATIBLE_VERSION, "CHECK"),
        (request(CNI_COMMAND="GC"), Code.INCOMPATIBLE_VERSION, "GC"),
        (request({"cniVersion": "1.1.0"}, CNI_COMMAND="GC"), Code.INVALID_CONFIG, "valid-attachments"),
        (request({"cniVersion": "1.1.0", "cni.dev/valid-attachments": [{}]}, CNI_COMMAND="GC"), Code.INVALID_CONFIG, "valid-attachments"),
    ],
)
def test_what_is_malformed_is_refused_by_name(data: bytes, code: Code, word: str) -> None:
    with pytest.raises(CniError, match=word) as caught:
        protocol.decode(data)
    assert caught.value.code is code


def test_a_delete_needs_no_namespace() -> None:
    assert protocol.decode(request(CNI_COMMAND="DEL", CNI_NETNS=None)).netns == ""


def test_gc_knows_what_is_still_in_use() -> None:
    rows = [{"containerID": "a", "ifname": "eth0"}]
    found = protocol.decode(request({"cniVersion": "1.1.0", "cni.dev/valid-attachments": rows}, CNI_COMMAND="GC"))
    assert list(found.valid_attachments) == [Attachment("a", "eth0")]


@given(st.binary(max_size=300))
def test_no_bytes_make_the_decoder_fail_in_any_other_way(data: bytes) -> None:
    for candidate in (data, protocol.GREETING + data, protocol.GREETING + b"CNI_COMMAND=ADD\0\0" + data):
        try:
            protocol.decode(candidate)
        except CniError:
            continue


@given(
    st.dictionaries(
        st.sampled_from(["cniVersion", "name", "ipam", "cni.dev/valid-attachments"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        ),
    )
)
def test_no_configuration_makes_the_decoder_fail_in_any_other_way(config: dict[str, Any]) -> None:
    for command in Command:
        try:
            protocol.decode(request(config, CNI_COMMAND=command.value))
        except CniError:
            continue


RESULT = Result(
    "anabc", "02:00:00:00:00:01", "eth0", "02:00:00:00:00:02", "/run/netns/x",
    (ip_address("10.0.0.2"), ip_address("fd00::2")), {4: ip_address("169.254.1.1"), 6: ip_address("fe80::1")}, 1450,
)  # fmt: skip


@pytest.mark.parametrize("version", protocol.VERSIONS)
def test_a_result_has_the_shape_of_its_version(version: str) -> None:
    found = protocol.encode_result(RESULT, version)
    assert found["cniVersion"] == version
    assert [row["address"] for row in found["ips"]] == ["10.0.0.2/32", "fd00::2/128"]
    assert [row.get("version") for row in found["ips"]] == (["4", "6"] if version.startswith("0.") else [None, None])
    assert all(("mtu" in row) == (version == "1.1.0") for row in found["interfaces"])
    assert found["interfaces"][found["ips"][0]["interface"]]["sandbox"] == "/run/netns/x"
    assert [row["dst"] for row in found["routes"]] == ["0.0.0.0/0", "::/0"]


def test_an_error_carries_the_version_that_was_asked_for() -> None:
    with pytest.raises(CniError) as caught:
        protocol.decode(request({"cniVersion": "0.4.0"}, CNI_COMMAND="FROB"))
    body = protocol.encode_error(caught.value)
    assert (body["cniVersion"], body["code"]) == ("0.4.0", 4)


def test_an_answer_opens_with_the_exit_status() -> None:
    assert protocol.answer(0, None) == b"0\n"
    status, _, body = protocol.answer(1, {"msg": "über"}).partition(b"\n")
    assert status == b"1"
    assert json.loads(body) == {"msg": "über"}
