#!/usr/bin/env bash
# Builds the program for another system; prints the path of the result last.
#   scripts/cross.sh TARGET [ARGUMENTS OF CARGO]   builds it; the default is 'build --locked --release'
#   scripts/cross.sh --needs TARGET                prints the Debian packages that are needed
#   scripts/cross.sh --lacks TARGET                prints what is not installed here, one a line; nothing if the program can be built
# The standard library is the toolchain's where it has one for the target ('rustup target add TARGET'), else it is built from
# source with Debian's toolchain (rustc-web, cargo-web, rust-web-src). The results are in target/cross/TARGET.
# With CARGO_BUILD_WARNINGS=deny a warning is an error, where the standard library is built from source.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "error: $1" >&2; echo "hint: $2" >&2; exit 1; }

# The Debian packages for a target, except for those of the standard library.
needs() {
    case "$1" in
    x86_64-pc-windows-gnu) echo gcc-mingw-w64-x86-64 nasm ;;
    aarch64-unknown-linux-gnu) echo gcc-aarch64-linux-gnu libc6-dev-arm64-cross ;;
    x86_64-unknown-linux-gnu) echo gcc ;;
    *-linux-musl | *-apple-darwin) echo python3-venv ;;
    *) fail "$1 is no target of laneway" "one of: x86_64-pc-windows-gnu, {x86_64,aarch64}-unknown-linux-{gnu,musl}, {x86_64,aarch64}-apple-darwin" ;;
    esac
}

# The toolchain has a standard library for the target.
has_std() { [ -d "$(rustc --print sysroot 2>/dev/null)/lib/rustlib/$1/lib" ]; }
# A standard library can be built.
has_source() { [ -d /usr/lib/rustlib/src/rust/library ] && [ -x /usr/bin/cargo ] && [ -x /usr/bin/rustc ]; }

lacks() {
    local program
    case "$1" in
    x86_64-pc-windows-gnu) set -- "$1" x86_64-w64-mingw32-gcc nasm ;;
    aarch64-unknown-linux-gnu) set -- "$1" aarch64-linux-gnu-gcc ;;
    *) set -- "$1" python3 ;;
    esac
    for program in "${@:2}"; do command -v "$program" >/dev/null || echo "$program"; done
    has_std "$1" || has_source || echo "a standard library for $1"
}

case "${1:-}" in
"" | -*)
    case "${1:-}:${2:+target}" in
    --needs:target) needs "$2" && { has_std "$2" || echo rustc-web cargo-web rust-web-src; } ;;
    --lacks:target) needs "$2" >/dev/null && lacks "$2" ;;
    *) sed -n '3,5p' "$0" | cut -c 3- >&2; exit 2 ;;
    esac
    exit
    ;;
esac
target=$1
shift
needs "$target" >/dev/null
[ $# -gt 0 ] || set -- build --locked --release
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target/cross}

std=()
if ! has_std "$target"; then
    has_source || fail "this toolchain has no standard library for $target, and there is none to build" \
        "rustup target add $target; or apt-get install $(needs "$target") rustc-web cargo-web rust-web-src"
    # Debian's toolchain finds its own parts only when no other one comes first.
    PATH=/usr/bin:/bin:/usr/sbin:/sbin:$PATH
    export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1
    std=(-Z build-std=std,panic_unwind -Z warnings)
fi

# The oldest macOS that the program runs on, also where it is built on a Mac, whose compiler would take another one.
[[ $target != *darwin ]] || export MACOSX_DEPLOYMENT_TARGET=13.0

case "$(uname):$target" in
*-linux-musl | Linux:*-apple-darwin)
    # A standard library that is built here has no start files of musl; Zig has its own.
    if [ ${#std[@]} -gt 0 ] && [[ $target = *musl ]]; then
        export RUSTFLAGS="${RUSTFLAGS:-} -C link-self-contained=no"
    fi
    # Zig links for systems whose libraries are not here.
    zig=0.15.2
    if [[ $target = *darwin ]]; then
        # The linker of the version before crashes.
        zig=0.16.0
        # Zig has nothing of macOS but the C library, and Apple's files may not be passed on: these are declarations.
        export SDKROOT=${SDKROOT:-$PWD/scripts/macos-sdk}
        # The linker signs the program, and what strips it afterwards is missing or breaks the signature.
        export CARGO_PROFILE_TRIAL_STRIP=none CARGO_PROFILE_RELEASE_STRIP=none
    fi
    python=$PWD/target/cross/python-$zig
    "$python/bin/python" -c 'import ziglang' 2>/dev/null || {
        python3 -m venv "$python"
        "$python/bin/pip" install --quiet --disable-pip-version-check ziglang==$zig cargo-zigbuild==0.24.0
    }
    PATH=$python/bin:$PATH
    case $1 in
    build) set -- zigbuild "${@:2}" ;;
    # Not as a subcommand of cargo, whose own ones they would be.
    check | clippy | test | doc) cargo() { cargo-zigbuild "$@"; } ;;
    esac
    ;;
*:aarch64-unknown-linux-gnu) export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc ;;
esac
# An empty array counts as unset in the bash of macOS.
cargo "$@" --target "$target" ${std[@]+"${std[@]}"}
find "$CARGO_TARGET_DIR/$target" -maxdepth 2 \( -name laneway -o -name laneway.exe \) -newer Cargo.toml -print
