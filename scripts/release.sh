#!/usr/bin/env bash
# Builds a release in target/release-files/: archives, Debian packages, the installer for Windows, SHA256SUMS, the components of
# each program (CycloneDX) and the manifests of other package managers.
#   scripts/release.sh [TARGET…]     builds these targets, by default all; what is there of other targets stays
#   scripts/release.sh --finish      makes SHA256SUMS and the manifests of what is there, and checks all of it
#   scripts/release.sh --twice TARGET   makes all files of a target twice in different directories, and compares the bytes
# scripts/cross.sh builds the programs. The installer needs wixl, and is left out without it. LANEWAY_RELEASE_URL is where the
# files will be. The same commit and toolchain give the same bytes: SOURCE_DATE_EPOCH is the time of the commit, and paths are not
# recorded.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$PWD/target/release-files
generated=$out/generated
all=(x86_64-unknown-linux-musl aarch64-unknown-linux-musl x86_64-pc-windows-gnu aarch64-apple-darwin x86_64-apple-darwin)
version=$(scripts/release.py version)
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}

# Builds the program of a target; prints its path.
program() {
    local target=$1 directory=${CARGO_TARGET_DIR:-$PWD/target/cross} home=${CARGO_HOME:-$HOME/.cargo} name=laneway
    [[ $target != *windows* ]] || name=laneway.exe
    local flags="--remap-path-prefix=$PWD=/laneway --remap-path-prefix=$home=/cargo --remap-path-prefix=$directory=/target"
    # A Windows program has the time of its link in its header, unless the linker is told otherwise.
    [[ $target != *windows* ]] || flags+=" -C link-arg=-Wl,--no-insert-timestamp"
    # A program for macOS is not stripped after the link, which signs it: see cross.sh.
    [[ $(uname):$target != Linux:*-apple-darwin ]] || flags+=" -C link-arg=-s"
    CARGO_TARGET_DIR=$directory CARGO_INCREMENTAL=0 CARGO_PROFILE_RELEASE_DEBUG=none CARGO_PROFILE_RELEASE_STRIP=symbols \
        RUSTFLAGS=$flags CFLAGS="-ffile-prefix-map=$PWD=/laneway -ffile-prefix-map=$home=/cargo -ffile-prefix-map=$directory=/target" \
        scripts/cross.sh "$target" build --locked --release >&2
    echo "$directory/$target/release/$name"
}

# Builds a program that runs here, unless LANEWAY_GENERATOR is one; prints its path.
generator() {
    if [ -n "${LANEWAY_GENERATOR:-}" ]; then
        realpath "$LANEWAY_GENERATOR"
    else
        cargo build --locked --profile trial --bin laneway >&2
        realpath "${CARGO_TARGET_DIR:-target}/trial/laneway"
    fi
}

# Writes the manual pages and completions.
generate() {
    local runs
    runs=$(generator)
    rm -rf "$generated"
    mkdir -p "$generated/completions"
    "$runs" man --out "$generated/man"
    for shell in bash zsh fish powershell; do "$runs" completions "$shell" >"$generated/completions/laneway.$shell"; done
}

installer() {
    local directory=$1
    if ! command -v wixl >/dev/null; then
        echo "skipped: the installer for Windows; wixl is not installed" >&2
        return
    fi
    scripts/release.py msi "$directory" "$out/laneway-$version-x86_64.msi"
}

build() {
    local target=$1 built directory=$out/laneway-$version-$1
    built=$(program "$target")
    rm -rf "$directory"
    mkdir -p "$directory/packaging"
    cp "$built" "$directory/"
    cp -r "$generated/man" "$generated/completions" README.md ARCHITECTURE.md CHANGELOG.md SECURITY.md LICENSE LICENSE-MIT LICENSE-APACHE docs "$directory/"
    # Where the documentation names them.
    cp -r packaging/laneway.toml packaging/grafana packaging/prometheus "$directory/packaging/"
    case "$target" in
    *linux*)
        cp -r packaging/systemd packaging/firewall "$directory/packaging/"
        scripts/release.py archive "$directory" "$out/laneway-$version-$target.tar.gz"
        case "$target" in
        x86_64-*) scripts/release.py deb amd64 "$built" "$generated" "$out/laneway_$version-1_amd64.deb" ;;
        aarch64-*) scripts/release.py deb arm64 "$built" "$generated" "$out/laneway_$version-1_arm64.deb" ;;
        esac
        ;;
    *windows*)
        scripts/release.py archive "$directory" "$out/laneway-$version-$target.zip"
        installer "$directory"
        ;;
    *) scripts/release.py archive "$directory" "$out/laneway-$version-$target.tar.gz" ;;
    esac
    scripts/release.py sbom "$target" "$out/laneway-$version-$target.cdx.json"
    rm -rf "$directory"
}

finish() {
    scripts/release.py sums "$out"
    rm -rf "$out/manifests"
    scripts/release.py manifests "$out" "${LANEWAY_RELEASE_URL:-https://laneway.example/releases/v$version}" "$out/manifests"
    cat "$out/SHA256SUMS"
    scripts/release_check.py "$out"
}

twice() {
    local target=$1 place
    # Not local: the trap runs after the function.
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    LANEWAY_GENERATOR=$(generator)
    export LANEWAY_GENERATOR
    for place in one two/deeper; do
        mkdir -p "$work/$place"
        git archive HEAD | tar -x -C "$work/$place"
        CARGO_TARGET_DIR=$work/$place/target/cross "$work/$place/scripts/release.sh" "$target"
    done
    diff -r "$work/one/target/release-files" "$work/two/deeper/target/release-files" ||
        { echo "error: the two builds differ" >&2; exit 1; }
    echo "the two builds have the same bytes"
}

mkdir -p "$out"
case "${1:-}" in
--finish) finish ;;
--twice) twice "${2:?the target}" ;;
-*) sed -n '4,6p' "$0" | cut -c 3- >&2; exit 2 ;;
*)
    [ $# -gt 0 ] || set -- "${all[@]}"
    generate
    for target in "$@"; do build "$target"; done
    finish
    ;;
esac
