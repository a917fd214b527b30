#!/usr/bin/env bash
# Runs the fuzz targets (integration/fuzz) one after the other.
#
#   scripts/fuzz.sh [--seconds N | --runs N] [TARGET…]    all targets, 60 seconds each by default
#
# Needs a nightly toolchain and cargo-fuzz (`cargo install cargo-fuzz`). The workspace has no unsafe code, so there is no
# sanitizer; SANITIZER=address adds one for the sake of the libraries. The fuzzer keeps its corpus in integration/fuzz/corpus.
# It writes an input that fails to integration/fuzz/artifacts; `cargo run -p laneway-fuzz --bin TARGET FILE` runs that once
# more. When the bug is fixed, move the input to integration/fuzz/seeds/TARGET under a name that says what it shows: from then
# on `cargo test -p laneway-fuzz` runs it.
set -euo pipefail
cd "$(dirname "$0")/.."

limit=-max_total_time=60
targets=()
while [ $# -gt 0 ]; do
    case $1 in
        --seconds) limit=-max_total_time=${2:?} && shift 2 ;;
        --runs) limit=-runs=${2:?} && shift 2 ;;
        -*) sed -n '2,/^set/{/^#/p}' "$0" >&2 && exit 2 ;;
        *) targets+=("$1") && shift ;;
    esac
done

fuzz() { RUSTUP_TOOLCHAIN=nightly cargo fuzz "$1" --fuzz-dir integration/fuzz "${@:2}"; }
if ! RUSTUP_TOOLCHAIN=nightly cargo fuzz --version >/dev/null 2>&1; then
    echo "error: there is no nightly toolchain with cargo-fuzz" >&2
    echo "hint: rustup toolchain install nightly && cargo install cargo-fuzz" >&2
    exit 1
fi
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(fuzz list)

# Link-time optimization would cost minutes, and the profile strips what a backtrace needs.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_STRIP=none
options=(--release --sanitizer "${SANITIZER:-none}")
for target in "${targets[@]}"; do
    printf '\n== %s\n' "$target"
    mkdir -p "integration/fuzz/corpus/$target"
    fuzz run "${options[@]}" "$target" "integration/fuzz/corpus/$target" "integration/fuzz/seeds/$target" -- \
        "$limit" -max_len=4096 -timeout=10 -rss_limit_mb=4096 -print_final_stats=1
done
