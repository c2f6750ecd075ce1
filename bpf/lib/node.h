/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What comes to the node's own address and is not the node's: answers to what was sent out under it. Behind the address and port is a
 * pod that was masqueraded, or a Service's client whose packets were sent on to another node's backend.
 */
#ifndef ANETD_NODE_H
#define ANETD_NODE_H

#include "accept.h"
#include "forward.h"
#include "icmp_error.h"

/* A packet to the node's own address: 0 if it was one for somebody behind it, to whom it is addressed now; else NOT_FOR_POD, or a drop. */
call_apart verdict unmasquerade(struct __sk_buff *skb, struct packet *p)
{
	struct masquerade_row *behind;

	if (p->kind == PACKET_ICMP_ERROR)
		return error_to_pod(skb, p, 1);
	/* The node's own fragments are no business of ours: only those to ports that are, are remembered. */
	if (p->fragment == FRAGMENT_LATER || (p->fragment == FRAGMENT_FIRST && is_masquerade_port(p->destination_port))) {
		if (follow_fragment(p) < 0)
			return NOT_FOR_POD;
	}
	behind = masquerade_find(&p->source, p->source_port, &p->destination, p->destination_port, p->protocol);
	if (!behind)
		return NOT_FOR_POD;
	return rewrite_destination(skb, p, &behind->pod_address, behind->pod_port);
}

/*
 * A backend's answer, unmasqueraded, to a client that is no local pod: out under the frontend's address, or up if the node asked. A
 * fragment has its ports by then; to look them up by the client's address, which may be the node's again, would find the masquerade's.
 */
verified_apart verdict return_to_client(struct __sk_buff *skb, struct packet *p)
{
	struct flow f;
	verdict v;

	if (!p)
		return dropped(DROP_MALFORMED);
	if (p->kind == PACKET_PLAIN) {
		conntrack_find(p, &f);
		if (!f.row || f.forward || !(f.row->flags & CT_TRANSLATED))
			return dropped(DROP_NOBODY_BEHIND);
		conntrack_follow(p, &f);
		v = from_backend(skb, p, f.row);
		if (v)
			return v;
	}
	return address_is_node(&p->destination, p->ipv4) ? TC_ACT_OK : send_outside_as_is(skb, p);
}

#endif
