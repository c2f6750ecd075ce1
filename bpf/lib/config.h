/* SPDX-License-Identifier: GPL-2.0 */
/* What every program includes first: the kernel's types, our shared structures, and the node's read-only configuration. */
#ifndef ANETD_CONFIG_H
#define ANETD_CONFIG_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "../abi.h"

#define inline_always static __always_inline
/* A function of its own: keeps rare paths out of the common one's instruction cache and registers. */
#define call_apart static __attribute__((noinline, unused))
/*
 * As call_apart, and verified once, by its types alone, instead of once for every state it is called in. Takes a context, numbers
 * and pointers to fully written structures of numbers; it must check that they are not null.
 */
#define verified_apart __attribute__((noinline))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define AF_INET 2
#define AF_INET6 10

/*
 * Alone in its section, so that Python can write it at offset 0 before the programs are loaded. The map is frozen then, the
 * verifier sees constants and removes the branches that this node does not take.
 */
const volatile struct datapath_config config SEC(".rodata.config");

inline_always int configured(enum config_flag flag)
{
	return config.flags & flag;
}

/*
 * What a pod's program has decided must not be decided again at the device's egress. A mark does not survive the crossing
 * into another namespace, so a pod cannot set it.
 */
#define MARK_HANDLED 0x0a7e0001

/* The VXLAN network id of all pods of a cluster. */
#define TUNNEL_ID 1

/*
 * Programs return a TC action, or a drop reason below zero which the entry point counts.
 */
typedef int verdict;

inline_always verdict dropped(enum drop_reason reason)
{
	return -(int)reason;
}

#endif
