/* SPDX-License-Identifier: GPL-2.0 */
/* Reading TCP segments, and giving them other addresses and ports. */
#pragma once

#include "intf.h"

#define OPTION_KIND 253
#define OPTION_EXID 0x4D49
#define OPTION_VERSION 1
#define REQUEST_LENGTH 27
#define PERMIT_LENGTH 11

struct packet {
	struct tuple tuple;
	u32 l3;
	u32 l4;
	u32 seq;
	u32 ack;
	u32 l3_length;
	__be16 window;
	u8 family;
	u8 flags;
	u8 header_length;
	u8 protocol;
};

/* Both fit one load each; kept in the caller's frame to stay within the stack. */
union l3_header {
	struct ipv4_header v4;
	struct ipv6_header v6;
};

static __always_inline void mapped(u8 address[ADDRESS_BYTES], __be32 v4)
{
	u32 *words = (u32 *)address;

	words[0] = 0;
	words[1] = 0;
	words[2] = bpf_htonl(0xffff);
	words[3] = v4;
}

static __always_inline int is_mapped(const u8 address[ADDRESS_BYTES])
{
	const u32 *words = (const u32 *)address;

	return words[0] == 0 && words[1] == 0 && words[2] == bpf_htonl(0xffff);
}

static __always_inline __be32 v4_of(const u8 address[ADDRESS_BYTES])
{
	return ((const u32 *)address)[3];
}

static __always_inline int same_tuple(const struct tuple *a, const struct tuple *b)
{
	const u32 *x = (const u32 *)a, *y = (const u32 *)b;
	u32 differ = 0;

#pragma unroll
	for (int i = 0; i < sizeof(*a) / 4; i++)
		differ |= x[i] ^ y[i];
	return !differ;
}

/* Reads addresses and protocol. `outgoing`: the source is ours. False: fragments and what is not IP. */
static __always_inline int read_l3(struct __sk_buff *skb, u32 l2, int outgoing, struct packet *p)
{
	union l3_header ip;
	u8 *source = outgoing ? p->tuple.local : p->tuple.remote;
	u8 *destination = outgoing ? p->tuple.remote : p->tuple.local;
	u32 protocol = skb->protocol;

	p->l3 = l2;
	if (protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, l2, &ip.v4, sizeof(ip.v4)))
			return 0;
		if (ip.v4.fragment & bpf_htons(0x3fff))
			return 0;
		p->family = 4;
		p->protocol = ip.v4.protocol;
		p->l4 = l2 + (ip.v4.version_ihl & 15) * 4;
		p->l3_length = bpf_ntohs(ip.v4.total_length);
		mapped(source, ip.v4.source);
		mapped(destination, ip.v4.destination);
		return 1;
	}
	if (protocol == bpf_htons(ETH_P_IPV6)) {
		if (bpf_skb_load_bytes(skb, l2, &ip.v6, sizeof(ip.v6)))
			return 0;
		p->family = 6;
		p->protocol = ip.v6.next_header;
		p->l4 = l2 + sizeof(ip.v6);
		p->l3_length = sizeof(ip.v6) + bpf_ntohs(ip.v6.payload_length);
		__builtin_memcpy(source, ip.v6.source, ADDRESS_BYTES);
		__builtin_memcpy(destination, ip.v6.destination, ADDRESS_BYTES);
		return 1;
	}
	return 0;
}

static __always_inline int read_tcp(struct __sk_buff *skb, int outgoing, struct packet *p)
{
	struct tcp_header tcp;

	if (bpf_skb_load_bytes(skb, p->l4, &tcp, sizeof(tcp)))
		return 0;
	p->tuple.local_port = outgoing ? tcp.source : tcp.destination;
	p->tuple.remote_port = outgoing ? tcp.destination : tcp.source;
	p->seq = bpf_ntohl(tcp.seq);
	p->ack = bpf_ntohl(tcp.ack);
	p->window = tcp.window;
	p->flags = tcp.flags;
	p->header_length = (tcp.offset >> 4) * 4;
	return p->header_length >= sizeof(tcp);
}

static __always_inline u32 payload_length(struct __sk_buff *skb, const struct packet *p)
{
	return skb->len - p->l4 - p->header_length;
}

static __always_inline int rewrite_ports(struct __sk_buff *skb, const struct packet *p, int outgoing,
					 const struct tuple *to)
{
	const struct tuple *from = &p->tuple;
	__be16 old[2], ports[2];
	s64 diff;

	old[0] = outgoing ? from->local_port : from->remote_port;
	old[1] = outgoing ? from->remote_port : from->local_port;
	ports[0] = outgoing ? to->local_port : to->remote_port;
	ports[1] = outgoing ? to->remote_port : to->local_port;
	diff = bpf_csum_diff((void *)old, sizeof(old), (void *)ports, sizeof(ports), 0);
	return !bpf_l4_csum_replace(skb, p->l4 + __builtin_offsetof(struct tcp_header, checksum), 0, diff, 0) &&
	       !bpf_skb_store_bytes(skb, p->l4, ports, sizeof(ports), 0);
}

/* Writes the source and destination of `to` over those of the packet, which are of the same family, and
 * mends both checksums; right for partial checksums and GSO frames too. */
static __always_inline int rewrite(struct __sk_buff *skb, const struct packet *p, int outgoing, const struct tuple *to)
{
	const struct tuple *from = &p->tuple;
	const u8 *source = outgoing ? to->local : to->remote;
	const u8 *destination = outgoing ? to->remote : to->local;
	const u8 *old_source = outgoing ? from->local : from->remote;
	const u8 *old_destination = outgoing ? from->remote : from->local;
	__be32 old[8], new[8];
	u32 checksum = p->l4 + __builtin_offsetof(struct tcp_header, checksum);
	s64 diff;

	if (!rewrite_ports(skb, p, outgoing, to))
		return 0;
	if (p->family == 4) {
		old[0] = v4_of(old_source), old[1] = v4_of(old_destination);
		new[0] = v4_of(source), new[1] = v4_of(destination);
		diff = bpf_csum_diff(old, 8, new, 8, 0);
		return !bpf_l4_csum_replace(skb, checksum, 0, diff, BPF_F_PSEUDO_HDR) &&
		       !bpf_l3_csum_replace(skb, p->l3 + __builtin_offsetof(struct ipv4_header, checksum), 0, diff, 0) &&
		       !bpf_skb_store_bytes(skb, p->l3 + __builtin_offsetof(struct ipv4_header, source), new, 8, 0);
	}
	__builtin_memcpy(old, old_source, ADDRESS_BYTES);
	__builtin_memcpy(old + 4, old_destination, ADDRESS_BYTES);
	__builtin_memcpy(new, source, ADDRESS_BYTES);
	__builtin_memcpy(new + 4, destination, ADDRESS_BYTES);
	diff = bpf_csum_diff(old, 32, new, 32, 0);
	return !bpf_skb_store_bytes(skb, p->l3 + __builtin_offsetof(struct ipv6_header, source), new, 32,
				    BPF_F_RECOMPUTE_CSUM) &&
	       !bpf_l4_csum_replace(skb, checksum, 0, diff, BPF_F_PSEUDO_HDR);
}

static __always_inline int same_family(const struct packet *p, const struct tuple *to)
{
	return (p->family == 4) == is_mapped(to->remote);
}
