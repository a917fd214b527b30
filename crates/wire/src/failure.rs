//! Why a connection failed, with one mapping to each protocol.
//!
//! A [`Failure`] is created where something went wrong. It crosses the link as an HTTP status with a Proxy-Status field
//! (RFC 9209), and reaches the app as a SOCKS5 reply (RFC 1928 §6) or an HTTP status.

use std::fmt;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No gateway became usable while the connection was held.
    NoGateway,
    /// A rule forbids the requested name.
    NameForbidden,
    /// A rule, or a built-in protection of the gateway, forbids the resolved address.
    AddressForbidden,
    /// The name does not exist or has no address.
    NameNotFound,
    /// The name servers did not answer.
    DnsTimeout,
    /// The name servers answered that they cannot or will not resolve the name.
    DnsFailed,
    /// The gateway has no route to the network.
    NetworkUnreachable,
    /// The host does not answer on its network.
    HostUnreachable,
    /// The server refused the connection.
    Refused,
    /// The server did not answer the connection attempt in time.
    ConnectTimeout,
    /// The connection to the server broke.
    Terminated,
    /// The server's certificate is not valid for its name, or no trusted authority has issued it.
    Certificate,
    /// The gateway's upstream proxy does not accept the gateway's login.
    UpstreamLogin,
    /// The limit on tunnels, connections or bytes was reached.
    LimitReached,
    /// The request returned to a node that it had already passed.
    Loop,
    /// The server's response violates its protocol.
    BadResponse,
    /// The app requested something that this proxy does not support.
    Unsupported,
    /// The gateway no longer reaches anything; another one may.
    NoWayOut,
}

/// Where it went wrong, as seen from the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// This node, before any gateway.
    Local,
    /// The link, or the gateway behind it.
    Link,
    /// The gateway itself, by its own decision.
    Gateway,
    /// The server, or the network between the gateway and it.
    Server,
}

/// One failure: what went wrong, where, and one sentence for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub kind: Kind,
    /// Where it went wrong.
    pub side: Side,
    /// One sentence for the app's user, in printable ASCII.
    pub sentence: String,
}

/// How a kind is expressed in each protocol: HTTP status, Proxy-Status error type (RFC 9209 §2.3), SOCKS5 reply code
/// (RFC 1928 §6), and its own token for logs and the wire.
type Row = (u16, &'static str, u8, &'static str);

/// All kinds, in the order of their declaration.
const KINDS: [Kind; 18] = [
    Kind::NoGateway,
    Kind::NameForbidden,
    Kind::AddressForbidden,
    Kind::NameNotFound,
    Kind::DnsTimeout,
    Kind::DnsFailed,
    Kind::NetworkUnreachable,
    Kind::HostUnreachable,
    Kind::Refused,
    Kind::ConnectTimeout,
    Kind::Terminated,
    Kind::Certificate,
    Kind::UpstreamLogin,
    Kind::LimitReached,
    Kind::Loop,
    Kind::BadResponse,
    Kind::Unsupported,
    Kind::NoWayOut,
];

const SIDES: [(Side, &str); 4] =
    [(Side::Local, "local"), (Side::Link, "link"), (Side::Gateway, "gateway"), (Side::Server, "server")];

/// Maximum length of a sentence that is sent or accepted, in bytes: room for a name of 253 characters twice.
const LONGEST_SENTENCE: usize = 800;

impl Failure {
    /// Creates a failure. The sentence is reduced to printable ASCII and to a bounded length.
    pub fn new(kind: Kind, side: Side, sentence: impl AsRef<str>) -> Self {
        Self { kind, side, sentence: printable(sentence.as_ref()) }
    }

    /// The HTTP status for it.
    pub fn http_status(&self) -> u16 {
        self.kind.row().0
    }

    /// The SOCKS5 reply code for it (RFC 1928 §6).
    pub fn socks5_reply(&self) -> u8 {
        self.kind.row().2
    }

    /// The value of the Proxy-Status field (RFC 9209 §2) for it, with `proxy` as its origin.
    pub fn proxy_status(&self, proxy: &str) -> String {
        let (_, error, _, token) = self.kind.row();
        let side = self.side.token();
        let details = self.sentence.replace('\\', "\\\\").replace('"', "\\\"");
        format!("{proxy}; error={error}; kind={token}; side={side}; details=\"{details}\"")
    }

    /// Parses a value written by [`Failure::proxy_status`]. `None` if it has another format.
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

    /// This failure as `gateway` reports it: the sentence begins with that name in place of "the gateway".
    #[must_use]
    pub fn said_by(&self, gateway: &str) -> Self {
        let sentence = match self.sentence.strip_prefix("the gateway") {
            Some(rest) if rest.starts_with([' ', '\'']) => format!("{gateway}{rest}"),
            _ => format!("{gateway}: {}", self.sentence),
        };
        Self::new(self.kind, self.side, sentence)
    }

    /// What several gateways have said, as one sentence: each sentence once, after the names of all that have said it.
    /// `None` without failures.
    pub fn said_by_all(failures: &[Self]) -> Option<String> {
        let split = |failure: &Self| {
            let name = failure.reporter().unwrap_or_default().len();
            let end = if name > 0 { "gateway ".len() + name } else { 0 };
            let (who, what) = failure.sentence.split_at(end);
            (who.to_owned(), what.to_owned())
        };
        let mut said: Vec<(Vec<String>, String)> = Vec::new();
        for (who, what) in failures.iter().map(split) {
            match said.iter_mut().find(|(_, same)| *same == what) {
                Some((all, _)) if all.contains(&who) => {}
                Some((all, _)) => all.push(who),
                None => said.push((vec![who], what)),
            }
        }
        let sentences: Vec<_> =
            said.into_iter().map(|(who, what)| format!("{}{what}", who.join(" and "))).collect();
        (!sentences.is_empty()).then(|| sentences.join("; "))
    }

    /// The name of the gateway that reports it, if one does: see [`Failure::said_by`].
    pub fn reporter(&self) -> Option<&str> {
        let rest = self.sentence.strip_prefix("gateway ")?;
        rest.find([' ', '\'', ':']).map(|end| &rest[..end])
    }

    /// The sentence as it reads on the gateway itself: without "the gateway" in front, and with "this machine's" for
    /// "the gateway's".
    pub fn said_here(&self) -> String {
        let sentence = self.sentence.strip_prefix("the gateway ").unwrap_or(&self.sentence);
        sentence.replace("the gateway's ", "this machine's ")
    }

    /// Whether another gateway may succeed. A failure that the destination caused is never blamed on a gateway.
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
    /// The only table of the values for all protocols.
    const fn row(self) -> Row {
        match self {
            Self::NoGateway => (503, "destination_unavailable", 1, "no-gateway"),
            Self::NameForbidden => (403, "http_request_denied", 2, "name-forbidden"),
            Self::AddressForbidden => (403, "destination_ip_prohibited", 2, "address-forbidden"),
            Self::NameNotFound => (502, "dns_error", 4, "name-not-found"),
            Self::DnsTimeout => (504, "dns_timeout", 4, "dns-timeout"),
            Self::DnsFailed => (502, "dns_error", 4, "dns-failed"),
            Self::NetworkUnreachable => (502, "destination_ip_unroutable", 3, "network-unreachable"),
            Self::HostUnreachable => (502, "destination_ip_unroutable", 4, "host-unreachable"),
            Self::Refused => (502, "connection_refused", 5, "refused"),
            Self::ConnectTimeout => (504, "connection_timeout", 6, "connect-timeout"),
            Self::Terminated => (502, "connection_terminated", 1, "terminated"),
            Self::Certificate => (502, "tls_certificate_error", 1, "certificate"),
            Self::UpstreamLogin => (502, "proxy_configuration_error", 1, "upstream-login"),
            Self::LimitReached => (503, "connection_limit_reached", 1, "limit-reached"),
            Self::Loop => (502, "proxy_loop_detected", 2, "loop"),
            Self::BadResponse => (502, "http_protocol_error", 1, "bad-response"),
            Self::Unsupported => (501, "http_request_error", 7, "unsupported"),
            Self::NoWayOut => (503, "destination_unavailable", 1, "no-way-out"),
        }
    }

    /// The token for logs and the wire.
    pub fn token(self) -> &'static str {
        self.row().3
    }
}

impl Side {
    /// The token for logs and the wire.
    pub fn token(self) -> &'static str {
        SIDES.iter().find(|(side, _)| *side == self).expect("the table has a row for every side").1
    }
}

/// An error and its causes on one line, separated by colons.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Makes any text safe for one header line or one log line: printable ASCII of bounded length.
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

    /// The values that apps and gateways of all versions rely on. A new kind needs a line here and an entry in
    /// [`KINDS`].
    fn expected(kind: Kind) -> (u16, &'static str, u8, &'static str) {
        match kind {
            Kind::NoGateway => (503, "destination_unavailable", 1, "no-gateway"),
            Kind::NameForbidden => (403, "http_request_denied", 2, "name-forbidden"),
            Kind::AddressForbidden => (403, "destination_ip_prohibited", 2, "address-forbidden"),
            Kind::NameNotFound => (502, "dns_error", 4, "name-not-found"),
            Kind::DnsTimeout => (504, "dns_timeout", 4, "dns-timeout"),
            Kind::DnsFailed => (502, "dns_error", 4, "dns-failed"),
            Kind::NetworkUnreachable => (502, "destination_ip_unroutable", 3, "network-unreachable"),
            Kind::HostUnreachable => (502, "destination_ip_unroutable", 4, "host-unreachable"),
            Kind::Refused => (502, "connection_refused", 5, "refused"),
            Kind::ConnectTimeout => (504, "connection_timeout", 6, "connect-timeout"),
            Kind::Terminated => (502, "connection_terminated", 1, "terminated"),
            Kind::Certificate => (502, "tls_certificate_error", 1, "certificate"),
            Kind::UpstreamLogin => (502, "proxy_configuration_error", 1, "upstream-login"),
            Kind::LimitReached => (503, "connection_limit_reached", 1, "limit-reached"),
            Kind::Loop => (502, "proxy_loop_detected", 2, "loop"),
            Kind::BadResponse => (502, "http_protocol_error", 1, "bad-response"),
            Kind::Unsupported => (501, "http_request_error", 7, "unsupported"),
            Kind::NoWayOut => (503, "destination_unavailable", 1, "no-way-out"),
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
        assert_eq!(KINDS.len(), Kind::NoWayOut as usize + 1, "KINDS ends with the last kind");
    }

    #[test]
    fn a_failure_that_a_gateway_reports_begins_with_the_name_of_that_gateway() {
        for (sentence, said) in [
            ("the gateway cannot find the name a.b", "gateway mill-7 cannot find the name a.b"),
            ("the gateway's name servers failed", "gateway mill-7's name servers failed"),
            ("10.0.0.5:80 did not answer", "gateway mill-7: 10.0.0.5:80 did not answer"),
            ("the gateways differ", "gateway mill-7: the gateways differ"),
        ] {
            let failure = Failure::new(Kind::DnsFailed, Side::Gateway, sentence);
            let reported = failure.said_by("gateway mill-7");
            assert_eq!((reported.sentence.as_str(), reported.reporter()), (said, Some("mill-7")));
            assert_eq!(failure.reporter(), None);
        }
    }

    #[test]
    fn what_several_gateways_say_is_one_sentence_with_all_their_names() {
        let said = |by: &str, sentence: &str| {
            Failure::new(Kind::DnsFailed, Side::Server, sentence).said_by(&format!("gateway {by}"))
        };
        let unknown = "the gateway cannot find the name a.b";
        let failed = "the gateway's name servers answered SERVFAIL for a.b";
        for (failures, expected) in [
            (vec![], None),
            (vec![said("g1", unknown)], Some("gateway g1 cannot find the name a.b")),
            (
                vec![said("g1", unknown), said("g2", unknown), said("g1", unknown)],
                Some("gateway g1 and gateway g2 cannot find the name a.b"),
            ),
            (
                vec![said("g1", failed), said("g2", unknown)],
                Some(
                    "gateway g1's name servers answered SERVFAIL for a.b; gateway g2 cannot find the name a.b",
                ),
            ),
        ] {
            assert_eq!(Failure::said_by_all(&failures).as_deref(), expected);
        }
    }

    #[test]
    fn what_is_the_gateways_is_this_machines_on_the_gateway_itself() {
        for (sentence, said) in [
            ("the gateway cannot find the name a.b", "cannot find the name a.b"),
            (
                "the gateway's name servers did not answer for a.b",
                "this machine's name servers did not answer for a.b",
            ),
            (
                "a.b:80 is refused by the gateway's upstream proxy p:1",
                "a.b:80 is refused by this machine's upstream proxy p:1",
            ),
        ] {
            assert_eq!(Failure::new(Kind::DnsFailed, Side::Gateway, sentence).said_here(), said);
        }
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
