/* SPDX-License-Identifier: GPL-2.0 */
/*
 * ICMP errors: what they are about stands inside them, as it was where the error arose. It is put back to what the receiver sent, or
 * path-MTU discovery would not find its socket.
 *
 * Inside, transport checksums are not mended: receivers look at addresses and ports only, and the packet is cut short anyway.
 */
#ifndef ANETD_ICMP_ERROR_H
#define ANETD_ICMP_ERROR_H

#include "conntrack.h"
#include "masquerade.h"
#include "nat.h"
#include "policy.h"

#define ICMP_HEADER 8

/* The packet that the error is about. */
struct subject {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u16 l3_offset;
	__u16 l4_offset;
	__u8 protocol;
};

call_apart verdict parse_subject(struct __sk_buff *skb, const struct packet *p, struct subject *s)
{
	__u8 head[8];

	s->l3_offset = p->l4_offset + ICMP_HEADER;
	s->source_port = 0;
	s->destination_port = 0;
	if (p->ipv4) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, s->l3_offset, &ip, sizeof(ip)) || ip.ihl < 5)
			return dropped(DROP_MALFORMED);
		address_from_ipv4(&s->source, ip.saddr);
		address_from_ipv4(&s->destination, ip.daddr);
		s->protocol = ip.protocol;
		s->l4_offset = s->l3_offset + ip.ihl * 4;
	} else {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, s->l3_offset, &ip, sizeof(ip)))
			return dropped(DROP_MALFORMED);
		__builtin_memcpy(&s->source, &ip.saddr, sizeof(s->source));
		__builtin_memcpy(&s->destination, &ip.daddr, sizeof(s->destination));
		s->protocol = ip.nexthdr;
		s->l4_offset = s->l3_offset + sizeof(ip);
		if (s->protocol == IPPROTO_FRAGMENT) {
			if (bpf_skb_load_bytes(skb, s->l4_offset, head, 8))
				return dropped(DROP_MALFORMED);
			s->protocol = head[0];
			s->l4_offset += 8;
		}
	}
	if (bpf_skb_load_bytes(skb, s->l4_offset, head, 8))
		return dropped(DROP_MALFORMED);
	if (has_ports(s->protocol)) {
		s->source_port = *(__be16 *)head;
		s->destination_port = *(__be16 *)(head + 2);
	} else if (is_icmp(s->protocol)) {
		struct packet inner = { .ipv4 = p->ipv4 };

		set_icmp(&inner, head[0], *(__be16 *)(head + 4));
		s->source_port = inner.source_port;
		s->destination_port = inner.destination_port;
	}
	return 0;
}

/*
 * One end of the subject. An IPv4 header's own checksum changes by as much as the address, the other way, so that the ICMP checksum
 * over both stays right.
 */
call_apart verdict rewrite_subject(struct __sk_buff *skb, const struct packet *p, struct subject *s, struct flow_key *ends, __u32 is_source)
{
	struct address *at = is_source ? &s->source : &s->destination;
	__be16 *port_at = is_source ? &s->source_port : &s->destination_port;
	const struct address *to = &ends->a;
	__be16 port = ends->a_port;
	__u32 checksum = p->l4_offset + ICMP_CHECKSUM_OFFSET;
	__u32 offset;

	if (p->ipv4) {
		__be32 into = to->words[3];

		offset = s->l3_offset + (is_source ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr));
		if (bpf_l3_csum_replace(skb, s->l3_offset + offsetof(struct iphdr, check), at->words[3], into, sizeof(into)) ||
		    bpf_skb_store_bytes(skb, offset, &into, sizeof(into), 0))
			return dropped(DROP_REWRITE_FAILED);
	} else {
		__s64 difference = bpf_csum_diff(at->words, sizeof(*at), (__be32 *)to->words, sizeof(*to), 0);

		offset = s->l3_offset + (is_source ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr));
		if (bpf_l4_csum_replace(skb, checksum, 0, difference, 0) || bpf_skb_store_bytes(skb, offset, to, sizeof(*to), 0))
			return dropped(DROP_REWRITE_FAILED);
	}
	*at = *to;
	if (*port_at == port)
		return 0;
	if (is_icmp(s->protocol))
		offset = s->l4_offset + ICMP_ID_OFFSET;
	else
		offset = s->l4_offset + (is_source ? offsetof(struct udphdr, source) : offsetof(struct udphdr, dest));
	if (bpf_l4_csum_replace(skb, checksum, *port_at, port, sizeof(port)) || bpf_skb_store_bytes(skb, offset, &port, sizeof(port), 0))
		return dropped(DROP_REWRITE_FAILED);
	*port_at = port;
	return 0;
}

inline_always struct conntrack_row *subject_flow(const struct subject *s, int *source_began)
{
	struct conntrack_row *row;
	struct flow_key key;
	int source_is_a = order_ends(&key, &s->source, s->source_port, &s->destination, s->destination_port, s->protocol);

	row = bpf_map_lookup_elem(&conntrack, &key);
	*source_began = row && source_is_a == !(row->flags & CT_INITIATOR_B);
	return row;
}

/* The subject's destination was a backend: its sender, a client, knows it by the frontend's address. So does the error's source. */
inline_always verdict restore_frontend(struct __sk_buff *skb, struct packet *p, struct subject *s, const struct conntrack_row *row)
{
	struct flow_key frontend = { .a = row->translated_address, .a_port = row->translated_port };
	int from_it = address_equal(&p->source, &s->destination);
	verdict v = rewrite_subject(skb, p, s, &frontend, 0);

	return v || !from_it ? v : rewrite_address(skb, p, END_SOURCE, &frontend.a);
}

/*
 * An error for a local pod about a packet that it sent: masquerade undone, then the service translation.
 * TC_ACT_OK: on towards p->destination. NOT_FOR_POD: it is about a packet of the node itself. UNRELATED: about none of the pod's, so that it
 * is to be judged like any packet.
 */
#define NOT_FOR_POD 1
#define UNRELATED 2

verified_apart verdict error_to_pod(struct __sk_buff *skb, struct packet *p, __u32 to_node)
{
	struct conntrack_row *row;
	struct subject s;
	int source_began;
	verdict v;

	if (!p)
		return dropped(DROP_MALFORMED);
	v = parse_subject(skb, p, &s);
	if (v)
		return v;
	if (to_node) {
		struct masquerade_row *behind =
			masquerade_find(&s.destination, s.destination_port, &s.source, s.source_port, s.protocol);
		struct flow_key pod = {};

		if (!behind)
			return NOT_FOR_POD;
		pod.a = behind->pod_address;
		pod.a_port = behind->pod_port;
		v = rewrite_subject(skb, p, &s, &pod, 1);
		if (!v)
			v = rewrite_address(skb, p, END_DESTINATION, &pod.a);
		if (v)
			return v;
	}
	row = subject_flow(&s, &source_began);
	if (!to_node && (!row || !address_equal(&p->destination, &s.source)))
		return UNRELATED;
	if (row && source_began && (row->flags & (CT_TRANSLATED | CT_HAIRPIN)) == CT_TRANSLATED)
		return restore_frontend(skb, p, &s, row);
	return 0;
}

/* An error for a local pod, from somewhere. `how`: enum judge_how. 0: deliver. */
inline_always verdict accept_error(struct __sk_buff *skb, struct packet *p, __u32 how)
{
	verdict v = error_to_pod(skb, p, 0);

	return v == UNRELATED ? judge_alone(skb, p, how) : v;
}

/* An error that a pod sends about a packet that it got. 0, UNRELATED, or a drop. */
verified_apart verdict error_from_pod(struct __sk_buff *skb, struct packet *p)
{
	struct conntrack_row *row;
	struct flow_key end = {};
	struct subject s;
	int source_began;
	verdict v;

	if (!p)
		return dropped(DROP_MALFORMED);
	v = parse_subject(skb, p, &s);
	if (v)
		return v;
	row = subject_flow(&s, &source_began);
	if (!row || !address_equal(&p->source, &s.destination) || !address_equal(&p->destination, &s.source))
		return UNRELATED;
	if (row->flags & CT_SERVICE_ROW) {
		/* What came as from the frontend came from the backend. */
		end.a = row->translated_address;
		end.a_port = row->translated_port;
		if (address_equal(&p->destination, &s.source))
			v = rewrite_address(skb, p, END_DESTINATION, &end.a);
		if (!v)
			v = rewrite_subject(skb, p, &s, &end, 1);
		if (v)
			return v;
		row = subject_flow(&s, &source_began);
	}
	if (!row)
		return 0;
	if (source_began)
		return (row->flags & (CT_TRANSLATED | CT_HAIRPIN)) == CT_TRANSLATED ? restore_frontend(skb, p, &s, row) : 0;
	if (row->masquerade_port && node_address(&end.a, p->ipv4)) {
		end.a_port = row->masquerade_port;
		v = rewrite_subject(skb, p, &s, &end, 0);
		return v ? v : rewrite_address(skb, p, END_SOURCE, &end.a);
	}
	return 0;
}

#endif
