/* SPDX-License-Identifier: GPL-2.0 */
/*
 * From bytes to `struct packet`: both families, IPv4 options, IPv6 extension headers, fragments, ICMP.
 *
 * The common packet (no options, headers in the linear part) is read by direct access; everything else by
 * bpf_skb_load_bytes, which costs a call and copes with any layout.
 */
#ifndef ANETD_PARSE_H
#define ANETD_PARSE_H

#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include "address.h"

/* <linux/icmp.h> drags in the C library. Both families' headers look alike as far as they are used here. */
#define ICMP_CHECKSUM_OFFSET 2
#define ICMP_ID_OFFSET 4 /* of an echo */
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMPV6_ECHO_REQUEST 128 /* below are the errors */
#define ICMPV6_ECHO_REPLY 129
#define ICMPV6_MLD_QUERY 130
#define ICMPV6_REDIRECT 137 /* from 130 on: listeners, routers, neighbours */
#define ICMPV6_MLD2_REPORT 143

#define L3_OFFSET ETH_HLEN

enum packet_kind {
	PACKET_PLAIN = 0,
	PACKET_ICMP_ERROR, /* carries the head of the packet that it is about, at l4_offset + 8 */
	PACKET_NEIGHBOUR, /* IPv6 neighbour and router discovery, multicast listeners */
};

enum packet_fragment {
	FRAGMENT_NONE = 0,
	FRAGMENT_FIRST,
	FRAGMENT_LATER, /* no ports; l4_offset is where its data begins */
};

struct packet {
	struct address source;
	struct address destination;
	__be16 source_port; /* as in struct flow_key */
	__be16 destination_port;
	__u8 protocol;
	__u8 ipv4; /* else IPv6 */
	__u8 kind; /* enum packet_kind */
	__u8 fragment; /* enum packet_fragment */
	__u8 tcp_flags;
	__u8 icmp_type;
	__u16 l4_offset; /* from the start of the frame */
	__u32 fragment_id;
};

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define TCP_FLAGS_OFFSET 13

#define EXTENSION_HEADERS_MAX 6

/* Ports, or what stands for them. `type` and `id` are the first byte and bytes 4..5 of the ICMP header. */
inline_always void set_icmp(struct packet *p, __u8 type, __be16 id)
{
	p->icmp_type = type;
	p->source_port = 0;
	p->destination_port = 0;
	if (p->ipv4) {
		switch (type) {
		case ICMP_ECHO:
			p->source_port = id;
			break;
		case ICMP_ECHOREPLY:
			p->destination_port = id;
			break;
		case ICMP_DEST_UNREACH:
		case ICMP_TIME_EXCEEDED:
		case ICMP_PARAMETERPROB:
			p->kind = PACKET_ICMP_ERROR;
			break;
		}
		return;
	}
	if (type == ICMPV6_ECHO_REQUEST)
		p->source_port = id;
	else if (type == ICMPV6_ECHO_REPLY)
		p->destination_port = id;
	else if (type < ICMPV6_ECHO_REQUEST)
		p->kind = PACKET_ICMP_ERROR;
	else if ((type >= ICMPV6_MLD_QUERY && type <= ICMPV6_REDIRECT) || type == ICMPV6_MLD2_REPORT)
		p->kind = PACKET_NEIGHBOUR;
}

inline_always int has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

inline_always int is_icmp(__u8 protocol)
{
	return protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6;
}

/* The transport header of an unfragmented packet or first fragment, wherever it is. */
verified_apart verdict parse_transport_slow(struct __sk_buff *skb, struct packet *p)
{
	__u8 head[8];

	if (!p)
		return dropped(DROP_MALFORMED);
	p->source_port = 0;
	p->destination_port = 0;
	if (has_ports(p->protocol)) {
		if (bpf_skb_load_bytes(skb, p->l4_offset, head, 4))
			return dropped(DROP_MALFORMED);
		p->source_port = *(__be16 *)head;
		p->destination_port = *(__be16 *)(head + 2);
		if (p->protocol == IPPROTO_TCP && bpf_skb_load_bytes(skb, p->l4_offset + TCP_FLAGS_OFFSET, &p->tcp_flags, 1))
			return dropped(DROP_MALFORMED);
	} else if (is_icmp(p->protocol)) {
		if (bpf_skb_load_bytes(skb, p->l4_offset, head, 8))
			return dropped(DROP_MALFORMED);
		set_icmp(p, head[0], *(__be16 *)(head + 4));
	}
	return 0;
}

inline_always verdict parse_transport(struct __sk_buff *skb, struct packet *p, void *l4, void *end)
{
	if (p->protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = l4;

		if (likely((void *)(tcp + 1) <= end)) {
			p->source_port = tcp->source;
			p->destination_port = tcp->dest;
			p->tcp_flags = ((__u8 *)tcp)[TCP_FLAGS_OFFSET];
			return 0;
		}
	} else if (p->protocol == IPPROTO_UDP) {
		struct udphdr *udp = l4;

		if (likely((void *)(udp + 1) <= end)) {
			p->source_port = udp->source;
			p->destination_port = udp->dest;
			return 0;
		}
	}
	return parse_transport_slow(skb, p);
}

verified_apart verdict parse_ipv4_slow(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr ip;
	__u32 length;

	if (!p || bpf_skb_load_bytes(skb, L3_OFFSET, &ip, sizeof(ip)))
		return dropped(DROP_MALFORMED);
	length = ip.ihl * 4;
	if (ip.version != 4 || length < sizeof(ip) || bpf_ntohs(ip.tot_len) < length || L3_OFFSET + length > skb->len)
		return dropped(DROP_MALFORMED);
	address_from_ipv4(&p->source, ip.saddr);
	address_from_ipv4(&p->destination, ip.daddr);
	p->protocol = ip.protocol;
	p->l4_offset = L3_OFFSET + length;
	if (ip.frag_off & bpf_htons(0x3fff)) {
		p->fragment_id = ip.id;
		p->fragment = ip.frag_off & bpf_htons(0x1fff) ? FRAGMENT_LATER : FRAGMENT_FIRST;
		if (p->fragment == FRAGMENT_LATER)
			return 0;
	}
	return parse_transport_slow(skb, p);
}

inline_always verdict parse_ipv4(struct __sk_buff *skb, struct packet *p)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + L3_OFFSET;

	if (unlikely((void *)(ip + 1) > end || *(__u8 *)ip != 0x45 || ip->frag_off & bpf_htons(0x3fff)))
		return parse_ipv4_slow(skb, p);
	address_from_ipv4(&p->source, ip->saddr);
	address_from_ipv4(&p->destination, ip->daddr);
	p->protocol = ip->protocol;
	p->l4_offset = L3_OFFSET + sizeof(*ip);
	return parse_transport(skb, p, ip + 1, end);
}

verified_apart verdict parse_ipv6_slow(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6hdr ip;
	__u32 offset = L3_OFFSET + sizeof(ip);
	__u8 next, head[8];

	if (!p || bpf_skb_load_bytes(skb, L3_OFFSET, &ip, sizeof(ip)) || ip.version != 6)
		return dropped(DROP_MALFORMED);
	__builtin_memcpy(&p->source, &ip.saddr, sizeof(p->source));
	__builtin_memcpy(&p->destination, &ip.daddr, sizeof(p->destination));
	next = ip.nexthdr;
#pragma unroll
	for (int i = 0; i < EXTENSION_HEADERS_MAX; i++) {
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS && next != IPPROTO_FRAGMENT)
			break;
		if (bpf_skb_load_bytes(skb, offset, head, 8))
			return dropped(DROP_MALFORMED);
		if (next == IPPROTO_FRAGMENT) {
			__be16 place = *(__be16 *)(head + 2);

			offset += 8;
			/* A fragment that is the whole packet is none. */
			if (place & bpf_htons(0xfff9)) {
				p->fragment_id = *(__u32 *)(head + 4);
				p->fragment = place & bpf_htons(0xfff8) ? FRAGMENT_LATER : FRAGMENT_FIRST;
			}
			if (p->fragment == FRAGMENT_LATER) {
				/* Headers behind this one are in the first fragment only. */
				p->protocol = head[0];
				p->l4_offset = offset;
				return 0;
			}
		} else {
			offset += (head[1] + 1) * 8;
		}
		next = head[0];
	}
	p->protocol = next;
	p->l4_offset = offset;
	return parse_transport_slow(skb, p);
}

inline_always verdict parse_ipv6(struct __sk_buff *skb, struct packet *p)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ipv6hdr *ip = data + L3_OFFSET;
	verdict v;

	if (likely((void *)(ip + 1) <= end && (*(__u8 *)ip >> 4) == 6 &&
		   (ip->nexthdr == IPPROTO_TCP || ip->nexthdr == IPPROTO_UDP))) {
		address_from_ipv6(&p->source, &ip->saddr);
		address_from_ipv6(&p->destination, &ip->daddr);
		p->protocol = ip->nexthdr;
		p->l4_offset = L3_OFFSET + sizeof(*ip);
		v = parse_transport(skb, p, ip + 1, end);
	} else {
		v = parse_ipv6_slow(skb, p);
	}
	/* Would be taken for the IPv4 address inside; never on a wire. */
	if (unlikely(v == 0 && (address_is_ipv4(&p->source) || address_is_ipv4(&p->destination))))
		return dropped(DROP_MALFORMED);
	return v;
}

#define NOT_IP 1

/* 0, NOT_IP, or a drop. */
inline_always verdict parse(struct __sk_buff *skb, struct packet *p)
{
	__builtin_memset(p, 0, sizeof(*p));
	p->kind = PACKET_PLAIN;
	p->fragment = FRAGMENT_NONE;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		p->ipv4 = 1;
		return parse_ipv4(skb, p);
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		p->ipv4 = 0;
		return parse_ipv6(skb, p);
	}
	return NOT_IP;
}

#endif
