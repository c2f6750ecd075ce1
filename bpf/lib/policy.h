/* SPDX-License-Identifier: GPL-2.0 */
/*
 * NetworkPolicy: whether a flow may be.
 *
 * A flow is judged by what its initiator sends, on the ends that the pods have, behind service translation. Its row of conntrack says in which
 * generation of the tables it was last allowed, so the packets of a flow that goes on cost a look at one number; replies ride on the row.
 * Whoever of the two ends is a local pod has a say: the source by its egress, the destination by its ingress. One row is stamped for both,
 * so whoever judges asks both.
 *
 * Never denied: what is between a pod and its own node, a pod and itself. Only the hooks that the node's own packets pass know the node by
 * its address: by a wire anybody may use it.
 */
#ifndef ANETD_POLICY_H
#define ANETD_POLICY_H

#include "conntrack.h"
#include "frontend.h"

#define SECOND_NS 1000000000ULL
#define VERDICTS_A_SECOND 2000 /* per CPU, and as many at once */

enum judge_how {
	JUDGE_SOURCE_IS_A = 1 << 0, /* of the flow's key */
	JUDGE_BY_WIRE = 1 << 1, /* came in by a device: the source may be anybody's, and its egress was its own node's affair */
};

/* What is asked of one end, and the answer. */
struct judgement {
	__u32 set; /* 0: nobody asks */
	__u32 direction; /* enum policy_direction */
	__u32 log_denied;
	__u32 rule; /* 0: denied */
	__u32 log_allowed;
};

/* A packet before its judges, and their scratch: the stack is short, and nothing else runs on this CPU meanwhile. */
struct case_file {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 protocol;
	struct judgement egress;
	struct judgement ingress;
	struct route_key peer;
	struct policy_key asked;
	struct denial_key denial;
	struct verdict_record record;
	struct bpf_fib_lookup way;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct case_file);
	__uint(max_entries, 1);
} case_files SEC(".maps");

inline_always __u32 policy_generation_now(void)
{
	__u32 zero = 0, *generation = bpf_map_lookup_elem(&policy_generation, &zero);

	return generation ? *generation : 0;
}

/* Whether a forward packet of a known flow has to be judged. */
inline_always int must_judge(const struct conntrack_row *row, const struct packet *p, __u32 how)
{
	if (unlikely(row->policy_generation != policy_generation_now()))
		return 1;
	/* The node's own flows are stamped without a question, which must not serve who borrows its address. */
	return how & JUDGE_BY_WIRE && unlikely(address_is_node(&p->source, p->ipv4));
}

/* Precedence: a row of the peer's class, then one of any; of each the longest prefix. The compiler names in the first all that allow. */
call_apart struct policy_row *find_rule(struct case_file *file, const struct address *peer, __u32 set)
{
	struct policy_row *row;
	__u32 *class;

	file->peer.prefix_length = 128;
	file->peer.address[0] = peer->words[0];
	file->peer.address[1] = peer->words[1];
	file->peer.address[2] = peer->words[2];
	file->peer.address[3] = peer->words[3];
	class = bpf_map_lookup_elem(&classes, &file->peer);
	file->asked.prefix_length = 96;
	file->asked.set = set;
	file->asked.class = class ? *class : 0;
	file->asked.protocol = bpf_htons(file->protocol);
	file->asked.port = has_ports(file->protocol) ? file->destination_port : 0;
	row = bpf_map_lookup_elem(&policies, &file->asked);
	if (row)
		return row;
	file->asked.class = POLICY_CLASS_ANY;
	return bpf_map_lookup_elem(&policies, &file->asked);
}

call_apart void count_judged(__u32 set, __u32 rule, __u32 bytes)
{
	struct policy_count_key key = { .set = set, .rule = rule };
	struct policy_count *count = bpf_map_lookup_elem(&policy_counts, &key);

	if (count) {
		count->packets++;
		count->bytes += bytes;
	} else {
		struct policy_count first = { .packets = 1, .bytes = bytes };

		bpf_map_update_elem(&policy_counts, &key, &first, BPF_NOEXIST);
	}
}

inline_always void lose_verdict(__u32 why)
{
	__u64 *lost = bpf_map_lookup_elem(&verdict_losses, &why);

	if (lost)
		(*lost)++;
}

inline_always int take_token(__u64 now)
{
	__u32 zero = 0;
	struct verdict_budget *budget = bpf_map_lookup_elem(&verdict_budget, &zero);
	__u64 fresh = 0;

	if (!budget)
		return 0;
	if (now > budget->refilled_at)
		fresh = (now - budget->refilled_at) / (SECOND_NS / VERDICTS_A_SECOND);
	if (fresh >= VERDICTS_A_SECOND) {
		budget->tokens = VERDICTS_A_SECOND;
		budget->refilled_at = now;
	} else if (fresh) {
		budget->tokens += fresh;
		if (budget->tokens > VERDICTS_A_SECOND)
			budget->tokens = VERDICTS_A_SECOND;
		budget->refilled_at += fresh * (SECOND_NS / VERDICTS_A_SECOND);
	}
	if (!budget->tokens)
		return 0;
	budget->tokens--;
	return 1;
}

/*
 * Into the ring, if there are a token and room; else the packet is counted as lost. Nobody is woken: who reads comes by often enough, and
 * waking a process for every connection would be most of what the log costs.
 */
call_apart int tell(struct case_file *file, const struct judgement *j, __u64 since, __u32 count)
{
	struct verdict_record *record = &file->record;

	if (!take_token(bpf_ktime_get_ns())) {
		lose_verdict(VERDICT_LOSS_OVER_BUDGET);
		return 0;
	}
	record->time = since;
	record->source = file->source;
	record->destination = file->destination;
	record->source_port = file->source_port;
	record->destination_port = file->destination_port;
	record->protocol = file->protocol;
	record->direction = j->direction;
	record->allowed = j->rule != 0;
	record->set = j->set;
	record->rule = j->rule;
	record->count = count;
	if (bpf_ringbuf_output(&verdicts, record, sizeof(*record), BPF_RB_NO_WAKEUP)) {
		lose_verdict(VERDICT_LOSS_RING_FULL);
		return 0;
	}
	return 1;
}

/* The first at once, then at most one record a second and CPU with the sum. What could not be told stays in the sum, but for the last. */
call_apart void tell_denied(struct case_file *file, const struct judgement *j)
{
	__u64 now = bpf_ktime_get_ns(), since = now;
	struct denial *known, first = {};
	__u32 count = 1;

	file->denial.source = file->source;
	file->denial.destination = file->destination;
	file->denial.destination_port = file->destination_port;
	file->denial.protocol = file->protocol;
	file->denial.direction = j->direction;
	file->denial.padding = 0;
	known = bpf_map_lookup_elem(&denials, &file->denial);
	if (known) {
		if (now - known->told_at < SECOND_NS) {
			if (!known->untold)
				known->untold_since = now;
			known->untold++;
			return;
		}
		if (known->untold)
			since = known->untold_since;
		count += known->untold;
	}
	if (!tell(file, j, since, count))
		return;
	if (known) {
		known->told_at = now;
		known->untold = 0;
		known->set = j->set;
	} else {
		first.told_at = now;
		first.set = j->set;
		bpf_map_update_elem(&denials, &file->denial, &first, BPF_ANY);
	}
}

inline_always void note_denying_set(__u32 set)
{
	__u32 zero = 0;
	struct last_drop *last = bpf_map_lookup_elem(&last_drops, &zero);

	if (last)
		last->policy_set = set;
}

/* Whether the set allows what is between its pod and `peer`. */
call_apart int is_allowed(struct __sk_buff *skb, struct case_file *file, struct judgement *j, const struct address *peer)
{
	struct policy_row *row = find_rule(file, peer, j->set);

	if (row) {
		j->rule = row->rule;
		j->log_allowed = row->flags & POLICY_LOG;
	}
	count_judged(j->set, j->rule, skb->len);
	if (j->rule)
		return 1;
	note_denying_set(j->set);
	if (j->log_denied)
		tell_denied(file, j);
	return 0;
}

/* The gateway is the pod's next hop; other addresses of 169.254.0.0/16 may be the node's, or be reached through it. */
inline_always int is_beyond_gateway(const struct address *a)
{
	return a->bytes[12] == 169 && a->bytes[13] == 254 && a->words[3] != GATEWAY_IPV4;
}

/* Whether the kernel would send an IPv4 packet on, instead of keeping it. */
inline_always int leaves_node(struct __sk_buff *skb, struct case_file *file)
{
	__builtin_memset(&file->way, 0, sizeof(file->way));
	file->way.family = AF_INET;
	file->way.ifindex = skb->ifindex;
	file->way.ipv4_src = file->source.words[3];
	file->way.ipv4_dst = file->destination.words[3];
	return bpf_fib_lookup(skb, &file->way, sizeof(file->way), 0) != BPF_FIB_LKUP_RET_NOT_FWDED;
}

inline_always int is_of_this_node(const struct address *a)
{
	int ipv4 = address_is_ipv4(a);

	return address_is_for_host_stack(a, ipv4) || address_is_node(a, ipv4) || route_kind(route_to(a)) == ROUTE_THIS_NODE;
}

call_apart int is_never_denied(struct __sk_buff *skb, struct case_file *file)
{
	if (address_equal(&file->source, &file->destination) || address_is_hairpin(&file->source) || is_of_this_node(&file->source))
		return 1;
	if (address_is_ipv4(&file->destination) && is_beyond_gateway(&file->destination))
		return !leaves_node(skb, file);
	return is_of_this_node(&file->destination);
}

/* Asks the pods among source and destination. `begins`: that it is allowed is told, if its rule says so. */
inline_always verdict decide(struct __sk_buff *skb, struct case_file *file, __u32 how, int begins)
{
	struct isolation *from = how & JUDGE_BY_WIRE ? 0 : bpf_map_lookup_elem(&isolation, &file->source);
	struct isolation *to = bpf_map_lookup_elem(&isolation, &file->destination);
	struct judgement *egress = &file->egress, *ingress = &file->ingress;

	__builtin_memset(egress, 0, sizeof(*egress));
	__builtin_memset(ingress, 0, sizeof(*ingress));
	if (from) {
		egress->set = from->egress_set;
		egress->direction = POLICY_EGRESS;
		egress->log_denied = from->flags & ISOLATION_LOG_EGRESS;
	}
	if (to) {
		ingress->set = to->ingress_set;
		ingress->direction = POLICY_INGRESS;
		ingress->log_denied = to->flags & ISOLATION_LOG_INGRESS;
	}
	if (!egress->set && !ingress->set)
		return 0;
	if (!(how & JUDGE_BY_WIRE) && is_never_denied(skb, file))
		return 0;
	if (egress->set && !is_allowed(skb, file, egress, &file->destination))
		return dropped(DROP_EGRESS_DENIED);
	if (ingress->set && !is_allowed(skb, file, ingress, &file->source))
		return dropped(DROP_INGRESS_DENIED);
	if (begins && egress->log_allowed)
		tell(file, egress, bpf_ktime_get_ns(), 1);
	if (begins && ingress->log_allowed)
		tell(file, ingress, bpf_ktime_get_ns(), 1);
	return 0;
}

/*
 * A forward packet of the flow between `ends`, whose row is, or will be, `row`: 0 and the stamp in the row, or the drop. A row that was never
 * stamped is that of a connection that begins.
 */
verified_apart verdict judge(struct __sk_buff *skb, const struct flow_key *ends, struct conntrack_row *row, __u32 how)
{
	__u32 zero = 0, generation = policy_generation_now(); /* before the tables that it vouches for */
	struct case_file *file = bpf_map_lookup_elem(&case_files, &zero);
	verdict v;

	if (!ends || !row || !file)
		return dropped(DROP_MALFORMED);
	if (how & JUDGE_SOURCE_IS_A) {
		file->source = ends->a;
		file->destination = ends->b;
		file->source_port = ends->a_port;
		file->destination_port = ends->b_port;
	} else {
		file->source = ends->b;
		file->destination = ends->a;
		file->source_port = ends->b_port;
		file->destination_port = ends->a_port;
	}
	file->protocol = ends->protocol;
	v = decide(skb, file, how, !row->policy_generation);
	if (!v && !(row->flags & CT_SERVICE_ROW))
		row->policy_generation = generation;
	return v;
}

inline_always verdict judge_flow(struct __sk_buff *skb, const struct flow *f, struct conntrack_row *row, __u32 how)
{
	return judge(skb, &f->key, row, how | (f->source_is_a ? JUDGE_SOURCE_IS_A : 0));
}

/* A packet that belongs to no flow: an ICMP error about nothing that is known, say. No connection, so that it is allowed is not told. */
verified_apart verdict judge_alone(struct __sk_buff *skb, const struct packet *p, __u32 how)
{
	__u32 zero = 0;
	struct case_file *file = bpf_map_lookup_elem(&case_files, &zero);

	if (!p || !file)
		return dropped(DROP_MALFORMED);
	file->source = p->source;
	file->destination = p->destination;
	file->source_port = 0;
	file->destination_port = 0;
	file->protocol = p->protocol;
	return decide(skb, file, how, 0);
}

#endif
