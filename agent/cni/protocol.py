"""The CNI specification's words, as data: requests decoded, results and errors encoded in the shape of each version. Pure.

Invariants: whatever comes in is either a `Request` that can be acted upon or a `CniError` that says which variable or field is wrong;
what goes out has the shape of the version that was asked for. Source: the CNI specification 1.1.0, and docs/architecture.md §3.4.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from agent.cni import portmappings
from agent.cni.portmappings import PortMapping

Address = IPv4Address | IPv6Address

GREETING = b"anetd-cni/1\n"
VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
CURRENT = VERSIONS[-1]
MAX_REQUEST = (1 << 20) + (1 << 18)
"""Bytes: the plugin reads at most 1 MiB of stdin; the rest is for the variables."""

_CONTAINER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*\Z")
_NETWORK_NAME = _CONTAINER_ID
_IFNAME = re.compile(r"[^/:\s\0]{1,15}\Z")


class Code(IntEnum):
    """Error codes of the specification; those from 100 on are ours."""

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    DECODING_FAILURE = 6
    INVALID_CONFIG = 7
    TRY_AGAIN_LATER = 11
    NOT_AVAILABLE = 50
    ADDRESSES_USED_UP = 100
    CHECK_FAILED = 101
    INTERNAL = 102
    FORBIDDEN = 103


class Command(StrEnum):
    """What a runtime may ask of the agent; VERSION is the plugin's own."""

    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    STATUS = "STATUS"
    GC = "GC"


_SINCE = {Command.CHECK: "0.4.0", Command.STATUS: "1.1.0", Command.GC: "1.1.0"}
_NEEDS_CONTAINER = {Command.ADD, Command.DEL, Command.CHECK}


class CniError(Exception):
    """What the runtime is told. `version` is the one to answer in."""

    def __init__(self, code: Code, message: str, details: str = "", version: str = CURRENT) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details
        self.version = version


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface of one container."""

    container_id: str
    ifname: str


@dataclass(frozen=True, slots=True)
class Request:
    """A request that can be acted upon. `netns` is "" where the command does without; `args` is CNI_ARGS as a mapping."""

    command: Command
    version: str
    network: str
    attachment: Attachment | None = None
    netns: str = ""
    args: Mapping[str, str] = field(default_factory=dict)
    valid_attachments: Sequence[Attachment] = ()
    port_mappings: tuple[PortMapping, ...] = ()

    @property
    def pod(self) -> str:
        """namespace/name as kubelet passes it, "" if it did not."""
        namespace, name = self.args.get("K8S_POD_NAMESPACE", ""), self.args.get("K8S_POD_NAME", "")
        return f"{namespace}/{name}" if name else ""


@dataclass(frozen=True, slots=True)
class Result:
    """A pod's interface as an ADD reports it."""

    host_name: str
    host_mac: str
    ifname: str
    pod_mac: str
    netns: str
    addresses: tuple[Address, ...]
    gateways: Mapping[int, Address]
    mtu: int


def decode(data: bytes) -> Request:
    """The request in the plugin's bytes. Raises `CniError`."""
    if not data.startswith(GREETING):
        raise CniError(Code.DECODING_FAILURE, "the request is not one of anetd-cni version 1: is the plugin as old as the agent?")
    variables, stdin = _split(data[len(GREETING) :])
    config, version = _config(stdin)
    try:
        return _request(variables, config, version)
    except CniError as error:
        error.version = version
        raise


def _split(data: bytes) -> tuple[dict[str, str], bytes]:
    variables: dict[str, str] = {}
    rest = data
    while True:
        item, separator, rest = rest.partition(b"\0")
        if not separator:
            raise CniError(Code.DECODING_FAILURE, "the request ends in the middle of its variables")
        if not item:
            return variables, rest
        name, equals, value = item.partition(b"=")
        if not equals:
            raise CniError(Code.DECODING_FAILURE, "a variable of the request has no value")
        try:
            variables[name.decode()] = value.decode()
        except UnicodeDecodeError as error:
            raise CniError(Code.INVALID_ENVIRONMENT, f"{name.decode(errors='replace')} is not UTF-8") from error


def _config(stdin: bytes) -> tuple[dict[str, Any], str]:
    try:
        config = json.loads(stdin)
    except (ValueError, RecursionError) as error:
        raise CniError(Code.DECODING_FAILURE, "the network configuration on stdin is not JSON", str(error)) from error
    if not isinstance(config, dict):
        raise CniError(Code.DECODING_FAILURE, "the network configuration on stdin is not a JSON object")
    version = config.get("cniVersion", "0.1.0")
    if version not in VERSIONS:
        supported = ", ".join(VERSIONS)
        raise CniError(Code.INCOMPATIBLE_VERSION, f"cniVersion {version!r} is not supported: use one of {supported}")
    return config, version


def _request(variables: Mapping[str, str], config: Mapping[str, Any], version: str) -> Request:
    command = _command(variables.get("CNI_COMMAND", ""), version)
    network = config.get("name")
    if not isinstance(network, str) or not _NETWORK_NAME.match(network):
        raise CniError(Code.INVALID_CONFIG, f"name: {network!r} is not a network's name (letters, digits, '_', '.', '-')")
    if config.get("ipam"):
        raise CniError(Code.UNSUPPORTED_FIELD, "ipam: anetd gives addresses itself, from the node's pod CIDRs; leave the field out")
    if command not in _NEEDS_CONTAINER:
        return Request(command, version, network, valid_attachments=_valid_attachments(config) if command is Command.GC else ())
    attachment = _attachment(variables)
    netns = variables.get("CNI_NETNS", "")
    if not netns and command is not Command.DEL:
        raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_NETNS is missing: {command} needs the container's network namespace")
    if netns and (not netns.startswith("/") or "\0" in netns):
        raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_NETNS: {netns!r} is not an absolute path")
    # A DEL must succeed whatever its configuration says: what the pod was given is in the store.
    mappings = () if command is Command.DEL else _port_mappings(config)
    return Request(command, version, network, attachment, netns, _args(variables.get("CNI_ARGS", "")), port_mappings=mappings)


def _port_mappings(config: Mapping[str, Any]) -> tuple[PortMapping, ...]:
    try:
        return portmappings.decode(config.get("runtimeConfig"))
    except ValueError as error:
        raise CniError(Code.INVALID_CONFIG, str(error)) from error


def _command(text: str, version: str) -> Command:
    try:
        command = Command(text)
    except ValueError as error:
        raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_COMMAND: {text!r} is not one of {', '.join(Command)}") from error
    since = _SINCE.get(command)
    if since and VERSIONS.index(version) < VERSIONS.index(since):
        raise CniError(Code.INCOMPATIBLE_VERSION, f"{command} needs cniVersion {since} or later; the configuration has {version}")
    return command


def _attachment(variables: Mapping[str, str]) -> Attachment:
    container_id, ifname = variables.get("CNI_CONTAINERID", ""), variables.get("CNI_IFNAME", "")
    if not _CONTAINER_ID.match(container_id):
        raise CniError(
            Code.INVALID_ENVIRONMENT, f"CNI_CONTAINERID: {container_id!r} is not a container id (letters, digits, '_', '.', '-')"
        )
    if ifname in {".", ".."} or not _IFNAME.match(ifname):
        raise CniError(
            Code.INVALID_ENVIRONMENT, f"CNI_IFNAME: {ifname!r} is not an interface name (1 to 15 characters, no '/', ':' or space)"
        )
    return Attachment(container_id, ifname)


def _args(text: str) -> dict[str, str]:
    found = {}
    for item in filter(None, text.split(";")):
        name, equals, value = item.partition("=")
        if not equals:
            raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_ARGS: {item!r} has no value; write NAME=VALUE;NAME=VALUE")
        found[name] = value
    return found


def _valid_attachments(config: Mapping[str, Any]) -> list[Attachment]:
    rows = config.get("cni.dev/valid-attachments")
    if not isinstance(rows, list):
        raise CniError(Code.INVALID_CONFIG, "cni.dev/valid-attachments: GC needs the list of attachments that are still in use")
    found = []
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("containerID"), str) or not isinstance(row.get("ifname"), str):
            raise CniError(Code.INVALID_CONFIG, f"cni.dev/valid-attachments: {row!r} lacks containerID or ifname")
        found.append(Attachment(row["containerID"], row["ifname"]))
    return found


def encode_result(result: Result, version: str) -> dict[str, Any]:
    """The result of an ADD in the shape of `version`."""
    host: dict[str, Any] = {"name": result.host_name, "mac": result.host_mac}
    pod: dict[str, Any] = {"name": result.ifname, "mac": result.pod_mac, "sandbox": result.netns}
    if version == "1.1.0":
        host["mtu"] = pod["mtu"] = result.mtu
    return {
        "cniVersion": version,
        "interfaces": [host, pod],
        "ips": [_encode_address(address, result, version) for address in result.addresses],
        "routes": [
            {"dst": "0.0.0.0/0" if family == 4 else "::/0", "gw": str(result.gateways[family])}
            for family in sorted({address.version for address in result.addresses})
        ],
        "dns": {},
    }


def _encode_address(address: Address, result: Result, version: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "interface": 1,
        "address": f"{address}/{address.max_prefixlen}",
        "gateway": str(result.gateways[address.version]),
    }
    if version in {"0.3.1", "0.4.0"}:
        row["version"] = str(address.version)
    return row


def encode_error(error: CniError) -> dict[str, Any]:
    """An error as the specification has it."""
    body: dict[str, Any] = {"cniVersion": error.version, "code": int(error.code), "msg": error.message}
    if error.details:
        body["details"] = error.details
    return body


def answer(status: int, body: Mapping[str, Any] | None) -> bytes:
    """What the plugin reads: its exit status on a line, then what it prints."""
    text = b"" if body is None else json.dumps(body, ensure_ascii=False).encode() + b"\n"
    return f"{status}\n".encode() + text
