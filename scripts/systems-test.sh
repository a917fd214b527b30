#!/usr/bin/env bash
# Tests one group of Windows (Wine), Linux on arm64 (qemu) and static Linux: integration/netns/cases/systems.rs.
#   scripts/systems-test.sh [FILTER]     builds the programs that no variable names, and runs the trials
# Needs what scripts/windows-test.sh needs, qemu-user, and the packages of 'scripts/cross.sh --needs' for both other targets.
# LANEWAY_WINDOWS_PROGRAM, LANEWAY_ARM64_PROGRAM and LANEWAY_STATIC_PROGRAM name programs that are built already.
set -euo pipefail
cd "$(dirname "$0")/.."

# Builds a target without optimisation, which takes most of the time; prints the path of the program.
build() {
    CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=none CARGO_INCREMENTAL=0 scripts/cross.sh "$1" build --locked --bin laneway >&2
    realpath "${CARGO_TARGET_DIR:-target/cross}/$1/debug/laneway"
}

[ -n "${LANEWAY_ARM64_PROGRAM:-}" ] || LANEWAY_ARM64_PROGRAM=$(build aarch64-unknown-linux-gnu)
[ -n "${LANEWAY_STATIC_PROGRAM:-}" ] || LANEWAY_STATIC_PROGRAM=$(build x86_64-unknown-linux-musl)
export LANEWAY_ARM64_PROGRAM LANEWAY_STATIC_PROGRAM LANEWAY_WINDOWS_TOPIC=systems::
exec scripts/windows-test.sh "$@"
