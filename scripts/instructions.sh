#!/usr/bin/env bash
# Counts the instructions of the hot paths (integration/benches/instructions.rs) under valgrind, and compares them with
# integration/benches/instructions.txt. Fails when a path costs more than a fifth more.
#   scripts/instructions.sh            compares
#   scripts/instructions.sh --record   writes the file
# The counts depend little on the processor and on the load of the machine: they differ by up to 2% for bytes and 10% for a
# tunnel. They are of the dev profile, which the tests have built already. The cost of a path is the difference between two
# runs with different numbers of repetitions.
set -euo pipefail
cd "$(dirname "$0")/.."
recorded=integration/benches/instructions.txt
tolerance=20

command -v valgrind >/dev/null || { echo "skipped: valgrind is not installed"; exit 0; }
# With --workspace, as check.sh does: then nothing is built twice.
binary=$(cargo test --quiet --locked --workspace --bench instructions --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*\/instructions-[^"]*\)".*/\1/p' | tail -1)

# The instructions of a run that repeats a path this many times; 0 when it fails.
count() {
    valgrind --tool=cachegrind --cache-sim=no --cachegrind-out-file=/dev/null "$binary" "$@" 2>&1 |
        sed -n 's/.*I *refs: *\([0-9,]*\).*/\1/p' | tr -d ,
}

fresh=$(mktemp)
trap 'rm -f "$fresh"' EXIT
failed=0
while read -r path few many unit; do
    one=$((($(count "$path" "$many") - $(count "$path" "$few")) / (many - few)))
    echo "$path $one" >>"$fresh"
    before=$(sed -n "s/^$path //p" "$recorded" 2>/dev/null || true)
    printf '%-9s %12d instructions for %s' "$path" "$one" "$unit"
    if [ "${1:-}" != --record ] && [ -n "$before" ]; then
        printf ' (recorded: %d)' "$before"
        if [ $((one * 100)) -gt $((before * (100 + tolerance))) ]; then
            printf ': MORE THAN %d%% ABOVE' "$tolerance"
            failed=1
        fi
    fi
    echo
done <<'PATHS'
download 16 80 one MiB from the server to the app
upload 16 80 one MiB from the app to the server
tunnel 20 120 one tunnel, opened and closed, a byte each way
uncached 50 250 one plain request through a gateway without a cache
passed 50 250 one plain request whose response is known not to be shared
unshared 50 250 one plain request for a new URI, whose response cannot be stored
miss 50 250 one plain request for a new URI, whose response is stored
hit 50 250 one plain request for what is stored
offer 1000 11000 one offer, verified and read
PATHS

if [ "${1:-}" = --record ]; then
    cp "$fresh" "$recorded"
elif [ "$failed" = 1 ]; then
    echo "error: a hot path costs more than before" >&2
    echo "hint: if that is worth it, run scripts/instructions.sh --record and commit $recorded" >&2
    exit 1
fi
