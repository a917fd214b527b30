//! Responses that break the grammar: what the app gets, and whether the server's connection is used again.

use laneway::wire::http::MAX_LINK_HEAD;

use super::{Pair, has_line};
use crate::lab::{Lab, Proxy};
use crate::peer::Peer;

/// What an app gets, and whether the connection to the server was used for the next request.
struct Outcome {
    head: String,
    body: String,
    reused: bool,
}

/// Asks for something, which the server answers with these bytes, and once more. `ends` closes the server's connection
/// after the answer.
async fn outcome(said: &[u8], ends: bool) -> Outcome {
    let mut pair = Pair::new().await;
    let (mut server, _) = pair.ask("GET /1", "").await;
    let mut seen = [0];
    server.say(said).await;
    if ends {
        server.end();
    }
    let head = pair.app.head().await;
    let lower = head.to_lowercase();
    let length = lower.split_once("content-length: ").map(|(_, rest)| rest.split("\r\n").next().unwrap());
    let body = match length {
        Some(length) => pair.app.exactly(length.parse().unwrap()).await,
        None if lower.contains("chunked\r\n") => pair.app.chunked().await,
        None => String::new(),
    };
    if !head.contains(" 200 ") {
        return Outcome { head, body, reused: false };
    }
    // The connection of the app is still good.
    pair.app.say(pair.request("GET /2", "")).await;
    let mut next = tokio::select! {
        fresh = pair.origin.accept() => fresh,
        Ok(1..) = server.stream.peek(&mut seen) => server,
    };
    assert!(next.head().await.starts_with("GET /2 "));
    next.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    pair.app.head().await;
    pair.app.hear("ok").await;
    Outcome { head, body, reused: pair.proxy.dials() == 1 }
}

#[tokio::test]
async fn responses_that_browsers_accept_are_passed_on_cleanly() {
    let chunks = "5\r\nhello\r\n0\r\n\r\n";
    for (said, reused) in [
        ("HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello".to_owned(), true),
        ("HTTP/1.1 200 OK\nContent-Length: 5\n\nhello".to_owned(), true),
        ("HTTP/1.1 200\r\nContent-Length: 5, 5\r\n\r\nhello".to_owned(), true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5,\r\n\r\nhello".to_owned(), true),
        ("HTTP/1.1 200 OK\r\r\nContent-Length: 5\r\r\n\r\r\nhello".to_owned(), false),
        ("HTTP/1.1 200 OK\r\nX: a\r\n\tb\r\nContent-Length: 5\r\n\r\nhello".to_owned(), true),
        ("HTTP/1.1 200 OK\r\n: x\r\nContent-Length: 5\r\n\r\nhello".to_owned(), false),
        ("HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 5\r\n\r\nhello".to_owned(), false),
        ("HTTP/1.1 200OK\r\nContent-Length: 5\r\n\r\nhello".to_owned(), true),
        ("HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_owned(), false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: identity\r\n\r\nhello".to_owned(), false),
        (format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"), false),
        (format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"), false),
        (format!("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"), false),
        (format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n{chunks}"), false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5 ; x=1\r\nhello\r\n0  \r\n\r\n".to_owned(), true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n000000000000000000005\nhello\n0\n\n".to_owned(), true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: 1\r\n fold\r\nB\r\n\r\n".to_owned(), true),
        (format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}garbage"), false),
    ] {
        let Outcome { head, body, reused: was } = outcome(said.as_bytes(), false).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{said:?}: {head}");
        assert_eq!((&*body, was), ("hello", reused), "{said:?}: {head}");
        let framing = ["Content-Length: 5", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked"];
        assert_eq!(framing.iter().filter(|line| has_line(&head, line)).count(), 1, "{said:?}: {head}");
    }
}

#[tokio::test]
async fn responses_that_end_with_the_connection_are_passed_on_whole() {
    for said in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "ICY 200 OK\r\n\r\nhello",
    ] {
        let Outcome { head, body, reused } = outcome(said.as_bytes(), true).await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{said:?}: {head}");
        assert_eq!((&*body, reused), ("hello", false), "{said:?}");
    }
}

#[tokio::test]
async fn responses_without_a_certain_meaning_are_a_502() {
    for said in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello",
        "HTTP/1.1 99 OK\r\n\r\n",
        "HTTP/3 200 OK\r\n\r\n",
        // Without an end of the head, and the server waits.
        "SSH-2.0-OpenSSH_9.9\r\n",
        "<html>HTTP/0.9 had no status line",
    ] {
        let Outcome { head, .. } = outcome(said.as_bytes(), false).await;
        assert!(head.starts_with("HTTP/1.1 502 ") && head.contains("Proxy-Status: "), "{said:?}: {head}");
    }
}

/// RFC 9110 §15.3.7 leaves it to the client to check the status and Content-Range. Some ask for a part by other means than
/// Range (`partNumber` of S3, `x-ms-range` of Azure), and some interfaces answer a part of a list like this.
#[tokio::test]
async fn a_part_that_was_not_asked_for_by_range_is_passed_on_as_a_part_and_not_stored() {
    let lab = Lab::new().await;
    for proxy in [Proxy::direct().await, lab.proxy().await] {
        let mut pair = Pair::over(proxy).await;
        for _ in 0..2 {
            let (mut server, _) = pair.ask("GET /file?partNumber=1", "").await;
            let fields =
                "Connection: close\r\nETag: \"a\"\r\nCache-Control: max-age=60\r\nContent-Length: 4\r\n";
            let range = "Content-Range: bytes 0-3/9";
            server.say(format!("HTTP/1.1 206 Partial Content\r\n{fields}{range}\r\n\r\nhalf")).await;
            let head = pair.app.head().await;
            assert!(head.starts_with("HTTP/1.1 206 ") && has_line(&head, range), "{head}");
            pair.app.hear("half").await;
        }
    }
}

#[tokio::test]
async fn an_app_of_http_1_0_gets_no_transfer_coding() {
    let mut pair = Pair::new().await;
    pair.app.say(pair.request("GET /", "").replace(" HTTP/1.1", " HTTP/1.0")).await;
    let mut server = pair.origin.accept().await;
    server.head().await;
    server.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
    assert!(pair.app.head().await.starts_with("HTTP/1.1 502 "));
}

/// An app may wait for the head of an event stream before the first event.
#[tokio::test]
async fn a_head_arrives_before_the_body_has_begun() {
    for framing in ["Transfer-Encoding: chunked\r\n", "Content-Length: 2\r\n", "Connection: close\r\n"] {
        let mut pair = Pair::new().await;
        let (mut server, _) = pair.ask("GET /events", "").await;
        server.say(format!("HTTP/1.1 200 OK\r\n{framing}\r\n")).await;
        assert!(pair.app.head().await.starts_with("HTTP/1.1 200 "), "{framing}");
    }
}

/// Limits are bytes: any number of short fields, interim responses, extensions and trailer fields.
#[tokio::test]
async fn many_short_fields_pass_in_requests_responses_and_trailers() {
    let mut pair = Pair::new().await;
    let fields: String = (0..2000).map(|number| format!("X-{number}: a\r\n")).collect();
    let (mut server, head) = pair.ask("POST /", &format!("{fields}Transfer-Encoding: chunked\r\n")).await;
    assert!(has_line(&head, "X-0: a") && has_line(&head, "X-1999: a"));
    let extensions = ";a=b".repeat(2000);
    pair.app.say(format!("1{extensions}\r\nx\r\n0\r\n{fields}\r\n")).await;
    server.hear("1\r\nx\r\n0\r\n\r\n").await;
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n".repeat(300);
    server.say(format!("{hints}HTTP/1.1 200 OK\r\n{fields}Transfer-Encoding: chunked\r\n\r\n")).await;
    for _ in 0..300 {
        assert!(pair.app.head().await.starts_with("HTTP/1.1 103 "));
    }
    let head = pair.app.head().await;
    assert!(head.starts_with("HTTP/1.1 200 ") && has_line(&head, "X-0: a") && has_line(&head, "X-1999: a"));
    let chunks = format!("1;signature={}\r\nx\r\n", "a".repeat(64)).repeat(2000);
    server.say(format!("{chunks}0{extensions}\r\n{fields}\r\n")).await;
    assert_eq!(pair.app.chunked().await, "x".repeat(2000));
    pair.app.say(pair.request("GET /too-large", "")).await;
    server.head().await;
    // Another node may have written a head anew, and longer.
    server.say(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(MAX_LINK_HEAD))).await;
    assert!(pair.app.head().await.starts_with("HTTP/1.1 502 "));
}

#[tokio::test]
async fn heads_that_grow_by_being_written_anew_pass() {
    let mut pair = Pair::new().await;
    // Each field gets a blank.
    let fields = "a:\r\n".repeat(15_000);
    let (mut server, head) = pair.ask("GET /", &fields).await;
    assert_eq!(head.lines().filter(|line| line.starts_with("a:")).count(), 15_000);
    server.say(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok")).await;
    let head = pair.app.head().await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{}", head.lines().next().unwrap_or_default());
    pair.app.hear("ok").await;
}

impl Peer {
    /// A chunked body as a strict recipient reads it.
    async fn chunked(&mut self) -> String {
        let mut body = String::new();
        loop {
            let mut line = String::new();
            while !line.ends_with("\r\n") {
                line += &self.exactly(1).await;
            }
            let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
            body += &self.exactly(size).await;
            self.hear("\r\n").await;
            if size == 0 {
                return body;
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_sends_interim_responses_for_ever_is_not_followed() {
    let mut pair = Pair::new().await;
    // An app of HTTP/1.0 sees none of them.
    pair.app.say(pair.request("GET /", "").replace("HTTP/1.1", "HTTP/1.0")).await;
    let mut server = pair.origin.accept().await;
    server.head().await;
    server.say("HTTP/1.1 103\r\n\r\n".repeat(10_001)).await;
    assert!(pair.app.head().await.starts_with("HTTP/1.1 502 "));
}
