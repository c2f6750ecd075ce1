"""Which resolvers a cluster's DNS may forward to: those of this machine that a pod can reach."""

from __future__ import annotations

import ipaddress
from pathlib import Path

# A local stub resolver writes what it forwards to here; its own loopback address means nothing inside of a pod.
_CANDIDATES = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
_MOST = 3


def host_resolvers(candidates: tuple[Path, ...] = _CANDIDATES) -> tuple[str, ...]:
    """The first file's usable name servers, or the next one's; empty when there are none."""
    for path in candidates:
        try:
            found = usable(path.read_text(errors="replace"))
        except OSError:
            continue
        if found:
            return found
    return ()


def usable(resolv_conf: str) -> tuple[str, ...]:
    """The name servers in a resolv.conf that are neither loopback nor bound to a link of this machine."""
    found = []
    for line in resolv_conf.splitlines():
        fields = line.split()
        if len(fields) < 2 or fields[0] != "nameserver":
            continue
        try:
            address = ipaddress.ip_address(fields[1])
        except ValueError:
            continue
        if not (address.is_loopback or address.is_link_local or address.is_unspecified):
            found.append(str(address))
    return tuple(dict.fromkeys(found))[:_MOST]
