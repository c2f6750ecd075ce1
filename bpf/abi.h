/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Every structure and number that the programs share with agent/datapath/abi.py.
 *
 * Invariants: no implicit padding (a test compares each layout with Python's through BTF); addresses are 128 bits,
 * IPv4 as ::ffff:a.b.c.d; ports are in network order; every other number in host order. A change that an older program
 * or row cannot live with needs a new layout version in the pin path.
 */
#ifndef ANETD_ABI_H
#define ANETD_ABI_H

#include <linux/types.h>

struct address {
	union {
		__u8 bytes[16];
		__u32 words[4];
		__u64 halves[2];
	};
};

/* Loaded into .rodata before the programs are verified: a branch on a constant of it costs nothing. */
enum config_flag {
	CONFIG_VXLAN = 1 << 0, /* remote pods are reached through the overlay device */
	CONFIG_MASQUERADE = 1 << 1, /* pods appear to the outside with the node's address */
	CONFIG_COARSE_CLOCK = 1 << 2, /* the kernel has bpf_ktime_get_coarse_ns (5.11) */
	CONFIG_IPV4 = 1 << 3, /* the node has an IPv4 address */
	CONFIG_IPV6 = 1 << 4,
	CONFIG_SET_RETVAL = 1 << 5, /* the kernel has bpf_set_retval at socket hooks (5.18) */
	CONFIG_DIRECT_RETURN = 1 << 6, /* another node's backend answers clients outside itself */
};

struct datapath_config {
	struct address node_ipv4;
	struct address node_ipv6;
	__u32 device_ifindex;
	__u32 overlay_ifindex; /* 0 in native mode */
	__u32 mtu; /* the largest IP packet that may go to a remote pod without fragmentation */
	__u32 flags; /* enum config_flag */
	__u16 masquerade_first; /* host order, both ends included */
	__u16 masquerade_last;
	__u8 device_mac[6];
	__u8 padding[6];
	__u64 host_netns_cookie; /* of the node's own network namespace; 0: unknown */
};

/* endpoints: struct address (a local pod's) -> struct endpoint */
struct endpoint {
	__u32 ifindex; /* host end of the veth pair */
	__u32 id;
	__u8 pod_mac[6];
	__u8 host_mac[6];
	__u32 flags; /* none yet */
};

/* routes: longest prefix wins */
enum route_kind {
	ROUTE_LOCAL_PODS = 1, /* this node's pod CIDR: endpoints decides */
	ROUTE_REMOTE_PODS = 2, /* next_hop: the other node (native), the tunnel's far end (vxlan) */
	ROUTE_NODE = 3, /* another node's own address; next_hop as above */
	ROUTE_THIS_NODE = 4, /* up the host's stack */
	ROUTE_SERVICES = 5, /* nothing in it may leave untranslated */
	ROUTE_NOT_MASQUERADED = 6, /* outside, but reached with the pod's own address */
};

struct route_key {
	__u32 prefix_length; /* of 128: an IPv4 /24 is 120 */
	__u32 address[4]; /* not struct address: its alignment would put a hole here */
};

struct route {
	__u32 kind; /* enum route_kind */
	__u32 flags; /* none yet */
	struct address next_hop; /* all zero where the kind has none */
};

/* route_generation: one __u32 that changes with every change of routes, after it */

/* frontends */
enum frontend_scope {
	FRONTEND_ADDRESS = 0, /* the key's address */
	FRONTEND_NODE_PORT = 1, /* every address of every node; the key's is all zero (IPv4: ::ffff:0.0.0.0) */
	FRONTEND_HOST_PORT = 2, /* every address of this node; as above */
};

/*
 * Port 0, protocol 0 and FRONTEND_ADDRESS: the address belongs to some Service. What is sent to a port that has no frontend is refused
 * there, whereas nothing answers for an address that no Service has.
 */
struct frontend_key {
	struct address address;
	__be16 port;
	__u8 protocol;
	__u8 scope; /* enum frontend_scope */
	__u32 padding;
};

enum frontend_flag {
	FRONTEND_SOCKET = 1 << 0, /* may be translated at the socket: nothing depends on who asks */
	FRONTEND_DROP_INSIDE = 1 << 1, /* no backend for clients of the cluster, but not for lack of endpoints: drop, do not refuse */
	FRONTEND_DROP_OUTSIDE = 1 << 2, /* the same for the others */
	FRONTEND_SOURCE_RANGES = 1 << 3, /* for clients in source_ranges alone */
	FRONTEND_MAGLEV = 1 << 4, /* maglev has a row for the group of clients outside */
	FRONTEND_ANNOUNCED = 1 << 5, /* of a row with port 0: this node answers when the link is asked who has the address */
};

/* Two groups of backends, which may be the same one: for clients in the cluster (pods, nodes), and for those outside of it. */
struct frontend {
	__u32 service_id; /* of the group inside; names the affinity and the source ranges of both */
	__u32 outside_id; /* 0: as inside, its count too */
	__u16 count; /* slots 0..count-1 of backend_slots exist */
	__u16 outside_count;
	__u16 flags; /* enum frontend_flag */
	__u16 padding;
	__u32 affinity_timeout; /* in the unit of last_seen; 0: no affinity */
};

/* backend_slots: struct slot_key -> __u32 backend id */
struct slot_key {
	__u32 service_id;
	__u32 slot;
};

/* backends: __u32 id -> struct backend. An id belongs to one group: while it is there, the group has the backend. */
struct backend {
	struct address address;
	__be16 port;
	__u8 protocol;
	__u8 flags; /* none yet */
	__u32 padding;
};

/* maglev: __u32 group of backends -> a backend's id by a hash of the client, so that every node answers alike */
#define MAGLEV_SIZE 2039

struct maglev_row {
	__u32 backends[MAGLEV_SIZE];
};

/* source_ranges: longest prefix; a client that is in none of a frontend's is dropped */
struct source_range_key {
	__u32 prefix_length; /* 32 for service_id and the prefix's own length of 128 */
	__u32 service_id;
	__u32 address[4];
};

/* affinity: who was sent where */
struct affinity_key {
	struct address client;
	__u32 service_id;
	__u32 padding;
};

struct affinity_row {
	__u32 backend;
	__u32 last_used; /* as last_seen */
};

/* socket_flows: what a socket translated, so that what it hears is put back */
struct socket_flow_key {
	__u64 cookie;
	struct address backend;
	__be16 port;
	__u8 padding[6];
};

struct socket_flow {
	struct address frontend;
	__be16 port;
	__u8 padding[6];
};

/*
 * Two ends of a flow. As the key of conntrack the lower end (address, then port) is `a`; as the key of masquerade
 * `a` is the far end and `b` the node. An ICMP echo has its identifier as the port of the end that asks, 0 as the other's;
 * protocols without ports have 0 and 0.
 */
struct flow_key {
	struct address a;
	struct address b;
	__be16 a_port;
	__be16 b_port;
	__u8 protocol;
	__u8 padding[3];
};

enum conntrack_state {
	CT_STATE_NEW = 0, /* only the initiator was heard */
	CT_STATE_ESTABLISHED = 1, /* both were */
	CT_STATE_HALF_CLOSED = 2, /* one FIN */
	CT_STATE_CLOSED = 3, /* two FINs, or a RST */
};

enum conntrack_flag {
	CT_INITIATOR_B = 1 << 0, /* b of the key began; else a */
	CT_SERVICE_ROW = 1 << 1, /* client to frontend: translated_* is the backend chosen; the flow has a row of its own */
	CT_TRANSLATED = 1 << 2, /* translated_* is the frontend's address, to be put into replies */
	CT_VIA_TUNNEL = 1 << 3, /* came in through the tunnel: replies to a node go back that way */
	CT_FIN_A = 1 << 4, /* a FIN of a was seen */
	CT_FIN_B = 1 << 5,
	CT_HAIRPIN = 1 << 6, /* a pod to itself through a service: its source was replaced */
	/*
	 * next_hop holds what routes said of the remote end in next_hop_generation: all zero if nothing. With CT_TRANSLATED, whose address is
	 * in that place, they said nothing.
	 */
	CT_NEXT_HOP = 1 << 7,
};

struct conntrack_row {
	__u32 last_seen; /* CLOCK_MONOTONIC in units of 2^30 ns, about a second; written once in that time at most */
	__u8 state; /* enum conntrack_state */
	__u8 flags; /* enum conntrack_flag */
	__be16 masquerade_port; /* 0: the flow is not masqueraded */
	__be16 translated_port;
	__u16 next_hop_generation;
	union {
		__u32 backend_id; /* with CT_SERVICE_ROW */
		__u32 policy_generation; /* without: that of policy_generation in which the forward direction was last allowed; 0: never judged */
	};
	union {
		struct address translated_address;
		struct address next_hop;
	};
	/* Host end of a local pod that was seen to send as this end: spares its packets the look at endpoints. */
	__u32 a_ifindex;
	__u32 b_ifindex;
};

/* masquerade: struct flow_key -> who is behind it: a pod, or a Service's client whose packets were sent on to another node */
struct masquerade_row {
	struct address pod_address;
	__be16 pod_port;
	__u16 padding[3];
};

/* fragments: what later fragments do not carry. Ports as in struct flow_key, source first. */
struct fragment_key {
	struct address source;
	struct address destination;
	__u32 id; /* as found in the packet */
	__u8 protocol;
	__u8 padding[3];
};

struct fragment_row {
	__be16 source_port;
	__be16 destination_port;
};

/* drops: per CPU. Numbers are for ever: they are shown to users and counted by monitoring. */
enum drop_reason {
	DROP_MALFORMED = 1, /* a header that is cut short or contradicts itself */
	DROP_SPOOFED_SOURCE = 2, /* a pod used an address that is not its own */
	DROP_NO_SUCH_POD = 3, /* in this node's pod CIDR, but no endpoint has it */
	DROP_NO_SUCH_SERVICE = 4, /* in the service CIDR, but no Service has the address */
	DROP_NO_BACKEND = 5, /* a frontend without endpoints, or a Service's address and none of its ports */
	DROP_SERVICE_COLLISION = 6, /* two frontends, one backend, one client port: replies could not be told apart */
	DROP_FRAGMENT_WITHOUT_FIRST = 7, /* a later fragment whose first one was not seen */
	DROP_MASQUERADE_EXHAUSTED = 8, /* no free port towards that destination */
	DROP_UNSUPPORTED_PROTOCOL = 9, /* cannot be masqueraded or translated */
	DROP_CONNTRACK_FULL = 10, /* the kernel refused a new row */
	DROP_REWRITE_FAILED = 11, /* a helper that changes the packet failed */
	DROP_NO_TUNNEL = 12, /* set_tunnel_key failed */
	DROP_UNSUPPORTED_LAYER2 = 13, /* from a pod, neither IP nor ARP */
	DROP_NO_LOCAL_BACKEND = 14, /* a frontend of policy Local without an endpoint on this node */
	DROP_NOT_IN_SOURCE_RANGES = 15, /* a client that loadBalancerSourceRanges does not name */
	DROP_TOO_BIG = 16, /* for the way to another node's backend; the sender is told */
	DROP_NOBODY_BEHIND = 17, /* to a port of the node whose flow is over */
	DROP_EGRESS_DENIED = 18, /* no NetworkPolicy lets the pod send that */
	DROP_INGRESS_DENIED = 19, /* no NetworkPolicy lets the pod have that */
};

enum drop_direction {
	DROP_FROM_POD = 1,
	DROP_TO_POD = 2,
	DROP_FROM_NETDEV = 3,
	DROP_TO_NETDEV = 4,
	DROP_FROM_OVERLAY = 5,
	DROP_TO_OVERLAY = 6,
};

struct drop_key {
	__u8 reason; /* enum drop_reason */
	__u8 direction; /* enum drop_direction */
	__u16 padding;
};

struct drop_count {
	__u64 packets;
	__u64 bytes;
};

/* last_drops: one a CPU, written before the kernel is told to free the packet: a tracer at skb:kfree_skb reads there what the kernel does not know. */
struct last_drop {
	__u64 time; /* CLOCK_MONOTONIC, ns */
	__u32 policy_set; /* of DROP_EGRESS_DENIED and DROP_INGRESS_DENIED, else 0 */
	__u8 reason; /* enum drop_reason */
	__u8 direction; /* enum drop_direction */
	__u16 padding;
};

/*
 * NetworkPolicy. A local pod's address leads to the two sets of rules that judge it, a peer's address to its class, and a set, a class, a
 * protocol and a port to the rule that allows. What no row allows is denied.
 */
enum policy_direction {
	POLICY_INGRESS = 0, /* what comes to the pod */
	POLICY_EGRESS = 1, /* what the pod sends */
};

enum isolation_flag {
	ISOLATION_LOG_INGRESS = 1 << 0, /* denied packets to the pod are told */
	ISOLATION_LOG_EGRESS = 1 << 1, /* and those that it sends */
};

/* isolation: struct address (a local pod's) -> struct isolation. A pod without a row is not isolated. */
struct isolation {
	__u32 ingress_set; /* 0: not isolated in that direction. Sets of the two directions never share a number. */
	__u32 egress_set;
	__u32 flags; /* enum isolation_flag */
	__u32 padding;
};

/* classes: struct route_key -> __u32 class of the address, longest prefix; an address without a row has class 0. Never POLICY_CLASS_ANY. */
#define POLICY_CLASS_ANY 0xffffffff

/*
 * policies: longest prefix. A row is for all protocols and ports (POLICY_PREFIX_ANY), for a protocol (POLICY_PREFIX_PROTOCOL), or for as many
 * of its ports as the rest of the prefix leaves open. Looked up for the peer's class, and if there is none for POLICY_CLASS_ANY.
 */
#define POLICY_PREFIX_ANY 64
#define POLICY_PREFIX_PROTOCOL 80

struct policy_key {
	__u32 prefix_length; /* behind this field: 32 set, 32 class, 16 protocol, 16 port */
	__u32 set;
	__u32 class;
	__be16 protocol; /* 6, 17, 132, ...: network order, as all that a prefix may cut */
	__be16 port; /* the destination's, on the pod (egress: on the peer); ICMP and others have none, and only POLICY_PREFIX_ANY allows them */
};

enum policy_flag {
	POLICY_LOG = 1 << 0, /* connections that it allows are told */
};

struct policy_row {
	__u32 rule; /* never 0; names all policies' rules that allow this */
	__u32 flags; /* enum policy_flag */
};

/* policy_generation: one __u32 that changes after every change of the three tables above, never 0 */

/* policy_counts: per CPU, what was judged: each flow's first packet, and one after each change of the tables */
struct policy_count_key {
	__u32 set;
	__u32 rule; /* 0: denied; these are counted one by one */
};

struct policy_count {
	__u64 packets;
	__u64 bytes;
};

/* verdicts: a ring of these. What is denied is told at once, then in sums, once a second and CPU at most (see denials). */
struct verdict_record {
	__u64 time; /* CLOCK_MONOTONIC, ns, of the first packet it stands for */
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 direction; /* enum policy_direction */
	__u8 allowed;
	__u8 padding;
	__u32 set;
	__u32 rule; /* 0 if denied */
	__u32 count; /* packets that it stands for; of an allowed one 1 */
	__u32 padding2;
};

/* denials: LRU, per CPU: what is denied again and again, without the source's port, as the log adds it up */
struct denial_key {
	struct address source;
	struct address destination;
	__be16 destination_port;
	__u8 protocol;
	__u8 direction; /* enum policy_direction */
	__u32 padding;
};

struct denial {
	__u64 told_at; /* CLOCK_MONOTONIC, ns: when this CPU last sent a record; 0: never */
	__u64 untold_since; /* of the first packet after that, if there is one */
	__u32 untold; /* packets since then */
	__u32 set; /* that denied the first one */
};

/* verdict_budget: per CPU; records that may be sent, refilled by time */
struct verdict_budget {
	__u64 refilled_at; /* CLOCK_MONOTONIC, ns */
	__u64 tokens;
};

/* verdict_losses: per CPU array of __u64 by this: packets that no record stands for */
enum verdict_loss {
	VERDICT_LOSS_RING_FULL = 0, /* nobody read it in time */
	VERDICT_LOSS_OVER_BUDGET = 1, /* more of them a second than a CPU may send */
	VERDICT_LOSSES = 2,
};

#endif
