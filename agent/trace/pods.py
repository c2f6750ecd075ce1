"""Which pod a network namespace, a device or an address belongs to, from the agent's own store of attachments. Pure.

The agent writes an attachment down before the pod's network exists, so a pod is known before its first packet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from agent.datapath.abi import IPAddress
from agent.datapath.links import pod_link_name


@dataclass(frozen=True, slots=True)
class Pods:
    """Names are "namespace/name". `links` are the host ends' names."""

    namespaces: Mapping[int, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    addresses: Mapping[IPAddress, str] = field(default_factory=dict)

    def netns_of(self, pod: str) -> int:
        """The number of a pod's network namespace, 0 if it is not here. Of two of that name (one ends, one begins) the later."""
        return next((number for number, name in reversed(list(self.namespaces.items())) if name == pod), 0)

    def link_of(self, pod: str) -> str:
        """The name of the host end of a pod's device, "" if it is not here."""
        return next((link for link, name in reversed(list(self.links.items())) if name == pod), "")


def decode(store: str, before: Pods | None = None) -> Pods:
    """Of the store's lines. What is gone from it stays known as in `before` until another has its place: packets are told late.

    A line that cannot be read is passed over: the last one may be half written.
    """
    before = before or Pods()
    namespaces, links, addresses = dict(before.namespaces), dict(before.links), dict(before.addresses)
    for line in store.splitlines():
        try:
            row = json.loads(line)
            if row["state"] == "removed":
                continue
            pod = str(row.get("pod", ""))
            number, link = int(row["netnsId"][1]), pod_link_name(row["container"], row["ifname"])
            theirs = [ip_address(text) for text in row["addresses"]]
        except (ValueError, KeyError, TypeError, IndexError):
            continue
        namespaces.pop(number, None)  # so that the order is that of the store
        links.pop(link, None)
        namespaces[number] = links[link] = pod
        addresses.update(dict.fromkeys(theirs, pod))
    return Pods(namespaces, links, addresses)
