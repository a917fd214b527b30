//! Python's simple repository API in HTML (PEP 503), rewritten while it streams: the addresses in its anchors.

use super::found::FileDigests;
use super::json::metadata_of;
use super::place::Place;
use super::url::Url;
use crate::cache::digest::Digest;

/// The longest tag that is read, in bytes. A longer one passes as it is.
const LONGEST: usize = 64 * 1024;
/// The attributes that matter.
const READ: [&str; 3] = ["href", "data-core-metadata", "data-dist-info-metadata"];

/// Rewrites one page.
pub struct Rewriter {
    place: Place,
    /// What the local port is called, `http://HOST:PORT`.
    local: String,
    /// What references in the page are relative to.
    base: Url,
    /// A tag whose end has not come, and the quote that is open in it.
    tag: Option<(Vec<u8>, Option<u8>)>,
    /// The bytes of the addresses that references were resolved against since [`Rewriter::feed`] was called.
    resolved: usize,
    found: FileDigests,
}

/// An attribute: its name in lower case, its value, and where that is in the tag, with its quotes.
struct Attribute {
    name: String,
    value: String,
    place: std::ops::Range<usize>,
}

impl Rewriter {
    /// A rewriter of the page at `place`. URLs that lead back begin with `local`.
    #[must_use]
    pub fn new(place: Place, local: String) -> Self {
        let base = place.url.clone();
        Self { place, local, base, tag: None, resolved: 0, found: FileDigests::default() }
    }

    /// Reads the first of these bytes, at least one, and appends to `out` what they become. A short reference may become a long
    /// address, so it stops once that is about `most` bytes, or resolving references was as much work. Returns how many it has
    /// read.
    pub fn feed(&mut self, bytes: &[u8], most: usize, out: &mut Vec<u8>) -> usize {
        let before = out.len();
        self.resolved = 0;
        for (read, &byte) in bytes.iter().enumerate() {
            if read > 0 && out.len() - before + self.resolved >= most {
                return read;
            }
            let Some((tag, quote)) = &mut self.tag else {
                match byte {
                    b'<' => self.tag = Some((vec![byte], None)),
                    byte => out.push(byte),
                }
                continue;
            };
            tag.push(byte);
            match (*quote, byte) {
                (Some(open), byte) if byte == open => *quote = None,
                (None, b'"' | b'\'') if is_anchor(tag) || is_base(tag) => *quote = Some(byte),
                (None, b'>') => {
                    let tag = std::mem::take(tag);
                    self.tag = None;
                    self.whole(&tag, out);
                }
                _ if tag.len() > LONGEST => {
                    out.extend_from_slice(tag);
                    self.tag = None;
                }
                _ => {}
            }
        }
        bytes.len()
    }

    /// Appends what was held back, at the end of the page. Returns what the page names.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Vec<(Url, Digest)> {
        if let Some((tag, _)) = self.tag.take() {
            out.extend_from_slice(&tag);
        }
        std::mem::take(&mut self.found).into_files()
    }

    /// The memory that it takes, in bytes: above all, what was found.
    #[must_use]
    pub fn memory(&self) -> usize {
        let addresses = self.base.path.len() + self.place.url.path.len() + self.place.base.path.len();
        self.found.memory() + addresses + self.tag.as_ref().map_or(0, |(tag, _)| tag.capacity())
    }

    fn whole(&mut self, tag: &[u8], out: &mut Vec<u8>) {
        if is_base(tag) {
            let href = attributes(tag).into_iter().find(|attribute| attribute.name == "href");
            self.resolved += self.place.url.path.len();
            if let Some(base) = href.and_then(|href| self.place.url.join(&href.value)) {
                self.base = base;
            }
            // The addresses in the page are absolute from here on.
            return;
        }
        if !is_anchor(tag) {
            return out.extend_from_slice(tag);
        }
        let attributes = attributes(tag);
        let named = |name: &str| attributes.iter().find(|attribute| attribute.name == name);
        let Some(href) = named("href") else { return out.extend_from_slice(tag) };
        self.resolved += self.base.path.len();
        let Some(url) = self.base.join(&href.value) else { return out.extend_from_slice(tag) };
        let fragment = href.value.find('#').map_or("", |at| &href.value[at..]);
        if let Some(digest) = Digest::from_assignment(fragment.trim_start_matches('#')) {
            self.found.push(url.clone(), digest);
        }
        let metadata = named("data-core-metadata").or_else(|| named("data-dist-info-metadata"));
        if let Some(digest) = metadata.and_then(|attribute| Digest::from_assignment(&attribute.value)) {
            self.found.push(metadata_of(&url), digest);
        }
        let new = format!("{}{}{fragment}", self.local, self.place.path_of(&url));
        out.extend_from_slice(&tag[..href.place.start]);
        out.extend_from_slice(format!("\"{}\"", escaped(&new)).as_bytes());
        out.extend_from_slice(&tag[href.place.end..]);
    }
}

fn begins(tag: &[u8], name: &[u8]) -> bool {
    tag.get(1..=name.len()).is_some_and(|found| found.eq_ignore_ascii_case(name))
        && tag.get(name.len() + 1).is_some_and(u8::is_ascii_whitespace)
}

fn is_anchor(tag: &[u8]) -> bool {
    begins(tag, b"a")
}

fn is_base(tag: &[u8]) -> bool {
    begins(tag, b"base")
}

/// The first of each of the attributes that matter.
fn attributes(tag: &[u8]) -> Vec<Attribute> {
    let mut found: Vec<Attribute> = Vec::new();
    // After the name of the tag.
    let mut at = tag.iter().position(u8::is_ascii_whitespace).unwrap_or(tag.len());
    let end = tag.len().saturating_sub(1);
    while at < end {
        if tag[at].is_ascii_whitespace() || tag[at] == b'/' {
            at += 1;
            continue;
        }
        let start = at;
        while at < end && !tag[at].is_ascii_whitespace() && tag[at] != b'=' {
            at += 1;
        }
        let name = String::from_utf8_lossy(&tag[start..at]).to_ascii_lowercase();
        let mut after = at;
        while after < end && tag[after].is_ascii_whitespace() {
            after += 1;
        }
        if after >= end || tag[after] != b'=' {
            // It has no value. A lone "=" is skipped.
            at = after.max(start + 1);
            continue;
        }
        at = after + 1;
        while at < end && tag[at].is_ascii_whitespace() {
            at += 1;
        }
        let start = at;
        let value = match tag.get(at) {
            Some(&quote @ (b'"' | b'\'')) => {
                let close = tag[at + 1..end].iter().position(|byte| *byte == quote);
                let close = close.map_or(end, |close| at + 1 + close);
                at = (close + 1).min(end);
                &tag[(start + 1).min(close)..close]
            }
            _ => {
                while at < end && !tag[at].is_ascii_whitespace() {
                    at += 1;
                }
                &tag[start..at]
            }
        };
        if READ.contains(&name.as_str()) && !found.iter().any(|other| other.name == name) {
            let value = unescaped(&String::from_utf8_lossy(value));
            found.push(Attribute { name, value, place: start..at });
        }
    }
    found
}

/// Without the character references that occur in addresses.
fn unescaped(text: &str) -> String {
    text.replace("&quot;", "\"")
        .replace("&#39;", "'")
        .replace("&#x27;", "'")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&#43;", "+")
        .replace("&amp;", "&")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fronts::place::Fronts;

    const SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn rewrite(text: &[u8], step: usize) -> (String, Vec<(Url, Digest)>) {
        let fronts = Fronts::new(&["pypi=https://pypi.example/simple/".parse().unwrap()]);
        let mut rewriter = Rewriter::new(fronts.place("/pypi/six/").unwrap(), "http://127.0.0.1:1080".into());
        let mut out = Vec::new();
        for mut piece in text.chunks(step) {
            while !piece.is_empty() {
                let read = rewriter.feed(piece, 3 * step, &mut out);
                piece = &piece[read..];
            }
        }
        let found = rewriter.finish(&mut out);
        (String::from_utf8_lossy(&out).into_owned(), found)
    }

    #[test]
    fn anchors_lead_back_and_their_digests_are_learnt() {
        let page = format!(
            "<!DOCTYPE html><html><body><h1>Links</h1>\
             <a href=\"https://files.example/six-1.whl#sha256={SHA256}\" data-requires-python=\"&gt;=3\" \
             data-core-metadata='sha256={SHA256}'>six &gt; 1</a><br/>\n\
             <A HREF='../../packages/six-2.tar.gz?a=1&amp;b=2'>six</A><a href=six-3.zip>s</a><a name=x>y</a></body>"
        );
        for step in [1, 9, 10_000] {
            let (out, found) = rewrite(page.as_bytes(), step);
            let local = "http://127.0.0.1:1080/pypi/";
            for line in [
                format!(
                    "<a href=\"{local}~/https/files.example/six-1.whl#sha256={SHA256}\" data-requires-python=\"&gt;=3\""
                ),
                format!("<A HREF=\"{local}~/https/pypi.example/packages/six-2.tar.gz?a=1&amp;b=2\">six</A>"),
                format!("<a href=\"{local}six/six-3.zip\">s</a><a name=x>y</a>"),
            ] {
                assert!(out.contains(&line), "{out}");
            }
            let found: Vec<_> = found.iter().map(|(url, _)| url.path.as_str()).collect();
            assert_eq!(found, ["/six-1.whl", "/six-1.whl.metadata"]);
        }
    }

    #[test]
    fn a_base_in_the_page_counts() {
        let (out, _) =
            rewrite(b"<head><base href=\"https://files.example/d/\"></head><a href=\"x.whl\">x</a>", 3);
        assert!(out.contains("/pypi/~/https/files.example/d/x.whl") && !out.contains("<base"), "{out}");
    }

    /// All of it became one answer: 30 KB of text as much as 25 MB.
    #[test]
    fn short_references_to_a_long_base_become_little_at_a_time_and_cost_little() {
        const MOST: usize = 32 * 1024;
        const LONG: usize = 8000;
        let fronts = Fronts::new(&["pypi=https://pypi.example/simple/".parse().unwrap()]);
        // The last ones are too long for a URL: they cost as much, and pass as they are.
        for (reference, becomes) in [("b".to_owned(), LONG), ("b".repeat(500), 0)] {
            let place = fronts.place("/pypi/six/").unwrap();
            let mut rewriter = Rewriter::new(place, "http://127.0.0.1:1080".into());
            let anchor = format!("<a href={reference}>");
            let page = format!("<base href=\"/{}/\">{}", "y".repeat(LONG), anchor.repeat(300));
            let (mut left, mut total) = (page.as_bytes(), 0);
            while !left.is_empty() {
                let mut out = Vec::new();
                let read = rewriter.feed(left, MOST, &mut out);
                assert!(read <= LONG + MOST / LONG * 2 * anchor.len(), "{read} bytes of anchors at once");
                assert!(out.len() <= MOST + 2 * LONG, "{} bytes at once", out.len());
                (left, total) = (&left[read..], total + out.len());
            }
            assert!(total >= 300 * (anchor.len() + becomes), "{total}");
        }
    }

    #[test]
    fn of_many_attributes_those_that_matter_are_kept() {
        let tag = format!("<a {} HREF=x href=y>", "b=c ".repeat(10_000));
        let found: Vec<_> = attributes(tag.as_bytes()).into_iter().map(|one| (one.name, one.value)).collect();
        assert_eq!(found, [("href".to_owned(), "x".to_owned())]);
    }

    #[test]
    fn what_is_no_address_passes() {
        for page in [
            "<a href=\"javascript:alert(1)\">x</a>",
            "<abbr href=\"https://h/\">x</abbr>",
            "<a href=\"https://h/",
            "a < b > c <",
            "<a =>",
            "<a href>x</a>",
        ] {
            assert_eq!(rewrite(page.as_bytes(), 1).0, page);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(text in proptest::collection::vec(any::<u8>(), 0..300), step in 1usize..50) {
            rewrite(&text, step);
        }

        #[test]
        fn any_tags_are_read(text in "(<a |href|=|\"|'|>| |/|x|<base ){0,40}", step in 1usize..50) {
            rewrite(text.as_bytes(), step);
        }
    }
}
