#!/usr/bin/env python3
"""Checks the structure of the workspace's Rust sources: circles, layers, sizes, where system-specific code is, and what is not used.

  scripts/structure.py                  checks everything below; exit code 1 when something is wrong
  scripts/structure.py --report         prints the same faults and the largest items, and exits with 0
  scripts/structure.py --option NAME    lists the files in which an option of `laneway up` occurs, without tests and docs
  scripts/structure.py --self-test      tests this script on small trees in memory

What is checked:
  circles   Modules (files) of one crate or test target must not import each other in a circle. An import is what is
            used: a name brought in by `use`, or a path such as `crate::net::runtime`. It counts for the file that
            defines the name, so a re-export is no import unless the re-exporting file uses the name itself, and
            `mod name;` alone is none.
  layers    Crates import only crates of a lower layer (CRATES), and in the root package modules import only modules of
            their own layer or a lower one (ROOT).
  systems   `cfg(target_os)`, `cfg(unix)`, `cfg(windows)`, `std::os`, the crates of one system (SYSTEM_CRATES) and what tokio
            has for one system (`tokio::signal::unix`, `tokio::net::UnixStream`) occur only in crates/sys.
  functions No function has more than 80 lines; a test function has at most 120.
  structs   No struct has more than 12 fields, unless a line `// fields: reason` stands in the comment above it.
  unused    No `pub` item has a name that stands nowhere else, not even in tests. The compiler reports only private ones.
  dependencies
            Each dependency of a manifest is named in the package's sources; one that only tests name is a dev-dependency.

Code under `#[cfg(test)]` takes part only in `functions` and `structs`; what it names is used for `unused` and
`dependencies`. The parser knows as much of Rust as this needs: tokens, items, `use` trees and paths. It expands no macros
and does not follow methods.
"""

import argparse
import re
import sys
import tomllib
from collections import Counter, defaultdict
from pathlib import Path

# Crates from the bottom up. A crate may use any crate of a layer below its own.
CRATES = [
    {"laneway_wire", "laneway_sys", "laneway_limits"},
    {"laneway_telemetry", "laneway_trust"},
    {"laneway_peers", "laneway_h2"},
    {"laneway_link", "laneway_cache"},
    {"laneway_demo"},
    {"laneway"},
]

# Modules of the root package from the bottom up. Modules that are not named here are in the lowest layer. Modules of
# one layer may use each other, except for those in APART.
ROOT = [
    {"local", "gateway"},
    {"app", "config", "live", "peering", "transparent", "view"},
    {"cli", "commands"},
    {"main"},
]
APART = {"local", "gateway"}

# Crates that exist for one operating system.
SYSTEM_CRATES = {"libc", "listenfd", "nix", "rustix", "windows", "windows_service", "windows_sys", "winreg"}
# Modules and types of other crates that exist for one operating system, by how their names begin.
SYSTEM_PATHS = ("std::os", "tokio::net::Unix", "tokio::net::unix", "tokio::net::windows", "tokio::signal::unix",
                "tokio::signal::windows")

MAX_FUNCTION_LINES = 80
MAX_TEST_LINES = 120
MAX_FIELDS = 12
# How many of the largest items a report shows.
SHOWN = 5

TOKEN = re.compile(
    r"""
      (?P<comment> //[^\n]* | /\*.*?\*/ )
    | (?P<string>  (?:b|c)?r(?P<hashes>\#*)".*?"(?P=hashes) | (?:b|c)?"(?:\\.|[^"\\])*" )
    | (?P<char>    b?'(?:\\(?:u\{[^}]*\}|x..|.)|[^\\'])' )
    | (?P<life>    '[A-Za-z_]\w* )
    | (?P<ident>   r\#[A-Za-z_]\w* | [A-Za-z_]\w* )
    | (?P<number>  \d\w* )
    | (?P<punct>   :: | -> | => | \S )
    """,
    re.VERBOSE | re.DOTALL,
)
OPENING = {"{": "}", "(": ")", "[": "]"}
CLOSING = set(OPENING.values())
ITEMS = {"fn", "struct", "enum", "union", "trait", "type", "const", "static", "macro_rules"}
WORD = re.compile(r"[A-Za-z_]\w*")
QUALIFIERS = {"pub", "async", "const", "unsafe", "extern", "crate", "super", "self", "in", "(", ")", "default"}


class Token:
    """A token: its kind (see TOKEN), its text and its line."""

    __slots__ = ("kind", "text", "line")

    def __init__(self, kind, text, line):
        self.kind, self.text, self.line = kind, text, line


def tokenize(text):
    """The tokens of a source file, without comments."""
    tokens, line, position = [], 1, 0
    for match in TOKEN.finditer(text):
        line += text.count("\n", position, match.start())
        position = match.start()
        kind = match.lastgroup if match.lastgroup != "hashes" else "string"
        if kind != "comment":
            tokens.append(Token(kind, match.group(), line))
    return tokens


def closing(tokens, start):
    """The index of the bracket that closes the one at `start`."""
    depth = 0
    for index in range(start, len(tokens)):
        if tokens[index].kind == "punct":
            if tokens[index].text in OPENING:
                depth += 1
            elif tokens[index].text in CLOSING:
                depth -= 1
                if depth == 0:
                    return index
    return len(tokens) - 1


def at(tokens, index, *texts):
    """Whether these tokens stand at `index`."""
    return [token.text for token in tokens[index : index + len(texts)]] == list(texts)


def item_end(tokens, start):
    """The index behind the item, statement or field that begins at `start`."""
    index = start
    is_item = any(token.text in ITEMS | {"mod", "use", "impl"} for token in tokens[start : start + 6])
    while index < len(tokens):
        text = tokens[index].text if tokens[index].kind == "punct" else ""
        if text in OPENING:
            index = closing(tokens, index)
            if text == "{":
                return index + 1
        elif text == ";" or text == "," and not is_item:
            return index + 1
        elif text in CLOSING:
            return index
        index += 1
    return index


def without_tests(tokens):
    """The tokens that are compiled without `cfg(test)`."""
    kept, index = [], 0
    while index < len(tokens):
        if at(tokens, index, "#", "["):
            end = closing(tokens, index + 1) + 1
            attribute = [token.text for token in tokens[index + 2 : end - 1]]
            if attribute[:3] == ["cfg", "(", "test"] or attribute[:5] == ["cfg", "(", "all", "(", "test"]:
                while at(tokens, end, "#", "["):
                    end = closing(tokens, end + 1) + 1
                index = item_end(tokens, end)
                continue
        kept.append(tokens[index])
        index += 1
    return kept


def use_tree(tokens, index, end, prefix=()):
    """The leaves of the `use` tree in `tokens[index:end]`: (path, name that it binds); "*" for a glob."""
    path, bound = list(prefix), None
    while index < end:
        token = tokens[index]
        if token.text == "{":
            close = closing(tokens, index)
            start = depth = index + 1
            depth = 0
            for position in range(index + 1, close + 1):
                text = tokens[position].text
                if position == close or text == "," and depth == 0:
                    if position > start:
                        yield from use_tree(tokens, start, position, tuple(path))
                    start = position + 1
                depth += (text == "{") - (text == "}")
            return
        if token.text == "as":
            bound = tokens[index + 1].text
            break
        if token.kind == "ident" or token.text == "*":
            path.append(token.text)
        index += 1
    if path and path[-1] == "self" and len(path) > 1:
        path.pop()
    if path:
        yield tuple(path), bound or path[-1]


class Module:
    """A module: what it defines, imports and mentions. An inline module has the file of its parent."""

    def __init__(self, file, name, parent):
        self.file, self.name, self.parent = file, name, parent
        self.root = parent.root if parent else self
        self.children, self.items = {}, set()
        self.uses, self.globs = [], []  # (path, bound name, is public, line); (path, line)
        self.bindings = {}
        self.paths = []  # (segments, line)
        self.words = set()  # identifiers outside `use` declarations

    def top(self):
        """The name of the top-level module of the crate that this is in; "" for the crate's root."""
        return "" if self.parent is None else self.name if self.parent.parent is None else self.parent.top()


class Target:
    """A crate as the compiler sees it: a library, a program, a test or a bench."""

    def __init__(self, package, kind, name, root):
        self.package, self.kind, self.name, self.root = package, kind, name, root
        self.directory = package.directory

    def modules(self):
        pending = [self.root]
        while pending:
            module = pending.pop()
            yield module
            pending.extend(module.children.values())


class Package:
    """A Cargo package: its directory ("" for the root package) and its manifest."""

    def __init__(self, directory, manifest):
        self.directory, self.manifest = directory, manifest
        self.crate = manifest["package"]["name"].replace("-", "_")


class Workspace:
    """All packages of a tree, which is {path: text} of its manifests and Rust files."""

    def __init__(self, tree):
        self.tree, self.tokens, self.code = tree, {}, {}
        for path, text in tree.items():
            if path.endswith(".rs"):
                self.tokens[path] = tokenize(text)
                self.code[path] = without_tests(self.tokens[path])
        self.packages, self.targets, self.libraries = [], [], {}
        for path in sorted(tree):
            if path.endswith("Cargo.toml"):
                manifest = tomllib.loads(tree[path])
                if "package" in manifest:
                    self.packages.append(Package(path[: -len("Cargo.toml")], manifest))
        for package in self.packages:
            self.add_targets(package)

    def add_targets(self, package):
        manifest = package.manifest
        declared = [("lib", package.crate, manifest.get("lib", {}).get("path", "src/lib.rs"))]
        if manifest.get("package", {}).get("autobins", True) and not manifest.get("bin"):
            declared.append(("bin", package.crate, "src/main.rs"))
        for kind in ("bin", "test", "bench", "example"):
            for target in manifest.get(kind, []):
                declared.append((kind, target["name"], target.get("path", "src/main.rs")))
        for kind, name, path in declared:
            file = normal(package.directory + path)
            if file in self.tree:
                target = Target(package, kind, name, self.module(file, name, None))
                self.targets.append(target)
                if kind == "lib":
                    self.libraries[manifest.get("lib", {}).get("name", package.crate)] = target.root

    def module(self, file, name, parent):
        module = Module(file, name, parent)
        owns_directory = parent is None or file.endswith("/mod.rs")
        directory = file.rsplit("/", 1)[0] if owns_directory else file[: -len(".rs")]
        self.read(module, self.code[file], directory)
        return module

    def read(self, module, tokens, directory):
        """Reads the items, imports and paths of a module from its tokens."""
        index, depth, path_attribute = 0, 0, None
        while index < len(tokens):
            token = tokens[index]
            if at(tokens, index, "#", "[", "path", "="):
                path_attribute = tokens[index + 4].text.strip('"')
            if token.text == "mod" and index + 2 < len(tokens) and tokens[index + 1].kind == "ident":
                name = tokens[index + 1].text
                if tokens[index + 2].text == ";":
                    self.child(module, name, directory, path_attribute)
                    path_attribute, index = None, index + 3
                    continue
                if tokens[index + 2].text == "{":
                    end = closing(tokens, index + 2)
                    inline = Module(module.file, name, module)
                    module.children[name] = inline
                    self.read(inline, tokens[index + 3 : end], f"{directory}/{name}")
                    index = end + 1
                    continue
            if token.text == "use" and token.kind == "ident" and not at(tokens, index + 1, "<"):
                end = next(i for i in range(index, len(tokens)) if tokens[i].text == ";")
                public = index > 0 and tokens[index - 1].text in {"pub", ")"}
                for path, bound in use_tree(tokens, index + 1, end):
                    if path[-1] == "*":
                        module.globs.append((path[:-1], token.line))
                    else:
                        module.uses.append((path, bound, public, token.line))
                        module.bindings.setdefault(bound, path)
                index = end + 1
                continue
            if token.kind == "ident":
                module.words.add(token.text)
                follows = index > 0 and tokens[index - 1].text in {"::", "."}
                if depth == 0 and token.text in ITEMS:
                    named = index + 1 + (tokens[index + 1].text in {"mut", "!"})
                    module.items.add(tokens[named].text)
                if not follows and at(tokens, index + 1, "::"):
                    segments, end = [token.text], index + 1
                    while at(tokens, end, "::") and end + 1 < len(tokens) and tokens[end + 1].kind == "ident":
                        segments.append(tokens[end + 1].text)
                        end += 2
                    module.words.update(segments)
                    if len(segments) > 1:
                        module.paths.append((tuple(segments), token.line))
                    index = end
                    continue
            elif token.kind == "punct":
                depth += (token.text in OPENING) - (token.text in CLOSING)
            index += 1

    def child(self, module, name, directory, path_attribute):
        places = [f"{directory}/{name}.rs", f"{directory}/{name}/mod.rs"]
        if path_attribute:
            places = [normal(f"{module.file.rsplit('/', 1)[0]}/{path_attribute}")]
        file = next((place for place in places if place in self.tree), None)
        if file:
            module.children[name] = self.module(file, name, module)

    def lookup(self, module, name, seen, first):
        """What `name` is in a module: a Module, or (module that defines it, name), or None where it is foreign."""
        if (id(module), name) in seen:
            return None
        seen = seen | {(id(module), name)}
        if name in module.children:
            return module.children[name]
        if name in module.items:
            return module, name
        if name in module.bindings:
            return self.resolve(module, module.bindings[name], seen)
        for path, _ in module.globs:
            target = self.resolve(module, path, seen)
            found = self.lookup(target, name, seen, False) if isinstance(target, Module) else None
            if found:
                return found
        return self.libraries.get(name) if first else None

    def resolve(self, module, path, seen=frozenset()):
        """What a path leads to from a module: a Module, or (module, name), or None where that is foreign."""
        here, rest = module, list(path)
        if rest[0] == "crate":
            here, rest = module.root, rest[1:]
        elif rest[0] in {"self", "super"}:
            while rest and rest[0] in {"self", "super"}:
                here = here if rest[0] == "self" else here.parent or here
                rest = rest[1:]
        else:
            found = self.lookup(module, rest[0], seen, True)
            if not isinstance(found, Module):
                return found
            here, rest = found, rest[1:]
        for segment in rest:
            found = self.lookup(here, segment, seen, False)
            if found is None:
                return here, segment
            if not isinstance(found, Module):
                return found
            here = found
        return here

    def imports(self, target):
        """What the modules of a target use of others: (module, module that defines it, name, line)."""
        for module in target.modules():
            for path, bound, public, line in module.uses:
                if not public or bound in module.words:
                    found = self.resolve(module, path)
                    if found and not isinstance(found, Module):
                        yield module, found[0], found[1], line
            for path, line in module.globs:
                found = self.resolve(module, path)
                if isinstance(found, Module):
                    yield module, found, "*", line
            for path, line in module.paths:
                found = self.resolve(module, path)
                if found and not isinstance(found, Module):
                    yield module, found[0], found[1], line


def normal(path):
    """A path without `..`."""
    parts = []
    for part in path.split("/"):
        if part == "..":
            parts.pop()
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts)


def strongly_connected(graph):
    """The sets of nodes of which each reaches each other (Tarjan), without single nodes."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = set()
            while node not in component:
                component.add(stack.pop())
            if len(component) > 1:
                found.append(component)

    sys.setrecursionlimit(10_000)
    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def circles(workspace):
    """Import circles between the files of a target."""
    seen = set()
    for target in workspace.targets:
        graph, names = defaultdict(set), defaultdict(set)
        for source, used, name, _ in workspace.imports(target):
            if source.file != used.file and used.root is target.root:
                graph[source.file].add(used.file)
                graph[used.file] |= set()
                names[source.file, used.file].add(name)
        for circle in strongly_connected(graph):
            edges = [edge for edge in sorted(names) if set(edge) <= circle]
            if (key := frozenset(edges)) in seen:
                continue
            seen.add(key)
            lines = [f"circle of {len(circle)} files in {target.kind} {target.name}:"]
            for source, used in edges:
                lines.append(f"    {source} -> {used}: {', '.join(sorted(names[source, used]))}")
            yield "\n".join(lines)


def layer(layers, name, default=None):
    """The number of the layer with this name, counted from the bottom."""
    return next((number for number, names in enumerate(layers) if name in names), default)


def layers(workspace):
    """Imports that go up, between crates and between the top-level modules of the root package."""
    crates = {id(root): name for name, root in workspace.libraries.items()}
    faults = set()
    for target in workspace.targets:
        if target.kind not in {"lib", "bin"} or target.directory.startswith("integration/"):
            continue
        crate = target.package.crate
        if layer(CRATES, crate) is None:
            faults.add(f"crate {crate} is not in the table of layers (CRATES)")
            continue
        for source, used, name, line in workspace.imports(target):
            place = f"{source.file}:{line}: {name} of"
            other = crates.get(id(used.root), crate)
            if other != crate:
                if layer(CRATES, other, -1) >= layer(CRATES, crate):
                    faults.add(f"{place} crate {other}, which is not below {crate}")
            elif target.directory == "" and used.root is target.root:
                mine, its = source.top(), used.top()
                # The root of the library declares modules and re-exports crates: everything may use it.
                if mine == its or mine == "" or its == "":
                    continue
                if layer(ROOT, its, -1) > layer(ROOT, mine, -1):
                    faults.add(f"{place} {its}, which is above {mine}")
                elif {mine, its} <= APART:
                    faults.add(f"{place} {its}, which {mine} may not know")
    return sorted(faults)


def systems(workspace):
    """Code for one operating system outside of the crate for that."""
    def outside(file):
        return not file.startswith(("crates/sys/", "integration/", "fuzz/")) and not is_test_file(workspace, file)

    faults = set()
    for file, tokens in sorted(workspace.code.items()):
        if not outside(file):
            continue
        for index, token in enumerate(tokens):
            if token.text in {"cfg", "cfg_attr"} and token.kind == "ident":
                start = index + 1 + at(tokens, index + 1, "!")
                condition = {t.text for t in tokens[start : closing(tokens, start)]}
                for name in sorted(condition & {"target_os", "target_family", "unix", "windows"}):
                    faults.add(f"{file}:{token.line}: {name}")
    for target in workspace.targets:
        for module in target.modules():
            if not outside(module.file):
                continue
            used = [(path, line) for path, _, _, line in module.uses] + module.globs + module.paths
            for path, line in used:
                text = "::".join(path)
                local = path[0] in module.bindings or path[0] in module.children
                if text.startswith(SYSTEM_PATHS) or path[0] in SYSTEM_CRATES and not local:
                    faults.add(f"{module.file}:{line}: {text}")
    return sorted(faults)


def is_test_file(workspace, file):
    """Whether a file holds tests only: it is below `integration`, or included under `cfg(test)`."""
    if file.startswith("integration/"):
        return True
    if not hasattr(workspace, "compiled"):
        workspace.compiled = {module.file for target in workspace.targets for module in target.modules()}
    return file not in workspace.compiled


def attributes_before(tokens, index):
    """The paths of the attributes of the item whose keyword is at `index`."""
    while index > 0 and (tokens[index - 1].text in QUALIFIERS or tokens[index - 1].kind == "string"):
        index -= 1
    paths = []
    while index > 0 and tokens[index - 1].text == "]":
        depth, start = 0, index - 1
        while start > 0:
            depth += (tokens[start].text == "]") - (tokens[start].text == "[")
            if depth == 0:
                break
            start -= 1
        path = []
        for token in tokens[start + 1 : index - 1]:
            if token.kind != "ident" and token.text != "::":
                break
            path.append(token.text)
        paths.append("".join(path))
        index = start - 1
    return paths


def function_lengths(workspace):
    """(lines, file, line, name, whether it is a test) of each function with a body, the longest first."""
    found = []
    for file, tokens in workspace.tokens.items():
        for index, token in enumerate(tokens[:-2]):
            if token.text != "fn" or token.kind != "ident" or tokens[index + 1].kind != "ident":
                continue
            body = index
            while body < len(tokens) and tokens[body].text not in {"{", ";"}:
                body = closing(tokens, body) + 1 if tokens[body].text in {"(", "["} else body + 1
            if body >= len(tokens) or tokens[body].text == ";":
                continue
            lines = tokens[closing(tokens, body)].line - token.line + 1
            # The cases of integration/netns are registered in a table instead of with `#[test]`.
            is_case = file.startswith("integration/netns/cases/") and at(tokens, index + 2, "(", "lab", ":")
            is_test = is_case or any(path.split("::")[-1] == "test" for path in attributes_before(tokens, index))
            found.append((lines, file, token.line, tokens[index + 1].text, is_test))
    return sorted(found, reverse=True)


def functions(workspace):
    """Functions that are too long."""
    for lines, file, line, name, is_test in function_lengths(workspace):
        most = MAX_TEST_LINES if is_test else MAX_FUNCTION_LINES
        if lines > most:
            yield f"{file}:{line}: {name} has {lines} lines (at most {most})"


def struct_sizes(workspace):
    """(fields, file, line, name, reason or None) of each struct, the largest first."""
    found = []
    for file, tokens in workspace.tokens.items():
        for index, token in enumerate(tokens[:-2]):
            if token.text != "struct" or tokens[index + 1].kind != "ident":
                continue
            body = index
            while body < len(tokens) and tokens[body].text not in {"{", ";", "("}:
                body += 1
            if body >= len(tokens) or tokens[body].text != "{":
                continue
            end, position, fields = closing(tokens, body), body + 1, 0
            while position < end:
                text = tokens[position].text
                # A field's name is followed by one colon; the parts of its type are joined by two.
                fields += text == ":" and tokens[position - 1].kind == "ident"
                position = closing(tokens, position) + 1 if text in OPENING else position + 1
            found.append((fields, file, token.line, tokens[index + 1].text, reason_above(workspace, file, token.line)))
    return sorted(found, key=lambda entry: (-entry[0], entry[1:4]))


def reason_above(workspace, file, line):
    """The reason in a line `// fields: reason` in the comments and attributes right above a line."""
    lines = workspace.tree[file].split("\n")
    for text in reversed(lines[: line - 1]):
        text = text.strip()
        if text.startswith("// fields:"):
            return text.removeprefix("// fields:").strip() or None
        if not text or text in {"}", "};"}:
            return None
    return None


def structs(workspace):
    """Structs with too many fields and no reason for them."""
    for fields, file, line, name, reason in struct_sizes(workspace):
        if fields > MAX_FIELDS and not reason:
            yield f"{file}:{line}: {name} has {fields} fields (at most {MAX_FIELDS}, or `// fields: reason` above it)"


def unused(workspace):
    """Public items whose names stand nowhere else: neither in code nor in a string, which may show a constant."""
    named, defined = Counter(), defaultdict(list)
    for file, tokens in workspace.tokens.items():
        for token in tokens:
            if token.kind == "ident":
                named[token.text] += 1
            elif token.kind == "string":
                named.update(set(WORD.findall(token.text)))
        tokens = workspace.code[file]
        for index, token in enumerate(tokens[:-1]):
            if token.kind == "ident" and token.text in ITEMS and tokens[index + 1].kind == "ident":
                before = index
                while before > 0 and tokens[before - 1].text in QUALIFIERS - {"pub"}:
                    before -= 1
                if before > 0 and tokens[before - 1].text == "pub" and tokens[index + 1].text not in ITEMS:
                    defined[tokens[index + 1].text].append(f"{file}:{token.line}")
    for name, places in sorted(defined.items()):
        if named[name] <= len(places):
            yield f"{places[0]}: {name} is used nowhere"


def dependencies(workspace):
    """Dependencies that no source of their package uses, or that only its tests use."""
    directories = sorted((package.directory for package in workspace.packages), key=len, reverse=True)
    for package in workspace.packages:
        used = {"code": set(), "tests": set()}
        for file in workspace.tokens:
            if next(name for name in directories if file.startswith(name)) == package.directory:
                # A package of its own below `integration` is a tool.
                is_test = is_test_file(workspace, file) and not package.directory.startswith("integration/")
                used["tests"].update(token.text for token in workspace.tokens[file] if token.kind == "ident")
                if not is_test:
                    used["code"].update(token.text for token in workspace.code[file] if token.kind == "ident")
        manifest = package.manifest
        for table in [manifest, *manifest.get("target", {}).values()]:
            for kind, where in (("dependencies", "code"), ("dev-dependencies", "tests")):
                for name in table.get(kind, {}):
                    if name.replace("-", "_") not in used[where]:
                        use = "only in tests" if name.replace("-", "_") in used["tests"] else "nowhere"
                        yield f"{package.directory}Cargo.toml: {name} of {kind} is used {use}"


CHECKS = {
    "circles": circles,
    "layers": layers,
    "systems": systems,
    "functions": functions,
    "structs": structs,
    "unused": unused,
    "dependencies": dependencies,
}


def option_files(workspace, name):
    """Where an option occurs outside of tests: {file: lines}, by its snake_case, kebab-case and LANEWAY_ names."""
    snake = name.strip("-").lower().removeprefix("laneway_").replace("-", "_")
    written = [snake.replace("_", "-"), "LANEWAY_" + snake.upper(), snake]
    in_text = re.compile(r"(?<![\w-])(" + "|".join(map(re.escape, written)) + r")(?![\w-])")
    found = defaultdict(set)
    for file, tokens in workspace.code.items():
        if is_test_file(workspace, file):
            continue
        for token in tokens:
            if token.text == snake or token.kind == "string" and in_text.search(token.text):
                found[file].add(token.line)
    return found


def read_tree(top):
    """The manifests and Rust files of the working tree."""
    tree = {}
    for pattern in ("Cargo.toml", "src/**/*.rs", "crates/*/Cargo.toml", "crates/*/src/**/*.rs",
                    "integration/*/Cargo.toml", "integration/**/*.rs", "examples/*.rs"):
        for path in sorted(top.glob(pattern)):
            name = path.relative_to(top).as_posix()
            if "/target/" not in name:
                tree[name] = path.read_text(encoding="utf-8")
    return tree


def check(workspace, report):
    """Prints the faults and the largest items; returns the exit code."""
    count = 0
    for name, find in CHECKS.items():
        faults = list(find(workspace))
        count += len(faults)
        print(f"{name}: {'ok' if not faults else len(faults)}")
        for fault in faults:
            print(f"  {fault}")
    print("longest functions:")
    for lines, file, line, name, is_test in function_lengths(workspace)[:SHOWN]:
        print(f"  {lines:4} {file}:{line} {name}{' (test)' if is_test else ''}")
    print("largest structs:")
    for fields, file, line, name, reason in struct_sizes(workspace)[:SHOWN]:
        print(f"  {fields:4} {file}:{line} {name}{f' ({reason})' if reason else ''}")
    return 1 if count and not report else 0


# --- the tests of this script ---

ROOT_MANIFEST = '[package]\nname = "laneway"\n[[test]]\nname = "cases"\npath = "integration/cases/main.rs"\n'


def faults(find, files, **manifests):
    """What a check finds in a small tree: a root package, and crates by name."""
    tree = {"Cargo.toml": ROOT_MANIFEST, **files}
    for name in manifests:
        tree[f"crates/{name}/Cargo.toml"] = f'[package]\nname = "laneway-{name}"\n'
    return list(find(Workspace(tree)))


def self_test():
    def expect(what, got, *parts):
        assert len(got) == (1 if parts else 0), f"{what}: {got}"
        for part in parts:
            assert part in got[0], f"{what}: {part!r} is not in {got[0]!r}"

    clean = {
        "src/lib.rs": "pub mod a; pub mod b; pub use laneway_wire as wire;",
        "src/a.rs": "use crate::b::{self, B as C}; fn f() -> C { b::g(crate::wire::id::Id) }",
        "src/b.rs": "use std::{fmt, ops}; pub struct B; pub fn g() {} #[cfg(test)] mod tests { use crate::a::f; }",
        "crates/wire/src/lib.rs": "pub mod id;",
        "crates/wire/src/id.rs": "pub struct Id;",
    }
    for find in CHECKS.values():
        expect("a clean tree", faults(find, clean, wire=1))

    # Circles.
    expect("grouped use", faults(circles, {
        "src/lib.rs": "mod a; mod b; mod c;",
        "src/a.rs": "use crate::{c, b::{B, other}}; pub struct A;",
        "src/b.rs": "use super::c::{self}; pub struct B;",
        "src/c.rs": "use super::a::A; pub fn f() {}",
    }), )
    expect("inline paths", faults(circles, {
        "src/lib.rs": "mod a; mod b;",
        "src/a.rs": "use crate::b; fn f() { b::g::<u8>() } pub const ONE: u8 = 1;",
        "src/b.rs": "pub fn g<T>() { let x = super::a::ONE; }",
    }), "src/a.rs -> src/b.rs: g", "src/b.rs -> src/a.rs: ONE", "circle of 2")
    expect("parent and child", faults(circles, {
        "src/lib.rs": "mod a;",
        "src/a.rs": "mod b; use b::B; pub(crate) const ONE: u8 = 1; fn f(b: B) {}",
        "src/a/b.rs": "use super::*; pub struct B;",
    }), "src/a.rs -> src/a/b.rs: B", "src/a/b.rs -> src/a.rs: *")
    expect("a declaration and a re-export are no import", faults(circles, {
        "src/lib.rs": "mod a;",
        "src/a.rs": "mod b; pub use b::B; pub const ONE: u8 = 1;",
        "src/a/b.rs": "use super::ONE; pub struct B([u8; ONE as usize]);",
    }))
    expect("a re-export is followed to the definition", faults(circles, {
        "src/lib.rs": "mod a; mod c;",
        "src/a.rs": "mod b; pub use self::b::*;",
        "src/a/b.rs": "use crate::c::C; pub struct B(C);",
        "src/c.rs": "use crate::a::B; pub struct C(Box<B>);",
    }), "src/c.rs -> src/a/b.rs: B")
    expect("a circle by way of the root's name for a crate", faults(circles, {
        "src/lib.rs": "pub use laneway_wire as wire;",
        "crates/wire/src/lib.rs": "mod a; mod b; pub use a::A;",
        "crates/wire/src/a.rs": "pub struct A; use crate::b::B;",
        "crates/wire/src/b.rs": "pub struct B(crate::A);",
    }, wire=1), "crates/wire/src/b.rs -> crates/wire/src/a.rs: A")
    expect("integration tests", faults(circles, {
        "integration/cases/main.rs": "mod lab; mod more;",
        "integration/cases/lab.rs": "use crate::more::python; pub fn start() {}",
        "integration/cases/more/mod.rs": "pub fn python() { crate::lab::start() }",
    }), "test cases", "start", "python")
    expect("strings, comments and lifetimes are no code", faults(circles, {
        "src/lib.rs": "mod a; mod b;",
        "src/a.rs": "use crate::b::B; pub struct A<'a>(&'a B); const C: char = '\"';",
        "src/b.rs": "// use crate::a::A;\n/* crate::a::A */ const S: &str = r#\"\"crate::a::A\"#; pub struct B;",
    }))

    # Layers.
    expect("an upward import between crates", faults(layers, {
        "crates/wire/src/lib.rs": "use laneway_trust::Key;",
        "crates/trust/src/lib.rs": "pub struct Key;",
    }, wire=1, trust=1), "crates/wire/src/lib.rs:1", "Key", "not below laneway_wire")
    expect("a downward import between crates", faults(layers, {
        "crates/wire/src/lib.rs": "pub struct Id;",
        "crates/trust/src/lib.rs": "use laneway_wire::Id;",
    }, wire=1, trust=1))
    expect("an unknown crate", faults(layers, {"crates/new/src/lib.rs": ""}, new=1), "laneway_new is not in")
    root = {"src/lib.rs": "mod app; mod copy; mod local; mod gateway;", "src/app.rs": "pub fn up() {}"}
    expect("a leaf that knows the composition", faults(layers, {
        **root, "src/copy.rs": "fn f() {\n crate::app::up() }",
    }), "src/copy.rs:2", "above copy")
    expect("local and gateway", faults(layers, {
        **root, "src/local.rs": "use crate::gateway::G;", "src/gateway.rs": "pub struct G;",
    }), "may not know")

    # Systems.
    expect("an operating system outside of its crate", faults(systems, {
        "src/lib.rs": "#[cfg(any(test, target_os = \"linux\"))] fn f() {}",
        "crates/sys/src/lib.rs": "#[cfg(unix)] use std::os::fd::OwnedFd;",
    }, sys=1), "src/lib.rs:1: target_os")
    expect("std::os", faults(systems, {
        "src/lib.rs": "use std::os::fd::AsFd; #[cfg(test)] use std::os::fd::AsRawFd;",
    }), "std::os")

    expect("a crate of one operating system", faults(systems, {
        "src/lib.rs": "use nix::{errno::Errno};\n#[cfg(test)] mod tests { use nix::sys::stat::Mode; }",
    }), "src/lib.rs:1: nix::errno::Errno")
    expect("what tokio has for one operating system", faults(systems, {
        "src/lib.rs": "fn f() {\n let _ = tokio::net::UnixStream::connect(x);\n}",
    }), "src/lib.rs:2: tokio::net::UnixStream")

    # Sizes.
    body = "\n" * 79
    expect("80 lines", faults(functions, {"src/lib.rs": f"fn f() {{{body}}}"}))
    expect("81 lines", faults(functions, {"src/lib.rs": f"fn f() -> [u8; 2] {{\n{body}}}"}), "f has 81 lines")
    expect("a test of 81 lines", faults(functions, {
        "src/lib.rs": f"#[cfg(test)] mod tests {{ #[tokio::test(start_paused = true)]\nasync fn f() {{\n{body}}} }}",
    }))
    fields = ", ".join(f"pub f{number}: a::B<C, D>" for number in range(13))
    expect("13 fields", faults(structs, {"src/lib.rs": f"pub struct S<T: X> {{ {fields} }}"}), "S has 13 fields")
    expect("13 fields with a reason", faults(structs, {
        "src/lib.rs": f"/// What.\n// fields: one for each column\n#[derive(Debug)]\nstruct S {{ {fields} }}",
    }))

    # Unused items.
    expect("used items", faults(unused, {
        "src/lib.rs": 'pub const MOST: u8 = 1; pub async fn f() { println!("{MOST}") } #[cfg(test)] mod t { f() }',
    }))
    expect("an unused item", faults(unused, {
        "src/lib.rs": "pub(crate) struct S; impl S { fn own() {} pub const fn gone() -> S { S } }",
    }), "src/lib.rs:1: gone is used nowhere")

    # Dependencies.
    manifest = ROOT_MANIFEST + "[dependencies]\nclap = '4'\nhttp-body = '1'\n[dev-dependencies]\ntempfile = '3'\n"
    use = "#[derive(clap::Args)] struct A; fn f(body: http_body::Body) {} #[cfg(test)] mod t { use tempfile::t; }"
    expect("used dependencies", faults(dependencies, {"Cargo.toml": manifest, "src/lib.rs": use}))
    expect("an unused dependency", faults(dependencies, {
        "Cargo.toml": manifest, "src/lib.rs": use.replace("clap", "serde"),
    }), "clap of dependencies is used nowhere")
    expect("a dependency of tests alone", faults(dependencies, {
        "Cargo.toml": manifest,
        "src/lib.rs": use.replace("http_body::Body", "u8") + "#[cfg(test)] mod u { use http_body::Body; }",
    }), "http-body of dependencies is used only in tests")

    # Options.
    tree = {
        "Cargo.toml": ROOT_MANIFEST,
        "src/lib.rs": 'mod a; mod b; const HELP: &str = "set LANEWAY_LOG_FORMAT"; #[cfg(test)] mod t { log_format }',
        "src/a.rs": "fn f(o: O) { o.log_format }",
        "src/b.rs": 'const KEY: &str = "drop-log-format"; // log-format',
    }
    found = sorted(option_files(Workspace(tree), "--log-format"))
    assert found == ["src/a.rs", "src/lib.rs"], found
    print("structure.py: its own tests pass")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage="scripts/structure.py [OPTION]"
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--report", action="store_true", help="print what is wrong, and do not fail")
    choice.add_argument("--option", metavar="NAME", help="list the files in which an option of `laneway up` occurs")
    choice.add_argument("--self-test", action="store_true", help="test this script")
    arguments = parser.parse_args()
    if arguments.self_test:
        self_test()
        return 0
    workspace = Workspace(read_tree(Path(__file__).resolve().parent.parent))
    if arguments.option:
        found = option_files(workspace, arguments.option)
        for file, lines in sorted(found.items()):
            print(f"{file}: {', '.join(map(str, sorted(lines)))}")
        print(f"{len(found)} {'file' if len(found) == 1 else 'files'}")
        return 0
    return check(workspace, arguments.report)


if __name__ == "__main__":
    sys.exit(main())
