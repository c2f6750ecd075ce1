// SPDX-License-Identifier: GPL-2.0
/*
 * Sockets (cgroup hooks): who connects or sends to a Service gets one of its backends instead, once, so that no packet has to be translated;
 * and what the socket is told about its peer is put back to the Service's address.
 *
 * Invariant: whatever is left alone here is served by the packet path, so these programs take a frontend only when nothing depends on the
 * packet (FRONTEND_SOCKET), and never send anything away that the packet path would have served.
 */
#include <linux/errno.h>

#include "lib/frontend.h"

TABLE(socket_flows, BPF_MAP_TYPE_LRU_HASH, struct socket_flow_key, struct socket_flow, 65536, 0);

/*
 * A connected datagram socket's cookie -> the backend that it was given, as long as the socket lives: by it the agent tells who has to hear
 * that the backend is gone from who connected to it directly. socket_flows may have forgotten by then; here rows go with their sockets.
 */
TABLE(socket_backends, BPF_MAP_TYPE_LRU_HASH, __u64, struct backend, 16384, 0);

/* Slots that are tried: while rows change, one may be missing for a moment. */
#define SLOTS_TRIED 4

enum answer {
	REFUSE = 0, /* as the kernel wants it from these hooks */
	PROCEED = 1,
};

/* With this error where the kernel lets a hook choose one, else EPERM. */
inline_always enum answer refuse(int error)
{
	if (configured(CONFIG_SET_RETVAL))
		bpf_set_retval(-error);
	return REFUSE;
}

inline_always int in_host_namespace(struct bpf_sock_addr *ctx)
{
	return bpf_get_netns_cookie(ctx) == config.host_netns_cookie;
}

/* Loopback; and the unspecified address, which as a destination means loopback. */
inline_always int address_is_loopback(const struct address *a)
{
	if (address_is_ipv4(a))
		return a->bytes[12] == 127 || !a->words[3];
	return !a->halves[0] && (!a->halves[1] || a->halves[1] == bpf_cpu_to_be64(1));
}

inline_always struct backend *choose_backend(const struct frontend *frontend, __u32 count, __u32 choice)
{
	struct slot_key slot = { .service_id = frontend->service_id, .slot = (__u64)choice * count >> 32 };

	for (int i = 0; i < SLOTS_TRIED; i++) {
		__u32 *id = bpf_map_lookup_elem(&backend_slots, &slot);
		struct backend *backend = id ? bpf_map_lookup_elem(&backends, id) : 0;

		if (backend)
			return backend;
		slot.slot = slot.slot + 1 < count ? slot.slot + 1 : 0;
	}
	return 0;
}

inline_always void remember(__u64 cookie, const struct frontend_key *asked, const struct backend *backend, int connects)
{
	struct socket_flow_key key = { .cookie = cookie, .backend = backend->address, .port = backend->port };
	struct socket_flow flow = { .frontend = asked->address, .port = asked->port };
	/* A socket connects once, but may send many datagrams, which write once; another Service with the same backend takes the row over. */
	struct socket_flow *known = connects ? 0 : bpf_map_lookup_elem(&socket_flows, &key);

	if (!known || known->port != flow.port || !address_equal(&known->frontend, &flow.frontend))
		bpf_map_update_elem(&socket_flows, &key, &flow, BPF_ANY);
}

/*
 * What the destination means, in the packet path's order: a Service's address and port; a port of every node; a port of this node. An address
 * that is a node's own is never refused: whatever the node itself has on other ports stays reachable, even where it is some Service's external IP.
 */
inline_always enum answer resolve(struct bpf_sock_addr *ctx, const struct frontend_key *asked, struct frontend **found)
{
	int loopback = address_is_loopback(&asked->address);
	__u32 kind;

	*found = 0;
	if (!asked->port || (loopback && !in_host_namespace(ctx)))
		return PROCEED;
	*found = bpf_map_lookup_elem(&frontends, asked);
	if (*found)
		return PROCEED;
	kind = loopback ? ROUTE_THIS_NODE : route_kind(route_to(&asked->address));
	switch (kind) {
	case ROUTE_LOCAL_PODS:
	case ROUTE_REMOTE_PODS:
		return PROCEED;
	case ROUTE_NODE:
	case ROUTE_THIS_NODE:
		*found = frontend_of_node_address(asked, kind);
		return PROCEED;
	default:
		return address_of_service(&asked->address) ? REFUSE : PROCEED;
	}
}

/*
 * A backend in place of what was asked for, or 0. A TCP connection gets any. A datagram socket gets the one that follows from its cookie, so
 * that it keeps it while the Service stays as it is, and so that sendto() on a connected one goes where its replies are heard from.
 */
inline_always enum answer translate(struct bpf_sock_addr *ctx, const struct frontend_key *asked, int connects, struct backend **to)
{
	struct frontend *frontend;
	__u64 cookie;
	__u32 count;

	*to = 0;
	if (asked->protocol != IPPROTO_TCP && asked->protocol != IPPROTO_UDP)
		return PROCEED;
	if (resolve(ctx, asked, &frontend) == REFUSE)
		return refuse(ECONNREFUSED);
	if (!frontend || !(frontend->flags & FRONTEND_SOCKET))
		return PROCEED;
	count = frontend->count;
	if (!count)
		return frontend->flags & FRONTEND_DROP_INSIDE ? PROCEED : refuse(ECONNREFUSED);
	cookie = bpf_get_socket_cookie(ctx);
	/* Cookies are handed out in sequence, and every second one may be another kind of socket: multiplied, their high bits are even. */
	*to = choose_backend(frontend, count, asked->protocol == IPPROTO_TCP ? bpf_get_prandom_u32() : cookie * 0x9e3779b97f4a7c15 >> 32);
	if (*to) {
		remember(cookie, asked, *to, connects);
		if (connects && asked->protocol == IPPROTO_UDP)
			bpf_map_update_elem(&socket_backends, &cookie, *to, BPF_ANY);
	}
	return PROCEED;
}

/* user_port is 32 bits wide: the port in network order, as in the low half of a register. */
inline_always enum answer translate_ipv4(struct bpf_sock_addr *ctx, int connects)
{
	struct frontend_key asked = { .port = ctx->user_port, .protocol = ctx->protocol };
	struct backend *to;
	enum answer answer;

	address_from_ipv4(&asked.address, ctx->user_ip4);
	answer = translate(ctx, &asked, connects, &to);
	if (to) {
		ctx->user_ip4 = to->address.words[3];
		ctx->user_port = to->port;
	}
	return answer;
}

inline_always void write_ipv6(struct bpf_sock_addr *ctx, const struct address *address, __be16 port)
{
	ctx->user_ip6[0] = address->words[0];
	ctx->user_ip6[1] = address->words[1];
	ctx->user_ip6[2] = address->words[2];
	ctx->user_ip6[3] = address->words[3];
	ctx->user_port = port;
}

/* An IPv6 socket's IPv4 destination stands in the context as it does in our tables, and so does its backend. */
inline_always enum answer translate_ipv6(struct bpf_sock_addr *ctx, int connects)
{
	struct frontend_key asked = { .port = ctx->user_port, .protocol = ctx->protocol };
	struct backend *to;
	enum answer answer;

	address_from_ipv6(&asked.address, ctx->user_ip6);
	answer = translate(ctx, &asked, connects, &to);
	if (to)
		write_ipv6(ctx, &to->address, to->port);
	return answer;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return translate_ipv4(ctx, 1);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return translate_ipv6(ctx, 1);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return translate_ipv4(ctx, 0);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return translate_ipv6(ctx, 0);
}

/* What this socket asked for, if the address that it is about to be told is that of a backend that it got for it. */
inline_always struct socket_flow *asked_by(struct bpf_sock_addr *ctx, struct socket_flow_key *key)
{
	key->cookie = bpf_get_socket_cookie(ctx);
	return bpf_map_lookup_elem(&socket_flows, key);
}

inline_always enum answer put_back_ipv4(struct bpf_sock_addr *ctx)
{
	struct socket_flow_key key = { .port = ctx->user_port };
	struct socket_flow *flow;

	address_from_ipv4(&key.backend, ctx->user_ip4);
	flow = asked_by(ctx, &key);
	if (flow) {
		ctx->user_ip4 = flow->frontend.words[3];
		ctx->user_port = flow->port;
	}
	return PROCEED;
}

inline_always enum answer put_back_ipv6(struct bpf_sock_addr *ctx)
{
	struct socket_flow_key key = { .port = ctx->user_port };
	struct socket_flow *flow;

	address_from_ipv6(&key.backend, ctx->user_ip6);
	flow = asked_by(ctx, &key);
	if (flow)
		write_ipv6(ctx, &flow->frontend, flow->port);
	return PROCEED;
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return put_back_ipv4(ctx);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return put_back_ipv6(ctx);
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return put_back_ipv4(ctx);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return put_back_ipv6(ctx);
}

/* A port of the node that is a Service's would never hear from anybody who asks the node for it. */
inline_always enum answer permit_bind(struct bpf_sock_addr *ctx, struct frontend_key *asked)
{
	if (!asked->port || !in_host_namespace(ctx))
		return PROCEED;
	if (frontend_of_scope(asked, FRONTEND_NODE_PORT))
		return refuse(EADDRINUSE);
	if (!address_is_zero(&asked->address))
		return PROCEED;
	/* Bound to ::, a socket hears both families. */
	address_from_ipv4(&asked->address, 0);
	return frontend_of_scope(asked, FRONTEND_NODE_PORT) ? refuse(EADDRINUSE) : PROCEED;
}

SEC("cgroup/bind4")
int bind4(struct bpf_sock_addr *ctx)
{
	struct frontend_key asked = { .port = ctx->user_port, .protocol = ctx->protocol };

	address_from_ipv4(&asked.address, ctx->user_ip4);
	return permit_bind(ctx, &asked);
}

SEC("cgroup/bind6")
int bind6(struct bpf_sock_addr *ctx)
{
	struct frontend_key asked = { .port = ctx->user_port, .protocol = ctx->protocol };

	address_from_ipv6(&asked.address, ctx->user_ip6);
	return permit_bind(ctx, &asked);
}

SEC("cgroup/sock_release")
int sock_release(struct bpf_sock *ctx)
{
	__u64 cookie;

	if (ctx->protocol == IPPROTO_UDP) {
		cookie = bpf_get_socket_cookie(ctx);
		/* Most have none: looking takes no lock. */
		if (bpf_map_lookup_elem(&socket_backends, &cookie))
			bpf_map_delete_elem(&socket_backends, &cookie);
	}
	return PROCEED;
}

char licence[] SEC("license") = "GPL";
