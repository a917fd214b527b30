# By the one variable of `laneway env --fronts`, without any proxy.
mkdir -p app/src
cd app
: >src/lib.rs
printf '[package]\nname = "app"\nversion = "1.0.0"\nedition = "2021"\n[dependencies]\ntrial-package = { version = "1", registry = "laneway" }\n' >Cargo.toml
export CARGO_HOME="$PWD/home" CARGO_NET_RETRY=0 CARGO_NET_OFFLINE=false PATH="$(dirname "$CARGO"):$PATH"
eval "$("$LANEWAY" env --fronts)"
"$CARGO" fetch --quiet
ls home/registry/src/*/trial-package-1.0.0/Cargo.toml >/dev/null
curl -sS http://127.0.0.1:1080/metrics | grep -q 'laneway_front_files_total{result="verified",registry="crates"} 1'
