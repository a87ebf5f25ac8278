/* SPDX-License-Identifier: GPL-2.0 */
/* The Migrate-Request option and what its MAC covers, as in the wire crate. */
#pragma once

#include "packet.h"
#include "siphash.h"

#define TYPE_MSYN 1
#define TYPE_MSYN_ACK 2
#define TYPE_MIGRATE_ACK 3
#define TYPE_MIGRATE_RESET 4
#define TYPE_LAST 6

struct request_option {
	u8 kind;
	u8 length;
	u8 exid[2];
	u8 version_type;
	u8 token[4];
	u8 req_no[4];
	u8 rcv_nxt[4];
	u8 digest[2];
	u8 mac[8];
} __attribute__((packed));

struct mac_input {
	u8 version_type;
	u8 flags;
	__be16 window;
	u8 token[4];
	u8 req_no[4];
	u8 other_req_no[4];
	__be32 seq;
	__be32 ack;
	u8 rcv_nxt[4];
	u8 digest[2];
	u8 zero[2];
} __attribute__((aligned(8)));

static __always_inline u32 be32_of(const u8 bytes[4])
{
	return (u32)bytes[0] << 24 | (u32)bytes[1] << 16 | (u32)bytes[2] << 8 | bytes[3];
}

/* The input of the MAC of a segment whose sender knows no number of the other end. */
static __always_inline void cover(struct mac_input *input, const struct packet *p, const struct request_option *option)
{
	__builtin_memset(input, 0, sizeof(*input));
	input->version_type = option->version_type;
	input->flags = p->flags & 0x3f;
	input->window = p->window;
	__builtin_memcpy(input->token, option->token, 4);
	__builtin_memcpy(input->req_no, option->req_no, 4);
	input->seq = bpf_htonl(p->seq);
	input->ack = p->flags & TCPHDR_ACK ? bpf_htonl(p->ack) : 0;
	__builtin_memcpy(input->rcv_nxt, option->rcv_nxt, 4);
	__builtin_memcpy(input->digest, option->digest, 2);
}

/* Whether the segment carries a Migrate-Request in front, of whatever type; reads its first five bytes. */
static __always_inline int requests(struct __sk_buff *skb, const struct packet *p, struct request_option *option)
{
	if (p->header_length < 28)
		return 0;
	if (bpf_skb_load_bytes(skb, p->l4 + sizeof(struct tcp_header), option, 5))
		return 0;
	return option->kind == OPTION_KIND && option->exid[0] == (OPTION_EXID >> 8) &&
	       option->exid[1] == (OPTION_EXID & 255) && (option->version_type & 15) != 0;
}

/* Reads the whole option after `requests`. False: it is malformed. */
static __always_inline int read_request(struct __sk_buff *skb, const struct packet *p, struct request_option *option)
{
	return option->length == REQUEST_LENGTH && p->header_length >= sizeof(struct tcp_header) + REQUEST_LENGTH &&
	       (option->version_type >> 4) == OPTION_VERSION && (option->version_type & 15) <= TYPE_LAST &&
	       !bpf_skb_load_bytes(skb, p->l4 + sizeof(struct tcp_header), option, sizeof(*option));
}
