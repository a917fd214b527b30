#!/bin/sh
# What s1 serves to real clients, made in the directory $1: files, a repository for each kind of package, certificates.
# Each package is small and made here; $2 is the name of the server. PYTHON runs what makes some of them.
set -eu
umask 022
top=$1 name=$2
mkdir -p "$top/www" "$top/tls" "$top/git"
cd "$top"

# A certificate for the server, signed by an authority that the clients are told of.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=trial authority" \
    -addext keyUsage=critical,keyCertSign,cRLSign -keyout tls/ca.key -out tls/ca.pem 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name" \
    -keyout tls/server.key -out tls/server.csr 2>/dev/null
printf 'subjectAltName=DNS:%s\nextendedKeyUsage=serverAuth\nauthorityKeyIdentifier=keyid\n' "$name" >tls/extensions
openssl x509 -req -in tls/server.csr -CA tls/ca.pem -CAkey tls/ca.key -days 30 -extfile tls/extensions \
    -out tls/server.pem 2>/dev/null

# Files.
echo "hello from $name" >www/hello
echo "<!doctype html><title>page</title><p id=told>nothing yet</p><script src=page.js></script>" >www/page.html
echo "document.getElementById('told').textContent = 'told by ' + location.host" >www/page.js
head -c 8388608 /dev/urandom >www/big
(cd www && sha256sum big) >www/big.sha256

# A repository for apt: many packages of different sizes, so that requests are pipelined.
mkdir -p www/debian/pool
for number in 01 02 03 04 05 06 07 08 09 10 11 12; do
    package=trial-$number tree=deb/trial-$number
    mkdir -p "$tree/DEBIAN" "$tree/usr/share/trial"
    head -c "$((${number#0} * 30000))" /dev/urandom >"$tree/usr/share/trial/$number"
    printf 'Package: %s\nVersion: 1.0\nArchitecture: all\nMaintainer: Trial <trial@%s>\nDescription: a trial\n' \
        "$package" "$name" >"$tree/DEBIAN/control"
    dpkg-deb --root-owner-group --build "$tree" www/debian/pool >/dev/null
    file=pool/${package}_1.0_all.deb
    (
        cat "$tree/DEBIAN/control"
        printf 'Filename: %s\nSize: %s\nSHA256: %s\n\n' "$file" "$(stat -c %s "www/debian/$file")" \
            "$(sha256sum "www/debian/$file" | cut -d ' ' -f 1)"
    ) >>www/debian/Packages
done

# The same archive, signed. One of its packages was changed after that.
if command -v gpg >/dev/null; then
    cp -r www/debian www/signed
    (
        printf 'Origin: trial\nSuite: ./\nDate: %s\nArchitectures: all %s\nSHA256:\n' "$(LC_ALL=C date -Ru)" \
            "$(dpkg --print-architecture)"
        printf ' %s %s Packages\n' "$(sha256sum www/signed/Packages | cut -d ' ' -f 1)" "$(stat -c %s www/signed/Packages)"
    ) >www/signed/Release
    mkdir -m 700 gpg
    gpg --homedir gpg --batch --quiet --passphrase '' --quick-generate-key trial ed25519 sign never
    gpg --homedir gpg --batch --quiet --export >www/signed/key.gpg
    gpg --homedir gpg --batch --quiet --clearsign --output www/signed/InRelease www/signed/Release
    gpgconf --homedir gpg --kill gpg-agent
    printf x | dd of=www/signed/pool/trial-03_1.0_all.deb bs=1 seek=20000 conv=notrunc status=none
fi

# One package for each of pip, npm and cargo, and an index.
"$PYTHON" - "$name" <<'PYTHON'
import base64, hashlib, io, json, os, sys, tarfile, zipfile

NAME = sys.argv[1]


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode())


def tarball(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, text in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


wheel = io.BytesIO()
with zipfile.ZipFile(wheel, "w") as archive:
    info = "trial_package-1.0.dist-info"
    archive.writestr("trial_package.py", "SAYS = 'trial package'\n")
    archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: trial-package\nVersion: 1.0\n")
    archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: trial\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    archive.writestr(f"{info}/RECORD", f"trial_package.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
wheel = wheel.getvalue()
file = "trial_package-1.0-py3-none-any.whl"
write(f"www/simple/trial-package/{file}", wheel)
digest = hashlib.sha256(wheel).hexdigest()
write("www/simple/trial-package/index.html", f'<!doctype html><a href="{file}#sha256={digest}">{file}</a>\n')

package = {"name": "trial-package", "version": "1.0.0", "main": "index.js"}
data = tarball({"package/package.json": json.dumps(package), "package/index.js": "module.exports = 'trial package';\n"})
write("www/npm-files/trial-package-1.0.0.tgz", data)
integrity = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
dist = {"tarball": f"https://{NAME}/npm-files/trial-package-1.0.0.tgz", "integrity": integrity}
document = {"name": "trial-package", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": {**package, "dist": dist}}}
write("www/npm/trial-package", json.dumps(document))

manifest = '[package]\nname = "trial-package"\nversion = "1.0.0"\nedition = "2021"\n'
data = tarball({"trial-package-1.0.0/Cargo.toml": manifest, "trial-package-1.0.0/src/lib.rs": ""})
write("www/crates-files/trial-package-1.0.0.crate", data)
write("www/crates/config.json", json.dumps({"dl": f"https://{NAME}/crates-files/{{crate}}-{{version}}.crate"}))
# An image of one layer.
MEDIA = "application/vnd.oci.image"


def blob(data):
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    write(f"www/v2/trial/blobs/{digest}", data)
    return {"digest": digest, "size": len(data)}


layer = tarball({"hello": "hello from a layer\n" * 50000})
config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
manifest = {
    "schemaVersion": 2,
    "mediaType": f"{MEDIA}.manifest.v1+json",
    "config": {"mediaType": f"{MEDIA}.config.v1+json", **blob(json.dumps(config).encode())},
    "layers": [{"mediaType": f"{MEDIA}.layer.v1.tar+gzip", **blob(layer)}],
}
write("www/v2/trial/manifests/latest", json.dumps(manifest, separators=(",", ":")))

entry = {"name": "trial-package", "vers": "1.0.0", "deps": [], "cksum": hashlib.sha256(data).hexdigest(), "features": {}, "yanked": False}
write("www/crates/tr/ia/trial-package", json.dumps(entry) + "\n")
PYTHON

# A repository for git, with more than fits one answer without chunks.
git=git/trial.git
git -c init.defaultBranch=main init --quiet --bare "$git"
work=$(mktemp -d)
git -c init.defaultBranch=main init --quiet "$work"
head -c 2000000 /dev/urandom >"$work/file"
(
    cd "$work"
    git add file
    git -c user.name=trial -c user.email="trial@$name" commit --quiet --message "a trial"
)
git -C "$work" push --quiet "$top/$git" HEAD:main
rm -rf "$work" deb
git -C "$git" config http.receivepack true
