//! HTTP at the local port, against a server that sends exactly what the test tells it to.

mod leaving;
mod login;
mod real;
mod requests;
mod responses;
mod rules;

use std::time::Duration;

use laneway::local::handshakes::HANDSHAKE;

use crate::clock::{Clock, delivered};
use crate::lab::{Lab, Proxy};
use crate::peer::{Origin, Peer};

/// An app and the server that its requests go to.
struct Pair {
    proxy: Proxy,
    origin: Origin,
    app: Peer,
}

impl Pair {
    async fn new() -> Self {
        Self::over(Proxy::direct().await).await
    }

    async fn over(proxy: Proxy) -> Self {
        let app = Peer::connect(proxy.address).await;
        Self { proxy, origin: Origin::new(), app }
    }

    /// A request head in absolute form. `fields` end with CR LF each.
    fn request(&self, line: &str, fields: &str) -> String {
        let (method, path) = line.split_once(' ').unwrap();
        let at = self.origin.address;
        format!("{method} http://{at}{path} HTTP/1.1\r\nHost: {at}\r\n{fields}\r\n")
    }

    /// Sends a request; gives the server's connection and the head that it received.
    async fn ask(&mut self, line: &str, fields: &str) -> (Peer, String) {
        let request = self.request(line, fields);
        self.app.say(request).await;
        let mut server = self.origin.accept().await;
        let head = server.head().await;
        (server, head)
    }
}

#[track_caller]
fn has_line(head: &str, line: &str) -> bool {
    head.split("\r\n").any(|own| own.eq_ignore_ascii_case(line))
}

#[tokio::test]
async fn a_request_goes_out_in_origin_form_without_what_is_for_the_proxy() {
    let mut pair = Pair::new().await;
    let fields = "Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\nConnection: X-Mine\r\nX-Mine: 1\r\nX-Kept: 2\r\n";
    let (mut server, head) = pair.ask("GET /a?b=c", fields).await;
    assert!(head.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{head}");
    assert!(
        has_line(&head, &format!("Host: {}", pair.origin.address)) && has_line(&head, "X-Kept: 2"),
        "{head}"
    );
    assert!(has_line(&head, "Via: 1.1 laneway-test"), "{head}");
    for gone in ["proxy-", "x-mine"] {
        assert!(!head.to_ascii_lowercase().contains(gone), "{head}");
    }
    server.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: timeout=5\r\n\r\nok").await;
    let answer = pair.app.head().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(has_line(&answer, "Via: 1.1 laneway-test") && !answer.contains("Keep-Alive"), "{answer}");
    pair.app.hear("ok").await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order_over_one_connection() {
    let mut pair = Pair::new().await;
    let three: String = ["GET /1", "GET /2", "GET /3"].map(|line| pair.request(line, "")).concat();
    pair.app.say(three).await;
    let mut server = pair.origin.accept().await;
    for number in 1..=3 {
        assert!(server.head().await.starts_with(&format!("GET /{number} ")));
        server.say(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n#{number}")).await;
    }
    for number in 1..=3 {
        pair.app.head().await;
        pair.app.hear(&format!("#{number}")).await;
    }
    assert_eq!(pair.proxy.dials(), 1, "the connection to the server is used again");
    // Even after a while without a request.
    pair.app.say(pair.request("GET /4", "")).await;
    assert!(server.head().await.starts_with("GET /4 "));
}

#[tokio::test]
async fn a_kept_connection_that_the_server_has_closed_is_replaced_without_the_app_noticing() {
    let mut pair = Pair::new().await;
    let (mut server, _) = pair.ask("GET /1", "").await;
    server.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    pair.app.head().await;
    drop(server);
    let (mut server, head) = pair.ask("GET /2", "").await;
    assert!(head.starts_with("GET /2 "), "{head}");
    server.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    pair.app.head().await;
    pair.app.hear("ok").await;
}

#[tokio::test]
async fn a_post_is_never_sent_twice() {
    let mut pair = Pair::new().await;
    let (mut server, _) = pair.ask("GET /1", "").await;
    server.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    pair.app.head().await;
    // Nor is it sent over the old connection: if that died, nobody could say whether it was served.
    let (fresh, head) = pair.ask("POST /2", "Content-Length: 2\r\n").await;
    assert!(head.starts_with("POST /2 "), "{head}");
    fresh.reset();
    let answer = pair.app.head().await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert_eq!(pair.proxy.dials(), 2);
}

#[tokio::test]
async fn bodies_are_chunked_both_ways() {
    let mut pair = Pair::new().await;
    let (mut server, head) = pair.ask("POST /", "Transfer-Encoding: chunked\r\n").await;
    assert!(has_line(&head, "Transfer-Encoding: chunked"), "{head}");
    pair.app.say("5;note=x\r\nhello\r\n").await;
    server.hear("5\r\nhello\r\n").await;
    pair.app.say("1\r\n!\r\n0\r\nTrailer: x\r\n\r\n").await;
    server.hear("1\r\n!\r\n0\r\n\r\n").await;

    server.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
    let answer = pair.app.head().await;
    assert!(has_line(&answer, "Transfer-Encoding: chunked"), "{answer}");
    pair.app.hear("3\r\nabc\r\n").await;
    server.say("2\r\nde\r\n0\r\n\r\n").await;
    pair.app.hear("2\r\nde\r\n0\r\n\r\n").await;
    // The ends of both bodies were found.
    pair.app.say(pair.request("GET /next", "")).await;
    assert!(server.head().await.starts_with("GET /next "));
}

#[tokio::test]
async fn an_upload_waits_for_100_continue() {
    let mut pair = Pair::new().await;
    let (mut server, head) = pair.ask("PUT /", "Content-Length: 4\r\nExpect: 100-continue\r\n").await;
    assert!(has_line(&head, "Expect: 100-continue"), "{head}");
    server.say("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert!(pair.app.head().await.starts_with("HTTP/1.1 100 "));
    pair.app.say("body").await;
    server.hear("body").await;
    server.say("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
    assert!(pair.app.head().await.starts_with("HTTP/1.1 201 "));
}

/// An interim response is no part of the response, so a failure after it can still be told.
#[tokio::test]
async fn an_upload_whose_server_breaks_after_100_continue_is_a_502() {
    let lab = Lab::new().await;
    for proxy in [Proxy::direct().await, lab.proxy().await] {
        let mut pair = Pair::over(proxy).await;
        let (mut server, _) = pair.ask("PUT /", "Content-Length: 4\r\nExpect: 100-continue\r\n").await;
        server.say("HTTP/1.1 100 Continue\r\n\r\n").await;
        assert!(pair.app.head().await.starts_with("HTTP/1.1 100 "));
        pair.app.say("body").await;
        server.hear("body").await;
        server.reset();
        let answer = pair.app.head().await;
        assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("Proxy-Status: "), "{answer}");
    }
}

#[tokio::test]
async fn a_refused_upload_is_answered_without_its_body() {
    let mut pair = Pair::new().await;
    let (mut server, _) = pair.ask("PUT /", "Content-Length: 4\r\nExpect: 100-continue\r\n").await;
    server.say("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno").await;
    let answer = pair.app.head().await;
    assert!(answer.starts_with("HTTP/1.1 417 "), "{answer}");
    pair.app.hear("no").await;
    // The body may still come, so no other request can follow.
    pair.app.end();
    assert_eq!(pair.app.rest().await, "");
}

/// A pool of connections would use it for another request, which would fail.
#[tokio::test]
async fn an_answer_before_the_end_of_an_upload_says_that_the_connection_ends() {
    let lab = Lab::new().await;
    for proxy in [Proxy::direct().await, lab.proxy().await] {
        let mut pair = Pair::over(proxy).await;
        for close in ["", "Connection: close\r\n"] {
            pair.app = Peer::connect(pair.proxy.address).await;
            let (mut server, _) = pair.ask("PUT /", "Content-Length: 10\r\n").await;
            pair.app.say("begin").await;
            server.hear("begin").await;
            server.say(format!("HTTP/1.1 413 Too Large\r\n{close}Content-Length: 2\r\n\r\nno")).await;
            let answer = pair.app.head().await;
            assert!(
                answer.starts_with("HTTP/1.1 413 ") && has_line(&answer, "Connection: close"),
                "{answer}"
            );
            pair.app.hear("no").await;
            assert_eq!(pair.app.rest().await, "");
        }
    }
}

#[tokio::test]
async fn responses_without_a_body_leave_the_connection_usable() {
    let mut pair = Pair::new().await;
    let (mut server, head) = pair.ask("HEAD /", "").await;
    assert!(head.starts_with("HEAD / "), "{head}");
    server.say("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await;
    assert!(has_line(&pair.app.head().await, "Content-Length: 1000"));
    for (status, fields) in [("204 No Content", ""), ("304 Not Modified", "Content-Length: 1000\r\n")] {
        pair.app.say(pair.request("GET /", "")).await;
        server.head().await;
        server.say(format!("HTTP/1.1 {status}\r\n{fields}\r\n")).await;
        let answer = pair.app.head().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    pair.app.say(pair.request("GET /last", "Connection: close\r\n")).await;
    server.head().await;
    server.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    pair.app.head().await;
    assert_eq!(pair.app.rest().await, "ok");
}

#[tokio::test]
async fn an_app_of_http_1_0_gets_a_plain_body_and_the_end() {
    let mut pair = Pair::new().await;
    let at = pair.origin.address;
    pair.app.say(format!("GET http://{at}/ HTTP/1.0\r\n\r\n")).await;
    let mut server = pair.origin.accept().await;
    let head = server.head().await;
    assert!(head.starts_with("GET / HTTP/1.1\r\n") && has_line(&head, &format!("Host: {at}")), "{head}");
    server.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").await;
    let answer = pair.app.head().await;
    assert!(!answer.contains("chunked"), "{answer}");
    assert_eq!(pair.app.rest().await, "abcde");
}

#[tokio::test]
async fn a_response_that_ends_with_the_connection_arrives_whole() {
    let mut pair = Pair::new().await;
    let (mut server, _) = pair.ask("GET /", "").await;
    server.say("HTTP/1.0 200 OK\r\n\r\nabc").await;
    assert!(has_line(&pair.app.head().await, "Transfer-Encoding: chunked"));
    pair.app.hear("3\r\nabc\r\n").await;
    server.say("de").await;
    pair.app.hear("2\r\nde\r\n").await;
    drop(server);
    pair.app.hear("0\r\n\r\n").await;
}

/// An incomplete response must not look complete to the app.
async fn truncated(pair: &mut Pair) {
    for (head, part) in [
        ("Content-Length: 10\r\n", "12345"),
        ("Transfer-Encoding: chunked\r\n", "5\r\n12345\r\n"),
        ("Transfer-Encoding: chunked\r\n", "9\r\n12345"),
    ] {
        pair.app = Peer::connect(pair.proxy.address).await;
        let (mut server, _) = pair.ask("GET /", "").await;
        server.say(format!("HTTP/1.1 200 OK\r\n{head}\r\n{part}")).await;
        pair.app.head().await;
        let first = if head.starts_with('C') { "12345" } else { "5\r\n12345\r\n" };
        pair.app.hear(first).await;
        drop(server);
        assert_eq!(pair.app.rest_before_reset().await, "", "{head}{part}");
    }
}

#[tokio::test]
async fn a_truncated_response_ends_with_a_reset() {
    let mut pair = Pair::new().await;
    truncated(&mut pair).await;
}

#[tokio::test]
async fn a_truncated_response_over_a_link_ends_with_a_reset() {
    let lab = Lab::new().await;
    let mut pair = Pair::over(lab.proxy().await).await;
    truncated(&mut pair).await;
}

#[tokio::test]
async fn a_server_that_resets_in_the_middle_is_a_reset_for_the_app() {
    let lab = Lab::new().await;
    for proxy in [Proxy::direct().await, lab.proxy().await] {
        let mut pair = Pair::over(proxy).await;
        // For an app of HTTP/1.0 an orderly end would complete the response.
        let request = pair.request("GET /", "").replace("HTTP/1.1", "HTTP/1.0");
        pair.app.say(request).await;
        let mut server = pair.origin.accept().await;
        server.head().await;
        server.say("HTTP/1.1 200 OK\r\n\r\nabc").await;
        pair.app.head().await;
        pair.app.hear("abc").await;
        server.reset();
        assert_eq!(pair.app.rest_before_reset().await, "");
    }
}

#[tokio::test]
async fn a_server_that_sends_nothing_or_nonsense_is_a_502() {
    for said in ["", "SSH-2.0-OpenSSH_9.9\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"] {
        let mut pair = Pair::new().await;
        let (mut server, _) = pair.ask("POST /", "Content-Length: 0\r\n").await;
        server.say(said).await;
        drop(server);
        let answer = pair.app.head().await;
        assert!(
            answer.starts_with("HTTP/1.1 502 ") && answer.contains("Proxy-Status: "),
            "{said:?}: {answer}"
        );
    }
}

#[tokio::test]
async fn requests_that_could_smuggle_are_refused_and_nothing_is_sent() {
    for (request, status) in [
        (
            "POST http://AT/ HTTP/1.1\r\nHost: AT\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        ("POST http://AT/ HTTP/1.1\r\nHost: AT\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbody", 400),
        ("POST http://AT/ HTTP/1.1\r\nHost: AT\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        ("GET http://AT/ HTTP/1.1\r\nHost: AT\r\nX-A: 1\r\n folded\r\n\r\n", 400),
        ("GET http://AT/ HTTP/1.1\r\nHost: AT\r\nX-A : 1\r\n\r\n", 400),
        ("GET http://AT/ HTTP/1.1\nHost: AT\n\n", 400),
        ("GET http://AT/ HTTP/1.1\r\n\r\n", 400),
        ("GET https://AT/ HTTP/1.1\r\nHost: AT\r\n\r\n", 400),
    ] {
        let mut pair = Pair::new().await;
        pair.app.say(request.replace("AT", &pair.origin.address.to_string())).await;
        let answer = pair.app.head().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        pair.app.rest().await;
        assert_eq!(pair.proxy.dials(), 0, "{request}");
    }
}

#[tokio::test]
async fn a_bad_chunk_in_an_upload_is_refused() {
    let mut pair = Pair::new().await;
    let (_server, _) = pair.ask("POST /", "Transfer-Encoding: chunked\r\n").await;
    pair.app.say("5\r\nhelloXX0\r\n\r\n").await;
    let answer = pair.app.head().await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn a_websocket_passes() {
    let lab = Lab::new().await;
    for proxy in [Proxy::direct().await, lab.proxy().await] {
        let mut pair = Pair::over(proxy).await;
        let (mut server, head) = pair.ask("GET /chat", "Connection: Upgrade\r\nUpgrade: websocket\r\n").await;
        assert!(
            has_line(&head, "Upgrade: websocket") && head.to_lowercase().contains("connection: upgrade"),
            "{head}"
        );
        server
            .say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi")
            .await;
        let answer = pair.app.head().await;
        assert!(answer.starts_with("HTTP/1.1 101 ") && has_line(&answer, "Upgrade: websocket"), "{answer}");
        pair.app.hear("hi").await;
        pair.app.say("\u{1}to server").await;
        server.hear("\u{1}to server").await;
        server.say("\u{2}to app").await;
        pair.app.hear("\u{2}to app").await;
        pair.app.end();
        assert_eq!(server.rest().await, "");
        server.end();
        assert_eq!(pair.app.rest().await, "");
    }
}

#[tokio::test]
async fn a_connect_tunnel_passes_on_what_the_app_sent_without_waiting() {
    let lab = Lab::new().await;
    for proxy in [Proxy::direct().await, lab.proxy().await] {
        let mut pair = Pair::over(proxy).await;
        let at = pair.origin.address;
        pair.app.say(format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n\r\nearly")).await;
        let mut server = pair.origin.accept().await;
        server.hear("early").await;
        pair.app.hear("HTTP/1.1 200 Connection established\r\n\r\n").await;
        server.say("answer").await;
        pair.app.hear("answer").await;
    }
}

#[tokio::test]
async fn a_request_for_this_port_itself_is_never_forwarded() {
    let mut pair = Pair::new().await;
    let at = pair.origin.address;
    for (host, status) in [("localhost", 200), ("evil.example", 421), (&*at.to_string(), 200)] {
        let mut app = Peer::connect(pair.proxy.address).await;
        app.say(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
        let answer = app.head().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {answer}");
        app.rest().await;
    }
    pair.app.say("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(pair.app.head().await.starts_with("HTTP/1.1 400 "));
    assert_eq!(pair.proxy.dials(), 0);
}

#[tokio::test]
async fn a_request_that_comes_back_is_a_loop() {
    let mut pair = Pair::new().await;
    let request = pair.request("GET /", "Via: 1.1 laneway-test\r\n");
    pair.app.say(request).await;
    let answer = pair.app.head().await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("proxy_loop_detected"), "{answer}");
    assert_eq!(pair.proxy.dials(), 0);
}

#[tokio::test]
async fn a_request_that_may_go_no_further_is_answered_here() {
    let mut pair = Pair::new().await;
    for (line, fields) in [("OPTIONS /", ""), ("TRACE /a?b", "Authorization: secret\r\nCookie: secret\r\n")] {
        pair.app = Peer::connect(pair.proxy.address).await;
        let request = pair.request(line, &format!("Max-Forwards: 0\r\n{fields}"));
        pair.app.say(&request).await;
        let answer = pair.app.head().await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let body = pair.app.rest().await;
        if line.starts_with("TRACE") {
            assert!(has_line(&answer, "Content-Type: message/http"), "{answer}");
            assert_eq!(body, request.replace(fields, ""), "what was received, but for credentials");
        } else {
            assert!(answer.contains("\r\nAllow: ") && body.is_empty(), "{answer}{body}");
        }
    }
    assert_eq!(pair.proxy.dials(), 0);
    // With one hop left it is forwarded, and for other methods the field has no meaning.
    for (line, fields, left) in
        [("OPTIONS /", "Max-Forwards: 1\r\n", "0"), ("GET /", "Max-Forwards: 0\r\n", "0")]
    {
        pair.app = Peer::connect(pair.proxy.address).await;
        let (_, head) = pair.ask(line, fields).await;
        assert!(has_line(&head, &format!("Max-Forwards: {left}")), "{head}");
    }
}

#[tokio::test]
async fn tls_to_this_port_is_refused_without_waiting() {
    let _stopped = Clock::stop();
    for length in [5, 517] {
        let mut pair = Pair::new().await;
        // The record header of a ClientHello, and the part of it that fits one write.
        let mut hello = vec![0; length];
        hello[..5].copy_from_slice(&[0x16, 3, 1, 2, 0]);
        pair.app.say(hello).await;
        let answer = pair.app.rest().await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert_eq!(pair.proxy.dials(), 0);
    }
}

/// Some hold a request until there is news, and only the app knows how long it wants to wait for that.
#[tokio::test]
async fn a_server_whose_system_takes_the_request_is_waited_for_as_long_as_the_app_waits() {
    let lab = Lab::new().await;
    let quarter = Duration::from_millis(250);
    // Over a link its pings must be answered meanwhile.
    for (proxy, steps, step) in
        [(lab.proxy().await, 150, quarter), (Proxy::direct().await, 60, Duration::from_secs(60))]
    {
        let mut pair = Pair::over(proxy).await;
        let (mut server, _) = pair.ask("POST /news", "Content-Length: 0\r\n").await;
        let mut tunnel = Peer::connect(pair.proxy.address).await;
        let at = pair.origin.address;
        tunnel.say(format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n\r\n")).await;
        let mut inner = pair.origin.accept().await;
        tunnel.head().await;
        tunnel.say("hello").await;
        inner.hear("hello").await;

        let clock = Clock::stop();
        for _ in 0..steps {
            clock.pass(step).await;
        }
        tokio::time::resume();
        drop(clock);
        server.say("HTTP/1.1 204 No Content\r\n\r\n").await;
        let answer = pair.app.head().await;
        assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
        inner.say("news").await;
        tunnel.hear("news").await;
    }
}

#[tokio::test]
async fn a_head_that_trickles_in_is_given_up_at_the_deadline() {
    let (clock, second) = (Clock::stop(), Duration::from_secs(1));
    let mut pair = Pair::new().await;
    for byte in b"GET http" {
        pair.app.say([*byte]).await;
        delivered(&pair.app).await;
        clock.pass(second).await;
    }
    clock.pass_to_deadline(HANDSHAKE - 8 * second, &pair.app).await;
    let answer = pair.app.head().await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn a_head_without_an_end_is_refused_at_its_limit() {
    let mut pair = Pair::new().await;
    let at = pair.origin.address;
    pair.app.say(format!("GET http://{at}/ HTTP/1.1\r\nHost: {at}\r\nX-Long: {}", "x".repeat(70_000))).await;
    let answer = pair.app.head().await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert_eq!(pair.proxy.dials(), 0);
}
