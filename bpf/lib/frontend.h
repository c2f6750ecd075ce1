/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Which frontend a packet was sent to, if any.
 *
 * Precedence: a frontend of the very address; a node port, at an address of any node; a host port, at an address of this node.
 * A node port with a group of its own for clients outside (externalTrafficPolicy Local) is each node's own affair: at another node's
 * address it is left to that node, which has other backends or none.
 */
#ifndef ANETD_FRONTEND_H
#define ANETD_FRONTEND_H

#include "conntrack.h"
#include "route.h"

inline_always __u32 route_kind(const struct route *route)
{
	return route ? route->kind : 0;
}

inline_always struct frontend *frontend_of_scope(const struct frontend_key *asked, enum frontend_scope scope)
{
	struct frontend_key key = { .port = asked->port, .protocol = asked->protocol, .scope = scope };

	if (address_is_ipv4(&asked->address))
		address_from_ipv4(&key.address, 0);
	return bpf_map_lookup_elem(&frontends, &key);
}

/* Of an address and port of which no frontend is known, where the address is that of a node of this kind. */
inline_always struct frontend *frontend_of_node_address(const struct frontend_key *asked, __u32 kind)
{
	struct frontend *found = frontend_of_scope(asked, FRONTEND_NODE_PORT);

	if (kind != ROUTE_THIS_NODE)
		return found && !found->outside_id ? found : 0;
	return found ? found : frontend_of_scope(asked, FRONTEND_HOST_PORT);
}

inline_always void asked_by_packet(struct frontend_key *asked, const struct packet *p)
{
	asked->address = p->destination;
	asked->port = p->destination_port;
	asked->protocol = p->protocol;
	asked->scope = FRONTEND_ADDRESS;
	asked->padding = 0;
}

inline_always struct frontend *frontend_at(const struct packet *p)
{
	struct frontend_key asked;

	asked_by_packet(&asked, p);
	return bpf_map_lookup_elem(&frontends, &asked);
}

/* For a packet to the address of a node. */
call_apart struct frontend *frontend_of_node(const struct packet *p, __u32 kind)
{
	struct frontend_key asked;

	asked_by_packet(&asked, p);
	return frontend_of_node_address(&asked, kind);
}

inline_always int is_node_kind(__u32 kind)
{
	return kind == ROUTE_NODE || kind == ROUTE_THIS_NODE;
}

call_apart struct frontend *find_frontend(const struct packet *p)
{
	struct frontend *found = frontend_at(p);
	__u32 kind;

	if (found)
		return found;
	kind = address_is_node(&p->destination, p->ipv4) ? ROUTE_THIS_NODE : route_kind(route_to(&p->destination));
	return is_node_kind(kind) ? frontend_of_node(p, kind) : 0;
}

/* The row of an address that belongs to some Service; 0 if it belongs to none. */
inline_always struct frontend *address_of_service(const struct address *address)
{
	struct frontend_key key = { .address = *address };

	return bpf_map_lookup_elem(&frontends, &key);
}

call_apart int in_source_ranges(__u32 service_id, const struct address *client)
{
	struct source_range_key key = { .prefix_length = 32 + 128, .service_id = service_id };

	key.address[0] = client->words[0];
	key.address[1] = client->words[1];
	key.address[2] = client->words[2];
	key.address[3] = client->words[3];
	return bpf_map_lookup_elem(&source_ranges, &key) != 0;
}

#endif
