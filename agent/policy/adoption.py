"""From the rows that an earlier process left in the policy tables to those that are wanted. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from agent.policy.inputs import POLICY_TABLES, Rows


def compare(wanted: Rows, found: Mapping[str, Mapping[Any, Any]]) -> Rows:
    """The changes from `found`, by table, to what `wanted` makes of empty tables. They are in an order as good as the compiler's own."""
    desired = {table: standing(wanted, table) for table in POLICY_TABLES}
    puts = {table: {key: row for key, row in rows.items() if found[table].get(key) != row} for table, rows in desired.items()}
    deletes = {table: tuple(key for key in found[table] if key not in desired[table]) for table in POLICY_TABLES}
    # From the shortest: what falls to a shorter prefix finds one that is final.
    deletes["classes"] = tuple(sorted(deletes["classes"], key=_prefix_length))
    return Rows(puts, deletes)


def standing(rows: Rows, table: str) -> dict[Any, Any]:
    """What a round leaves in a table that was empty: some rows are only needed on the way."""
    gone = frozenset(rows.deletes.get(table, ()))
    return {key: row for key, row in rows.puts.get(table, {}).items() if key not in gone}


def _prefix_length(network: IPv4Network | IPv6Network) -> int:
    return network.prefixlen + (96 if network.version == 4 else 0)
