"""Network devices: pods' veth pairs, the tunnel device, and finding the node's own.

Every `ensure_*` may be repeated; what is there already and right is left alone. Names: a pod's host end is `an` and 11 hex digits
(docs/architecture.md §3.1), so that it can be found without having been written down.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import socket
import struct
import sys
from dataclasses import dataclass

from agent.datapath import netlink, sysctl
from agent.datapath.netlink import Netlink, NetlinkError

POD_PREFIX = "an"
OVERLAY_NAME = "anetd-vxlan"
OVERLAY_PORT = 8472
"""Linux's default, so that a capture is read right without being told."""

_IFINFO = struct.Struct("=BxHiII")
_IFF_UP = 1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 1, 3, 4, 18, 28
_INFO_KIND, _INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_VXLAN_LEARNING, _VXLAN_PORT, _VXLAN_ZERO_CSUM6_RX, _VXLAN_COLLECT_METADATA = 7, 15, 20, 25
_GEN_MODE_NONE = "1"


@dataclass(frozen=True, slots=True)
class Link:
    """A device as the kernel describes it. `mac` is "" for a device that has none; `port` is a vxlan's."""

    index: int
    name: str
    mac: str
    mtu: int
    up: bool
    kind: str = ""
    port: int = 0
    collects_metadata: bool = False


def pod_link_name(container_id: str, ifname: str) -> str:
    """The host end's name for an interface of a container."""
    return POD_PREFIX + hashlib.sha256(f"{container_id}{ifname}".encode()).hexdigest()[:11]


def derived_mac(seed: str) -> str:
    """A unicast, locally administered MAC address that depends on `seed` alone."""
    digest = bytearray(hashlib.sha256(seed.encode()).digest()[:6])
    digest[0] = (digest[0] & 0xFC) | 0x02
    return digest.hex(":")


def mac_bytes(mac: str) -> bytes:
    """Six bytes of "aa:bb:cc:dd:ee:ff"."""
    return bytes.fromhex(mac.replace(":", ""))


def _decode(payload: bytes) -> Link:
    _, _, index, flags, _ = _IFINFO.unpack_from(payload)
    found = netlink.attributes(payload[_IFINFO.size :])
    info = netlink.attributes(found.get(_IFLA_LINKINFO, b""))
    data = netlink.attributes(info.get(_INFO_DATA, b""))
    return Link(
        index=index,
        name=found[_IFLA_IFNAME].rstrip(b"\0").decode(),
        mac=found.get(_IFLA_ADDRESS, b"").hex(":"),
        mtu=int.from_bytes(found.get(_IFLA_MTU, bytes(4)), sys.byteorder),
        up=bool(flags & _IFF_UP),
        kind=info.get(_INFO_KIND, b"").rstrip(b"\0").decode(),
        port=int.from_bytes(data.get(_VXLAN_PORT, b""), "big") if info.get(_INFO_KIND, b"").startswith(b"vxlan") else 0,
        collects_metadata=any(data.get(_VXLAN_COLLECT_METADATA, b"")),
    )


def find(nl: Netlink, name: str) -> Link | None:
    """The device called `name`, None if there is none."""
    try:
        answers = nl.request(
            netlink.RTM_GETLINK, 0, _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + netlink.text(_IFLA_IFNAME, name), f"find link {name}"
        )
    except NetlinkError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    return _decode(answers[0])


def list_all(nl: Netlink) -> list[Link]:
    """Every device of the namespace."""
    return [_decode(answer) for answer in nl.dump(netlink.RTM_GETLINK, _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0), "list links")]


def list_pod_links(nl: Netlink) -> list[Link]:
    """Every veth end that has a pod's host end's name."""
    return [
        link for link in list_all(nl) if link.kind == "veth" and link.name.startswith(POD_PREFIX) and len(link.name) == len(POD_PREFIX) + 11
    ]


def delete(nl: Netlink, name: str) -> bool:
    """Delete a device (a veth's other end goes with it); whether it was there."""
    try:
        nl.request(
            netlink.RTM_DELLINK, 0, _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + netlink.text(_IFLA_IFNAME, name), f"delete link {name}"
        )
    except NetlinkError as error:
        if error.errno == errno.ENODEV:
            return False
        raise
    return True


def set_up(nl: Netlink, index: int, *, mtu: int = 0) -> None:
    """Bring a device up, with an MTU if one is given."""
    body = _IFINFO.pack(socket.AF_UNSPEC, 0, index, _IFF_UP, _IFF_UP)
    nl.request(netlink.RTM_NEWLINK, 0, body + (netlink.u32(_IFLA_MTU, mtu) if mtu else b""), f"bring link {index} up")


def create_pod_link(nl: Netlink, namespace: int, *, name: str, ifname: str, host_mac: str, pod_mac: str, mtu: int) -> Link:
    """A veth pair: `name` here and `ifname` in `namespace`, both down. What an earlier attempt left under `name` is replaced."""
    peer = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + b"".join(
        (
            netlink.text(_IFLA_IFNAME, ifname),
            netlink.attribute(_IFLA_ADDRESS, mac_bytes(pod_mac)),
            netlink.u32(_IFLA_MTU, mtu),
            netlink.u32(_IFLA_NET_NS_FD, namespace),
        )
    )
    body = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + b"".join(
        (
            netlink.text(_IFLA_IFNAME, name),
            netlink.attribute(_IFLA_ADDRESS, mac_bytes(host_mac)),
            netlink.u32(_IFLA_MTU, mtu),
            netlink.nested(
                _IFLA_LINKINFO,
                netlink.text(_INFO_KIND, "veth"),
                netlink.nested(_INFO_DATA, netlink.attribute(_VETH_INFO_PEER | 0x8000, peer)),
            ),
        )
    )
    _create(nl, name, body, f"create the veth pair {name} and {ifname} of the pod")
    return _must_find(nl, name)


def _create(nl: Netlink, name: str, body: bytes, doing: str) -> None:
    flags = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
    try:
        nl.request(netlink.RTM_NEWLINK, flags, body, doing)
    except NetlinkError as error:
        if error.errno != errno.EEXIST or not delete(nl, name):
            raise
        nl.request(netlink.RTM_NEWLINK, flags, body, doing)


def _must_find(nl: Netlink, name: str) -> Link:
    link = find(nl, name)
    if link is None:
        raise NetlinkError(errno.ENODEV, f"link {name} vanished while it was being set up: something else deletes links here")
    return link


def quiet_ipv6(name: str) -> None:
    """No link-local address, no router solicitation, no duplicate detection: addresses and neighbours are all given.

    To be called in the device's namespace, before it comes up.
    """
    for setting, value in (("addr_gen_mode", _GEN_MODE_NONE), ("accept_ra", "0"), ("accept_dad", "0")):
        sysctl.ensure(f"ipv6/conf/{name}/{setting}", value)


def quiet_host_end(name: str) -> None:
    """What the stack need not do on a link whose every packet meets a program first."""
    quiet_ipv6(name)
    sysctl.ensure(f"ipv4/conf/{name}/rp_filter", "0")


def ensure_overlay(nl: Netlink, *, mtu: int, mac: str, port: int = OVERLAY_PORT) -> Link:
    """The tunnel device: vxlan in collect-metadata mode (the programs set the tunnel key), no learning, up.

    One that differs in what cannot be changed is made anew.
    """
    link = find(nl, OVERLAY_NAME)
    if link is not None and (link.kind != "vxlan" or link.port != port or not link.collects_metadata or link.mac != mac):
        delete(nl, OVERLAY_NAME)
        link = None
    if link is None:
        body = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + b"".join(
            (
                netlink.text(_IFLA_IFNAME, OVERLAY_NAME),
                netlink.attribute(_IFLA_ADDRESS, mac_bytes(mac)),
                netlink.u32(_IFLA_MTU, mtu),
                netlink.nested(
                    _IFLA_LINKINFO,
                    netlink.text(_INFO_KIND, "vxlan"),
                    netlink.nested(
                        _INFO_DATA,
                        netlink.u8(_VXLAN_COLLECT_METADATA, 1),
                        netlink.u8(_VXLAN_LEARNING, 0),
                        netlink.u8(_VXLAN_ZERO_CSUM6_RX, 1),
                        netlink.attribute(_VXLAN_PORT, port.to_bytes(2, "big")),
                    ),
                ),
            )
        )
        nl.request(netlink.RTM_NEWLINK, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL, body, f"create the tunnel device {OVERLAY_NAME}")
        link = _must_find(nl, OVERLAY_NAME)
    quiet_host_end(OVERLAY_NAME)
    if not link.up or link.mtu != mtu:
        set_up(nl, link.index, mtu=mtu)
    return _must_find(nl, OVERLAY_NAME)


def ensure_forwarding(device: str, *, ipv6: bool) -> None:
    """Let the host's stack forward what the programs pass up to it.

    Forwarding makes a host ignore router advertisements, so a device that had its default route from one keeps listening (2).
    """
    sysctl.ensure("ipv4/ip_forward", "1")
    if ipv6:
        if sysctl.get(f"ipv6/conf/{device}/accept_ra") == "1":
            with contextlib.suppress(OSError):
                sysctl.ensure(f"ipv6/conf/{device}/accept_ra", "2")
        sysctl.ensure("ipv6/conf/all/forwarding", "1")
