/* SPDX-License-Identifier: GPL-2.0 */
/* What the BPF programs and the Rust side say to each other. The Rust types are generated from this file
 * through the object's BTF. Addresses and ports are big-endian as on the wire; every other number has the
 * byte order of the machine. */
#pragma once

#define ADDRESS_BYTES 16
#define FRAME_BYTES 1500
#define TOKEN_ENTRIES 4

/* IPv6, or IPv4-mapped IPv6. */
struct address {
	u8 bytes[ADDRESS_BYTES];
};

/* Who talks to whom, seen from this host. IPv4 addresses are IPv4-mapped IPv6 addresses. */
struct tuple {
	u8 local[ADDRESS_BYTES];
	u8 remote[ADDRESS_BYTES];
	__be16 local_port;
	__be16 remote_port;
};

/* The way out: device and next hop. `next_hop_family` 0 means: let the kernel's routing table decide; `ifindex`
 * 0: there is none, segments are parked. */
struct path {
	u32 ifindex;
	u32 next_hop_family;
	u8 next_hop[ADDRESS_BYTES];
};

enum role {
	ROLE_INITIATOR = 0,
	ROLE_ACCEPTOR = 1,
};

/* A connection both of whose ends offered migration; written at set-up, gone when the socket closes. */
struct connection {
	u32 isn_local;
	u32 isn_remote;
	u64 opened_ns;
	u16 peer_direct_port;
	u16 peer_agent_port;
	u16 peer_digest;
	u8 role;
	/* The digest equals the address and port from which the peer's SYN or SYN-ACK came. */
	u8 peer_unmapped;
};

enum session_flag {
	/* The socket's segments go through the parking device. */
	SESSION_MARK = 1,
	/* The kernel's own timeouts are suspended. */
	SESSION_RAISE = 2,
	/* An incoming reset is held until the peer's agent confirmed it. */
	SESSION_HOLD_RESET = 4,
	/* A change of state of the socket is reported. */
	SESSION_WATCH = 8,
	/* The socket is older than the data path, or its options were lost: its callbacks have to be switched on. */
	SESSION_ENROLLED = 16,
	/* Its wire tuple leads to a symmetric proxy: the peer may say there that it has moved. */
	SESSION_RELAYED = 32,
};

/* A connection with keys; written by the agent only, and what a restarted agent adopts. */
struct session {
	u8 key_out[16];
	u8 key_in[16];
	u8 key_token[16];
	u8 pair_id[16];
	u32 epoch;
	u32 isn_initiator;
	u32 isn_acceptor;
	/* Highest ReqNo that both ends committed, and highest one that may ever have been sent. */
	u32 req_committed;
	u32 req_stored;
	u32 flags;
	u8 role;
	u8 pad[3];
};

/* Where a relayed connection's proxy is, and the keys that this end shares with it; for the next agent. */
struct leg {
	u8 proxy[ADDRESS_BYTES];
	__be16 port;
	u8 pad[6];
	u8 to_proxy[16];
	u8 to_agent[16];
};

/* Which connections a token may name. Collisions are tried one after another by MAC. */
struct token_entry {
	struct tuple identity;
	u8 key_in[16];
	u32 candidate;
};

struct token_list {
	u32 used;
	struct token_entry entry[TOKEN_ENTRIES];
};

/* Where a moved connection's segments go. Changed under the lock, and only to a higher ReqNo. */
struct wire_state {
	struct bpf_spin_lock lock;
	u32 req_no;
	struct tuple wire;
	struct path path;
	u32 pad;
};

enum arrival_state {
	/* The mover sent an MSYN from here and waits. */
	ARRIVAL_ATTEMPTED = 1,
	/* The responder answered an MSYN that came here; nothing proves the tuple yet. */
	ARRIVAL_ANSWERED = 2,
	/* The tuple carries the connection. */
	ARRIVAL_COMMITTED = 3,
	/* The tuple carried it before; late segments are still welcome. */
	ARRIVAL_LINGER = 4,
};

/* What the first ordinary segments on a committed tuple cause. */
enum first_segments {
	/* The agent is told of the first one. */
	FIRST_CONFIRMS = 1,
	/* Those without an echo get one. */
	FIRST_MENDED = 2,
	/* No first segment: the socket is bound to a device, and hears what arrives there only. */
	ARRIVES_BOUND = 4,
};

/* What to do with segments that arrive on a wire tuple. */
struct arrival {
	struct tuple identity;
	struct path path;
	u32 req_no;
	u32 state;
	/* The Migrate-Ack that commits has exactly these. */
	u32 expect_seq;
	u32 expect_ack;
	/* Bits of `first_segments`. */
	u32 confirm;
};

/* A local address that can be used as source now. */
struct source {
	u32 ifindex;
	u32 usable;
};

/* A segment as it left the socket, from the IP header on. */
struct frame {
	u32 seq;
	u32 length;
	u8 bytes[FRAME_BYTES];
};

struct heads {
	/* The segment at SND.UNA, and the last one that was parked. */
	struct frame head;
	struct frame last;
};

enum event_kind {
	/* An authentic segment with a Migrate-Request. */
	EVENT_SEGMENT = 1,
	/* A Migrate-Ack committed an attempt (again: it was committed before). */
	EVENT_COMMITTED = 2,
	/* The peer's first ordinary segment on a committed tuple. */
	EVENT_CONFIRMED = 3,
	/* A plain reset that fits exactly is held. */
	EVENT_RESET_HELD = 4,
	/* A SYN-ACK without the option, or a reset, answered our MSYN. */
	EVENT_STRANGER = 5,
	/* The first connection with a peer that offers migration. */
	EVENT_PEER = 6,
	/* The socket of a session changed its state. */
	EVENT_TCP_STATE = 7,
	/* A retransmission timed out or a probe stayed unanswered. */
	EVENT_SUSPECT = 8,
	/* A segment whose token is not known here. */
	EVENT_UNKNOWN_TOKEN = 9,
};

struct event {
	u32 kind;
	u32 type;
	struct tuple wire;
	struct tuple identity;
	u32 token;
	u32 req_no;
	u32 seq;
	u32 ack;
	u32 rcv_nxt;
	u32 candidate;
	u16 window;
	u16 digest;
	/* EVENT_COMMITTED: 1 when repeated. EVENT_TCP_STATE: the old state. */
	u32 detail;
	u32 ifindex;
	u64 time_ns;
	u16 peer_agent_port;
	u8 window_scale;
	u8 pad[5];
};

/* The agent's settings. */
struct config {
	u64 netns_cookie;
	/* CLOCK_MONOTONIC of the agent's last sign of life. */
	u64 heartbeat_ns;
	/* How old a sign of life may be before resets pass. */
	u64 heartbeat_limit_ns;
	u32 mark;
	u32 agent_mark;
	u32 parking_ifindex;
	u32 offer_all;
	/* Sessions that exist, and such that were moved or are parked: 0 keeps the programs out of the way. */
	u32 sessions;
	u32 moved;
	u16 agent_port;
	u8 parking_mac[6];
	/* The number of the maps' layout, and the oldest whose agents can use them by leaving out the rest
	 * (kernel/layout.rs). 0: the first. */
	u32 layout;
	u32 layout_oldest;
	/* This host is a router for others, such as its containers: handshakes of theirs pass. */
	u32 forwards;
	/* TCP_USER_TIMEOUT of a socket whose peer or path is away; 0: RAISED_TIMEOUT_MS. */
	u32 raised_timeout_ms;
};

struct peer_key {
	u8 address[ADDRESS_BYTES];
	u32 agent_port;
};

struct prefix_key {
	u32 length;
	u8 address[ADDRESS_BYTES];
};

/* What a live socket knows, and what the agent asks for. */
enum request_kind {
	REQUEST_READ = 1,
	REQUEST_COMMIT = 2,
	REQUEST_MAC = 3,
	REQUEST_DIGEST = 4,
	REQUEST_PARK = 5,
};

struct tcp_state {
	u32 found;
	u32 tcp_state;
	u32 snd_una;
	u32 snd_nxt;
	u32 write_seq;
	u32 rcv_nxt;
	u32 rcv_wup;
	u32 rcv_wnd;
	u32 snd_wnd;
	u32 mss;
	u32 packets_out;
	u32 timestamp_value;
	u32 timestamp_recent;
	/* In microseconds. */
	u32 rtt;
	u32 data_segments_out;
	u32 retransmitted;
	/* Index of the device that the socket is bound to. */
	u32 bound;
	u8 send_scale;
	u8 receive_scale;
	u8 scale_ok;
	u8 timestamps_ok;
	u8 probes_out;
	u8 backoff;
	u8 pad[2];
};

/* Exchanged through BPF_PROG_TEST_RUN after an empty Ethernet header. */
struct request {
	u32 kind;
	u32 result;
	struct tuple identity;
	struct tuple wire;
	struct path path;
	u32 req_no;
	struct tcp_state tcp;
	u8 key[16];
	u8 message[32];
	u64 mac;
};

enum counter {
	COUNTER_OFFERED,
	COUNTER_PERMITTED,
	COUNTER_PARKED,
	COUNTER_TRANSLATED_OUT,
	COUNTER_TRANSLATED_IN,
	COUNTER_STOLEN,
	COUNTER_MALFORMED_OPTION,
	COUNTER_UNKNOWN_TOKEN,
	COUNTER_BAD_MAC,
	COUNTER_STALE_ACK,
	COUNTER_COMMITTED,
	COUNTER_STRANGER_DROPPED,
	COUNTER_UNPROVEN_DROPPED,
	COUNTER_RESET_HELD,
	COUNTER_RESET_PASSED,
	COUNTER_ICMP_TRANSLATED,
	COUNTER_EVENT_LOST,
	COUNTER_MAP_FULL,
	COUNTER_CAUGHT,
	COUNTER_STRANGER_SHADOWED,
	COUNTERS,
};
