//! Indexes in JSON, rewritten while they stream: the metadata of npm, Python's simple API (PEP 691), the configuration and the
//! lines of a sparse index of cargo.
//!
//! Only the values that matter are touched; every other byte passes as it is, and is not judged.

use super::found::FileDigests;
use super::place::Place;
use super::url::Url;
use crate::cache::digest::{Algorithm, Digest};

/// The longest string that is read, in bytes: a URL or a digest. A longer one passes.
const LONGEST: usize = 16 * 1024;
/// The longest key that is compared, in bytes: all that matter are shorter. Each object and array in the value of a key has a
/// copy of it.
const LONGEST_KEY: usize = 64;
/// The longest part of the URL of a crate, and the longest template for them, in bytes: the parts may be in it many times.
const LONGEST_PART: usize = 256;
const LONGEST_TEMPLATE: usize = 2048;
/// The deepest nesting that is followed. What is deeper passes unread.
const DEEPEST: usize = 64;

/// Which index it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// The metadata of a package of npm: `dist` with `tarball`, `integrity` and `shasum`.
    Npm,
    /// PEP 691: `files` with `url`, `hashes` and `core-metadata`.
    Simple,
    /// `config.json` of a sparse index: `dl` and `api`.
    CratesConfig,
    /// The file of one crate in a sparse index, an object a line; with where the crates are. Nothing is rewritten.
    CratesIndex(String),
}

/// Rewrites one document.
pub struct Rewriter {
    format: Format,
    place: Place,
    /// What the local port is called, `http://HOST:PORT`.
    local: String,
    stack: Vec<Level>,
    /// Levels below the deepest that is followed.
    unread: usize,
    text: Text,
    /// The bytes of the addresses that strings were made into since [`Rewriter::feed`] was called.
    resolved: usize,
    /// What the index names.
    found: FileDigests,
    /// Where the crates are.
    downloads: Option<String>,
}

/// An object or array that is open.
#[derive(Default)]
struct Level {
    is_object: bool,
    /// The key under which it is.
    name: String,
    /// The key that was read last.
    key: Option<String>,
    url: Option<Url>,
    digest: Option<Digest>,
    metadata: Option<Digest>,
    crate_name: Option<String>,
    version: Option<String>,
}

impl Level {
    fn memory(&self) -> usize {
        let strings = [&self.key, &self.crate_name, &self.version].into_iter().flatten();
        let url = self.url.as_ref().map_or(0, |url| url.path.len());
        size_of::<Self>() + self.name.len() + strings.map(String::len).sum::<usize>() + url
    }
}

/// Where in the text the reader is.
enum Text {
    Between,
    /// In a string. It is collected, with its quotes, unless it is too long or does not matter.
    String {
        collected: Option<Vec<u8>>,
        is_key: bool,
        is_escaped: bool,
    },
}

impl Rewriter {
    /// A rewriter of the index at `place`. URLs that lead back begin with `local`.
    #[must_use]
    pub fn new(format: Format, place: Place, local: String) -> Self {
        let (stack, found) = (Vec::new(), FileDigests::default());
        let text = Text::Between;
        Self { format, place, local, stack, unread: 0, text, resolved: 0, found, downloads: None }
    }

    /// Reads the first of these bytes, at least one, and appends to `out` what they become. A short reference may become a long
    /// address, so it stops once that is about `most` bytes, or making addresses was as much work. Returns how many it has read.
    pub fn feed(&mut self, bytes: &[u8], most: usize, out: &mut Vec<u8>) -> usize {
        let (before, mut read) = (out.len(), 0);
        self.resolved = 0;
        while read < bytes.len() && (read == 0 || out.len() - before + self.resolved < most) {
            read += match &mut self.text {
                Text::Between => self.between(&bytes[read..], out),
                Text::String { .. } => self.string(&bytes[read..], out),
            };
        }
        read
    }

    /// Appends what was held back, at the end of the document. Returns what the index names, and where its crates are.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> (Vec<(Url, Digest)>, Option<String>) {
        if let Text::String { collected: Some(collected), .. } =
            std::mem::replace(&mut self.text, Text::Between)
        {
            out.extend_from_slice(&collected);
        }
        (std::mem::take(&mut self.found).into_files(), self.downloads.take())
    }

    /// The memory that it takes, in bytes: above all, what was found.
    #[must_use]
    pub fn memory(&self) -> usize {
        let collected = match &self.text {
            Text::String { collected: Some(collected), .. } => collected.capacity(),
            Text::Between | Text::String { .. } => 0,
        };
        let addresses = self.place.url.path.len() + self.place.base.path.len();
        let levels: usize = self.stack.iter().map(Level::memory).sum();
        self.found.memory() + collected + addresses + levels + self.downloads.as_ref().map_or(0, String::len)
    }

    /// Bytes outside of strings.
    fn between(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        let end = bytes.iter().position(|byte| b"{}[],\"".contains(byte));
        let Some(end) = end else {
            out.extend_from_slice(bytes);
            return bytes.len();
        };
        out.extend_from_slice(&bytes[..end]);
        if bytes[end] == b'"' {
            let is_key = self.unread == 0
                && self.stack.last().is_some_and(|level| level.is_object && level.key.is_none());
            let matters = self.unread == 0 && (is_key || self.matters());
            if !matters {
                out.push(b'"');
            }
            self.text = Text::String { collected: matters.then(|| vec![b'"']), is_key, is_escaped: false };
            return end + 1;
        }
        out.push(bytes[end]);
        match bytes[end] {
            b'{' | b'[' if self.unread > 0 || self.stack.len() >= DEEPEST => self.unread += 1,
            open @ (b'{' | b'[') => {
                let name = self.stack.last().and_then(|level| level.key.clone());
                // The elements of an array are under the array's key.
                let name =
                    name.or_else(|| self.stack.last().map(|level| level.name.clone())).unwrap_or_default();
                self.stack.push(Level { is_object: open == b'{', name, ..Level::default() });
            }
            b'}' | b']' if self.unread > 0 => self.unread -= 1,
            b'}' | b']' => self.close(),
            _ if self.unread == 0 => {
                if let Some(level) = self.stack.last_mut() {
                    level.key = None;
                }
            }
            _ => {}
        }
        end + 1
    }

    fn string(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        let Text::String { collected, is_key, is_escaped } = &mut self.text else { return 0 };
        let mut end = 0;
        let mut is_over = false;
        for byte in bytes {
            end += 1;
            match byte {
                _ if *is_escaped => *is_escaped = false,
                b'\\' => *is_escaped = true,
                b'"' => {
                    is_over = true;
                    break;
                }
                _ => {}
            }
        }
        let read = &bytes[..end];
        match collected {
            Some(text) => {
                text.extend_from_slice(read);
                if text.len() > LONGEST {
                    out.extend_from_slice(text);
                    *collected = None;
                }
            }
            None => out.extend_from_slice(read),
        }
        if is_over {
            let (collected, is_key) = (collected.take(), *is_key);
            self.text = Text::Between;
            match collected {
                Some(raw) => self.whole(&raw, is_key, out),
                // A key that is too long is none that matters.
                None if is_key => self.key(String::new()),
                None => {}
            }
        }
        end
    }

    /// A whole string that matters.
    fn whole(&mut self, raw: &[u8], is_key: bool, out: &mut Vec<u8>) {
        let text = serde_json::from_slice::<String>(raw).ok();
        if is_key {
            out.extend_from_slice(raw);
            self.key(text.unwrap_or_default());
            return;
        }
        match text.and_then(|text| self.value(&text)) {
            Some(new) => {
                let quoted = serde_json::to_string(&new).unwrap_or_default();
                out.extend_from_slice(quoted.as_bytes());
            }
            None => out.extend_from_slice(raw),
        }
    }

    fn key(&mut self, key: String) {
        if let Some(level) = self.stack.last_mut() {
            level.key = Some(if key.len() > LONGEST_KEY { String::new() } else { key });
        }
    }

    /// Whether a string in this place matters.
    fn matters(&self) -> bool {
        let Some(level) = self.stack.last() else { return false };
        let Some(key) = level.key.as_deref().filter(|_| level.is_object) else { return false };
        match &self.format {
            Format::Npm => level.name == "dist" && matches!(key, "tarball" | "integrity" | "shasum"),
            Format::Simple => match level.name.as_str() {
                "files" => key == "url",
                "hashes" | "core-metadata" | "data-dist-info-metadata" | "dist-info-metadata" => {
                    Algorithm::of(key).is_some()
                }
                _ => false,
            },
            Format::CratesConfig => self.stack.len() == 1 && matches!(key, "dl" | "api"),
            Format::CratesIndex(_) => self.stack.len() == 1 && matches!(key, "name" | "vers" | "cksum"),
        }
    }

    /// Reads a value that matters, and returns what takes its place.
    fn value(&mut self, text: &str) -> Option<String> {
        let level = self.stack.last_mut()?;
        let key = level.key.clone()?;
        let stronger = |new: Option<Digest>, old: &mut Option<Digest>| {
            if let Some(new) = new
                && old.as_ref().is_none_or(|old| new.algorithm > old.algorithm)
            {
                *old = Some(new);
            }
        };
        match (&self.format, key.as_str()) {
            (Format::Npm, "integrity") => stronger(Digest::from_integrity(text), &mut level.digest),
            (Format::Npm, "shasum") => {
                stronger(Digest::from_hex(Algorithm::Sha1, text), &mut level.digest);
            }
            (Format::Npm, _) | (Format::Simple, "url") => {
                self.resolved += self.place.url.path.len();
                let url = self.place.url.join(text)?;
                level.url = Some(url.clone());
                let fragment = text.find('#').map_or("", |at| &text[at..]);
                return Some(format!("{}{}{fragment}", self.local, self.place.path_of(&url)));
            }
            (Format::Simple, algorithm) => {
                let digest = Algorithm::of(algorithm).and_then(|algorithm| Digest::from_hex(algorithm, text));
                stronger(digest, &mut level.digest);
            }
            (Format::CratesConfig, key) => return self.crates(key == "dl", text),
            (Format::CratesIndex(_), "name") => level.crate_name = Some(text.to_owned()),
            (Format::CratesIndex(_), "vers") => level.version = Some(text.to_owned()),
            (Format::CratesIndex(_), _) => level.digest = Digest::from_hex(Algorithm::Sha256, text),
        }
        None
    }

    /// An address in the configuration of a sparse index; that of the crates may have markers in braces.
    fn crates(&mut self, is_downloads: bool, text: &str) -> Option<String> {
        // Braces are no part of a URL.
        let (scheme, rest) = text.split_once("://")?;
        let end = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let origin = Url::parse(&format!("{scheme}://{authority}/"))?;
        if is_downloads {
            self.downloads = Some(text.to_owned());
        }
        let place = self.place.path_of(&origin);
        Some(format!("{}{}{path}", self.local, place.trim_end_matches('/')))
    }

    /// The end of an object or array.
    fn close(&mut self) {
        let Some(level) = self.stack.pop() else { return };
        let parent = self.stack.last_mut();
        match (&self.format, level.name.as_str(), parent) {
            (Format::Simple, "hashes", Some(file)) => file.digest = level.digest,
            (
                Format::Simple,
                "core-metadata" | "data-dist-info-metadata" | "dist-info-metadata",
                Some(file),
            ) => {
                file.metadata = level.digest;
            }
            (Format::Npm | Format::Simple, _, _) => {
                if let Some(url) = level.url {
                    if let Some(digest) = level.metadata {
                        self.found.push(metadata_of(&url), digest);
                    }
                    if let Some(digest) = level.digest {
                        self.found.push(url, digest);
                    }
                }
            }
            (Format::CratesIndex(template), _, None) => {
                let fits = |part: &String| part.len() <= LONGEST_PART;
                let parts = level.crate_name.filter(fits).zip(level.version.filter(fits));
                let named = parts.zip(level.digest).filter(|_| template.len() <= LONGEST_TEMPLATE);
                if let Some(((name, version), digest)) = named {
                    let url = crate_url(template, &name, &version, &digest);
                    self.resolved += url.len();
                    if let Some(url) = Url::parse(&url) {
                        self.found.push(url, digest);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Where the metadata of a wheel is (PEP 658).
#[must_use]
pub fn metadata_of(file: &Url) -> Url {
    Url { path: format!("{}.metadata", file.path), ..file.clone() }
}

/// The URL of a crate (the cargo book, "Registry index format").
fn crate_url(template: &str, name: &str, version: &str, digest: &Digest) -> String {
    const MARKERS: [&str; 5] = ["{crate}", "{version}", "{prefix}", "{lowerprefix}", "{sha256-checksum}"];
    if !MARKERS.iter().any(|marker| template.contains(marker)) {
        return format!("{template}/{name}/{version}/download");
    }
    let part = |range: std::ops::Range<usize>| name.get(range).unwrap_or_default();
    let prefix = match name.len() {
        0..=2 => name.len().to_string(),
        3 => format!("3/{}", part(0..1)),
        _ => format!("{}/{}", part(0..2), part(2..4)),
    };
    template
        .replace("{crate}", name)
        .replace("{version}", version)
        .replace("{lowerprefix}", &prefix.to_ascii_lowercase())
        .replace("{prefix}", &prefix)
        .replace("{sha256-checksum}", digest.shown().trim_start_matches("sha256:"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fronts::place::Fronts;

    const SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn rewrite(
        path: &str,
        format: Format,
        text: &[u8],
        step: usize,
    ) -> (Vec<u8>, Vec<(Url, Digest)>, Option<String>) {
        let fronts = Fronts::new(&[
            "npm=https://npm.example/".parse().unwrap(),
            "pypi=https://pypi.example/simple/".parse().unwrap(),
            "crates=https://index.example/".parse().unwrap(),
        ]);
        let place = fronts.place(path).unwrap();
        let mut rewriter = Rewriter::new(format, place, "http://127.0.0.1:1080".into());
        let mut out = Vec::new();
        for mut piece in text.chunks(step) {
            while !piece.is_empty() {
                let read = rewriter.feed(piece, 3 * step, &mut out);
                piece = &piece[read..];
            }
        }
        let (found, downloads) = rewriter.finish(&mut out);
        (out, found, downloads)
    }

    #[test]
    fn tarballs_of_npm_lead_back_and_their_integrity_is_learnt() {
        let text = format!(
            r#"{{"name":"a","versions":{{"1.0.0":{{"dist":{{"integrity":"sha256-{}","shasum":"{}","tarball":"https:\/\/npm.example/a/-/a-1.0.0.tgz"}},"tarball":"https://other.example/"}},"2.0.0":{{"dist":{{"tarball":"https://cdn.example/a.tgz","shasum":"{}"}}}}}},"readme":"\"tarball\": \"x\""}}"#,
            "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=",
            "a".repeat(40),
            "b".repeat(40),
        );
        for step in [1, 7, 10_000] {
            let (out, found, _) = rewrite("/npm/a", Format::Npm, text.as_bytes(), step);
            let out: serde_json::Value = serde_json::from_slice(&out).unwrap();
            let versions = &out["versions"];
            assert_eq!(versions["1.0.0"]["dist"]["tarball"], "http://127.0.0.1:1080/npm/a/-/a-1.0.0.tgz");
            assert_eq!(versions["1.0.0"]["tarball"], "https://other.example/");
            assert_eq!(
                versions["2.0.0"]["dist"]["tarball"],
                "http://127.0.0.1:1080/npm/~/https/cdn.example/a.tgz"
            );
            assert_eq!(out["readme"], r#""tarball": "x""#);
            let found: Vec<_> =
                found.iter().map(|(url, digest)| (url.to_string(), digest.algorithm)).collect();
            assert_eq!(
                found,
                [
                    ("https://npm.example/a/-/a-1.0.0.tgz".to_owned(), Algorithm::Sha256),
                    ("https://cdn.example/a.tgz".to_owned(), Algorithm::Sha1)
                ]
            );
        }
    }

    #[test]
    fn files_of_the_simple_api_lead_back_and_their_hashes_are_learnt() {
        let text = format!(
            r#"{{"meta":{{"api-version":"1.0"}},"name":"six","files":[{{"filename":"six.whl","core-metadata":{{"sha256":"{SHA256}"}},"url":"../../packages/six.whl","hashes":{{"sha256":"{SHA256}"}},"requires-python":">=2"}},{{"filename":"b","url":"https://files.example/b","hashes":{{}}}}],"url":"keep"}}"#
        );
        for step in [1, 5, 10_000] {
            let (out, found, _) = rewrite("/pypi/six/", Format::Simple, text.as_bytes(), step);
            let out: serde_json::Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(
                out["files"][0]["url"],
                "http://127.0.0.1:1080/pypi/~/https/pypi.example/packages/six.whl"
            );
            assert_eq!(out["files"][1]["url"], "http://127.0.0.1:1080/pypi/~/https/files.example/b");
            assert_eq!(out["url"], "keep");
            let found: Vec<_> = found.iter().map(|(url, _)| url.to_string()).collect();
            assert_eq!(
                found,
                ["https://pypi.example/packages/six.whl.metadata", "https://pypi.example/packages/six.whl"]
            );
        }
    }

    #[test]
    fn a_sparse_index_leads_back_and_its_checksums_are_learnt() {
        let template = "https://static.example/crates/{crate}/{crate}-{version}.crate";
        let text = format!(r#"{{"dl":"{template}","api":"https://index.example","auth-required":false}}"#);
        let (out, _, downloads) = rewrite("/crates/config.json", Format::CratesConfig, text.as_bytes(), 3);
        let out: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            out["dl"],
            "http://127.0.0.1:1080/crates/~/https/static.example/crates/{crate}/{crate}-{version}.crate"
        );
        assert_eq!(out["api"], "http://127.0.0.1:1080/crates");
        assert_eq!(downloads.as_deref(), Some(template));

        let lines = format!(
            "{{\"name\":\"abc\",\"vers\":\"1.0.0\",\"deps\":[{{\"name\":\"x\",\"vers\":\"9\"}}],\"cksum\":\"{SHA256}\"}}\n\
             {{\"name\":\"abc\",\"vers\":\"1.0.1\",\"deps\":[],\"cksum\":\"{SHA256}\"}}\n"
        );
        let (out, found, _) =
            rewrite("/crates/3/a/abc", Format::CratesIndex(template.into()), lines.as_bytes(), 4);
        assert_eq!(out, lines.as_bytes());
        let found: Vec<_> = found.iter().map(|(url, _)| url.path.as_str()).collect();
        assert_eq!(found, ["/crates/abc/abc-1.0.0.crate", "/crates/abc/abc-1.0.1.crate"]);
    }

    #[test]
    fn the_url_of_a_crate_follows_the_template() {
        let digest = Digest::from_hex(Algorithm::Sha256, SHA256).unwrap();
        for (template, name, want) in [
            ("https://h/dl", "serde", "https://h/dl/serde/1.0.0/download"),
            ("https://h/{prefix}/{crate}", "Serde", "https://h/Se/rd/Serde"),
            ("https://h/{lowerprefix}/{crate}", "Serde", "https://h/se/rd/Serde"),
            ("https://h/{prefix}/{version}", "a", "https://h/1/1.0.0"),
            ("https://h/{prefix}/{version}", "abc", "https://h/3/a/1.0.0"),
        ] {
            assert_eq!(crate_url(template, name, "1.0.0", &digest), want);
        }
    }

    proptest! {
        #[test]
        fn bytes_that_name_no_url_pass_as_they_are(text in "[{}\\[\\],:\"\\\\a-z 0-9]{0,200}", step in 1usize..50) {
            let (out, _, _) = rewrite("/npm/a", Format::Npm, text.as_bytes(), step);
            prop_assert_eq!(out, text.as_bytes());
        }

        #[test]
        fn any_bytes_are_read(text in proptest::collection::vec(any::<u8>(), 0..300), step in 1usize..50) {
            rewrite("/pypi/a/", Format::Simple, &text, step);
            rewrite("/crates/config.json", Format::CratesConfig, &text, step);
        }
    }

    /// Each of the objects had a copy of it: 32 KiB of text cost as much as 160 MB.
    #[test]
    fn a_long_key_is_not_copied_into_what_is_below_it() {
        let fronts = Fronts::new(&["npm=https://npm.example/".parse().unwrap()]);
        let place = fronts.place("/npm/a").unwrap();
        let mut rewriter = Rewriter::new(Format::Npm, place, String::new());
        let (text, mut out) = (format!("{{\"{}\":[{{\"dist\":[{{", "k".repeat(10_000)), Vec::new());
        assert_eq!(rewriter.feed(text.as_bytes(), usize::MAX, &mut out), text.len());
        assert_eq!(out, text.as_bytes());
        let names: Vec<_> = rewriter.stack.iter().map(|level| level.name.as_str()).collect();
        assert_eq!(names, ["", "", "", "dist", "dist"]);
    }

    /// All of it became one answer: 30 KB of text as much as 25 MB.
    #[test]
    fn short_references_below_a_long_url_become_little_at_a_time_and_cost_little() {
        const MOST: usize = 32 * 1024;
        const LONG: usize = 8000;
        let file = "{\"url\":\"a\"},";
        let index = format!("{{\"files\":[{}{{}}]}}", file.repeat(300));
        let line = format!("{{\"name\":\"{}\",\"vers\":\"1\",\"cksum\":\"{SHA256}\"}}\n", "n".repeat(256));
        let template = format!("https://h/{}", "{crate}".repeat(290));
        for (path, format, text, one) in [
            (format!("/pypi/{}/", "y".repeat(LONG)), Format::Simple, index, file.len()),
            // Nothing of it changes, but each line is made into a URL that is too long to be one.
            ("/crates/ab/cd/abcd".to_owned(), Format::CratesIndex(template), line.repeat(300), line.len()),
        ] {
            let fronts = Fronts::new(&[
                "pypi=https://pypi.example/simple/".parse().unwrap(),
                "crates=https://index.example/".parse().unwrap(),
            ]);
            let mut rewriter = Rewriter::new(format, fronts.place(&path).unwrap(), String::new());
            let (mut left, mut total) = (text.as_bytes(), 0);
            while !left.is_empty() {
                let mut out = Vec::new();
                let read = rewriter.feed(left, MOST, &mut out);
                assert!(read <= 10 * one, "{read} bytes of files at once");
                assert!(out.len() <= MOST + 2 * LONG, "{} bytes at once", out.len());
                (left, total) = (&left[read..], total + out.len());
            }
            assert!(total >= text.len(), "{total}");
        }
    }

    #[test]
    fn deep_nesting_passes_unread() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let (out, _, _) = rewrite("/npm/a", Format::Npm, deep.as_bytes(), 1000);
        assert_eq!(out, deep.as_bytes());
    }
}
