"""Packets that the kernel frees because nobody will have them: the probe on skb:kfree_skb, and what its bytes mean. Pure.

Whose packet it is follows from the network namespace: that of the socket that was to have it, of its device, of the socket that sent it, or
of the running process, whichever is known first.

Why our programs dropped a packet only they know: they leave it in `last_drops` of their CPU right before the kernel frees the packet. Where
a program of someone else dropped, the row there is an old one, hence the look at its time.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from string import Template

from agent.datapath.abi import DropDirection, DropReason
from agent.trace import namespaces, packets
from agent.trace.filters import Filter, Scope, conditions
from agent.trace.formats import Format

TRACEPOINT = "skb:kfree_skb"
FUNCTION = "on_drop"
OURS_AT = ("TC_INGRESS", "TC_EGRESS")
"""What the kernel says of a packet that a program on a device dropped."""
UNSAID = "NOT_SPECIFIED"
PURGED = "QUEUE_PURGE"

_CAPTURED = 128
_FRESH_NS = 10_000_000
_EVENT = struct.Struct(f"=QQIIIIIHHBB6x16s{_CAPTURED}s")
_LOST_KEY = struct.Struct("=II")

MEMBERS = (
    *namespaces.MEMBERS,
    "sk_buff.head",
    "sk_buff.tail",
    "sk_buff.len",
    "sk_buff.network_header",
    "sk_buff.dev",
    "sk_buff.sk",
    "net_device.ifindex",
    "net_device.name",
    "net_device.nd_net.net",
)
"""What of the kernel's structures the probe reads."""

_TEXT = Template(
    namespaces.TEXT
    + """
struct event {
	u64 time, location;
	u32 netns, ifindex, reason, length, policy_set;
	u16 ethertype, captured;
	u8 own_reason, own_direction, padding[6];
	char device[16];
	u8 heads[$captured];
};

struct lost_key {
	u32 reason, own_reason;
};

struct last_drop {
	u64 time;
	u32 policy_set;
	u8 reason, direction;
	u16 padding;
};

BPF_HASH(lost, struct lost_key, u64, 1024);

static inline u32 of_device(u64 dev)
{
	u64 net = 0;

	if (dev)
		READ(net, dev, $net_device_nd_net_net);
	return number_of(net);
}

int $function(void *ctx)
{
	u64 skb = FIELD(u64, $f_skbaddr), now = bpf_ktime_get_ns();
	u16 ethertype = FIELD(u16, $f_protocol);
	u32 reason = $reason;
	struct last_drop *own = 0;

$own
	if (!own && ethertype != $ipv4 && ethertype != $ipv6)
		return 0;
$unlost

	u64 dev = 0, sk = 0;

	READ(dev, skb, $sk_buff_dev);
	READ(sk, skb, $sk_buff_sk);

	u32 netns = $receiver;

	if (!netns)
		netns = of_device(dev);
	if (!netns)
		netns = of_socket(sk);
	if (!netns)
		netns = of_process();
	if (is_foreign(netns))
		return 0;

	u64 head = 0;
	u32 tail = 0, ifindex = 0;
	u16 network = 0;

	READ(head, skb, $sk_buff_head);
	READ(tail, skb, $sk_buff_tail);
	READ(network, skb, $sk_buff_network_header);
	READ(ifindex, dev, $net_device_ifindex);
$filter

	struct event *event = events.ringbuf_reserve(sizeof(*event));

	if (!event) {
		struct lost_key key = { .reason = reason, .own_reason = own ? own->reason : 0 };

		lost.increment(key);
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->time = now;
	event->location = FIELD(u64, $f_location);
	event->netns = netns;
	event->ifindex = ifindex;
	event->reason = reason;
	event->ethertype = ethertype;
	READ(event->length, skb, $sk_buff_len);
	READ(event->device, dev, $net_device_name);
	if (own) {
		event->own_reason = own->reason;
		event->own_direction = own->direction;
		event->policy_set = own->policy_set;
	}

	u32 captured = tail > network ? tail - network : 0;

	if (captured > $captured)
		captured = $captured;
	event->captured = captured;
	bpf_probe_read_kernel(event->heads, captured, (void *)(head + network));
	events.ringbuf_submit(event, 0);
	return 0;
}
"""
)

# A FIN that still lies in the queue of a socket that is closed, as at the end of most connections, is nothing that anybody waits for.
_UNLOST = Template(
    """
	if ($purged) {
		u32 length = 0;

		READ(length, skb, $sk_buff_len);
		if (!length)
			return 0;
	}
"""
)

_OWN = Template(
    """
	if ($at) {
		u32 zero = 0;

		own = bpf_map_lookup_elem_(bpf_pseudo_fd(1, $last_drops), &zero);
		if (own && (!own->reason || now - own->time > $fresh))
			own = 0;
	}
"""
)

# What a filter looks at. IPv6's further headers are walked as far as packets have them.
_PARSE = Template(
    """
	u32 source[4] = {}, destination[4] = {};
	u64 at = head + network;
	u8 protocol = 0;
	u16 ports[2] = {};

	if (ethertype == $ipv4) {
		u8 first = 0;

		source[2] = destination[2] = bpf_htonl(0xffff);
		READ(source[3], at, 12);
		READ(destination[3], at, 16);
		READ(protocol, at, 9);
		READ(first, at, 0);
		at += (first & 15) * 4;
	} else if (ethertype == $ipv6) {
		READ(source, at, 8);
		READ(destination, at, 24);
		READ(protocol, at, 6);
		at += 40;
#pragma unroll
		for (int i = 0; i < 4; i++) {
			u8 next[2] = {};

			if (protocol != 0 && protocol != 43 && protocol != 44 && protocol != 60)
				break;
			READ(next, at, 0);
			at += protocol == 44 ? 8 : 8 + 8 * next[1];
			protocol = next[0];
		}
	}
	if (protocol == 6 || protocol == 17 || protocol == 132)
		READ(ports, at, 0);
	if (!($condition))
		return 0;
"""
)


def text(wanted: Filter, scope: Scope, format_: Format, offsets: Mapping[str, int], last_drops: int = -1) -> str:
    """The probe in C. `last_drops`: this process's file descriptor of the table of that name, -1 where our programs do not run.

    A table that BCC opens by its pin it opens again by its number, for which the kernel wants CAP_SYS_ADMIN.

    Raises `ValueError` where the tracepoint lacks what the probe cannot do without.
    """
    fields = format_.fields
    if missing := {"skbaddr", "location", "protocol"} - set(fields):
        raise ValueError(f"this kernel's {TRACEPOINT} does not tell {', '.join(sorted(missing))}")
    at = _is_one_of("reason", format_, OURS_AT) or "1"
    place = [f"netns == {scope.netns}U"] if scope.netns else []
    place += [f"ifindex == {scope.ifindex}U"] if scope.ifindex else []
    conditions_ = conditions(
        wanted,
        scope,
        addresses=("source", "destination"),
        ports=("ports[0]", "ports[1]"),
        protocol="protocol",
        place=" || ".join(place) or "0",
    )
    ethertypes = {"ipv4": packets.IPV4, "ipv6": packets.IPV6}
    parse = _PARSE.substitute(ethertypes, condition=" && ".join(f"({each})" for each in conditions_)) if conditions_ else ""
    members = {path.replace(".", "_"): offsets[path] for path in MEMBERS}
    purged = _is_one_of("reason", format_, (PURGED,))
    return _TEXT.substitute(
        members,
        **ethertypes,
        unlost=_UNLOST.substitute(members, purged=purged) if purged else "",
        captured=_CAPTURED,
        function=FUNCTION,
        f_skbaddr=fields["skbaddr"].offset,
        f_protocol=fields["protocol"].offset,
        f_location=fields["location"].offset,
        reason=f"FIELD(u32, {fields['reason'].offset})" if "reason" in fields else "0",
        receiver=f"of_socket(FIELD(u64, {fields['rx_sk'].offset}))" if "rx_sk" in fields else "0",
        own=_OWN.substitute(at=at, fresh=_FRESH_NS, last_drops=last_drops) if last_drops >= 0 else "",
        filter=parse,
    )


def _is_one_of(variable: str, format_: Format, words: Sequence[str]) -> str:
    """A C expression, "" where the kernel has none of the words."""
    numbers = [number for number, word in format_.names.get(variable, {}).items() if word in words]
    return " || ".join(f"{variable} == {number}" for number in numbers)


@dataclass(frozen=True, slots=True)
class Drop:
    """One packet. `time` is CLOCK_MONOTONIC in ns; `location` the kernel's address; `own_reason` 0 if it was not a program of ours.

    length  of the IP packet, in bytes; of a frame that is none, or of several packets in one, what the kernel had of it.
    """

    time: int
    location: int
    netns: int
    ifindex: int
    device: str
    reason: int
    own_reason: int
    own_direction: int
    policy_set: int
    length: int
    heads: packets.Heads


def decode(data: bytes) -> Drop:
    """Of what the probe sent."""
    time, location, netns, ifindex, reason, length, policy_set, ethertype, captured, own_reason, own_direction, device, heads = (
        _EVENT.unpack_from(data)
    )
    decoded = packets.decode(ethertype, heads[:captured])
    return Drop(
        time,
        location,
        netns,
        ifindex,
        device.partition(b"\0")[0].decode("utf-8", "replace"),
        reason,
        own_reason,
        own_direction,
        policy_set,
        decoded.length or length,
        decoded,
    )


def decode_lost(key: bytes) -> tuple[int, int]:
    """Reason and own reason of packets that were not told."""
    reason, own = _LOST_KEY.unpack(key)
    return reason, own


def reason_name(number: int, names: Mapping[int, str]) -> str:
    """As the kernel calls it. Subsystems' own reasons, in the upper half, have no names there."""
    if number in names:
        return names[number]
    return f"{number >> 16}:{number & 0xFFFF}" if number >> 16 else str(number) if number else UNSAID


def own_reason_name(number: int) -> str:
    """As bpf/abi.h calls it; "" for 0."""
    return _named(DropReason, number)


def own_direction_name(number: int) -> str:
    """The program that dropped; "" for 0."""
    return _named(DropDirection, number)


def _named(enum: type[IntEnum], number: int) -> str:
    try:
        return enum(number).name if number else ""
    except ValueError:  # of programs that are newer than this
        return str(number)
