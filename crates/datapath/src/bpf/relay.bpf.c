// SPDX-License-Identifier: GPL-2.0
/* The data path of the symmetric proxy. It owns a range of ports on its addresses: no segment to one of them
 * reaches the kernel's TCP, which would answer with a reset.
 *
 * User space decides who may knock at which port (`doors`), and which two ends are spliced (`relays`). These programs
 * decide what cannot wait for it: a segment of a spliced connection gets the other leg's addresses and ports and
 * leaves at once; an MSYN whose MAC fits the key of one of the port's two agents goes to user space; everything else
 * is dropped here and counted, and nothing is answered. All state is in pinned maps: no relayed connection notices
 * when the daemon goes away. */
#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "relay_intf.h"
#include "request.h"

#define PINNED __uint(pinning, LIBBPF_PIN_BY_NAME)
#define IPPROTO_FRAGMENT 44

/* For the Rust bindings: these stand in no map. */
struct relay_event unused_event;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct relay_config);
	PINNED;
} relay_settings SEC(".maps");

/* The relay's addresses. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct address);
	__type(value, u32);
	PINNED;
} owned SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct door_key);
	__type(value, struct door);
	PINNED;
} doors SEC(".maps");

/* Two for each spliced connection, more while an end moves. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2097152);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct tuple);
	__type(value, struct relay);
	PINNED;
} relays SEC(".maps");

/* What a daemon that comes back has to know; these programs do not read it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address);
	__type(value, struct lease_note);
	PINNED;
} leases SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, RELAY_COUNTERS);
	__type(key, u32);
	__type(value, u64);
	PINNED;
} relay_counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
	PINNED;
} knocks SEC(".maps");

static __always_inline void tally(u32 which)
{
	u64 *value = bpf_map_lookup_elem(&relay_counters, &which);

	if (value)
		(*value)++;
}

static __always_inline int drop(u32 why)
{
	tally(why);
	return TC_ACT_SHOT;
}

static __always_inline int is_owned(const u8 address[ADDRESS_BYTES])
{
	return bpf_map_lookup_elem(&owned, address) != NULL;
}

static __always_inline int owns_port(__be16 port)
{
	u32 zero = 0, number = bpf_ntohs(port);
	struct relay_config *c = bpf_map_lookup_elem(&relay_settings, &zero);

	return c && number >= c->first_port && number <= c->last_port;
}

/* Fragments of TCP to one of our addresses: put together, the kernel would answer them. */
static __always_inline int fragment(struct __sk_buff *skb, u32 l2)
{
	u8 destination[ADDRESS_BYTES];
	u32 protocol = skb->protocol;

	if (protocol == bpf_htons(ETH_P_IP)) {
		struct ipv4_header ip;

		if (bpf_skb_load_bytes(skb, l2, &ip, sizeof(ip)) || ip.protocol != IPPROTO_TCP)
			return TC_ACT_UNSPEC;
		mapped(destination, ip.destination);
		return is_owned(destination) ? drop(RELAY_COUNTER_FRAGMENT) : TC_ACT_UNSPEC;
	}
	return TC_ACT_UNSPEC;
}

static __always_inline int fragment_v6(struct __sk_buff *skb, const struct packet *p)
{
	u8 next;

	if (bpf_skb_load_bytes(skb, p->l4, &next, 1) || next != IPPROTO_TCP)
		return TC_ACT_UNSPEC;
	return is_owned(p->tuple.local) ? drop(RELAY_COUNTER_FRAGMENT) : TC_ACT_UNSPEC;
}

static __always_inline void tell(u32 kind, const struct packet *p, const struct request_option *option,
				 const u8 lease[LEASE_BYTES], u32 leg, struct __sk_buff *skb)
{
	struct relay_event *event = bpf_ringbuf_reserve(&knocks, sizeof(*event), 0);

	if (!event) {
		tally(RELAY_COUNTER_EVENT_LOST);
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->kind = kind;
	event->leg = leg;
	__builtin_memcpy(event->lease, lease, LEASE_BYTES);
	event->wire = p->tuple;
	event->token = be32_of(option->token);
	event->req_no = be32_of(option->req_no);
	event->seq = p->seq;
	event->ack = p->ack;
	event->rcv_nxt = be32_of(option->rcv_nxt);
	event->window = bpf_ntohs(p->window);
	event->digest = option->digest[0] << 8 | option->digest[1];
	if (kind == RELAY_EVENT_MSYN)
		bpf_skb_load_bytes(skb, p->l4 + sizeof(struct tcp_header), event->options, SYN_OPTION_BYTES);
	bpf_ringbuf_submit(event, 0);
}

/* A SYN to one of our ports: only that of an agent which holds one of the port's two keys is heard. */
static __always_inline int knock(struct __sk_buff *skb, const struct packet *p)
{
	struct request_option option;
	struct door_key key = {};
	struct mac_input input;
	struct door *door;
	u64 tag;

	if (!requests(skb, p, &option))
		return drop(RELAY_COUNTER_STRAY_SYN);
	if (p->header_length < sizeof(struct tcp_header) + SYN_OPTION_BYTES || !read_request(skb, p, &option) ||
	    (option.version_type & 15) != TYPE_MSYN)
		return drop(RELAY_COUNTER_MALFORMED);
	__builtin_memcpy(key.address, p->tuple.local, ADDRESS_BYTES);
	key.port = p->tuple.local_port;
	door = bpf_map_lookup_elem(&doors, &key);
	if (!door)
		return drop(RELAY_COUNTER_UNKNOWN_PORT);
	cover(&input, p, &option);
	__builtin_memcpy(&tag, option.mac, 8);
#pragma unroll
	for (int leg = 0; leg < 2; leg++) {
		const u64 *expected = (const u64 *)door->legs[leg].expected;
		const u64 *from = (const u64 *)p->tuple.remote;
		u64 mac[2];

		if (!(door->open & (1 << leg)))
			continue;
		__builtin_memcpy(mac, door->legs[leg].key, 16);
		if (siphash(mac, (const u64 *)&input, 4, (u64)32 << 56) != tag)
			continue;
		if ((expected[0] | expected[1]) && (expected[0] != from[0] || expected[1] != from[1]))
			return drop(RELAY_COUNTER_WRONG_ADDRESS);
		tally(RELAY_COUNTER_MSYN);
		tell(RELAY_EVENT_MSYN, p, &option, door->lease, leg, skb);
		return TC_ACT_STOLEN;
	}
	return drop(RELAY_COUNTER_BAD_MAC);
}

static __always_inline int leave(const struct path *path)
{
	struct bpf_redir_neigh next = {};

	if (path->next_hop_family == 0)
		return bpf_redirect_neigh(path->ifindex, NULL, 0, 0);
	next.nh_family = path->next_hop_family;
	if (path->next_hop_family == AF_INET)
		next.ipv4_nh = v4_of(path->next_hop);
	else
		__builtin_memcpy(next.ipv6_nh, path->next_hop, ADDRESS_BYTES);
	return bpf_redirect_neigh(path->ifindex, &next, sizeof(next), 0);
}

/* Notes what the segment shows of its sender, once. */
static __always_inline void observe(struct __sk_buff *skb, const struct packet *p, struct relay *relay)
{
	u32 seen = relay->seen;
	u32 shows = (p->flags & TCPHDR_FIN ? RELAY_FIN : 0) | (p->flags & TCPHDR_RST ? RELAY_RESET : 0);

	if (!(seen & RELAY_ORDINARY) || seen & RELAY_PENDING) {
		struct request_option option;

		if (!requests(skb, p, &option)) {
			shows |= RELAY_ORDINARY;
		} else if ((option.version_type & 15) == TYPE_MIGRATE_ACK && read_request(skb, p, &option)) {
			shows |= RELAY_THIRD;
			if (seen & RELAY_PENDING)
				tell(RELAY_EVENT_THIRD, p, &option, relay->lease, relay->leg, skb);
		}
	}
	if ((seen & shows) != shows)
		relay->seen = seen | shows;
}

static __always_inline int pass(struct __sk_buff *skb, const struct packet *p, struct relay *relay)
{
	struct tuple to = relay->to;
	struct path path = relay->path;
	u32 segments = skb->gso_segs;

	observe(skb, p, relay);
	__sync_fetch_and_add(&relay->packets, segments ? segments : 1);
	__sync_fetch_and_add(&relay->bytes, skb->len);
	relay->last_ns = bpf_ktime_get_coarse_ns();
	if (!rewrite(skb, p, 0, &to))
		return drop(RELAY_COUNTER_UNWRITABLE);
	tally(RELAY_COUNTER_RELAYED);
	return leave(&path);
}

static __always_inline int arrives(struct __sk_buff *skb, u32 l2)
{
	struct packet p = {};
	struct relay *relay;

	if (!read_l3(skb, l2, 0, &p))
		return fragment(skb, l2);
	if (p.protocol == IPPROTO_FRAGMENT && p.family == 6)
		return fragment_v6(skb, &p);
	if (p.protocol != IPPROTO_TCP || !read_tcp(skb, 0, &p))
		return TC_ACT_UNSPEC;
	relay = bpf_map_lookup_elem(&relays, &p.tuple);
	if (relay && !(p.flags & TCPHDR_SYN))
		return pass(skb, &p, relay);
	if (!relay && (!owns_port(p.tuple.local_port) || !is_owned(p.tuple.local)))
		return TC_ACT_UNSPEC;
	if ((p.flags & (TCPHDR_SYN | TCPHDR_ACK | TCPHDR_RST | TCPHDR_FIN)) == TCPHDR_SYN)
		return knock(skb, &p);
	if (p.flags & TCPHDR_RST)
		return drop(RELAY_COUNTER_STRAY_RESET);
	return drop(p.flags & TCPHDR_SYN ? RELAY_COUNTER_STRAY_SYN : RELAY_COUNTER_STRAY);
}

SEC("tc")
int relay_ethernet(struct __sk_buff *skb)
{
	return arrives(skb, ETH_HLEN);
}

SEC("tc")
int relay_raw(struct __sk_buff *skb)
{
	return arrives(skb, 0);
}

char LICENSE[] SEC("license") = "GPL";
