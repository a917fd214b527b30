//! What may be sent a second time when it is unknown whether the first time had an effect.

use http::Method;

use super::hello::{ClientHello, HANDSHAKE_RECORD};
use super::http::{BodyLength, RequestHead, head_end};

/// Whether everything that an app has sent so far may be sent to the server again on another connection: nothing; one
/// whole TLS ClientHello without early data, with nothing after it; or one whole request with a safe method (RFC 9110
/// §9.2.1), with nothing after it.
pub fn is_safe(sent: &[u8]) -> bool {
    match sent.first() {
        None => true,
        Some(&HANDSHAKE_RECORD) => is_safe_hello(sent),
        Some(_) => is_safe_request(sent),
    }
}

/// Whether requests with this method change nothing at the server, by definition (RFC 9110 §9.2.1).
pub fn is_safe_method(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn is_safe_request(sent: &[u8]) -> bool {
    if head_end(sent, 0) != Some(sent.len()) {
        return false;
    }
    RequestHead::parse(sent).is_ok_and(|request| {
        is_safe_method(&request.method)
            && request.body == BodyLength::None
            && request.upgrade.is_none()
            // The login is for this connection.
            && !request.logs_in_connection()
    })
}

fn is_safe_hello(sent: &[u8]) -> bool {
    let hello = ClientHello::parse(sent).ok().flatten();
    hello.is_some_and(|hello| hello.length == sent.len() && !hello.early_data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hello::tests::real_hello;
    use proptest::prelude::*;

    const CLIENT_HELLO: u8 = 1;
    const EARLY_DATA: u16 = 42;

    /// A ClientHello with these extension types, each empty, in records of at most `record` bytes.
    fn hello(extensions: &[u16], record: usize) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
        let extensions: Vec<u8> =
            extensions.iter().flat_map(|kind| [kind.to_be_bytes(), [0, 0]].concat()).collect();
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend(extensions);
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let message = [&[CLIENT_HELLO], &length[1..], &body].concat();
        message
            .chunks(record)
            .flat_map(|part| {
                [&[HANDSHAKE_RECORD, 3, 1][..], &u16::try_from(part.len()).unwrap().to_be_bytes(), part]
                    .concat()
            })
            .collect()
    }

    #[test]
    fn the_hello_of_a_real_library_is_safe_until_anything_follows_it() {
        let hello = real_hello("server.example");
        assert!(is_safe(&hello));
        for length in 1..hello.len() {
            assert!(!is_safe(&hello[..length]), "cut at {length}");
        }
        assert!(!is_safe(&[&hello[..], b"x"].concat()));
        assert!(!is_safe(&[&hello[..], &hello].concat()));
    }

    #[test]
    fn only_whole_requests_that_change_nothing_are_safe() {
        let request = |method: &str, fields: &str| {
            format!("{method} /a HTTP/1.1\r\nHost: h\r\n{fields}\r\n").into_bytes()
        };
        for method in ["GET", "HEAD", "OPTIONS"] {
            assert!(is_safe(&request(method, "")));
        }
        for method in ["POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"] {
            assert!(!is_safe(&request(method, "")), "{method}");
        }
        assert!(!is_safe(&request("GET", "Content-Length: 3\r\n")));
        assert!(!is_safe(&request("GET", "Transfer-Encoding: chunked\r\n")));
        assert!(!is_safe(&request("GET", "Connection: upgrade\r\nUpgrade: websocket\r\n")));
        assert!(!is_safe(&request("GET", "Authorization: Negotiate YII=\r\n")));
        assert!(is_safe(&request("GET", "Authorization: Basic eDp5\r\n")));
        assert!(!is_safe(&[request("GET", ""), request("POST", "")].concat()));
        assert!(!is_safe(b"GET / HTTP/1.1\r\nHost: h\r\n"));
        assert!(!is_safe(b"SSH-2.0-OpenSSH_9.2\r\n"));
    }

    proptest! {
        #[test]
        fn a_hello_with_early_data_is_never_safe(
            mut extensions in proptest::collection::vec(0_u16..60, 0..12), at: usize, early: bool, record in 1_usize..200,
        ) {
            extensions.retain(|kind| *kind != EARLY_DATA);
            if early {
                extensions.insert(at % (extensions.len() + 1), EARLY_DATA);
            }
            prop_assert_eq!(is_safe(&hello(&extensions, record)), !early);
        }

        #[test]
        fn a_request_that_may_change_something_is_never_safe(
            method in "[A-Z]{1,8}", path in "/[a-z]{0,8}", body in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let head = format!("{method} {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len());
            let safe = is_safe(&[head.as_bytes(), &body].concat());
            prop_assert!(!safe || (body.is_empty() && ["GET", "HEAD", "OPTIONS"].contains(&method.as_str())));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), hello: bool) {
            let mut bytes = bytes;
            if hello {
                bytes.splice(0..0, [HANDSHAKE_RECORD, 3, 1]);
            }
            let _ = is_safe(&bytes);
        }
    }
}
