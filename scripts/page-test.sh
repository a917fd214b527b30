#!/usr/bin/env bash
# Tests the live page in a real browser: it loads without an error, changes while a download runs, and shows a failover.
# Writes screenshots (light, dark, phone, failover) to target/page/. Needs chromium, chromium-driver and python3-venv
# (Debian), and selenium (installed into target/page/venv). Without them it reports that it was skipped, and fails with CI=true.
#   scripts/page-test.sh                  runs the test
#   scripts/page-test.sh --readme         runs the test and replaces docs/page.png
set -euo pipefail
cd "$(dirname "$0")/.."

lacks() {
    echo "skipped: $1 is not installed"
    [ "${CI:-}" != true ] || exit 1
    exit 0
}

for program in chromium chromedriver python3; do
    command -v "$program" >/dev/null || lacks "$program"
done
mkdir -p target/page
venv=target/page/venv
[ -x "$venv/bin/python" ] || python3 -m venv "$venv" 2>/dev/null || { rm -rf "$venv"; lacks python3-venv; }
"$venv/bin/python" -c 'import selenium, prometheus_client' 2>/dev/null ||
    "$venv/bin/pip" install --quiet --disable-pip-version-check selenium==4.51.0 prometheus_client==0.26.0
# With the features that the tests enable in dependencies, so that nothing is rebuilt after them.
cargo test --quiet --locked --workspace --test cli --no-run
exec "$venv/bin/python" scripts/page_test.py "$@"
