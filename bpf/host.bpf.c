// SPDX-License-Identifier: GPL-2.0
/* The node's device: what comes in for pods (ingress), and what the host's stack sends on for them (egress). */
#include "lib/accept.h"
#include "lib/deliver.h"
#include "lib/drop.h"
#include "lib/icmp_error.h"
#include "lib/masquerade.h"
#include "lib/route.h"

/* A packet to the node's own address: 0 if it was one for a pod behind it, which it now is addressed to. */
call_apart verdict unmasquerade(struct __sk_buff *skb, struct packet *p)
{
	struct masquerade_row *behind;

	if (p->kind == PACKET_ICMP_ERROR)
		return error_to_pod(skb, p, 1);
	/* The node's own fragments are no business of ours: only those to ports that are, are remembered. */
	if (p->fragment == FRAGMENT_LATER || (p->fragment == FRAGMENT_FIRST && is_masquerade_port(p->destination_port))) {
		if (follow_fragment(p) < 0)
			return NOT_FOR_POD;
	}
	behind = masquerade_find(&p->source, p->source_port, &p->destination, p->destination_port, p->protocol);
	if (!behind)
		return NOT_FOR_POD;
	return rewrite_destination(skb, p, &behind->pod_address, behind->pod_port);
}

inline_always verdict handle_from_netdev(struct __sk_buff *skb)
{
	struct endpoint *to;
	struct packet p;
	verdict v = parse(skb, &p);

	/* Whatever is wrong with a packet that is not for a pod, the host's stack judges it. */
	if (unlikely(v || p.kind == PACKET_NEIGHBOUR))
		return TC_ACT_OK;
	if (address_is_node(&p.destination, p.ipv4)) {
		v = unmasquerade(skb, &p);
		if (v)
			return v == NOT_FOR_POD ? TC_ACT_OK : v;
		to = bpf_map_lookup_elem(&endpoints, &p.destination);
		if (!to)
			return dropped(DROP_NO_SUCH_POD);
	} else {
		to = bpf_map_lookup_elem(&endpoints, &p.destination);
		if (!to)
			return TC_ACT_OK;
		if (unlikely(p.kind == PACKET_ICMP_ERROR)) {
			v = error_to_pod(skb, &p, 0);
			if (v)
				return v;
		}
	}
	if (likely(p.kind == PACKET_PLAIN)) {
		v = accept_for_pod(skb, &p, 0);
		if (unlikely(v))
			return v;
	}
	return deliver(skb, to);
}

SEC("tc")
int from_netdev(struct __sk_buff *skb)
{
	return finish(skb, handle_from_netdev(skb), DROP_FROM_NETDEV);
}

/* A pod's packet that the host's stack forwards: one that was handed to it, or one from before the pod's program was there. */
call_apart verdict masquerade_forwarded(struct __sk_buff *skb, struct packet *p)
{
	struct conntrack_row fresh;
	struct route *route;
	struct flow f;
	verdict v = complete_ports(p);

	if (v)
		return v;
	conntrack_find(p, &f);
	if (f.row) {
		if (!f.forward || !f.row->masquerade_port)
			return TC_ACT_OK;
		return masquerade_source(skb, p, f.row->masquerade_port, 1);
	}
	route = route_to(&p->destination);
	if (route && !(configured(CONFIG_VXLAN) && route->kind == ROUTE_NODE))
		return TC_ACT_OK;
	conntrack_begin(p, &f, &fresh);
	v = masquerade_begin(p, f.now, &fresh);
	if (!v)
		v = conntrack_add(&f, &fresh);
	return v || !fresh.masquerade_port ? v : masquerade_source(skb, p, fresh.masquerade_port, 0);
}

inline_always verdict handle_to_netdev(struct __sk_buff *skb)
{
	struct packet p;

	if (skb->mark == MARK_HANDLED || !configured(CONFIG_MASQUERADE))
		return TC_ACT_OK;
	if (parse(skb, &p) || p.kind != PACKET_PLAIN || address_is_node(&p.source, p.ipv4))
		return TC_ACT_OK;
	if (!bpf_map_lookup_elem(&endpoints, &p.source) || address_is_for_host_stack(&p.destination, p.ipv4))
		return TC_ACT_OK;
	return masquerade_forwarded(skb, &p);
}

SEC("tc")
int to_netdev(struct __sk_buff *skb)
{
	return finish(skb, handle_to_netdev(skb), DROP_TO_NETDEV);
}

char licence[] SEC("license") = "GPL";
