//! Compiles the BPF programs with clang and generates the skeletons and the types of their `…intf.h`.

use std::env;
use std::path::PathBuf;

use libbpf_cargo::SkeletonBuilder;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    // Where Debian keeps <asm/types.h>.
    let multiarch = format!("-I/usr/include/{arch}-linux-gnu");
    for object in ["mobility", "relay", "sockets"] {
        let source = format!("src/bpf/{object}.bpf.c");
        SkeletonBuilder::new()
            .source(&source)
            .clang_args([multiarch.as_str(), "-Wall", "-Wno-unused-function", "-O2", "-g"])
            .build_and_generate(out.join(format!("{object}.skel.rs")))
            .unwrap_or_else(|error| {
                panic!("cannot compile {source}: {error:#}; clang 14 or later must be installed")
            });
    }
    println!("cargo:rerun-if-changed=src/bpf");
}
