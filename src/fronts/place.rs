//! Which URL of a registry a path at the local port stands for.

use super::kind::Kind;
use super::options::Upstream;
use super::url::Url;
use crate::cache::digest::{Algorithm, Digest};

/// What stands in a path between the front and the URL of a file that is not below the registry's own URL.
const ELSEWHERE: &str = "~/";

/// What a path at the local port asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The registry's protocol.
    pub kind: Kind,
    /// The path of the front at the local port, like `/apt/debian/`.
    pub front: String,
    /// What the registry calls it.
    pub url: Url,
    /// The registry's own URL.
    pub base: Url,
}

/// Why a path of a front leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nowhere {
    /// No upstream is configured for it.
    #[error("no front is configured for /{0}/")]
    NotConfigured(String),
    /// The path names no URL.
    #[error("this path of the front names no URL: {0}")]
    Path(&'static str),
}

impl Nowhere {
    /// What to do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::NotConfigured(name) => {
                let kind = name.split('/').next().unwrap_or_default();
                let url = Kind::of(kind).map_or("https://HOST/", Kind::example);
                let line = name.replacen('/', ".", 1);
                format!(
                    "add  {line} = \"{url}\"  below [fronts] in laneway.toml, or start with --front {name}={url}"
                )
            }
            Self::Path(_) => "'laneway env --fronts' prints the address for each tool".to_owned(),
        }
    }
}

/// The fronts of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fronts(Vec<Upstream>);

impl Fronts {
    /// With these registries.
    #[must_use]
    pub fn new(upstreams: &[Upstream]) -> Self {
        Self(upstreams.to_vec())
    }

    /// The registries.
    #[must_use]
    pub fn upstreams(&self) -> &[Upstream] {
        &self.0
    }

    /// Whether this path, in origin form, is one of a front and not of the node's page.
    #[must_use]
    pub fn is_front(path: &str) -> bool {
        let first = path.trim_start_matches('/').split(['/', '?']).next().unwrap_or_default();
        path.starts_with('/') && (first == "v2" || Kind::of(first).is_some())
    }

    /// What `path`, in origin form, asks for.
    ///
    /// # Errors
    /// [`Nowhere`].
    pub fn place(&self, path: &str) -> Result<Place, Nowhere> {
        let path = path.strip_prefix('/').ok_or(Nowhere::Path("it does not begin with /"))?;
        // Clients of OCI registries ask for /v2/ at the root of a host.
        let path = if path == "v2" || path.starts_with("v2/") || path.starts_with("v2?") {
            format!("oci/{path}")
        } else {
            path.to_owned()
        };
        let (first, mut rest) = path.split_once('/').unwrap_or((&path, ""));
        let kind = Kind::of(first).ok_or(Nowhere::Path("there is no such front"))?;
        let mut name = "";
        if kind == Kind::Apt {
            (name, rest) = rest.split_once('/').unwrap_or((rest, ""));
        }
        let upstream = self.0.iter().find(|upstream| upstream.kind == kind && upstream.name == name);
        let Some(upstream) = upstream else {
            let known: String =
                name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
            let key = match kind {
                Kind::Apt => format!("apt/{}", if known.is_empty() { "NAME" } else { &known }),
                kind => kind.word().to_owned(),
            };
            return Err(Nowhere::NotConfigured(key));
        };
        let base = upstream.url.clone();
        let url = match rest.strip_prefix(ELSEWHERE) {
            Some(elsewhere) => {
                Url::from_path(elsewhere).ok_or(Nowhere::Path("SCHEME/HOST/PATH follows ~/"))?
            }
            None => base.below(rest).ok_or(Nowhere::Path("it leaves the registry's URL"))?,
        };
        let front = if kind == Kind::Apt { format!("/apt/{name}/") } else { format!("/{}/", kind.word()) };
        Ok(Place { kind, front, url, base })
    }
}

impl Place {
    /// The path at the local port that stands for `url`.
    #[must_use]
    pub fn path_of(&self, url: &Url) -> String {
        match url.under(&self.base) {
            // The protocol of OCI registries is below /v2/ everywhere.
            Some(rest) if self.kind == Kind::Oci && rest.starts_with("v2/") => format!("/{rest}"),
            Some(rest) if !rest.starts_with(ELSEWHERE) => format!("{}{rest}", self.front),
            _ => format!("{}{ELSEWHERE}{}", self.front, url.to_path()),
        }
    }

    /// The digest that is part of the URL itself.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        let path = self.url.path.split('?').next().unwrap_or_default();
        let last = path.rsplit('/').next().unwrap_or_default();
        match self.kind {
            Kind::Oci if path.contains("/blobs/") || path.contains("/manifests/") => {
                let (algorithm, hex) = last.split_once(':').or_else(|| last.split_once("%3A"))?;
                Digest::from_hex(Algorithm::of(algorithm)?, hex)
            }
            Kind::Apt => {
                let (_, rest) = path.rsplit_once("/by-hash/")?;
                let (algorithm, hex) = rest.split_once('/')?;
                Digest::from_hex(Algorithm::of(&algorithm.to_ascii_lowercase())?, hex)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fronts() -> Fronts {
        let upstream = |text: &str| text.parse::<Upstream>().unwrap();
        Fronts::new(&[
            upstream("pypi=https://pypi.example/simple/"),
            upstream("apt/debian=https://deb.example/debian"),
            upstream("oci=https://images.example"),
            upstream("npm=http://npm.example:4873/"),
        ])
    }

    #[test]
    fn a_path_of_a_front_stands_for_a_url_of_its_registry_and_back() {
        for (path, url) in [
            ("/pypi/six/", "https://pypi.example/simple/six/"),
            ("/pypi/six/?a=b", "https://pypi.example/simple/six/?a=b"),
            ("/pypi/~/https/files.example/a/six.whl", "https://files.example/a/six.whl"),
            ("/pypi/~/http/files.example:8080/six.whl", "http://files.example:8080/six.whl"),
            ("/apt/debian/dists/stable/InRelease", "https://deb.example/debian/dists/stable/InRelease"),
            ("/npm/@scope%2fname", "http://npm.example:4873/@scope%2fname"),
            ("/npm/~/https/[::1]:8443/x", "https://[::1]:8443/x"),
            ("/v2/", "https://images.example/v2/"),
            ("/v2/app/blobs/sha256:00", "https://images.example/v2/app/blobs/sha256:00"),
        ] {
            let place = fronts().place(path).unwrap();
            assert_eq!((place.url.to_string(), place.path_of(&place.url)), (url.to_owned(), path.to_owned()));
        }
        assert_eq!(fronts().place("/oci/v2/").unwrap().url.to_string(), "https://images.example/v2/");
        assert_eq!(fronts().place("/apt/debian/./Packages").unwrap().url.path, "/debian/Packages");
        assert_eq!(fronts().place("/pypi").unwrap().url.to_string(), "https://pypi.example/simple/");
    }

    #[test]
    fn a_path_that_leads_nowhere_says_which_line_is_missing() {
        for (path, hint) in [
            ("/crates/config.json", "crates = "),
            ("/apt/security/x", "apt.security = "),
            ("/apt/", "apt.NAME = "),
        ] {
            let nowhere = fronts().place(path).unwrap_err();
            assert!(nowhere.hint().contains(hint), "{}", nowhere.hint());
        }
        // What it shows is a front that works: pip asks for pages below /simple/.
        for (path, url) in [
            ("/pypi/six/", "https://pypi.example/simple/"),
            ("/npm/six", "https://npm.example/"),
            ("/apt/debian/x", "https://deb.example/debian/"),
            ("/v2/", "https://images.example/"),
        ] {
            let hint = Fronts::default().place(path).unwrap_err().hint();
            let front: Upstream = hint.split("--front ").nth(1).unwrap().parse().unwrap();
            assert_eq!(front.url.to_string(), url, "{hint}");
            assert!(hint.contains(&format!(" = \"{}", url.trim_end_matches('/'))), "{hint}");
        }
        for path in [
            "/pypi/../../x",
            "/pypi/a/%2e%2E/x",
            "/pypi/..",
            "/pypi/~/https/",
            "/pypi/~/ftp/h/x",
            "/pypi/~/https/user@h/x",
            "/pypi/~/https/h:0/x",
        ] {
            assert!(matches!(fronts().place(path), Err(Nowhere::Path(_))), "{path}");
        }
        assert!(!Fronts::is_front("/status.json") && !Fronts::is_front("/") && !Fronts::is_front("/v20/"));
        assert!(Fronts::is_front("/pypi/x") && Fronts::is_front("/v2/") && Fronts::is_front("/npm"));
    }

    #[test]
    fn digests_in_urls_are_read() {
        let zeros = "0".repeat(64);
        for (path, known) in [
            (format!("/v2/a/blobs/sha256:{zeros}"), true),
            (format!("/v2/a/manifests/sha256:{zeros}"), true),
            ("/v2/a/manifests/latest".to_owned(), false),
            (format!("/apt/debian/dists/s/main/binary-amd64/by-hash/SHA256/{zeros}"), true),
            ("/apt/debian/dists/s/main/binary-amd64/by-hash/SHA256/0".to_owned(), false),
            (format!("/pypi/sha256:{zeros}"), false),
        ] {
            assert_eq!(fronts().place(&path).unwrap().digest().is_some(), known, "{path}");
        }
    }
}
