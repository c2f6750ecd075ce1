/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Who has this address? On the node's link, for Services' addresses that this node announces: ARP's answers and neighbour
 * advertisements. The addresses are on no device, so the host's stack would not answer.
 */
#ifndef ANETD_NEIGHBOUR_H
#define ANETD_NEIGHBOUR_H

#include "answer.h"
#include "frontend.h"

#define ARP_REQUEST bpf_htons(1)
#define ARP_REPLY bpf_htons(2)
#define ICMPV6_NEIGHBOUR_SOLICITATION 135
#define ICMPV6_NEIGHBOUR_ADVERTISEMENT 136
#define ND_SOLICITED_OVERRIDE bpf_htonl(0x60000000)
#define ND_OPTION_TARGET_ADDRESS 2

struct arp_ethernet_ipv4 {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__u8 sender[4];
	__u8 target_mac[ETH_ALEN];
	__u8 target[4];
};

struct neighbour_message {
	struct ipv6hdr ip;
	struct icmp_header icmp;
	struct in6_addr target;
	__u8 option;
	__u8 option_length; /* in units of eight bytes */
	__u8 mac[ETH_ALEN];
};

inline_always void device_mac(__u8 *to)
{
	for (int i = 0; i < ETH_ALEN; i++)
		to[i] = config.device_mac[i];
}

inline_always int is_announced(const struct address *address)
{
	struct frontend *row = address_of_service(address);

	return row && row->flags & FRONTEND_ANNOUNCED;
}

inline_always int send_back(struct __sk_buff *skb, const __u8 *to)
{
	__u8 macs[2 * ETH_ALEN];

	__builtin_memcpy(macs, to, ETH_ALEN);
	device_mac(macs + ETH_ALEN);
	if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		return TC_ACT_SHOT;
	skb->mark = MARK_HANDLED;
	return bpf_redirect(skb->ifindex, 0);
}

/* TC_ACT_OK: not ours to answer. */
call_apart int answer_arp(struct __sk_buff *skb)
{
	struct arp_ethernet_ipv4 arp;
	struct address target;
	__u8 asker[ETH_ALEN];

	if (bpf_skb_load_bytes(skb, L3_OFFSET, &arp, sizeof(arp)) || arp.operation != ARP_REQUEST || arp.protocol != bpf_htons(ETH_P_IP))
		return TC_ACT_OK;
	address_from_ipv4(&target, *(__be32 *)arp.target);
	if (!is_announced(&target))
		return TC_ACT_OK;
	__builtin_memcpy(asker, arp.sender_mac, ETH_ALEN);
	arp.operation = ARP_REPLY;
	__builtin_memcpy(arp.target_mac, asker, ETH_ALEN);
	device_mac(arp.sender_mac);
	*(__be32 *)arp.target = *(__be32 *)arp.sender;
	*(__be32 *)arp.sender = target.words[3];
	if (bpf_skb_store_bytes(skb, L3_OFFSET, &arp, sizeof(arp), 0))
		return TC_ACT_SHOT;
	return send_back(skb, asker);
}

/* As answer_arp. A solicitation without a sender's address looks for duplicates: there is nobody to answer. */
call_apart int answer_solicitation(struct __sk_buff *skb)
{
	struct neighbour_message message = {};
	struct address target, asker;
	__u8 mac[ETH_ALEN];
	__s64 sum = pseudo_sum(sizeof(message) - sizeof(message.ip), IPPROTO_ICMPV6);

	if (bpf_skb_load_bytes(skb, L3_OFFSET, &message, sizeof(message.ip) + sizeof(message.icmp) + sizeof(message.target)) ||
	    message.ip.nexthdr != IPPROTO_ICMPV6 || message.icmp.type != ICMPV6_NEIGHBOUR_SOLICITATION)
		return TC_ACT_OK;
	address_from_ipv6(&target, &message.target);
	address_from_ipv6(&asker, &message.ip.saddr);
	if (!is_announced(&target) || address_is_zero(&asker) || bpf_skb_load_bytes(skb, ETH_ALEN, mac, sizeof(mac)))
		return TC_ACT_OK;
	message.ip.daddr = message.ip.saddr;
	message.ip.saddr = message.target;
	message.ip.payload_len = bpf_htons(sizeof(message) - sizeof(message.ip));
	message.ip.hop_limit = 255;
	message.icmp.type = ICMPV6_NEIGHBOUR_ADVERTISEMENT;
	message.icmp.code = 0;
	message.icmp.checksum = 0;
	message.icmp.rest = ND_SOLICITED_OVERRIDE;
	message.option = ND_OPTION_TARGET_ADDRESS;
	message.option_length = 1;
	device_mac(message.mac);
	sum = bpf_csum_diff(0, 0, (__be32 *)&message.ip.saddr, 2 * sizeof(struct in6_addr), sum);
	message.icmp.checksum = fold(bpf_csum_diff(0, 0, (__be32 *)&message.icmp, sizeof(message) - sizeof(message.ip), sum));
	if (bpf_skb_change_tail(skb, L3_OFFSET + sizeof(message), 0) ||
	    bpf_skb_store_bytes(skb, L3_OFFSET, &message, sizeof(message), 0))
		return TC_ACT_SHOT;
	return send_back(skb, mac);
}

#endif
