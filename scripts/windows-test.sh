#!/usr/bin/env bash
# Tests the Windows program under Wine in the network namespaces of the lab: integration/netns/cases/windows.rs.
#   scripts/windows-test.sh [FILTER]     builds the program, makes a Wine prefix, runs the trials whose name contains FILTER
# Needs the Debian packages wine, wine64 and those of 'scripts/cross.sh --needs x86_64-pc-windows-gnu'. Without them it reports
# that it was skipped, and fails with CI=true. LANEWAY_WINDOWS_PROGRAM names a program that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."
target=x86_64-pc-windows-gnu

missing=$(for program in wine wineserver; do command -v "$program" >/dev/null || echo "$program"; done
    [ -n "${LANEWAY_WINDOWS_PROGRAM:-}" ] || scripts/cross.sh --lacks "$target")
if [ -n "$missing" ]; then
    echo "skipped: not installed:" $missing
    [ "${CI:-}" != true ] || exit 1
    exit 0
fi

work=$PWD/target/windows
mkdir -p "$work"
if [ -z "${LANEWAY_WINDOWS_PROGRAM:-}" ]; then
    CARGO_BUILD_WARNINGS=deny scripts/cross.sh "$target" build --locked --profile trial --bin laneway
    cp "${CARGO_TARGET_DIR:-target/cross}/$target/trial/laneway.exe" "$work/laneway.exe"
    export LANEWAY_WINDOWS_PROGRAM=$work/laneway.exe
fi
aid=$(dirname "$LANEWAY_WINDOWS_PROGRAM")/bcryptprimitives.dll
[ -e "$aid" ] || x86_64-w64-mingw32-gcc -shared -O1 -o "$aid" integration/netns/programs/bcryptprimitives.c -ladvapi32

export LANEWAY_WINE_PREFIX=$work/prefix
if [ ! -e "$LANEWAY_WINE_PREFIX/system.reg" ]; then
    # Without a display, Mono and a browser, none of which is used.
    export WINEPREFIX=$LANEWAY_WINE_PREFIX WINEDEBUG=-all WINEDLLOVERRIDES="mscoree,mshtml,winemenubuilder.exe="
    wine wineboot --init
    wineserver --wait
    unset WINEPREFIX WINEDEBUG WINEDLLOVERRIDES
fi

# Each host runs a Wine of its own, which takes some seconds of a processor to start.
cargo test --locked --workspace --test netns -- "${LANEWAY_WINDOWS_TOPIC:-windows::}${1:-}" --test-threads 2
