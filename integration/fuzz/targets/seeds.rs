//! Runs each target on its seeds, which include every input that it once failed on, and on a fixed number of small random
//! changes to them, the same in each run.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use proptest::test_runner::{RngAlgorithm, TestRng};

use super::{ALL, Run};

/// The number of changed seeds for each target.
const CHANGED: usize = 10_000;

#[test]
fn every_seed_passes_its_target() {
    let mut failed: Vec<PathBuf> = Vec::new();
    for (name, run) in ALL {
        for (path, seed) in seeds(name) {
            if catch_unwind(|| run(&seed)).is_err() {
                failed.push(path);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn changed_seeds_pass_their_target() {
    for (name, run) in ALL {
        change(name, run);
    }
}

fn change(name: &str, run: Run) {
    let seeds: Vec<_> = seeds(name).into_iter().map(|(_, seed)| seed).collect();
    let mut random = Random(TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    for _ in 0..CHANGED {
        let mut input = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(4) {
            let (from, to) = (random.below(input.len() + 1), random.below(input.len() + 1));
            let (from, to) = (from.min(to), from.max(to));
            match random.below(6) {
                0 => drop(input.drain(from..to)),
                1 => input.extend_from_within(from..to),
                2 => {
                    let other = &seeds[random.below(seeds.len())];
                    let part = other[random.below(other.len() + 1)..].to_vec();
                    input.splice(from..to, part);
                }
                3 => input.insert(from, b"\r\n\t :;,0\0\xff"[random.below(10)]),
                _ if from < input.len() => input[from] ^= 1 << random.below(8),
                _ => {}
            }
        }
        if catch_unwind(|| run(&input)).is_err() {
            panic!("{name} fails with {}", input.escape_ascii());
        }
    }
}

/// The seeds of a target, in the order of their names.
fn seeds(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
    let files = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut seeds: Vec<_> =
        files.map(|file| file.unwrap().path()).map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{name} has no seeds");
    seeds
}

struct Random(TestRng);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        use proptest::prelude::Rng;
        usize::try_from(self.0.next_u64() % bound as u64).unwrap()
    }
}

/// The format has a version: a target that knows another version refuses everything, and finds nothing.
#[test]
fn the_whole_metadata_of_a_response_is_read() {
    let (_, seed) = seeds("stored").into_iter().find(|(path, _)| path.ends_with("whole")).unwrap();
    assert!(super::stored::read(&seed).is_some());
}
