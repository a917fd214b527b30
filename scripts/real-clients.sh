#!/usr/bin/env bash
# Runs real software through laneway: every client of docs/clients.md, in the network of the netns tests, on a machine that
# has no route to the server and cannot resolve its name. Prints a table: pass, fail, or skipped with the reason.
#   scripts/real-clients.sh                all of them
#   scripts/real-clients.sh pip npm        these
#   scripts/real-clients.sh --install      first installs their requirements: Debian packages (as root), and packages of PyPI and
#                                          npm below target/
#   scripts/real-clients.sh --no-proxy     prints how each client reads no_proxy: the table of docs/clients.md
set -euo pipefail
cd "$(dirname "$0")/.."

install() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        local policy=/usr/sbin/policy-rc.d made=""
        # A package must not start its service (nginx, sshd): the trials start what they need, inside their own namespaces.
        if [ ! -e "$policy" ]; then
            printf '#!/bin/sh\nexit 101\n' >"$policy"
            chmod +x "$policy"
            made=yes
        fi
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-upgrade nginx-light openssl fcgiwrap git \
            curl wget aria2 dpkg openssh-client openssh-server netcat-openbsd chromium skopeo python3-venv iproute2 nftables util-linux
        [ -z "$made" ] || rm -f "$policy"
    else
        echo "skipped: only root installs Debian packages" >&2
    fi
    [ -x target/python/bin/python ] || python3 -m venv target/python
    target/python/bin/pip install --quiet --disable-pip-version-check requests==2.34.2 httpx==0.28.1 urllib3==2.8.0 uv
    if command -v npm >/dev/null; then
        mkdir -p target/node
        npm install --prefix target/node --no-audit --no-fund --loglevel=error undici@6
    fi
}

clients=()
for argument in "$@"; do
    case $argument in
    --install) install ;;
    --no-proxy) exec cargo test --quiet --locked --test netns -- --include-ignored --exact clients::no_proxy --nocapture ;;
    -*) sed -n '2,8p' "$0" | cut -c 3-; exit 2 ;;
    *) clients+=("$argument") ;;
    esac
done
[ ${#clients[@]} -gt 0 ] || clients=(curl wget aria2c apt pip npm cargo git python node chromium ssh fronts_apt fronts_pip fronts_uv fronts_npm fronts_cargo fronts_skopeo)

mkdir -p target
log=target/real-clients.log
: >"$log"
cargo test --quiet --locked --test netns --no-run
status=0
printf '%-13s %s\n' client result
for client in "${clients[@]}"; do
    said=$(cargo test --quiet --locked --test netns -- --format=pretty --include-ignored --exact "clients::$client" 2>"$log.new") || true
    printf '%s\n' "== $client" "$said" >>"$log"
    cat "$log.new" >>"$log"
    note=$(sed -n 's/.*note: //p' "$log.new" | head -n 1)
    case $said in
    *"test clients::$client"*ok*) result="pass${note:+ ($note)}" ;;
    *"test clients::$client"*ignored*) result="skipped: $(sed -n 's/.*DOES NOT RUN: \(.*\) \*\*\*/\1/p' "$log.new" | head -n 1)" ;;
    *) result="FAIL: see $log" status=1 ;;
    esac
    printf '%-13s %s\n' "$client" "$result"
done
rm -f "$log.new"
exit $status
