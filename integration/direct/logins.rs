//! Logins at the local port.

use crate::lab::Proxy;
use crate::peer::{Origin, Peer};

const WELCOME: &str = "\x05\x02\x01\0";

async fn proxy() -> Proxy {
    let proxy = Proxy::direct().await;
    proxy.asks_for("ann:secret");
    proxy
}

fn socks(login: &[u8], port: u16) -> Vec<u8> {
    [&[5, 2, 0, 2][..], login, &[5, 1, 0, 1, 127, 0, 0, 1], &port.to_be_bytes()].concat()
}

#[tokio::test]
async fn an_app_that_logs_in_is_served_in_every_dialect_that_has_logins() {
    let (proxy, origin) = (proxy().await, Origin::new());
    let at = origin.address;
    let mut app = Peer::connect(proxy.address).await;
    app.say(socks(b"\x01\x03ann\x06secret", at.port())).await;
    let _server = origin.accept().await;
    app.hear(&format!("{WELCOME}\x05\0\0\x01\0\0\0\0\0\0")).await;

    let login = "Proxy-Authorization: Basic YW5uOnNlY3JldA==";
    let mut app = Peer::connect(proxy.address).await;
    app.say(format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n{login}\r\n\r\n")).await;
    let _server = origin.accept().await;
    assert!(app.head().await.starts_with("HTTP/1.1 200 "));

    let mut app = Peer::connect(proxy.address).await;
    app.say(format!("GET http://{at}/ HTTP/1.1\r\nHost: {at}\r\n{login}\r\n\r\n")).await;
    let head = origin.accept().await.head().await;
    assert!(head.starts_with("GET / ") && !head.to_ascii_lowercase().contains("authorization"), "{head}");
}

#[tokio::test]
async fn an_app_that_offers_nothing_but_a_login_is_served_where_none_is_needed() {
    let (proxy, origin) = (Proxy::direct().await, Origin::new());
    let request = [&[5, 1, 0, 1, 127, 0, 0, 1][..], &origin.address.port().to_be_bytes()].concat();
    for (greeting, login) in [
        (&[5, 1, 2][..], &b"\x01\x03ann\x06secret"[..]),
        (&[5, 1, 2], b"\x01\x03ann\0"),
        (&[5, 1, 2], b"\x01\0\0"),
        (&[5, 2, 1, 2], b"\x01\x01x\x01y"),
    ] {
        let mut app = Peer::connect(proxy.address).await;
        app.say([greeting, login, &request].concat()).await;
        let _server = origin.accept().await;
        app.hear(&format!("{WELCOME}\x05\0\0\x01\0\0\0\0\0\0")).await;
    }
    let mut app = Peer::connect(proxy.address).await;
    app.say([&[5, 3, 1, 2, 0][..], &request].concat()).await;
    let _server = origin.accept().await;
    app.hear("\x05\0\x05\0\0\x01\0\0\0\0\0\0").await;
    for (request, answer) in
        [(&b"\x05\x01\x01"[..], "\x05\u{fffd}"), (b"\x05\x01\x02\x05\x01x\x01y", "\x05\x02\x01\x01")]
    {
        let mut app = Peer::connect(proxy.address).await;
        app.say(request).await;
        assert_eq!(app.rest().await, answer);
    }
}

#[tokio::test]
async fn an_app_that_does_not_log_in_reaches_nothing() {
    let (proxy, origin) = (proxy().await, Origin::new());
    let at = origin.address;
    let version_4 = [&[4, 1], &at.port().to_be_bytes()[..], b"\x7f\0\0\x01ann:secret\0"].concat();
    for (request, answer) in [
        (vec![5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1, 0, 80], "\x05\u{fffd}"),
        (socks(b"\x01\x03ann\x05wrong", at.port()), "\x05\x02\x01\x01"),
        (socks(b"\x01\0\0", at.port()), "\x05\x02\x01\x01"),
        (socks(b"\x05\x03ann\x06secret", at.port()), "\x05\x02\x01\x01"),
        (version_4, "\0[\0\0\0\0\0\0"),
    ] {
        let mut app = Peer::connect(proxy.address).await;
        app.say(request).await;
        assert_eq!(app.rest().await, answer);
    }
    let connect = format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n");
    let get = format!("GET http://{at}/ HTTP/1.1\r\nHost: {at}\r\n");
    for request in [
        format!("{connect}\r\n"),
        format!("{connect}Proxy-Authorization: Basic YW5uOndyb25n\r\n\r\n"),
        format!("{get}\r\n"),
        format!("{get}Authorization: Basic YW5uOnNlY3JldA==\r\n\r\n"),
    ] {
        let mut app = Peer::connect(proxy.address).await;
        app.say(&request).await;
        let head = app.head().await;
        assert!(head.starts_with("HTTP/1.1 407 "), "{request}: {head}");
        assert!(head.contains("\r\nProxy-Authenticate: Basic realm="), "{head}");
    }
    assert_eq!(proxy.dials(), 0);
}

#[tokio::test]
async fn each_request_of_a_connection_needs_the_login() {
    let (proxy, origin) = (proxy().await, Origin::new());
    let at = origin.address;
    let request = |fields: &str| format!("GET http://{at}/ HTTP/1.1\r\nHost: {at}\r\n{fields}\r\n");
    let mut app = Peer::connect(proxy.address).await;
    app.say(request("Proxy-Authorization: Basic YW5uOnNlY3JldA==\r\n")).await;
    let mut server = origin.accept().await;
    server.head().await;
    server.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert!(app.head().await.starts_with("HTTP/1.1 200 "));
    app.hear("ok").await;
    app.say(request("")).await;
    assert!(app.head().await.starts_with("HTTP/1.1 407 "));
}

#[tokio::test]
async fn a_source_that_guesses_is_refused_even_with_the_right_login() {
    let (proxy, origin) = (proxy().await, Origin::new());
    for _ in 0..10 {
        let mut app = Peer::connect(proxy.address).await;
        app.say(socks(b"\x01\x03ann\x05guess", origin.address.port())).await;
        assert_eq!(app.rest().await, "\x05\x02\x01\x01");
    }
    let mut app = Peer::connect(proxy.address).await;
    app.say(socks(b"\x01\x03ann\x06secret", origin.address.port())).await;
    assert_eq!(app.rest().await, "\x05\x02\x01\x01");
    assert_eq!(proxy.dials(), 0);
}
