#!/usr/bin/env python3
"""The parts of scripts/release.sh that make files: the same input gives the same bytes.

  scripts/release.py sbom TARGET OUT                the components of a program for TARGET (CycloneDX 1.5, JSON)
  scripts/release.py archive DIRECTORY OUT          a .tar.gz or .zip with DIRECTORY
  scripts/release.py deb ARCHITECTURE PROGRAM FILES OUT [DEPENDS]
                                                    a Debian package; FILES has man/ and completions/, DEPENDS is what the
                                                    program needs, and empty for a static one
  scripts/release.py msi DIRECTORY OUT              the installer for Windows, by wixl
  scripts/release.py sums RELEASE                   SHA256SUMS of the files of RELEASE
  scripts/release.py manifests RELEASE URL OUT      winget, Scoop, Homebrew and AUR, for the files of RELEASE at URL
  scripts/release.py version                        the version
"""

import glob
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import time
import tomllib
import uuid
import zipfile
from email.utils import formatdate
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = tomllib.loads((ROOT / "Cargo.toml").read_text())
PACKAGE = MANIFEST["package"]
VERSION = PACKAGE["version"]
DEB = PACKAGE["metadata"]["deb"]
# One line, as short as package managers want it: at most 80 characters, no article first.
SHORT = "Way out of an isolated LAN through any machine that reaches the server"
# The namespace of all identifiers that are derived from names.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "laneway.example")
# The time of the last commit, unless the caller sets another one.
EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH") or subprocess.check_output(
    ["git", "log", "-1", "--format=%ct"], cwd=ROOT, text=True))


def sbom(target, out):
    """Everything that is linked into the program, with licences and hashes."""
    text = subprocess.check_output(
        ["cargo", "metadata", "--format-version=1", "--locked", "--filter-platform", target], cwd=ROOT, text=True)
    metadata = json.loads(text)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    sums = {(package["name"], package["version"]): package.get("checksum") for package in lock}

    # The resolution of cargo metadata has the features that tests and other members of the workspace turn on; the program has not.
    text = subprocess.check_output(["cargo", "tree", "--locked", "--package=laneway", f"--target={target}",
                                    "--edges=normal,no-proc-macro", "--prefix=none", "--format={p}"], cwd=ROOT, text=True)
    linked = {tuple(line.split()[:2]) for line in text.splitlines()}

    def is_linked(package):
        return (package["name"], f"v{package['version']}") in linked

    def normal(node):
        return [dep["pkg"] for dep in node["deps"]
                if any(kind["kind"] is None for kind in dep["dep_kinds"]) and is_linked(packages[dep["pkg"]])]

    root = next(one for one in packages if packages[one]["name"] == "laneway")
    seen = {one for one in nodes if is_linked(packages[one])}

    def reference(package):
        return f"pkg:cargo/{package['name']}@{package['version']}"

    def component(package):
        made = {"type": "library", "bom-ref": reference(package), "name": package["name"],
                "version": package["version"], "purl": reference(package)}
        if package["license"]:
            made["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        if checksum := sums.get((package["name"], package["version"])):
            made["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        return made

    inside = sorted((packages[one] for one in seen if one != root), key=reference)
    graph = [{"ref": reference(packages[one]), "dependsOn": sorted({reference(packages[found]) for found in normal(nodes[one])})}
             for one in seen]
    bom = {
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, f'sbom {VERSION} {target} {EPOCH}')}",
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(EPOCH)),
            "component": {"type": "application", "bom-ref": reference(packages[root]), "name": "laneway",
                          "version": VERSION, "licenses": [{"expression": PACKAGE["license"]}]},
            "properties": [{"name": "target", "value": target}],
        },
        "components": [component(package) for package in inside],
        "dependencies": sorted(graph, key=lambda one: one["ref"]),
    }
    Path(out).write_text(json.dumps(bom, indent=1) + "\n")


def members(directory):
    """The files and directories of a tree, in one order, with the names that they have in an archive."""
    directory = Path(directory)
    for path in sorted(directory.rglob("*")):
        yield path, str(path.relative_to(directory.parent))


def mode(path):
    return 0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644


def archive(directory, out):
    if out.endswith(".zip"):
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
            for path, name in members(directory):
                if path.is_file():
                    info = zipfile.ZipInfo(name, time.gmtime(max(EPOCH, 315532800))[:6])
                    info.external_attr = mode(path) << 16
                    info.compress_type = zipfile.ZIP_DEFLATED
                    file.writestr(info, path.read_bytes())
        return
    Path(out).write_bytes(tar(members(directory)))


def tar(entries):
    """A .tar.gz of paths and names."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as file:
        for path, name in entries:
            info = tarfile.TarInfo(name)
            info.mtime, info.mode = EPOCH, mode(path)
            info.uname = info.gname = "root"
            if path.is_dir():
                info.type = tarfile.DIRTYPE
                file.addfile(info)
            else:
                content = path.read_bytes()
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return gzip.compress(raw.getvalue(), 9, mtime=0)


# What debhelper adds to the scripts of a package with a service (dh_installsystemd).
SERVICE = {
    "postinst": """if [ "$1" = configure ] || [ "$1" = abort-upgrade ] || [ "$1" = abort-deconfigure ] || [ "$1" = abort-remove ]; then
    deb-systemd-helper unmask laneway.service >/dev/null || true
    if deb-systemd-helper --quiet was-enabled laneway.service; then
        deb-systemd-helper enable laneway.service >/dev/null || true
    else
        deb-systemd-helper update-state laneway.service >/dev/null || true
    fi
    if [ -d /run/systemd/system ]; then
        systemctl --system daemon-reload >/dev/null || true
        if [ -n "$2" ]; then action=restart; else action=start; fi
        deb-systemd-invoke $action laneway.service >/dev/null || true
    fi
fi
""",
    "prerm": """if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    deb-systemd-invoke stop laneway.service >/dev/null || true
fi
""",
    "postrm": """if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
fi
if [ "$1" = purge ] && command -v deb-systemd-helper >/dev/null; then
    deb-systemd-helper purge laneway.service >/dev/null || true
fi
""",
}


def deb(architecture, program, files, out, depends=""):
    """The package that [package.metadata.deb] of Cargo.toml describes."""
    with tempfile.TemporaryDirectory() as work:
        tree, control = Path(work, "data"), Path(work, "control")
        control.mkdir()

        def put(source, to, bits):
            target = tree / to
            target.parent.mkdir(parents=True, exist_ok=True)
            if to.startswith("usr/share/man/") or to.endswith("/changelog"):
                target = target.with_name(target.name + ".gz")
                target.write_bytes(gzip.compress(Path(source).read_bytes(), 9, mtime=0))
            else:
                shutil.copyfile(source, target)
            target.chmod(bits)

        for source, to, bits in DEB["assets"]:
            source = source.replace("target/release/laneway", str(program)).replace("target/package", str(files))
            found = sorted(glob.glob(source if os.path.isabs(source) else str(ROOT / source)))
            if not found:
                sys.exit(f"error: the package has no {source}")
            for one in found:
                put(one, to + Path(one).name if to.endswith("/") else to, int(bits, 8))
        put(ROOT / "packaging/systemd/laneway.service", "usr/lib/systemd/system/laneway.service", 0o644)
        texts = tree / "usr/share/doc/laneway"
        licence = "".join(f" {line or '.'}\n" for line in (ROOT / "LICENSE-MIT").read_text().splitlines())
        (texts / "copyright").write_text(
            "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: laneway\n\n"
            f"Files: *\nCopyright: {DEB['copyright']}\nLicense: Expat or Apache-2.0\n\nLicense: Expat\n{licence}\n"
            "License: Apache-2.0\n The text is in /usr/share/common-licenses/Apache-2.0 on Debian systems.\n")
        if not depends:
            with (tree / "usr/share/lintian/overrides/laneway").open("a") as overrides:
                overrides.write("# It runs with any libc.\nlaneway: statically-linked-binary [usr/bin/laneway]\n")
        changelog = texts / "changelog.Debian.gz"
        entry = (f"laneway ({VERSION}-{DEB['revision']}) unstable; urgency=medium\n\n  * changelog.gz says what is new.\n\n"
                 f" -- {DEB['maintainer']}  {formatdate(EPOCH)}\n")
        changelog.write_bytes(gzip.compress(entry.encode(), 9, mtime=0))
        changelog.chmod(0o644)

        size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file()) // 1024
        text = textwrap.fill(" ".join(DEB["extended-description"].split()), 78, initial_indent=" ", subsequent_indent=" ")
        (control / "control").write_text(
            f"Package: laneway\nVersion: {VERSION}-{DEB['revision']}\nArchitecture: {architecture}\n"
            f"Maintainer: {DEB['maintainer']}\nInstalled-Size: {size}\nSection: {DEB['section']}\nPriority: optional\n"
            f"Depends: {', '.join(filter(None, [depends, 'init-system-helpers (>= 1.54~)']))}\nRecommends: {DEB['recommends']}\n"
            f"Description: {SHORT[0].lower()}{SHORT[1:]}\n{text}\n")
        (control / "conffiles").write_text("".join(f"{file}\n" for file in DEB["conf-files"]))
        sums = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(tree)}\n"
                for path in sorted(tree.rglob("*")) if path.is_file()]
        (control / "md5sums").write_text("".join(sums))
        for script, added in SERVICE.items():
            own = (ROOT / "packaging/debian" / script).read_text()
            (control / script).write_text(own.replace("#DEBHELPER#\n", added))
            (control / script).chmod(0o755)

        def root_of(directory):
            return [(directory, ".")] + [(path, f"./{path.relative_to(directory)}") for path in sorted(directory.rglob("*"))]

        parts = [("debian-binary", b"2.0\n"), ("control.tar.gz", tar(root_of(control))), ("data.tar.gz", tar(root_of(tree)))]
        package = b"!<arch>\n"
        for name, content in parts:
            package += f"{name:<16}{EPOCH:<12}0     0     100644  {len(content):<10}`\n".encode()
            package += content + b"\n" * (len(content) % 2)
        Path(out).write_bytes(package)


def sums(release):
    """The files of this version, like sha256sum(1), which not every system has."""
    files = sorted(path for path in Path(release).glob(f"laneway[-_]{VERSION}-*") if path.is_file())
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    Path(release, "SHA256SUMS").write_text("".join(lines))


def manifests(release, url, out):
    """The manifests of other package managers, from the files of a release."""
    out = Path(out)
    sums = dict(reversed(line.split(maxsplit=1)) for line in Path(release, "SHA256SUMS").read_text().splitlines())
    # A file is named only if the release has it.
    files = {name: (f"{url}/{name}", value) for name, value in sums.items()}

    def named(suffix):
        return next(((link, value) for name, (link, value) in files.items() if name.endswith(suffix)), None)

    home = url.split("/releases/")[0]
    licence = PACKAGE["license"]

    def write(name, content):
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    if msi := named(".msi"):
        base = f"PackageIdentifier: Laneway.Laneway\nPackageVersion: {VERSION}\n"
        end = "ManifestVersion: 1.6.0\n"
        directory = f"winget/Laneway.Laneway/{VERSION}"
        write(f"{directory}/Laneway.Laneway.yaml", f"{base}DefaultLocale: en-US\nManifestType: version\n{end}")
        write(f"{directory}/Laneway.Laneway.installer.yaml",
              f"{base}InstallerType: wix\nScope: machine\nInstallers:\n- Architecture: x64\n  InstallerUrl: {msi[0]}\n"
              f"  InstallerSha256: {msi[1].upper()}\n  ProductCode: '{{{identifier('ProductCode').upper()}}}'\n"
              f"ManifestType: installer\n{end}")
        write(f"{directory}/Laneway.Laneway.locale.en-US.yaml",
              f"{base}PackageLocale: en-US\nPublisher: laneway authors\nPackageName: laneway\nPackageUrl: {home}\n"
              f"License: {licence}\nShortDescription: {SHORT}\nManifestType: defaultLocale\n{end}")
    if archive_of_windows := named("pc-windows-gnu.zip"):
        link, value = archive_of_windows
        write("scoop/laneway.json", json.dumps({
            "version": VERSION, "description": SHORT, "homepage": home, "license": licence.replace(" OR ", "|"),
            "architecture": {"64bit": {"url": link, "hash": value, "extract_dir": f"laneway-{VERSION}-x86_64-pc-windows-gnu"}},
            "bin": "laneway.exe",
        }, indent=4) + "\n")
    blocks = []
    for system, processors in [("macos", [("arm", "aarch64-apple-darwin"), ("intel", "x86_64-apple-darwin")]),
                               ("linux", [("arm", "aarch64-unknown-linux-musl"), ("intel", "x86_64-unknown-linux-musl")])]:
        found = [(processor, named(f"{target}.tar.gz")) for processor, target in processors]
        found = [(processor, file) for processor, file in found if file]
        if found:
            inner = "".join(f'    on_{processor} do\n      url "{file[0]}"\n      sha256 "{file[1]}"\n    end\n'
                            for processor, file in found)
            blocks.append(f"  on_{system} do\n{inner}  end\n")
    if blocks:
        write("homebrew/laneway.rb", f'''class Laneway < Formula
  desc "{SHORT}"
  homepage "{home}"
  version "{VERSION}"
  license any_of: ["MIT", "Apache-2.0"]

{"".join(blocks)}
  def install
    bin.install "laneway"
    man1.install Dir["man/*.1"]
    bash_completion.install "completions/laneway.bash" => "laneway"
    zsh_completion.install "completions/laneway.zsh" => "_laneway"
    fish_completion.install "completions/laneway.fish"
  end

  service do
    run [opt_bin/"laneway", "up"]
    keep_alive crashed: true
    log_path var/"log/laneway.log"
    error_log_path var/"log/laneway.log"
  end

  test do
    assert_match version.to_s, shell_output("#{{bin}}/laneway --version")
  end
end
''')
    linux = {processor: named(f"{processor}-unknown-linux-musl.tar.gz") for processor in ["x86_64", "aarch64"]}
    linux = {processor: file for processor, file in linux.items() if file}
    if linux:
        arch = " ".join(f"'{processor}'" for processor in linux)
        sources = "".join(f"source_{processor}=('{file[0]}')\nsha256sums_{processor}=('{file[1]}')\n"
                          for processor, file in linux.items())
        write("aur/PKGBUILD", f'''# Maintainer: {DEB['maintainer']}
pkgname=laneway-bin
pkgver={VERSION}
pkgrel=1
pkgdesc='{SHORT}'
arch=({arch})
url='{home}'
license=('{licence}')
provides=('laneway')
conflicts=('laneway')
backup=('etc/laneway/laneway.toml' 'etc/ufw/applications.d/laneway')
options=('!strip')
{sources}
package() {{
    cd "laneway-$pkgver-$CARCH-unknown-linux-musl"
    install -Dm755 laneway "$pkgdir/usr/bin/laneway"
    install -Dm644 -t "$pkgdir/usr/share/man/man1" man/*.1
    install -Dm644 completions/laneway.bash "$pkgdir/usr/share/bash-completion/completions/laneway"
    install -Dm644 completions/laneway.zsh "$pkgdir/usr/share/zsh/site-functions/_laneway"
    install -Dm644 completions/laneway.fish "$pkgdir/usr/share/fish/vendor_completions.d/laneway.fish"
    install -Dm644 packaging/systemd/laneway.service "$pkgdir/usr/lib/systemd/system/laneway.service"
    install -Dm644 -t "$pkgdir/usr/share/doc/laneway/examples/systemd" packaging/systemd/optional/*
    install -Dm644 packaging/firewall/firewalld.xml "$pkgdir/usr/lib/firewalld/services/laneway.xml"
    install -Dm644 packaging/firewall/ufw.profile "$pkgdir/etc/ufw/applications.d/laneway"
    install -Dm644 packaging/laneway.toml "$pkgdir/etc/laneway/laneway.toml"
    install -Dm644 -t "$pkgdir/usr/share/licenses/$pkgname" LICENSE LICENSE-MIT LICENSE-APACHE
}}
''')
        pairs = "".join(f"\tarch = {processor}\n" for processor in linux)
        pairs += "".join(f"\tsource_{processor} = {file[0]}\n\tsha256sums_{processor} = {file[1]}\n"
                         for processor, file in linux.items())
        write("aur/.SRCINFO", f"pkgbase = laneway-bin\n\tpkgdesc = {SHORT}\n\tpkgver = {VERSION}\n\tpkgrel = 1\n"
              f"\turl = {home}\n\tlicense = {licence}\n\tprovides = laneway\n\tconflicts = laneway\n"
              f"\toptions = !strip\n\tbackup = etc/laneway/laneway.toml\n"
              f"\tbackup = etc/ufw/applications.d/laneway\n{pairs}\npkgname = laneway-bin\n")


def identifier(name):
    """An identifier of the installer for this version."""
    return str(uuid.uuid5(NAMESPACE, f"{name} {VERSION}"))


def msi(directory, out):
    directory, out = Path(directory).resolve(), Path(out).resolve()
    # The cabinet has the times of the files.
    for path in directory.rglob("*"):
        os.utime(path, (EPOCH, EPOCH))
    # wixl takes no absolute paths of files.
    subprocess.run(["wixl", "--arch", "x64", "--output", str(out), "-D", f"Version={VERSION}", "-D", f"Source={directory.name}",
                    "-D", f"ProductCode={identifier('ProductCode')}", str(ROOT / "packaging/windows/laneway.wxs")],
                   cwd=directory.parent, check=True)
    # wixl invents the code of the package, and takes the time from the clock: the summary has the code, and two times after it.
    content = bytearray(out.read_bytes())
    code = re.compile(rb"\{[0-9A-F]{8}(?:-[0-9A-F]{4}){3}-[0-9A-F]{12}\}\0\0(?=(?:\x40\0\0\0.{8}){1,2})", re.DOTALL)
    found = list(code.finditer(content))
    if len(found) != 1:
        sys.exit("error: the installer has no summary where it was expected")
    start, end = found[0].span()
    content[start:start + 38] = f"{{{identifier(f'PackageCode {EPOCH}').upper()}}}".encode()
    filetime = ((EPOCH + 11_644_473_600) * 10_000_000).to_bytes(8, "little")
    while content[end:end + 4] == b"\x40\0\0\0":
        content[end + 4:end + 12] = filetime
        end += 12
    out.write_bytes(content)


def main():
    verb, arguments = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    verbs = {"sbom": sbom, "archive": archive, "deb": deb, "manifests": manifests,
             "msi": msi, "sums": sums, "version": lambda: print(VERSION)}
    if verb not in verbs:
        sys.exit(__doc__)
    verbs[verb](*arguments)


main()
