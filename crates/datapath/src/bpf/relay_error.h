/* SPDX-License-Identifier: GPL-2.0 */
/* ICMP errors about segments that the relay has passed on: they quote the tuple behind the relay, and go to the end in
 * front of it under the tuple that it knows. Without them a way with a smaller MTU beyond the relay swallows an end's
 * segments for ever. Included by relay.bpf.c. */
#pragma once

/* As `cross_error`, within one family: a new error, with what every router quotes. */
static __always_inline int same_error(struct __sk_buff *skb, const struct packet *p, u32 quoted_at, u32 tcp_at,
				      const struct tuple *to)
{
	union {
		struct error_v4 v4;
		struct error_v6 v6;
	} error = {};
	struct quotation icmp;
	u8 tcp[QUOTED_BYTES], length[2];
	u32 size;

	if (bpf_skb_load_bytes(skb, p->l4, &icmp, sizeof(icmp)) || bpf_skb_load_bytes(skb, tcp_at, tcp, sizeof(tcp)) ||
	    bpf_skb_load_bytes(skb, quoted_at + (p->family == 4 ? 2 : 4), length, 2))
		return 0;
	size = (u32)length[0] << 8 | length[1];
	__builtin_memcpy(tcp, &to->local_port, 2);
	__builtin_memcpy(tcp + 2, &to->remote_port, 2);
	icmp.checksum = 0;
	if (p->family == 4) {
		v4_header(&error.v4.quoted, 0, size, 64, IPPROTO_TCP, to->local, to->remote);
		v4_header(&error.v4.ip, 0, sizeof(error.v4), 64, IPPROTO_ICMP, to->remote, to->local);
		error.v4.icmp = icmp;
		__builtin_memcpy(error.v4.tcp, tcp, sizeof(tcp));
		error.v4.icmp.checksum =
			folded(bpf_csum_diff(NULL, 0, (void *)&error.v4.icmp, sizeof(error.v4) - sizeof(error.v4.ip), 0));
		return !bpf_skb_change_tail(skb, p->l3 + sizeof(error.v4), 0) &&
		       !bpf_skb_store_bytes(skb, p->l3, &error.v4, sizeof(error.v4), BPF_F_RECOMPUTE_CSUM);
	}
	v6_header(&error.v6.quoted, 0, size, 64, IPPROTO_TCP, to->local, to->remote);
	/* The pseudo header has addresses, length and protocol where the finished header has more. */
	v6_header(&error.v6.ip, 0, sizeof(error.v6) - sizeof(error.v6.ip), 0, 0, to->remote, to->local);
	error.v6.ip.flow = bpf_htonl(IPPROTO_ICMPV6);
	error.v6.icmp = icmp;
	__builtin_memcpy(error.v6.tcp, tcp, sizeof(tcp));
	error.v6.icmp.checksum = folded(bpf_csum_diff(NULL, 0, (void *)&error.v6, sizeof(error.v6), 0));
	v6_header(&error.v6.ip, 0, sizeof(error.v6) - sizeof(error.v6.ip), 64, IPPROTO_ICMPV6, to->remote, to->local);
	return !bpf_skb_change_tail(skb, p->l3 + sizeof(error.v6), 0) &&
	       !bpf_skb_store_bytes(skb, p->l3, &error.v6, sizeof(error.v6), BPF_F_RECOMPUTE_CSUM);
}

static __always_inline int error_arrives(struct __sk_buff *skb, const struct packet *p)
{
	struct relay *relay;
	u32 inner = p->l4 + ICMP_BYTES, tcp_at;
	struct tuple quoted = {}, to;
	union l3_header ip;
	struct path path;
	__be16 ports[2];
	u8 type;

	if (bpf_skb_load_bytes(skb, p->l4, &type, 1))
		return TC_ACT_UNSPEC;
	if (p->family == 4) {
		if ((type != ICMP4_UNREACHABLE && type != ICMP4_TIME_EXCEEDED) ||
		    bpf_skb_load_bytes(skb, inner, &ip.v4, sizeof(ip.v4)) || ip.v4.protocol != IPPROTO_TCP)
			return TC_ACT_UNSPEC;
		mapped(quoted.local, ip.v4.source);
		mapped(quoted.remote, ip.v4.destination);
		tcp_at = inner + (ip.v4.version_ihl & 15) * 4;
	} else {
		if (type < ICMP6_UNREACHABLE || type > ICMP6_TIME_EXCEEDED ||
		    bpf_skb_load_bytes(skb, inner, &ip.v6, sizeof(ip.v6)) || ip.v6.next_header != IPPROTO_TCP)
			return TC_ACT_UNSPEC;
		__builtin_memcpy(quoted.local, ip.v6.source, ADDRESS_BYTES);
		__builtin_memcpy(quoted.remote, ip.v6.destination, ADDRESS_BYTES);
		tcp_at = inner + sizeof(ip.v6);
	}
	if (bpf_skb_load_bytes(skb, tcp_at, ports, sizeof(ports)))
		return TC_ACT_UNSPEC;
	quoted.local_port = ports[0];
	quoted.remote_port = ports[1];
	/* Where the segment went something comes from, and that goes to whoever sent the segment. */
	relay = bpf_map_lookup_elem(&relays, &quoted);
	if (!relay)
		return TC_ACT_UNSPEC;
	to = relay->to;
	path = relay->path;
	if (same_family(p, &to) ? !same_error(skb, p, inner, tcp_at, &to) : !cross_error(skb, p, inner, tcp_at, &to))
		return drop(RELAY_COUNTER_UNWRITABLE);
	tally(RELAY_COUNTER_ICMP);
	return leave(&path);
}
