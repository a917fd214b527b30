#!/usr/bin/env bash
# Measures laneway beside its peers: see scripts/bench.sh --help.
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${XDG_CACHE_HOME:-$HOME/.cache}/laneway-bench"

cargo build --quiet --locked --release
cargo build --quiet --locked --release --manifest-path integration/bench/Cargo.toml --target-dir target/bench
exec target/bench/release/laneway-bench --cache "$cache" "$@"
