#!/usr/bin/env bash
# Makes the packages of this version in target/package/: a .deb, and with --static a binary without any library.
#   scripts/package.sh              the .deb; needs cargo-deb ('cargo install cargo-deb')
#   scripts/package.sh --static     laneway for x86_64 or aarch64 with musl; needs the target and musl-tools
#   scripts/package.sh --check      what is cheap to check without building a package: the unit, the sample
set -euo pipefail
cd "$(dirname "$0")/.."
out=target/package

need() { command -v "$1" >/dev/null || { echo "error: $1 is not installed" >&2; echo "hint: $2" >&2; exit 1; }; }

# What packages install beside the program, made by the program.
accompany() {
    rm -rf "$out/man" "$out/completions"
    mkdir -p "$out/completions"
    "$1" man --out "$out/man"
    for shell in bash zsh fish; do "$1" completions "$shell" >"$out/completions/laneway.$shell"; done
}

deb() {
    need cargo-deb "cargo install cargo-deb"
    cargo build --release --locked
    accompany target/release/laneway
    local version date
    version=$(cargo metadata --format-version 1 --no-deps --locked | sed 's/.*"name":"laneway","version":"\([^"]*\)".*/\1/')
    date=$(date --rfc-email --date="@${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}")
    printf 'laneway (%s-1) unstable; urgency=medium\n\n  * See CHANGELOG.md of this version.\n\n -- %s  %s\n' \
        "$version" "laneway authors <developers@laneway.example>" "$date" >"$out/changelog"
    cargo deb --no-build --strip --output "$out/"
    if command -v lintian >/dev/null; then
        lintian --fail-on error,warning "$out"/laneway_*.deb
    else
        echo "skipped: lintian is not installed"
    fi
}

static() {
    local target
    target=$(uname -m)-unknown-linux-musl
    if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$target" ]; then
        echo "error: this toolchain has no standard library for $target" >&2
        echo "hint: rustup target add $target" >&2
        exit 1
    fi
    need musl-gcc "apt-get install musl-tools"
    CC=musl-gcc cargo build --release --locked --target "$target"
    mkdir -p "$out"
    cp "target/$target/release/laneway" "$out/laneway-$target"
    # Nothing to load it with: then it runs on any Linux of this processor.
    ! readelf --program-headers "$out/laneway-$target" | grep INTERP
    ls -l "$out/laneway-$target"
}

check() {
    local laneway=${LANEWAY:-target/debug/laneway} work
    work=$(mktemp -d)
    trap 'rm -rf "$work"' RETURN
    # Uncommented, every line of the sample is one that the program takes.
    sed 's/^#\([a-z]\)/\1/' packaging/laneway.toml >"$work/all.toml"
    for file in packaging/laneway.toml "$work/all.toml"; do
        LANEWAY_STATE=$work/state "$laneway" up --config "$file" 2>"$work/said" && exit 1
        # It goes no further than the group, which this machine is not in; that is after the configuration.
        grep -q "is in no group" "$work/said" || { cat "$work/said" >&2; exit 1; }
    done
    if command -v systemd-analyze >/dev/null; then
        mkdir -p "$work/usr/lib/systemd/system" "$work/usr/bin" "$work/etc/systemd/system/laneway.service.d"
        cp "$laneway" "$work/usr/bin/laneway"
        for drop_in in "" packaging/systemd/optional/*.conf; do
            sed "s|ExecStart=/usr|ExecStart=$work/usr|; /^Documentation/d" packaging/systemd/laneway.service >"$work/laneway.service"
            sed '/^Documentation/d' packaging/systemd/optional/laneway.socket >"$work/laneway.socket"
            [ -z "$drop_in" ] || sed '/^#/d' "$drop_in" >>"$work/laneway.service"
            # Before systemd 253 the unit's newer type is not known; the unit says what happens then.
            SYSTEMD_LOG_LEVEL=warning systemd-analyze verify --man=no "$work/laneway.service" "$work/laneway.socket" 2>&1 |
                grep -v -e 'ignoring: notify-reload' >"$work/complaints" || true
            [ ! -s "$work/complaints" ] || { cat "$work/complaints" >&2; exit 1; }
        done
        systemd-analyze security --offline=true --threshold=20 packaging/systemd/laneway.service 2>/dev/null |
            grep "Overall exposure" || { echo "error: the unit is more exposed than it was" >&2; exit 1; }
    else
        echo "skipped: systemd-analyze is not installed"
    fi
    echo "packaging: well"
}

case "${1:-}" in
"") deb ;;
--static) static ;;
--check) check ;;
*) sed -n '2,5p' "$0" | cut -c 3-; exit 2 ;;
esac
