"""The protocols that can be asked about, by name. Pure, and light to import."""

from __future__ import annotations

PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1, "ICMPV6": 58}
PORTLESS = frozenset({1, 58})
