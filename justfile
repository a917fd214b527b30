# Everyday commands; `just` lists them. CONTRIBUTING.md explains the rest.

# Lists the commands.
default:
    @just --list

# A server, two gateways and a client on this machine, and a kill -9.
demo:
    cargo run --release -- demo

# All tests.
test:
    cargo test --workspace

# The fast tests: unit tests and those on loopback, with an optional filter.
quick filter='':
    cargo test --workspace --lib -- {{filter}}
    cargo test --test direct -- {{filter}}

# The tests in network namespaces, with an optional filter.
netns filter='':
    cargo test --test netns -- {{filter}}

# Format and lints.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# All that CI checks.
check:
    scripts/check.sh

# The documentation of the crates, in a browser.
doc:
    cargo doc --workspace --no-deps --document-private-items --open

# Accepts changed help texts.
snapshots:
    LANEWAY_UPDATE_SNAPSHOTS=1 cargo test --test cli help

# The live page in a browser; `just page --readme` renews docs/page.png.
page *arguments:
    scripts/page-test.sh {{arguments}}

# Speed, cost and memory beside two plain relays, in two minutes.
bench *arguments='--quick':
    scripts/bench.sh {{arguments}}

# Fuzzes a target for some seconds.
fuzz target seconds='60':
    scripts/fuzz.sh --seconds {{seconds}} {{target}}

# The .deb.
package:
    scripts/package.sh
