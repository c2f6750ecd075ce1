"""What the agent tells the link when an address moves to its node."""

from __future__ import annotations

import json
import socket
import subprocess
from ipaddress import ip_address

from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from agent.datapath.announce import announce, frame

from .lab import NAMESPACE, checksums_hold, in_namespace, namespace, sh

MAC = "02:00:00:00:00:de"


def test_an_advertisement_is_unsolicited_and_overrides() -> None:
    packet = Ether(frame(bytes.fromhex(MAC.replace(":", "")), ip_address("2001:db8::c8")))
    assert (packet.dst, packet.src, packet[IPv6].src, packet[IPv6].dst, packet[IPv6].hlim) == (
        "33:33:00:00:00:01",
        MAC,
        "2001:db8::c8",
        "ff02::1",
        255,
    )
    told = packet[ICMPv6ND_NA]
    assert (told.tgt, told.R, told.S, told.O, packet[ICMPv6NDOptDstLLAddr].lladdr) == ("2001:db8::c8", 0, 0, 1, MAC)
    assert checksums_hold(packet)


def test_a_neighbour_that_knew_another_node_learns_at_once() -> None:
    with namespace(), in_namespace(NAMESPACE):
        sh("ip addr add 198.19.0.1/24 dev eth0p && ip addr add 2001:db8::1/64 dev eth0p nodad")
        addresses = [ip_address("198.19.0.200"), ip_address("2001:db8::c8")]
        for address in addresses:
            sh(f"ip neigh replace {address} lladdr 02:00:00:00:00:77 dev eth0p nud reachable")
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as listener:
            listener.bind(("eth0p", 0x0806))
            listener.settimeout(10)
            assert announce("eth0", MAC, addresses) == 2
            while not (heard := Ether(listener.recv(100))).haslayer(ARP) or heard[ARP].psrc != "198.19.0.200":
                pass
        assert (heard.dst, heard[ARP].hwsrc, heard[ARP].pdst) == ("ff:ff:ff:ff:ff:ff", MAC, "198.19.0.200")
        known = json.loads(subprocess.run(["ip", "-j", "neigh", "show", "dev", "eth0p"], capture_output=True, check=True, text=True).stdout)
        assert {row["dst"]: row["lladdr"] for row in known if row["dst"] in map(str, addresses)} == dict.fromkeys(map(str, addresses), MAC)


def test_nothing_to_say_needs_no_socket() -> None:
    assert announce("no-such-device", MAC, []) == 0
