//! What `--probe` names: a URL that must answer, or an address that must accept a connection.

use std::fmt;
use std::str::FromStr;

use crate::wire::target::{Target, TargetError, configured};
use http::Uri;

/// What `--probe` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A URL; any connection could be accepted by a box in between, an answer could not.
    Url {
        /// Where to connect.
        target: Target,
        /// The authority of the URL, for the Host field.
        host: String,
        /// The path and query.
        path: String,
    },
    /// An address that must accept a TCP connection.
    Connect(Target),
    /// `none`: nothing is asked.
    Nothing,
}

/// The answer that `--probe-expect` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// This HTTP status.
    Status(u16),
    /// A response with any status whose head or content contains this text.
    Text(String),
}

/// Why a text is not a probe.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// Not HTTP.
    #[error("only http:// URLs and HOST:PORT can be probed")]
    Scheme,
    /// Not a URL.
    #[error("not a URL like http://HOST/PATH")]
    Url,
    /// Its host looks like an address and is none.
    #[error("{}", TargetError::Address)]
    Address,
    /// Not HOST:PORT.
    #[error("neither a URL like http://HOST/PATH nor HOST:PORT")]
    Target,
}

fn of_target(error: TargetError) -> ProbeError {
    match error {
        TargetError::Address => ProbeError::Address,
        _ => ProbeError::Target,
    }
}

impl FromStr for Probe {
    type Err = ProbeError;

    fn from_str(text: &str) -> Result<Self, ProbeError> {
        if text == "none" {
            return Ok(Self::Nothing);
        }
        let Some((scheme, _)) = text.split_once("://") else {
            return configured(text).map(Self::Connect).map_err(of_target);
        };
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(ProbeError::Scheme);
        }
        let uri: Uri = text.parse().map_err(|_error| ProbeError::Url)?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
        let authority = authority.ok_or(ProbeError::Url)?;
        let port = authority.port_u16().unwrap_or(80);
        let target = configured(&format!("{}:{port}", authority.host())).map_err(|error| match error {
            TargetError::Address => ProbeError::Address,
            _ => ProbeError::Url,
        })?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self::Url { target, host: authority.to_string(), path })
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url { host, path, .. } => write!(f, "http://{host}{path}"),
            Self::Connect(target) => target.fmt(f),
            Self::Nothing => f.write_str("none"),
        }
    }
}

impl FromStr for Expected {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(status) if (100..=599).contains(&status) => Ok(Self::Status(status)),
            _ if text.is_empty() => Err("an empty text is in every answer"),
            _ => Ok(Self::Text(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_a_url_or_an_address() {
        for (text, shown, target) in [
            ("http://10.0.0.5/health?x=1", "http://10.0.0.5/health?x=1", "10.0.0.5:80"),
            ("HTTP://portal.example:8080", "http://portal.example:8080/", "portal.example:8080"),
            ("http://[2001:db8::1]/", "http://[2001:db8::1]/", "[2001:db8::1]:80"),
            ("10.0.0.5:443", "10.0.0.5:443", "10.0.0.5:443"),
        ] {
            let probe: Probe = text.parse().unwrap();
            let (Probe::Url { target: parsed, .. } | Probe::Connect(parsed)) = &probe else {
                panic!("{text}")
            };
            assert_eq!((probe.to_string().as_str(), parsed.to_string().as_str()), (shown, target));
        }
        for (text, error) in [
            ("https://10.0.0.5/", ProbeError::Scheme),
            ("http://me:secret@10.0.0.5/", ProbeError::Url),
            ("http://", ProbeError::Url),
            ("10.0.0.5", ProbeError::Target),
            ("10.0.0.l:80", ProbeError::Address),
            ("http://10.0.0.256/", ProbeError::Address),
        ] {
            assert_eq!(text.parse::<Probe>(), Err(error), "{text}");
        }
    }
}
