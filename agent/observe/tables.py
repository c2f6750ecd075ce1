"""JSON documents as tables for people. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as their widest cell."""
    cells = [list(head), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells) + "\n"


def endpoints(document: Sequence[Mapping[str, Any]]) -> str:
    """`anetd endpoints`."""
    return table(
        ("ADDRESS", "POD", "ID", "LINK", "IFINDEX", "MAC", "HOST PORTS", "INGRESS", "EGRESS"),
        [
            (
                row["address"],
                row["pod"] or "-",
                row["id"],
                row["link"] or "-",
                row["ifindex"],
                row["mac"],
                ", ".join(row["hostPorts"]) or "-",
                *(_judged(row["policy"][direction]) if row["policy"] else "?" for direction in ("ingress", "egress")),
            )
            for row in document
        ],
    )


def services(document: Sequence[Mapping[str, Any]]) -> str:
    """`anetd services`."""
    return table(
        ("SERVICE", "PORT", "FRONTENDS", "BACKENDS", "LEFT OUT"),
        [line for row in document for line in _port_lines(row)],
    )


def _port_lines(row: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """One thing a line: a port with a thousand endpoints is still read from top to bottom."""
    backends = [*row["backends"], *(f"{end} (Local)" for end in row["localBackends"])]
    reasons = [f"{out['endpoint']}{' (Local)' if out['policy'] == 'Local' else ''}: {out['why']}" for out in row["leftOut"]]
    columns = ([_frontend(each) for each in row["frontends"]], backends or ["none"], ([row["trouble"]] if row["trouble"] else []) + reasons)
    name = f"{row['portName'] or '-'}/{row['protocol']}"
    for number, cells in enumerate(zip_longest(*columns, fillvalue="")):
        yield (row["service"] or "-", name, *cells) if not number else ("", "", *cells)


def _frontend(row: Mapping[str, Any]) -> str:
    address = f"[{row['address']}]" if ":" in row["address"] else row["address"]
    policy = "" if row["policyInside"] == row["policyOutside"] == "Cluster" else f" (outside: {row['policyOutside']})"
    held = f" (held by {row['heldBy']})" if row["heldBy"] else ""
    return f"{row['kind']} {address}:{row['port']}{policy}{held}"


def status(document: Mapping[str, Any]) -> str:
    """`anetd status`."""
    api = ", ".join(f"{name} {_api_state(row)}" for name, row in document["api"].items())
    pools = ", ".join(f"{row['cidr']} {row['taken']} of {row['capacity']}" for row in document["ipam"]["pools"])
    facts = [
        ("node", document["node"]),
        ("ready", "yes" if document["ready"] else f"no: {document['waitingFor']}"),
        ("routing", f"{document['routingMode']}, device {document['device'] or '-'}, MTU of pods {document['mtu']}"),
        ("masquerade", "on" if document["masquerade"] else "off"),
        ("socket LB", "on" if document["socketLB"]["on"] else f"off: {document['socketLB']['reason']}"),
        ("API server", api),
        ("addresses", pools or "none"),
        ("endpoints", len(document["endpoints"])),
        ("nodes", len(document["nodes"])),
        ("frontends", document["frontends"]),
        ("policies", _policies(document["policies"])),
        ("ports refused", "; ".join(f"{port}: {why}" for port, why in document["refusedPorts"].items()) or "none"),
        ("policy log", _policy_log(document["policyLog"])),
        ("memory", f"{document['memoryBytes'] / (1 << 20):.1f} MiB"),
    ]
    width = max(len(name) for name, _ in facts)
    text = "".join(f"{name.ljust(width)}  {value}\n" for name, value in facts)
    if document["drops"]:
        rows = [(row["reason"], row["direction"], row["packets"], row["bytes"]) for row in document["drops"]]
        text += "\n" + table(("DROPPED BECAUSE", "WHERE", "PACKETS", "BYTES"), rows)
    return text


def _policies(row: Mapping[str, Any]) -> str:
    if not row["inForce"]:
        return "as an earlier agent left them"
    closed = f", {row['doNotFit']} do not fit and close {row['podsClosed']} pods" if row["doNotFit"] else ""
    return f"{row['selectingPods']} select pods of this node, revision {row['revision']}{closed}{row['trouble'] and '; ' + row['trouble']}"


def _policy_log(row: Mapping[str, Any]) -> str:
    lost = ", ".join(f"{count} lost ({reason})" for reason, count in row["lost"].items())
    return "; ".join(part for part in (row["logged"], f"{row['written']} written" if row["reading"] else "", lost, row["trouble"]) if part)


def _api_state(row: Mapping[str, Any]) -> str:
    if row["connected"]:
        return "watched" if row["synced"] else "listing"
    return "away (last known state in force)" if row["synced"] else "away"


def _judged(row: Mapping[str, Any]) -> str:
    """A pod's policies in one direction, in a few words; the document has the rest."""
    if not row["isolated"]:
        return "open"
    count = len(row["policies"])
    shown = ", ".join(row["policies"]) if count <= 2 else f"{count} policies"
    room = "CLOSED, no room" if row["closed"] else f"{row['rows']} rows"
    return f"{shown}: {room}, {row['denied']['packets']} denied"


def policy(document: Mapping[str, Any]) -> str:
    """`anetd policy`."""
    tables = ", ".join(f"{name} {each['rows']} of {each['capacity']}" for name, each in document["tables"].items())
    known = ", ".join(f"{count} {name}" for name, count in document["known"].items())
    facts = [
        ("in force", "yes" if document["inForce"] else "no: what an earlier agent wrote stays as it is"),
        ("trouble", document["trouble"] or "none"),
        ("revision", document["revision"]),
        ("rows", tables or "none"),
        ("known", known),
    ]
    text = "".join(f"{name.ljust(8)}  {value}\n" for name, value in facts)
    text += "".join(
        f"does not fit: {each['policy']}, closed: {', '.join(each['pods'])}: {each['message']}\n" for each in document["troubles"]
    )
    rows = [line for row in document["policies"] for line in _policy_lines(row)]
    return text + ("\n" + table(("POLICY", "DIRECTIONS", "ROWS", "PODS", "ALLOWED BY", "PACKETS", "BYTES"), rows) if rows else "")


def _policy_lines(row: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    rules = [(each["rule"].partition(" ")[2], each["packets"], each["bytes"]) for each in row["allowed"]] or [("-", 0, 0)]
    head = (row["policy"], ", ".join(row["directions"]), row["rows"])
    for number, (pod, rule) in enumerate(zip_longest(row["pods"], rules, fillvalue=None)):
        yield (*(head if number == 0 else ("", "", "")), pod or "", *(rule or ("", "", "")))


def conntrack(document: Mapping[str, Any]) -> str:
    """`anetd conntrack`."""
    shown = document["flows"]
    text = table(
        ("PROTOCOL", "FROM", "TO", "STATE", "IDLE", "SERVICE OR BACKEND", "MASQUERADED", "POLICY"),
        [
            (
                row["protocol"],
                _flow_end(row["from"], row["fromPod"]),
                _flow_end(row["to"], row["toPod"]),
                row["state"],
                f"{row['idleSeconds']} s",
                (row["service"] and f"for {row['service']}") or (row["backend"] and f"to {row['backend']}") or "-",
                row["masqueradePort"] or "-",
                row["policyRevision"] or "-",
            )
            for row in shown
        ],
    )
    rest = document["matching"] - len(shown)
    return text + (f"... and {rest} more: --limit, --pod and --address choose\n" if rest else "")


def _flow_end(end: str, pod: str) -> str:
    return f"{end} ({pod})" if pod else end
