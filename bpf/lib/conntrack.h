/* SPDX-License-Identifier: GPL-2.0 */
/*
 * One row a flow, found by both directions with one lookup: the key has its two ends in a fixed order, the row says which end
 * began. An established flow's packets write nothing but, about once a second, the time.
 *
 * Rows are not deleted here: an expired one counts as missing and is overwritten; Python removes what nobody asks for.
 */
#ifndef ANETD_CONNTRACK_H
#define ANETD_CONNTRACK_H

#include "parse.h"
#include "tables.h"

/* "Seconds" (see last_seen) without a packet after which a row is as good as gone. agent/datapath/conntrack.py has the same numbers. */
#define TIMEOUT_MINIMUM 10
#define TIMEOUT_TCP_NEW 60
#define TIMEOUT_TCP_ESTABLISHED 21600
#define TIMEOUT_TCP_HALF_CLOSED 3600 /* legitimate for hours if it is used; this is silence */
#define TIMEOUT_TCP_CLOSED 10
#define TIMEOUT_UDP_NEW 30
#define TIMEOUT_UDP_ESTABLISHED 180
#define TIMEOUT_OTHER 60

struct flow {
	struct flow_key key;
	struct conntrack_row *row; /* 0: a new flow */
	struct conntrack_row *over; /* that of a flow which is over, to be written anew: cheaper than a replacement */
	__u32 now;
	__u8 source_is_a;
	__u8 forward; /* from the end that began; of a new flow always */
};

inline_always __u32 seconds_now(void)
{
	__u64 now = configured(CONFIG_COARSE_CLOCK) ? bpf_ktime_get_coarse_ns() : bpf_ktime_get_ns();

	return now >> 30; /* a division would cost as much as a lookup */
}

inline_always __u32 conntrack_timeout(__u8 protocol, __u8 state)
{
	if (protocol == IPPROTO_TCP) {
		switch (state) {
		case CT_STATE_NEW:
			return TIMEOUT_TCP_NEW;
		case CT_STATE_ESTABLISHED:
			return TIMEOUT_TCP_ESTABLISHED;
		case CT_STATE_HALF_CLOSED:
			return TIMEOUT_TCP_HALF_CLOSED;
		}
		return TIMEOUT_TCP_CLOSED;
	}
	if (protocol == IPPROTO_UDP)
		return state == CT_STATE_NEW ? TIMEOUT_UDP_NEW : TIMEOUT_UDP_ESTABLISHED;
	return TIMEOUT_OTHER;
}

inline_always int conntrack_expired(const struct conntrack_row *row, __u8 protocol, __u32 now)
{
	__s32 age = now - row->last_seen; /* below zero: another CPU's clock read came later */

	return age >= TIMEOUT_MINIMUM && age >= (__s32)conntrack_timeout(protocol, row->state);
}

inline_always int starts_connection(const struct packet *p)
{
	return p->protocol == IPPROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* Silent for too long, or its ports are used again after the connection was closed, by whichever end. */
inline_always int conntrack_is_over(const struct conntrack_row *row, const struct packet *p, __u32 now)
{
	return conntrack_expired(row, p->protocol, now) ||
	       (unlikely(starts_connection(p)) && row->state >= CT_STATE_HALF_CLOSED && !(row->flags & CT_SERVICE_ROW));
}

/* The key of two ends; whether the first given became `a`. */
inline_always int order_ends(struct flow_key *key, const struct address *first, __be16 first_port, const struct address *second,
			     __be16 second_port, __u8 protocol)
{
	int first_is_a;

	/* Any total order will do; comparing the half that differs for IPv4 first saves a step. */
	if (first->halves[1] != second->halves[1])
		first_is_a = first->halves[1] < second->halves[1];
	else if (first->halves[0] != second->halves[0])
		first_is_a = first->halves[0] < second->halves[0];
	else
		first_is_a = first_port <= second_port;
	if (first_is_a) {
		key->a = *first;
		key->b = *second;
		key->a_port = first_port;
		key->b_port = second_port;
	} else {
		key->a = *second;
		key->b = *first;
		key->a_port = second_port;
		key->b_port = first_port;
	}
	key->protocol = protocol;
	key->padding[0] = 0;
	key->padding[1] = 0;
	key->padding[2] = 0;
	return first_is_a;
}

inline_always void conntrack_find(const struct packet *p, struct flow *f)
{
	struct conntrack_row *row;

	f->source_is_a = order_ends(&f->key, &p->source, p->source_port, &p->destination, p->destination_port, p->protocol);
	f->forward = 1;
	f->now = seconds_now();
	f->over = 0;
	row = bpf_map_lookup_elem(&conntrack, &f->key);
	if (row && unlikely(conntrack_is_over(row, p, f->now))) {
		f->over = row;
		row = 0;
	}
	if (row)
		f->forward = f->source_is_a == !(row->flags & CT_INITIATOR_B);
	f->row = row;
}

/* What a packet of a known flow does to its row. */
inline_always void conntrack_follow(const struct packet *p, struct flow *f)
{
	struct conntrack_row *row = f->row;

	if (unlikely(row->last_seen != f->now))
		row->last_seen = f->now;
	if (unlikely(!f->forward && row->state == CT_STATE_NEW))
		row->state = CT_STATE_ESTABLISHED;
	if (p->protocol == IPPROTO_TCP && unlikely(p->tcp_flags & (TCP_FIN | TCP_RST))) {
		if (p->tcp_flags & TCP_RST) {
			row->state = CT_STATE_CLOSED;
		} else {
			__u8 flags = row->flags | (f->source_is_a ? CT_FIN_A : CT_FIN_B);

			row->flags = flags;
			row->state = (flags & CT_FIN_A) && (flags & CT_FIN_B) ? CT_STATE_CLOSED : CT_STATE_HALF_CLOSED;
		}
	}
}

inline_always void conntrack_begin(const struct packet *p, const struct flow *f, struct conntrack_row *row)
{
	row->last_seen = f->now;
	row->state = p->protocol == IPPROTO_TCP && (p->tcp_flags & TCP_RST) ? CT_STATE_CLOSED : CT_STATE_NEW;
	row->flags = f->source_is_a ? 0 : CT_INITIATOR_B;
	row->masquerade_port = 0;
	row->translated_port = 0;
	row->next_hop_generation = 0;
	row->backend_id = 0;
	row->translated_address.halves[0] = 0;
	row->translated_address.halves[1] = 0;
	row->a_ifindex = 0;
	row->b_ifindex = 0;
}

inline_always __u32 source_ifindex(const struct flow *f)
{
	return f->source_is_a ? f->row->a_ifindex : f->row->b_ifindex;
}

inline_always __u32 destination_ifindex(const struct flow *f)
{
	return f->source_is_a ? f->row->b_ifindex : f->row->a_ifindex;
}

inline_always void set_source_ifindex(const struct flow *f, struct conntrack_row *row, __u32 ifindex)
{
	if (f->source_is_a)
		row->a_ifindex = ifindex;
	else
		row->b_ifindex = ifindex;
}

/* The row of a new flow. */
inline_always verdict conntrack_add(const struct flow *f, const struct conntrack_row *row)
{
	if (f->over) {
		*f->over = *row;
		return 0;
	}
	return bpf_map_update_elem(&conntrack, &f->key, row, BPF_ANY) ? dropped(DROP_CONNTRACK_FULL) : 0;
}

#endif
