/* SPDX-License-Identifier: GPL-2.0 */
/* Later fragments carry no ports: the first one's are kept for them, under the addresses seen at the same hook. */
#ifndef ANETD_FRAGMENT_H
#define ANETD_FRAGMENT_H

#include "parse.h"
#include "tables.h"

verified_apart verdict follow_fragment(struct packet *p)
{
	struct fragment_row *row, first;
	struct fragment_key key = {};

	if (!p)
		return dropped(DROP_MALFORMED);
	key.source = p->source;
	key.destination = p->destination;
	key.id = p->fragment_id;
	key.protocol = p->protocol;
	if (p->fragment == FRAGMENT_FIRST) {
		first.source_port = p->source_port;
		first.destination_port = p->destination_port;
		bpf_map_update_elem(&fragments, &key, &first, BPF_ANY);
		return 0;
	}
	row = bpf_map_lookup_elem(&fragments, &key);
	if (!row)
		return dropped(DROP_FRAGMENT_WITHOUT_FIRST);
	p->source_port = row->source_port;
	p->destination_port = row->destination_port;
	return 0;
}

/* Ports for a fragment; nothing to do for a whole packet. To be called before a flow is looked up. */
inline_always verdict complete_ports(struct packet *p)
{
	return likely(p->fragment == FRAGMENT_NONE) ? 0 : follow_fragment(p);
}

#endif
