/* SPDX-License-Identifier: GPL-2.0 */
/* The socket behind a tuple, and its clock. */
#pragma once

#include "packet.h"

/* The caller releases it. */
static __always_inline struct bpf_sock *find_socket(struct __sk_buff *skb, const struct tuple *identity)
{
	struct bpf_sock_tuple key = {};
	u32 size;

	if (is_mapped(identity->remote)) {
		key.ipv4.saddr = v4_of(identity->remote);
		key.ipv4.daddr = v4_of(identity->local);
		key.ipv4.sport = identity->remote_port;
		key.ipv4.dport = identity->local_port;
		size = sizeof(key.ipv4);
	} else {
		__builtin_memcpy(key.ipv6.saddr, identity->remote, 16);
		__builtin_memcpy(key.ipv6.daddr, identity->local, 16);
		key.ipv6.sport = identity->remote_port;
		key.ipv6.dport = identity->local_port;
		size = sizeof(key.ipv6);
	}
	return bpf_skc_lookup_tcp(skb, &key, size, BPF_F_CURRENT_NETNS, 0);
}

/* The TSval that the socket would have sent some microseconds ago. */
static __always_inline u32 timestamp_before(struct tcp_sock *tp, u64 microseconds)
{
	u64 clock = bpf_ktime_get_ns() / 1000 - microseconds;

	/* Timestamps in microseconds came with Linux 6.7. */
	if (!bpf_core_field_exists(tp->tcp_usec_ts) || !BPF_CORE_READ_BITFIELD(tp, tcp_usec_ts))
		clock /= 1000;
	return (u32)clock + tp->tsoffset;
}
