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

#include "frontend.h"
#include "nat.h"
#include "policy.h"

#define CHOICES_MAX 4

inline_always void source_towards(struct address *source, const struct packet *p, const struct address *backend)
{
	if (likely(!address_equal(&p->source, backend)))
		*source = p->source;
	else
		hairpin_address(source, p->ipv4);
}

inline_always int translated_from(const struct conntrack_row *row, const struct packet *p)
{
	return (row->flags & CT_TRANSLATED) && row->translated_port == p->destination_port &&
	       address_equal(&row->translated_address, &p->destination);
}

/* What is known of the flow of a packet's client to a backend. */
enum flow_knowledge {
	FLOW_CLIENT_IS_A = 1 << 0,
	FLOW_ROW = 1 << 1, /* there is a row, */
	FLOW_OVER = 1 << 2, /* of a flow that is over, */
	FLOW_OF_FRONTEND = 1 << 3, /* or of one that began at the frontend that the packet is for */
};

struct choice {
	__u32 backend_id;
	__u32 known; /* enum flow_knowledge, of the flow to the backend */
};

/* The row of the flow to a backend, 0 if there is none; fills in its key and what is known. */
inline_always struct conntrack_row *flow_to(struct flow_key *key, const struct packet *p, const struct address *backend, __be16 port,
					    __u32 now, __u32 *known)
{
	struct conntrack_row *row;
	struct address source;

	source_towards(&source, p, backend);
	*known = order_ends(key, &source, p->source_port, backend, port, p->protocol) ? FLOW_CLIENT_IS_A : 0;
	row = bpf_map_lookup_elem(&conntrack, key);
	if (!row)
		return 0;
	*known |= FLOW_ROW;
	if (conntrack_is_over(row, p, now))
		*known |= FLOW_OVER;
	else if (translated_from(row, p))
		*known |= FLOW_OF_FRONTEND;
	return row;
}

/* What is known of the flow to a backend. Verified once, for it stands in a loop. */
verified_apart __u32 ask_flow_to(struct flow_key *key, const struct packet *p, const struct address *backend, __u32 port, __u32 now)
{
	__u32 known = 0;

	if (!key || !p || !backend)
		return 0;
	flow_to(key, p, backend, port, now, &known);
	return known;
}

/* Whether another frontend's flow, or a pod's own, has client, port and backend already: its answers could not be told from ours. */
inline_always int flow_is_taken(__u32 known)
{
	return (known & FLOW_ROW) && !(known & (FLOW_OVER | FLOW_OF_FRONTEND));
}

/* `row` as flow_to answers it, beside `known`. */
inline_always void set_flow(struct flow *f, __u32 known, struct conntrack_row *row)
{
	f->source_is_a = known & FLOW_CLIENT_IS_A;
	f->forward = 1;
	f->row = 0;
	f->over = 0;
	if (!row)
		return;
	if (known & FLOW_OVER) {
		/* Two branches: the compiler would mask the pointer, which the verifier does not follow. */
		asm volatile("");
		f->over = row;
	} else {
		f->row = row;
	}
}

/* Where a flow's packets go. */
inline_always const struct address *other_end(const struct flow *f)
{
	return f->source_is_a ? &f->key.b : &f->key.a;
}

inline_always __be16 other_port(const struct flow *f)
{
	return f->source_is_a ? f->key.b_port : f->key.a_port;
}

/* The backend that a client with affinity was sent to, if it is still one; 0 if there is none. */
call_apart __u32 affine_backend(const struct address *client, __u32 service_id, __u32 timeout, __u32 now)
{
	struct affinity_key key = { .client = *client, .service_id = service_id };
	struct affinity_row *row = bpf_map_lookup_elem(&affinity, &key);
	__u32 id;

	if (!row || now - row->last_used >= timeout)
		return 0;
	id = row->backend;
	return bpf_map_lookup_elem(&backends, &id) ? id : 0;
}

call_apart void remember_affinity(const struct address *client, __u32 service_id, __u32 backend, __u32 now)
{
	struct affinity_key key = { .client = *client, .service_id = service_id };
	struct affinity_row row = { .backend = backend, .last_used = now };

	bpf_map_update_elem(&affinity, &key, &row, BPF_ANY);
}

/* The same on every node: what a client outside began on one of them may come by another. */
inline_always __u32 client_hash(const struct packet *p)
{
	__u32 h = p->source.words[0] ^ p->source.words[1] ^ p->source.words[2];

	h = (h ^ p->source.words[3]) * 0x9e3779b1u;
	h = (h ^ (h >> 15) ^ p->source_port ^ ((__u32)p->destination_port << 16)) * 0x85ebca77u;
	h = (h ^ (h >> 13) ^ p->protocol) * 0xc2b2ae3du;
	return h ^ (h >> 16);
}

call_apart __u32 maglev_backend(const struct packet *p, __u32 group)
{
	struct maglev_row *row = bpf_map_lookup_elem(&maglev, &group);
	__u32 entry = client_hash(p) % MAGLEV_SIZE;

	/* The compiler knows the remainder's bounds, the verifier does not. */
	asm volatile("" : "+r"(entry));
	return row && entry < MAGLEV_SIZE ? row->backends[entry] : 0;
}

/* Of a group's slots, the one at `slot`; 0 if the group is being changed and it is gone. */
inline_always __u32 slot_backend(__u32 group, __u32 slot)
{
	struct slot_key key = { .service_id = group, .slot = slot };
	__u32 *id = bpf_map_lookup_elem(&backend_slots, &key);

	return id ? *id : 0;
}

/*
 * Whether the client counts as one of the cluster: another node's pod, whose own node did not translate. Not so at an address of this
 * node: if its own node left that alone, it is because this one is to answer as it answers everybody.
 */
call_apart int is_inside(const struct packet *p)
{
	__u32 kind = route_kind(route_to(&p->source));

	return (kind == ROUTE_REMOTE_PODS || kind == ROUTE_LOCAL_PODS) && route_kind(route_to(&p->destination)) != ROUTE_THIS_NODE;
}

/* Of a client that is neither a pod nor a process here. Asked only where it matters: walks through prefix tries are dear. */
inline_always int counts_as_outside(const struct packet *p, const struct frontend *frontend)
{
	return !(frontend->outside_id || frontend->flags & (FRONTEND_DROP_INSIDE | FRONTEND_DROP_OUTSIDE)) || !is_inside(p);
}

/*
 * A backend for a new flow to a frontend, into `choice`; `f` gets the key of the flow to it.
 *
 * Precedence: the client's affinity; then, for clients outside, the Maglev table; then chance. Where client, port and backend are already
 * another frontend's flow, the next slot is tried.
 */
call_apart verdict choose_backend(const struct packet *p, struct flow *f, const struct frontend *frontend, __u32 beyond,
				  struct choice *choice)
{
	__u32 service_id = frontend->service_id, timeout = frontend->affinity_timeout;
	__u32 group = service_id, count = frontend->count, flags = frontend->flags;
	__u32 outside = beyond && counts_as_outside(p, frontend);
	__u32 slot, id = 0;
	enum drop_reason reason = DROP_NO_BACKEND;

	if (flags & FRONTEND_SOURCE_RANGES && !in_source_ranges(service_id, &p->source))
		return dropped(DROP_NOT_IN_SOURCE_RANGES);
	if (outside && frontend->outside_id) {
		group = frontend->outside_id;
		count = frontend->outside_count;
	}
	if (!count)
		return dropped(flags & (outside ? FRONTEND_DROP_OUTSIDE : FRONTEND_DROP_INSIDE) ? DROP_NO_LOCAL_BACKEND : DROP_NO_BACKEND);
	if (timeout)
		id = affine_backend(&p->source, service_id, timeout, f->now);
	if (!id && outside && flags & FRONTEND_MAGLEV)
		id = maglev_backend(p, group);
	slot = bpf_get_prandom_u32() % count;
	for (int i = 0; i < CHOICES_MAX; i++) {
		struct backend *backend;

		if (!id) {
			id = slot_backend(group, slot);
			slot = slot + 1 < count ? slot + 1 : 0;
		}
		backend = id ? bpf_map_lookup_elem(&backends, &id) : 0;
		if (backend) {
			choice->known = ask_flow_to(&f->key, p, &backend->address, backend->port, f->now);
			if (!flow_is_taken(choice->known)) {
				if (timeout)
					remember_affinity(&p->source, service_id, id, f->now);
				choice->backend_id = id;
				return 0;
			}
			reason = DROP_SERVICE_COLLISION;
		}
		id = 0;
	}
	return dropped(reason);
}

/* Keep in a row client to frontend which backend was chosen: the one that `f` leads to. `row` is scratch, for the stack is short. */
call_apart verdict remember_choice(const struct packet *p, const struct flow *f, __u32 id, struct conntrack_row *row)
{
	struct flow_key key;

	conntrack_begin(p, f, row);
	row->flags = CT_SERVICE_ROW;
	if (!order_ends(&key, &p->source, p->source_port, &p->destination, p->destination_port, p->protocol))
		row->flags |= CT_INITIATOR_B;
	row->backend_id = id;
	row->translated_address = *other_end(f);
	row->translated_port = other_port(f);
	return bpf_map_update_elem(&conntrack, &key, row, BPF_ANY) ? dropped(DROP_CONNTRACK_FULL) : 0;
}

/* Whether the choice kept in `row` still stands; if so, `f` becomes the flow to that backend. */
call_apart int choice_holds(const struct packet *p, struct flow *f, struct conntrack_row *row)
{
	__u32 id = row->backend_id, known;
	struct conntrack_row *to;

	if (row->last_seen != f->now)
		row->last_seen = f->now;
	to = flow_to(&f->key, p, &row->translated_address, row->translated_port, f->now, &known);
	if (flow_is_taken(known))
		return 0;
	/* A connection ends with its backend; a datagram, and the attempt at a connection, find another one. */
	if (p->protocol != IPPROTO_TCP || starts_connection(p)) {
		if (!(known & FLOW_OF_FRONTEND) || !bpf_map_lookup_elem(&backends, &id))
			return 0;
	}
	set_flow(f, known, to);
	return 1;
}

/* The row of a flow to a backend that is not known yet. `f` is that flow, the packet as it was sent to the frontend. */
inline_always void begin_translated(const struct packet *p, const struct flow *f, struct conntrack_row *fresh)
{
	const struct address *source = f->source_is_a ? &f->key.a : &f->key.b;

	conntrack_begin(p, f, fresh);
	fresh->flags |= CT_TRANSLATED;
	fresh->translated_address = p->destination;
	fresh->translated_port = p->destination_port;
	if (!address_equal(source, &p->source))
		fresh->flags |= CT_HAIRPIN;
}

/* Packet of flow `f` as it was sent to the frontend -> as it goes to the backend. */
call_apart verdict rewrite_to_backend(struct __sk_buff *skb, struct packet *p, const struct flow *f)
{
	const struct address *source = f->source_is_a ? &f->key.a : &f->key.b;

	if (!address_equal(source, &p->source)) {
		verdict v = rewrite_source(skb, p, source, p->source_port);

		if (v)
			return v;
	}
	return rewrite_destination(skb, p, other_end(f), other_port(f));
}

/*
 * On entry `f` is the flow as it was sent to the frontend, `kept` its CT_SERVICE_ROW or 0, `frontend` the frontend or, with such a row, 0;
 * `beyond`: the client is neither a pod nor a process here. On return 0 `f` is the flow to the backend, and may be; where f->row is 0
 * `fresh`, all zero before, is its row, to be added. The packet is unchanged.
 */
inline_always verdict find_backend(struct __sk_buff *skb, const struct packet *p, struct flow *f, struct conntrack_row *kept,
				   const struct frontend *frontend, struct conntrack_row *fresh, __u32 beyond)
{
	__u32 how = beyond ? JUDGE_BY_WIRE : 0, generation;
	int holds = kept && choice_holds(p, f, kept);
	struct choice choice = {};
	verdict v;

	if (!holds) {
		if (kept)
			frontend = find_frontend(p);
		if (!frontend)
			return dropped(DROP_NO_BACKEND);
		v = choose_backend(p, f, frontend, beyond, &choice);
		if (v)
			return v;
		set_flow(f, choice.known, choice.known & FLOW_ROW ? bpf_map_lookup_elem(&conntrack, &f->key) : 0);
	}
	if (!f->row || must_judge(f->row, p, how)) {
		v = judge_flow(skb, f, f->row ? f->row : fresh, how);
		if (v)
			return v;
	}
	generation = fresh->policy_generation;
	if (!holds) {
		v = remember_choice(p, f, choice.backend_id, fresh);
		if (v)
			return v;
	}
	if (!f->row) {
		begin_translated(p, f, fresh);
		fresh->policy_generation = generation;
	}
	return 0;
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
