//! The destination that an app requests: `host:port`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Maximum length of a name of another script, in bytes: its conversion takes more than linear time. A name of 253
/// characters has at most four bytes for each.
const LONGEST_UNICODE: usize = 4 * 253;

/// A host, identified by name or by address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A name in lower case. It contains only letters, digits, `-`, `_` and `.`, and cannot be read as an address.
    /// It keeps its trailing dot: without one, resolvers append their domains to it.
    Name(String),
    /// An address, never an IPv4-mapped one.
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
    /// Its last label is a number, so that it is read as an IPv4 address, but is not one.
    #[error("the host looks like an IPv4 address, but is not one: that has four numbers from 0 to 255")]
    Address,
}

impl Host {
    /// Parses a name or an address; IPv6 with or without brackets, without a zone. A name that some software
    /// reads as an IPv4 address is one, so that no address passes the access rules as a name: a trailing dot (`10.0.0.1.`), fewer
    /// than four numbers, octal and hexadecimal ones (`127.1`, `0x7f000001`), as inet_aton(3) and browsers read them
    /// (WHATWG URL §3.5). Names of other scripts are converted to A-labels (RFC 5890 §2.3.2.1, UTS #46).
    ///
    /// # Errors
    /// [`TargetError::Name`], [`TargetError::Address`].
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        if !text.is_ascii() {
            if text.len() > LONGEST_UNICODE {
                return Err(TargetError::Name);
            }
            let ascii = idna::domain_to_ascii(text).map_err(|_not_a_name| TargetError::Name)?;
            return if ascii.is_ascii() { Self::parse(&ascii) } else { Err(TargetError::Name) };
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let name = text.strip_suffix('.').unwrap_or(text);
        if let Ok(address) = bare.unwrap_or(name).parse::<IpAddr>() {
            let odd = if address.is_ipv4() { bare.is_some() } else { name != text };
            return if odd { Err(TargetError::Name) } else { Ok(Self::from(address)) };
        }
        if let Some(address) = numeric(name) {
            return address.map(|address| Self::Address(address.into())).ok_or(TargetError::Address);
        }
        let label_ok = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if name.len() > 253 || !name.split('.').all(label_ok) {
            return Err(TargetError::Name);
        }
        Ok(Self::Name(text.to_ascii_lowercase()))
    }
}

/// A name without its trailing dot, for comparisons.
pub fn without_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Self {
        Self::Address(address.to_canonical())
    }
}

/// The IPv4 address of a host whose last label is a number (WHATWG URL §3.5); `Some(None)` if the host is not an
/// address. `None` for a name.
fn numeric(host: &str) -> Option<Option<Ipv4Addr>> {
    let last = host.rsplit('.').next()?;
    let is_number = match hexadecimal(last) {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()),
    };
    is_number.then(|| {
        let parts: Vec<_> = host.split('.').map(number).collect::<Option<_>>()?;
        let (last, first) = parts.split_last().filter(|(_, first)| first.len() < 4)?;
        let mut address = *last;
        if *last >= 1 << (8 * (4 - first.len())) {
            return None;
        }
        for (at, part) in first.iter().enumerate() {
            address |= u64::from(u8::try_from(*part).ok()?) << (8 * (3 - at));
        }
        u32::try_from(address).ok().map(Ipv4Addr::from)
    })
}

fn hexadecimal(part: &str) -> Option<&str> {
    part.strip_prefix("0x").or_else(|| part.strip_prefix("0X"))
}

/// One part of an IPv4 address: decimal, octal after `0`, hexadecimal after `0x`.
fn number(part: &str) -> Option<u64> {
    let (digits, radix) = match (hexadecimal(part), part.strip_prefix('0')) {
        (Some(""), _) | (None, Some("")) => return Some(0),
        (Some(digits), _) => (digits, 16),
        (None, Some(digits)) => (digits, 8),
        (None, None) => (part, 10),
    };
    digits
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric())
        .then(|| u64::from_str_radix(digits, radix).ok())?
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

    /// Whether both are the same host and port: a trailing dot of a name makes no difference.
    pub fn is_same(&self, other: &Self) -> bool {
        let is_same_host = match (&self.host, &other.host) {
            (Host::Name(one), Host::Name(other)) => without_dot(one) == without_dot(other),
            (one, other) => one == other,
        };
        is_same_host && self.port == other.port
    }

    /// The socket address, if the host is an address.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Name(_) => None,
            Host::Address(ip) => Some(SocketAddr::new(ip, self.port)),
        }
    }
}

/// A destination that a person configures: a host that only looks like an address is more likely a typing error than a name
/// (`10.0.0.l`, `10.0.0.1-9`), and so is an address in a form that only some software reads (`10.0.1`).
///
/// # Errors
/// Those of [`Target::from_str`], and [`TargetError::Address`].
pub fn configured(text: &str) -> Result<Target, TargetError> {
    let target: Target = text.parse()?;
    let written = text.rsplit_once(':').map_or(text, |(host, _)| without_dot(host));
    let is_odd = match &target.host {
        Host::Name(name) => is_nearly_address(name),
        Host::Address(IpAddr::V4(_)) => !written.starts_with('[') && written.parse::<Ipv4Addr>().is_err(),
        Host::Address(IpAddr::V6(_)) => false,
    };
    if is_odd { Err(TargetError::Address) } else { Ok(target) }
}

/// As [`configured`], with the default port if the text is only a host. An IPv6 address needs brackets only in front of a port;
/// without them, one that ends with the default port is refused: that was meant as a port.
///
/// # Errors
/// Those of [`configured`].
pub fn configured_with(text: &str, default_port: u16) -> Result<Target, TargetError> {
    if let Ok(ip) = text.parse::<std::net::Ipv6Addr>() {
        return match text.strip_suffix(&format!(":{default_port}")) {
            Some(_) => Err(TargetError::Form),
            None => Ok(SocketAddr::new(ip.into(), default_port).into()),
        };
    }
    match text.contains(':') && !text.ends_with(']') {
        true => configured(text),
        false => configured(&format!("{text}:{default_port}")),
    }
}

/// Whether a name looks like an IPv4 address with a typing error: numbers, and at the end a part that begins with a digit or
/// is a single character. No top-level domain does (RFC 3696 §2).
pub fn is_nearly_address(name: &str) -> bool {
    let mut labels = without_dot(name).rsplit('.');
    let Some(last) = labels.next() else { return false };
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    let numbers: Vec<_> = labels.collect();
    numbers.len() >= 2
        && numbers.iter().all(|label| is_number(label))
        && (last.len() == 1 || last.starts_with(|c: char| c.is_ascii_digit()))
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self { host: Host::from(address.ip()), port: address.port() }
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
    fn a_configured_host_without_a_port_has_the_default_one() {
        for (text, means) in [
            ("10.77.0.1", "10.77.0.1:7420"),
            ("gw.example", "gw.example:7420"),
            ("fd00::1", "[fd00::1]:7420"),
            ("[fd00::1]", "[fd00::1]:7420"),
            ("[fd00::1]:1", "[fd00::1]:1"),
            ("gw.example:1", "gw.example:1"),
        ] {
            assert_eq!(configured_with(text, 7420).unwrap().to_string(), means, "{text}");
        }
        for bad in ["", "a:", "a:b", "10.0.0.l", "10.0.1", "a/b", "[fd00::1", "gw.example:0", "fd00::1:7420"]
        {
            assert!(configured_with(bad, 7420).is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_the_three_forms() {
        assert_eq!("Example.ORG.:80".parse::<Target>().unwrap().to_string(), "example.org.:80");
        assert_eq!("Printer.:80".parse::<Target>().unwrap().to_string(), "printer.:80");
        for text in ["10.0.0.1:443", "10.0.0.1.:443"] {
            assert_eq!(text.parse::<Target>().unwrap().address(), "10.0.0.1:443".parse().ok());
        }
        assert_eq!("[::1]:1".parse::<Target>().unwrap().to_string(), "[::1]:1");
    }

    #[test]
    fn a_trailing_dot_makes_no_other_host() {
        let same = |one: &str, other: &str| {
            one.parse::<Target>().unwrap().is_same(&other.parse::<Target>().unwrap())
        };
        assert!(same("a.example:80", "A.example.:80") && same("printer.:80", "printer:80"));
        assert!(same("10.0.0.1:80", "10.0.0.1.:80"));
        assert!(!same("a.example:80", "a.example.:81") && !same("a.example:80", "b.example:80"));
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
            ("fe80::1%eth0:80", TargetError::Form),
            ("[fe80::1%25eth0]:80", TargetError::Name),
        ] {
            assert_eq!(text.parse::<Target>(), Err(error), "{text}");
        }
    }

    #[test]
    fn whatever_any_software_takes_for_an_address_is_one() {
        for (address, texts) in [
            (
                "127.0.0.1",
                &[
                    "127.1",
                    "127.0.1",
                    "127.0.0.1.",
                    "127.1.",
                    "2130706433",
                    "0x7f000001",
                    "0X7F.1",
                    "0x7f.0x0.0x0.0x1",
                    "0177.0.0.1",
                    "0177.1",
                    "017700000001",
                    "00000000177.0.0.1",
                    "127.0.0.0x1",
                    "[::ffff:127.0.0.1]",
                    "::ffff:7f00:1",
                    "[0:0:0:0:0:ffff:7f00:0001]",
                    "\u{ff11}\u{ff12}\u{ff17}.\u{ff10}.0.1",
                    "\u{ff11}\u{ff12}\u{ff17}\u{ff0e}0\u{3002}0.\u{ff11}",
                    "0\u{ff58}7f.1",
                    "\u{2460}27.0.0.1",
                ][..],
            ),
            ("0.0.0.0", &["0", "0x", "0x0", "0.0", "00.0x.0.0"]),
            ("255.255.255.255", &["4294967295", "0xffffffff", "255.16777215", "0377.255.65535"]),
            ("10.0.0.42", &["10.42", "012.0.42"]),
            ("::127.0.0.1", &["::7f00:1", "[::127.0.0.1]"]),
            ("64:ff9b::7f00:1", &["64:ff9b::127.0.0.1"]),
        ] {
            let address: IpAddr = address.parse().unwrap();
            for text in texts {
                assert_eq!(Host::parse(text), Ok(Host::Address(address)), "{text}");
            }
        }
        for text in [
            "10.0.0.256",
            "256.0.0.1",
            "1.2.3.4.5",
            "4294967296",
            "0x100000000",
            "08.1.1.1",
            "127.0.0.08",
            "1..2",
            "a.1",
            "example.0x7f",
            "1.2.3.-4.5",
            "99999999999999999999999999999",
        ] {
            assert_eq!(Host::parse(text), Err(TargetError::Address), "{text}");
        }
        for name in ["1e100.net", "0xdeadbeef.example", "x7f", "10.in-addr.arpa", "3com", "0x7g", "1.2.3.4a"]
        {
            assert_eq!(Host::parse(name), Ok(Host::Name(name.into())));
        }
    }

    #[test]
    fn names_of_other_scripts_are_converted_and_others_stay_as_they_are() {
        for (text, name) in [
            ("caf\u{e9}.example", "xn--caf-dma.example"),
            ("B\u{dc}CHER.example.", "xn--bcher-kva.example."),
            ("xn--caf-dma.example", "xn--caf-dma.example"),
            ("_dmarc.some_host.example", "_dmarc.some_host.example"),
        ] {
            assert_eq!(Host::parse(text), Ok(Host::Name(name.into())), "{text}");
        }
        assert_eq!(Host::parse("\u{fffd}.example"), Err(TargetError::Name));
        assert_eq!(Host::parse(&"\u{e9}".repeat(1 << 20)), Err(TargetError::Name));
    }

    #[test]
    fn what_looks_like_an_address_in_an_option_and_is_none_is_refused() {
        for text in [
            "10.0.0.l:80",
            "10.0.0.1-9:80",
            "10.0.0.0-24:80",
            "10.0.0.1O:80",
            "10.0.0:80",
            "0x0a000001:80",
            "010.0.0.1:80",
            "10.0.0.256:80",
            "10.0.0.1.2:80",
        ] {
            assert_eq!(configured(text), Err(TargetError::Address), "{text}");
        }
        for text in
            ["10.0.0.5:80", "10.0.0.5.:80", "[::1]:80", "[::ffff:10.0.0.5]:80", "1.2.3.com:80", "3.com:80"]
        {
            assert!(configured(text).is_ok(), "{text}");
        }
        assert!(configured("4.3.2.10.in-addr.arpa:80").is_ok() && configured("a.b:x").is_err());
    }

    proptest! {
        #[test]
        fn every_form_of_an_address_is_read_as_that_address(
            bits in any::<u32>(), parts in 1_u32..=4, radix in prop::collection::vec(0_usize..3, 4),
        ) {
            let one = |number: u32, radix: usize| match radix {
                0 => number.to_string(),
                1 => format!("0{number:o}"),
                _ => format!("0x{number:x}"),
            };
            let last = 8 * (5 - parts);
            let mut text: Vec<_> = (1..parts).map(|part| (bits >> (32 - 8 * part)) & 0xff).collect();
            text.push(if last == 32 { bits } else { bits & ((1 << last) - 1) });
            let text: Vec<_> = text.into_iter().zip(radix).map(|(part, radix)| one(part, radix)).collect();
            prop_assert_eq!(Host::parse(&text.join(".")), Ok(Host::Address(Ipv4Addr::from(bits).into())));
        }

        #[test]
        fn any_text_is_read_or_refused_and_reads_back(text in "\\PC{0,80}") {
            if let Ok(target) = text.parse::<Target>() {
                prop_assert_eq!(target.to_string().parse::<Target>(), Ok(target));
            }
        }
    }
}
