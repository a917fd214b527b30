# By the mirror of `laneway env --fronts`, under the registry's own name.
mkdir -p containers
"$LANEWAY" env --fronts | sed -n '/^# skopeo/,/^# containerd/s/^#   //p' >containers/registries.conf
grep -q mirror containers/registries.conf
echo '{"default": [{"type": "insecureAcceptAnything"}]}' >containers/policy.json
copy() { skopeo --registries-conf "$PWD/containers/registries.conf" --policy "$PWD/containers/policy.json" --tmpdir "$PWD" copy --quiet "$@"; }
copy "docker://$SITE/trial:latest" dir:image
[ "$(sha256sum <image/"$(cat "$PWD/image/manifest.json" | sed -n 's/.*"layers":\[{[^}]*"digest":"sha256:\([0-9a-f]*\)".*/\1/p')" | cut -d ' ' -f 1)" = "$(sed -n 's/.*"layers":\[{[^}]*"digest":"sha256:\([0-9a-f]*\)".*/\1/p' image/manifest.json)" ]
curl -sS http://127.0.0.1:1080/metrics | grep -q 'laneway_front_files_total{result="verified",registry="oci"}'
