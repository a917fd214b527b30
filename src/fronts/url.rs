//! URLs of registries, as far as fronts need them (RFC 3986).

use std::fmt;

use crate::wire::target::{Host, Target};

/// The longest URL that is read, in bytes.
const LONGEST: usize = 8192;

/// An `http` or `https` URL without user information and fragment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url {
    /// Whether the scheme is `https`.
    pub is_secure: bool,
    /// The host and the port.
    pub target: Target,
    /// The path, which begins with `/`, and the query.
    pub path: String,
}

impl Url {
    /// Reads an absolute URL. A fragment is dropped.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let is_secure = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        Self::new(is_secure, &rest[..end], &rest[end..])
    }

    fn new(is_secure: bool, authority: &str, path: &str) -> Option<Self> {
        let path = path.split('#').next().unwrap_or_default();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        if path.len() > LONGEST
            || !path.bytes().all(|byte| matches!(byte, b'!'..=b'~'))
            || authority.contains('@')
        {
            return None;
        }
        let default = if is_secure { 443 } else { 80 };
        let has_port =
            authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']') && !port.is_empty());
        let target = if has_port {
            authority.parse().ok()?
        } else {
            let host = authority.strip_suffix(':').unwrap_or(authority);
            let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            Target::new(host, default).ok()?
        };
        Some(Self { is_secure, target, path })
    }

    /// The scheme.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.is_secure { "https" } else { "http" }
    }

    /// Host and port, as a Host field has them: without the default port.
    #[must_use]
    pub fn authority(&self) -> String {
        let default = if self.is_secure { 443 } else { 80 };
        match &self.target.host {
            _ if self.target.port != default => self.target.to_string(),
            Host::Name(name) => name.clone(),
            Host::Address(ip) if ip.is_ipv6() => format!("[{ip}]"),
            Host::Address(ip) => ip.to_string(),
        }
    }

    /// Reads `SCHEME/AUTHORITY/PATH`.
    #[must_use]
    pub fn from_path(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once('/')?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !matches!(scheme, "https" | "http") {
            return None;
        }
        Self::new(scheme == "https", authority, &format!("/{}", downwards(path)?))
    }

    /// Writes what [`Url::from_path`] reads.
    #[must_use]
    pub fn to_path(&self) -> String {
        format!("{}/{}{}", self.scheme(), self.authority(), self.path)
    }

    /// The URL of `rest` below this one; `None` if it would lead out of it.
    #[must_use]
    pub fn below(&self, rest: &str) -> Option<Self> {
        let rest = downwards(rest)?;
        let slash = if self.path.ends_with('/') { "" } else { "/" };
        let path = format!("{}{slash}{rest}", self.path);
        let is_valid =
            path.len() <= LONGEST && path.bytes().all(|byte| matches!(byte, b'!'..=b'~') && byte != b'#');
        is_valid.then(|| Self { path, ..self.clone() })
    }

    /// What follows `base` in this URL.
    #[must_use]
    pub fn under(&self, base: &Self) -> Option<&str> {
        if self.is_secure != base.is_secure || !self.target.is_same(&base.target) {
            return None;
        }
        self.path.strip_prefix(base.path.trim_end_matches('/'))?.strip_prefix('/')
    }

    /// Resolves a reference in a document at this URL (RFC 3986 §5.2). `None` for what is no `http` or `https` URL.
    #[must_use]
    pub fn join(&self, reference: &str) -> Option<Self> {
        let reference = reference.trim().split('#').next().unwrap_or_default();
        let colon = reference.find(':').unwrap_or(usize::MAX);
        if colon < reference.find(['/', '?']).unwrap_or(usize::MAX) {
            return Self::parse(reference);
        }
        if let Some(rest) = reference.strip_prefix("//") {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            return Self::new(self.is_secure, &rest[..end], &normal(&rest[end..]));
        }
        let own = self.path.split('?').next().unwrap_or_default();
        let path = match reference.as_bytes().first() {
            None => self.path.clone(),
            Some(b'/') => reference.to_owned(),
            Some(b'?') => format!("{own}{reference}"),
            Some(_) => format!("{}/{reference}", own.rsplit_once('/').map_or("", |(directory, _)| directory)),
        };
        let authority = self.authority();
        Self::new(self.is_secure, &authority, &normal(&path))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority(), self.path)
    }
}

/// Removes the segments `.` and `..` (RFC 3986 §5.2.4).
fn normal(path: &str) -> String {
    let (path, query) = path.find('?').map_or((path, ""), |at| path.split_at(at));
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.trim_start_matches('/').split('/') {
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let ends_in_directory = path.ends_with("/.") || path.ends_with("/..");
    let slash = if ends_in_directory && !kept.is_empty() { "/" } else { "" };
    format!("/{}{slash}{query}", kept.join("/"))
}

/// A path without the segments `.`, which apt sends for archives without `dists`; `None` if there is a `..`.
fn downwards(path: &str) -> Option<String> {
    let (path, query) = path.find('?').map_or((path, ""), |at| path.split_at(at));
    let mut kept = Vec::new();
    for segment in path.split('/') {
        match segment.to_ascii_lowercase().replace("%2e", ".").as_str() {
            "." => {}
            ".." => return None,
            _ => kept.push(segment),
        }
    }
    Some(format!("{}{query}", kept.join("/")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn references_are_resolved_as_rfc_3986_says() {
        let base = Url::parse("https://a.example/b/c/d?q").unwrap();
        for (reference, want) in [
            ("g", "https://a.example/b/c/g"),
            ("./g", "https://a.example/b/c/g"),
            ("g/", "https://a.example/b/c/g/"),
            ("/g", "https://a.example/g"),
            ("//g", "https://g/"),
            ("?y", "https://a.example/b/c/d?y"),
            ("g?y", "https://a.example/b/c/g?y"),
            ("g#s", "https://a.example/b/c/g"),
            ("", "https://a.example/b/c/d?q"),
            ("..", "https://a.example/b/"),
            ("../g", "https://a.example/b/g"),
            ("../../g", "https://a.example/g"),
            ("../../../g", "https://a.example/g"),
            ("http://h:8080/x#sha256=0", "http://h:8080/x"),
            ("HTTPS://H/x", "https://h/x"),
            ("https://h:443/x", "https://h/x"),
        ] {
            assert_eq!(base.join(reference).map(|url| url.to_string()).as_deref(), Some(want), "{reference}");
        }
        for reference in
            ["mailto:a", "javascript:x", "data:,x", "https://u@h/", "https:///x", "http://h:99999/"]
        {
            assert_eq!(base.join(reference), None, "{reference}");
        }
    }

    #[test]
    fn a_dot_at_the_end_of_a_host_makes_no_other_registry() {
        let base = Url::parse("https://a.example./simple/").unwrap();
        let below = |url: &str| Url::parse(url).unwrap().under(&base).map(str::to_owned);
        assert_eq!(below("https://A.example/simple/x").as_deref(), Some("x"));
        assert_eq!((below("https://b.example./simple/x"), below("http://a.example./simple/x")), (None, None));
    }

    proptest! {
        #[test]
        fn any_reference_is_resolved_or_refused(reference in ".{0,80}") {
            let base = Url::parse("https://a.example/b/c").unwrap();
            if let Some(url) = base.join(&reference) {
                prop_assert_eq!(Url::parse(&url.to_string()), Some(url));
            }
        }

        #[test]
        fn what_is_written_as_a_path_is_read_again(path in "(/[a-z.0-9]{1,5}){1,5}") {
            let url = Url::parse("https://a.example:8443/").and_then(|base| base.join(&path)).unwrap();
            if let Some(read) = Url::from_path(&url.to_path()) {
                prop_assert_eq!(read, url);
            }
        }
    }
}
