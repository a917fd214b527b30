//! Runs every seed, and every input that a fuzzer once failed on, through its target.

#[allow(unreachable_pub, reason = "the fuzzers import it as a library")]
mod targets;

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

#[test]
fn every_seed_passes_its_target() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/fuzz/seeds");
    let mut failed = Vec::new();
    for (name, run) in targets::ALL {
        let files = fs::read_dir(seeds.join(name)).unwrap_or_else(|error| panic!("seeds of {name}: {error}"));
        let paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        assert!(!paths.is_empty(), "{name} has no seeds");
        for path in paths {
            let data = fs::read(&path).unwrap();
            if catch_unwind(|| run(&data)).is_err() {
                failed.push(path);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
