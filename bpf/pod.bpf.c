// SPDX-License-Identifier: GPL-2.0
/* A pod's host end: what the pod sends (ingress), and what the host's stack sends to it (egress). */
#include "lib/accept.h"
#include "lib/answer.h"
#include "lib/drop.h"
#include "lib/forward.h"
#include "lib/icmp_error.h"

inline_always __u16 route_generation_now(void)
{
	__u32 zero = 0, *generation = bpf_map_lookup_elem(&route_generation, &zero);

	return generation ? *generation : 0;
}

/* Whether the flow's row says where its remote end is: a walk through a prefix trie is dearer than all else here. */
inline_always int knows_next_hop(const struct conntrack_row *row)
{
	return row->flags & CT_NEXT_HOP && row->next_hop_generation == route_generation_now();
}

/* Whether what the row says is that no route of ours leads there. */
inline_always int goes_outside(const struct conntrack_row *row)
{
	return row->flags & CT_TRANSLATED || address_is_zero(&row->next_hop);
}

call_apart struct route *route_and_remember(const struct packet *p, struct conntrack_row *row)
{
	__u16 generation = route_generation_now(); /* before the route it vouches for */
	struct route *route = route_to(&p->destination);

	if (route && (route->kind != ROUTE_REMOTE_PODS || row->flags & CT_TRANSLATED))
		return route;
	if (route) {
		row->next_hop = route->next_hop;
	} else if (!(row->flags & CT_TRANSLATED)) {
		row->next_hop.halves[0] = 0;
		row->next_hop.halves[1] = 0;
	}
	row->next_hop_generation = generation;
	row->flags |= CT_NEXT_HOP;
	return route;
}

/* A packet to a frontend becomes one to a backend, whose way `route` is then. */
inline_always verdict to_backend(struct __sk_buff *skb, struct packet *p, struct flow *f, struct conntrack_row *choice,
				 struct frontend *frontend, struct conntrack_row *fresh, struct route **route)
{
	const struct address *backend;
	verdict v = find_backend(skb, p, f, choice, frontend, fresh, 0);

	if (v)
		return v;
	backend = other_end(f);
	*route = route_to(backend);
	/* While the packet can still be answered in the frontend's name. */
	if (route_kind(*route) == ROUTE_LOCAL_PODS && !bpf_map_lookup_elem(&endpoints, backend))
		return dropped(DROP_NO_SUCH_POD);
	return rewrite_to_backend(skb, p, f);
}

/* Why a packet of a pod that no frontend takes may not leave, 0 if it may: addresses of Services have no other ports than theirs. */
inline_always verdict beside_services(const struct packet *p, __u32 kind)
{
	if (kind != 0 && kind != ROUTE_SERVICES && kind != ROUTE_NOT_MASQUERADED)
		return 0;
	if (address_of_service(&p->destination))
		return dropped(DROP_NO_BACKEND);
	return kind == ROUTE_SERVICES ? dropped(DROP_NO_SUCH_SERVICE) : 0;
}

/* The first packet of a flow to an address that the host's stack decides about. Between pod and node alone there is nothing to follow. */
inline_always verdict to_host_stack(struct __sk_buff *skb, const struct packet *p, struct flow *f, struct conntrack_row *fresh)
{
	verdict v;

	if (!p->ipv4 || !is_beyond_gateway(&p->destination))
		return TC_ACT_OK;
	conntrack_begin(p, f, fresh);
	v = judge_flow(skb, f, fresh, 0);
	if (v)
		return v;
	set_source_ifindex(f, fresh, skb->ifindex);
	v = conntrack_add(f, fresh);
	return v ? v : TC_ACT_OK;
}

/*
 * The first packet of a flow that a pod begins (`choice` 0, `over` as in struct flow), or one to a frontend (`choice` its
 * CT_SERVICE_ROW, or 0).
 */
verified_apart verdict begin_from_pod(struct __sk_buff *skb, struct packet *p, struct conntrack_row *choice, struct conntrack_row *over,
				      __u32 now)
{
	struct flow f = { .forward = 1, .now = now, .over = over };
	struct conntrack_row fresh = {};
	struct frontend *frontend = 0;
	struct route *route = 0;
	__be16 port = 0;
	int refresh = 0;
	verdict v;

	if (!p)
		return dropped(DROP_MALFORMED);
	f.source_is_a = order_ends(&f.key, &p->source, p->source_port, &p->destination, p->destination_port, p->protocol);
	if (!choice) {
		if (has_ports(p->protocol))
			frontend = frontend_at(p);
		if (!frontend) {
			if (address_is_for_host_stack(&p->destination, p->ipv4))
				return to_host_stack(skb, p, &f, &fresh);
			route = route_to(&p->destination);
			if (is_node_kind(route_kind(route)) && has_ports(p->protocol))
				frontend = frontend_of_node(p, route_kind(route));
		}
	}
	if (choice || frontend) {
		v = to_backend(skb, p, &f, choice, frontend, &fresh, &route);
		if (v)
			return v;
	} else {
		v = beside_services(p, route_kind(route));
		if (v)
			return v;
		conntrack_begin(p, &f, &fresh);
		v = judge_flow(skb, &f, &fresh, 0);
		if (v)
			return v;
	}
	if (f.row) {
		refresh = f.row->last_seen != now;
		conntrack_follow(p, &f);
		port = f.row->masquerade_port;
	} else {
		if (wants_masquerade(route_kind(route))) {
			v = masquerade_begin(p, now, &fresh);
			if (v)
				return v;
			port = fresh.masquerade_port;
		}
		set_source_ifindex(&f, &fresh, skb->ifindex);
		v = conntrack_add(&f, &fresh);
		if (v)
			return v;
	}
	return forward(skb, p, route, 0, port, refresh);
}

verified_apart verdict forward_error(struct __sk_buff *skb, struct packet *p)
{
	struct route *route;
	int masqueraded;
	verdict v;

	if (!p)
		return dropped(DROP_MALFORMED);
	v = error_from_pod(skb, p);
	if (v == UNRELATED)
		v = judge_alone(skb, p, 0);
	if (v)
		return v;
	if (address_is_for_host_stack(&p->destination, p->ipv4))
		return TC_ACT_OK;
	route = route_to(&p->destination);
	masqueraded = address_is_node(&p->source, p->ipv4);
	/* Unrelated to any flow, it would leave under an address that the outside does not know. */
	if (!route && configured(CONFIG_MASQUERADE) && !masqueraded)
		return dropped(DROP_UNSUPPORTED_PROTOCOL);
	return forward(skb, p, route, !masqueraded, 0, 0);
}

call_apart int owns_source(const struct __sk_buff *skb, const struct packet *p)
{
	struct endpoint *from = bpf_map_lookup_elem(&endpoints, &p->source);

	return from && from->ifindex == skb->ifindex;
}

/* Between neighbours nothing is judged; what would be sent on to somebody else only looks like it. */
call_apart verdict discover(struct __sk_buff *skb, const struct packet *p)
{
	if (address_is_for_host_stack(&p->destination, p->ipv4) || address_is_node(&p->destination, p->ipv4))
		return TC_ACT_OK;
	if (!owns_source(skb, p))
		return dropped(DROP_SPOOFED_SOURCE);
	return judge_alone(skb, p, 0);
}

inline_always verdict handle_from_pod(struct __sk_buff *skb)
{
	struct packet p;
	struct flow f;
	int refresh, by_tunnel = 0;
	__be16 port = 0;
	verdict v = parse(skb, &p);

	if (unlikely(v)) {
		if (v != NOT_IP)
			return v;
		return skb->protocol == bpf_htons(ETH_P_ARP) ? TC_ACT_OK : dropped(DROP_UNSUPPORTED_LAYER2);
	}
	if (unlikely(p.kind == PACKET_NEIGHBOUR))
		return discover(skb, &p);
	if (unlikely(p.kind != PACKET_PLAIN || p.fragment != FRAGMENT_NONE)) {
		/* Before anything is remembered of it. */
		if (!owns_source(skb, &p))
			return dropped(DROP_SPOOFED_SOURCE);
		if (p.kind == PACKET_ICMP_ERROR)
			return forward_error(skb, &p);
		v = follow_fragment(&p);
		if (v)
			return v;
	}
	conntrack_find(&p, &f);
	if (unlikely(!f.row || source_ifindex(&f) != skb->ifindex)) {
		if (!owns_source(skb, &p))
			return dropped(DROP_SPOOFED_SOURCE);
		if (f.row)
			set_source_ifindex(&f, f.row, skb->ifindex);
	}
	if (unlikely(!f.row || f.row->flags & CT_SERVICE_ROW))
		return begin_from_pod(skb, &p, f.row, f.over, f.now);
	if (f.forward && unlikely(must_judge(f.row, &p, 0))) {
		v = judge_flow(skb, &f, f.row, 0);
		if (v)
			return v;
	}
	refresh = f.row->last_seen != f.now;
	conntrack_follow(&p, &f);
	if (f.forward) {
		port = f.row->masquerade_port;
	} else {
		by_tunnel = f.row->flags & CT_VIA_TUNNEL;
		if (unlikely(f.row->flags & CT_TRANSLATED)) {
			v = from_backend(skb, &p, f.row);
			if (v)
				return v;
		}
	}
	if (destination_ifindex(&f)) {
		struct endpoint *to = bpf_map_lookup_elem(&endpoints, &p.destination);

		if (likely(to))
			return deliver(skb, to);
	}
	if (likely(knows_next_hop(f.row))) {
		if (goes_outside(f.row))
			return send_outside(skb, &p, port, refresh);
		return unlikely(too_long(skb, &p)) ? TC_ACT_OK : to_next_hop(skb, &p, &f.row->next_hop);
	}
	if (unlikely(address_is_for_host_stack(&p.destination, p.ipv4)))
		return TC_ACT_OK;
	return forward(skb, &p, route_and_remember(&p, f.row), by_tunnel, port, refresh);
}

SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	verdict v = handle_from_pod(skb);

	if (likely(v >= 0))
		return v;
	count_drop(skb, -v, DROP_FROM_POD);
	/* What is answered was found out before anything of the packet was changed. */
	return answer_sender(skb, -v);
}

inline_always verdict handle_to_pod(struct __sk_buff *skb)
{
	struct packet p;
	verdict v = parse(skb, &p);

	if (v)
		return v == NOT_IP ? TC_ACT_OK : v;
	if (address_is_for_host_stack(&p.destination, p.ipv4))
		return TC_ACT_OK;
	if (p.kind == PACKET_NEIGHBOUR)
		return judge_alone(skb, &p, 0);
	if (p.kind == PACKET_ICMP_ERROR)
		return accept_error(skb, &p, 0);
	return accept_for_pod(skb, &p, 0, 0);
}

SEC("tc")
int to_pod(struct __sk_buff *skb)
{
	return finish(skb, handle_to_pod(skb), DROP_TO_POD);
}

char licence[] SEC("license") = "GPL";
