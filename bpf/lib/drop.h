/* SPDX-License-Identifier: GPL-2.0 */
/* The one place where a packet is dropped, and counted. */
#ifndef ANETD_DROP_H
#define ANETD_DROP_H

#include "tables.h"

call_apart int count_drop(struct __sk_buff *skb, __u32 reason, __u32 direction)
{
	struct drop_key key = { .reason = reason, .direction = direction };
	struct drop_count *count = bpf_map_lookup_elem(&drops, &key);

	if (count) {
		count->packets++;
		count->bytes += skb->len;
	} else {
		struct drop_count first = { .packets = 1, .bytes = skb->len };

		bpf_map_update_elem(&drops, &key, &first, BPF_NOEXIST);
	}
	return TC_ACT_SHOT;
}

inline_always int finish(struct __sk_buff *skb, verdict v, enum drop_direction direction)
{
	return likely(v >= 0) ? v : count_drop(skb, -v, direction);
}

#endif
