"""Maglev's table of a group: every node that knows the same backends sends the same client to the same one. Pure.

Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4. What is hashed are the
backends' addresses and ports, for their ids are each node's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from agent.datapath.abi import MAGLEV_SIZE, Backend, MaglevRow, pack_address


def populate(backends: Iterable[tuple[int, Backend]]) -> MaglevRow:
    """The row for backends with their ids, of which there is at least one."""
    members = sorted((pack_address(each.address) + each.port.to_bytes(2, "big"), number) for number, each in backends)
    if len(members) == 1:
        return (members[0][1],) * MAGLEV_SIZE
    row = [0] * MAGLEV_SIZE  # 0 is nobody's id
    places, steps = [], []
    for seed, _ in members[:MAGLEV_SIZE]:
        digest = hashlib.blake2b(seed, digest_size=16).digest()
        places.append(int.from_bytes(digest[:8], "big") % MAGLEV_SIZE)
        steps.append(int.from_bytes(digest[8:], "big") % (MAGLEV_SIZE - 1) + 1)
    free = MAGLEV_SIZE
    while True:
        for turn, (_, number) in enumerate(members[:MAGLEV_SIZE]):
            place, step = places[turn], steps[turn]
            while row[place]:
                place = (place + step) % MAGLEV_SIZE
            row[place] = number
            places[turn] = place
            free -= 1
            if not free:
                return tuple(row)
