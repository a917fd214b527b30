//! What an app means reaches the server unchanged.

use super::{Pair, has_line};
use crate::lab::{Lab, Proxy};
use crate::peer::Peer;

/// The head that the server receives for this one, in which `AT` stands for the server's address.
async fn received(pair: &mut Pair, request: &[u8]) -> Vec<u8> {
    pair.app = Peer::connect(pair.proxy.address).await;
    pair.app.say(addressed(request, pair)).await;
    let mut server = pair.origin.accept().await;
    server.head_bytes().await
}

fn addressed(request: &[u8], pair: &Pair) -> Vec<u8> {
    let at = pair.origin.address.to_string().into_bytes();
    let (mut sent, mut rest) = (Vec::new(), request);
    while let Some(place) = rest.windows(2).position(|bytes| bytes == b"AT") {
        sent.extend([&rest[..place], &at].concat());
        rest = &rest[place + 2..];
    }
    [&sent, rest].concat()
}

#[tokio::test]
async fn targets_and_hosts_are_passed_as_they_were_written() {
    let mut pair = Pair::new().await;
    for (target, path) in [
        (&b"http://AT/%7e/%2E%2e/%zz?%41=%"[..], &b"/%7e/%2E%2e/%zz?%41=%"[..]),
        (b"http://AT//a//../b/./c", b"//a//../b/./c"),
        (b"http://AT?x=1", b"/?x=1"),
        (b"http://AT", b"/"),
        (b"HTTP://AT/", b"/"),
        (b"http://user:secret@AT/a@b", b"/a@b"),
        (b"http://user:\"secret\"^`{|}<>@AT/", b"/"),
        (b"http://AT/a?b#secret?c", b"/a?b"),
        (b"http://AT#secret", b"/"),
        (b"http://AT/caf\xe9/\xb1\xb1\xbe\xa9?\xff\x80", b"/caf\xe9/\xb1\xb1\xbe\xa9?\xff\x80"),
        (b"http://AT/\xc3\xa9|{}^`\"<>\\", b"/\xc3\xa9|{}^`\"<>\\"),
    ] {
        let request = [b"GET ", target, b" HTTP/1.1\r\nHost: AT\r\n\r\n"].concat();
        let head = received(&mut pair, &request).await;
        let start = [b"GET ", path, b" HTTP/1.1\r\n"].concat();
        assert!(head.starts_with(&start), "{}: {}", target.escape_ascii(), head.escape_ascii());
        assert!(!head.windows(6).any(|bytes| bytes == b"secret"), "{}", head.escape_ascii());
    }
}

#[tokio::test]
async fn fields_keep_their_order_spelling_and_bytes() {
    let mut pair = Pair::new().await;
    let head = received(
        &mut pair,
        b"POST http://AT/ HTTP/1.1\r\nuser-AGENT: x\r\nhost: AT\r\nX-B: 1\r\nCONTENT-length: 0\r\nx-a: \xe9  y\r\nX-b: 2\r\n\r\n",
    )
    .await;
    let want = [
        &b"POST / HTTP/1.1\r\nuser-AGENT: x\r\nhost: "[..],
        pair.origin.address.to_string().as_bytes(),
        b"\r\nX-B: 1\r\nCONTENT-length: 0\r\nx-a: \xe9  y\r\nX-b: 2\r\nVia: 1.1 laneway-test\r\n\r\n",
    ]
    .concat();
    assert_eq!(head, want, "{}", head.escape_ascii());
}

#[tokio::test]
async fn a_target_wins_over_a_host_that_differs_from_it() {
    let mut pair = Pair::new().await;
    let at = pair.origin.address;
    for (user, host) in [("", "other"), ("", "other:80"), ("", ""), ("u:p@", "u:p@other"), ("", "u@other:80")]
    {
        let request = format!("GET http://{user}AT/ HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let head = received(&mut pair, request.as_bytes()).await;
        assert!(has_line(&String::from_utf8(head).unwrap(), &format!("Host: {at}")), "{host}");
    }
}

#[tokio::test]
async fn a_connect_is_served_whatever_its_fields_say_of_host_and_length() {
    let lab = Lab::new().await;
    for proxy in [Proxy::direct().await, lab.proxy().await] {
        let mut pair = Pair::over(proxy).await;
        for fields in ["", "Host: https://h/\r\n", "Host: [fe80::1%1]:443\r\nContent-Length: 123\r\n"] {
            pair.app = Peer::connect(pair.proxy.address).await;
            pair.app.say(format!("CONNECT {} HTTP/1.1\r\n{fields}\r\nin", pair.origin.address)).await;
            assert!(pair.app.head().await.starts_with("HTTP/1.1 200 "), "{fields}");
            pair.origin.accept().await.hear("in").await;
        }
    }
}

#[tokio::test]
async fn a_request_of_a_later_minor_version_is_served() {
    let mut pair = Pair::new().await;
    for version in ["1.2", "1.9"] {
        let request = format!("GET http://AT/caf\u{e9} HTTP/{version}\r\nHost: AT\r\n\r\n");
        let head = received(&mut pair, request.as_bytes()).await;
        assert!(head.starts_with("GET /caf\u{e9} HTTP/1.1\r\n".as_bytes()), "{}", head.escape_ascii());
    }
}

#[tokio::test]
async fn what_two_recipients_could_read_differently_is_refused() {
    for (request, status) in [
        (&b"GET http://AT/a b HTTP/1.1\r\nHost: AT\r\n\r\n"[..], 400),
        (b"GET http://a@b@AT/ HTTP/1.1\r\nHost: AT\r\n\r\n", 400),
        (b"GET http://evil\\@AT/ HTTP/1.1\r\nHost: AT\r\n\r\n", 400),
        (b"GET http://caf\xe9/ HTTP/1.1\r\nHost: AT\r\n\r\n", 400),
        (b"GET http://AT/ HTTP/1.1\r\nHost: AT\r\nHost: AT\r\n\r\n", 400),
        (b"GET http://AT/ HTTP/1.1\r\nHost: a@b@AT\r\n\r\n", 400),
        (b"CONNECT user@AT HTTP/1.1\r\n\r\n", 400),
        (b"POST http://AT/ HTTP/1.1\r\nHost: AT\r\nContent-Length: 5, 5\r\n\r\nhello", 400),
        (b"POST http://AT/ HTTP/1.1\r\nHost: AT\r\nTransfer-Encoding: identity\r\n\r\n", 501),
    ] {
        let mut pair = Pair::new().await;
        let text = request.escape_ascii().to_string();
        pair.app.say(addressed(request, &pair)).await;
        let answer = pair.app.head().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{text}: {answer}");
        assert_eq!(pair.proxy.dials(), 0, "{text}");
    }
}
