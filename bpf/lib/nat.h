/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Changing an end of a packet with every checksum that covers it.
 *
 * Received packets may carry a sum over the whole frame (CHECKSUM_COMPLETE). An IPv4 address is covered by the IP header's sum
 * too, so that the frame's changes by the transport checksum's difference alone, which BPF_F_PSEUDO_HDR accounts for. IPv6 has no header
 * checksum: there the store has to account for the address (BPF_F_RECOMPUTE_CSUM), which makes the two differences cancel.
 */
#ifndef ANETD_NAT_H
#define ANETD_NAT_H

#include <stddef.h>
#include "parse.h"

enum packet_end { END_SOURCE = 0, END_DESTINATION = 1 };

/* Offset of the checksum in the transport header, and flags of bpf_l4_csum_replace; below zero: none there. */
inline_always int checksum_place(const struct packet *p, __u64 *flags)
{
	*flags = 0;
	if (p->fragment == FRAGMENT_LATER)
		return -1;
	switch (p->protocol) {
	case IPPROTO_TCP:
		return offsetof(struct tcphdr, check);
	case IPPROTO_UDP:
		*flags = BPF_F_MARK_MANGLED_0;
		return offsetof(struct udphdr, check);
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return ICMP_CHECKSUM_OFFSET;
	}
	return -1;
}

inline_always verdict rewrite_address(struct __sk_buff *skb, struct packet *p, enum packet_end end, const struct address *to)
{
	struct address *at = end == END_SOURCE ? &p->source : &p->destination;
	__u64 flags;
	int place = checksum_place(p, &flags);

	if (p->ipv4) {
		__u32 offset = L3_OFFSET + (end == END_SOURCE ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr));
		__be32 from = at->words[3], into = to->words[3];

		if (place >= 0 && p->protocol != IPPROTO_ICMP &&
		    bpf_l4_csum_replace(skb, p->l4_offset + place, from, into, flags | BPF_F_PSEUDO_HDR | sizeof(from)))
			return dropped(DROP_REWRITE_FAILED);
		if (bpf_l3_csum_replace(skb, L3_OFFSET + offsetof(struct iphdr, check), from, into, sizeof(from)) ||
		    bpf_skb_store_bytes(skb, offset, &into, sizeof(into), 0))
			return dropped(DROP_REWRITE_FAILED);
	} else {
		__u32 offset = L3_OFFSET + (end == END_SOURCE ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr));
		__s64 difference = bpf_csum_diff(at->words, sizeof(*at), (__be32 *)to->words, sizeof(*to), 0);

		if (place >= 0 && bpf_l4_csum_replace(skb, p->l4_offset + place, 0, difference, flags | BPF_F_PSEUDO_HDR))
			return dropped(DROP_REWRITE_FAILED);
		if (bpf_skb_store_bytes(skb, offset, to, sizeof(*to), BPF_F_RECOMPUTE_CSUM))
			return dropped(DROP_REWRITE_FAILED);
	}
	*at = *to;
	return 0;
}

/* A port, or the identifier of an ICMP echo if that end asks. */
inline_always verdict rewrite_port(struct __sk_buff *skb, struct packet *p, enum packet_end end, __be16 to)
{
	__be16 *at = end == END_SOURCE ? &p->source_port : &p->destination_port;
	__be16 from = *at;
	__u64 flags;
	int place = checksum_place(p, &flags);
	__u32 offset;

	*at = to;
	/* SCTP's checksum covers its ports, and there is no helper for it. */
	if (from != to && p->protocol == IPPROTO_SCTP && p->fragment != FRAGMENT_LATER)
		return dropped(DROP_UNSUPPORTED_PROTOCOL);
	if (from == to || place < 0)
		return 0;
	if (is_icmp(p->protocol))
		offset = ICMP_ID_OFFSET;
	else
		offset = end == END_SOURCE ? offsetof(struct udphdr, source) : offsetof(struct udphdr, dest);
	if (bpf_l4_csum_replace(skb, p->l4_offset + place, from, to, flags | sizeof(from)) ||
	    bpf_skb_store_bytes(skb, p->l4_offset + offset, &to, sizeof(to), 0))
		return dropped(DROP_REWRITE_FAILED);
	return 0;
}

verified_apart verdict rewrite_source(struct __sk_buff *skb, struct packet *p, const struct address *address, __u32 port)
{
	verdict v;

	if (!p || !address)
		return dropped(DROP_MALFORMED);
	v = rewrite_address(skb, p, END_SOURCE, address);
	return v < 0 ? v : rewrite_port(skb, p, END_SOURCE, port);
}

verified_apart verdict rewrite_destination(struct __sk_buff *skb, struct packet *p, const struct address *address, __u32 port)
{
	verdict v;

	if (!p || !address)
		return dropped(DROP_MALFORMED);
	v = rewrite_address(skb, p, END_DESTINATION, address);
	return v < 0 ? v : rewrite_port(skb, p, END_DESTINATION, port);
}

#endif
