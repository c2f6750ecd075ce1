// SPDX-License-Identifier: GPL-2.0
/* The tunnel's device (VXLAN, external mode): what comes out of it (ingress), and what goes into it (egress). */
#include "lib/accept.h"
#include "lib/deliver.h"
#include "lib/drop.h"
#include "lib/icmp_error.h"
#include "lib/route.h"

inline_always verdict handle_from_overlay(struct __sk_buff *skb)
{
	struct endpoint *to;
	struct packet p;
	verdict v = parse(skb, &p);

	if (v == NOT_IP)
		return TC_ACT_SHOT; /* nodes resolve no neighbours through the tunnel */
	if (v)
		return v;
	/* The inner frame's addresses are the sender's guess; the tunnel ended here, so the packet is ours. */
	if (skb->pkt_type != PACKET_HOST && bpf_skb_change_type(skb, PACKET_HOST))
		return dropped(DROP_REWRITE_FAILED);
	to = bpf_map_lookup_elem(&endpoints, &p.destination);
	if (!to)
		return TC_ACT_OK;
	if (unlikely(p.kind == PACKET_ICMP_ERROR))
		v = error_to_pod(skb, &p, 0);
	else
		v = accept_for_pod(skb, &p, CT_VIA_TUNNEL);
	return v ? v : deliver(skb, to);
}

SEC("tc")
int from_overlay(struct __sk_buff *skb)
{
	return finish(skb, handle_from_overlay(skb), DROP_FROM_OVERLAY);
}

/* What the host's stack sends: the pod's program has set the key of what it sends itself. */
inline_always verdict handle_to_overlay(struct __sk_buff *skb)
{
	struct route *route;
	struct packet p;
	verdict v;

	if (skb->mark == MARK_HANDLED)
		return TC_ACT_OK;
	v = parse(skb, &p);
	if (v)
		return v == NOT_IP ? TC_ACT_SHOT : v;
	if (address_is_for_host_stack(&p.destination, p.ipv4))
		return TC_ACT_SHOT; /* multicast of the host's own, on a link without neighbours */
	route = route_to(&p.destination);
	if (!route || (route->kind != ROUTE_REMOTE_PODS && route->kind != ROUTE_NODE))
		return dropped(DROP_NO_TUNNEL);
	return set_tunnel(skb, &route->next_hop);
}

SEC("tc")
int to_overlay(struct __sk_buff *skb)
{
	return finish(skb, handle_to_overlay(skb), DROP_TO_OVERLAY);
}

char licence[] SEC("license") = "GPL";
