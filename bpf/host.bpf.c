// SPDX-License-Identifier: GPL-2.0
/* The node's device: what comes in for pods and Services (ingress), and what the node and its pods send by the host's stack (egress). */
#include "lib/drop.h"
#include "lib/neighbour.h"
#include "lib/outside.h"

/* Whether the packet may be to a frontend: it has ports, if need be those of its first fragment. The node's own are not remembered. */
inline_always int may_be_served(struct packet *p)
{
	if (!has_ports(p->protocol))
		return 0;
	if (unlikely(p->fragment == FRAGMENT_FIRST && !find_frontend(p)))
		return 1;
	return complete_ports(p) == 0;
}

/* Why a packet that no frontend takes does not go up the host's stack, which would send it out again; 0 if it may. */
inline_always verdict beside_services(const struct packet *p)
{
	switch (route_kind(route_to(&p->destination))) {
	case ROUTE_LOCAL_PODS:
		return dropped(DROP_NO_SUCH_POD);
	case ROUTE_SERVICES:
		return dropped(address_of_service(&p->destination) ? DROP_NO_BACKEND : DROP_NO_SUCH_SERVICE);
	case 0:
	case ROUTE_NOT_MASQUERADED:
		return address_of_service(&p->destination) ? dropped(DROP_NO_BACKEND) : 0;
	}
	return 0;
}

/* For the node, a Service, or somebody further on. */
inline_always verdict from_outside(struct __sk_buff *skb, struct packet *p)
{
	verdict v = NOT_FOR_SERVICE;

	if (p->kind == PACKET_ICMP_ERROR)
		v = error_to_backend(skb, p);
	else if (may_be_served(p))
		v = serve(skb, p, 0);
	if (v != NOT_FOR_SERVICE)
		return v;
	if (address_is_node(&p->destination, p->ipv4) || address_is_for_host_stack(&p->destination, p->ipv4))
		return TC_ACT_OK;
	v = beside_services(p);
	return v ? v : TC_ACT_OK;
}

inline_always verdict handle_from_netdev(struct __sk_buff *skb)
{
	struct endpoint *to = 0;
	struct packet p;
	verdict v = parse(skb, &p);
	int behind_node = 0;

	/* Whatever is wrong with a packet that is not for a pod, the host's stack judges it. */
	if (unlikely(v))
		return v == NOT_IP && skb->protocol == bpf_htons(ETH_P_ARP) ? answer_arp(skb) : TC_ACT_OK;
	if (unlikely(p.kind == PACKET_NEIGHBOUR))
		return p.icmp_type == ICMPV6_NEIGHBOUR_SOLICITATION ? answer_solicitation(skb) : TC_ACT_OK;
	if (address_is_node(&p.destination, p.ipv4)) {
		v = unmasquerade(skb, &p);
		if (v < 0)
			return v;
		behind_node = v != NOT_FOR_POD;
	}
	if (v != NOT_FOR_POD)
		to = bpf_map_lookup_elem(&endpoints, &p.destination);
	if (unlikely(!to))
		return behind_node ? return_to_client(skb, &p) : from_outside(skb, &p);
	if (unlikely(p.kind == PACKET_ICMP_ERROR && !behind_node)) {
		v = accept_error(skb, &p, JUDGE_BY_WIRE);
		if (v)
			return v;
	}
	if (likely(p.kind == PACKET_PLAIN)) {
		v = accept_for_pod(skb, &p, 0, JUDGE_BY_WIRE);
		if (unlikely(v))
			return v;
	}
	return deliver(skb, to);
}

SEC("tc")
int from_netdev(struct __sk_buff *skb)
{
	verdict v = handle_from_netdev(skb);

	if (likely(v >= 0))
		return v;
	count_drop(skb, -v, DROP_FROM_NETDEV);
	return answer_sender(skb, -v);
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

/* A packet of a flow that goes on or is none of ours; NOT_FOR_SERVICE where one to a frontend may begin or go on. */
call_apart verdict go_on_from_node(struct __sk_buff *skb, struct packet *p)
{
	struct flow f;

	conntrack_find(p, &f);
	if (!f.row)
		return p->protocol == IPPROTO_TCP && !starts_connection(p) ? TC_ACT_OK : NOT_FOR_SERVICE;
	if (f.row->flags & CT_SERVICE_ROW)
		return NOT_FOR_SERVICE;
	if (f.forward || !(f.row->flags & CT_TRANSLATED))
		return TC_ACT_OK;
	conntrack_follow(p, &f);
	return from_backend(skb, p, f.row);
}

/* The node's own packet: an answer of one of its processes as a backend, or a request to a frontend that no socket hook translated. */
inline_always verdict from_node(struct __sk_buff *skb, struct packet *p)
{
	verdict v;

	if (!has_ports(p->protocol) || complete_ports(p) || address_is_for_host_stack(&p->destination, p->ipv4))
		return TC_ACT_OK;
	v = go_on_from_node(skb, p);
	if (v != NOT_FOR_SERVICE)
		return v;
	v = serve(skb, p, 1);
	if (v != NOT_FOR_SERVICE)
		return v;
	v = beside_services(p);
	return v ? v : TC_ACT_OK;
}

inline_always verdict handle_to_netdev(struct __sk_buff *skb)
{
	struct packet p;

	if (skb->mark == MARK_HANDLED || parse(skb, &p) || p.kind != PACKET_PLAIN)
		return TC_ACT_OK;
	if (address_is_node(&p.source, p.ipv4))
		return from_node(skb, &p);
	if (!configured(CONFIG_MASQUERADE))
		return TC_ACT_OK;
	if (!bpf_map_lookup_elem(&endpoints, &p.source) || address_is_for_host_stack(&p.destination, p.ipv4))
		return TC_ACT_OK;
	return masquerade_forwarded(skb, &p);
}

SEC("tc")
int to_netdev(struct __sk_buff *skb)
{
	verdict v = handle_to_netdev(skb);

	if (likely(v >= 0))
		return v;
	count_drop(skb, -v, DROP_TO_NETDEV);
	/* Who asks is the node: the answer comes in by the device, as if somebody beyond it had given it. */
	return make_answer(skb, -v) ? TC_ACT_SHOT : bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

char licence[] SEC("license") = "GPL";
