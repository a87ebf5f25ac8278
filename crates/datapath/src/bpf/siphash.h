/* SPDX-License-Identifier: GPL-2.0 */
/* SipHash-2-4 (Aumasson and Bernstein, 2012) with 64 bit output over a length known at compile time. */
#pragma once

#define SIP_ROTATE(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
#define SIP_ROUND()                                                                                                \
	do {                                                                                                       \
		v0 += v1, v1 = SIP_ROTATE(v1, 13), v1 ^= v0, v0 = SIP_ROTATE(v0, 32);                              \
		v2 += v3, v3 = SIP_ROTATE(v3, 16), v3 ^= v2;                                                       \
		v0 += v3, v3 = SIP_ROTATE(v3, 21), v3 ^= v0;                                                       \
		v2 += v1, v1 = SIP_ROTATE(v1, 17), v1 ^= v2, v2 = SIP_ROTATE(v2, 32);                              \
	} while (0)

/* `words` little-endian words of the message, then `tail`: its last length % 8 bytes with the length on top. */
static __always_inline u64 siphash(const u64 key[2], const u64 *message, int words, u64 tail)
{
	u64 v0 = 0x736f6d6570736575ULL ^ key[0];
	u64 v1 = 0x646f72616e646f6dULL ^ key[1];
	u64 v2 = 0x6c7967656e657261ULL ^ key[0];
	u64 v3 = 0x7465646279746573ULL ^ key[1];

#pragma unroll
	for (int i = 0; i < words; i++) {
		v3 ^= message[i];
		SIP_ROUND();
		SIP_ROUND();
		v0 ^= message[i];
	}
	v3 ^= tail;
	SIP_ROUND();
	SIP_ROUND();
	v0 ^= tail;
	v2 ^= 0xff;
	SIP_ROUND();
	SIP_ROUND();
	SIP_ROUND();
	SIP_ROUND();
	return v0 ^ v1 ^ v2 ^ v3;
}
