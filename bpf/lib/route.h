/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Where a packet of a pod leaves the node: straight to another node's neighbour entry, into the tunnel, or as the kernel's routing
 * table says. What these functions do not want to decide they hand to the host's stack (TC_ACT_OK), unchanged.
 */
#ifndef ANETD_ROUTE_H
#define ANETD_ROUTE_H

#include "parse.h"
#include "tables.h"

inline_always struct route *route_to(const struct address *destination)
{
	struct route_key key = { .prefix_length = 128 };

	key.address[0] = destination->words[0];
	key.address[1] = destination->words[1];
	key.address[2] = destination->words[2];
	key.address[3] = destination->words[3];
	return bpf_map_lookup_elem(&routes, &key);
}

/* Whether the host's stack has to answer: no hop left. Else one is taken. */
inline_always int last_hop(struct __sk_buff *skb, const struct packet *p)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (p->ipv4) {
		struct iphdr *ip = data + L3_OFFSET;
		__u32 check;

		if ((void *)(ip + 1) > end || ip->ttl <= 1)
			return 1;
		ip->ttl--;
		check = ip->check + bpf_htons(0x0100);
		ip->check = check + (check >= 0xffff);
	} else {
		struct ipv6hdr *ip = data + L3_OFFSET;

		if ((void *)(ip + 1) > end || ip->hop_limit <= 1)
			return 1;
		ip->hop_limit--;
	}
	return 0;
}

/* A packet, or a segment of one that is still to be cut, that the way to a remote pod cannot carry. */
inline_always int too_long(const struct __sk_buff *skb, const struct packet *p)
{
	if (likely(skb->len <= config.mtu + ETH_HLEN))
		return 0;
	if (!skb->gso_size)
		return 1;
	/* 60 is a TCP header at its longest: a segment that might not fit is left to who knows exactly. */
	return p->l4_offset - L3_OFFSET + 60 + skb->gso_size > config.mtu + 40;
}

inline_always void next_hop_from(struct bpf_redir_neigh *to, const struct address *next_hop)
{
	if (address_is_ipv4(next_hop)) {
		to->nh_family = AF_INET;
		to->ipv4_nh = next_hop->words[3];
		to->ipv6_nh[1] = 0;
		to->ipv6_nh[2] = 0;
		to->ipv6_nh[3] = 0;
	} else {
		to->nh_family = AF_INET6;
		to->ipv6_nh[0] = next_hop->words[0];
		to->ipv6_nh[1] = next_hop->words[1];
		to->ipv6_nh[2] = next_hop->words[2];
		to->ipv6_nh[3] = next_hop->words[3];
	}
}

/* Native: to a node on the same link. */
inline_always verdict to_neighbour(struct __sk_buff *skb, const struct packet *p, const struct address *next_hop)
{
	struct bpf_redir_neigh neighbour;

	if (unlikely(last_hop(skb, p)))
		return TC_ACT_OK;
	next_hop_from(&neighbour, next_hop);
	skb->mark = MARK_HANDLED;
	return bpf_redirect_neigh(config.device_ifindex, &neighbour, sizeof(neighbour), 0);
}

call_apart verdict set_tunnel(struct __sk_buff *skb, const struct address *far)
{
	struct bpf_tunnel_key key = { .tunnel_id = TUNNEL_ID, .tunnel_ttl = 64 };
	__u64 flags;

	if (address_is_ipv4(far)) {
		key.remote_ipv4 = bpf_ntohl(far->words[3]);
		flags = BPF_F_ZERO_CSUM_TX;
	} else {
		key.remote_ipv6[0] = far->words[0];
		key.remote_ipv6[1] = far->words[1];
		key.remote_ipv6[2] = far->words[2];
		key.remote_ipv6[3] = far->words[3];
		flags = BPF_F_TUNINFO_IPV6;
	}
	return bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags) ? dropped(DROP_NO_TUNNEL) : TC_ACT_OK;
}

inline_always verdict to_tunnel(struct __sk_buff *skb, const struct packet *p, const struct address *far)
{
	verdict v;

	if (unlikely(last_hop(skb, p)))
		return TC_ACT_OK;
	v = set_tunnel(skb, far);
	if (v < 0)
		return v;
	skb->mark = MARK_HANDLED;
	return bpf_redirect(config.overlay_ifindex, 0);
}

/* The kernel's routing table; 0 when it has a way that this datapath can take. */
call_apart int way_outside(struct __sk_buff *skb, const struct packet *p, struct bpf_redir_neigh *neighbour, __u32 *ifindex)
{
	struct bpf_fib_lookup fib = { .l4_protocol = p->protocol, .sport = p->source_port, .dport = p->destination_port };
	long answer;

	fib.ifindex = skb->ifindex;
	if (p->ipv4) {
		fib.family = AF_INET;
		fib.ipv4_src = p->source.words[3];
		fib.ipv4_dst = p->destination.words[3];
	} else {
		fib.family = AF_INET6;
		__builtin_memcpy(fib.ipv6_src, p->source.words, sizeof(fib.ipv6_src));
		__builtin_memcpy(fib.ipv6_dst, p->destination.words, sizeof(fib.ipv6_dst));
	}
	/* With no length given the kernel compares skb, segment by segment, with the way's MTU. */
	answer = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if (answer != BPF_FIB_LKUP_RET_SUCCESS && answer != BPF_FIB_LKUP_RET_NO_NEIGH)
		return 1;
	*ifindex = fib.ifindex;
	if (fib.family == AF_INET) {
		neighbour->nh_family = AF_INET;
		neighbour->ipv4_nh = fib.ipv4_dst;
		neighbour->ipv6_nh[1] = 0;
		neighbour->ipv6_nh[2] = 0;
		neighbour->ipv6_nh[3] = 0;
	} else {
		neighbour->nh_family = AF_INET6;
		__builtin_memcpy(neighbour->ipv6_nh, fib.ipv6_dst, sizeof(neighbour->ipv6_nh));
	}
	return 0;
}

#endif
