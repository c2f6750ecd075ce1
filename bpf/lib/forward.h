/* SPDX-License-Identifier: GPL-2.0 */
/* Where a packet whose addresses are final goes from an ingress hook: a local pod, another node, the host's stack, the outside. */
#ifndef ANETD_FORWARD_H
#define ANETD_FORWARD_H

#include "deliver.h"
#include "frontend.h"
#include "masquerade.h"
#include "route.h"

inline_always verdict to_next_hop(struct __sk_buff *skb, const struct packet *p, const struct address *next_hop)
{
	return configured(CONFIG_VXLAN) ? to_tunnel(skb, p, next_hop) : to_neighbour(skb, p, next_hop);
}

/* Whether a new flow of a pod appears with the node's address. Other nodes reach pods through the tunnel only, so they are outside too. */
inline_always int wants_masquerade(__u32 kind)
{
	if (!configured(CONFIG_MASQUERADE))
		return 0;
	return kind == 0 || (configured(CONFIG_VXLAN) && kind == ROUTE_NODE);
}

/* Out of the node by the kernel's routing table, masqueraded if the flow is. */
inline_always verdict leave_node(struct __sk_buff *skb, struct packet *p, __u32 masquerade_port, __u32 refresh)
{
	struct bpf_redir_neigh neighbour = {};
	__u32 ifindex = 0;
	verdict v;

	if (!p)
		return dropped(DROP_MALFORMED);
	if (way_outside(skb, p, &neighbour, &ifindex))
		return TC_ACT_OK;
	if (last_hop(skb, p))
		return TC_ACT_OK;
	if (masquerade_port) {
		v = masquerade_source(skb, p, masquerade_port, refresh);
		if (v)
			return v;
	}
	skb->mark = MARK_HANDLED;
	return bpf_redirect_neigh(ifindex, &neighbour, sizeof(neighbour), 0);
}

verified_apart verdict send_outside(struct __sk_buff *skb, struct packet *p, __u32 masquerade_port, __u32 refresh)
{
	return leave_node(skb, p, masquerade_port, refresh);
}

/* The same for a packet that keeps its source: shorter of stack. */
verified_apart verdict send_outside_as_is(struct __sk_buff *skb, struct packet *p)
{
	return leave_node(skb, p, 0, 0);
}

/* A packet whose addresses are final but for the masquerade. `return_by_tunnel`: a reply to a node that asked through the tunnel. */
inline_always verdict forward(struct __sk_buff *skb, struct packet *p, const struct route *route, int return_by_tunnel,
			      __be16 masquerade_port, int refresh)
{
	switch (route_kind(route)) {
	case ROUTE_REMOTE_PODS:
		if (unlikely(too_long(skb, p)))
			return TC_ACT_OK;
		return to_next_hop(skb, p, &route->next_hop);
	case ROUTE_LOCAL_PODS: {
		struct endpoint *to = bpf_map_lookup_elem(&endpoints, &p->destination);

		return to ? deliver(skb, to) : dropped(DROP_NO_SUCH_POD);
	}
	case ROUTE_NODE:
		if (!configured(CONFIG_VXLAN)) {
			if (unlikely(too_long(skb, p)))
				return TC_ACT_OK;
			return to_neighbour(skb, p, &route->next_hop);
		}
		if (return_by_tunnel || !configured(CONFIG_MASQUERADE)) {
			if (unlikely(too_long(skb, p)))
				return TC_ACT_OK;
			return to_tunnel(skb, p, &route->next_hop);
		}
		break;
	case ROUTE_THIS_NODE:
		return TC_ACT_OK;
	case ROUTE_SERVICES:
		return dropped(DROP_NO_SUCH_SERVICE);
	}
	return send_outside(skb, p, masquerade_port, refresh);
}

#endif
