/* SPDX-License-Identifier: GPL-2.0 */
/* The one place where a packet is dropped, and counted. */
#ifndef ANETD_DROP_H
#define ANETD_DROP_H

#include "tables.h"

/* For a tracer: the set was noted by who denied. */
inline_always void note_drop(__u32 reason, __u32 direction)
{
	__u32 zero = 0;
	struct last_drop *last = bpf_map_lookup_elem(&last_drops, &zero);

	if (!last)
		return;
	last->time = bpf_ktime_get_ns();
	last->reason = reason;
	last->direction = direction;
	if (reason != DROP_EGRESS_DENIED && reason != DROP_INGRESS_DENIED)
		last->policy_set = 0;
}

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
	note_drop(reason, direction);
	return TC_ACT_SHOT;
}

inline_always int finish(struct __sk_buff *skb, verdict v, enum drop_direction direction)
{
	return likely(v >= 0) ? v : count_drop(skb, -v, direction);
}

#endif
