"""What a tracer's lines look like to people, and the table at the end. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Line = Mapping[str, Any]

OWN = {
    "MALFORMED": "a header is cut short or contradicts itself",
    "SPOOFED_SOURCE": "a pod used an address that is not its own",
    "NO_SUCH_POD": "no pod of the node has that address",
    "NO_SUCH_SERVICE": "no Service has that address",
    "NO_BACKEND": "the Service has no endpoints, or not that port",
    "SERVICE_COLLISION": "two Services lead the client's port to one backend",
    "FRAGMENT_WITHOUT_FIRST": "the fragment's first one was not seen",
    "MASQUERADE_EXHAUSTED": "no free port of the node towards that destination",
    "UNSUPPORTED_PROTOCOL": "cannot be masqueraded or translated",
    "CONNTRACK_FULL": "the kernel refused a row for a new flow",
    "REWRITE_FAILED": "the packet could not be changed",
    "NO_TUNNEL": "the tunnel took no key",
    "UNSUPPORTED_LAYER2": "neither IP nor ARP",
    "NO_LOCAL_BACKEND": "the Service's policy is Local, and it has no endpoint on the node",
    "NOT_IN_SOURCE_RANGES": "loadBalancerSourceRanges does not name the client",
    "TOO_BIG": "larger than the way's MTU; the sender is told",
    "NOBODY_BEHIND": "a masqueraded port whose flow is over",
    "EGRESS_DENIED": "no NetworkPolicy lets the pod send that",
    "INGRESS_DENIED": "no NetworkPolicy lets the pod have that",
}
"""Our programs' reasons, as bpf/abi.h has them."""
MEANINGS = {
    "NOT_SPECIFIED": "the kernel does not say",
    "NO_SOCKET": "nobody listens on that port",
    "SOCKET_FILTER": "a filter on the socket",
    "SOCKET_RCVBUFF": "the socket's buffer is full",
    "PKT_TOO_SMALL": "shorter than its headers",
    "PKT_TOO_BIG": "larger than the device takes, and not to be fragmented",
    "TCP_CSUM": "wrong checksum",
    "UDP_CSUM": "wrong checksum",
    "IP_CSUM": "wrong checksum",
    "ICMP_CSUM": "wrong checksum",
    "SKB_CSUM": "wrong checksum",
    "NETFILTER_DROP": "a rule of nftables or iptables",
    "OTHERHOST": "for another machine's MAC address",
    "IP_RPFILTER": "rp_filter: no way back to the source through that device",
    "IP_INNOROUTES": "no route",
    "IP_OUTNOROUTES": "no route",
    "IP_INADDRERRORS": "no usable address",
    "NEIGH_FAILED": "nobody answers for the next hop's address",
    "NEIGH_QUEUEFULL": "too many packets wait for the next hop's MAC address",
    "QDISC_DROP": "a queue of the device was full, or its discipline said no",
    "TC_INGRESS": "a program or filter on the device, and not one of anetd's",
    "TC_EGRESS": "a program or filter on the device, and not one of anetd's",
    "XDP": "a program on the device's driver",
    "TCP_LISTEN_OVERFLOW": "the listening socket's queue is full",
    "TCP_FLAGS": "flags that fit nothing",
    "UNHANDLED_PROTO": "no such protocol here",
    "QUEUE_PURGE": "was queued in a socket that closed",
}
"""The kernel's that are met most."""
FUNCTIONS = {
    "__dev_forward_skb": "larger than the other end of the pair takes, or that end is down",
    "veth_xmit": "the other end of the pair is gone, or does not keep up",
}
"""Where the kernel gives no reason: functions that free a packet for one, by the start of their names."""
_UNSAID = "NOT_SPECIFIED"
_WIDTHS = {"drops": (12, 0, 6, 44, 44, 0), "connect": (12, 0, 6, 44, 44, 12, 9, 0)}
_HEADERS = {
    "drops": ("TIME", "NODE", "PROTO", "SOURCE", "DESTINATION", "REASON"),
    "connect": ("TIME", "NODE", "PROTO", "FROM", "TO", "RESULT", "MS", "THROUGH"),
}


def header(kind: str, node_width: int) -> str:
    """`node_width` is that of the longest node's name."""
    return _row(kind, _HEADERS[kind], node_width)


def line(kind: str, document: Line, node_width: int) -> str:
    """One packet or connection. Columns are as wide as most of what stands in them; a longer one moves the rest of its line."""
    return _row(kind, _drop(document) if kind == "drops" else _connect(document), node_width)


def _row(kind: str, cells: Iterable[object], node_width: int) -> str:
    time, _, *rest = _WIDTHS[kind]
    widths = (time, max(node_width, len("NODE")), *rest)
    return "  ".join(str(cell).ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _drop(document: Line) -> tuple[object, ...]:
    own, program = document["ownReason"], document["program"].lower()
    reason = f"{own} ({program})" if own else _kernels(document)
    where = document["pod"] or document["device"]
    notes = [f"{'at' if own else 'in'} {where}" if where else "", document["detail"], f"{document['length']} bytes"]
    text = f"{reason}: {', '.join(note for note in notes if note)}"
    return (*_head(document), end(document["source"]), end(document["destination"]), text)


def _connect(document: Line) -> tuple[object, ...]:
    asked, destination = document["asked"], document["destination"]
    result = document["error"] or document["outcome"]
    through = f"{end(destination)} (at the {_AT[document['translatedBy']]})" if document["translatedBy"] else ""
    client = document["pod"] or document["node"]
    return (*_head(document), f"{client} ({document['command']})", end(asked), result, f"{document['latencyMs']:.3f}", through)


def _kernels(document: Line) -> str:
    """The kernel's reason, and the function where it gives none."""
    unsaid = document["reason"] == _UNSAID and document.get("function")
    return f"{_UNSAID} in {document['function']}" if unsaid else str(document["reason"])


def meaning(by: str, reason: str) -> str:
    """Of a reason as the table has it; "" where nothing can be said in a few words."""
    function = reason.partition(f"{_UNSAID} in ")[2]
    if function:
        return next((text for start, text in FUNCTIONS.items() if function.startswith(start)), "")
    return (OWN if by == "anetd" else MEANINGS).get(reason, "")


_AT = {"socket": "socket", "packets": "pod's device"}


def _head(document: Line) -> tuple[str, str, str]:
    return document["time"][11:23], document["node"], document["protocol"]


def end(what: Line) -> str:
    """An address with its port, and whose it is."""
    address, port = what["address"] or "-", what["port"]
    text = (f"[{address}]:{port}" if ":" in address else f"{address}:{port}") if port else address
    owner = what.get("service") or what.get("pod") or what.get("node")
    return f"{text} {owner}" if owner else text


@dataclass(slots=True)
class Summary:
    """Counts of what was traced: packets by whose reason it was and the reason, connections by result."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    untold: int = 0

    def add(self, document: Line) -> None:
        match document["type"]:
            case "drop":
                self.counts[self._of(document)] += 1
            case "connect":
                self.counts["", document["error"] or document["outcome"]] += 1
            case "lost":
                self.untold += document["count"]
                if document["reason"] or document["ownReason"]:
                    self.counts[self._of(document)] += document["count"]

    @staticmethod
    def _of(document: Line) -> tuple[str, str]:
        return ("anetd", document["ownReason"]) if document["ownReason"] else ("kernel", _kernels(document))

    def document(self) -> dict[str, Any]:
        rows = [{"by": by, "reason": reason, "count": count} for (by, reason), count in self.counts.most_common()]
        return {"type": "summary", "rows": rows, "untold": self.untold}

    def table(self, kind: str) -> str:
        """Most frequent first."""
        if not self.counts:
            return "no packet was dropped\n" if kind == "drops" else "there was no connection\n"
        lines: list[tuple[str, ...]] = [("REASON", "BY", "PACKETS", "MEANS") if kind == "drops" else ("RESULT", "CONNECTIONS")]
        for (by, reason), count in self.counts.most_common():
            lines.append((reason, by, str(count), meaning(by, reason)) if kind == "drops" else (reason, str(count)))
        widths = [max(len(row[column]) for row in lines) for column in range(len(lines[0]))]
        text = "".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in lines)
        return text + (f"{self.untold} of them came too fast to be shown one by one\n" if self.untold else "")
