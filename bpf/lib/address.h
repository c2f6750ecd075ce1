/* SPDX-License-Identifier: GPL-2.0 */
/* Addresses of both families as 128 bits. */
#ifndef ANETD_ADDRESS_H
#define ANETD_ADDRESS_H

#include "config.h"

#define MAPPED_WORD bpf_htonl(0xffff)

/* Half by half: a load of eight bytes that two stores of four have just written stalls. */
inline_always void address_from_ipv4(struct address *to, __be32 ipv4)
{
	to->halves[0] = 0;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	to->halves[1] = (__u64)ipv4 << 32 | MAPPED_WORD;
#else
	to->halves[1] = (__u64)MAPPED_WORD << 32 | ipv4;
#endif
}

/* From a packet, where nothing is aligned; the kernel allows that wherever the processor does. */
inline_always void address_from_ipv6(struct address *to, const void *ipv6)
{
	to->halves[0] = ((const __u64 *)ipv6)[0];
	to->halves[1] = ((const __u64 *)ipv6)[1];
}

inline_always int address_is_ipv4(const struct address *a)
{
	return a->halves[0] == 0 && a->words[2] == MAPPED_WORD;
}

inline_always int address_equal(const struct address *a, const struct address *b)
{
	return a->halves[1] == b->halves[1] && a->halves[0] == b->halves[0];
}

inline_always int address_is_zero(const struct address *a)
{
	return !(a->halves[0] | a->halves[1]);
}

/* The node's own, by the family of a packet. Field by field: the frozen section then folds into constants. */
inline_always int address_is_node(const struct address *a, int ipv4)
{
	if (ipv4)
		return configured(CONFIG_IPV4) && a->words[3] == config.node_ipv4.words[3];
	return configured(CONFIG_IPV6) && a->halves[1] == config.node_ipv6.halves[1] && a->halves[0] == config.node_ipv6.halves[0];
}

inline_always int node_address(struct address *to, int ipv4)
{
	if (ipv4) {
		to->halves[0] = config.node_ipv4.halves[0];
		to->halves[1] = config.node_ipv4.halves[1];
		return configured(CONFIG_IPV4);
	}
	to->halves[0] = config.node_ipv6.halves[0];
	to->halves[1] = config.node_ipv6.halves[1];
	return configured(CONFIG_IPV6);
}

/* What the host's stack decides: multicast and broadcast, link-local (with the pods' gateway), loopback. */
inline_always int address_is_for_host_stack(const struct address *a, int ipv4)
{
	if (ipv4) {
		__u32 first = a->bytes[12];

		return first >= 224 || first == 127 || (first == 169 && a->bytes[13] == 254);
	}
	return a->bytes[0] == 0xff || (a->bytes[0] == 0xfe && (a->bytes[1] & 0xc0) == 0x80);
}

/*
 * A pod that reaches itself through a Service sees another source: what it answers to its own address would not leave it. IPv4 has the
 * gateway's; for IPv6 that is link-local, from which a wildcard socket would answer with a link-local address, so there is one of its own.
 */
#define GATEWAY_IPV4 bpf_htonl(0xa9fe0101) /* 169.254.1.1 */
#define HAIRPIN_IPV6_HIGH bpf_htonl(0xfd616e65) /* fd61:6e65:7464::1 */
#define HAIRPIN_IPV6_LOW bpf_htonl(0x74640000)

inline_always void hairpin_address(struct address *to, int ipv4)
{
	if (ipv4) {
		address_from_ipv4(to, GATEWAY_IPV4);
	} else {
		to->words[0] = HAIRPIN_IPV6_HIGH;
		to->words[1] = HAIRPIN_IPV6_LOW;
		to->words[2] = 0;
		to->words[3] = bpf_htonl(1);
	}
}

inline_always int address_is_hairpin(const struct address *a)
{
	struct address hairpin;

	hairpin_address(&hairpin, address_is_ipv4(a));
	return address_equal(a, &hairpin);
}

#endif
