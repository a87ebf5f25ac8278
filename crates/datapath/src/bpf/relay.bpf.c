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

#include "family.h"
#include "relay_intf.h"
#include "request.h"

#define PINNED __uint(pinning, LIBBPF_PIN_BY_NAME)
/* IPv6 extension headers that the kernel would look behind. */
#define IPPROTO_HOPOPTS 0
#define IPPROTO_ROUTING 43
#define IPPROTO_FRAGMENT 44
#define IPPROTO_DSTOPTS 60
/* An agent repeats an MSYN a few times a second; so many may come at once, and one each KNOCK_NS after that. */
#define KNOCK_BURST 32
#define KNOCK_NS 20000000ULL
/* A sender is told at most ten times a second that its segments are too big. */
#define TOO_BIG_NS 100000000ULL

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
	__uint(max_entries, COUNTER_ROOM);
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

/* Whether a leg knocks as seldom as an agent does. What is not heard is sent again. */
static __always_inline int in_time(u64 *due)
{
	u64 now = bpf_ktime_get_ns(), at = *due > now ? *due : now;

	if (at - now > (KNOCK_BURST - 1) * KNOCK_NS)
		return 0;
	*due = at + KNOCK_NS;
	return 1;
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
		if (!in_time(&door->due_ns[leg]))
			return drop(RELAY_COUNTER_TOO_OFTEN);
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

/* Notes what the segment shows of its sender, once. A genuine reset travels as Migrate-Reset, on an ACK. Only the ends
 * can tell whether it is: here, whoever says something ordinary afterwards has not ended. */
static __always_inline void observe(struct __sk_buff *skb, const struct packet *p, struct relay *relay)
{
	u32 seen = relay->seen, shows = p->flags & TCPHDR_FIN ? RELAY_FIN : 0, past = 0;
	struct request_option option;

	if (p->header_length < sizeof(struct tcp_header) + REQUEST_LENGTH || !requests(skb, p, &option)) {
		if (p->flags & TCPHDR_RST)
			shows |= RELAY_RESET;
		else
			shows |= RELAY_ORDINARY, past = RELAY_RESET;
	} else if ((option.version_type & 15) == TYPE_MIGRATE_RESET) {
		shows |= RELAY_RESET;
	} else if ((option.version_type & 15) == TYPE_MIGRATE_ACK && read_request(skb, p, &option)) {
		shows |= RELAY_THIRD;
		if (seen & RELAY_PENDING)
			tell(RELAY_EVENT_THIRD, p, &option, relay->lease, relay->leg, skb);
	}
	if ((seen & shows) != shows || seen & past)
		relay->seen = (seen & ~past) | shows;
}

/* One hop less, as any router. */
static __always_inline int age(struct __sk_buff *skb, const struct packet *p)
{
	u8 hops[2];

	if (p->family == 6) {
		if (bpf_skb_load_bytes(skb, p->l3 + 7, hops, 1) || hops[0] <= 1)
			return 0;
		hops[0]--;
		return !bpf_skb_store_bytes(skb, p->l3 + 7, hops, 1, BPF_F_RECOMPUTE_CSUM);
	}
	if (bpf_skb_load_bytes(skb, p->l3 + 8, hops, 2) || hops[0] <= 1)
		return 0;
	/* The checksum counts the other way: what the word loses it gains, and the header's sum stays. */
	{
		__be16 old, new;

		__builtin_memcpy(&old, hops, 2);
		hops[0]--;
		__builtin_memcpy(&new, hops, 2);
		return !bpf_l3_csum_replace(skb, p->l3 + 10, old, new, 2) &&
		       !bpf_skb_store_bytes(skb, p->l3 + 8, hops, 1, 0);
	}
}

/* Whether the segment fits the way out, each of those that a GSO frame stands for. If not, its sender is told what
 * does: `told` gets the size of its packets. */
static __always_inline int fits(struct __sk_buff *skb, const struct packet *p, const struct relay *relay, u32 *told)
{
	u32 mtu = 0, size = p->l4 - p->l3 + p->header_length + (skb->gso_size ? skb->gso_size : payload_length(skb, p));
	int grows = same_family(p, &relay->to) ? 0 : p->family == 4 ? FAMILY_DIFFERENCE : -FAMILY_DIFFERENCE;

	/* What every way takes needs no look. */
	if (size + FAMILY_DIFFERENCE <= 576)
		return 1;
	bpf_check_mtu(skb, relay->path.ifindex, &mtu, 0, 0);
	if (!mtu || size + grows <= mtu)
		return 1;
	*told = mtu - grows;
	return 0;
}

static __always_inline int too_big(struct __sk_buff *skb, const struct packet *p, struct relay *relay, u32 size)
{
	struct request_option option = {};
	u64 now = bpf_ktime_get_ns();

	if (now - relay->told_ns > TOO_BIG_NS) {
		__be32 told = bpf_htonl(size);

		relay->told_ns = now;
		__builtin_memcpy(option.rcv_nxt, &told, 4);
		tell(RELAY_EVENT_TOO_BIG, p, &option, relay->lease, relay->leg, skb);
	}
	return drop(RELAY_COUNTER_TOO_BIG);
}

static __always_inline int pass(struct __sk_buff *skb, const struct packet *p, struct relay *relay)
{
	struct tuple to = relay->to;
	struct path path = relay->path;
	u32 segments = skb->gso_segs, size = 0;

	if (!fits(skb, p, relay, &size))
		return too_big(skb, p, relay, size);
	observe(skb, p, relay);
	__sync_fetch_and_add(&relay->packets, segments ? segments : 1);
	__sync_fetch_and_add(&relay->bytes, skb->len);
	relay->last_ns = bpf_ktime_get_coarse_ns();
	if (!age(skb, p))
		return drop(RELAY_COUNTER_HOPS);
	if (!translate(skb, p, 0, &to))
		return drop(RELAY_COUNTER_UNWRITABLE);
	tally(RELAY_COUNTER_RELAYED);
	return leave(&path);
}

#include "relay_error.h"

/* A port outside of the range that an earlier run has given to a connection which lives. */
static __always_inline int is_kept(const struct packet *p)
{
	struct door_key key = {};
	struct relay_config *c;
	u32 zero = 0;

	c = bpf_map_lookup_elem(&relay_settings, &zero);
	if (!c || !c->others)
		return 0;
	__builtin_memcpy(key.address, p->tuple.local, ADDRESS_BYTES);
	key.port = p->tuple.local_port;
	return bpf_map_lookup_elem(&doors, &key) != NULL;
}

static __always_inline int arrives(struct __sk_buff *skb, u32 l2)
{
	struct packet p = {};
	struct relay *relay;

	if (!read_l3(skb, l2, 0, &p))
		return fragment(skb, l2);
	if (p.protocol == IPPROTO_FRAGMENT && p.family == 6)
		return fragment_v6(skb, &p);
	if (p.protocol == (p.family == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6))
		return error_arrives(skb, &p);
	if (p.family == 6 &&
	    (p.protocol == IPPROTO_HOPOPTS || p.protocol == IPPROTO_ROUTING || p.protocol == IPPROTO_DSTOPTS))
		return is_owned(p.tuple.local) ? drop(RELAY_COUNTER_EXTENSION) : TC_ACT_UNSPEC;
	if (p.protocol != IPPROTO_TCP || !read_tcp(skb, 0, &p))
		return TC_ACT_UNSPEC;
	relay = bpf_map_lookup_elem(&relays, &p.tuple);
	if (relay && !(p.flags & TCPHDR_SYN))
		return pass(skb, &p, relay);
	if (!relay && (!is_owned(p.tuple.local) || (!owns_port(p.tuple.local_port) && !is_kept(&p))))
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
