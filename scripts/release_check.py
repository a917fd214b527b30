#!/usr/bin/env python3
"""Checks the files of a release as they are handed out, for scripts/release.sh: what is in them, and what they need.

  scripts/release_check.py RELEASE     checks SHA256SUMS, archives, packages, programs, components and manifests of a directory

A program may need nothing that its system does not have, and may not name a directory of the machine that built it.
"""

import hashlib
import io
import json
import os
import re
import struct
import sys
import tarfile
import zipfile
from pathlib import Path

# What every archive has beside the program.
TEXTS = {"README.md", "ARCHITECTURE.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "LICENSE-MIT", "LICENSE-APACHE", "docs/fleet.md",
         "man/laneway.1", "man/laneway-up.1", "completions/laneway.bash", "completions/laneway.zsh", "completions/laneway.fish",
         "completions/laneway.powershell", "packaging/laneway.toml", "packaging/grafana/laneway.json",
         "packaging/prometheus/laneway.rules.yml"}
UNITS = {"packaging/systemd/laneway.service", "packaging/systemd/optional/laneway.socket", "packaging/firewall/ufw.profile"}
# The numbers of processors in ELF, PE and Mach-O.
PROCESSORS = {"x86_64": (62, 0x8664, 0x01000007), "aarch64": (183, 0xAA64, 0x0100000C)}
MACOS = (13, 0)

complaints = []


def complain(file, text):
    complaints.append(f"{file}: {text}")


def text_at(data, start):
    return data[start:data.index(b"\0", start)].decode()


def elf(file, data, processor):
    """A static program: it needs no interpreter and no library."""
    if data[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", data, 18)[0] != PROCESSORS[processor][0]:
        return complain(file, f"no ELF program for {processor}")
    start, size, count = struct.unpack_from("<32xQ14xHH", data, 0)
    kinds = [struct.unpack_from("<I", data, start + at * size)[0] for at in range(count)]
    if 3 in kinds:
        complain(file, "needs an interpreter: it is not static")


def pe(file, data, processor):
    """A program for Windows: it needs the libraries of Windows alone."""
    header = struct.unpack_from("<I", data, 60)[0]
    if data[:2] != b"MZ" or data[header:header + 4] != b"PE\0\0":
        return complain(file, "no program for Windows")
    machine, sections, optional = struct.unpack_from("<HH12xH", data, header + 4)
    if machine != PROCESSORS[processor][1]:
        complain(file, f"not for {processor}")
    table = header + 24 + optional
    placed = [struct.unpack_from("<8xIIII", data, table + at * 40) for at in range(sections)]

    def offset(address):
        return next(raw + address - start for size, start, length, raw in placed if start <= address < start + max(size, length))

    # The second entry of the directory is the table of imports: 20 bytes for each library, the name in the fourth number.
    at = offset(struct.unpack_from("<I", data, header + 24 + 112 + 8)[0])
    names = []
    while name := struct.unpack_from("<12xI", data, at)[0]:
        names.append(text_at(data, offset(name)))
        at += 20
    # Those of the compiler are called libgcc_s_seh-1.dll, libwinpthread-1.dll and the like.
    if foreign := [name for name in names if name.lower().startswith("lib")]:
        complain(file, f"needs {', '.join(foreign)}, which Windows does not have")


def macho(file, data, processor):
    """A program for macOS: signed, for a known version, with the libraries of the system alone."""
    magic, machine, commands = struct.unpack_from("<II8xI", data, 0)
    if magic != 0xFEEDFACF or machine != PROCESSORS[processor][2]:
        return complain(file, f"no program for macOS on {processor}")
    at, names, kinds, version = 32, [], set(), None
    for _ in range(commands):
        kind, size = struct.unpack_from("<II", data, at)
        kinds.add(kind)
        # LC_LOAD_DYLIB, LC_LOAD_WEAK_DYLIB, LC_REEXPORT_DYLIB
        if kind in (0xC, 0x80000018, 0x8000001F):
            names.append(text_at(data, at + struct.unpack_from("<I", data, at + 8)[0]))
        # LC_BUILD_VERSION, LC_VERSION_MIN_MACOSX
        if kind in (0x32, 0x24):
            minimum = struct.unpack_from("<I", data, at + (12 if kind == 0x32 else 8))[0]
            version = (minimum >> 16, minimum >> 8 & 255)
        at += size
    for name in names:
        if not name.startswith(("/usr/lib/", "/System/Library/")):
            complain(file, f"needs {name}, which macOS does not have")
    # The loader of macOS 15 refuses a program that names a library twice.
    if len(names) != len(set(names)):
        complain(file, f"names a library twice: {', '.join(names)}")
    # LC_CODE_SIGNATURE: the kernel runs nothing without one on Apple's processors.
    if 0x1D not in kinds and processor == "aarch64":
        complain(file, "is not signed")
    if version != MACOS:
        complain(file, f"is for macOS {version}, not {MACOS}")


def program(file, data, target):
    processor = target.split("-")[0]
    (pe if "windows" in target else macho if "apple" in target else elf)(file, data, processor)
    # Not the home itself: the program looks at '/root', and the name of another directory may follow it.
    cargo = os.environ.get("CARGO_HOME") or Path.home() / ".cargo"
    for directory in [Path(__file__).resolve().parent.parent, cargo, Path.home() / ".rustup"]:
        if f"{directory}/".encode() in data:
            complain(file, f"names {directory}, a directory of the machine that built it")


def archive(path, version):
    """The members of an archive without its directory; the program is checked."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as file:
            members = {name: file.read(name) for name in file.namelist()}
            modes = {name: file.getinfo(name).external_attr >> 16 for name in members}
        target = path.name.removeprefix(f"laneway-{version}-").removesuffix(".zip")
    else:
        with tarfile.open(path) as file:
            entries = [entry for entry in file if entry.isfile()]
            members = {entry.name: file.extractfile(entry).read() for entry in entries}
            modes = {entry.name: entry.mode for entry in entries}
        target = path.name.removeprefix(f"laneway-{version}-").removesuffix(".tar.gz")
    top = f"laneway-{version}-{target}/"
    if outside := [name for name in members if not name.startswith(top)]:
        complain(path.name, f"has files outside {top}: {', '.join(outside)}")
    name = "laneway.exe" if "windows" in target else "laneway"
    wanted = TEXTS | {name} | (UNITS if "linux" in target else set())
    if missing := sorted(one for one in wanted if not members.get(top + one)):
        return complain(path.name, f"lacks {', '.join(missing)}")
    if not modes[top + name] & 0o100:
        complain(path.name, f"{name} is not executable")
    program(path.name, members[top + name], target)


def deb(path):
    """The members of a Debian package: the program, and the sums of all files."""
    data, at, parts = path.read_bytes(), 8, {}
    while at < len(data):
        name, size = data[at:at + 16].decode().strip(), int(data[at + 48:at + 58])
        parts[name] = data[at + 60:at + 60 + size]
        at += 60 + size + size % 2

    def files(name):
        with tarfile.open(fileobj=io.BytesIO(parts[name])) as file:
            return {entry.name.removeprefix("./"): file.extractfile(entry).read() for entry in file if entry.isfile()}

    control, content = files("control.tar.gz"), files("data.tar.gz")
    sums = dict(reversed(line.split(maxsplit=1)) for line in control["md5sums"].decode().splitlines())
    if sums != {name: hashlib.md5(data).hexdigest() for name, data in content.items()}:
        complain(path.name, "md5sums does not fit the files")
    processor = "aarch64" if "_arm64" in path.name else "x86_64"
    if not (built := content.get("usr/bin/laneway")):
        return complain(path.name, "lacks usr/bin/laneway")
    program(path.name, built, f"{processor}-unknown-linux-musl")


def components(path):
    bom = json.loads(path.read_text())
    known = {one["bom-ref"] for one in [bom["metadata"]["component"], *bom["components"]]}
    named = {one["ref"] for one in bom["dependencies"]} | {on for one in bom["dependencies"] for on in one["dependsOn"]}
    if named != known:
        complain(path.name, f"the components and their graph differ: {', '.join(sorted(named ^ known))}")


def manifest(path, sums):
    """Each address in a manifest is followed by the sum of its file."""
    found = re.findall(r"(https?://[^\s'\"]+/laneway[-_][^\s'\"/]+)|\b([0-9a-fA-F]{64})\b", path.read_text())
    pairs = list(zip(found[::2], found[1::2]))
    for (address, _), (_, value) in pairs:
        if not address or sums.get(address.rsplit("/", 1)[1]) != value.lower():
            complain(path.name, f"{address or 'a file without an address'} does not have the sum {value}")
    return len(pairs)


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    release = Path(sys.argv[1])
    sums = dict(reversed(line.split(maxsplit=1)) for line in (release / "SHA256SUMS").read_text().splitlines())
    for name, value in sums.items():
        path = release / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != value:
            complain(name, "SHA256SUMS does not fit it")
            continue
        version = re.match(r"laneway[-_](\d+\.\d+\.\d+)", name)[1]
        if name.endswith((".tar.gz", ".zip")):
            archive(path, version)
        elif name.endswith(".deb"):
            deb(path)
        elif name.endswith(".cdx.json"):
            components(path)
    named = sum(manifest(path, sums) for path in sorted((release / "manifests").rglob("*")) if path.is_file())
    if complaints:
        sys.exit("\n".join(f"error: {one}" for one in complaints))
    print(f"{len(sums)} files, {named} addresses in manifests: ok")


main()
