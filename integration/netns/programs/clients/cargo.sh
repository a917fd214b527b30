# A sparse registry, by the variables, then by cargo's own configuration.
mkdir -p app/src app/.cargo
cd app
: >src/lib.rs
printf '[package]\nname = "app"\nversion = "1.0.0"\nedition = "2021"\n[dependencies]\ntrial-package = { version = "1", registry = "trial" }\n' >Cargo.toml
printf '[registries.trial]\nindex = "sparse+https://%s/crates/"\n[http]\ncainfo = "%s"\n[net]\nretry = 0\n' "$SITE" "$CA" >.cargo/config.toml
export CARGO_HOME="$PWD/home" PATH="$(dirname "$CARGO"):$PATH"
eval "$("$LANEWAY" env)"
"$CARGO" fetch --quiet
ls home/registry/src/*/trial-package-1.0.0/Cargo.toml >/dev/null
eval "$("$LANEWAY" env --unset)"
rm -rf home Cargo.lock
sed -i '/^cainfo/a proxy = "http://127.0.0.1:1080"' .cargo/config.toml
"$CARGO" fetch --quiet
ls home/registry/src/*/trial-package-1.0.0/Cargo.toml >/dev/null
