//! The option for one front.

use std::str::FromStr;

use super::kind::Kind;
use super::url::Url;

/// A registry that this node has a front for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its protocol.
    pub kind: Kind,
    /// Its name among several of this kind; empty for a kind that has only one.
    pub name: String,
    /// Its URL.
    pub url: Url,
}

/// Why a text is not a front.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAFront {
    /// It has another form.
    #[error(
        "a front is written KIND=URL, like pypi=https://pypi.example/simple/, and one of apt with a name, apt/NAME=URL"
    )]
    Form,
    /// There is no such kind.
    #[error("the kinds of fronts are apt/NAME, pypi, npm, crates and oci")]
    Kind,
    /// A name for a kind that has none, or the other way round.
    #[error("apt needs a name, like apt/debian=URL, of letters, digits and '-'; the other kinds have none")]
    Name,
    /// It is not a URL of a registry.
    #[error(
        "the URL of a registry is https://HOST[:PORT]/PATH or http://…, without a login, a query and '#'"
    )]
    Url,
}

impl FromStr for Upstream {
    type Err = NotAFront;

    fn from_str(text: &str) -> Result<Self, NotAFront> {
        let (key, url) = text.split_once('=').ok_or(NotAFront::Form)?;
        let (kind, name) = key.split_once(['/', '.']).map_or((key, None), |(kind, name)| (kind, Some(name)));
        let kind = Kind::of(kind).ok_or(NotAFront::Kind)?;
        let is_name = |name: &str| {
            (1..=40).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        let name = match (kind, name) {
            (Kind::Apt, Some(name)) if is_name(name) => name.to_owned(),
            (Kind::Apt, _) | (_, Some(_)) => return Err(NotAFront::Name),
            (_, None) => String::new(),
        };
        let parsed = Url::parse(url).filter(|_| !url.contains(['?', '#'])).ok_or(NotAFront::Url)?;
        // cargo writes the scheme of sparse indexes so, and the registries of OCI are all below /v2/.
        let path = parsed.path.trim_end_matches('/');
        let path = if kind == Kind::Oci { path.strip_suffix("/v2").unwrap_or(path) } else { path };
        Ok(Self { kind, name, url: Url { path: format!("{path}/"), ..parsed } })
    }
}

impl Upstream {
    /// The key of this front in the configuration.
    #[must_use]
    pub fn key(&self) -> String {
        match self.name.as_str() {
            "" => self.kind.word().to_owned(),
            name => format!("{}/{name}", self.kind.word()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_front_has_a_kind_and_a_url_and_one_of_apt_a_name() {
        let parse = |text: &str| text.parse::<Upstream>();
        let front = parse("apt/debian=https://deb.example/debian").unwrap();
        assert_eq!((front.key().as_str(), front.url.path.as_str()), ("apt/debian", "/debian/"));
        assert_eq!(parse("oci=https://images.example/v2/").unwrap().url.path, "/");
        for (text, error) in [
            ("pypi", NotAFront::Form),
            ("gem=https://h/", NotAFront::Kind),
            ("apt=https://h/", NotAFront::Name),
            ("apt/=https://h/", NotAFront::Name),
            ("apt/a_b=https://h/", NotAFront::Name),
            ("pypi/x=https://h/", NotAFront::Name),
            ("pypi=h", NotAFront::Url),
            ("pypi=ftp://h/", NotAFront::Url),
            ("pypi=https://u:p@h/", NotAFront::Url),
            ("pypi=https://h/?q", NotAFront::Url),
        ] {
            assert_eq!(parse(text).unwrap_err(), error, "{text}");
        }
    }
}
