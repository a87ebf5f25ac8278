//! `cargo +nightly fuzz run segment fuzz/corpus/segment fuzz/seeds/segment`, from `crates/wire`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wire_fuzz::segment(bytes));
