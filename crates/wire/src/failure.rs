//! Why a connection failed, said once and mapped once for each dialect.
//!
//! A [`Failure`] is made where something went wrong, crosses the link as an HTTP status with a
//! Proxy-Status field (RFC 9209), and is told to the app by SOCKS5 reply (RFC 1928 §6) or HTTP status.

use std::fmt;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No gateway became usable while the connection was held.
    NoGateway,
    /// A rule refuses the name that was asked for.
    NameForbidden,
    /// A rule, or the gateway's own safety, refuses the resolved address.
    AddressForbidden,
    /// The name does not exist or has no address.
    NameNotFound,
    /// The resolver did not answer, or answered with a failure of its own.
    DnsTimeout,
    /// The gateway has no route to the network.
    NetworkUnreachable,
    /// The host does not answer on its network.
    HostUnreachable,
    /// The server refused the connection.
    Refused,
    /// The server did not answer the connection attempt in time.
    ConnectTimeout,
    /// The server connection broke.
    Terminated,
    /// The proxy that the gateway leaves by does not take the gateway's login.
    UpstreamLogin,
    /// A limit was reached: tunnels, connections or bytes.
    LimitReached,
    /// The request came back to a node that it had passed already.
    Loop,
    /// The server's answer breaks its protocol.
    BadResponse,
    /// The app asked for something that this proxy does not do.
    Unsupported,
}

/// Where it went wrong, seen from the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// This node, before any gateway.
    Local,
    /// The link, or the gateway behind it.
    Link,
    /// The gateway, by its own decision.
    Gateway,
    /// The server, or the network between the gateway and it.
    Server,
}

/// One failure: what, where, and one sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub kind: Kind,
    /// Where it went wrong.
    pub side: Side,
    /// One sentence, in printable ASCII, that the app's user reads.
    pub sentence: String,
}

/// How a kind is told in each dialect: HTTP status, Proxy-Status error type (RFC 9209 §2.3), SOCKS5 reply code
/// (RFC 1928 §6), and the token of its own for logs and the wire.
type Row = (u16, &'static str, u8, &'static str);

/// All kinds, in the order of their declaration.
const KINDS: [Kind; 15] = [
    Kind::NoGateway,
    Kind::NameForbidden,
    Kind::AddressForbidden,
    Kind::NameNotFound,
    Kind::DnsTimeout,
    Kind::NetworkUnreachable,
    Kind::HostUnreachable,
    Kind::Refused,
    Kind::ConnectTimeout,
    Kind::Terminated,
    Kind::UpstreamLogin,
    Kind::LimitReached,
    Kind::Loop,
    Kind::BadResponse,
    Kind::Unsupported,
];

const SIDES: [(Side, &str); 4] =
    [(Side::Local, "local"), (Side::Link, "link"), (Side::Gateway, "gateway"), (Side::Server, "server")];

/// The longest sentence that is sent or believed, in bytes.
const LONGEST_SENTENCE: usize = 400;

impl Failure {
    /// A failure; the sentence is made printable and cut to a bounded length.
    pub fn new(kind: Kind, side: Side, sentence: impl AsRef<str>) -> Self {
        Self { kind, side, sentence: printable(sentence.as_ref()) }
    }

    /// The HTTP status that says it.
    pub fn http_status(&self) -> u16 {
        self.kind.row().0
    }

    /// The SOCKS5 reply code that says it (RFC 1928 §6).
    pub fn socks5_reply(&self) -> u8 {
        self.kind.row().2
    }

    /// The value of the Proxy-Status field (RFC 9209 §2) that says it, naming `proxy` as its origin.
    pub fn proxy_status(&self, proxy: &str) -> String {
        let (_, error, _, token) = self.kind.row();
        let side = self.side.token();
        let details = self.sentence.replace('\\', "\\\\").replace('"', "\\\"");
        format!("{proxy}; error={error}; kind={token}; side={side}; details=\"{details}\"")
    }

    /// Reads what [`Failure::proxy_status`] wrote. `None` when it is not ours.
    pub fn from_proxy_status(value: &str) -> Option<Self> {
        let (facts, details) = value.split_once("details=\"")?;
        let parameter = |name: &str| {
            facts.split(';').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('=')).map(str::trim)
        };
        let kind = *KINDS.iter().find(|kind| Some(kind.token()) == parameter("kind"))?;
        let side = SIDES.iter().find(|(_, token)| Some(*token) == parameter("side"))?.0;
        let mut sentence = String::new();
        let mut characters = details.chars();
        while let Some(c) = characters.next() {
            match c {
                '"' => return Some(Self::new(kind, side, sentence)),
                '\\' => sentence.push(characters.next()?),
                c => sentence.push(c),
            }
        }
        None
    }

    /// True when another gateway may do better. What the destination caused is never held against a
    /// gateway.
    pub fn blames_gateway(&self) -> bool {
        matches!(self.side, Side::Link)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Failure {}

impl Kind {
    /// The one table that all dialects are read from.
    const fn row(self) -> Row {
        match self {
            Self::NoGateway => (503, "destination_unavailable", 1, "no-gateway"),
            Self::NameForbidden => (403, "http_request_denied", 2, "name-forbidden"),
            Self::AddressForbidden => (403, "destination_ip_prohibited", 2, "address-forbidden"),
            Self::NameNotFound => (502, "dns_error", 4, "name-not-found"),
            Self::DnsTimeout => (504, "dns_timeout", 4, "dns-timeout"),
            Self::NetworkUnreachable => (502, "destination_ip_unroutable", 3, "network-unreachable"),
            Self::HostUnreachable => (502, "destination_ip_unroutable", 4, "host-unreachable"),
            Self::Refused => (502, "connection_refused", 5, "refused"),
            Self::ConnectTimeout => (504, "connection_timeout", 6, "connect-timeout"),
            Self::Terminated => (502, "connection_terminated", 1, "terminated"),
            Self::UpstreamLogin => (502, "proxy_configuration_error", 1, "upstream-login"),
            Self::LimitReached => (503, "connection_limit_reached", 1, "limit-reached"),
            Self::Loop => (502, "proxy_loop_detected", 2, "loop"),
            Self::BadResponse => (502, "http_protocol_error", 1, "bad-response"),
            Self::Unsupported => (501, "http_request_error", 7, "unsupported"),
        }
    }

    /// The word for logs.
    pub fn token(self) -> &'static str {
        self.row().3
    }
}

impl Side {
    /// The word for logs and the wire.
    pub fn token(self) -> &'static str {
        SIDES.iter().find(|(side, _)| *side == self).expect("the table has a row for every side").1
    }
}

/// An error and its causes on one line, separated by colons.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Makes any text safe for one header line or one log line: printable ASCII, bounded.
pub fn printable(text: &str) -> String {
    text.chars()
        .take(LONGEST_SENTENCE)
        .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What apps and gateways of all versions rely on. A new kind needs its line here, and its place in [`KINDS`].
    fn expected(kind: Kind) -> (u16, &'static str, u8, &'static str) {
        match kind {
            Kind::NoGateway => (503, "destination_unavailable", 1, "no-gateway"),
            Kind::NameForbidden => (403, "http_request_denied", 2, "name-forbidden"),
            Kind::AddressForbidden => (403, "destination_ip_prohibited", 2, "address-forbidden"),
            Kind::NameNotFound => (502, "dns_error", 4, "name-not-found"),
            Kind::DnsTimeout => (504, "dns_timeout", 4, "dns-timeout"),
            Kind::NetworkUnreachable => (502, "destination_ip_unroutable", 3, "network-unreachable"),
            Kind::HostUnreachable => (502, "destination_ip_unroutable", 4, "host-unreachable"),
            Kind::Refused => (502, "connection_refused", 5, "refused"),
            Kind::ConnectTimeout => (504, "connection_timeout", 6, "connect-timeout"),
            Kind::Terminated => (502, "connection_terminated", 1, "terminated"),
            Kind::UpstreamLogin => (502, "proxy_configuration_error", 1, "upstream-login"),
            Kind::LimitReached => (503, "connection_limit_reached", 1, "limit-reached"),
            Kind::Loop => (502, "proxy_loop_detected", 2, "loop"),
            Kind::BadResponse => (502, "http_protocol_error", 1, "bad-response"),
            Kind::Unsupported => (501, "http_request_error", 7, "unsupported"),
        }
    }

    #[test]
    fn every_kind_is_told_by_the_codes_that_others_know() {
        for (place, kind) in KINDS.into_iter().enumerate() {
            assert_eq!(kind as usize, place, "KINDS lacks a kind before {kind:?}");
            let (status, error, socks5, token) = expected(kind);
            let failure = Failure::new(kind, Side::Server, "x");
            assert_eq!((failure.http_status(), failure.socks5_reply()), (status, socks5), "{kind:?}");
            let field = format!("laneway; error={error}; kind={token}; side=server; details=\"x\"");
            assert_eq!(failure.proxy_status("laneway"), field);
        }
        assert_eq!(KINDS.len(), Kind::Unsupported as usize + 1, "KINDS ends with the last kind");
    }

    proptest! {
        #[test]
        fn a_failure_crosses_the_link_unchanged(kind in 0..KINDS.len(), side in 0..SIDES.len(), text: String) {
            let failure = Failure::new(KINDS[kind], SIDES[side].0, text);
            let read = Failure::from_proxy_status(&failure.proxy_status("laneway"));
            prop_assert_eq!(read, Some(failure));
        }

        #[test]
        fn any_proxy_status_is_read_or_refused(text: String) {
            if let Some(failure) = Failure::from_proxy_status(&text) {
                prop_assert!(failure.sentence.is_ascii());
            }
        }
    }
}
