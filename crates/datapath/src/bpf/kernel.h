/* SPDX-License-Identifier: GPL-2.0 */
/* The few kernel types that the programs read. Only the fields named here exist for the compiler; where they
 * lie in the running kernel is resolved at load time from its BTF (CO-RE), so that one object serves all. */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>

#define __kernel_type __attribute__((preserve_access_index))

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s64 s64;

struct in6_addr {
	u8 bytes[16];
} __kernel_type;

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
} __kernel_type;

struct sock {
	struct sock_common __sk_common;
	u32 sk_mark;
	int sk_err;
} __kernel_type;

struct inet_sock {
	struct sock sk;
} __kernel_type;

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	u32 icsk_rto;
	u8 icsk_retransmits;
	u8 icsk_backoff;
	u8 icsk_probes_out;
	u32 icsk_user_timeout;
} __kernel_type;

struct tcp_options_received {
	u32 ts_recent;
	u16 saw_tstamp : 1, tstamp_ok : 1, dsack : 1, wscale_ok : 1, sack_ok : 3, smc_ok : 1, snd_wscale : 4, rcv_wscale : 4;
} __kernel_type;

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	u32 tsoffset;
	u32 snd_wnd;
	u32 mss_cache;
	u32 srtt_us;
	u8 tcp_usec_ts : 1;
	u32 write_seq;
	u32 rcv_nxt;
	u32 snd_nxt;
	u32 snd_una;
	u32 packets_out;
	u32 data_segs_out;
	u32 total_retrans;
	u32 rcv_wnd;
	struct tcp_options_received rx_opt;
	u32 rcv_wup;
	u8 is_mptcp;
	/* Only in kernels that have them. */
	void *md5sig_info;
	void *ao_info;
} __kernel_type;

struct tcp_request_sock;
struct tcp_timewait_sock;

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
	u64 session_id;
	u64 seq_num;
} __kernel_type;

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
} __kernel_type;

/* Numbers of the socket interface and of the protocols. */
#define AF_INET 2
#define AF_INET6 10
#define SOL_SOCKET 1
#define SO_MARK 36
#define IPPROTO_TCP 6
#define IPPROTO_ICMP 1
#define IPPROTO_ICMPV6 58
#define TCP_USER_TIMEOUT 18
#define TCP_SAVE_SYN 27
#define TCP_BPF_SOCK_OPS_CB_FLAGS 1008
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define ETH_HLEN 14

/* What comes after this program may decide. */
#define TC_ACT_UNSPEC -1
#define TC_ACT_OK 0
#define TC_ACT_SHOT 2
#define TC_ACT_STOLEN 4

#define TCPHDR_FIN 0x01
#define TCPHDR_SYN 0x02
#define TCPHDR_RST 0x04
#define TCPHDR_ACK 0x10

struct ipv4_header {
	u8 version_ihl;
	u8 tos;
	__be16 total_length;
	__be16 id;
	__be16 fragment;
	u8 ttl;
	u8 protocol;
	__be16 checksum;
	__be32 source;
	__be32 destination;
};

struct ipv6_header {
	__be32 flow;
	__be16 payload_length;
	u8 next_header;
	u8 hop_limit;
	u8 source[16];
	u8 destination[16];
};

struct tcp_header {
	__be16 source;
	__be16 destination;
	__be32 seq;
	__be32 ack;
	u8 offset;
	u8 flags;
	__be16 window;
	__be16 checksum;
	__be16 urgent;
};
