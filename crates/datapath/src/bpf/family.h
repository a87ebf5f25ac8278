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

struct quotation {
	u8 type;
	u8 code;
	__be16 checksum;
	/* IPv6: the MTU; IPv4: its lower half is. */
	__be32 detail;
};

/* Which error of the other family says the same (RFC 7915, 4.2 and 5.2). The MTU is told less or more by what
 * headers differ. False: none does. */
static __always_inline int error_for_v4(struct quotation *q)
{
	u32 mtu = bpf_ntohl(q->detail);
	u8 code = q->code;

	q->detail = 0;
	switch (q->type) {
	case ICMP6_UNREACHABLE:
		q->type = ICMP4_UNREACHABLE;
		q->code = code == 1 ? 10 : code == 4 ? 3 : 1;
		return 1;
	case ICMP6_TOO_BIG:
		q->type = ICMP4_UNREACHABLE;
		q->code = 4;
		mtu = mtu > 0xffff ? 0xffff : mtu;
		q->detail = bpf_htonl(mtu > FAMILY_DIFFERENCE ? mtu - FAMILY_DIFFERENCE : 0);
		return 1;
	case ICMP6_TIME_EXCEEDED:
		q->type = ICMP4_TIME_EXCEEDED;
		return 1;
	case ICMP6_PARAMETER:
		q->type = ICMP4_UNREACHABLE;
		q->code = 2;
		return code == 1;
	}
	return 0;
}

static __always_inline int error_for_v6(struct quotation *q)
{
	u32 mtu = bpf_ntohl(q->detail) & 0xffff;
	u8 code = q->code;

	q->detail = 0;
	if (q->type == ICMP4_TIME_EXCEEDED) {
		q->type = ICMP6_TIME_EXCEEDED;
		return 1;
	}
	if (q->type != ICMP4_UNREACHABLE)
		return 0;
	if (code == 4) {
		/* A router of before RFC 1191 tells none: what every IPv6 path takes is small enough. */
		q->type = ICMP6_TOO_BIG;
		q->code = 0;
		q->detail = bpf_htonl(mtu ? mtu + FAMILY_DIFFERENCE : 1280);
		return 1;
	}
	q->type = ICMP6_UNREACHABLE;
	q->code = code == 3 ? 4 : code == 9 || code == 10 || code == 13 ? 1 : 0;
	return code != 2;
}

/* What an error looks like in the family of the sockets: IP header, ICMP header, quoted IP header, ports and
 * sequence number. */
struct error_v4 {
	struct ipv4_header ip;
	struct quotation icmp;
	struct ipv4_header quoted;
	u8 tcp[QUOTED_BYTES];
};

struct error_v6 {
	struct ipv6_header ip;
	struct quotation icmp;
	struct ipv6_header quoted;
	u8 tcp[QUOTED_BYTES];
};

/* An ICMP error about a segment of ours, in the family of the wire, becomes one about the segment that the socket
 * knows, in its own family. Who sent it is of no matter to the socket: it comes from the other end. `quoted_at`,
 * `tcp_at`: where the quoted IP header and TCP header begin. False: it has no counterpart. */
static __always_inline int cross_error(struct __sk_buff *skb, const struct packet *p, u32 quoted_at, u32 tcp_at,
				       const struct tuple *identity)
{
	union {
		struct error_v4 v4;
		struct error_v6 v6;
	} to = {};
	struct quotation icmp;
	u8 tcp[QUOTED_BYTES];
	u8 length[4];
	u32 size;

	if (bpf_skb_load_bytes(skb, p->l4, &icmp, sizeof(icmp)) || bpf_skb_load_bytes(skb, tcp_at, tcp, sizeof(tcp)))
		return 0;
	__builtin_memcpy(tcp, &identity->local_port, 2);
	__builtin_memcpy(tcp + 2, &identity->remote_port, 2);
	icmp.checksum = 0;
	/* The quoted length is the segment's own, as the other header would have told it. */
	if (bpf_skb_load_bytes(skb, quoted_at + (p->family == 4 ? 2 : 4), length, 2))
		return 0;
	size = (u32)length[0] << 8 | length[1];
	if (p->family == 6) {
		if (!error_for_v4(&icmp))
			return 0;
		v4_header(&to.v4.quoted, 0, size + sizeof(to.v4.quoted), 64, IPPROTO_TCP, identity->local, identity->remote);
		v4_header(&to.v4.ip, 0, sizeof(to.v4), 64, IPPROTO_ICMP, identity->remote, identity->local);
		to.v4.icmp = icmp;
		__builtin_memcpy(to.v4.tcp, tcp, sizeof(tcp));
		to.v4.icmp.checksum =
			folded(bpf_csum_diff(NULL, 0, (void *)&to.v4.icmp, sizeof(to.v4) - sizeof(to.v4.ip), 0));
		return !bpf_skb_change_tail(skb, p->l3 + sizeof(to.v4) + FAMILY_DIFFERENCE, 0) &&
		       change_family(skb, p->l3, bpf_htons(ETH_P_IP)) &&
		       !bpf_skb_store_bytes(skb, p->l3, &to.v4, sizeof(to.v4), BPF_F_RECOMPUTE_CSUM);
	}
	if (!error_for_v6(&icmp))
		return 0;
	v6_header(&to.v6.quoted, 0, size - sizeof(struct ipv4_header), 64, IPPROTO_TCP, identity->local, identity->remote);
	/* The pseudo header has addresses, length and protocol where the finished header has more. */
	v6_header(&to.v6.ip, 0, sizeof(to.v6) - sizeof(to.v6.ip), 0, 0, identity->remote, identity->local);
	to.v6.ip.flow = bpf_htonl(IPPROTO_ICMPV6);
	to.v6.icmp = icmp;
	__builtin_memcpy(to.v6.tcp, tcp, sizeof(tcp));
	to.v6.icmp.checksum = folded(bpf_csum_diff(NULL, 0, (void *)&to.v6, sizeof(to.v6), 0));
	v6_header(&to.v6.ip, 0, sizeof(to.v6) - sizeof(to.v6.ip), 64, IPPROTO_ICMPV6, identity->remote, identity->local);
	return !bpf_skb_change_tail(skb, p->l3 + sizeof(to.v6) - FAMILY_DIFFERENCE, 0) &&
	       change_family(skb, p->l3, bpf_htons(ETH_P_IPV6)) &&
	       !bpf_skb_store_bytes(skb, p->l3, &to.v6, sizeof(to.v6), BPF_F_RECOMPUTE_CSUM);
}
