"""Ports of this node that lead to one of its pods (`hostPort`). Pure."""

from __future__ import annotations

from dataclasses import dataclass

from agent.datapath.abi import IPAddress


@dataclass(frozen=True, slots=True)
class HostPort:
    """`host_port` of `host_ip` (None: of every address) leads to `pod_port` of `pod_address`. `protocol` is the IP's number."""

    host_ip: IPAddress | None
    host_port: int
    protocol: int
    pod_address: IPAddress
    pod_port: int
