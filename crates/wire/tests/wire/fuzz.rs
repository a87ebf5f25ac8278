//! The fuzz targets without a fuzzer: the committed seeds, and 20,000 inputs of a deterministic generator a
//! target, half of them mutations of the seeds.
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

#[path = "../../fuzz/src/lib.rs"]
mod harness;

const INPUTS: u32 = 20_000;

#[test]
fn segments_hold_for_seeds_and_pseudo_random_packets() {
    run("segment", harness::segment);
}

#[test]
fn options_hold_for_seeds_and_pseudo_random_areas() {
    run("option", harness::option);
}

fn run(target: &str, harness: fn(&[u8])) {
    let seeds = seeds(target);
    seeds.iter().for_each(|seed| harness(seed));
    let config = Config {
        cases: INPUTS,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut inputs = 0;
    let counted = std::cell::RefCell::new(&mut inputs);
    TestRunner::new_with_rng(config, rng)
        .run(&input(seeds), |bytes| {
            **counted.borrow_mut() += 1;
            harness(&bytes);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(inputs, INPUTS);
}

/// Random bytes, or a seed with some bytes overwritten, some inserted and the end missing.
fn input(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let byte_at = || (any::<prop::sample::Index>(), any::<u8>());
    let mutated = (
        prop::sample::select(seeds),
        prop::collection::vec(byte_at(), 0..6),
        prop::collection::vec(byte_at(), 0..3),
        prop::option::weighted(0.3, any::<prop::sample::Index>()),
    )
        .prop_map(|(mut bytes, overwritten, inserted, end)| {
            for (at, byte) in overwritten {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            for (at, byte) in inserted {
                bytes.insert(at.index(bytes.len() + 1), byte);
            }
            bytes.truncate(end.map_or(bytes.len(), |end| end.index(bytes.len() + 1)));
            bytes
        });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..200), mutated]
}

/// The committed seeds of a target, in the order of their names.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 8, "seeds are missing in {}", folder.display());
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}
