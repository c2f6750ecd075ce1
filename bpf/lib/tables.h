/* SPDX-License-Identifier: GPL-2.0 */
/*
 * All tables, shared by all programs by their pins. Sizes here are the defaults; Python sets its own before they are made.
 * Tables that hold few rows of many possible are not preallocated; those written per flow are.
 */
#ifndef ANETD_TABLES_H
#define ANETD_TABLES_H

#include "config.h"

#define TABLE(NAME, TYPE, KEY, VALUE, ROWS, FLAGS)      \
	struct {                                        \
		__uint(type, TYPE);                     \
		__type(key, KEY);                       \
		__type(value, VALUE);                   \
		__uint(max_entries, ROWS);              \
		__uint(map_flags, FLAGS);               \
		__uint(pinning, LIBBPF_PIN_BY_NAME);    \
	} NAME SEC(".maps")

TABLE(endpoints, BPF_MAP_TYPE_HASH, struct address, struct endpoint, 4096, BPF_F_NO_PREALLOC);
TABLE(routes, BPF_MAP_TYPE_LPM_TRIE, struct route_key, struct route, 16384, BPF_F_NO_PREALLOC);
TABLE(route_generation, BPF_MAP_TYPE_ARRAY, __u32, __u32, 1, 0);
TABLE(frontends, BPF_MAP_TYPE_HASH, struct frontend_key, struct frontend, 65536, BPF_F_NO_PREALLOC);
TABLE(backend_slots, BPF_MAP_TYPE_HASH, struct slot_key, __u32, 262144, BPF_F_NO_PREALLOC);
TABLE(backends, BPF_MAP_TYPE_HASH, __u32, struct backend, 131072, BPF_F_NO_PREALLOC);
TABLE(maglev, BPF_MAP_TYPE_HASH, __u32, struct maglev_row, 8192, BPF_F_NO_PREALLOC);
TABLE(source_ranges, BPF_MAP_TYPE_LPM_TRIE, struct source_range_key, __u32, 65536, BPF_F_NO_PREALLOC);
TABLE(affinity, BPF_MAP_TYPE_LRU_HASH, struct affinity_key, struct affinity_row, 65536, 0);
TABLE(conntrack, BPF_MAP_TYPE_LRU_HASH, struct flow_key, struct conntrack_row, 131072, 0);
TABLE(masquerade, BPF_MAP_TYPE_LRU_HASH, struct flow_key, struct masquerade_row, 65536, 0);
TABLE(fragments, BPF_MAP_TYPE_LRU_HASH, struct fragment_key, struct fragment_row, 8192, 0);
TABLE(isolation, BPF_MAP_TYPE_HASH, struct address, struct isolation, 8192, BPF_F_NO_PREALLOC);
TABLE(classes, BPF_MAP_TYPE_LPM_TRIE, struct route_key, __u32, 131072, BPF_F_NO_PREALLOC);
TABLE(policies, BPF_MAP_TYPE_LPM_TRIE, struct policy_key, struct policy_row, 262144, BPF_F_NO_PREALLOC);
TABLE(policy_generation, BPF_MAP_TYPE_ARRAY, __u32, __u32, 1, 0);
TABLE(policy_counts, BPF_MAP_TYPE_PERCPU_HASH, struct policy_count_key, struct policy_count, 16384, BPF_F_NO_PREALLOC);
TABLE(denials, BPF_MAP_TYPE_LRU_PERCPU_HASH, struct denial_key, struct denial, 8192, 0);
TABLE(verdict_budget, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct verdict_budget, 1, 0);
TABLE(verdict_losses, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, VERDICT_LOSSES, 0);
TABLE(last_drops, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct last_drop, 1, 0);
TABLE(drops, BPF_MAP_TYPE_PERCPU_HASH, struct drop_key, struct drop_count, 256, 0);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20); /* bytes */
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} verdicts SEC(".maps");

#endif
