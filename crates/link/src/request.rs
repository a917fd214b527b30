//! What a client of a link can request.

use http::{Method, Uri};

use laneway_wire::failure::{Failure, Kind, Side};
use laneway_wire::masque;
use laneway_wire::sharing::PieceHash;
use laneway_wire::target::Target;

/// The path of requests for group updates.
pub(super) const UPDATES_PATH: &str = "/laneway/news";
/// The path of DNS queries (RFC 8484).
pub(super) const RESOLVE_PATH: &str = "/dns-query";
/// The path of requests for what the gateway says about itself.
pub(super) const INFO_PATH: &str = "/laneway/about";
/// The path of requests for the members that the gateway has seen.
pub(super) const MEMBERS_PATH: &str = "/laneway/members";
/// The path of measurements.
pub(super) const SPEED_PATH: &str = "/laneway/speed";

/// What the path of a request for a piece begins with; its hash follows.
pub(super) const PIECE_PATH: &str = "/laneway/piece/";

/// The address of a request by its path; the gateway ignores the authority.
pub(super) fn uri(path: &'static str) -> Uri {
    Uri::builder()
        .scheme("https")
        .authority("gateway.laneway")
        .path_and_query(path)
        .build()
        .expect("constants are a valid URI")
}

/// The transport at the gateway that a tunnel stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A TCP connection: CONNECT (RFC 9113 §8.5).
    Tcp,
    /// A TCP connection that carries plain HTTP/1.1 requests and nothing else, so that the gateway may answer them from its
    /// cache: CONNECT with the ALPN field (RFC 7639).
    Http,
    /// Such a connection over TLS from the gateway, which checks the server's certificate: the field `Laneway-Scheme: https`.
    Https,
    /// A UDP socket: CONNECT-UDP (RFC 9298), an extended CONNECT (RFC 8441). The stream carries capsules.
    Udp,
}

/// The direction of a measurement, seen from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the gateway.
    Down,
    /// To the gateway.
    Up,
}

/// What a client requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// A tunnel to this destination: CONNECT (RFC 9113 §8.5).
    Tunnel(Target),
    /// A tunnel for requests of HTTP/1.1 and nothing else.
    Http {
        /// Where they go.
        target: Target,
        /// The client sends nothing before it hears that there is a connection.
        waits: bool,
        /// The gateway sends the requests over TLS.
        is_secure: bool,
    },
    /// A tunnel for datagrams: CONNECT-UDP (RFC 9298 §3.4).
    Udp(Target),
    /// An exchange of group updates: POST.
    Updates,
    /// An answer of the gateway's name servers: POST (RFC 8484).
    Resolve,
    /// What the gateway says about itself: GET.
    Info,
    /// The members that it has seen: GET, for the authority.
    Members,
    /// A measurement of the link: GET or POST.
    Speed(Direction),
    /// A piece of a body: GET, on links that are made for this.
    Piece(PieceHash),
}

impl RequestKind {
    /// What a request with this method and address is for; `protocol` is that of an extended CONNECT (RFC 8441 §4).
    ///
    /// # Errors
    /// The refusal to answer with.
    pub fn of(method: &Method, uri: &Uri, protocol: Option<&str>) -> Result<Self, Failure> {
        let invalid =
            |why: &str| Failure::new(Kind::BadResponse, Side::Gateway, format!("not a destination: {why}"));
        match (method, protocol, uri.authority()) {
            (&Method::CONNECT, None, Some(authority)) => {
                let target = authority.as_str().parse::<Target>();
                target.map(Self::Tunnel).map_err(|error| invalid(&error.to_string()))
            }
            (&Method::CONNECT, Some(masque::PROTOCOL), _) => {
                let target = uri.path_and_query().and_then(|path| masque::target(path.as_str()));
                target.map(Self::Udp).ok_or_else(|| invalid("the path names none"))
            }
            (&Method::POST, None, _) if uri.path() == UPDATES_PATH => Ok(Self::Updates),
            (&Method::POST, None, _) if uri.path() == RESOLVE_PATH => Ok(Self::Resolve),
            (&Method::GET, None, _) if uri.path() == INFO_PATH => Ok(Self::Info),
            (&Method::GET, None, _) if uri.path() == MEMBERS_PATH => Ok(Self::Members),
            (&Method::GET, None, _) if uri.path() == SPEED_PATH => Ok(Self::Speed(Direction::Down)),
            (&Method::POST, None, _) if uri.path() == SPEED_PATH => Ok(Self::Speed(Direction::Up)),
            (&Method::GET, None, _) if let Some(hash) = uri.path().strip_prefix(PIECE_PATH) => {
                let hash = PieceHash::parse(hash);
                hash.map(Self::Piece).ok_or_else(|| invalid("the path names no piece"))
            }
            _ => Err(Failure::new(Kind::Unsupported, Side::Gateway, "a link does not carry such requests")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_served_with_its_methods_only() {
        let of = |method: Method, path| RequestKind::of(&method, &uri(path), None);
        let cases = [
            (UPDATES_PATH, None, Some(RequestKind::Updates)),
            (RESOLVE_PATH, None, Some(RequestKind::Resolve)),
            (INFO_PATH, Some(RequestKind::Info), None),
            (MEMBERS_PATH, Some(RequestKind::Members), None),
            (SPEED_PATH, Some(RequestKind::Speed(Direction::Down)), Some(RequestKind::Speed(Direction::Up))),
            ("/elsewhere", None, None),
        ];
        for (path, get, post) in cases {
            assert_eq!((of(Method::GET, path).ok(), of(Method::POST, path).ok()), (get, post), "{path}");
        }
        assert!(RequestKind::of(&Method::GET, &uri(INFO_PATH), Some("websocket")).is_err());
    }
}
