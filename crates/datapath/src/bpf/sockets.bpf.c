// SPDX-License-Identifier: GPL-2.0
/* Sockets that chosen programs ask for as TCP become MPTCP. The kernel asks this program for the protocol of every
 * socket that is made; what it does not choose, it leaves as it was asked for. A program is chosen by its cgroup, or one
 * above it, or by the file that it runs. Nothing is pinned: without the agent, new sockets are what was asked for, and
 * those that exist stay what they are. */
#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "sockets_intf.h"

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
/* Beside the type, the word has SOCK_CLOEXEC and SOCK_NONBLOCK. */
#define SOCK_TYPES 0xf
#define IPPROTO_TCP 6
#define IPPROTO_MPTCP 262
/* How deep cgroups lie, at most, for whom the choice of one above counts. */
#define DEPTH 16

struct super_block {
	u32 s_dev;
} __kernel_type;

struct inode {
	unsigned long i_ino;
	struct super_block *i_sb;
} __kernel_type;

struct file {
	struct inode *f_inode;
} __kernel_type;

struct mm_struct {
	struct file *exe_file;
} __kernel_type;

struct task_struct {
	struct mm_struct *mm;
} __kernel_type;

/* cgroup identifiers */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, u64);
	__type(value, u8);
} chosen_cgroups SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct executable);
	__type(value, u8);
} chosen_executables SEC(".maps");

/* For the Rust bindings. */
struct executable unused_executable;

static __always_inline int is_chosen(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct executable executable = {};

	executable.inode = BPF_CORE_READ(task, mm, exe_file, f_inode, i_ino);
	executable.device = BPF_CORE_READ(task, mm, exe_file, f_inode, i_sb, s_dev);
	if (bpf_map_lookup_elem(&chosen_executables, &executable))
		return 1;
	for (int level = 0; level < DEPTH; level++) {
		u64 cgroup = bpf_get_current_ancestor_cgroup_id(level);

		if (!cgroup)
			break;
		if (bpf_map_lookup_elem(&chosen_cgroups, &cgroup))
			return 1;
	}
	return 0;
}

SEC("fmod_ret/update_socket_protocol")
int BPF_PROG(update_socket_protocol, int family, int type, int protocol)
{
	if (family != AF_INET && family != AF_INET6)
		return protocol;
	if ((type & SOCK_TYPES) != SOCK_STREAM || (protocol && protocol != IPPROTO_TCP))
		return protocol;
	return is_chosen() ? IPPROTO_MPTCP : protocol;
}

char LICENSE[] SEC("license") = "GPL";
