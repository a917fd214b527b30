#!/usr/bin/env bash
# What CI and a developer both run: format, lints, tests, documentation. Fails at the first thing that is wrong.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

step "format"
cargo fmt --all --check

step "structure"
scripts/structure.py --self-test
scripts/structure.py --report

step "lints"
cargo clippy --locked --all-targets -- -D warnings

step "tests (the README's command)"
cargo test

step "the live page in a browser"
scripts/page-test.sh

step "packaging"
scripts/package.sh --check

step "the bench (a package of its own)"
bench=(--manifest-path integration/bench/Cargo.toml --target-dir target/bench)
cargo fmt --manifest-path integration/bench/Cargo.toml --check
cargo clippy --locked "${bench[@]}" --all-targets -- -D warnings
cargo test --quiet --locked "${bench[@]}"

step "instructions of the hot paths"
scripts/instructions.sh

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items --quiet

step "licences and sources"
if command -v cargo-deny >/dev/null; then
    cargo deny check bans licenses sources
else
    echo "skipped: cargo-deny is not installed"
fi

step "fuzzing, briefly"
if [ -n "${FUZZ_SECONDS:-}" ]; then
    scripts/fuzz.sh --seconds "$FUZZ_SECONDS" >/dev/null
else
    echo "skipped: FUZZ_SECONDS is not set (3 is enough here); the seeds were run above"
fi

step "all is well"
