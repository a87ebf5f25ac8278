/* SPDX-License-Identifier: GPL-2.0 */
/* Identity tuple to wire tuple and back.
 *
 * Out: the segments of a moved or detached connection are routed to the parking device, whose egress gives
 * them the wire tuple and the way out, or parks them while there is none. The physical devices' egress does
 * the same for the few that were on their way there before the routing followed.
 * In: the physical devices' ingress gives segments on a wire tuple the identity tuple back and hands them to
 * the stack through the parking device, where no reverse-path rule objects. */
#pragma once

#include "echo.h"
#include "handshake.h"
#include "family.h"
#include "look.h"
#include "shadow.h"

/* A segment that has its wire tuple already, on the way through the physical device's egress. */
#define MARK_TRANSLATED 0x00800000

static __always_inline void keep_frame(struct __sk_buff *skb, const struct packet *p, struct frame *frame)
{
	/* One less, so that 0 is too much: verifiers before Linux 6.4 learn nothing from "is not 0". */
	u64 last = (u64)skb->len - p->l3 - 1;

	if ((u64)skb->len - p->l3 > FRAME_BYTES)
		last = FRAME_BYTES - 1;
	/* The verifier wants to see the bound on the register that it checks. */
	barrier_var(last);
	if (last >= FRAME_BYTES)
		return;
	if (bpf_skb_load_bytes(skb, p->l3, frame->bytes, last + 1))
		return;
	frame->seq = p->seq;
	frame->length = last + 1;
}

/* Remembers the segment at the head of the line, and the last one that is parked: what to send first when
 * the path is back, without waiting for the kernel's next retransmission. */
static __always_inline void remember(struct __sk_buff *skb, const struct packet *p, int parked)
{
	struct bpf_sock *sk = skb->sk;
	struct tcp_sock *tp;
	struct heads *kept;
	u32 zero = 0;
	int head;

	if (!sk)
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return;
	head = tp->snd_una == p->seq;
	if (!head && !parked)
		return;
	kept = bpf_map_lookup_elem(&heads, &p->tuple);
	if (!kept) {
		struct heads *empty = bpf_map_lookup_elem(&scratch, &zero);

		if (!empty)
			return;
		empty->head.length = 0;
		empty->last.length = 0;
		bpf_map_update_elem(&heads, &p->tuple, empty, BPF_NOEXIST);
		kept = bpf_map_lookup_elem(&heads, &p->tuple);
		if (!kept)
			return;
	}
	keep_frame(skb, p, head ? &kept->head : &kept->last);
}

static __always_inline int leave(struct __sk_buff *skb, const struct path *path)
{
	struct bpf_redir_neigh next = {};

	skb->mark = MARK_TRANSLATED;
	if (path->next_hop_family == 0)
		return bpf_redirect_neigh(path->ifindex, NULL, 0, 0);
	next.nh_family = path->next_hop_family;
	if (path->next_hop_family == AF_INET)
		next.ipv4_nh = v4_of(path->next_hop);
	else
		__builtin_memcpy(next.ipv6_nh, path->next_hop, ADDRESS_BYTES);
	return bpf_redirect_neigh(path->ifindex, &next, sizeof(next), 0);
}

static __always_inline int send_out(struct __sk_buff *skb, struct packet *p)
{
	struct wire_state *state = bpf_map_lookup_elem(&wires, &p->tuple);
	struct tuple wire = p->tuple;
	struct path path = {};
	struct source *source;

	if (state) {
		bpf_spin_lock(&state->lock);
		wire = state->wire;
		path = state->path;
		bpf_spin_unlock(&state->lock);
	}
	source = bpf_map_lookup_elem(&sources, wire.local);
	if (!source || !source->usable || (state && !path.ifindex)) {
		if (payload_length(skb, p))
			remember(skb, p, 1);
		count(COUNTER_PARKED);
		return TC_ACT_STOLEN;
	}
	if (payload_length(skb, p))
		remember(skb, p, 0);
	if (!state) {
		if (!out_of_shadow(skb, p))
			return TC_ACT_SHOT;
		path.ifindex = source->ifindex;
		return leave(skb, &path);
	}
	if (!translate(skb, p, 1, &wire))
		return TC_ACT_SHOT;
	count(COUNTER_TRANSLATED_OUT);
	return leave(skb, &path);
}

/* Egress of the parking device. */
static __always_inline int from_parking(struct __sk_buff *skb)
{
	struct config *c = settings();
	struct packet p = {};

	/* What the agent hands to the local stack. */
	if (c && skb->mark & c->agent_mark) {
		skb->mark = c->mark;
		return bpf_redirect(c->parking_ifindex, BPF_F_INGRESS);
	}
	if (!read_l3(skb, ETH_HLEN, 1, &p) || p.protocol != IPPROTO_TCP || !read_tcp(skb, 1, &p))
		return TC_ACT_SHOT;
	return send_out(skb, &p);
}

/* A keepalive or window probe of a socket of which one before is unanswered. */
static __always_inline int is_anxious(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct tcp_sock *tp;

	if (!sk)
		return 0;
	tp = bpf_skc_to_tcp_sock(sk);
	return tp && tp->inet_conn.icsk_probes_out;
}

static __always_inline void suspect(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_sock *sk = skb->sk;
	struct saved *memory;
	struct tcp_sock *tp;
	struct event *event;

	if (!sk)
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp || p->seq != tp->snd_una - 1)
		return;
	if (!bpf_map_lookup_elem(&sessions, &p->tuple))
		return;
	memory = bpf_sk_storage_get(&saved, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!memory || !newly_suspect(memory))
		return;
	event = reserve(EVENT_SUSPECT);
	if (!event)
		return;
	event->identity = p->tuple;
	bpf_ringbuf_submit(event, 0);
}

/* The agent's own segments follow no rule of ours; what its sockets still have to say on an address that is lost
 * must not leave all the same. */
static __always_inline int from_agent(struct __sk_buff *skb, u32 l2)
{
	struct source *source;
	struct packet p = {};

	if (!read_l3(skb, l2, 1, &p) || p.protocol != IPPROTO_TCP || !read_tcp(skb, 1, &p))
		return TC_ACT_OK;
	source = bpf_map_lookup_elem(&sources, p.tuple.local);
	return source && !source->usable ? TC_ACT_SHOT : TC_ACT_OK;
}

/* Egress of a physical device: nothing to do unless a connection is moved or a probe goes unanswered. */
static __always_inline int to_physical(struct __sk_buff *skb, u32 l2)
{
	struct config *c = settings();
	struct packet p = {};
	int anxious;

	if (!c)
		return TC_ACT_OK;
	if (skb->mark & MARK_TRANSLATED) {
		skb->mark &= ~MARK_TRANSLATED;
		return TC_ACT_OK;
	}
	if (shadows_exist()) {
		if (!read_l3(skb, l2, 1, &p) || p.protocol != IPPROTO_TCP || !read_tcp(skb, 1, &p))
			return TC_ACT_OK;
		if (bpf_map_lookup_elem(&shadows_out, &p.tuple) && !bpf_map_lookup_elem(&wires, &p.tuple))
			return out_of_shadow(skb, &p) ? TC_ACT_OK : TC_ACT_SHOT;
	}
	if (!c->sessions)
		return TC_ACT_OK;
	if (skb->mark & c->agent_mark)
		return from_agent(skb, l2);
	/* Probes are short. */
	anxious = skb->len <= 120 && is_anxious(skb);
	if (!c->moved && !anxious)
		return TC_ACT_OK;
	if (!read_l3(skb, l2, 1, &p) || p.protocol != IPPROTO_TCP || !read_tcp(skb, 1, &p))
		return TC_ACT_OK;
	if (c->moved) {
		struct source *source = bpf_map_lookup_elem(&sources, p.tuple.local);

		if (bpf_map_lookup_elem(&wires, &p.tuple) || (source && !source->usable)) {
			count(COUNTER_CAUGHT);
			return send_out(skb, &p);
		}
	}
	if (anxious)
		suspect(skb, &p);
	return TC_ACT_OK;
}

static __always_inline int hand_in(struct __sk_buff *skb, u32 l2, const struct config *c)
{
	if (l2 && bpf_skb_store_bytes(skb, 0, c->parking_mac, 6, 0))
		return TC_ACT_SHOT;
	if (!l2) {
		u8 header[ETH_HLEN] = {};
		u32 protocol = skb->protocol;

		__builtin_memcpy(header, c->parking_mac, 6);
		header[12] = protocol & 255;
		header[13] = protocol >> 8;
		if (bpf_skb_change_head(skb, ETH_HLEN, 0) || bpf_skb_store_bytes(skb, 0, header, ETH_HLEN, 0))
			return TC_ACT_SHOT;
	}
	skb->mark = c->mark;
	return bpf_redirect(c->parking_ifindex, BPF_F_INGRESS);
}

/* Into the stack with identity addresses: through the parking device, unless the socket would not hear it there. */
static __always_inline int enter_stack(struct __sk_buff *skb, u32 l2, const struct arrival *arrival,
				       const struct config *c)
{
	return arrival->confirm & ARRIVES_BOUND ? TC_ACT_OK : hand_in(skb, l2, c);
}

/* A reset that the kernel would believe. Held while the agent lives to ask the peer's; else it passes. */
static __always_inline int hold_reset(const struct packet *p, const struct tuple *identity, const struct config *c)
{
	struct session *session = bpf_map_lookup_elem(&sessions, identity);
	struct event *event;
	u64 told;

	if (!session || !(session->flags & SESSION_HOLD_RESET))
		return 0;
	if (bpf_ktime_get_ns() - c->heartbeat_ns > c->heartbeat_limit_ns) {
		count(COUNTER_RESET_PASSED);
		return 0;
	}
	/* Who floods us with resets must not fill the ring, which would let them pass: a quarter of it is enough for
	 * the agent to ask. A ring that others have filled is another matter. */
	told = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);
	if (told > EVENTS_BYTES / 4 && told < EVENTS_BYTES - 2 * sizeof(struct event)) {
		count(COUNTER_RESET_HELD);
		return 1;
	}
	event = reserve(EVENT_RESET_HELD);
	if (!event) {
		count(COUNTER_RESET_PASSED);
		return 0;
	}
	event->wire = p->tuple;
	event->identity = *identity;
	event->seq = p->seq;
	event->ack = p->ack;
	event->detail = p->flags;
	bpf_ringbuf_submit(event, 0);
	count(COUNTER_RESET_HELD);
	return 1;
}

static __always_inline void strange_answer(const struct packet *p, const struct arrival *arrival, u32 ifindex)
{
	struct event *event = reserve(EVENT_STRANGER);

	if (!event)
		return;
	event->wire = p->tuple;
	event->identity = arrival->identity;
	event->req_no = arrival->req_no;
	event->seq = p->seq;
	event->ack = p->ack;
	event->detail = p->flags;
	event->ifindex = ifindex;
	bpf_ringbuf_submit(event, 0);
}

static __always_inline int arrive(struct __sk_buff *skb, struct packet *p, struct arrival *arrival, u32 l2,
				  const struct config *c, u32 ifindex)
{
	struct tuple identity = arrival->identity;

	if (arrival->state == ARRIVAL_ATTEMPTED) {
		if (p->flags & (TCPHDR_SYN | TCPHDR_RST))
			strange_answer(p, arrival, ifindex);
		count(COUNTER_UNPROVEN_DROPPED);
		return TC_ACT_SHOT;
	}
	if (arrival->state == ARRIVAL_ANSWERED || p->flags & TCPHDR_SYN) {
		count(COUNTER_UNPROVEN_DROPPED);
		return TC_ACT_SHOT;
	}
	if (p->flags & TCPHDR_RST && hold_reset(p, &identity, c))
		return TC_ACT_SHOT;
	if (arrival->confirm & FIRST_CONFIRMS) {
		arrival->confirm &= ~FIRST_CONFIRMS;
		struct event *event = reserve(EVENT_CONFIRMED);

		if (event) {
			event->wire = p->tuple;
			event->identity = identity;
			event->req_no = arrival->req_no;
			event->seq = p->seq;
			event->ack = p->ack;
			bpf_ringbuf_submit(event, 0);
		}
	}
	if (arrival->confirm & FIRST_MENDED && !mend_echo(skb, p, &identity))
		arrival->confirm &= ~FIRST_MENDED;
	if (!translate(skb, p, 0, &identity))
		return TC_ACT_SHOT;
	count(COUNTER_TRANSLATED_IN);
	return enter_stack(skb, l2, arrival, c);
}

/* An ICMP error quotes the wire tuple; the socket knows the identity tuple. */
static __always_inline int translate_error(struct __sk_buff *skb, struct packet *p, u32 l2, const struct config *c)
{
	struct packet quoted = {};
	struct arrival *arrival;
	struct tuple identity;
	union l3_header ip;
	__be16 ports[2], new_ports[2];
	__be32 old[9], new[9];
	u32 checksum = p->l4 + 2, inner = p->l4 + 8;
	u8 type;
	s64 diff;

	if (bpf_skb_load_bytes(skb, p->l4, &type, 1))
		return TC_ACT_OK;
	if (p->family == 4) {
		if (type != 3 && type != 11 && type != 12)
			return TC_ACT_OK;
		if (bpf_skb_load_bytes(skb, inner, &ip.v4, sizeof(ip.v4)) || ip.v4.protocol != IPPROTO_TCP)
			return TC_ACT_OK;
		mapped(quoted.tuple.local, ip.v4.source);
		mapped(quoted.tuple.remote, ip.v4.destination);
		quoted.l4 = inner + (ip.v4.version_ihl & 15) * 4;
	} else {
		if (type < 1 || type > 4)
			return TC_ACT_OK;
		if (bpf_skb_load_bytes(skb, inner, &ip.v6, sizeof(ip.v6)) || ip.v6.next_header != IPPROTO_TCP)
			return TC_ACT_OK;
		__builtin_memcpy(quoted.tuple.local, ip.v6.source, ADDRESS_BYTES);
		__builtin_memcpy(quoted.tuple.remote, ip.v6.destination, ADDRESS_BYTES);
		quoted.l4 = inner + sizeof(ip.v6);
	}
	if (bpf_skb_load_bytes(skb, quoted.l4, ports, sizeof(ports)))
		return TC_ACT_OK;
	quoted.tuple.local_port = ports[0];
	quoted.tuple.remote_port = ports[1];
	arrival = bpf_map_lookup_elem(&arrivals, &quoted.tuple);
	if (!arrival || arrival->state < ARRIVAL_COMMITTED)
		return TC_ACT_OK;
	identity = arrival->identity;
	new_ports[0] = identity.local_port;
	new_ports[1] = identity.remote_port;
	if (!same_family(p, &identity)) {
		if (!cross_error(skb, p, inner, quoted.l4, &identity))
			return TC_ACT_SHOT;
		count(COUNTER_ICMP_TRANSLATED);
		return enter_stack(skb, l2, arrival, c);
	}
	if (p->family == 4) {
		__be32 quoted_addresses[2], outer;

		/* The quoted header's own checksum must fit again, or the stack ignores the error; its change and that
		 * of the quoted addresses cancel out in the ICMP checksum, so that only the ports remain. */
		old[0] = v4_of(quoted.tuple.local), old[1] = v4_of(quoted.tuple.remote);
		quoted_addresses[0] = v4_of(identity.local), quoted_addresses[1] = v4_of(identity.remote);
		diff = bpf_csum_diff(old, 8, quoted_addresses, 8, 0);
		if (bpf_l3_csum_replace(skb, inner + 10, 0, diff, 0) ||
		    bpf_skb_store_bytes(skb, inner + 12, quoted_addresses, 8, 0))
			return TC_ACT_SHOT;
		diff = bpf_csum_diff((void *)ports, 4, (void *)new_ports, 4, 0);
		if (bpf_l4_csum_replace(skb, checksum, 0, diff, 0) ||
		    bpf_skb_store_bytes(skb, quoted.l4, new_ports, 4, 0))
			return TC_ACT_SHOT;
		outer = v4_of(identity.local);
		old[0] = v4_of(p->tuple.local);
		diff = bpf_csum_diff(old, 4, &outer, 4, 0);
		if (bpf_l3_csum_replace(skb, p->l3 + 10, 0, diff, 0) ||
		    bpf_skb_store_bytes(skb, p->l3 + 16, &outer, 4, 0))
			return TC_ACT_SHOT;
	} else {
		__builtin_memcpy(old, quoted.tuple.local, 16);
		__builtin_memcpy(old + 4, quoted.tuple.remote, 16);
		__builtin_memcpy(old + 8, ports, 4);
		__builtin_memcpy(new, identity.local, 16);
		__builtin_memcpy(new + 4, identity.remote, 16);
		__builtin_memcpy(new + 8, new_ports, 4);
		diff = bpf_csum_diff(old, 36, new, 36, 0);
		if (bpf_skb_store_bytes(skb, inner + 8, new, 32, BPF_F_RECOMPUTE_CSUM) ||
		    bpf_skb_store_bytes(skb, quoted.l4, new_ports, 4, BPF_F_RECOMPUTE_CSUM) ||
		    bpf_l4_csum_replace(skb, checksum, 0, diff, 0))
			return TC_ACT_SHOT;
		/* The outer destination counts through the pseudo header. */
		diff = bpf_csum_diff((void *)p->tuple.local, 16, (void *)identity.local, 16, 0);
		if (bpf_skb_store_bytes(skb, p->l3 + 24, identity.local, 16, BPF_F_RECOMPUTE_CSUM) ||
		    bpf_l4_csum_replace(skb, checksum, 0, diff, BPF_F_PSEUDO_HDR))
			return TC_ACT_SHOT;
	}
	count(COUNTER_ICMP_TRANSLATED);
	return enter_stack(skb, l2, arrival, c);
}

/* Ingress of a physical device. */
static __always_inline int from_physical(struct __sk_buff *skb, u32 l2)
{
	struct config *c = settings();
	u32 ifindex = skb->ifindex;
	struct arrival *arrival = NULL;
	struct packet p = {};

	if (!c || (!c->moved && !shadows_exist() && boring(skb, l2)) || !read_l3(skb, l2, 0, &p))
		return TC_ACT_OK;
	if (p.protocol != IPPROTO_TCP) {
		if (c->moved && (p.protocol == IPPROTO_ICMP || p.protocol == IPPROTO_ICMPV6))
			return translate_error(skb, &p, l2, c);
		return TC_ACT_OK;
	}
	if (!read_tcp(skb, 0, &p))
		return TC_ACT_OK;
	if (take_request(skb, &p, ifindex))
		return TC_ACT_SHOT;
	if (c->moved)
		arrival = bpf_map_lookup_elem(&arrivals, &p.tuple);
	if (arrival && arrival->state != ARRIVAL_LINGER)
		return arrive(skb, &p, arrival, l2, c, ifindex);
	if (shadows_exist()) {
		struct tuple *inside = bpf_map_lookup_elem(&shadows_in, &p.tuple);

		if (inside)
			return into_shadow(skb, &p, inside);
	}
	if (!c->sessions)
		return TC_ACT_OK;
	/* Late segments of the connection are welcome on a tuple that it has left; a SYN is somebody else's. */
	if (arrival && !begins(&p))
		return arrive(skb, &p, arrival, l2, c, ifindex);
	if (c->moved || arrival) {
		struct wire_state *state = bpf_map_lookup_elem(&wires, &p.tuple);

		/* The connection is elsewhere: who talks on its old tuple is a stranger, and may begin something new. */
		if (state || arrival) {
			struct tuple inside;

			if (begins(&p) && make_shadow(skb, &p, &inside))
				return into_shadow(skb, &p, &inside);
			count(COUNTER_STRANGER_DROPPED);
			return TC_ACT_SHOT;
		}
	}
	if (p.flags & TCPHDR_RST && hold_reset(&p, &p.tuple, c))
		return TC_ACT_SHOT;
	return TC_ACT_OK;
}
