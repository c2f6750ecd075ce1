"""Numbers for groups and backends. Pure.

A number follows from what it names, so the same thing gets the same one again, and moves on while another has it: rows of conntrack
and affinity name backends by number, and must never come to mean a stranger.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from agent.datapath.abi import IPAddress, pack_address

_IDS = 1 << 32


def free_number(seed: bytes, is_taken: Callable[[int], bool]) -> int:
    """A number from 1 to 2^32 - 1 that nothing has."""
    number = int.from_bytes(hashlib.blake2b(seed, digest_size=4).digest(), "big")
    while number == 0 or is_taken(number):
        number = (number + 1) % _IDS
    return number


def backend_seed(group: int, address: IPAddress, port: int) -> bytes:
    """What names a backend: its group, its address and its port."""
    return group.to_bytes(4, "big") + pack_address(address) + port.to_bytes(2, "big")
