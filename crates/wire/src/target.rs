//! The destination that an app requests: `host:port`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A host, identified by name or by address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A name in lower case without a trailing dot. It contains only letters, digits, `-`, `_` and `.`.
    Name(String),
    /// An address.
    Address(IpAddr),
}

/// The destination of one tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The TCP port, never 0.
    pub port: u16,
}

/// Why a destination is invalid.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TargetError {
    /// It does not have the form `host:port`.
    #[error(
        "a destination is written HOST:PORT, without http:// or a path, and an IPv6 address in brackets, [ADDR]:PORT"
    )]
    Form,
    /// The port is 0, above 65535 or not a number.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// The name contains other characters, or it or one of its labels is empty or too long (RFC 1035 §2.3.4).
    #[error("the host is neither an IP address nor a name of letters, digits, '-', '_' and '.'")]
    Name,
}

impl Host {
    /// Parses a name or an address; IPv6 with or without brackets. A trailing dot does not turn an IPv4 address into a
    /// name: `10.0.0.1.` is the address.
    ///
    /// # Errors
    /// [`TargetError::Name`].
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let name = text.strip_suffix('.').unwrap_or(text);
        if let Ok(address) = bare.unwrap_or(name).parse::<IpAddr>() {
            let odd = if address.is_ipv4() { bare.is_some() } else { name != text };
            return if odd { Err(TargetError::Name) } else { Ok(Self::Address(address)) };
        }
        let label_ok = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if name.len() > 253 || !name.split('.').all(label_ok) {
            return Err(TargetError::Name);
        }
        Ok(Self::Name(name.to_ascii_lowercase()))
    }
}

impl Target {
    /// Creates a destination from its parts.
    ///
    /// # Errors
    /// [`TargetError`] if the host is invalid or the port is 0.
    pub fn new(host: &str, port: u16) -> Result<Self, TargetError> {
        if port == 0 {
            return Err(TargetError::Port);
        }
        Ok(Self { host: Host::parse(host)?, port })
    }

    /// The socket address, if the host is an address.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Name(_) => None,
            Host::Address(ip) => Some(SocketAddr::new(ip, self.port)),
        }
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self { host: Host::Address(address.ip()), port: address.port() }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (host, port) = text.rsplit_once(':').ok_or(TargetError::Form)?;
        if text.contains('/') || host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return Err(TargetError::Form);
        }
        if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(TargetError::Port);
        }
        Self::new(host, port.parse().map_err(|_gone: std::num::ParseIntError| TargetError::Port)?)
    }
}

impl TryFrom<String> for Target {
    type Error = TargetError;

    fn try_from(text: String) -> Result<Self, TargetError> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Self::Address(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_the_three_forms() {
        assert_eq!("Example.ORG.:80".parse::<Target>().unwrap().to_string(), "example.org:80");
        for text in ["10.0.0.1:443", "10.0.0.1.:443"] {
            assert_eq!(text.parse::<Target>().unwrap().address(), "10.0.0.1:443".parse().ok());
        }
        assert_eq!("[::1]:1".parse::<Target>().unwrap().to_string(), "[::1]:1");
    }

    #[test]
    fn refuses_what_cannot_be_dialled() {
        for (text, error) in [
            ("host", TargetError::Form),
            ("::1:80", TargetError::Form),
            ("http://host/", TargetError::Form),
            ("host:80/path", TargetError::Form),
            ("host:0", TargetError::Port),
            ("host:65536", TargetError::Port),
            ("host:+80", TargetError::Port),
            (":80", TargetError::Name),
            ("a b:80", TargetError::Name),
            ("a..b:80", TargetError::Name),
            ("[10.0.0.1]:80", TargetError::Name),
            ("[::1.]:80", TargetError::Name),
            ("caf\u{e9}:80", TargetError::Name),
        ] {
            assert_eq!(text.parse::<Target>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_reads_back(text in "\\PC{0,80}") {
            if let Ok(target) = text.parse::<Target>() {
                prop_assert_eq!(target.to_string().parse::<Target>(), Ok(target));
            }
        }
    }
}
