/* SPDX-License-Identifier: GPL-2.0 */
/*
 * An answer instead of silence: the packet goes back to its pod inside an ICMP "port unreachable" from the address it was sent to.
 * That ends a TCP connection attempt and a datagram's wait with "connection refused" at once.
 */
#ifndef ANETD_REJECT_H
#define ANETD_REJECT_H

#include "parse.h"

#define CITED 8 /* of the transport header: ports, and TCP's sequence number */
#define ICMPV6_DEST_UNREACH 1
#define ICMP_PORT_UNREACH 3
#define ICMPV6_PORT_UNREACH 4

struct icmp_unreachable {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__u32 unused;
};

/* As they stand in the frame, from the new IP header on. */
struct unreachable_ipv4 {
	struct iphdr ip;
	struct icmp_unreachable icmp;
	struct iphdr cited;
	__u8 transport[CITED];
};

struct unreachable_ipv6 {
	struct ipv6hdr ip;
	struct icmp_unreachable icmp;
	struct ipv6hdr cited;
	__u8 transport[CITED];
};

inline_always __u16 fold(__s64 sum)
{
	__u32 s = (__u32)sum;

	s = (s & 0xffff) + (s >> 16);
	s = (s & 0xffff) + (s >> 16);
	return ~s;
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

call_apart int reject_ipv4(struct __sk_buff *skb)
{
	struct unreachable_ipv4 answer = {};

	if (bpf_skb_load_bytes(skb, L3_OFFSET, &answer.cited, sizeof(answer.cited) + CITED) || answer.cited.ihl != 5)
		return TC_ACT_SHOT;
	answer.ip.version = 4;
	answer.ip.ihl = 5;
	answer.ip.tot_len = bpf_htons(sizeof(answer));
	answer.ip.ttl = 64;
	answer.ip.protocol = IPPROTO_ICMP;
	answer.ip.saddr = answer.cited.daddr;
	answer.ip.daddr = answer.cited.saddr;
	answer.ip.check = fold(bpf_csum_diff(0, 0, (__be32 *)&answer.ip, sizeof(answer.ip), 0));
	answer.icmp.type = ICMP_DEST_UNREACH;
	answer.icmp.code = ICMP_PORT_UNREACH;
	answer.icmp.checksum = fold(bpf_csum_diff(0, 0, (__be32 *)&answer.icmp, sizeof(answer) - sizeof(answer.ip), 0));
	if (bpf_skb_change_tail(skb, L3_OFFSET + sizeof(answer), 0) || bpf_skb_store_bytes(skb, L3_OFFSET, &answer, sizeof(answer), 0) ||
	    swap_macs(skb))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

call_apart int reject_ipv6(struct __sk_buff *skb)
{
	struct unreachable_ipv6 answer = {};
	struct {
		__be32 length;
		__be32 protocol;
	} pseudo = { bpf_htonl(sizeof(answer) - sizeof(answer.ip)), bpf_htonl(IPPROTO_ICMPV6) };
	__s64 sum;

	if (bpf_skb_load_bytes(skb, L3_OFFSET, &answer.cited, sizeof(answer.cited) + CITED) ||
	    (answer.cited.nexthdr != IPPROTO_TCP && answer.cited.nexthdr != IPPROTO_UDP))
		return TC_ACT_SHOT;
	answer.ip.version = 6;
	answer.ip.payload_len = bpf_htons(sizeof(answer) - sizeof(answer.ip));
	answer.ip.nexthdr = IPPROTO_ICMPV6;
	answer.ip.hop_limit = 64;
	answer.ip.saddr = answer.cited.daddr;
	answer.ip.daddr = answer.cited.saddr;
	answer.icmp.type = ICMPV6_DEST_UNREACH;
	answer.icmp.code = ICMPV6_PORT_UNREACH;
	sum = bpf_csum_diff(0, 0, (__be32 *)&pseudo, sizeof(pseudo), 0);
	sum = bpf_csum_diff(0, 0, (__be32 *)&answer.ip.saddr, 2 * sizeof(struct in6_addr), sum);
	answer.icmp.checksum = fold(bpf_csum_diff(0, 0, (__be32 *)&answer.icmp, sizeof(answer) - sizeof(answer.ip), sum));
	if (bpf_skb_change_tail(skb, L3_OFFSET + sizeof(answer), 0) || bpf_skb_store_bytes(skb, L3_OFFSET, &answer, sizeof(answer), 0) ||
	    swap_macs(skb))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

/* For an unchanged packet of a pod, at its host end's ingress. */
inline_always int reject(struct __sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETH_P_IP) ? reject_ipv4(skb) : reject_ipv6(skb);
}

#endif
