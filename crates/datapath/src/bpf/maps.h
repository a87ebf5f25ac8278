/* SPDX-License-Identifier: GPL-2.0 */
/* Every map is pinned by name, so that it outlives the agent. */
#pragma once

#include "intf.h"

#define EVENTS_BYTES (1 << 20)

#define PINNED __uint(pinning, LIBBPF_PIN_BY_NAME)

/* Strangers on the old tuples of moved connections: as they are on the wire, and as the kernel knows them. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tuple);
	__type(value, struct tuple);
	PINNED;
} shadows_in SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tuple);
	__type(value, struct tuple);
	PINNED;
} shadows_out SEC(".maps");

/* 1 from the first shadow port on: until then nobody is looked for. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
	PINNED;
} shadowing SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct config);
	PINNED;
} agent_config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct tuple);
	__type(value, struct connection);
	PINNED;
} connections SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct tuple);
	__type(value, struct session);
	PINNED;
} sessions SEC(".maps");

/* Written and read by agents only. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct tuple);
	__type(value, struct leg);
	PINNED;
} legs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u32);
	__type(value, struct token_list);
	PINNED;
} tokens SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct tuple);
	__type(value, struct wire_state);
	PINNED;
} wires SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct tuple);
	__type(value, struct arrival);
	PINNED;
} arrivals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct address);
	__type(value, struct source);
	PINNED;
} sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tuple);
	__type(value, struct heads);
	PINNED;
} heads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct peer_key);
	__type(value, u64);
	PINNED;
} peers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix_key);
	__type(value, u32);
	PINNED;
} offer_to SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, u32);
	__type(value, u64);
	PINNED;
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, EVENTS_BYTES);
	PINNED;
} events SEC(".maps");

/* Connections that have just been set up and wait for keys; read at leisure. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
	PINNED;
} opened SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct heads);
} scratch SEC(".maps");

/* What a socket had before its timeouts and its mark were changed, and what it has sent during set-up. */
struct saved {
	u32 user_timeout;
	u32 raised;
	u32 marked;
	/* These two are left from layout 3; nothing reads them. */
	u32 syn_count;
	u32 isn_local;
	/* When it was last reported as suspect, in units of about a second; 0: not since it was well. */
	u32 suspect;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct saved);
	PINNED;
} saved SEC(".maps");

static __always_inline void count(u32 which)
{
	u64 *value = bpf_map_lookup_elem(&counters, &which);

	if (value)
		(*value)++;
}

static __always_inline struct config *settings(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&agent_config, &zero);
}

/* Of an agent that does not say: a week. */
#define RAISED_TIMEOUT_MS 604800000

/* TCP_USER_TIMEOUT of a socket whose peer or path is away. */
static __always_inline u32 raised_timeout(const struct config *c)
{
	return c->raised_timeout_ms ? c->raised_timeout_ms : RAISED_TIMEOUT_MS;
}
