/* SPDX-License-Identifier: GPL-2.0 */
/* The one cheap look that settles nearly every segment: is it of interest at all?
 *
 * While no connection of this host is moved or moving, only these are: TCP segments whose first option may be a
 * Migrate-Request, and resets. The look reads the headers where they lie, in the linear part of the buffer, and
 * says "maybe" of all it cannot read so. */
#pragma once

#include "packet.h"

static __always_inline int boring_header(const struct tcp_header *tcp, const void *end)
{
	const u8 *option = (const u8 *)(tcp + 1);

	if ((const void *)(tcp + 1) > end || tcp->flags & TCPHDR_RST)
		return 0;
	if (tcp->offset >> 4 < 7)
		return 1;
	return (const void *)(option + 1) <= end && option[0] != OPTION_KIND;
}

/* Whether a segment that came in can go on as it is, when nothing is moved. */
static __always_inline int boring(struct __sk_buff *skb, u32 l2)
{
	const void *data = (const void *)(long)skb->data, *end = (const void *)(long)skb->data_end;
	u32 protocol = skb->protocol;

	if (protocol == bpf_htons(ETH_P_IP)) {
		const struct ipv4_header *ip = data + l2;

		if ((const void *)(ip + 1) > end)
			return 0;
		if (ip->protocol != IPPROTO_TCP || ip->fragment & bpf_htons(0x3fff))
			return 1;
		/* With IP options it is read with more care. */
		return ip->version_ihl == 0x45 && boring_header((const void *)(ip + 1), end);
	}
	if (protocol == bpf_htons(ETH_P_IPV6)) {
		const struct ipv6_header *ip = data + l2;

		if ((const void *)(ip + 1) > end)
			return 0;
		return ip->next_header != IPPROTO_TCP || boring_header((const void *)(ip + 1), end);
	}
	return 1;
}
