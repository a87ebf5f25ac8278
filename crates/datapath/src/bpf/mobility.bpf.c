// SPDX-License-Identifier: GPL-2.0
/* The data path of connection migration: which half decides what.
 *
 * User space (the agent) decides: when a connection is detached, where a resumption is tried and when it is
 * given up. It writes `sessions`, `tokens`, `arrivals` and `sources`, and sends the handshake's segments.
 *
 * These programs decide what cannot wait for it: they offer migration on new connections (offer.h), steal the
 * handshake's segments, check their MACs and commit an attempt when its Migrate-Ack is genuine (handshake.h),
 * translate or park every segment of a moved connection (translate.h), and bring sockets to what their
 * sessions ask for (walk.h). All state is in pinned maps: no connection notices when the agent goes away.
 *
 * Fail open: a segment that nothing here knows goes its ordinary way; with a dead agent resets pass. */
#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "walk.h"
#include "translate.h"

/* For the Rust bindings: types are generated for maps and variables, and these stand in no map. */
struct event unused_event;
struct request unused_request;

SEC("sockops")
int offer(struct bpf_sock_ops *skops)
{
	struct permit_option permit;
	u32 op = skops->op;
	struct config *c;
	int on_syn;

	/* Asked of every connection, and nothing to us. */
	if (op == BPF_SOCK_OPS_TIMEOUT_INIT || op == BPF_SOCK_OPS_RWND_INIT || op == BPF_SOCK_OPS_NEEDS_ECN ||
	    op == BPF_SOCK_OPS_BASE_RTT)
		return 1;
	c = settings();
	if (!c || bpf_get_netns_cookie(skops) != c->netns_cookie)
		return 1;
	switch (op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		if (offered_to(skops, c) && !left_alone(skops, c))
			flags_set(skops, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG, 0);
		break;
	case BPF_SOCK_OPS_TCP_LISTEN_CB: {
		u32 one = 1;

		if (left_alone(skops, c))
			break;
		bpf_setsockopt(skops, IPPROTO_TCP, TCP_SAVE_SYN, &one, sizeof(one));
		flags_set(skops, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG, 0);
		break;
	}
	case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
		want_room(skops);
		break;
	case BPF_SOCK_OPS_WRITE_HDR_OPT_CB:
		write_permit(skops, c);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		if (skops->bpf_sock_ops_cb_flags & BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG && find_permit(skops, &permit, 0))
			enter(skops, &permit, ROLE_INITIATOR, 0);
		else
			flags_set(skops, 0, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		/* With data on the SYN (Fast Open) this comes before the SYN-ACK, which is still to be written. */
		on_syn = !!(skops->skb_tcp_flags & TCPHDR_SYN);
		if (!on_syn || left_alone(skops, c))
			flags_set(skops, 0, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
		if (left_alone(skops, c))
			break;
		if (on_syn ? find_permit(skops, &permit, 0) : find_permit(skops, &permit, BPF_LOAD_HDR_OPT_TCP_SYN))
			enter(skops, &permit, ROLE_ACCEPTOR, 0);
		else if (find_permit(skops, &permit, 0))
			enter(skops, &permit, ROLE_ACCEPTOR, 1);
		else
			flags_set(skops, 0, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
		break;
	case BPF_SOCK_OPS_RTO_CB:
		timed_out(skops, c);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		state_changed(skops);
		break;
	}
	return 1;
}

SEC("tc")
int parking_egress(struct __sk_buff *skb)
{
	return from_parking(skb);
}

SEC("tc")
int egress_ethernet(struct __sk_buff *skb)
{
	return to_physical(skb, ETH_HLEN);
}

SEC("tc")
int egress_raw(struct __sk_buff *skb)
{
	return to_physical(skb, 0);
}

SEC("tc")
int ingress_ethernet(struct __sk_buff *skb)
{
	return from_physical(skb, ETH_HLEN);
}

SEC("tc")
int ingress_raw(struct __sk_buff *skb)
{
	return from_physical(skb, 0);
}

SEC("iter/tcp")
int reconcile(struct bpf_iter__tcp *ctx)
{
	return reconcile_socket(ctx->sk_common);
}

SEC("iter/tcp")
int plain(struct bpf_iter__tcp *ctx)
{
	return list_plain(ctx->meta->seq, ctx->sk_common);
}

SEC("iter/tcp")
int listeners(struct bpf_iter__tcp *ctx)
{
	return teach_listener(ctx->sk_common);
}

static __always_inline void read_state(struct __sk_buff *skb, struct request *r)
{
	struct tcp_state *out = &r->tcp;
	struct bpf_sock *sk = find_socket(skb, &r->identity);
	struct tcp_sock *tp;

	if (!sk)
		return;
	out->tcp_state = sk->state;
	out->bound = sk->bound_dev_if;
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp && out->tcp_state != BPF_TCP_LISTEN) {
		out->found = 1;
		out->snd_una = tp->snd_una;
		out->snd_nxt = tp->snd_nxt;
		out->write_seq = tp->write_seq;
		out->rcv_nxt = tp->rcv_nxt;
		out->rcv_wup = tp->rcv_wup;
		out->rcv_wnd = tp->rcv_wnd;
		out->snd_wnd = tp->snd_wnd;
		out->mss = tp->mss_cache;
		out->packets_out = tp->packets_out;
		/* The kernel keeps eighths. */
		out->rtt = tp->srtt_us >> 3;
		out->data_segments_out = tp->data_segs_out;
		out->retransmitted = tp->total_retrans;
		out->probes_out = tp->inet_conn.icsk_probes_out;
		out->backoff = tp->inet_conn.icsk_backoff;
		/* A little behind the socket's own clock: a value ahead of it would poison the peer's memory. */
		out->timestamp_value = timestamp_before(tp, 1000);
		out->timestamp_recent = tp->rx_opt.ts_recent;
		out->send_scale = BPF_CORE_READ_BITFIELD(tp, rx_opt.snd_wscale);
		out->receive_scale = BPF_CORE_READ_BITFIELD(tp, rx_opt.rcv_wscale);
		out->scale_ok = BPF_CORE_READ_BITFIELD(tp, rx_opt.wscale_ok);
		out->timestamps_ok = BPF_CORE_READ_BITFIELD(tp, rx_opt.tstamp_ok);
	}
	bpf_sk_release(sk);
}

/* What the agent asks for, one at a time, through BPF_PROG_TEST_RUN in its own network namespace. */
SEC("tc")
int ask(struct __sk_buff *skb)
{
	struct request r;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &r, sizeof(r)))
		return TC_ACT_SHOT;
	switch (r.kind) {
	case REQUEST_READ:
		read_state(skb, &r);
		break;
	case REQUEST_COMMIT:
		r.result = commit(&r.identity, &r.wire, &r.path, r.req_no);
		break;
	case REQUEST_PARK:
		r.result = park(&r.identity, &r.wire, r.req_no);
		break;
	case REQUEST_MAC: {
		u64 key[2], message[4];

		__builtin_memcpy(key, r.key, 16);
		__builtin_memcpy(message, r.message, 32);
		r.mac = siphash(key, message, 4, (u64)32 << 56);
		break;
	}
	case REQUEST_DIGEST:
		r.mac = digest_of(r.identity.local, r.identity.local_port, r.req_no);
		break;
	}
	if (bpf_skb_store_bytes(skb, ETH_HLEN, &r, sizeof(r), 0))
		return TC_ACT_SHOT;
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "GPL";
