/* SPDX-License-Identifier: GPL-2.0 */
/* The timestamp echo of the first segments on a new tuple.
 *
 * The peer's agent composes them and echoes nothing: what its socket heard last is as old as the outage and would
 * pass for the round-trip time. But the acknowledgement of such a segment may be news to this end (the peer had
 * answered when the path broke), and without an echo the kernel takes no measurement from it: the doublings of its
 * retransmission timer stay. If what it sends then is lost in the first crowd on the new path, it waits for
 * seconds, and the remembered head of the line is no longer the head. So an empty echo is filled in here with what
 * says that the round trip takes as long as it did before: the estimate stays as it was, and the doublings go. */
#pragma once

#include "socket.h"

#define TIMESTAMPS 8
#define TIMESTAMPS_LENGTH 10

/* Whether an empty echo may still come on this tuple: a kernel's segment, which carries one, is the end of it. */
static __always_inline int mend_echo(struct __sk_buff *skb, const struct packet *p, const struct tuple *identity)
{
	u32 place = p->l4 + sizeof(struct tcp_header), checksum = p->l4 + __builtin_offsetof(struct tcp_header, checksum);
	struct bpf_sock *sk;
	struct tcp_sock *tp;
	/* NOP, NOP, kind, length, TSval, TSecr: as every sender orders them. */
	u8 option[4];
	__be32 echo;
	u32 round_trip;

	if (p->header_length < sizeof(struct tcp_header) + 12 || bpf_skb_load_bytes(skb, place, option, sizeof(option)) ||
	    option[2] != TIMESTAMPS || option[3] != TIMESTAMPS_LENGTH || bpf_skb_load_bytes(skb, place + 8, &echo, 4))
		return 0;
	if (echo)
		return 0;
	sk = find_socket(skb, identity);
	if (!sk)
		return 0;
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp) {
		round_trip = tp->srtt_us >> 3;
		if (round_trip < 1000)
			round_trip = 1000;
		echo = bpf_htonl(timestamp_before(tp, round_trip));
		if (!bpf_l4_csum_replace(skb, checksum, 0, echo, 4))
			bpf_skb_store_bytes(skb, place + 8, &echo, 4, 0);
	}
	bpf_sk_release(sk);
	return 1;
}
