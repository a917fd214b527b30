#!/usr/bin/env bash
# The live page in a real browser: it loads without an error, changes while a download runs, and shows a failover. Takes
# screenshots (light, dark, phone) into target/page/. Needs chromium, chromium-driver and python3-venv (Debian) and
# selenium (installed into target/page/venv); skips loudly where they are missing.
#   scripts/page-test.sh                  tests
#   scripts/page-test.sh --readme         tests, and writes docs/page.png anew
set -euo pipefail
cd "$(dirname "$0")/.."

for program in chromium chromedriver python3; do
    command -v "$program" >/dev/null || { echo "skipped: $program is not installed"; exit 0; }
done
mkdir -p target/page
venv=target/page/venv
[ -x "$venv/bin/python" ] || python3 -m venv "$venv" 2>/dev/null ||
    { rm -rf "$venv"; echo "skipped: python3-venv is not installed"; exit 0; }
"$venv/bin/python" -c 'import selenium, prometheus_client' 2>/dev/null ||
    "$venv/bin/pip" install --quiet --disable-pip-version-check selenium prometheus_client
cargo build --quiet --locked
exec "$venv/bin/python" scripts/page_test.py "$@"
