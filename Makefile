# The two that matter: `make demo` shows a live connection moving, `make test` proves it. Both as root.
#
#   demo      a download and an ssh session move from one NAPT to another; report in target/demo/report.html
#   test      everything: unit, property, BPF and scenario tests
#   matrix    one story for every combination of NAPTs, mover, family and program; table in target/matrix
#   chaos     a random walk under real programs: SEED=… MINUTES=… BOTH=1; needs redis-server and postgresql
#   sim       SEEDS stories of wandering hosts for the protocol core, under a virtual clock; needs no root
#   packetdrill  google/packetdrill's TCP scripts with an idle agent and without: PACKETDRILL=CHECKOUT; 20 minutes
#   vm-test   stories on kernels of Debian's, in QEMU; needs what .ci/vm says; slow where there is no KVM
#   guesses   GUESSES pair IDs guessed at a mobility server: answers alike, limits hold, others match; seconds
#   bench     how long a move takes, what translation costs, how much a mobility server does; minutes
#   fuzz      the parsers under cargo-fuzz, FUZZ_SECONDS each; needs cargo-fuzz and a nightly toolchain
#   lint      format, clippy, and cargo-deny where it is installed
#   build     the programs
#   setup     the packages that build and laboratory need (Debian and relatives)
#   sweep     what killed runs of the laboratory left on the machine

SHELL := /bin/bash
TARGET := $(or $(CARGO_TARGET_DIR),target)
FUZZ_SECONDS ?= 60
SEEDS ?= 10000
GUESSES ?= 1000000
# What a failed part hides is that the others work: say it all.
TEST_FLAGS ?= --no-fail-fast

.PHONY: help setup root build demo test sim matrix chaos packetdrill vm-test guesses bench fuzz lint sweep

help:
	@sed -n 's/^#   /  make /p' Makefile

setup:
	@.ci/setup

root:
	@[ "$$(id -u)" -eq 0 ] || { \
		echo 'make: network namespaces and BPF need root; run this as root, or build only: make build' >&2; exit 1; }

# The whole workspace, as `test` does: dependencies are then built once, with the same features.
build: setup
	cargo build --workspace --bins --examples

demo: root build
	@mkdir -p $(TARGET)/demo
	$(TARGET)/debug/lab demo --agent-binary $(TARGET)/debug/host-agent --report $(TARGET)/demo/report.html

# The scenarios start the programs, so these come first; building them together with the tests leaves no processor idle.
test: root setup
	cargo test --workspace --no-run
	cargo test --workspace $(TEST_FLAGS)

# BOTH=1: both ends move behind NAPTs. QUICK=1 tells a selection, FILTER=TEXT those whose name contains it, JOBS says how many at a time.
matrix: root build
	$(TARGET)/debug/lab matrix --agent-binary $(TARGET)/debug/host-agent --directory $(TARGET)/matrix \
		$(if $(BOTH),--both) $(if $(QUICK),--quick) $(if $(FILTER),--filter $(FILTER)) --jobs $(or $(JOBS),3)

chaos: root build
	$(TARGET)/debug/lab chaos --agent-binary $(TARGET)/debug/host-agent --directory $(TARGET)/chaos \
		$(if $(SEED),--seed $(SEED)) --minutes $(or $(MINUTES),10) $(if $(BOTH),--both)

sim: build
	$(TARGET)/debug/lab sim --seeds $(SEEDS)

packetdrill: root build
	.ci/packetdrill $(or $(PACKETDRILL),../packetdrill)

# What these kernels have and the one of this machine may lack, and what must not be done to this machine.
vm-test: root build
	@for kernel in linux-image-6.12-amd64 linux-image-amd64; do .ci/vm $$kernel \
		$(foreach story,napt_to_napt kernel_tls ipv4_over_ipv6 vm/clock_jumps,'$(TARGET)/debug/lab run tests/scenarios/$(story).scn') \
		|| exit 1; done
	@.ci/vm linux-image-6.12-amd64 '$(TARGET)/debug/lab run tests/scenarios/vm/mptcp_sockets.scn'

guesses: setup
	GUESSES=$(GUESSES) cargo test --workspace --test service guesses

bench: root setup
	cargo build --release -p host-agent -p mobility-server -p mptcp-relay -p symmetric-proxy -p lab
	$(TARGET)/release/lab bench
	cargo bench -p mobility-server --bench server
	cargo bench -p symmetric-proxy --bench proxy

fuzz: setup
	@cargo fuzz --version >/dev/null 2>&1 || { echo 'make: cargo install cargo-fuzz, and rustup toolchain install nightly' >&2; exit 1; }
	@mkdir -p crates/wire/fuzz/corpus/option crates/wire/fuzz/corpus/segment
	cd crates/wire && for target in option segment; do \
		cargo +nightly fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; done

lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; \
	else echo 'lint: cargo-deny is not installed; licences and sources were not checked'; fi

sweep: root
	@[ -x $(TARGET)/debug/lab ] || cargo build -p lab
	$(TARGET)/debug/lab sweep
