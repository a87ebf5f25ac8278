/* SPDX-License-Identifier: GPL-2.0 */
/* Walks over every TCP socket of this network namespace, to bring them to what their sessions ask for, and
 * to make listeners that are older than the agent answer offers. */
#pragma once

#include "offer.h"

static __always_inline void tuple_of_sock(struct sock_common *skc, struct tuple *t)
{
	if (skc->skc_family == AF_INET) {
		mapped(t->local, skc->skc_rcv_saddr);
		mapped(t->remote, skc->skc_daddr);
	} else {
		bpf_probe_read_kernel(t->local, ADDRESS_BYTES, &skc->skc_v6_rcv_saddr);
		bpf_probe_read_kernel(t->remote, ADDRESS_BYTES, &skc->skc_v6_daddr);
	}
	t->local_port = bpf_htons(skc->skc_num);
	t->remote_port = skc->skc_dport;
}

/* Marks, raises and restores. Says the same twice without harm. */
static __always_inline int reconcile_socket(struct sock_common *skc)
{
	struct config *c = settings();
	struct session *session;
	struct saved *memory;
	struct tuple t = {};
	struct tcp_sock *tp;
	u32 flags, mark, value;

	if (!skc || !c)
		return 0;
	tuple_of_sock(skc, &t);
	session = bpf_map_lookup_elem(&sessions, &t);
	if (!session)
		return 0;
	flags = session->flags;
	tp = bpf_skc_to_tcp_sock(skc);
	if (!tp)
		return 0;
	memory = bpf_sk_storage_get(&saved, (struct sock *)tp, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!memory)
		return 0;
	if (flags & SESSION_ENROLLED) {
		value = BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTO_CB_FLAG;
		bpf_setsockopt(tp, IPPROTO_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &value, sizeof(value));
	}
	mark = tp->inet_conn.icsk_inet.sk.sk_mark;
	if (flags & SESSION_MARK && !(mark & c->mark)) {
		value = mark | c->mark;
		memory->marked = 1;
		bpf_setsockopt(tp, SOL_SOCKET, SO_MARK, &value, sizeof(value));
	} else if (!(flags & SESSION_MARK) && mark & c->mark) {
		value = mark & ~c->mark;
		memory->marked = 0;
		bpf_setsockopt(tp, SOL_SOCKET, SO_MARK, &value, sizeof(value));
	}
	if (flags & SESSION_RAISE) {
		if (!memory->raised) {
			memory->raised = 1;
			memory->user_timeout = tp->inet_conn.icsk_user_timeout;
			value = raised_timeout(c);
			bpf_setsockopt(tp, IPPROTO_TCP, TCP_USER_TIMEOUT, &value, sizeof(value));
		}
	} else {
		memory->suspect = 0;
		if (memory->raised) {
			memory->raised = 0;
			value = memory->user_timeout;
			bpf_setsockopt(tp, IPPROTO_TCP, TCP_USER_TIMEOUT, &value, sizeof(value));
		}
	}
	return 0;
}

/* Writes the tuple of an open connection that neither offered migration nor was enrolled. */
static __always_inline int list_plain(struct seq_file *seq, struct sock_common *skc)
{
	struct config *c = settings();
	struct tuple t = {};
	struct tcp_sock *tp;

	if (!skc || !c || (skc->skc_state != BPF_TCP_ESTABLISHED && skc->skc_state != BPF_TCP_CLOSE_WAIT))
		return 0;
	tuple_of_sock(skc, &t);
	if (is_mapped(t.remote) ? t.remote[12] == 127 : t.remote[0] == 0)
		return 0;
	if (bpf_map_lookup_elem(&sessions, &t) || bpf_map_lookup_elem(&connections, &t))
		return 0;
	tp = bpf_skc_to_tcp_sock(skc);
	if (!tp || tp->is_mptcp || tp->inet_conn.icsk_inet.sk.sk_mark & c->agent_mark ||
	    t.local_port == bpf_htons(c->agent_port))
		return 0;
	bpf_seq_write(seq, &t, sizeof(t));
	return 0;
}

static __always_inline int teach_listener(struct sock_common *skc)
{
	struct tcp_sock *tp;
	u32 one = 1, flags = BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;

	if (!skc || skc->skc_state != BPF_TCP_LISTEN)
		return 0;
	tp = bpf_skc_to_tcp_sock(skc);
	if (!tp || tp->is_mptcp)
		return 0;
	bpf_setsockopt(tp, IPPROTO_TCP, TCP_SAVE_SYN, &one, sizeof(one));
	bpf_setsockopt(tp, IPPROTO_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags, sizeof(flags));
	return 0;
}
