#!/usr/bin/env bash
# Measures what must hold under failure, load and attack, in the network lab. Each line prints its figures, and fails when
# one is not good enough; so does the script. Needs what `cargo test --test netns` needs, preferably root, and a machine
# that does nothing else meanwhile.
#
#   scripts/reliability.sh [--scale X] [LINE…]    every line in full (hours), or those with these numbers: 1, 06, 9 …
#
# --scale 0.1 runs each line for a tenth of its time, or with a tenth of its numbers; line 20, fifty machines on one, with a tenth of
# its rates, too (in full it needs 13 GB of memory). PROFILE=dev measures the dev build, which is faster to build.
# LANEWAY_SEED=N uses other malformed inputs (line 16).
set -euo pipefail
cd "$(dirname "$0")/.."

lines=()
while [ $# -gt 0 ]; do
    case $1 in
        --scale) export LANEWAY_SCALE=${2:?} && shift 2 ;;
        [0-9] | [0-9][0-9]) lines+=("reliability::$(printf '%02d' "$((10#$1))")_") && shift ;;
        *) sed -n '2,/^set/{/^#/p}' "$0" >&2 && exit 2 ;;
    esac
done
[ ${#lines[@]} -gt 0 ] || lines=("reliability::")

# Linked in parallel, because there are several programs.
export CARGO_PROFILE_RELEASE_LTO=thin CARGO_PROFILE_RELEASE_CODEGEN_UNITS=4
profile=${PROFILE:-release}
cargo test --quiet --profile "$profile" --test netns --no-run
failed=0
for line in "${lines[@]}"; do
    cargo test --quiet --profile "$profile" --test netns -- --ignored --test-threads 1 "$line" || failed=1
done
exit "$failed"
