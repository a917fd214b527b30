#!/usr/bin/env bash
# Builds packages in target/package/: a .deb, or with --static a static binary.
#   scripts/package.sh              the .deb; needs dpkg-dev
#   scripts/package.sh --static     a static binary with musl, by scripts/cross.sh
#   scripts/package.sh --check      checks the unit, the sample configuration, the list of files for the image, and what
#                                   scripts/release.sh makes of the programs, without building one
set -euo pipefail
cd "$(dirname "$0")/.."
out=target/package

need() { command -v "$1" >/dev/null || { echo "error: $1 is not installed" >&2; echo "hint: $2" >&2; exit 1; }; }

# Lets the program write its manual pages and completions.
generate() {
    rm -rf "$out/man" "$out/completions"
    mkdir -p "$out/completions"
    "$1" man --out "$out/man"
    for shell in bash zsh fish; do "$1" completions "$shell" >"$out/completions/laneway.$shell"; done
}

deb() {
    need dpkg-shlibdeps "apt-get install dpkg-dev"
    cargo build --release --locked
    generate target/release/laneway
    strip -o "$out/laneway" target/release/laneway
    # It looks for the control file of a source package, and needs nothing from it.
    mkdir -p "$out/debian"
    touch "$out/debian/control"
    local depends file architecture
    depends=$(cd "$out" && dpkg-shlibdeps -O laneway)
    architecture=$(dpkg --print-architecture)
    file=$out/laneway_$(scripts/release.py version)-1_$architecture.deb
    scripts/release.py deb "$architecture" "$out/laneway" "$out" "$file" "${depends#shlibs:Depends=}"
    ls -l "$file"
    if command -v lintian >/dev/null; then
        lintian --fail-on error,warning "$file"
    else
        echo "skipped: lintian is not installed"
    fi
}

# The same program as in a release.
static() {
    local target
    target=$(uname -m)-unknown-linux-musl
    scripts/cross.sh "$target" build --locked --release
    mkdir -p "$out"
    cp "${CARGO_TARGET_DIR:-target/cross}/$target/release/laneway" "$out/laneway-$target"
    # A static program has no interpreter, and runs on any Linux with this processor.
    if readelf --program-headers "$out/laneway-$target" | grep INTERP; then
        echo "error: the program is not static" >&2
        exit 1
    fi
    ls -l "$out/laneway-$target"
}

# What the image is built from exists, and is not left out.
image() {
    local source
    for source in $(sed -n '/^COPY --from/d; s/^COPY \(.*\) [^ ]*$/\1/p' packaging/docker/Dockerfile); do
        if [ ! -e "$source" ] || ! grep -qxF "!$source" packaging/docker/Dockerfile.dockerignore; then
            echo "error: the Dockerfile copies $source, which does not exist or is not in Dockerfile.dockerignore" >&2
            exit 1
        fi
    done
}

# Makes the files of a release with an empty file in place of each program.
release() {
    local made=$2 tree=$2/tree file version
    version=$(scripts/release.py version)
    generate "$1"
    mkdir -p "$tree"
    touch "$made/laneway" "$tree/laneway.exe"
    cp README.md LICENSE LICENSE-MIT LICENSE-APACHE "$tree/"
    scripts/release.py deb amd64 "$made/laneway" "$out" "$made/laneway_$version-1_amd64.deb"
    ! command -v dpkg-deb >/dev/null || dpkg-deb --contents "$made"/*.deb >/dev/null
    if command -v wixl >/dev/null; then
        scripts/release.py msi "$tree" "$made/laneway-$version-x86_64.msi"
        # Only then an upgrade leaves the rule of the firewall and a service that runs.
        if command -v msiinfo >/dev/null; then
            # Not through a pipe: grep ends at the first match, and the other program then fails.
            msiinfo export "$made"/*.msi InstallExecuteSequence >"$made/sequence"
            grep -qP '^RemoveExistingProducts\t\t1501\r?$' "$made/sequence" ||
                { echo "error: the installer removes the old version too late" >&2; exit 1; }
        fi
    else
        echo "skipped: wixl is not installed"
    fi
    scripts/release.py sbom x86_64-unknown-linux-musl "$made/laneway-$version-x86_64-unknown-linux-musl.cdx.json"
    # Files of an older version may be left in the directory.
    for file in pc-windows-gnu.zip {x86_64,aarch64}-{apple-darwin,unknown-linux-musl}.tar.gz; do
        touch "$made/laneway-$version-$file" "$made/laneway-0.0.0-$file"
    done
    scripts/release.py sums "$made"
    scripts/release.py manifests "$made" "https://laneway.example/releases/v$version" "$made/manifests"
    ! grep -rnF 0.0.0 "$made/SHA256SUMS" "$made/manifests" || { echo "error: a release names files of an older version" >&2; exit 1; }
    (cd "$made" && sha256sum --quiet --check SHA256SUMS)
    for file in "$made"/*.json "$made"/manifests/scoop/*.json; do python3 -m json.tool "$file" >/dev/null; done
    ! command -v ruby >/dev/null || ruby -c "$made/manifests/homebrew/laneway.rb" >/dev/null
    bash -n "$made/manifests/aur/PKGBUILD"
}

check() {
    local laneway=${LANEWAY:-target/debug/laneway}
    # Not local: the trap runs after the function, also where a check fails.
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    # The program must accept the sample, also with every line uncommented.
    sed 's/^#\([a-z]\)/\1/' packaging/laneway.toml >"$work/all.toml"
    for file in packaging/laneway.toml "$work/all.toml"; do
        LANEWAY_STATE=$work/state "$laneway" up --config "$file" 2>"$work/said" && exit 1
        # The start fails at the missing group, which is looked up after the configuration was accepted.
        grep -q "is in no group" "$work/said" || { cat "$work/said" >&2; exit 1; }
    done
    if command -v systemd-analyze >/dev/null; then
        mkdir -p "$work/usr/lib/systemd/system" "$work/usr/bin" "$work/etc/systemd/system/laneway.service.d"
        cp "$laneway" "$work/usr/bin/laneway"
        for drop_in in "" packaging/systemd/optional/*.conf; do
            sed "s|ExecStart=/usr|ExecStart=$work/usr|; /^Documentation/d" packaging/systemd/laneway.service >"$work/laneway.service"
            sed '/^Documentation/d' packaging/systemd/optional/laneway.socket >"$work/laneway.socket"
            [ -z "$drop_in" ] || sed '/^#/d' "$drop_in" >>"$work/laneway.service"
            # systemd before 253 warns about notify-reload; a comment in the unit explains it.
            SYSTEMD_LOG_LEVEL=warning systemd-analyze verify --man=no "$work/laneway.service" "$work/laneway.socket" 2>&1 |
                grep -v -e 'ignoring: notify-reload' >"$work/complaints" || true
            [ ! -s "$work/complaints" ] || { cat "$work/complaints" >&2; exit 1; }
        done
        systemd-analyze security --offline=true --threshold=20 packaging/systemd/laneway.service 2>/dev/null |
            grep "Overall exposure" || { echo "error: the unit's exposure is above the threshold" >&2; exit 1; }
    else
        echo "skipped: systemd-analyze is not installed"
    fi
    image
    release "$laneway" "$work/release"
    echo "packaging: ok"
}

case "${1:-}" in
"") deb ;;
--static) static ;;
--check) check ;;
*) sed -n '2,6p' "$0" | cut -c 3-; exit 2 ;;
esac
