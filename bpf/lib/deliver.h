/* SPDX-License-Identifier: GPL-2.0 */
/* To a local pod, past the host's stack. */
#ifndef ANETD_DELIVER_H
#define ANETD_DELIVER_H

#include "config.h"

inline_always int address_frame(struct __sk_buff *skb, const struct endpoint *to)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;

	if (unlikely((void *)(eth + 1) > end))
		return 0;
	__builtin_memcpy(eth->h_dest, to->pod_mac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, to->host_mac, ETH_ALEN);
	return 1;
}

/* Into the pod. At ingress hooks only: that is where the kernel allows bpf_redirect_peer. */
inline_always verdict deliver(struct __sk_buff *skb, const struct endpoint *to)
{
	return likely(address_frame(skb, to)) ? bpf_redirect_peer(to->ifindex, 0) : dropped(DROP_MALFORMED);
}

/* Whether the pod's host end would not take it: nothing checks that on the way past it. */
inline_always int too_long_for_pod(const struct __sk_buff *skb)
{
	return !skb->gso_size && skb->len > config.mtu + ETH_HLEN;
}

/* Onto the pod's host end, as the host's stack would have sent it: for egress hooks. */
inline_always verdict deliver_by_stack(struct __sk_buff *skb, const struct endpoint *to)
{
	return address_frame(skb, to) ? bpf_redirect(to->ifindex, 0) : dropped(DROP_MALFORMED);
}

#endif
