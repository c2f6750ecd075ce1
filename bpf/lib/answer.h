/* SPDX-License-Identifier: GPL-2.0 */
/*
 * An answer instead of silence, made out of the packet itself, from the address that it was sent to.
 *
 * "Port unreachable" ends a connection attempt and a datagram's wait with "connection refused"; "host unreachable" those to a pod that is
 * not there; RST a connection whose other end went away; "too big" tells a sender to make less of it.
 */
#ifndef ANETD_ANSWER_H
#define ANETD_ANSWER_H

#include "parse.h"

#define CITED 8 /* of the transport header: ports, and TCP's sequence number */
#define FRAGMENT_HEADER 8
#define ICMP_HOST_UNREACH 1
#define ICMP_PORT_UNREACH 3
#define ICMP_FRAG_NEEDED 4
#define ICMPV6_DEST_UNREACH 1
#define ICMPV6_PKT_TOOBIG 2
#define ICMPV6_ADDR_UNREACH 3
#define ICMPV6_PORT_UNREACH 4

enum answer_kind {
	ANSWER_PORT_UNREACHABLE = 1,
	ANSWER_HOST_UNREACHABLE,
	ANSWER_TOO_BIG, /* above config.mtu */
};

struct icmp_header {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 rest;
};

/* As they stand in the frame, from the new IP header on. */
struct icmp_answer_ipv4 {
	struct iphdr ip;
	struct icmp_header icmp;
	struct iphdr cited;
	__u8 transport[CITED];
};

struct icmp_answer_ipv6 {
	struct ipv6hdr ip;
	struct icmp_header icmp;
	struct ipv6hdr cited;
	__u8 transport[CITED];
	__u8 behind_fragment_header[CITED]; /* where that is what `transport` holds */
};

struct reset_ipv4 {
	struct iphdr ip;
	struct tcphdr tcp;
};

struct reset_ipv6 {
	struct ipv6hdr ip;
	struct tcphdr tcp;
};

struct pseudo_header {
	__be32 length;
	__be32 protocol;
};

inline_always __u16 fold(__s64 sum)
{
	__u32 s = (__u32)sum;

	s = (s & 0xffff) + (s >> 16);
	s = (s & 0xffff) + (s >> 16);
	return ~s;
}

inline_always __s64 pseudo_sum(__u32 length, __u32 protocol)
{
	struct pseudo_header pseudo = { bpf_htonl(length), bpf_htonl(protocol) };

	return bpf_csum_diff(0, 0, (__be32 *)&pseudo, sizeof(pseudo), 0);
}

inline_always int swap_macs(struct __sk_buff *skb)
{
	__u8 macs[2 * ETH_ALEN], swapped[2 * ETH_ALEN];

	if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)))
		return 1;
	__builtin_memcpy(swapped, macs + ETH_ALEN, ETH_ALEN);
	__builtin_memcpy(swapped + ETH_ALEN, macs, ETH_ALEN);
	return bpf_skb_store_bytes(skb, 0, swapped, sizeof(swapped), 0) != 0;
}

/* The frame becomes `length` bytes of `answer` behind its Ethernet header, addressed back. */
inline_always int replace_packet(struct __sk_buff *skb, const void *answer, __u32 length)
{
	return bpf_skb_change_tail(skb, L3_OFFSET + length, 0) || bpf_skb_store_bytes(skb, L3_OFFSET, answer, length, 0) || swap_macs(skb);
}

inline_always void head_ipv4(struct iphdr *ip, __be32 source, __be32 destination, __u32 length, __u32 protocol)
{
	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = bpf_htons(length);
	ip->ttl = 64;
	ip->protocol = protocol;
	ip->saddr = source;
	ip->daddr = destination;
	ip->check = fold(bpf_csum_diff(0, 0, (__be32 *)ip, sizeof(*ip), 0));
}

call_apart int icmp_ipv4(struct __sk_buff *skb, __u32 kind)
{
	struct icmp_answer_ipv4 answer = {};

	if (bpf_skb_load_bytes(skb, L3_OFFSET, &answer.cited, sizeof(answer.cited) + CITED) || answer.cited.ihl != 5 ||
	    answer.cited.frag_off & bpf_htons(0x1fff))
		return 1;
	head_ipv4(&answer.ip, answer.cited.daddr, answer.cited.saddr, sizeof(answer), IPPROTO_ICMP);
	answer.icmp.type = ICMP_DEST_UNREACH;
	answer.icmp.code = ICMP_PORT_UNREACH;
	if (kind == ANSWER_HOST_UNREACHABLE)
		answer.icmp.code = ICMP_HOST_UNREACH;
	if (kind == ANSWER_TOO_BIG) {
		answer.icmp.code = ICMP_FRAG_NEEDED;
		answer.icmp.rest = bpf_htonl(config.mtu);
	}
	answer.icmp.checksum = fold(bpf_csum_diff(0, 0, (__be32 *)&answer.icmp, sizeof(answer) - sizeof(answer.ip), 0));
	return replace_packet(skb, &answer, sizeof(answer));
}

call_apart int icmp_ipv6(struct __sk_buff *skb, __u32 kind)
{
	struct icmp_answer_ipv6 answer = {};
	__u32 length = sizeof(answer) - CITED;
	__u8 protocol;
	__s64 sum;

	if (bpf_skb_load_bytes(skb, L3_OFFSET, &answer.cited, sizeof(answer.cited) + CITED))
		return 1;
	protocol = answer.cited.nexthdr;
	if (protocol == IPPROTO_FRAGMENT) {
		/* Of the first one: without its ports nobody would know whose packet it was. */
		if (*(__be16 *)(answer.transport + 2) & bpf_htons(0xfff8) ||
		    bpf_skb_load_bytes(skb, L3_OFFSET + sizeof(answer.cited) + FRAGMENT_HEADER, answer.behind_fragment_header, CITED))
			return 1;
		protocol = answer.transport[0];
		length = sizeof(answer);
	}
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return 1;
	answer.ip.version = 6;
	answer.ip.payload_len = bpf_htons(length - sizeof(answer.ip));
	answer.ip.nexthdr = IPPROTO_ICMPV6;
	answer.ip.hop_limit = 64;
	answer.ip.saddr = answer.cited.daddr;
	answer.ip.daddr = answer.cited.saddr;
	answer.icmp.type = ICMPV6_DEST_UNREACH;
	answer.icmp.code = ICMPV6_PORT_UNREACH;
	if (kind == ANSWER_HOST_UNREACHABLE)
		answer.icmp.code = ICMPV6_ADDR_UNREACH;
	if (kind == ANSWER_TOO_BIG) {
		answer.icmp.type = ICMPV6_PKT_TOOBIG;
		answer.icmp.code = 0;
		answer.icmp.rest = bpf_htonl(config.mtu);
	}
	sum = pseudo_sum(length - sizeof(answer.ip), IPPROTO_ICMPV6);
	sum = bpf_csum_diff(0, 0, (__be32 *)&answer.ip.saddr, 2 * sizeof(struct in6_addr), sum);
	answer.icmp.checksum = fold(bpf_csum_diff(0, 0, (__be32 *)&answer.icmp, sizeof(answer) - sizeof(answer.ip), sum));
	return replace_packet(skb, &answer, length);
}

/* RFC 9293, 3.10.7.1: what the end of a connection that does not exist answers. */
inline_always void reset_of(struct tcphdr *reset, const struct tcphdr *of, __u32 payload)
{
	reset->source = of->dest;
	reset->dest = of->source;
	reset->doff = sizeof(*reset) / 4;
	reset->rst = 1;
	if (of->ack) {
		reset->seq = of->ack_seq;
	} else {
		reset->ack = 1;
		reset->ack_seq = bpf_htonl(bpf_ntohl(of->seq) + of->syn + of->fin + payload);
	}
}

call_apart int reset_ipv4(struct __sk_buff *skb)
{
	struct {
		struct iphdr ip;
		struct tcphdr tcp;
	} got;
	struct reset_ipv4 answer = {};
	__s64 sum = pseudo_sum(sizeof(answer.tcp), IPPROTO_TCP);

	if (bpf_skb_load_bytes(skb, L3_OFFSET, &got, sizeof(got)) || got.ip.ihl != 5 || got.tcp.rst)
		return 1;
	reset_of(&answer.tcp, &got.tcp, bpf_ntohs(got.ip.tot_len) - sizeof(got.ip) - got.tcp.doff * 4);
	head_ipv4(&answer.ip, got.ip.daddr, got.ip.saddr, sizeof(answer), IPPROTO_TCP);
	sum = bpf_csum_diff(0, 0, (__be32 *)&answer.ip.saddr, 2 * sizeof(__be32), sum);
	answer.tcp.check = fold(bpf_csum_diff(0, 0, (__be32 *)&answer.tcp, sizeof(answer.tcp), sum));
	return replace_packet(skb, &answer, sizeof(answer));
}

call_apart int reset_ipv6(struct __sk_buff *skb)
{
	struct {
		struct ipv6hdr ip;
		struct tcphdr tcp;
	} got;
	struct reset_ipv6 answer = {};
	__s64 sum = pseudo_sum(sizeof(answer.tcp), IPPROTO_TCP);

	if (bpf_skb_load_bytes(skb, L3_OFFSET, &got, sizeof(got)) || got.ip.nexthdr != IPPROTO_TCP || got.tcp.rst)
		return 1;
	reset_of(&answer.tcp, &got.tcp, bpf_ntohs(got.ip.payload_len) - got.tcp.doff * 4);
	answer.ip.version = 6;
	answer.ip.payload_len = bpf_htons(sizeof(answer.tcp));
	answer.ip.nexthdr = IPPROTO_TCP;
	answer.ip.hop_limit = 64;
	answer.ip.saddr = got.ip.daddr;
	answer.ip.daddr = got.ip.saddr;
	sum = bpf_csum_diff(0, 0, (__be32 *)&answer.ip.saddr, 2 * sizeof(struct in6_addr), sum);
	answer.tcp.check = fold(bpf_csum_diff(0, 0, (__be32 *)&answer.tcp, sizeof(answer.tcp), sum));
	return replace_packet(skb, &answer, sizeof(answer));
}

/* Whether the packet is of a connection under way: TCP, whole, and not the first of one. */
inline_always int is_mid_connection(struct __sk_buff *skb)
{
	struct packet p;

	return !parse(skb, &p) && p.protocol == IPPROTO_TCP && p.fragment == FRAGMENT_NONE && !(p.tcp_flags & TCP_SYN);
}

/* Turns the unchanged packet into the answer that a drop's reason calls for; 0 if there is one, addressed back to where it came from. */
call_apart int make_answer(struct __sk_buff *skb, __u32 reason)
{
	int ipv4 = skb->protocol == bpf_htons(ETH_P_IP);
	__u32 kind = ANSWER_PORT_UNREACHABLE;

	switch (reason) {
	case DROP_NO_BACKEND:
	case DROP_NO_SUCH_POD:
		/* An error from the network does not end a connection: it would go on asking for minutes. */
		if (is_mid_connection(skb))
			return ipv4 ? reset_ipv4(skb) : reset_ipv6(skb);
		if (reason == DROP_NO_SUCH_POD)
			kind = ANSWER_HOST_UNREACHABLE;
		break;
	case DROP_TOO_BIG:
		kind = ANSWER_TOO_BIG;
		break;
	default:
		return 1;
	}
	return ipv4 ? icmp_ipv4(skb, kind) : icmp_ipv6(skb, kind);
}

/* At a link's ingress: the answer goes back by the link. */
inline_always int answer_sender(struct __sk_buff *skb, __u32 reason)
{
	if (make_answer(skb, reason))
		return TC_ACT_SHOT;
	skb->mark = MARK_HANDLED;
	return bpf_redirect(skb->ifindex, 0);
}

#endif
