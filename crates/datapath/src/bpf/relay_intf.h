/* SPDX-License-Identifier: GPL-2.0 */
/* What the relay's programs and the Rust side say to each other; byte orders as in intf.h. */
#pragma once

#include "intf.h"

/* Maps are pinned and shared with earlier and later daemons: their sizes stay. What a later one has to add stands where
 * `spare` is, and zero there means what its absence meant. */
#define COUNTER_ROOM 64
#define LEASE_BYTES 16
#define SYN_OPTION_BYTES 36

/* The ports that belong to the relay, on each of its addresses. */
struct relay_config {
	u32 first_port;
	u32 last_port;
	/* Connections of an earlier run have ports outside of these. */
	u32 others;
	/* Nothing new is taken, also by the next daemon. */
	u32 draining;
	u32 spare[12];
};

/* One address and port of the relay. */
struct door_key {
	u8 address[ADDRESS_BYTES];
	__be16 port;
	u16 pad;
};

/* How an agent is known at a door: by the key of what it sends, and by its address if that is not all zero. */
struct knocker {
	u8 key[16];
	u8 expected[ADDRESS_BYTES];
};

/* Who may knock at a port. */
struct door {
	u8 lease[LEASE_BYTES];
	struct knocker legs[2];
	/* CLOCK_MONOTONIC, for each leg: when MSYNs at the allowed rate would have come so far. */
	u64 due_ns[2];
	/* Bit 0: the first leg may, bit 1: the second. */
	u32 open;
	u32 spare[3];
};

enum relay_seen {
	RELAY_FIN = 1,
	/* A reset has passed, and nothing from there since: one that a NAPT sent for its host is followed by others. */
	RELAY_RESET = 2,
	/* A third segment has passed. */
	RELAY_THIRD = 4,
	/* An ordinary segment has passed: its sender has committed. */
	RELAY_ORDINARY = 8,
	/* The leg has moved here, and nothing but its MSYN shows it yet: the other direction goes to the old place. */
	RELAY_PENDING = 16,
};

/* One direction of a relayed connection; the key is the tuple seen from the relay. */
struct relay {
	/* The tuple as the other end sees it: it is `local`, the relay's address and port are `remote`. */
	struct tuple to;
	struct path path;
	u8 lease[LEASE_BYTES];
	u64 packets;
	u64 bytes;
	/* CLOCK_MONOTONIC, coarse. */
	u64 last_ns;
	/* When a segment that is too big for the way out was told last. */
	u64 told_ns;
	/* Bits of `relay_seen`. */
	u32 seen;
	/* Which leg sends here: 0 or 1. */
	u32 leg;
	u64 spare[2];
};

enum relay_event_kind {
	/* An authentic MSYN. */
	RELAY_EVENT_MSYN = 1,
	/* A third segment on a pending direction. */
	RELAY_EVENT_THIRD = 2,
	/* A segment that is too big for the way out: `rcv_nxt` is what its sender's packets may have. */
	RELAY_EVENT_TOO_BIG = 3,
};

struct relay_event {
	u32 kind;
	u32 leg;
	u8 lease[LEASE_BYTES];
	struct tuple wire;
	u32 token;
	u32 req_no;
	u32 seq;
	u32 ack;
	u32 rcv_nxt;
	u16 window;
	u16 digest;
	u8 options[SYN_OPTION_BYTES];
};

/* One leg of a lease as a daemon that comes back finds it. */
struct leg_note {
	u8 key_to_proxy[16];
	u8 key_to_agent[16];
	/* A digest of the agent's name. */
	u8 agent[16];
	u8 expected[ADDRESS_BYTES];
	/* The relay's own end, and where the last MSYN that counts came from. */
	struct tuple wire;
	u32 token;
	u32 req_no;
	u32 seq;
	u32 rcv_nxt;
	u16 window;
	u16 mss;
	u8 scale;
	/* An MSYN was heard. */
	u8 heard;
	/* Nothing translates between the agent and the relay. */
	u8 outside;
	u8 pad;
};

enum lease_state {
	LEASE_WAITING = 1,
	LEASE_SPLICED = 2,
	/* Kept so that its ticket does not count a second time. */
	LEASE_ENDED = 3,
};

struct lease_note {
	u8 pair[16];
	u64 label;
	u64 expires_unix_seconds;
	/* CLOCK_MONOTONIC. */
	u64 since_ns;
	/* The same; 0: the server has not released it. */
	u64 released_ns;
	u8 ticket[32];
	u32 state;
	u32 pad;
	struct leg_note legs[2];
	u64 spare[4];
};

enum relay_counter {
	RELAY_COUNTER_RELAYED,
	RELAY_COUNTER_MSYN,
	RELAY_COUNTER_UNKNOWN_PORT,
	RELAY_COUNTER_BAD_MAC,
	RELAY_COUNTER_WRONG_ADDRESS,
	RELAY_COUNTER_MALFORMED,
	RELAY_COUNTER_STRAY_SYN,
	RELAY_COUNTER_STRAY_RESET,
	RELAY_COUNTER_STRAY,
	RELAY_COUNTER_FRAGMENT,
	RELAY_COUNTER_EVENT_LOST,
	RELAY_COUNTER_UNWRITABLE,
	RELAY_COUNTER_TOO_OFTEN,
	RELAY_COUNTER_HOPS,
	RELAY_COUNTER_TOO_BIG,
	RELAY_COUNTER_EXTENSION,
	RELAY_COUNTER_ICMP,
	RELAY_COUNTERS,
};
