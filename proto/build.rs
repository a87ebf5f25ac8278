//! Compiles the `.proto` files with the protoc of the system.

use std::path::PathBuf;
use std::process::{Command, Stdio, exit};

const FILES: [&str; 3] = [
    "pair/v1/pair.proto",
    "pair/v1/state.proto",
    "mobility/v1/stored.proto",
];

/// Messages that hold secrets: their Debug is written by hand in lib.rs.
const SECRET: [&str; 2] = [".pair.v1.StoredPair", ".pair.v1.Enrol"];

/// The services of the mobility server.
const MOBILITY: &str = "mobility/v1/mobility.proto";

/// Messages of those services that hold secrets.
const SECRET_MOBILITY: [&str; 5] = [
    ".mobility.v1.Destination",
    ".mobility.v1.EnrolRequest",
    ".mobility.v1.TicketLeg",
    ".mobility.v1.LeaseRequest",
    ".mobility.v1.CreateTokenResponse",
];

fn compile_mobility() -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = PathBuf::from(std::env::var("OUT_DIR")?).join("mobility.v1.bin");
    let mut prost = tonic_prost_build::Config::new();
    prost.skip_debug(SECRET_MOBILITY);
    tonic_prost_build::configure()
        .file_descriptor_set_path(descriptors)
        .compile_with_config(prost, &[MOBILITY], &["."])?;
    Ok(())
}

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
    if let Err(error) = compile_mobility() {
        eprintln!("cannot compile {MOBILITY}: {error}");
        exit(1);
    }
    for file in FILES.into_iter().chain([MOBILITY]) {
        println!("cargo::rerun-if-changed={file}");
    }
    println!("cargo::rerun-if-env-changed=PROTOC");
}
