"""The policy tables in memory, and a little cluster to fill them with: one pod that policies select and two that would like to reach it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

from agent.datapath.policy_rows import CLASS_ANY, PolicyCount, PolicyCountKey, PolicyKey
from agent.watch.records import Key

WEB, FRIEND, STRANGER = (Key("n", name) for name in ("web", "friend", "stranger"))
ADDRESSES = {WEB: (ip_address("10.1.0.1"),), FRIEND: (ip_address("10.1.0.2"),), STRANGER: (ip_address("10.1.0.3"),)}
ORDER = ["policies", "classes", "isolation"]


class Kernel:
    """The tables in memory, with a journal of what was done to them. `full`: the table whose next put finds no room."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[Any, Any]] = {name: {} for name in ORDER}
        self.counts: dict[PolicyCountKey, PolicyCount] = {}
        self.journal: list[tuple[str, str]] = []
        self.full = ""
        self.generation = 0
        self.capacity = 1000

    def table(self, name: str) -> Any:
        rows = self.rows[name]

        def put_many(new: Any) -> None:
            if self.full == name:
                self.full = ""
                raise OSError(errno.ENOSPC if name != "isolation" else errno.E2BIG, "no room")
            rows.update(new)
            self.journal.append(("put", name))

        def delete_many(keys: Any) -> int:
            self.journal.append(("delete", name))
            return sum(rows.pop(key, None) is not None for key in list(keys))

        return SimpleNamespace(
            max_entries=self.capacity, items=lambda: iter(list(rows.items())), put_many=put_many, delete_many=delete_many
        )

    def advance(self) -> int:
        self.generation += 1
        self.journal.append(("advance", ""))
        return self.generation

    def count_items(self) -> Iterator[tuple[PolicyCountKey, PolicyCount]]:
        return iter(list(self.counts.items()))

    def forget_counts(self, keys: Any) -> int:
        return len([self.counts.pop(key) for key in list(keys)])

    def datapath(self) -> Any:
        counts = SimpleNamespace(items=self.count_items, delete_many=self.forget_counts)
        tables = {name: self.table(name) for name in ORDER}
        return SimpleNamespace(
            policy_counts=counts, advance_policy_generation=self.advance, policy_generation=lambda: self.generation, **tables
        )

    def allows(self, peer: Key, port: int = 80) -> bool:
        """Whether TCP from a peer to `WEB` passes, as the programs decide it (for rows of single ports and of all)."""
        row = self.rows["isolation"].get(ADDRESSES[WEB][0])
        if row is None or not row.ingress_set:
            return True
        networks = [net for net in self.rows["classes"] if ADDRESSES[peer][0] in net]
        its = self.rows["classes"][max(networks, key=lambda net: net.prefixlen)] if networks else 0
        keys = [PolicyKey(row.ingress_set, which, *rest) for which in (its, CLASS_ANY) for rest in ((), (6, port, 96))]
        return any(key in self.rows["policies"] for key in keys)
