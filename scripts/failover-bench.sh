#!/bin/sh
# Measures what a failover costs, in the network lab, and prints a table. Needs what `cargo test --test netns` needs.
#
#   scripts/failover-bench.sh [ROUNDS]            measures the release build, 3 rounds by default
#   PROFILE=dev scripts/failover-bench.sh         measures the dev build, which is faster to build
set -eu
cd "$(dirname "$0")/.."
LANEWAY_BENCH_ROUNDS="${1:-3}" exec cargo test --quiet --profile "${PROFILE:-release}" --test netns -- --ignored bench::
