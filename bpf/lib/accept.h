/* SPDX-License-Identifier: GPL-2.0 */
/* The last thing before a packet reaches a local pod, whichever way it came: its flow, the pod's policy, and the reverse translation. */
#ifndef ANETD_ACCEPT_H
#define ANETD_ACCEPT_H

#include "conntrack.h"
#include "fragment.h"
#include "policy.h"
#include "service.h"

call_apart verdict accept_new(struct __sk_buff *skb, const struct packet *p, const struct flow *f, __u32 flags, __u32 how)
{
	struct conntrack_row fresh;
	verdict v;

	conntrack_begin(p, f, &fresh);
	fresh.flags |= flags;
	v = judge_flow(skb, f, &fresh, how);
	return v ? v : conntrack_add(f, &fresh);
}

/* `flags` go into the row of a new flow; `how`: enum judge_how. 0: deliver. */
inline_always verdict accept_for_pod(struct __sk_buff *skb, struct packet *p, __u8 flags, __u32 how)
{
	struct flow f;
	verdict v = complete_ports(p);

	if (unlikely(v))
		return v;
	conntrack_find(p, &f);
	if (unlikely(!f.row))
		return accept_new(skb, p, &f, flags, how);
	if (f.forward && unlikely(must_judge(f.row, p, how))) {
		v = judge_flow(skb, &f, f.row, how);
		if (v)
			return v;
	}
	conntrack_follow(p, &f);
	if (unlikely(!f.forward && f.row->flags & CT_TRANSLATED))
		return from_backend(skb, p, f.row);
	return 0;
}

#endif
