"""What every probe has of network namespaces: which of them are this node's, and whose a packet, a socket or a process is. Pure.

A probe that knows a namespace as another node's says nothing of it. One that it does not know is told, and looked up afterwards
(`agent.trace.session`), so that a new pod's first packet is not lost.
"""

from __future__ import annotations

import sys

THIS_NODE, FOREIGN = 1, 2
"""What the table `namespaces` says of a network namespace."""

MEMBERS = ("net.ns.inum", "sock.__sk_common.skc_net.net", "task_struct.nsproxy", "nsproxy.net_ns")
"""What of the kernel's structures `TEXT` reads."""

TEXT = (
    f"#define FOREIGN {FOREIGN}\n"
    """
#define FIELD(type, offset) (*(type *)((char *)ctx + (offset)))
#define READ(to, from, offset) bpf_probe_read_kernel(&(to), sizeof(to), (void *)((from) + (offset)))

BPF_RINGBUF_OUTPUT(events, 256);
BPF_HASH(namespaces, u32, u32, 65536);

static inline u32 number_of(u64 net)
{
	u32 number = 0;

	if (net)
		READ(number, net, $net_ns_inum);
	return number;
}

static inline u32 of_socket(u64 sk)
{
	u64 net = 0;

	if (sk)
		READ(net, sk, $sock___sk_common_skc_net_net);
	return number_of(net);
}

static inline u32 of_process(void)
{
	u64 proxy = 0, net = 0;

	READ(proxy, (u64)bpf_get_current_task(), $task_struct_nsproxy);
	if (proxy)
		READ(net, proxy, $nsproxy_net_ns);
	return number_of(net);
}

static inline int is_foreign(u32 netns)
{
	u32 *kind = namespaces.lookup(&netns);

	return kind && *kind == FOREIGN;
}
"""
)
"""C for the beginning of a probe's `string.Template`; `events` is the ring that its records go to."""


def decode_netns(record: bytes) -> int:
    """The network namespace alone, of a record that begins with two u64: most of what is not this node's is passed over by it."""
    return int.from_bytes(record[16:20], sys.byteorder)
