/* SPDX-License-Identifier: GPL-2.0 */
/* Migrate-Permit on SYN and SYN-ACK, and the life of a connection as its socket tells it.
 *
 * An initiator offers on its first SYN and the one after, not on the third, and so on: one that is lost on a bad path costs
 * no protection, and a middlebox that drops the option costs two retransmissions. It
 * says it again on its first ACK, for listeners that answered with a syncookie and forgot the SYN. A listener
 * answers an offer with an offer. When both were made, the connection is entered in `connections`. */
#pragma once

#include "handshake.h"

#define ALLOW 1

struct permit_option {
	u8 kind;
	u8 length;
	__be16 exid;
	u8 version_type;
	u8 direct_port[2];
	u8 agent_port[2];
	u8 digest[2];
} __attribute__((packed));

static __always_inline u16 digest_of(const u8 address[ADDRESS_BYTES], __be16 port, u32 seq)
{
	struct {
		u8 address[ADDRESS_BYTES];
		__be16 port;
		u8 seq[4];
		u8 length[2];
	} __attribute__((aligned(8))) message = {};
	u64 key[2] = {0, 0};
	u64 tail = 0;

	__builtin_memcpy(message.address, address, ADDRESS_BYTES);
	message.port = port;
	message.seq[0] = seq >> 24, message.seq[1] = seq >> 16, message.seq[2] = seq >> 8, message.seq[3] = seq;
	__builtin_memcpy(&tail, &message.port, 8);
	tail &= 0x0000ffffffffffffULL;
	tail |= (u64)22 << 56;
	return siphash(key, (const u64 *)&message, 2, tail) & 0xffff;
}

/* The compiler must not merge reads of different context fields: the verifier wants constant offsets. */
#define FIELD(context, field) (*(volatile typeof((context)->field) *)&(context)->field)

static __always_inline void tuple_of(struct bpf_sock_ops *skops, struct tuple *t)
{
	u32 local4 = FIELD(skops, local_ip4), remote4 = FIELD(skops, remote_ip4);
	u32 *local = (u32 *)t->local, *remote = (u32 *)t->remote;

	if (FIELD(skops, family) == AF_INET) {
		mapped(t->local, local4);
		mapped(t->remote, remote4);
	} else {
		local[0] = FIELD(skops, local_ip6[0]), local[1] = FIELD(skops, local_ip6[1]);
		local[2] = FIELD(skops, local_ip6[2]), local[3] = FIELD(skops, local_ip6[3]);
		remote[0] = FIELD(skops, remote_ip6[0]), remote[1] = FIELD(skops, remote_ip6[1]);
		remote[2] = FIELD(skops, remote_ip6[2]), remote[3] = FIELD(skops, remote_ip6[3]);
	}
	t->local_port = bpf_htons(FIELD(skops, local_port));
	t->remote_port = bpf_ntohl(FIELD(skops, remote_port)) & 0xffff;
	t->remote_port = bpf_htons(t->remote_port);
}

static __always_inline int offered_to(struct bpf_sock_ops *skops, const struct config *c)
{
	struct prefix_key key = {};
	struct tuple t = {};
	u32 *allowed;

	tuple_of(skops, &t);
	key.length = 128;
	__builtin_memcpy(key.address, t.remote, ADDRESS_BYTES);
	allowed = bpf_map_lookup_elem(&offer_to, &key);
	return allowed ? *allowed == ALLOW : c->offer_all;
}

static __always_inline void flags_set(struct bpf_sock_ops *skops, u32 set, u32 clear)
{
	u32 flags = skops->bpf_sock_ops_cb_flags;

	bpf_sock_ops_cb_flags_set(skops, (flags | set) & ~clear);
}

/* Signed over its addresses: the peer would refuse it under any others. */
static __always_inline int is_signed(struct tcp_sock *tp)
{
	return (bpf_core_field_exists(tp->md5sig_info) && tp->md5sig_info) ||
	       (bpf_core_field_exists(tp->ao_info) && tp->ao_info);
}

/* Not for us: MPTCP, whose SYN-ACK has no room, TCP-MD5 and TCP-AO, and the agent's own connections. */
static __always_inline int left_alone(struct bpf_sock_ops *skops, const struct config *c)
{
	struct bpf_sock *sk = skops->sk;
	struct tcp_sock *tp;

	if (!sk)
		return 0;
	tp = bpf_skc_to_tcp_sock(sk);
	return tp && (tp->is_mptcp || is_signed(tp) || tp->inet_conn.icsk_inet.sk.sk_mark & c->agent_mark);
}

static __always_inline int find_permit(struct bpf_sock_ops *skops, struct permit_option *permit, u64 flags)
{
	__builtin_memset(permit, 0, sizeof(*permit));
	permit->kind = OPTION_KIND;
	permit->length = 4;
	permit->exid = bpf_htons(OPTION_EXID);
	return bpf_load_hdr_opt(skops, permit, sizeof(*permit), flags) == PERMIT_LENGTH &&
	       permit->version_type == OPTION_VERSION << 4;
}

/* Whether this end accepted the connection: it has said what it has to say on its SYN-ACK. */
static __always_inline int has_accepted(struct bpf_sock_ops *skops)
{
	struct connection *connection;
	struct tuple t = {};

	tuple_of(skops, &t);
	connection = bpf_map_lookup_elem(&connections, &t);
	return connection && connection->role == ROLE_ACCEPTOR;
}

static __always_inline void want_room(struct bpf_sock_ops *skops)
{
	u32 flags = skops->skb_tcp_flags;
	struct permit_option permit;

	if (flags & TCPHDR_SYN && flags & TCPHDR_ACK) {
		if (!find_permit(skops, &permit, BPF_LOAD_HDR_OPT_TCP_SYN))
			return;
	} else if (flags & TCPHDR_SYN) {
		if (skops->total_retrans % 3 == 2)
			return;
	} else if (has_accepted(skops)) {
		/* With Fast Open the flag had to stay for the SYN-ACK. */
		flags_set(skops, 0, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
		return;
	}
	bpf_reserve_hdr_opt(skops, PERMIT_LENGTH, 0);
}

static __always_inline void write_permit(struct bpf_sock_ops *skops, const struct config *c)
{
	void *data = skops->skb_data, *end = skops->skb_data_end;
	struct permit_option permit = {};
	u32 flags = skops->skb_tcp_flags;
	struct tcp_header *tcp = data;
	struct tuple t = {};
	u16 digest;
	u32 seq;

	if ((void *)(tcp + 1) > end)
		return;
	seq = bpf_ntohl(tcp->seq);
	tuple_of(skops, &t);
	if (flags & TCPHDR_SYN && flags & TCPHDR_ACK)
		t.local_port = tcp->source;
	digest = digest_of(t.local, t.local_port, seq);
	permit.kind = OPTION_KIND;
	permit.length = PERMIT_LENGTH;
	permit.exid = bpf_htons(OPTION_EXID);
	permit.version_type = OPTION_VERSION << 4;
	__builtin_memcpy(permit.direct_port, &t.local_port, 2);
	permit.agent_port[0] = c->agent_port >> 8;
	permit.agent_port[1] = c->agent_port & 255;
	permit.digest[0] = digest >> 8;
	permit.digest[1] = digest & 255;
	if (bpf_store_hdr_opt(skops, &permit, sizeof(permit), 0))
		return;
	if (flags & TCPHDR_SYN && flags & TCPHDR_ACK)
		return;
	if (flags & TCPHDR_SYN) {
		count(COUNTER_OFFERED);
		return;
	}
	flags_set(skops, 0, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
}

/* `salt`: from the peer's ISN to the sequence number of the segment that carried the option. */
static __always_inline void enter(struct bpf_sock_ops *skops, const struct permit_option *permit, u8 role, u32 salt)
{
	struct connection connection = {};
	struct peer_key peer = {};
	struct tuple *fresh;
	struct tuple t = {};
	struct event *event;
	u64 now = bpf_ktime_get_ns();

	tuple_of(skops, &t);
	connection.isn_local = skops->snd_una - 1;
	/* With data on its SYN (Fast Open) an initiator has more acknowledged by now than its SYN. */
	if (role == ROLE_INITIATOR && skops->bytes_acked > 1)
		connection.isn_local = skops->snd_una - (u32)skops->bytes_acked;
	connection.isn_remote = skops->rcv_nxt - 1;
	connection.opened_ns = now;
	connection.role = role;
	connection.peer_direct_port = permit->direct_port[0] << 8 | permit->direct_port[1];
	connection.peer_agent_port = permit->agent_port[0] << 8 | permit->agent_port[1];
	connection.peer_digest = permit->digest[0] << 8 | permit->digest[1];
	connection.peer_unmapped =
		digest_of(t.remote, t.remote_port, connection.isn_remote + salt) == connection.peer_digest;
	if (bpf_map_update_elem(&connections, &t, &connection, BPF_ANY)) {
		count(COUNTER_MAP_FULL);
		return;
	}
	count(COUNTER_PERMITTED);
	flags_set(skops, BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTO_CB_FLAG, 0);
	fresh = bpf_ringbuf_reserve(&opened, sizeof(*fresh), 0);
	if (fresh) {
		*fresh = t;
		bpf_ringbuf_submit(fresh, BPF_RB_NO_WAKEUP);
	} else {
		count(COUNTER_EVENT_LOST);
	}
	__builtin_memcpy(peer.address, t.remote, ADDRESS_BYTES);
	peer.agent_port = connection.peer_agent_port;
	if (bpf_map_lookup_elem(&peers, &peer))
		return;
	bpf_map_update_elem(&peers, &peer, &now, BPF_ANY);
	event = reserve(EVENT_PEER);
	if (!event)
		return;
	event->identity = t;
	event->peer_agent_port = connection.peer_agent_port;
	event->detail = role;
	bpf_ringbuf_submit(event, 0);
}

/* The first retransmission timeout of the end that stays: from now on its segments pass the parking device
 * (so that the head of the line is at hand) and its timeouts wait for the peer to come back. */
static __always_inline void timed_out(struct bpf_sock_ops *skops, const struct config *c)
{
	struct bpf_sock *sk = skops->sk;
	struct session *session;
	struct saved *memory;
	struct source *source;
	struct tuple t = {};
	struct event *event;
	struct tcp_sock *tp;
	u32 value;

	tuple_of(skops, &t);
	session = bpf_map_lookup_elem(&sessions, &t);
	source = bpf_map_lookup_elem(&sources, t.local);
	if (!session || !sk || !source)
		return;
	memory = bpf_sk_storage_get(&saved, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	tp = bpf_skc_to_tcp_sock(sk);
	if (!memory || !tp || !newly_suspect(memory))
		return;
	if (!memory->raised) {
		memory->raised = 1;
		memory->user_timeout = tp->inet_conn.icsk_user_timeout;
		value = raised_timeout(c);
		bpf_setsockopt(skops, IPPROTO_TCP, TCP_USER_TIMEOUT, &value, sizeof(value));
	}
	/* An address of another host, whose anchor this is, has no device: the routing knows the way until it moves. */
	if (!memory->marked && source->ifindex) {
		memory->marked = 1;
		value = tp->inet_conn.icsk_inet.sk.sk_mark | c->mark;
		bpf_setsockopt(skops, SOL_SOCKET, SO_MARK, &value, sizeof(value));
	}
	event = reserve(EVENT_SUSPECT);
	if (!event)
		return;
	event->identity = t;
	bpf_ringbuf_submit(event, 0);
}

static __always_inline void state_changed(struct bpf_sock_ops *skops)
{
	u32 old = skops->args[0], new = skops->args[1];
	struct session *session;
	struct event *event;
	struct tuple t = {};

	tuple_of(skops, &t);
	session = bpf_map_lookup_elem(&sessions, &t);
	if (new == BPF_TCP_CLOSE)
		bpf_map_delete_elem(&connections, &t);
	if (!session || !(session->flags & SESSION_WATCH))
		return;
	event = reserve(EVENT_TCP_STATE);
	if (!event)
		return;
	event->identity = t;
	event->type = new;
	event->detail = old;
	event->seq = skops->snd_nxt;
	event->ack = skops->rcv_nxt;
	bpf_ringbuf_submit(event, 0);
}
