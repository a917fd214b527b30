#!/usr/bin/env bash
# Fuzzes what reads bytes from outside (integration/fuzz), one target after the other.
#
#   scripts/fuzz.sh [--seconds N | --runs N] [TARGET…]    every target, 60 seconds each, unless told otherwise
#
# Needs a nightly toolchain and cargo-fuzz (`cargo install cargo-fuzz`). The crate has no unsafe code, so there is no
# sanitizer: SANITIZER=address adds one, for the sake of the libraries. What the fuzzer learns stays in
# integration/fuzz/corpus. An input that fails is written to integration/fuzz/artifacts; once the bug is fixed it belongs
# in integration/fuzz/seeds/TARGET, under a name that says what it shows, where plain `cargo test` runs it.
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

options=(--release --sanitizer "${SANITIZER:-none}")
for target in "${targets[@]}"; do
    printf '\n== %s\n' "$target"
    mkdir -p "integration/fuzz/corpus/$target"
    fuzz run "${options[@]}" "$target" "integration/fuzz/corpus/$target" "integration/fuzz/seeds/$target" -- \
        "$limit" -max_len=4096 -timeout=10 -rss_limit_mb=4096 -print_final_stats=1
done
