"""Records of the kernel's ring in, lines of the log out. Pure: the caller brings records and the time.

An allowed connection is a line at once, a denied one goes into its window; then the budget of lines decides. A record is read with one
`struct` and becomes no object: a thousand a second must cost next to nothing (bpf/abi.h has the layout, `policy_rows.Verdict` the same
as a value).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from agent.datapath.policy_rows import VERDICT_SIZE
from agent.policylog.aggregate import Aggregator, Budget, Denied
from agent.policylog.counts import AGGREGATION_LIMIT, NO_POLICY, RATE_LIMIT, UNREADABLE, Counts
from agent.policylog.form import Clock, line
from agent.policylog.leftover import Leftovers, Untold
from agent.policylog.names import Annotations, Directory, Numbers
from agent.watch.policy_records import Logging

_RECORD = struct.Struct("=Q16s16s2s2sBBBxIIIxxxx")
_KEY_PARTS = slice(8, 40), slice(42, 46)
"""Of a record: the addresses; the destination's port, protocol, direction, and that it was denied."""
_KEY = struct.Struct("=16s16s2sBB")


@dataclass(slots=True)
class Line:
    """A line, and whether it is of an allowed connection."""

    text: str
    allowed: bool


class Pipeline:
    """One node's log. `sets` is None where denials do not name the policies that isolate the pod, which is GKE's shape."""

    def __init__(
        self,
        node: str,
        directory: Directory,
        annotations: Annotations,
        counts: Counts,
        *,
        sets: Numbers | None = None,
        untold: Untold = lambda _: (0, 0, 0),
    ) -> None:
        self._node = json.dumps(node)
        self._directory, self._annotations, self._counts = directory, annotations, counts
        self._sets = sets
        self._logging = Logging()
        self._windows = Aggregator()
        self._leftovers = Leftovers(untold)
        self._budget = Budget()

    @property
    def open_windows(self) -> int:
        """How many denied connections wait for their line."""
        return len(self._windows)

    def configure(self, logging: Logging) -> None:
        """What is logged from now on. Windows that are open end as they would have."""
        self._logging = logging
        self._annotations.set_delegate(logging.delegate_allow)

    def feed(self, records: Iterable[bytes], now: int, clock: Clock) -> list[Line]:
        """The lines that follow from `records`, and from windows that have ended by `now` (CLOCK_MONOTONIC, ns)."""
        self._budget.refill(now)
        counts, lines = self._counts, list[Line]()
        unpack, allow, deny = _RECORD.unpack, self._logging.allow, self._logging.deny
        addresses, rest = _KEY_PARTS
        allowed_events = denied_events = 0
        for record in records:
            if len(record) != VERDICT_SIZE:
                counts.errors[UNREADABLE] += 1
                continue
            time, source, destination, source_port, port, protocol, direction, allowed, number, rule, count = unpack(record)
            if not allowed:
                denied_events += 1
                if deny:
                    key = record[addresses] + record[rest]
                    self._deny(key, *self._leftovers.told(key, time, count, now), number)
                continue
            allowed_events += 1
            policies = self._policies(rule) if allow else ""
            if not policies:
                counts.flows["skipped"] += 1
                continue
            counts.flows["logged"] += 1
            counts.allow_latency.observe((now - time) / 1000)
            ports = int.from_bytes(source_port, "big"), int.from_bytes(port, "big")
            self._say(lines, source, destination, ports, protocol, direction, True, policies, 1, time, clock)
        counts.events["allow"] += allowed_events
        counts.events["deny"] += denied_events
        for late in self._leftovers.late(now):
            if deny:
                self._deny(*late)
        self._close(self._windows.due(now), lines, now, clock)
        return lines

    def finish(self, now: int, clock: Clock) -> list[Line]:
        """The lines of all windows, when there will be no later."""
        self._budget.refill(now)
        lines = list[Line]()
        self._close(self._windows.rest(), lines, now, clock)
        return lines

    def _policies(self, rule: int) -> str:
        rules = self._annotations.rules
        names = rules.names(rule)
        if not names and not rules.knows(rule):
            self._counts.errors[NO_POLICY] += 1
        return names

    def _deny(self, key: bytes, time: int, count: int, number: int) -> None:
        window = self._windows.add(key, time, count)
        if window is None:
            self._counts.dropped[AGGREGATION_LIMIT] += 1
        elif self._sets is not None and not window.policies:
            window.policies = self._sets.names(number)

    def _close(self, windows: Iterable[Denied], lines: list[Line], now: int, clock: Clock) -> None:
        for window in windows:
            window.count += self._leftovers.more(window.key, now)
            self._counts.deny_latency.observe((now - window.first) / 1e9)
            source, destination, port, protocol, direction = _KEY.unpack(window.key)
            ports = 0, int.from_bytes(port, "big")
            self._say(lines, source, destination, ports, protocol, direction, False, window.policies, window.count, window.first, clock)

    def _say(
        self,
        lines: list[Line],
        source: bytes,
        destination: bytes,
        ports: tuple[int, int],
        protocol: int,
        direction: int,
        allowed: bool,
        policies: str,
        count: int,
        time: int,
        clock: Clock,
    ) -> None:
        if not self._budget.take():
            self._counts.dropped[RATE_LIMIT] += 1
            return
        who = self._directory
        names = who.name(source, time), who.name(destination, time)
        ends = who.text(source), who.text(destination)
        text = line(*ends, ports, protocol, direction, allowed, policies, names, count, self._node, clock.text(time))
        lines.append(Line(text, allowed))
