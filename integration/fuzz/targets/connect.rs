//! What a request of a link asks for: a CONNECT to one host and port is a tunnel, an extended one with a path UDP.

use http::{Method, Uri};
use laneway::failure::Kind;
use laneway::link::request::RequestKind;
use laneway::link::speed::Direction;
use laneway::wire::masque;
use laneway::wire::target::{Host, Target};

/// `data` is the method, a space, and the `:authority` or the whole URI.
pub fn run(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b' ');
    let (method, uri) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let (Ok(method), Ok(uri)) = (Method::from_bytes(method), Uri::try_from(uri)) else { return };
    datagrams(&method, &uri);
    match RequestKind::of(&method, &uri, None) {
        Ok(RequestKind::Udp(_) | RequestKind::Http { .. }) => panic!("without its protocol"),
        Ok(RequestKind::Updates | RequestKind::Resolve | RequestKind::Speed(Direction::Up)) => {
            assert_eq!(method, Method::POST)
        }
        Ok(
            RequestKind::Info
            | RequestKind::Members
            | RequestKind::Speed(Direction::Down)
            | RequestKind::Piece(_),
        ) => {
            assert_eq!(method, Method::GET);
        }
        Ok(RequestKind::Tunnel(target)) => {
            assert!(method == Method::CONNECT && target.port != 0);
            if let Host::Name(name) = &target.host {
                let name_byte =
                    |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
                assert!(name.bytes().all(name_byte) && name.len() <= 253);
            }
            let sent =
                Uri::builder().authority(target.to_string()).build().expect("a target is an authority");
            assert_eq!(RequestKind::of(&Method::CONNECT, &sent, None), Ok(RequestKind::Tunnel(target)));
        }
        Err(failure) => {
            assert!(failure.sentence.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            let tunnel = method == Method::CONNECT && uri.authority().is_some();
            assert_eq!(failure.kind == Kind::Unsupported, !tunnel);
            let authority = uri.authority().filter(|_| tunnel);
            assert!(authority.is_none_or(|authority| authority.as_str().parse::<Target>().is_err()));
        }
    }
}

/// The same request as an extended CONNECT.
fn datagrams(method: &Method, uri: &Uri) {
    match RequestKind::of(method, uri, Some(masque::PROTOCOL)) {
        Ok(RequestKind::Udp(target)) => {
            assert!(method == Method::CONNECT && target.port != 0);
            assert_eq!(masque::target(&masque::path(&target)), Some(target));
        }
        Ok(other) => panic!("{other:?} with another protocol"),
        Err(failure) => {
            assert!(
                uri.path_and_query().and_then(|path| masque::target(path.as_str())).is_none()
                    || failure.kind == Kind::Unsupported
            );
        }
    }
}
