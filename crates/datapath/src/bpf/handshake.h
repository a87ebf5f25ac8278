/* SPDX-License-Identifier: GPL-2.0 */
/* The resumption handshake as the data path sees it: segments with a Migrate-Request never reach the stack.
 * Their MAC is checked here, before user space wakes; a valid Migrate-Ack commits its attempt here, so that
 * the first segment that leaves afterwards already takes the new tuple. */
#pragma once

#include "maps.h"
#include "request.h"
#include "socket.h"

static __always_inline struct event *reserve(u32 kind)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		count(COUNTER_EVENT_LOST);
		return NULL;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->kind = kind;
	event->time_ns = bpf_ktime_get_ns();
	return event;
}

/* Whether the agent is to hear of a suspect socket: at once, and again while it stays so. It may have taken the first
 * report for a false alarm, or never have got it. */
static __always_inline int newly_suspect(struct saved *memory)
{
	u32 now = (u32)(bpf_ktime_get_ns() >> 30) | 1;

	if (memory->suspect == now)
		return 0;
	memory->suspect = now;
	return 1;
}

/* Makes an attempt the connection's wire tuple if no later one is. */
static __always_inline int commit(const struct tuple *identity, const struct tuple *wire, const struct path *path,
				  u32 req_no)
{
	struct wire_state *state = bpf_map_lookup_elem(&wires, identity);

	if (!state) {
		struct wire_state first = {};

		first.req_no = req_no;
		first.wire = *wire;
		first.path = *path;
		if (!bpf_map_update_elem(&wires, identity, &first, BPF_NOEXIST))
			return 1;
		state = bpf_map_lookup_elem(&wires, identity);
		if (!state) {
			count(COUNTER_MAP_FULL);
			return 0;
		}
	}
	bpf_spin_lock(&state->lock);
	if (req_no >= state->req_no) {
		state->req_no = req_no;
		state->wire = *wire;
		state->path = *path;
	}
	bpf_spin_unlock(&state->lock);
	return 1;
}

/* Takes the way out from a wire tuple until an attempt commits; not when a later attempt has committed. */
static __always_inline int park(const struct tuple *identity, const struct tuple *wire, u32 req_no)
{
	struct wire_state *state = bpf_map_lookup_elem(&wires, identity);

	if (!state) {
		struct wire_state first = {};

		first.req_no = req_no;
		first.wire = *wire;
		if (!bpf_map_update_elem(&wires, identity, &first, BPF_NOEXIST))
			return 1;
		state = bpf_map_lookup_elem(&wires, identity);
		if (!state) {
			count(COUNTER_MAP_FULL);
			return 0;
		}
	}
	bpf_spin_lock(&state->lock);
	if (req_no == state->req_no)
		state->path.ifindex = 0;
	bpf_spin_unlock(&state->lock);
	return 1;
}

static __always_inline void report_segment(u32 kind, const struct packet *p, const struct request_option *option,
					   const struct token_entry *entry, u32 ifindex, u32 detail)
{
	struct event *event = reserve(kind);

	if (!event)
		return;
	event->type = option->version_type & 15;
	event->wire = p->tuple;
	if (entry) {
		event->identity = entry->identity;
		event->candidate = entry->candidate;
	}
	event->token = be32_of(option->token);
	event->req_no = be32_of(option->req_no);
	event->rcv_nxt = be32_of(option->rcv_nxt);
	event->seq = p->seq;
	event->ack = p->ack;
	event->window = bpf_ntohs(p->window);
	event->digest = option->digest[0] << 8 | option->digest[1];
	event->ifindex = ifindex;
	event->detail = detail;
	bpf_ringbuf_submit(event, 0);
}

/* Whether a connection goes, or went last, through a symmetric proxy. */
static __always_inline int is_relayed(const struct tuple *identity)
{
	struct session *session = bpf_map_lookup_elem(&sessions, identity);

	return session && session->flags & SESSION_RELAYED;
}

/* A Migrate-Ack whose MAC is right. One that commits nothing here may come from a peer that has moved behind a common
 * proxy, or that answers our own move: no segment waits for that, and the agent sees to it. Where our MSYN went, a
 * proxy may have answered both ends, and the peer was faster than our agent, which is about to expect just this. */
static __always_inline void acknowledge(const struct packet *p, const struct request_option *option,
					const struct token_entry *entry, u32 ifindex)
{
	struct arrival *arrival = bpf_map_lookup_elem(&arrivals, &p->tuple);

	if (!arrival || !same_tuple(&arrival->identity, &entry->identity)) {
		count(COUNTER_STALE_ACK);
		return;
	}
	if (arrival->req_no != be32_of(option->req_no) || arrival->expect_seq != p->seq ||
	    arrival->expect_ack != p->ack) {
		if (is_relayed(&entry->identity) || arrival->state == ARRIVAL_ATTEMPTED)
			report_segment(EVENT_SEGMENT, p, option, entry, ifindex, 0);
		else
			count(COUNTER_STALE_ACK);
		return;
	}
	if (arrival->state == ARRIVAL_COMMITTED) {
		report_segment(EVENT_COMMITTED, p, option, entry, ifindex, 1);
		return;
	}
	if (arrival->state != ARRIVAL_ANSWERED)
		return;
	if (!commit(&arrival->identity, &p->tuple, &arrival->path, arrival->req_no))
		return;
	arrival->confirm |= FIRST_MENDED;
	arrival->state = ARRIVAL_COMMITTED;
	count(COUNTER_COMMITTED);
	report_segment(EVENT_COMMITTED, p, option, entry, ifindex, 0);
}

/* Whether a segment whose token nobody here knows is on its way through this host: to another address, or to one of
 * ours behind which a NAT has somebody else. */
static __always_inline int is_transit(struct __sk_buff *skb, const struct packet *p)
{
	struct config *c = settings();
	struct bpf_sock *sk;

	if (!c || !c->forwards)
		return 0;
	if (!bpf_map_lookup_elem(&sources, p->tuple.local))
		return 1;
	sk = find_socket(skb, &p->tuple);
	if (!sk)
		return 1;
	bpf_sk_release(sk);
	return 0;
}

/* Whether the segment carries a Migrate-Request; if so it is dealt with here and must be stolen, unless it is on its
 * way to another host behind this one. The option comes first in every such segment, so one short look settles the
 * common case. */
static __always_inline int take_request(struct __sk_buff *skb, const struct packet *p, u32 ifindex)
{
	struct request_option option;
	struct token_list *list;
	struct mac_input input;
	u32 token, type;
	u64 tag;

	if (!requests(skb, p, &option))
		return 0;
	type = option.version_type & 15;
	if (!read_request(skb, p, &option)) {
		if (is_transit(skb, p))
			return 0;
		count(COUNTER_STOLEN);
		count(COUNTER_MALFORMED_OPTION);
		return 1;
	}
	token = be32_of(option.token);
	list = bpf_map_lookup_elem(&tokens, &token);
	if (!list && is_transit(skb, p))
		return 0;
	count(COUNTER_STOLEN);
	if (!list) {
		count(COUNTER_UNKNOWN_TOKEN);
		if (type == TYPE_MSYN)
			report_segment(EVENT_UNKNOWN_TOKEN, p, &option, NULL, ifindex, 0);
		return 1;
	}
	cover(&input, p, &option);
	__builtin_memcpy(&tag, option.mac, 8);
#pragma unroll
	for (int i = 0; i < TOKEN_ENTRIES; i++) {
		u64 key[2];

		if (i >= list->used)
			break;
		__builtin_memcpy(key, list->entry[i].key_in, 16);
		if (siphash(key, (const u64 *)&input, 4, (u64)32 << 56) != tag)
			continue;
		if (type == TYPE_MIGRATE_ACK)
			acknowledge(p, &option, &list->entry[i], ifindex);
		else
			report_segment(EVENT_SEGMENT, p, &option, &list->entry[i], ifindex, 0);
		return 1;
	}
	count(COUNTER_BAD_MAC);
	return 1;
}
