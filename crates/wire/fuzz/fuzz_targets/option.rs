//! `cargo +nightly fuzz run option fuzz/corpus/option fuzz/seeds/option`, from `crates/wire`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wire_fuzz::option(bytes));
