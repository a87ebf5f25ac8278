//! Compiles the `.proto` files with the protoc of the system.

use std::process::{Command, Stdio, exit};

const FILES: [&str; 2] = ["pair/v1/pair.proto", "pair/v1/state.proto"];

/// Messages that hold secrets: their Debug is written by hand in lib.rs.
const SECRET: [&str; 2] = [".pair.v1.StoredPair", ".pair.v1.Enrol"];

fn main() {
    let protoc = prost_build::protoc_from_env();
    let runs = Command::new(&protoc)
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if !runs.is_ok_and(|status| status.success()) {
        eprintln!(
            "cannot run the protobuf compiler `{}`: install the package protobuf-compiler \
             (Debian, Ubuntu: apt install protobuf-compiler; Fedora: dnf install protobuf-compiler) \
             or set PROTOC to its path",
            protoc.display()
        );
        exit(1);
    }
    if let Err(error) = prost_build::Config::new()
        .skip_debug(SECRET)
        .compile_protos(&FILES, &["."])
    {
        eprintln!("cannot compile {}: {error}", FILES.join(", "));
        exit(1);
    }
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    println!("cargo::rerun-if-env-changed=PROTOC");
}
