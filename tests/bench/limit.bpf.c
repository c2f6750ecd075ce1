// SPDX-License-Identifier: GPL-2.0
/*
 * The least that a datapath of this kind can do: no table, no connection tracking, no policy. What ours costs beyond these few
 * lines is its own. Addresses and devices are constants, put in before the load.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct limit_config {
	__u32 device;		/* the node's own device */
	__u32 local_address;	/* the local pods as they stand in the header; the last byte tells them apart */
	__u32 local_ifindex[4]; /* host end of the pod whose address ends in 10, 11, 12, 13 */
};

const volatile struct limit_config config SEC(".rodata.config");

static __always_inline __u32 local_pod(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + sizeof(struct ethhdr);

	if ((void *)(ip + 1) > end || skb->protocol != bpf_htons(ETH_P_IP))
		return 0;
	if ((ip->daddr & 0x00ffffff) != (config.local_address & 0x00ffffff))
		return 0;
	__u32 slot = (ip->daddr >> 24) - 10;

	return slot < 4 ? config.local_ifindex[slot] : 0;
}

SEC("tc")
int limit_from_pod(struct __sk_buff *skb)
{
	__u32 ifindex = local_pod(skb);

	return ifindex ? bpf_redirect_peer(ifindex, 0) : bpf_redirect_neigh(config.device, 0, 0, 0);
}

SEC("tc")
int limit_from_netdev(struct __sk_buff *skb)
{
	__u32 ifindex = local_pod(skb);

	return ifindex ? bpf_redirect_peer(ifindex, 0) : TC_ACT_OK;
}

char LICENSE[] SEC("license") = "GPL";
