/* SPDX-License-Identifier: GPL-2.0 */
/* Strangers on a moved connection's old tuple.
 *
 * The peer of a moved connection is elsewhere, but its socket here keeps the identity tuple for life. Whoever
 * owns the peer's old address now may come from the very same port: to the kernel its SYN would belong to the
 * moved connection. So the stranger is given a shadow port: its segments reach the kernel from a port that
 * nobody uses, and what the kernel answers leaves to the stranger's own. Nothing but ports is rewritten, and
 * no agent is asked. An entry stays until newer ones need its room: the same stranger may come again. */
#pragma once

#include "maps.h"
#include "packet.h"

/* Below what hosts usually draw their own source ports from. */
#define SHADOW_FIRST 1024
#define SHADOW_COUNT 31744
#define SHADOW_TRIES 8

/* A plain SYN. */
static __always_inline int begins(const struct packet *p)
{
	return (p->flags & (TCPHDR_SYN | TCPHDR_ACK | TCPHDR_RST | TCPHDR_FIN)) == TCPHDR_SYN;
}

static __always_inline int shadows_exist(void)
{
	u32 zero = 0;
	u32 *exist = bpf_map_lookup_elem(&shadowing, &zero);

	return exist && *exist;
}

static __always_inline int tuple_in_use(struct __sk_buff *skb, const struct tuple *t)
{
	struct bpf_sock_tuple key = {};
	struct bpf_sock *sk;
	int used;
	u32 size;

	if (is_mapped(t->remote)) {
		key.ipv4.saddr = v4_of(t->remote);
		key.ipv4.daddr = v4_of(t->local);
		key.ipv4.sport = t->remote_port;
		key.ipv4.dport = t->local_port;
		size = sizeof(key.ipv4);
	} else {
		__builtin_memcpy(key.ipv6.saddr, t->remote, 16);
		__builtin_memcpy(key.ipv6.daddr, t->local, 16);
		key.ipv6.sport = t->remote_port;
		key.ipv6.dport = t->local_port;
		size = sizeof(key.ipv6);
	}
	sk = bpf_skc_lookup_tcp(skb, &key, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return 0;
	used = sk->state != BPF_TCP_LISTEN;
	bpf_sk_release(sk);
	return used;
}

/* Gives a stranger's SYN a shadow port. */
static __always_inline int make_shadow(struct __sk_buff *skb, const struct packet *p, struct tuple *inside)
{
	u32 zero = 0, one = 1;

	*inside = p->tuple;
	for (int i = 0; i < SHADOW_TRIES; i++) {
		inside->remote_port = bpf_htons(SHADOW_FIRST + bpf_get_prandom_u32() % SHADOW_COUNT);
		if (bpf_map_lookup_elem(&shadows_out, inside) || bpf_map_lookup_elem(&wires, inside) ||
		    bpf_map_lookup_elem(&arrivals, inside) || tuple_in_use(skb, inside))
			continue;
		if (bpf_map_update_elem(&shadows_out, inside, &p->tuple, BPF_ANY) ||
		    bpf_map_update_elem(&shadows_in, &p->tuple, inside, BPF_ANY)) {
			count(COUNTER_MAP_FULL);
			return 0;
		}
		bpf_map_update_elem(&shadowing, &zero, &one, BPF_ANY);
		count(COUNTER_STRANGER_SHADOWED);
		return 1;
	}
	return 0;
}

/* A segment of a stranger that has a shadow port. */
static __always_inline int into_shadow(struct __sk_buff *skb, const struct packet *p, const struct tuple *inside)
{
	struct tuple to = *inside;

	return rewrite(skb, p, 0, &to) ? TC_ACT_OK : TC_ACT_SHOT;
}

/* What leaves to a shadow port leaves to the stranger's own. False: it must not leave at all. */
static __always_inline int out_of_shadow(struct __sk_buff *skb, struct packet *p)
{
	struct tuple *outside, to;

	if (!shadows_exist())
		return 1;
	outside = bpf_map_lookup_elem(&shadows_out, &p->tuple);
	if (!outside)
		return 1;
	to = *outside;
	return rewrite(skb, p, 1, &to);
}
