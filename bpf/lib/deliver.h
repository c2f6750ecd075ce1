/* SPDX-License-Identifier: GPL-2.0 */
/* To a local pod, past the host's stack. Ingress hooks only: that is where the kernel allows bpf_redirect_peer. */
#ifndef ANETD_DELIVER_H
#define ANETD_DELIVER_H

#include "config.h"

inline_always verdict deliver(struct __sk_buff *skb, const struct endpoint *to)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;

	if (unlikely((void *)(eth + 1) > end))
		return dropped(DROP_MALFORMED);
	__builtin_memcpy(eth->h_dest, to->pod_mac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, to->host_mac, ETH_ALEN);
	return bpf_redirect_peer(to->ifindex, 0);
}

#endif
