/* SPDX-License-Identifier: GPL-2.0 */
/* A connection whose sockets speak one family while the wire speaks the other.
 *
 * The header is exchanged whole; ports and the TCP checksum are mended in place, so that partial checksums and
 * GSO frames stay right. What both headers can say goes over: traffic class, hop limit, length. A packet grows
 * or shrinks by 20 bytes: who routes to the parking device must leave that much room. */
#pragma once

#include "packet.h"

#define FAMILY_DIFFERENCE 20
#define ETHERTYPE_AT 12
/* What an IPv4 router quotes at least behind the quoted IP header, and what is kept of any quotation. */
#define QUOTED_BYTES 8
#define ICMP_BYTES 8

#define ICMP4_UNREACHABLE 3
#define ICMP4_TIME_EXCEEDED 11
#define ICMP6_UNREACHABLE 1
#define ICMP6_TOO_BIG 2
#define ICMP6_TIME_EXCEEDED 3
#define ICMP6_PARAMETER 4

static __always_inline u16 folded(s64 sum)
{
	u64 value = (u32)sum;

	value = (value & 0xffff) + (value >> 16);
	value = (value & 0xffff) + (value >> 16);
	return ~value;
}

static __always_inline void v4_header(struct ipv4_header *ip, u8 tos, u32 total, u8 ttl, u8 protocol,
				      const u8 *source, const u8 *destination)
{
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version_ihl = 0x45;
	ip->tos = tos;
	ip->total_length = bpf_htons(total);
	ip->fragment = bpf_htons(0x4000);
	ip->ttl = ttl;
	ip->protocol = protocol;
	ip->source = v4_of(source);
	ip->destination = v4_of(destination);
	ip->checksum = folded(bpf_csum_diff(NULL, 0, (void *)ip, sizeof(*ip), 0));
}

static __always_inline void v6_header(struct ipv6_header *ip, u8 tos, u32 payload, u8 hops, u8 protocol,
				      const u8 *source, const u8 *destination)
{
	ip->flow = bpf_htonl(6u << 28 | (u32)tos << 20);
	ip->payload_length = bpf_htons(payload);
	ip->next_header = protocol;
	ip->hop_limit = hops;
	__builtin_memcpy(ip->source, source, ADDRESS_BYTES);
	__builtin_memcpy(ip->destination, destination, ADDRESS_BYTES);
}

/* Changes the network header's size; its place is filled by the caller. */
static __always_inline int change_family(struct __sk_buff *skb, u32 l3, u32 protocol)
{
	__be16 ethertype = protocol;

	if (bpf_skb_change_proto(skb, protocol, 0))
		return 0;
	return !l3 || !bpf_skb_store_bytes(skb, l3 - ETH_HLEN + ETHERTYPE_AT, &ethertype, sizeof(ethertype), 0);
}

/* As `rewrite`, to a tuple of the other family. */
static __always_inline int cross(struct __sk_buff *skb, const struct packet *p, int outgoing, const struct tuple *to)
{
	const u8 *source = outgoing ? to->local : to->remote;
	const u8 *destination = outgoing ? to->remote : to->local;
	union l3_header from, ip;
	s64 diff;

	if (!rewrite_ports(skb, p, outgoing, to))
		return 0;
	if (p->family == 4) {
		if (bpf_skb_load_bytes(skb, p->l3, &from.v4, sizeof(from.v4)) || (from.v4.version_ihl & 15) != 5)
			return 0;
		v6_header(&ip.v6, from.v4.tos, p->l3_length - sizeof(from.v4), from.v4.ttl, IPPROTO_TCP, source, destination);
		diff = bpf_csum_diff((void *)&from.v4.source, 8, (void *)ip.v6.source, 32, 0);
		return change_family(skb, p->l3, bpf_htons(ETH_P_IPV6)) &&
		       !bpf_skb_store_bytes(skb, p->l3, &ip.v6, sizeof(ip.v6), BPF_F_RECOMPUTE_CSUM) &&
		       !bpf_l4_csum_replace(skb, p->l3 + sizeof(ip.v6) + __builtin_offsetof(struct tcp_header, checksum), 0,
					    diff, BPF_F_PSEUDO_HDR);
	}
	if (bpf_skb_load_bytes(skb, p->l3, &from.v6, sizeof(from.v6)))
		return 0;
	v4_header(&ip.v4, bpf_ntohl(from.v6.flow) >> 20, p->l3_length - FAMILY_DIFFERENCE, from.v6.hop_limit, IPPROTO_TCP,
		  source, destination);
	diff = bpf_csum_diff((void *)from.v6.source, 32, (void *)&ip.v4.source, 8, 0);
	return change_family(skb, p->l3, bpf_htons(ETH_P_IP)) &&
	       !bpf_skb_store_bytes(skb, p->l3, &ip.v4, sizeof(ip.v4), BPF_F_RECOMPUTE_CSUM) &&
	       !bpf_l4_csum_replace(skb, p->l3 + sizeof(ip.v4) + __builtin_offsetof(struct tcp_header, checksum), 0, diff,
				    BPF_F_PSEUDO_HDR);
}

static __always_inline int translate(struct __sk_buff *skb, const struct packet *p, int outgoing, const struct tuple *to)
{
	return same_family(p, to) ? rewrite(skb, p, outgoing, to) : cross(skb, p, outgoing, to);
}
