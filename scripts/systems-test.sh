#!/usr/bin/env bash
# Tests one group of Windows (Wine), Linux on arm64 (qemu) and static Linux: integration/netns/cases/systems.rs.
#   scripts/systems-test.sh [FILTER]     builds the programs that no variable names, and runs the trials
# Needs what scripts/windows-test.sh needs, qemu-user, and the packages of 'scripts/cross.sh --needs' for both other targets.
# Without them it reports that it was skipped, and fails with CI=true.
# LANEWAY_WINDOWS_PROGRAM, LANEWAY_ARM64_PROGRAM and LANEWAY_STATIC_PROGRAM name programs that are built already.
set -euo pipefail
cd "$(dirname "$0")/.."
arm64=aarch64-unknown-linux-gnu
static=x86_64-unknown-linux-musl

missing=$(command -v qemu-aarch64 >/dev/null || echo qemu-aarch64
    [ -n "${LANEWAY_ARM64_PROGRAM:-}" ] || scripts/cross.sh --lacks "$arm64"
    [ -n "${LANEWAY_STATIC_PROGRAM:-}" ] || scripts/cross.sh --lacks "$static")
if [ -n "$missing" ]; then
    echo "skipped: not installed:" $missing
    [ "${CI:-}" != true ] || exit 1
    exit 0
fi

# Builds the program for a target; prints its path.
build() {
    CARGO_BUILD_WARNINGS=deny scripts/cross.sh "$1" build --locked --profile trial --bin laneway >&2
    realpath "${CARGO_TARGET_DIR:-target/cross}/$1/trial/laneway"
}

[ -n "${LANEWAY_ARM64_PROGRAM:-}" ] || LANEWAY_ARM64_PROGRAM=$(build "$arm64")
[ -n "${LANEWAY_STATIC_PROGRAM:-}" ] || LANEWAY_STATIC_PROGRAM=$(build "$static")
export LANEWAY_ARM64_PROGRAM LANEWAY_STATIC_PROGRAM LANEWAY_WINDOWS_TOPIC=systems::
exec scripts/windows-test.sh "$@"
