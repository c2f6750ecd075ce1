/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A frontend's packets to one of its backends, and the answers back under the frontend's address.
 *
 * Two rows of conntrack: client to frontend says which backend was chosen; client to backend is the flow itself and says which
 * frontend's address its replies get. Only the first is looked up in addition, and only by packets to a frontend. The choice
 * holds as long as the flow does.
 */
#ifndef ANETD_SERVICE_H
#define ANETD_SERVICE_H

#include "conntrack.h"
#include "nat.h"

#define CHOICES_MAX 4

/*
 * A pod that reaches itself sees another source: what it answers to its own address would not leave it. IPv4 has the gateway's;
 * for IPv6 that is link-local, from which a wildcard socket would answer with a link-local address, so there is one of its own.
 */
#define HAIRPIN_IPV4 bpf_htonl(0xa9fe0101) /* 169.254.1.1 */
#define HAIRPIN_IPV6_HIGH bpf_htonl(0xfd616e65) /* fd61:6e65:7464::1 */
#define HAIRPIN_IPV6_LOW bpf_htonl(0x74640000)

inline_always void source_towards(struct address *source, const struct packet *p, const struct address *backend)
{
	if (likely(!address_equal(&p->source, backend))) {
		*source = p->source;
	} else if (p->ipv4) {
		address_from_ipv4(source, HAIRPIN_IPV4);
	} else {
		source->words[0] = HAIRPIN_IPV6_HIGH;
		source->words[1] = HAIRPIN_IPV6_LOW;
		source->words[2] = 0;
		source->words[3] = bpf_htonl(1);
	}
}

/* The flow of the packet's client to a backend. */
inline_always void find_flow_to(const struct packet *p, struct flow *f, const struct address *backend, __be16 port)
{
	struct address source;

	source_towards(&source, p, backend);
	f->source_is_a = order_ends(&f->key, &source, p->source_port, backend, port, p->protocol);
	f->forward = 1;
	f->over = 0;
	f->row = bpf_map_lookup_elem(&conntrack, &f->key);
	if (f->row && conntrack_is_over(f->row, p, f->now)) {
		f->over = f->row;
		f->row = 0;
	}
}

/* Whether that end is `b` of the flow's key. */
inline_always int flow_ends_at(const struct flow *f, const struct address *address, __be16 port)
{
	return f->key.b_port == port && address_equal(&f->key.b, address);
}

inline_always int translated_from(const struct conntrack_row *row, const struct packet *p)
{
	return (row->flags & CT_TRANSLATED) && row->translated_port == p->destination_port &&
	       address_equal(&row->translated_address, &p->destination);
}

inline_always int is_frontend(const struct packet *p)
{
	struct frontend_key key = { .address = p->destination, .port = p->destination_port, .protocol = p->protocol };

	return bpf_map_lookup_elem(&frontends, &key) != 0;
}

/*
 * A backend for a new flow to a frontend, kept in a row client to frontend. `f` becomes the flow to the backend, its row 0 unless it is known
 * from the same frontend; `row` is scratch, but for its service_id.
 */
call_apart verdict choose_backend(const struct packet *p, struct flow *f, struct conntrack_row *row)
{
	struct frontend_key key = { .address = p->destination, .port = p->destination_port, .protocol = p->protocol };
	struct frontend *frontend = bpf_map_lookup_elem(&frontends, &key);
	enum drop_reason reason = DROP_NO_BACKEND;
	__u32 count, service_id;
	struct slot_key slot;
	verdict v;

	if (!frontend)
		return dropped(DROP_NO_SUCH_SERVICE);
	count = frontend->count;
	if (!count)
		return dropped(DROP_NO_BACKEND);
	service_id = frontend->service_id;
	slot.service_id = service_id;
	slot.slot = bpf_get_prandom_u32() % count;
	for (int i = 0; i < CHOICES_MAX; i++) {
		__u32 *id = bpf_map_lookup_elem(&backend_slots, &slot);
		struct backend *backend = id ? bpf_map_lookup_elem(&backends, id) : 0;

		if (backend) {
			find_flow_to(p, f, &backend->address, backend->port);
			if (!f->row || translated_from(f->row, p)) {
				struct flow_key to_frontend;

				f->source_is_a = order_ends(&to_frontend, &p->source, p->source_port, &p->destination, p->destination_port,
							    p->protocol);
				conntrack_begin(p, f, row);
				row->flags |= CT_SERVICE_ROW;
				row->service_id = *id;
				row->translated_address = backend->address;
				row->translated_port = backend->port;
				v = bpf_map_update_elem(&conntrack, &to_frontend, row, BPF_ANY) ? dropped(DROP_CONNTRACK_FULL) : 0;
				row->service_id = service_id;
				f->source_is_a = flow_ends_at(f, &row->translated_address, row->translated_port);
				return v;
			}
			reason = DROP_SERVICE_COLLISION;
		}
		slot.slot = slot.slot + 1 < count ? slot.slot + 1 : 0;
	}
	return dropped(reason);
}

/*
 * On entry `f` is the flow as the pod sent it and `known` its CT_SERVICE_ROW, or 0. On return 0 packet and `f` go to a backend; where f->row
 * is 0 `fresh` is to be added.
 */
inline_always verdict to_backend(struct __sk_buff *skb, struct packet *p, struct flow *f, struct conntrack_row *known,
				 struct conntrack_row *fresh)
{
	const struct address *source;
	verdict v;

	if (known) {
		if (known->last_seen != f->now)
			known->last_seen = f->now;
		find_flow_to(p, f, &known->translated_address, known->translated_port);
		if (f->row) {
			/* A datagram has no connection that would end with its backend. */
			if (!translated_from(f->row, p) ||
			    (p->protocol == IPPROTO_UDP && !bpf_map_lookup_elem(&backends, &known->service_id)))
				known = 0;
		} else if (p->protocol != IPPROTO_TCP || starts_connection(p)) {
			known = 0;
		}
	}
	if (!known) {
		v = choose_backend(p, f, fresh);
		if (v)
			return v;
	}
	source = f->source_is_a ? &f->key.a : &f->key.b;
	if (!f->row) {
		__u32 service_id = fresh->service_id;

		conntrack_begin(p, f, fresh);
		fresh->flags |= CT_TRANSLATED;
		fresh->service_id = service_id;
		fresh->translated_address = p->destination;
		fresh->translated_port = p->destination_port;
		if (!address_equal(source, &p->source))
			fresh->flags |= CT_HAIRPIN;
	}
	if (!address_equal(source, &p->source)) {
		v = rewrite_source(skb, p, source, p->source_port);
		if (v)
			return v;
	}
	if (f->source_is_a)
		return rewrite_destination(skb, p, &f->key.b, f->key.b_port);
	return rewrite_destination(skb, p, &f->key.a, f->key.a_port);
}

/* A reply of a translated flow, on its way to the client. */
verified_apart verdict from_backend(struct __sk_buff *skb, struct packet *p, const struct conntrack_row *row)
{
	verdict v = 0;

	if (!p || !row)
		return dropped(DROP_MALFORMED);
	if (row->flags & CT_HAIRPIN) {
		struct address self = p->source;

		v = rewrite_destination(skb, p, &self, p->destination_port);
	}
	return v ? v : rewrite_source(skb, p, &row->translated_address, row->translated_port);
}

#endif
