#!/usr/bin/env bash
# Runs the node as a service where systemd, OpenRC or runit is booted, each in namespaces of its own: what docs/fleet.md says.
#   scripts/services-test.sh [systemd|openrc|runit…]     by default all three
# Needs root, mmdebstrap and a mirror of Debian. LANEWAY is the program, by default target/debug/laneway. The systems that are booted
# stay in target/services.
set -euo pipefail
cd "$(dirname "$0")/.."
program=$(realpath "${LANEWAY:-target/debug/laneway}")
place=$PWD/target/services
account='useradd --system --home-dir /var/lib/laneway --shell /usr/sbin/nologin laneway
    install -d -m 700 -o laneway -g laneway /var/lib/laneway'

fail() { echo "error: $system: $1" >&2; exit 1; }

# Makes the root directory of a system with these packages, and puts the program into it.
install_system() {
    root=$place/$system
    [ -e "$root/etc/debian_version" ] || mmdebstrap --quiet --variant=minbase --include="$1,iproute2,procps" bookworm "$root"
    # What a test before has left.
    chroot "$root" sh -c 'dpkg --purge laneway; userdel laneway; rm -rf /var/lib/laneway /var/lib/private/laneway /etc/laneway \
        /etc/init.d/laneway /etc/sv/laneway /etc/service/laneway /etc/systemd/system/laneway* /var/log/laneway.log' >/dev/null 2>&1 || true
    install -m 755 "$program" "$root/usr/local/bin/laneway"
}

# Boots it: the arguments are its first process.
boot() {
    group=/sys/fs/cgroup/unified
    [ -d "$group" ] || group=/sys/fs/cgroup
    group+=/laneway-$system
    mkdir -p "$group"
    # The root is changed by pivot_root: where it is changed by chroot, no user namespace can be made, which PrivateUsers= needs.
    (
        echo "$BASHPID" >"$group/cgroup.procs"
        exec unshare --mount --pid --uts --ipc --net --cgroup --fork --propagation private sh -c '
            mount --rbind "$1" "$1" && cd "$1" && shift
            mount -t proc proc proc && mount -t sysfs -o ro sysfs sys
            mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup && mount -t cgroup2 cgroup2 sys/fs/cgroup
            mount -t tmpfs -o mode=755 tmpfs run && mount -t tmpfs -o mode=755 tmpfs dev
            for device in null zero full random urandom tty; do touch dev/$device && mount --bind /dev/$device dev/$device; done
            mkdir dev/pts dev/shm && mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts && ln -s pts/ptmx dev/ptmx
            ln -s /proc/self/fd dev/fd
            pivot_root . mnt && cd / && umount -l /mnt
            exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=lxc "$@"' boot "$root" "$@"
    ) >"$place/$system.log" 2>&1 &
    outside=$!
    first=
    for _ in $(seq 100); do
        first=$(pgrep -P "$outside" || true)
        [ -z "$first" ] || break
        sleep 0.1
    done
    [ -n "$first" ] || fail "it does not boot: $place/$system.log"
    until_true "has a network" inside ip link set lo up
}

halt() {
    [ -z "${first:-}" ] || kill -KILL "$first" 2>/dev/null || true
    [ -z "${outside:-}" ] || wait "$outside" 2>/dev/null || true
    first= outside=
    [ -z "${group:-}" ] || find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
}
trap halt EXIT

inside() {
    nsenter --target "$first" --mount --pid --uts --ipc --net --cgroup --root --wd=/ \
        env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 "$@"
}

# Tries a command until it succeeds, for a minute; then its output is part of the error.
until_true() {
    local what=$1 said
    shift
    for _ in $(seq 300); do
        if said=$("$@" 2>&1); then
            echo "$system: $what"
            return
        fi
        sleep 0.2
    done
    fail "not within a minute: $what: $said"
}

# A command must fail.
refused() {
    local what=$1
    shift
    if "$@" >/dev/null 2>&1; then fail "not so: $what"; fi
    echo "$system: $what"
}

node() { inside pgrep -x laneway; }
answers() { inside laneway status --state /var/lib/laneway; }
is_another() { [ "$(node)" != "$1" ] && answers; }
create_group() { inside laneway init --state /var/lib/laneway >/dev/null; }

# Kills the node, which the system has to start again.
kill_node() {
    local before
    before=$(node)
    inside kill -KILL "$before"
    until_true "starts a killed node again" is_another "$before"
}

# The n-th script of the documentation after a line that begins with these words.
script() { awk -v words="$1" -v wanted="$2" 'index($0, words) == 1 { found = 1 }
    found && /^```$/ { inside = 0 } inside && count == wanted { print } found && /^```sh$/ { inside = 1; count++ }' docs/fleet.md; }

test_systemd() {
    local files=$place/files before
    install_system systemd-sysv,dbus
    rm -rf "$files"
    mkdir -p "$files/completions"
    "$program" man --out "$files/man"
    for shell in bash zsh fish; do "$program" completions "$shell" >"$files/completions/laneway.$shell"; done
    cp "$program" "$files/laneway"
    scripts/release.py deb "$(dpkg --print-architecture)" "$files/laneway" "$files" "$root/root/laneway.deb"
    boot /lib/systemd/systemd
    until_true "boots" inside sh -c 'systemctl is-system-running | grep -q -e running -e degraded'
    rm "$root/usr/local/bin/laneway"
    inside dpkg --install /root/laneway.deb >/dev/null
    inside systemctl start laneway
    refused "runs no node without a group" node
    create_group
    inside systemctl start laneway
    until_true "starts the node" answers
    inside systemctl reload laneway
    kill_node
    before=$(node)
    inside kill -STOP "$before"
    until_true "ends a hung node and starts it again" is_another "$before"
    inside systemctl stop laneway
    refused "stops the node" node
    inside sh -c 'cp /usr/share/doc/laneway/examples/systemd/laneway.socket /etc/systemd/system/ && systemctl daemon-reload &&
        systemctl --quiet enable --now laneway.socket'
    until_true "starts the node for a connection to its socket" answers
    inside dpkg --purge laneway >/dev/null 2>&1
    refused "leaves no state after the package is purged" inside ls -d /var/lib/laneway /var/lib/private/laneway /etc/laneway
    install -m 755 "$program" "$root/usr/local/bin/laneway"
    inside laneway service install >/dev/null
    create_group
    inside laneway service start >/dev/null
    until_true "starts the service that 'laneway service install' makes" answers
    inside laneway service remove >/dev/null
    refused "removes it" node
}

test_openrc() {
    install_system sysvinit-core,openrc
    script "OpenRC, " 1 >"$root/etc/init.d/laneway"
    chmod 755 "$root/etc/init.d/laneway"
    chroot "$root" sh -c "$account; rc-update add laneway default" >/dev/null
    boot /sbin/openrc-init
    until_true "boots" inside sh -c 'rc-status --runlevel | grep -q default'
    refused "runs no node without a group" inside rc-service laneway start
    create_group
    inside rc-service laneway start >/dev/null
    until_true "starts the node" answers
    inside rc-service laneway reload
    until_true "reloads it" grep -q "configuration reloaded" "$root/var/log/laneway.log"
    kill_node
    inside rc-service laneway stop >/dev/null
    refused "stops the node" node
}

test_runit() {
    install_system runit
    mkdir -p "$root/etc/sv/laneway"
    script "runit, " 1 >"$root/etc/sv/laneway/run"
    script "runit, " 2 >"$root/etc/sv/laneway/finish"
    chmod 755 "$root"/etc/sv/laneway/*
    chroot "$root" sh -c "$account; mkdir -p /etc/service; ln -s /etc/sv/laneway /etc/service/laneway"
    boot /usr/bin/runsvdir /etc/service
    until_true "gives up without a group" inside sh -c 'sv status laneway | grep -q "^down: .* normally up$"'
    create_group
    inside sv up laneway
    until_true "starts the node" answers
    inside sv hup laneway
    until_true "reloads it" grep -q "configuration reloaded" "$place/$system.log"
    kill_node
    inside sv -w 40 down laneway >/dev/null
    refused "stops the node" node
}

case "${1:-}" in -*) sed -n '3,5p' "$0" | cut -c 3- >&2; exit 2 ;; esac
[ $# -gt 0 ] || set -- systemd openrc runit
[ "$(id -u)" = 0 ] || { echo "error: this needs root" >&2; exit 1; }
command -v mmdebstrap >/dev/null || { echo "error: mmdebstrap is not installed" >&2; echo "hint: apt-get install mmdebstrap" >&2; exit 1; }
mkdir -p "$place"
for system in "$@"; do
    "test_$system"
    halt
done
echo "services: ok"
