#!/usr/bin/env bash
# Checks what the documentation says against the tree: links and paths exist, every option, command and metric is documented,
# the tests that SECURITY.md names exist, the minimum Rust version is the same everywhere, the README stays short.
set -euo pipefail
cd "$(dirname "$0")/.."

sources=(src integration)
[ ! -d crates ] || sources+=(crates)
complaints=$(mktemp)
trap 'rm -f "$complaints"' EXIT
complain() { echo "error: $*" >>"$complaints"; }
# One item per line on standard input.
each() { while IFS= read -r item; do "$1" "$item"; done; }

# Links between the documents.
for page in *.md docs/*.md; do
    while IFS= read -r target; do
        [ -e "$(dirname "$page")/$target" ] || complain "$page links to $target, which does not exist"
    done < <(grep -o '](\([^)#]*\)[^)]*)' "$page" | sed 's/^](//; s/[#)].*//' | grep -v -e '^http' -e '^$' || true)
done

# Paths: `a/b.rs`, `a/b/` or `a/{b,c}.rs` below the root. In ARCHITECTURE.md all of them are repository paths.
path_exists() { compgen -G "${1%/}" >/dev/null || complain "ARCHITECTURE.md names $1, which does not exist"; }
while IFS= read -r path; do
    # Only these characters can be in it, so that the expansion of braces is safe.
    eval "printf '%s\n' $path" | each path_exists
done < <(grep -o '`[A-Za-z0-9_./{},-]*/[A-Za-z0-9_./{},*-]*`' ARCHITECTURE.md | tr -d '`' |
    grep -E '^(src|crates|integration|scripts|docs|packaging|examples)/' | sort -u)

# Options and commands, from the snapshots of the help texts; the hidden command 'origin' has options of its own.
option_is_documented() {
    grep -q -e "\`$1[\` =|]" docs/options.md docs/commands.md || complain "$1 is in the help, but not in docs/options.md or docs/commands.md"
}
grep -ho -e '^ *\(-., \)\?--[a-z][a-z-]*' integration/cli/help/*.txt | grep -o -e '--[a-z-]*' | sort -u |
    grep -v -x -e '--help' -e '--version' -e '--listen' -e '--dir' -e '--seed' -e '--size' | each option_is_documented
option_exists() { grep -q -e "$1\b" integration/cli/help/*.txt || complain "docs/options.md names $1, which no command has"; }
grep -o -e '^| `--[a-z-]*' docs/options.md | sed 's/^| `//' | sort -u | each option_exists
command_is_documented() { grep -q "laneway $1\b" docs/commands.md || complain "laneway $1 is not in docs/commands.md"; }
sed -n '/^Commands:/,/^Options:/s/^  \([a-z][a-z-]*\) .*/\1/p' integration/cli/help/laneway.txt | grep -v -x help | each command_is_documented

# Metrics, from the names in the source.
metrics=$(grep -rl 'gauge("build_info"' --include='*.rs' "${sources[@]}" | head -n 1)
metric_is_documented() { grep -q "\`laneway_$1\`" docs/operations.md || complain "the metric laneway_$1 is not in docs/operations.md"; }
tr -d '\n' <"$metrics" | grep -oE '(gauge|counter|each)\( *"[a-z_]+"' | grep -oE '[a-z_]+"' | tr -d '"' | sed '/^x$/d' | sort -u | each metric_is_documented

# Tests that SECURITY.md names in its last column, and ARCHITECTURE.md anywhere: `module::test_name` or `test_name`.
tests=$(grep -rhoE '^ *(async )?fn [a-z0-9_]+' --include='*.rs' "${sources[@]}" | sed 's/.*fn //' | sort -u)
test_exists() { grep -qx "${1##*::}" <<<"$tests" || complain "SECURITY.md or ARCHITECTURE.md names the test $1, which does not exist"; }
{
    sed -n '/^|.*|.*|/s/.*|\([^|]*\)|$/\1/p' SECURITY.md | grep -oE '`[a-z0-9_:]+_[a-z0-9_:]+`'
    grep -oE '`([a-z0-9:]+_){3,}[a-z0-9]+`' ARCHITECTURE.md
} | tr -d '`' | sort -u | each test_exists

# The minimum Rust version.
rust=$(git ls-files '*Cargo.toml' | xargs sed -n 's/^rust-version = "\(.*\)"/\1/p' | sort -u)
[ "$(wc -l <<<"$rust")" = 1 ] || complain "the manifests name different Rust versions: $rust"
for file in README.md CONTRIBUTING.md; do
    grep -q "Rust $rust or newer" "$file" || complain "$file does not say 'Rust $rust or newer'; Cargo.toml does"
done
grep -q "FROM rust:$rust-" packaging/docker/Dockerfile || complain "packaging/docker/Dockerfile does not build with Rust $rust"
grep -q "RUSTUP_TOOLCHAIN: $rust\." .github/workflows/release.yml || complain ".github/workflows/release.yml does not build with Rust $rust"
# What a tag of an action means can be changed by whoever has its repository.
if grep -n 'uses:' .github/workflows/*.yml | grep -vE '@[0-9a-f]{40} # v[0-9.]+$'; then complain "the workflow names actions without their commits"; fi

[ "$(wc -l <README.md)" -lt 150 ] || complain "README.md has 150 lines or more"

if [ -s "$complaints" ]; then
    cat "$complaints" >&2
    exit 1
fi
echo "documentation: consistent"
