"""NetworkPolicy's verdicts as the programs tell them: records from the ring, and what of denials was only counted so far.

Each CPU tells a denial that goes on once a second, with the sum of its packets, when one more of them comes. When none comes the rest
stays in `denials` until somebody asks: so the packets of all verdicts read here, those lost (`Datapath.verdict_losses`), and what is
untold in the table are together all that were denied and were to be logged.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from agent.datapath.maps import PerCpuTable
from agent.datapath.policy_rows import VERDICT_SIZE, Denial, DenialKey, Verdict, unpack_verdict
from agent.datapath.ringbuf import RingBuffer

_KEY_PADDING = bytes(4)


class VerdictReader:
    """The one reader of the ring. Nothing waits: come by some ten times a second."""

    def __init__(self, ring_fd: int, denials: PerCpuTable[DenialKey, Denial]) -> None:
        """The file descriptors stay the caller's. Raises `OSError`."""
        self._ring = RingBuffer(ring_fd)
        self._denials = denials

    def read(self) -> Iterator[Verdict]:
        """Every record that is there, oldest first by CPU. One of another size, as a newer program may send, is passed over."""
        for record in self._ring.read():
            if len(record) == VERDICT_SIZE:
                yield unpack_verdict(record)

    def records(self, most: int) -> list[bytes]:
        """As `read`, `most` at most, as the ring has them: for whoever reads very many."""
        return list(islice(self._ring.read(), most))

    def untold(self, key: bytes) -> tuple[int, int, int]:
        """Of a connection (both addresses, the destination's port, protocol, direction, in a record's bytes): denied packets that no record
        stands for, the time of the first, and the set that denied; zeros if there are none."""
        found = self._denials.raw_get(key + _KEY_PADDING)
        return (found.untold, found.untold_since, found.set) if found is not None and found.untold else (0, 0, 0)

    def close(self) -> None:
        """Stop reading; records stay in the ring for the next reader."""
        self._ring.close()
