// SPDX-License-Identifier: GPL-2.0
/* The tunnel's device (VXLAN, external mode): what comes out of it (ingress), and what goes into it (egress). */
#include "lib/answer.h"
#include "lib/drop.h"
#include "lib/outside.h"

/*
 * Not for a local pod: an answer to what this node sent into the tunnel under its own address; a client's packet that another node sent
 * on for direct return; or too late for its pod.
 */
inline_always verdict for_no_pod(struct __sk_buff *skb, struct packet *p)
{
	verdict v = NOT_FOR_POD;

	if (address_is_node(&p->destination, p->ipv4))
		v = unmasquerade(skb, p);
	if (v != NOT_FOR_POD)
		return v ? v : return_to_client(skb, p);
	if (configured(CONFIG_DIRECT_RETURN) && p->kind == PACKET_PLAIN && has_ports(p->protocol) && !complete_ports(p)) {
		v = serve(skb, p, 0);
		if (v != NOT_FOR_SERVICE)
			return v;
	}
	return route_kind(route_to(&p->destination)) == ROUTE_LOCAL_PODS ? dropped(DROP_NO_SUCH_POD) : TC_ACT_OK;
}

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
		return for_no_pod(skb, &p);
	if (unlikely(p.kind == PACKET_ICMP_ERROR))
		v = accept_error(skb, &p, JUDGE_BY_WIRE);
	else
		v = accept_for_pod(skb, &p, CT_VIA_TUNNEL, JUDGE_BY_WIRE);
	return v ? v : deliver(skb, to);
}

/* The answer to a packet that was dropped goes back into the tunnel it came from. */
call_apart int answer_by_tunnel(struct __sk_buff *skb, __u32 reason)
{
	struct bpf_tunnel_key key = {};
	__u64 family = 0;

	if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0)) {
		family = BPF_F_TUNINFO_IPV6;
		if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), family))
			return TC_ACT_SHOT;
	}
	key.tunnel_ttl = 64;
	if (make_answer(skb, reason) || bpf_skb_set_tunnel_key(skb, &key, sizeof(key), family ? family : BPF_F_ZERO_CSUM_TX))
		return TC_ACT_SHOT;
	skb->mark = MARK_HANDLED;
	return bpf_redirect(skb->ifindex, 0);
}

SEC("tc")
int from_overlay(struct __sk_buff *skb)
{
	verdict v = handle_from_overlay(skb);

	if (likely(v >= 0))
		return v;
	count_drop(skb, -v, DROP_FROM_OVERLAY);
	return answer_by_tunnel(skb, -v);
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
