/* SPDX-License-Identifier: GPL-2.0 */
/* The last thing before a packet reaches a local pod, whichever way it came: its flow, and the reverse translation. */
#ifndef ANETD_ACCEPT_H
#define ANETD_ACCEPT_H

#include "conntrack.h"
#include "fragment.h"
#include "service.h"

call_apart verdict accept_new(const struct packet *p, const struct flow *f, __u32 flags)
{
	struct conntrack_row fresh;

	conntrack_begin(p, f, &fresh);
	fresh.flags |= flags;
	return conntrack_add(f, &fresh);
}

/* `flags` go into the row of a new flow. 0: deliver. */
inline_always verdict accept_for_pod(struct __sk_buff *skb, struct packet *p, __u8 flags)
{
	struct flow f;
	verdict v = complete_ports(p);

	if (unlikely(v))
		return v;
	conntrack_find(p, &f);
	if (unlikely(!f.row))
		return accept_new(p, &f, flags);
	conntrack_follow(p, &f);
	if (unlikely(!f.forward && f.row->flags & CT_TRANSLATED))
		return from_backend(skb, p, f.row);
	return 0;
}

#endif
