"""The cluster's network on the host: bridge, veths, addresses, routes, forwarding and masquerading.

Links of a member are made from the host, in the member's network namespace by a thread that has entered it, so nothing of
the member has to run yet. Every `ensure_` and `remove_` may be called again.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from provisioner import errors
from provisioner.providers.local.layout import LINK_STEM, Address, Addresses, Layout, Network

if TYPE_CHECKING:
    from pyroute2 import IPRoute

_CLONE_NEWNET = 0x40000000
_NO_DUPLICATE_DETECTION = 0x02  # IFA_F_NODAD: the address is usable at once; nobody else hands out addresses here
IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_MEMBER_LINK = "eth0"
_IFF_UP = 1
_LISTINGS = 50  # pods that come and go change links many times a second, a listing takes a millisecond
_FORWARDING = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")

NO_NFT = "nft is not installed (package nftables)"

T = TypeVar("T")


@contextlib.contextmanager
def netlink() -> Iterator[IPRoute]:
    """A netlink socket of the network namespace that the calling thread is in."""
    from pyroute2 import IPRoute

    with IPRoute() as ipr:
        yield ipr


@contextlib.contextmanager
def _tolerate(*numbers: int) -> Iterator[None]:
    from pyroute2 import NetlinkError

    try:
        yield
    except NetlinkError as error:
        if error.code not in numbers:
            raise


def in_network_of(pid: int, function: Callable[[], T]) -> T:
    """Call `function` in the network namespace of `pid`."""
    return in_network(f"/proc/{pid}/ns/net", function)


def in_network(path: str, function: Callable[[], T]) -> T:
    """Call `function` in the network namespace that `path` names. A thread of its own enters it and ends, so no other code is moved."""
    libc = ctypes.CDLL(None, use_errno=True)
    results: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if libc.setns(descriptor, _CLONE_NEWNET):
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number))
            finally:
                os.close(descriptor)
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
            failures.append(error)

    thread = threading.Thread(target=work, name="in-network")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _whole(dump: Callable[[], Iterable[Any]]) -> list[Any]:
    """What the kernel lists. A listing that something changed underneath is incomplete, and says so: then it is asked for again."""
    from pyroute2.netlink.exceptions import NetlinkDumpInterrupted

    for _ in range(_LISTINGS - 1):
        with contextlib.suppress(NetlinkDumpInterrupted):
            return list(dump())
    return list(dump())


def _index(ipr: IPRoute, name: str) -> int | None:
    found = _whole(lambda: ipr.link_lookup(ifname=name))
    return int(found[0]) if found else None


def _existing_index(ipr: IPRoute, name: str) -> int:
    index = _index(ipr, name)
    if index is None:
        raise errors.UpstreamFailure(f"the link {name} has gone", remedy="Run the command again.")
    return index


def _family(address: Address | Network) -> int:
    return 2 if address.version == 4 else 10


def _add_addresses(ipr: IPRoute, index: int, addresses: Sequence[Address], networks: Sequence[Network]) -> None:
    for address, network in zip(addresses, networks, strict=True):
        extra: dict[str, Any] = {"flags": _NO_DUPLICATE_DETECTION} if address.version == 6 else {}
        with _tolerate(errno.EEXIST):
            ipr.addr("add", index=index, family=_family(address), address=str(address), prefixlen=network.prefixlen, **extra)


def ensure_bridge(layout: Layout, addresses: Addresses) -> None:
    """The bridge with the cluster's gateway addresses, up."""
    with netlink() as ipr:
        index = _index(ipr, layout.bridge)
        if index is None:
            # Its MAC is set, or it would change with the ports, and with it the gateway of every node.
            mac = "02:" + ":".join(layout.link_stem[i : i + 2] for i in range(3, 11, 2)) + ":01"
            ipr.link("add", ifname=layout.bridge, kind="bridge", address=mac, br_forward_delay=0, br_mcast_snooping=0)
            index = _existing_index(ipr, layout.bridge)
        _add_addresses(ipr, index, addresses.bridge, addresses.networks)
        ipr.link("set", index=index, state="up")
        for link in _whole(ipr.get_links):  # somebody removed the bridge from under running members
            if str(link.get_attr("IFLA_IFNAME")).startswith(f"{layout.link_stem}-") and link.get_attr("IFLA_MASTER") is None:
                ipr.link("set", index=link["index"], master=index, state="up")


def is_complete(layout: Layout) -> bool:
    """Whether the bridge is up, packets may pass, and the masquerade is there where it can be."""
    with netlink() as ipr:
        up = any(link["flags"] & _IFF_UP for link in _whole(ipr.get_links) if link.get_attr("IFLA_IFNAME") == layout.bridge)
    return up and IP_FORWARD.read_text().strip() == "1" and (nft() is None or _has_table(layout))


def attach(layout: Layout, member: str, pid: int, member_addresses: Sequence[Address], addresses: Addresses) -> None:
    """Give the member `eth0` on the bridge, with its addresses, default routes and forwarding."""
    host_end = layout.host_link(member)
    with netlink() as ipr:
        bridge = _existing_index(ipr, layout.bridge)
        # The kernel takes the links of a dead namespace away in its own time; a name that it still holds cannot be used again.
        _delete_link(ipr, host_end)
        ipr.link("add", ifname=host_end, kind="veth", peer={"ifname": _MEMBER_LINK, "net_ns_pid": pid})
        index = _existing_index(ipr, host_end)
        ipr.link("set", index=index, master=bridge, state="up")

    def configure() -> None:
        for name in _FORWARDING:
            with contextlib.suppress(FileNotFoundError):
                Path("/proc/sys", name).write_text("1")
        with netlink() as ipr:
            ipr.link("set", index=1, state="up")
            index = _existing_index(ipr, _MEMBER_LINK)
            _add_addresses(ipr, index, member_addresses, addresses.networks)
            ipr.link("set", index=index, state="up")
            for gateway in addresses.bridge:
                default = "0.0.0.0/0" if gateway.version == 4 else "::/0"
                ipr.route("replace", family=_family(gateway), dst=default, gateway=str(gateway), oif=index)

    in_network_of(pid, configure)


def replace_routes(pid: int, routes: Iterable[tuple[str, str]]) -> None:
    """In the network of `pid`: (CIDR, next hop) each."""

    def work() -> None:
        with netlink() as ipr:
            for cidr, gateway in routes:
                network = ip_network(cidr)
                ipr.route("replace", family=_family(network), dst=str(network), gateway=gateway)

    in_network_of(pid, work)


def _delete_link(ipr: IPRoute, name: str) -> None:
    index = _index(ipr, name)
    if index is not None:
        with _tolerate(errno.ENODEV):
            ipr.link("del", index=index)


def links_of(layout: Layout) -> list[str]:
    """The host's links with the cluster's stem."""
    with netlink() as ipr:
        names = [str(link.get_attr("IFLA_IFNAME")) for link in _whole(ipr.get_links)]
    return sorted(name for name in names if name == layout.link_stem or name.startswith(f"{layout.link_stem}-"))


def remove_links(layout: Layout) -> None:
    names = links_of(layout)
    with netlink() as ipr:
        for name in names:
            _delete_link(ipr, name)


def other_bridges(layout: Layout) -> list[str]:
    """The bridges of other clusters."""
    with netlink() as ipr:
        names = [str(link.get_attr("IFLA_IFNAME")) for link in _whole(ipr.get_links)]
    return [name for name in names if LINK_STEM.fullmatch(name) and name != layout.bridge]


def networks_in_use() -> list[tuple[Network, str]]:
    """(network, link) of the host's routes and addresses; default routes, link-local and multicast ones left out."""
    found: set[tuple[Network, str]] = set()
    with netlink() as ipr:
        link_names = {link["index"]: str(link.get_attr("IFLA_IFNAME")) for link in _whole(ipr.get_links)}
        for route in _whole(ipr.get_routes):
            destination = route.get_attr("RTA_DST")
            if destination:
                network = ip_network(f"{destination}/{route['dst_len']}", strict=False)
                found.add((network, link_names.get(route.get_attr("RTA_OIF"), "no link")))
        for address in _whole(ipr.get_addr):
            network = ip_interface(f"{address.get_attr('IFA_ADDRESS')}/{address['prefixlen']}").network
            found.add((network, link_names.get(address["index"], "no link")))
    return sorted(
        ((network, name) for network, name in found if not (network.is_link_local or network.is_multicast)), key=lambda item: str(item[0])
    )


def set_forwarding(value: str) -> str:
    """Set the host's IPv4 forwarding; the value before.

    IPv6 forwarding is left alone: with it the host would ignore router advertisements, and lose its own way out.
    """
    before = IP_FORWARD.read_text().strip()
    if before != value:
        IP_FORWARD.write_text(value)
    return before


def nft() -> str | None:
    return shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin")


def masquerade_rules(layout: Layout, addresses: Addresses) -> str:
    """An nftables script that replaces the cluster's table: the nodes reach the outside by the host's address."""
    table = f"inet {layout.nft_table}"
    rule = f'ip saddr {addresses.v4} ip daddr != {addresses.v4} oifname != "{layout.bridge}" masquerade'
    return (
        f"table {table}\ndelete table {table}\n"
        f"table {table} {{\n\tchain postrouting {{\n\t\ttype nat hook postrouting priority srcnat;\n\t\t{rule}\n\t}}\n}}\n"
    )


def ensure_masquerade(layout: Layout, addresses: Addresses) -> str:
    """Why there is none, empty where there is: without it the nodes reach this machine and each other, but not beyond."""
    tool = nft()
    if tool is None:
        return NO_NFT
    result = subprocess.run([tool, "-f", "-"], input=masquerade_rules(layout, addresses), text=True, capture_output=True, check=False)
    return f"nft refuses the table: {result.stderr.strip()}" if result.returncode else ""


def remove_masquerade(layout: Layout) -> None:
    """Remove the table where there is one; a kernel without nftables has none."""
    tool = nft()
    if tool is None:
        return
    if _has_table(layout):
        subprocess.run([tool, "delete", "table", "inet", layout.nft_table], capture_output=True, check=False)


def _has_table(layout: Layout) -> bool:
    listed = subprocess.run([nft() or "nft", "list", "tables"], text=True, capture_output=True, check=False).stdout.splitlines()
    return f"table inet {layout.nft_table}" in listed
