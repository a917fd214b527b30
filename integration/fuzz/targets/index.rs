//! The indexes of package registries, as fronts read and rewrite them, and what registries of OCI images say about tokens.

use laneway::cache::digest::Digest;
use laneway::fronts::debian;
use laneway::fronts::html;
use laneway::fronts::json::{self, Format};
use laneway::fronts::place::{Fronts, Place};
use laneway::fronts::token::{Challenge, Tokens};
use laneway::fronts::url::Url;

use super::input::pieces;

/// What the local port is called.
const LOCAL: &str = "http://127.0.0.1:1080";
/// Most files that one index of an archive names.
const MOST: usize = 100_000;
/// About how much an index becomes at a time, in bytes.
const STEP: usize = 32;

/// The first byte of `data` says which index it is.
pub fn run(data: &[u8]) {
    let Some((kind, index)) = data.split_first() else { return };
    match kind {
        b'r' => archive("dists/stable/InRelease", index),
        b'p' => archive("dists/stable/main/binary-amd64/Packages.xz", index),
        b's' => archive("dists/stable/main/source/Sources", index),
        b'h' => page(index),
        b'j' => document(&Format::Simple, "pypi/six/", index),
        b'n' => document(&Format::Npm, "npm/@scope%2fname", index),
        b'c' => document(&Format::CratesConfig, "crates/config.json", index),
        b'i' => {
            let template = "https://crates.example/{lowerprefix}/{crate}-{version}?{sha256-checksum}";
            let out = document_out(&Format::CratesIndex(template.into()), "crates/ab/cd/abcd", index);
            assert_eq!(out, index, "nothing of it is rewritten");
        }
        b'o' => token(index),
        b'u' => path(index),
        _ => {}
    }
}

fn fronts() -> Fronts {
    let upstream = |text: &str| text.parse().expect("it is valid");
    Fronts::new(&[
        upstream("apt/debian=https://deb.example/debian"),
        upstream("pypi=https://pypi.example/simple/"),
        upstream("npm=http://npm.example:4873/"),
        upstream("crates=https://index.example/"),
        upstream("oci=https://images.example"),
    ])
}

fn place(path: &str) -> Place {
    fronts().place(&format!("/{path}")).expect("it is a path of a front")
}

/// What an index names is found again by the path that stands for it.
fn names(place: &Place, found: &[(Url, Digest)]) {
    for (url, _) in found {
        let path = place.path_of(url);
        assert!(path.bytes().all(|byte| matches!(byte, b'!'..=b'~')), "{path}");
        // A URL may hold what no path of a front does, such as `..` behind an escape. It then leads nowhere.
        if let Ok(again) = fronts().place(&path) {
            assert_eq!(again.url, *url, "{path}");
        }
    }
}

fn archive(path: &str, index: &[u8]) {
    let place = place(&format!("apt/debian/{path}"));
    if let Ok(found) = debian::read(&place, index, usize::MAX, |_| ()) {
        assert!(found.len() <= MOST);
        names(&place, &found);
    }
}

fn page(index: &[u8]) {
    let place = place("pypi/six/");
    let read = |cut: &mut dyn Iterator<Item = &[u8]>| {
        let (mut rewriter, mut out) = (html::Rewriter::new(place.clone(), LOCAL.into()), Vec::new());
        cut.for_each(|mut piece| {
            while !piece.is_empty() {
                let read = rewriter.feed(piece, STEP, &mut out);
                piece = &piece[read..];
            }
        });
        let found = rewriter.finish(&mut out);
        (found, out)
    };
    let (found, out) = read(&mut std::iter::once(index));
    assert_eq!((&found, &out), (&read(&mut pieces(index)).0, &read(&mut pieces(index)).1));
    names(&place, &found);
}

fn document(format: &Format, path: &str, index: &[u8]) {
    document_out(format, path, index);
}

fn document_out(format: &Format, path: &str, index: &[u8]) -> Vec<u8> {
    let place = place(path);
    let read = |cut: &mut dyn Iterator<Item = &[u8]>| {
        let mut rewriter = json::Rewriter::new(format.clone(), place.clone(), LOCAL.into());
        let mut out = Vec::new();
        cut.for_each(|mut piece| {
            while !piece.is_empty() {
                let read = rewriter.feed(piece, STEP, &mut out);
                piece = &piece[read..];
            }
        });
        (rewriter.finish(&mut out), out)
    };
    let (found, out) = read(&mut std::iter::once(index));
    assert_eq!((&found, &out), (&read(&mut pieces(index)).0, &read(&mut pieces(index)).1));
    names(&place, &found.0);
    out
}

fn token(answer: &[u8]) {
    if let Some(challenge) = Challenge::parse(answer) {
        let url = challenge.url();
        assert!(url.path.bytes().all(|byte| matches!(byte, b'!'..=b'~')), "{url}");
    }
    if let Some(token) = Tokens::default().take("a", answer) {
        assert!(token.bytes().all(|byte| byte.is_ascii_graphic()));
    }
}

fn path(path: &[u8]) {
    let Ok(path) = std::str::from_utf8(path) else { return };
    if let Ok(place) = fronts().place(path) {
        // The redirect stays at that registry, or at the server that the path names.
        let again = fronts().place(&place.path_of(&place.url)).expect("a path of a front");
        assert_eq!(again.url, place.url);
        let _ = place.digest();
    }
}
