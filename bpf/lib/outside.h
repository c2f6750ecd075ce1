/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Services for those who are no local pods: what comes in by the node's device, and what processes of the node send without a socket hook.
 *
 * A backend on this node sees its client's address. One on another node would answer the client directly, under an address that the
 * client never asked, so the node puts its own address in: the answer comes back here and is put right.
 *
 * With direct return the packet goes on to that node as it came: the node translates it as if the client had sent it there, finds the same
 * backend by the same Maglev table, and the answer goes straight to the client. Nodes that disagree for a moment send it round
 * until its hops are used up, at worst.
 */
#ifndef ANETD_OUTSIDE_H
#define ANETD_OUTSIDE_H

#include "node.h"
#include "service.h"

#define NOT_FOR_SERVICE 1

/*
 * The frontend of a flow that may begin now. In the middle of a connection, which has its rows or is not ours, there is none, but for
 * direct return: a node that sends on sees one direction only, forgets early, and finds the backend again.
 */
inline_always struct frontend *frontend_of_new(const struct packet *p)
{
	if (!configured(CONFIG_DIRECT_RETURN) && p->protocol == IPPROTO_TCP && !starts_connection(p))
		return 0;
	return find_frontend(p);
}

/* Whether the backend's own node is to answer the client. Affinity is remembered where the client came in, and known nowhere else. */
inline_always int returns_directly(const struct packet *p, const struct flow *f, const struct frontend *frontend, __u32 kind)
{
	if (!configured(CONFIG_DIRECT_RETURN) || kind != ROUTE_REMOTE_PODS || is_inside(p))
		return 0;
	return f->row ? !f->row->masquerade_port : !frontend || (frontend->flags & FRONTEND_MAGLEV && !frontend->affinity_timeout);
}

/* Towards a backend that is no local pod, `f` its flow without or with a row, the packet rewritten to it. */
call_apart verdict send_to_other_node(struct __sk_buff *skb, struct packet *p, struct flow *f, struct conntrack_row *fresh,
					 const struct route *route)
{
	int refresh = 0;
	__be16 port;
	verdict v;

	if (f->row) {
		refresh = f->row->last_seen != f->now;
		conntrack_follow(p, f);
		port = f->row->masquerade_port;
	} else {
		v = masquerade_begin(p, f->now, fresh);
		if (!v)
			v = conntrack_add(f, fresh);
		if (v)
			return v;
		port = fresh->masquerade_port;
	}
	if (port) {
		v = masquerade_source(skb, p, port, refresh);
		if (v)
			return v;
	}
	if (route_kind(route) == ROUTE_REMOTE_PODS)
		return to_next_hop(skb, p, &route->next_hop);
	return send_outside_as_is(skb, p);
}

inline_always verdict keep_flow(const struct packet *p, struct flow *f, const struct conntrack_row *fresh)
{
	if (!f->row)
		return conntrack_add(f, fresh);
	conntrack_follow(p, f);
	return 0;
}

/*
 * A packet that is for no local pod. NOT_FOR_SERVICE: leave it as it is. `client_is_node`: at the device's egress, where nothing can be
 * handed to the host's stack.
 */
verified_apart verdict serve(struct __sk_buff *skb, struct packet *p, __u32 client_is_node)
{
	struct conntrack_row fresh = {}, *choice = 0;
	struct frontend *frontend = 0;
	struct route *route = 0;
	struct endpoint *to;
	struct flow f;
	verdict v;

	if (!p)
		return dropped(DROP_MALFORMED);
	conntrack_find(p, &f);
	if (f.row && !(f.row->flags & CT_SERVICE_ROW))
		return NOT_FOR_SERVICE;
	if (f.row) {
		choice = f.row;
	} else {
		frontend = frontend_of_new(p);
		if (!frontend)
			return NOT_FOR_SERVICE;
	}
	v = find_backend(skb, p, &f, choice, frontend, &fresh, !client_is_node);
	if (v)
		return v;
	to = bpf_map_lookup_elem(&endpoints, other_end(&f));
	if (to) {
		if (client_is_node && too_long_for_pod(skb))
			return dropped(DROP_TOO_BIG);
	} else {
		route = route_to(other_end(&f));
		if (route_kind(route) == ROUTE_LOCAL_PODS)
			return dropped(DROP_NO_SUCH_POD);
		if (route_kind(route) == ROUTE_THIS_NODE && client_is_node)
			return dropped(DROP_UNSUPPORTED_PROTOCOL);
		/* While it can still be answered: behind the translation nobody would know whom to tell. */
		if (route_kind(route) == ROUTE_REMOTE_PODS && too_long(skb, p))
			return dropped(DROP_TOO_BIG);
		if (!client_is_node && returns_directly(p, &f, frontend, route_kind(route))) {
			v = keep_flow(p, &f, &fresh);
			return v ? v : to_next_hop(skb, p, &route->next_hop);
		}
	}
	v = rewrite_to_backend(skb, p, &f);
	if (v)
		return v;
	if (!to && route_kind(route) != ROUTE_THIS_NODE)
		return send_to_other_node(skb, p, &f, &fresh, route);
	v = keep_flow(p, &f, &fresh);
	if (v || !to)
		return v;
	return client_is_node ? deliver_by_stack(skb, to) : deliver(skb, to);
}

/* An error about a packet that came from a frontend: on to the backend that sent it. */
verified_apart verdict error_to_backend(struct __sk_buff *skb, struct packet *p)
{
	struct flow_key end = {};
	struct conntrack_row *row;
	struct endpoint *to;
	struct route *route;
	struct subject s;
	int source_began;
	verdict v;

	if (!p)
		return dropped(DROP_MALFORMED);
	if (parse_subject(skb, p, &s))
		return NOT_FOR_SERVICE;
	row = subject_flow(&s, &source_began);
	/* If the sender began the flow it is the client, to whom the error is. */
	if (!row || source_began || !(row->flags & CT_SERVICE_ROW))
		return NOT_FOR_SERVICE;
	end.a = row->translated_address;
	end.a_port = row->translated_port;
	v = rewrite_subject(skb, p, &s, &end, 1);
	if (!v)
		v = rewrite_address(skb, p, END_DESTINATION, &end.a);
	if (v)
		return v;
	row = subject_flow(&s, &source_began);
	if (row && row->masquerade_port && node_address(&end.a, p->ipv4)) {
		end.a_port = row->masquerade_port;
		v = rewrite_subject(skb, p, &s, &end, 0);
		if (v)
			return v;
	}
	to = bpf_map_lookup_elem(&endpoints, &p->destination);
	if (to)
		return deliver(skb, to);
	route = route_to(&p->destination);
	if (route_kind(route) == ROUTE_REMOTE_PODS)
		return to_next_hop(skb, p, &route->next_hop);
	return TC_ACT_OK;
}

#endif
