/* SPDX-License-Identifier: GPL-2.0 */
/* What sockets.bpf.c and its loader have in common. Only integers, in the host's order. */
#pragma once

#include <linux/types.h>

/* The file that a program runs, as the kernel knows it. */
struct executable {
	__u64 inode;
	__u32 device; /* major << 20 | minor */
	__u32 zero;
};
