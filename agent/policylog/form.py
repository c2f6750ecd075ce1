"""One record as one line of JSON, with GKE's keys in GKE's order. Pure.

    {"connection":{"src_ip":"10.244.0.5","dest_ip":"10.244.1.7","src_port":40522,"dest_port":8080,"protocol":"tcp","direction":"ingress"},
     "disposition":"allow","policies":[{"kind":"NetworkPolicy","name":"web","namespace":"shop"}],"src":{...},"dest":{...},"count":1,
     "node_name":"demo-0","timestamp":"2026-01-02T03:04:05.123456789Z"}

Ports that are 0, and policies where there are none, are left out. What is named comes in as the JSON that it is written as (`names`).
"""

from __future__ import annotations

import time

PROTOCOLS = {6: "tcp", 17: "udp", 1: "icmp"}
"""All else is `unknown`, as in GKE, and so has no ports."""
_WITH_PORTS = frozenset({6, 17})
DIRECTIONS = ("ingress", "egress")
"""By `agent.datapath.policy_rows.Direction`."""
DISPOSITIONS = ("deny", "allow")


def line(
    source: str,
    destination: str,
    ports: tuple[int, int],
    protocol: int,
    direction: int,
    allowed: bool,
    policies: str,
    names: tuple[str, str],
    count: int,
    node: str,
    timestamp: str,
) -> str:
    """The line, with its end. `node` is quoted JSON already; `names` are those of source and destination."""
    numbers = ""
    if protocol in _WITH_PORTS:
        numbers = (f'"src_port":{ports[0]},' if ports[0] else "") + (f'"dest_port":{ports[1]},' if ports[1] else "")
    return (
        f'{{"connection":{{"src_ip":"{source}","dest_ip":"{destination}",{numbers}"protocol":"{PROTOCOLS.get(protocol, "unknown")}",'
        f'"direction":"{DIRECTIONS[direction]}"}},"disposition":"{DISPOSITIONS[allowed]}",'
        f'{f"{chr(34)}policies{chr(34)}:{policies}," if policies else ""}"src":{names[0]},"dest":{names[1]},"count":{count},'
        f'"node_name":{node},"timestamp":"{timestamp}"}}\n'
    )


class Clock:
    """Times of the kernel's clock as RFC 3339 with nanoseconds, in UTC, without zeros at the end, as Go writes them."""

    def __init__(self, offset: int) -> None:
        """`offset`: ns from CLOCK_MONOTONIC to the time since 1970; it moves when the clock is set."""
        self.offset = offset
        self._second, self._text = -1, ""

    def text(self, monotonic: int) -> str:
        """Of a time in ns."""
        second, rest = divmod(monotonic + self.offset, 1_000_000_000)
        if second != self._second:
            self._second, self._text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._text}.{rest:09d}".rstrip("0") + "Z" if rest else self._text + "Z"
