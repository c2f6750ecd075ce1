/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Pods behind the node's address.
 *
 * Ports come from below the node ports and the kernel's ephemeral range, so that none is taken that a process of the node asks from. One
 * at which a process of the node waits may be: a port is taken per far end, for the key is the tuple as the outside sees it. The flow's
 * row of conntrack keeps the port for the packets that follow; the row here finds the pod for what comes back.
 *
 * A closed connection keeps its port for as long as the far end may remember it, unless there is none better: then a new one is given
 * it, which at worst has to ask twice.
 */
#ifndef ANETD_MASQUERADE_H
#define ANETD_MASQUERADE_H

#include "conntrack.h"
#include "nat.h"

/* A far end would have to hold four fifths of all ports before one connection in a thousand finds none. */
#define PROBES_MAX 32
/* So many for a port that nobody had, before that of a closed connection will do. */
#define PROBES_FOR_UNUSED 16

inline_always int can_masquerade(const struct packet *p)
{
	if (p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP)
		return 1;
	if (p->fragment == FRAGMENT_LATER) /* the first one was an echo, or there would be no flow */
		return is_icmp(p->protocol);
	return (p->protocol == IPPROTO_ICMP && p->icmp_type == ICMP_ECHO) ||
	       (p->protocol == IPPROTO_ICMPV6 && p->icmp_type == ICMPV6_ECHO_REQUEST);
}

inline_always int is_masquerade_port(__be16 port)
{
	__u16 host = bpf_ntohs(port);

	return host >= config.masquerade_first && host <= config.masquerade_last;
}

inline_always int outside_key(struct flow_key *key, const struct packet *p)
{
	key->a = p->destination;
	key->a_port = p->destination_port;
	key->b_port = 0;
	key->protocol = p->protocol;
	key->padding[0] = 0;
	key->padding[1] = 0;
	key->padding[2] = 0;
	return node_address(&key->b, p->ipv4);
}

/* Where the flows of one address begin: its ports are apart already, so that only those of different addresses meet. */
inline_always __u32 port_base(const struct packet *p)
{
	__u32 h = p->source.words[3] * 0x9e3779b1u;

	h = (h ^ (h >> 15) ^ p->destination.words[3]) * 0x85ebca77u;
	return h ^ (h >> 13);
}

/* The stack is short where a port is taken, and nothing else runs on this CPU meanwhile. */
struct masquerade_scratch {
	struct flow_key outside;
	struct flow_key inside;
	struct masquerade_row mine;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct masquerade_scratch);
	__uint(max_entries, 1);
} masquerade_scratch SEC(".maps");

/* Whether the flow behind a taken port is over, or closed if that will do, which ends it. `inside`: scratch. */
call_apart int gives_way(const struct masquerade_row *taken, const struct flow_key *outside, struct flow_key *inside, __u32 now,
			 __u32 may_be_closed)
{
	struct conntrack_row *row;

	order_ends(inside, &taken->pod_address, taken->pod_port, &outside->a, outside->a_port, outside->protocol);
	row = bpf_map_lookup_elem(&conntrack, inside);
	if (!row || row->masquerade_port != outside->b_port || conntrack_expired(row, outside->protocol, now))
		return 1;
	if (!may_be_closed || outside->protocol != IPPROTO_TCP || row->state != CT_STATE_CLOSED)
		return 0;
	row->last_seen = now - TIMEOUT_TCP_CLOSED; /* what still comes of it must not go out by a port that is another's */
	return 1;
}

/* A port for a new flow, into its row. */
verified_apart verdict masquerade_begin(const struct packet *p, __u32 now, struct conntrack_row *fresh)
{
	__u32 span = config.masquerade_last - config.masquerade_first + 1;
	struct masquerade_scratch *s;
	struct masquerade_row *mine;
	struct flow_key *key;
	__u32 zero = 0, base, stride;

	s = bpf_map_lookup_elem(&masquerade_scratch, &zero);
	if (!p || !fresh || !s)
		return dropped(DROP_MALFORMED);
	key = &s->outside;
	mine = &s->mine;
	mine->pod_address = p->source;
	mine->pod_port = p->source_port;
	base = port_base(p);
	stride = (base >> 20) | 1; /* flows that meet at one port part at the next */
	base += bpf_ntohs(p->source_port);
	if (!can_masquerade(p))
		return dropped(DROP_UNSUPPORTED_PROTOCOL);
	if (!outside_key(key, p) || !span)
		return 0;
	for (int i = 0; i < PROBES_MAX; i++) {
		struct masquerade_row *taken;

		key->b_port = bpf_htons(config.masquerade_first + (base + i * stride) % span);
		if (!bpf_map_update_elem(&masquerade, key, mine, BPF_NOEXIST))
			goto found;
		taken = bpf_map_lookup_elem(&masquerade, key);
		if (!taken)
			continue;
		if (taken->pod_port == mine->pod_port && address_equal(&taken->pod_address, &mine->pod_address))
			goto found;
		if (gives_way(taken, key, &s->inside, now, i >= PROBES_FOR_UNUSED) &&
		    !bpf_map_update_elem(&masquerade, key, mine, BPF_ANY))
			goto found;
	}
	return dropped(DROP_MASQUERADE_EXHAUSTED);
found:
	fresh->masquerade_port = key->b_port;
	return 0;
}

/* Out: the pod's address becomes the node's. */
call_apart verdict masquerade_source(struct __sk_buff *skb, struct packet *p, __u32 port, __u32 refresh)
{
	struct flow_key key;

	if (!outside_key(&key, p))
		return 0;
	key.b_port = port;
	if (refresh && !bpf_map_lookup_elem(&masquerade, &key)) {
		/* Evicted while only this direction spoke: what comes back still has to find the pod. */
		struct masquerade_row mine = { .pod_address = p->source, .pod_port = p->source_port };

		bpf_map_update_elem(&masquerade, &key, &mine, BPF_NOEXIST);
	}
	return rewrite_source(skb, p, &key.b, port);
}

/* Back in: the pod behind the node's address, 0 if there is none. */
inline_always struct masquerade_row *masquerade_find(const struct address *far, __be16 far_port, const struct address *node, __be16 port,
						    __u8 protocol)
{
	struct flow_key key = { .a = *far, .b = *node, .a_port = far_port, .b_port = port, .protocol = protocol };

	return is_masquerade_port(port) ? bpf_map_lookup_elem(&masquerade, &key) : 0;
}

#endif
