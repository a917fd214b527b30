//! Plain requests that the gateway answers from its cache.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use laneway::link::client::Link;
use laneway::link::request::Transport;
use laneway::net;
use laneway::wire::target::Target;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use crate::clock::{Clock, delivered};
use crate::fronts::sha256;
use crate::lab::{Lab, Proxy};
use crate::peer::{Origin, Peer};

/// A group whose gateway has a cache, and the server that its clients ask.
struct Site {
    lab: Lab,
    proxy: Proxy,
    origin: Origin,
    /// Requests sent to this address go to the gateway unchanged.
    node: SocketAddr,
    _relay: JoinSet<()>,
}

impl Site {
    async fn new() -> Self {
        let lab = Lab::new().await;
        let proxy = lab.proxy().await;
        Self::with(lab, proxy, Origin::new()).await
    }

    async fn with(lab: Lab, proxy: Proxy, origin: Origin) -> Self {
        let (node, _relay) = relay(lab.link().await, Target::from(origin.address));
        Self { lab, proxy, origin, node, _relay }
    }

    /// A new app that sends this request.
    async fn app(&self, line: &str, fields: &str) -> Peer {
        let mut app = Peer::connect(self.proxy.address).await;
        let (method, path) = line.split_once(' ').unwrap();
        let at = self.origin.address;
        app.say(format!("{method} http://{at}{path} HTTP/1.1\r\nHost: {at}\r\n{fields}\r\n")).await;
        app
    }

    /// Sends this request as the client's node itself, which can tell the gateway what no app can.
    async fn node(&self, line: &str, fields: &str) -> Peer {
        let mut node = Peer::connect(self.node).await;
        node.say(format!("{line} HTTP/1.1\r\nHost: {}\r\n{fields}\r\n", self.origin.address)).await;
        node
    }

    /// The server's connection for the next request that reaches it, and the head of that.
    async fn server(&self) -> (Peer, String) {
        let mut server = self.origin.accept().await;
        let head = server.head().await;
        (server, head)
    }

    /// Has the server answer a request, so that the answer is stored.
    async fn fetch(&self, path: &str, answer: &str) -> String {
        let mut app = self.app(&format!("GET {path}"), "").await;
        let (mut server, _) = self.server().await;
        server.say(answer).await;
        let head = app.head().await;
        app.exactly(length(&head)).await
    }

    /// The status and the body that an app gets without a request to the server: otherwise the test would wait for ever.
    async fn hit(&self, line: &str, fields: &str) -> (String, String) {
        let mut app = self.app(line, fields).await;
        let head = app.head().await;
        let body = app.exactly(length(&head)).await;
        (head, body)
    }
}

/// Relays each connection as a stream of plain requests to `target` over `link`.
fn relay(link: Link, target: Target) -> (SocketAddr, JoinSet<()>) {
    let (listener, mut running) = (Origin::new(), JoinSet::new());
    let address = listener.address;
    running.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let Peer { mut stream } = listener.accept().await;
            let (link, target) = (link.clone(), target.clone());
            connections.spawn(async move {
                let mut first = vec![0; 4096];
                let count = stream.read(&mut first).await.unwrap();
                first.truncate(count);
                let opened = link.open_by(Transport::Http, &target, 1, Bytes::from(first)).await;
                let mut tunnel = opened.unwrap().stream;
                let end = loop {
                    match tunnel.inbox.next().await {
                        Ok(Some(bytes)) if stream.write_all(&bytes).await.is_ok() => {}
                        end => break end,
                    }
                };
                if end.is_err() {
                    net::reset(stream);
                }
            });
        }
    });
    (address, running)
}

fn length(head: &str) -> usize {
    let lower = head.to_ascii_lowercase();
    let value = lower.split("\r\n").find_map(|line| line.strip_prefix("content-length: "));
    value.map_or(0, |value| value.parse().unwrap())
}

fn line<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").find_map(|line| {
        let (own, value) = line.split_once(": ")?;
        own.eq_ignore_ascii_case(name).then_some(value)
    })
}

const FRESH: &str =
    "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nETag: \"a\"\r\nContent-Length: 10\r\n\r\n0123456789";

/// A node writes a blank into each field, so that what is less than 64 KiB at the app is more on the link.
#[tokio::test]
async fn heads_with_very_many_fields_pass_the_link_in_both_directions() {
    const FIELDS: usize = 15_000;
    let site = Site::new().await;
    let many = "a:\r\n".repeat(FIELDS);
    let mut app = site.app("GET /many", &many).await;
    let (mut server, head) = site.server().await;
    assert_eq!(head.matches("\na: \r").count(), FIELDS);
    server
        .say("HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .await;
    let answer = app.head().await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");

    let mut app = site.app("GET /back", "").await;
    let (mut server, _) = site.server().await;
    server.say(FRESH.replace("ETag", &format!("{many}ETag"))).await;
    let answer = app.head().await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{}", &answer[..40]);
    assert_eq!(answer.matches("\na: \r").count(), FIELDS);
    app.exactly(10).await;
}

/// Such a request got the whole body, because it was shared with requests for the whole body.
#[tokio::test]
async fn several_ranges_and_other_units_are_for_the_server_unless_what_is_stored_is_fresh() {
    let site = Site::new().await;
    let stale = FRESH.replace("max-age=60", "max-age=0");
    for (number, range) in ["bytes=0-0,5-6", "bytes=0-0, -1", "lines=1-2"].into_iter().enumerate() {
        for stored in [None, Some(&*stale), Some(FRESH).filter(|_| range.starts_with("lines"))] {
            let path = format!("/{number}");
            if let Some(stored) = stored {
                // Otherwise the stored response would answer it.
                let mut app = site.app(&format!("GET {path}"), "Cache-Control: no-cache\r\n").await;
                let (mut server, _) = site.server().await;
                server.say(stored).await;
                app.head().await;
                app.exactly(10).await;
            }
            let fields = format!("Range: {range}\r\nIf-Range: \"a\"\r\n");
            let mut app = site.app(&format!("GET {path}"), &fields).await;
            let (mut server, asked) = site.server().await;
            assert_eq!((line(&asked, "Range"), line(&asked, "If-Range")), (Some(range), Some("\"a\"")));
            let of = "Content-Type: multipart/byteranges; boundary=b\r\nContent-Length: 5";
            server.say(format!("HTTP/1.1 206 P\r\nCache-Control: max-age=60\r\n{of}\r\n\r\nparts")).await;
            assert!(app.head().await.starts_with("HTTP/1.1 206 "));
            app.hear("parts").await;
        }
    }
    assert_eq!(site.hit("GET /2", "").await.1, "0123456789");
}

/// Each such request went to the server, whatever was stored.
#[tokio::test]
async fn several_ranges_of_what_is_stored_and_fresh_are_sent_without_asking_the_server() {
    let site = Site::new().await;
    let body: String =
        (0..300_000u32).map(|at| char::from(b'a' + u8::try_from(at / 7 % 26).unwrap())).collect();
    let answer = FRESH.replace("10\r\n", "300000\r\nContent-Type: t/t\r\n").replace("0123456789", &body);
    assert_eq!(site.fetch("/f", &answer).await, body);
    let (head, parts) = site.hit("GET /f", "Range: bytes=0-0, 70000-200000,-3\r\nIf-Range: \"a\"\r\n").await;
    assert!(head.starts_with("HTTP/1.1 206 ") && head.contains("; hit; "), "{head}");
    let boundary =
        line(&head, "Content-Type").and_then(|kind| kind.strip_prefix("multipart/byteranges; boundary="));
    let boundary = boundary.unwrap_or_else(|| panic!("{head}"));
    let mut want = String::new();
    for (start, end) in [(0, 1), (70_000, 200_001), (299_997, 300_000)] {
        let range = format!("Content-Range: bytes {start}-{}/300000", end - 1);
        let part = &body[start..end];
        want.push_str(&format!("\r\n--{boundary}\r\nContent-Type: t/t\r\n{range}\r\n\r\n{part}"));
    }
    want.push_str(&format!("\r\n--{boundary}--\r\n"));
    assert!(parts == want, "{} bytes in place of {}", parts.len(), want.len());
    let many = vec!["0-0"; 300].join(",");
    for (fields, status, length) in [
        ("Range: bytes=5-6,400000-\r\n", "206", 2),
        ("Range: bytes=400000-,500000-\r\n", "416", 0),
        // The parts would take more than the whole.
        ("Range: bytes=0-,0-\r\n", "200", 300_000),
        (&format!("Range: bytes={many}\r\n"), "200", 300_000),
        ("Range: bytes=0-0,5-5\r\nIf-Range: \"b\"\r\n", "200", 300_000),
    ] {
        let (head, body) = site.hit("GET /f", fields).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")) && body.len() == length, "{fields}: {head}");
    }
    let (head, _) = site.hit("GET /f", "Range: bytes=0-0,5-5\r\nIf-None-Match: \"a\"\r\n").await;
    assert!(head.starts_with("HTTP/1.1 304 "), "{head}");
    assert_eq!(site.hit("GET /f", "").await.1, body);
}

/// The whole body came with the digest of a part of it.
#[tokio::test]
async fn what_a_part_says_of_its_own_bytes_is_said_of_nothing_else() {
    let site = Site::new().await;
    let digest = "Content-Digest: sha-256=:AAAA:\r\nContent-MD5: AAAA\r\nContent-Range";
    let tells = |start, end| part(start, end).replace("Content-Range", digest);
    let mut app = site.app("GET /f", "Range: bytes=2-5\r\n").await;
    site.server().await.0.say(tells(2, 6)).await;
    app.head().await;
    app.hear("2345").await;
    let (of_part, _) = site.hit("GET /f", "Range: bytes=3-4\r\n").await;
    let mut app = site.app("GET /f", "").await;
    for (start, end) in [(0, 2), (6, 10)] {
        site.server().await.0.say(tells(start, end)).await;
    }
    let of_whole = app.head().await;
    app.hear("0123456789").await;
    site.fetch("/g", &FRESH.replace("ETag", "Content-Digest: sha-256=:BBBB:\r\nETag")).await;
    let (of_other, _) = site.hit("GET /g", "Range: bytes=3-4\r\n").await;
    for head in [of_part, of_whole, of_other] {
        assert!(!head.contains("Content-Digest") && !head.contains("Content-MD5"), "{head}");
    }
    let (head, _) = site.hit("GET /g", "").await;
    assert_eq!(line(&head, "Content-Digest"), Some("sha-256=:BBBB:"));
}

#[tokio::test]
async fn a_fresh_response_is_sent_again_without_asking_the_server() {
    let site = Site::new().await;
    assert_eq!(site.fetch("/f", FRESH).await, "0123456789");
    let (head, body) = site.hit("GET /f", "").await;
    assert_eq!(body, "0123456789");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(line(&head, "Cache-Status").unwrap().starts_with("laneway-test; hit; ttl="), "{head}");
    assert!(
        line(&head, "Age").is_some() && line(&head, "Via").is_some() && line(&head, "Date").is_some(),
        "{head}"
    );
    let (head, body) = site.hit("GET /f", "Range: bytes=2-4\r\n").await;
    assert_eq!((line(&head, "Content-Range"), &*body), (Some("bytes 2-4/10"), "234"));
    let mut app = site.app("GET /f", "If-None-Match: \"a\"\r\n").await;
    assert!(app.head().await.starts_with("HTTP/1.1 304 "));
    let mut app = site.app("HEAD /f", "").await;
    assert!(app.head().await.contains("\r\nContent-Length: 10\r\n"));
    let (head, _) = site.hit("GET /other", "Cache-Control: only-if-cached\r\n").await;
    assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
}

#[tokio::test]
async fn one_connection_of_an_app_gets_stored_responses_and_others_in_their_order() {
    let site = Site::new().await;
    site.fetch("/f", FRESH).await;
    let mut app = site.app("GET /f", "").await;
    let at = site.origin.address;
    app.say(format!("GET http://{at}/g HTTP/1.1\r\nHost: {at}\r\n\r\n")).await;
    app.say(format!("GET http://{at}/f HTTP/1.1\r\nHost: {at}\r\n\r\n")).await;
    app.head().await;
    app.hear("0123456789").await;
    let (mut server, _) = site.server().await;
    server.say("HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 1\r\n\r\ng").await;
    app.head().await;
    app.hear("g").await;
    app.head().await;
    app.hear("0123456789").await;
}

/// Some servers leave the body of a request unread and take it for the next request, so an app could choose what they answer
/// next.
#[tokio::test]
async fn what_is_stored_never_comes_over_a_connection_on_which_an_app_has_sent_a_body() {
    let site = Site::new().await;
    for (number, method) in ["GET", "POST", "OPTIONS", "DELETE", "HEAD"].into_iter().enumerate() {
        let body = if method == "HEAD" { "" } else { "GET /wrong HTTP/1.1\r\n\r\n" };
        let mut app = site.app(&format!("{method} /"), &format!("Content-Length: {}\r\n", body.len())).await;
        app.say(body).await;
        let (mut server, _) = site.server().await;
        server.say("HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 0\r\n\r\n").await;
        app.head().await;

        let at = site.origin.address;
        app.say(format!("GET http://{at}/{number} HTTP/1.1\r\nHost: {at}\r\n\r\n")).await;
        let (mut other, head) = site.server().await;
        assert!(head.starts_with(&format!("GET /{number} ")), "{method}: {head}");
        other.say(FRESH).await;
        let head = app.head().await;
        assert_eq!(app.exactly(length(&head)).await, "0123456789", "{method}");
        drop(server);
    }
}

#[tokio::test]
async fn a_stale_response_is_validated_and_used_again() {
    let site = Site::new().await;
    site.fetch("/f", &FRESH.replace("max-age=60", "max-age=0")).await;
    let mut app = site.app("GET /f", "").await;
    let (mut server, head) = site.server().await;
    assert_eq!(line(&head, "If-None-Match"), Some("\"a\""), "{head}");
    server
        .say("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nCache-Control: max-age=60\r\nX-New: 1\r\n\r\n")
        .await;
    let head = app.head().await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && line(&head, "X-New") == Some("1"), "{head}");
    app.hear("0123456789").await;
    let (_, body) = site.hit("GET /f", "").await;
    assert_eq!(body, "0123456789");
}

/// RFC 9111 §4.3.5. The old body was sent for as long as it was fresh, although an app had just seen that there is another one.
#[tokio::test]
async fn what_a_head_shows_to_be_outdated_is_not_used() {
    let site = Site::new().await;
    for (number, (fields, is_outdated)) in [
        ("ETag: \"a\"\r\nContent-Length: 10", false),
        ("Content-Type: text/plain", false),
        ("ETag: \"b\"\r\nContent-Length: 10", true),
        ("ETag: \"a\"\r\nContent-Length: 11", true),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/{number}");
        site.fetch(&path, FRESH).await;
        let mut app = site.app(&format!("HEAD {path}"), "Cache-Control: no-cache\r\n").await;
        let (mut server, _) = site.server().await;
        server.say(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n")).await;
        app.head().await;
        let body = match is_outdated {
            true => site.fetch(&path, FRESH).await,
            false => site.hit(&format!("GET {path}"), "").await.1,
        };
        assert_eq!(body, "0123456789", "{fields}");
    }
}

/// The cookie of the app for which a stored response was validated was given to all who asked after it.
#[tokio::test]
async fn what_a_validation_brings_for_one_app_is_for_no_other() {
    for own in ["Set-Cookie: session=1", "Cache-Control: private, max-age=60", "Vary: *"] {
        let site = Site::new().await;
        site.fetch("/f", &FRESH.replace("max-age=60", "max-age=0")).await;
        let mut app = site.app("GET /f", "").await;
        let (mut server, head) = site.server().await;
        assert_eq!(line(&head, "if-none-match"), Some("\"a\""), "{head}");
        server.say(format!("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n{own}\r\n\r\n")).await;
        let head = server.head().await;
        assert_eq!(line(&head, "if-none-match"), None, "{head}");
        server
            .say(format!("HTTP/1.1 200 OK\r\nETag: \"a\"\r\n{own}\r\nContent-Length: 5\r\n\r\nfirst"))
            .await;
        let head = app.head().await;
        assert!(head.contains(own), "{head}");
        assert_eq!(app.exactly(length(&head)).await, "first");
        let mut next = site.app("GET /f", "").await;
        let (mut server, head) = site.server().await;
        assert_eq!(line(&head, "if-none-match"), None, "{head}");
        server.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext").await;
        let head = next.head().await;
        assert!(!head.contains(own), "{head}");
        assert_eq!(next.exactly(length(&head)).await, "next");
    }
}

#[tokio::test]
async fn a_validation_that_names_another_field_lets_only_those_with_the_same_value_share() {
    let site = Site::new().await;
    site.fetch("/f", &FRESH.replace("max-age=60", "max-age=0")).await;
    let mut app = site.app("GET /f", "Accept-Language: de\r\n").await;
    let (mut server, _) = site.server().await;
    let fields = "Cache-Control: max-age=60\r\nVary: Accept-Language\r\n";
    server.say(format!("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n{fields}\r\n")).await;
    let head = app.head().await;
    assert_eq!(app.exactly(length(&head)).await, "0123456789");
    assert_eq!(site.hit("GET /f", "Accept-Language: de\r\n").await.1, "0123456789");
    let mut french = site.app("GET /f", "Accept-Language: fr\r\n").await;
    let (mut server, _) = site.server().await;
    server.say(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 4\r\n\r\noui!")).await;
    let head = french.head().await;
    assert_eq!(french.exactly(length(&head)).await, "oui!");
    assert_eq!(site.hit("GET /f", "Accept-Language: de\r\n").await.1, "0123456789");
    assert_eq!(site.hit("GET /f", "Accept-Language: fr\r\n").await.1, "oui!");
}

#[tokio::test]
async fn a_response_that_has_changed_replaces_the_stored_one() {
    let site = Site::new().await;
    site.fetch("/f", &FRESH.replace("max-age=60", "no-cache")).await;
    // The response is stored only after it was sent.
    assert_eq!(
        site.fetch("/f", &FRESH.replace("\"a\"", "\"b\"").replace("0123", "abcd")).await,
        "abcd456789"
    );
    let (_, body) = site.hit("GET /f", "").await;
    assert_eq!(body, "abcd456789");
}

#[tokio::test]
async fn apps_that_ask_while_it_is_fetched_share_one_request_and_read_at_once() {
    let site = Site::new().await;
    let mut apps = vec![site.app("GET /f", "").await];
    let (mut server, _) = site.server().await;
    server.say("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\n01234").await;
    for _ in 0..4 {
        apps.push(site.app("GET /f", "").await);
    }
    for app in &mut apps {
        app.head().await;
        app.hear("01234").await;
    }
    // The app that began the fetch leaves.
    apps.remove(0).reset();
    server.say("56789").await;
    for app in &mut apps {
        app.hear("56789").await;
    }
    let (_, body) = site.hit("GET /f", "").await;
    assert_eq!(body, "0123456789");
}

/// A member got the page of another member whose request was under way: the server had named no Vary, and no lifetime.
#[tokio::test]
async fn what_may_depend_on_who_asks_is_shared_only_once_it_may_be_used_without_asking() {
    let site = Site::new().await;
    let fields = |user: &str| if user.is_empty() { String::new() } else { format!("Cookie: sid={user}\r\n") };
    let cases = [
        ("ETag: W/\"5\"", "alice", "bob", false),
        ("ETag: W/\"5\"", "", "bob", false),
        ("ETag: \"5\"\r\nCache-Control: max-age=0, must-revalidate", "alice", "", false),
        ("ETag: \"5\"\r\nCache-Control: no-cache", "", "", false),
        ("ETag: \"5\"\r\nCache-Control: max-age=60", "alice", "bob", true),
        ("Last-Modified: Mon, 02 Jan 2006 15:04:05 GMT", "", "", true),
        ("Last-Modified: Mon, 02 Jan 2006 15:04:05 GMT", "alice", "alice", true),
    ];
    for (number, (validator, one, other, is_shared)) in cases.into_iter().enumerate() {
        let line = format!("GET /{number}");
        let answer = |user: &str| {
            let length = "page of ".len() + user.len();
            format!("HTTP/1.1 200 OK\r\n{validator}\r\nContent-Length: {length}\r\n\r\npage ")
        };
        let mut first = site.app(&line, &fields(one)).await;
        let (mut server, _) = site.server().await;
        let mut second = site.app(&line, &fields(other)).await;
        server.say(answer(one)).await;
        first.head().await;
        let user = if is_shared {
            one
        } else {
            let (mut server, _) = site.server().await;
            server.say(answer(other) + "of " + other).await;
            other
        };
        second.head().await;
        server.say(format!("of {one}")).await;
        first.hear(&format!("page of {one}")).await;
        second.hear(&format!("page of {user}")).await;
    }
}

/// By naming any digest a member got another member's page that was under way, or was just being validated.
#[tokio::test]
async fn a_digest_that_no_index_names_opens_nothing_that_belongs_to_another() {
    let site = Site::new().await;
    let digest = format!("Laneway-Digest: sha256:{}\r\n", "ab".repeat(32));
    let head = "HTTP/1.1 200 OK\r\nETag: \"5\"\r\nCache-Control: no-cache\r\nContent-Length: 10\r\n\r\n";
    for (path, range) in
        [("/page", "Range: bytes=0-\r\n"), ("/manifests/page", ""), ("/part", "Range: bytes=0-3\r\n")]
    {
        let line = format!("GET {path}");
        let mut victim = site.app(&line, "Cookie: sid=victim\r\n").await;
        let (mut server, _) = site.server().await;
        server.say(format!("{head}sec")).await;
        victim.head().await;
        let mut attacker = site.node(&line, &format!("{range}{digest}")).await;
        let (mut other, _) = site.server().await;
        other.say("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
        assert!(attacker.head().await.starts_with("HTTP/1.1 403 "), "{path}");
        server.say("rets of").await;
        victim.hear("secrets of").await;
    }
    for (path, range) in [("/page2", "Range: bytes=0-\r\n"), ("/manifests/page2", "")] {
        let line = format!("GET {path}");
        site.fetch(path, &format!("{head}secrets of")).await;
        let mut victim = site.app(&line, "Cookie: sid=victim\r\n").await;
        let (mut server, asked) = site.server().await;
        assert_eq!(self::line(&asked, "If-None-Match"), Some("\"5\""), "{asked}");
        let mut attacker = site.node(&line, &format!("{range}{digest}")).await;
        server.say("HTTP/1.1 304 Not Modified\r\nETag: \"5\"\r\n\r\n").await;
        victim.head().await;
        victim.hear("secrets of").await;
        let (mut other, _) = site.server().await;
        other.say("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
        assert!(attacker.head().await.starts_with("HTTP/1.1 403 "), "{path}");
    }
}

#[tokio::test]
async fn whoever_asks_meanwhile_gets_the_response_although_the_first_one_left_before_it_came() {
    let site = Site::new().await;
    let first = site.app("GET /f", "").await;
    let (mut server, _) = site.server().await;
    let mut second = site.app("GET /f", "").await;
    // Once it is dispatched, the second app waits for the same fetch: everything runs on one thread.
    let dispatched =
        || site.lab.telemetry.connections.values().iter().map(|(_, count)| count).sum::<u64>() >= 2;
    while !dispatched() {
        tokio::task::yield_now().await;
    }
    first.reset();
    server.say("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 5\r\n\r\n01").await;
    second.head().await;
    second.hear("01").await;
    server.say("234").await;
    second.hear("234").await;
    let (_, body) = site.hit("GET /f", "").await;
    assert_eq!(body, "01234");
}

#[tokio::test]
async fn what_is_asked_for_often_is_right_after_a_change_too() {
    let site = Site::new().await;
    let answer = |body: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nETag: \"{body}\"\r\nContent-Length: 5\r\n\r\n{body}"
        )
    };
    site.fetch("/f", &answer("01234")).await;
    for _ in 0..4 {
        assert_eq!(site.hit("GET /f", "").await.1, "01234");
        assert_eq!(site.hit("GET /f", "Range: bytes=1-2\r\n").await.1, "12");
        let (head, _) = site.hit("GET /f", "If-None-Match: \"01234\"\r\n").await;
        assert!(head.starts_with("HTTP/1.1 304 "), "{head}");
    }
    let mut app = site.app("POST /f", "Content-Length: 0\r\n").await;
    let (mut server, _) = site.server().await;
    server.say("HTTP/1.1 204 No Content\r\n\r\n").await;
    app.head().await;
    site.fetch("/f", &answer("56789")).await;
    for _ in 0..4 {
        assert_eq!(site.hit("GET /f", "").await.1, "56789");
    }
}

#[tokio::test]
async fn a_chunked_response_is_shared_before_its_length_is_known() {
    let site = Site::new().await;
    let mut first = site.app("GET /f", "").await;
    let (mut server, _) = site.server().await;
    server.say("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n").await;
    let mut second = site.app("GET /f", "").await;
    for app in [&mut first, &mut second] {
        assert_eq!(line(&app.head().await, "Transfer-Encoding"), Some("chunked"));
        app.hear("5\r\n01234\r\n").await;
    }
    server.say("2\r\n56\r\n0\r\n\r\n").await;
    for app in [&mut first, &mut second] {
        app.hear("2\r\n56\r\n0\r\n\r\n").await;
    }
    let (_, body) = site.hit("GET /f", "").await;
    assert_eq!(body, "0123456");
}

#[tokio::test]
async fn apps_do_not_wait_for_each_other_when_a_response_is_for_one_alone() {
    let site = Site::new().await;
    let mut first = site.app("GET /f", "").await;
    let (mut one, _) = site.server().await;
    let mut second = site.app("GET /f", "").await;
    one.say("HTTP/1.1 200 OK\r\nCache-Control: private\r\nContent-Length: 9\r\n\r\nfor").await;
    first.head().await;
    first.hear("for").await;
    // While the first response still comes.
    let (mut two, _) = site.server().await;
    two.say("HTTP/1.1 200 OK\r\nCache-Control: private\r\nContent-Length: 1\r\n\r\n2").await;
    second.head().await;
    second.hear("2").await;
    one.say(" first").await;
    first.hear(" first").await;
}

#[tokio::test]
async fn what_belongs_to_one_app_is_never_given_to_another() {
    for (asked, answered) in [
        ("Authorization: Basic eDp5\r\n", "Cache-Control: public, max-age=60\r\n"),
        ("", "Cache-Control: private, max-age=60\r\n"),
        ("", "Cache-Control: no-store, max-age=60\r\n"),
        ("", "Cache-Control: max-age=60\r\nSet-Cookie: a=b\r\n"),
        ("", "Cache-Control: max-age=60\r\nVary: *\r\n"),
        ("", ""),
    ] {
        let site = Site::new().await;
        for turn in ["1", "2"] {
            let mut app = site.app("GET /f", asked).await;
            let (mut server, _) = site.server().await;
            server.say(format!("HTTP/1.1 200 OK\r\n{answered}Content-Length: 1\r\n\r\n{turn}")).await;
            app.head().await;
            app.hear(turn).await;
        }
    }
}

#[tokio::test]
async fn a_response_varies_by_what_it_says() {
    let site = Site::new().await;
    for language in ["de", "fr"] {
        let mut app = site.app("GET /f", &format!("Accept-Language: {language}\r\n")).await;
        let (mut server, _) = site.server().await;
        server
            .say(format!(
                "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nVary: Accept-Language\r\nContent-Length: 2\r\n\r\n{language}"
            ))
            .await;
        app.head().await;
        app.hear(language).await;
    }
    for language in ["fr", "de"] {
        let (_, body) = site.hit("GET /f", &format!("Accept-Language: {language}\r\n")).await;
        assert_eq!(body, language);
    }
}

/// While one variant was fetched, each app that asked for another variant had a fetch of its own.
#[tokio::test]
async fn apps_share_each_of_several_variants_that_are_fetched_at_the_same_time() {
    let site = Site::new().await;
    let head =
        "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nVary: Accept-Language\r\nContent-Length: 10\r\n\r\n";
    let variants = [("de", "01234", "56789"), ("fr", "abcde", "fghij")]
        .map(|(tag, begin, end)| (format!("Accept-Language: {tag}\r\n"), begin, end));
    let (mut apps, mut servers) = (Vec::new(), Vec::new());
    for number in 0..2 {
        for (asked, begin, end) in &variants {
            let mut app = site.app("GET /f", asked).await;
            if number == 0 {
                let (mut server, _) = site.server().await;
                server.say(format!("{head}{begin}")).await;
                servers.push((server, end));
            }
            app.head().await;
            app.hear(begin).await;
            apps.push((app, end));
        }
    }
    for (server, end) in &mut servers {
        server.say(end).await;
    }
    for (app, end) in &mut apps {
        app.hear(end).await;
    }
    for (asked, begin, end) in &variants {
        assert_eq!(site.hit("GET /f", asked).await.1, [*begin, *end].concat());
    }
}

/// The longest response was used.
#[tokio::test]
async fn of_several_that_suit_the_most_recent_one_is_used() {
    let site = Site::new().await;
    let mut first = site.app("GET /f", "Accept: a\r\n").await;
    let old = FRESH.replace("ETag", "Vary: Accept\r\nETag");
    site.server().await.0.say(old).await;
    first.head().await;
    first.exactly(10).await;
    // A request for another type gets a shorter response, which is now for all.
    let mut second = site.app("GET /f", "Accept: b\r\n").await;
    site.server().await.0.say(FRESH.replace("10\r\n\r\n0123456789", "3\r\n\r\nnew")).await;
    second.head().await;
    second.exactly(3).await;
    for _ in 0..3 {
        assert_eq!(site.hit("GET /f", "Accept: a\r\n").await.1, "new");
    }
}

/// A request that accepted stale responses got the page of another user.
#[tokio::test]
async fn what_was_never_fresh_is_not_given_to_whoever_accepts_what_is_stale() {
    let site = Site::new().await;
    let page = |of: &str| {
        FRESH
            .replace("Cache-Control: max-age=60\r\n", "")
            .replace("\"a\"", &format!("\"{of}\""))
            .replace("01234", of)
    };
    for (user, of) in [("Cookie: u=1\r\n", "first"), ("Cookie: u=2\r\nCache-Control: max-stale\r\n", "other")]
    {
        let mut app = site.app("GET /f", user).await;
        site.server().await.0.say(page(of)).await;
        app.head().await;
        app.hear(&format!("{of}56789")).await;
    }
    let (head, _) = site.hit("GET /f", "Cache-Control: max-stale, only-if-cached\r\n").await;
    assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
}

#[tokio::test]
async fn a_change_removes_what_was_stored_and_a_failed_one_does_not() {
    let site = Site::new().await;
    site.fetch("/f", FRESH).await;
    for (status, is_kept) in [("404 Not Found", true), ("204 No Content", false)] {
        let mut app = site.app("POST /f", "Content-Length: 2\r\n").await;
        app.say("hi").await;
        let (mut server, _) = site.server().await;
        server.hear("hi").await;
        let length = if is_kept { "Content-Length: 0\r\n" } else { "" };
        server.say(format!("HTTP/1.1 {status}\r\n{length}\r\n")).await;
        assert!(app.head().await.starts_with(&format!("HTTP/1.1 {status}")));
        if is_kept {
            assert_eq!(site.hit("GET /f", "").await.1, "0123456789");
        } else {
            assert_eq!(site.fetch("/f", FRESH).await, "0123456789", "asks the server");
        }
    }
}

#[tokio::test]
async fn a_fetch_that_breaks_goes_on_by_range_and_nobody_notices() {
    let site = Site::new().await;
    let mut first = site.app("GET /f", "").await;
    let (mut server, _) = site.server().await;
    let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nETag: \"a\"\r\nContent-Length: 10\r\n\r\n";
    server.say(format!("{head}01234")).await;
    let mut second = site.app("GET /f", "").await;
    for app in [&mut first, &mut second] {
        app.head().await;
        app.hear("01234").await;
    }
    server.reset();
    let (mut server, asked) = site.server().await;
    assert_eq!(
        (line(&asked, "Range"), line(&asked, "If-Range")),
        (Some("bytes=5-"), Some("\"a\"")),
        "{asked}"
    );
    server
        .say("HTTP/1.1 206 P\r\nETag: \"a\"\r\nContent-Range: bytes 5-9/10\r\nContent-Length: 5\r\n\r\n56789")
        .await;
    for app in [&mut first, &mut second] {
        app.hear("56789").await;
    }
    assert_eq!(site.hit("GET /f", "").await.1, "0123456789");
}

#[tokio::test]
async fn a_body_that_ends_too_early_is_complete_for_nobody_and_is_not_stored() {
    let site = Site::new().await;
    let mut apps = [site.app("GET /f", "").await, site.app("GET /f", "").await];
    let (mut server, _) = site.server().await;
    server.say("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\n01234").await;
    for app in &mut apps {
        app.head().await;
        app.hear("01234").await;
    }
    server.reset();
    for app in &mut apps {
        assert_eq!(app.rest_before_reset().await, "");
    }
    assert_eq!(site.fetch("/f", FRESH).await, "0123456789", "asks the server");
}

/// The owner of one server must not speak for another.
#[tokio::test]
async fn a_request_for_another_host_than_the_one_it_is_sent_to_is_not_stored_for_that_host() {
    let lab = Lab::new().await;
    let (proxy, good, evil) = (lab.proxy().await, Origin::new(), Origin::new());
    let link = lab.link().await;
    let head = format!("GET /f HTTP/1.1\r\nHost: {}\r\n\r\n", good.address);
    let target = evil.address.to_string().parse().unwrap();
    let opened = link.open_by(laneway::link::request::Transport::Http, &target, 1, head.into());
    let (tunnel, mut server) = tokio::join!(opened, evil.accept());
    let mut tunnel = tunnel.unwrap();
    server.head().await;
    server.say(FRESH).await;
    let mut heard = Vec::new();
    while !heard.ends_with(b"0123456789") {
        heard.extend(tunnel.stream.inbox.next().await.unwrap().unwrap());
    }
    let site = Site::with(lab, proxy, good).await;
    assert_eq!(site.fetch("/f", &FRESH.replace("0123456789", "abcdefghij")).await, "abcdefghij");
}

/// The server's answer with the bytes of its body from `start` up to `end`, of ten.
fn part(start: usize, end: usize) -> String {
    format!(
        "HTTP/1.1 206 P\r\nCache-Control: max-age=60\r\nETag: \"a\"\r\nContent-Range: bytes {start}-{}/10\r\nContent-Length: {}\r\n\r\n{}",
        end - 1,
        end - start,
        &"0123456789"[start..end]
    )
}

#[tokio::test]
async fn a_part_is_stored_and_completed_by_what_is_missing() {
    let site = Site::new().await;
    let mut app = site.app("GET /f", "Range: bytes=2-5\r\n").await;
    let (mut server, asked) = site.server().await;
    assert_eq!(line(&asked, "Range"), Some("bytes=2-5"));
    server.say(part(2, 6)).await;
    assert!(app.head().await.starts_with("HTTP/1.1 206 "));
    app.hear("2345").await;

    let (head, body) = site.hit("GET /f", "Range: bytes=3-4\r\n").await;
    assert_eq!((line(&head, "Content-Range"), &*body), (Some("bytes 3-4/10"), "34"));

    let mut app = site.app("GET /f", "").await;
    for (range, start, end) in [("bytes=0-1", 0, 2), ("bytes=6-", 6, 10)] {
        let (mut server, asked) = site.server().await;
        assert_eq!(
            (line(&asked, "Range"), line(&asked, "If-Range")),
            (Some(range), Some("\"a\"")),
            "{asked}"
        );
        server.say(part(start, end)).await;
    }
    let head = app.head().await;
    assert!(head.starts_with("HTTP/1.1 200 ") && length(&head) == 10, "{head}");
    app.hear("0123456789").await;
    assert_eq!(site.hit("GET /f", "").await.1, "0123456789");
}

/// As when a complete download is continued: a part was fetched for nothing, and then the server was asked once more.
#[tokio::test]
async fn a_range_behind_the_end_is_answered_by_what_was_asked_for_it() {
    let site = Site::new().await;
    let mut app = site.app("GET /f", "Range: bytes=2097152-\r\n").await;
    let (mut server, head) = site.server().await;
    assert_eq!(line(&head, "range"), Some("bytes=1048576-"), "{head}");
    let range = "Content-Range: bytes 1048576-2097151/2097152\r\nContent-Length: 1048576";
    server
        .say(format!("HTTP/1.1 206 P\r\nETag: \"a\"\r\nCache-Control: max-age=60\r\n{range}\r\n\r\n"))
        .await;
    let head = app.head().await;
    assert!(head.starts_with("HTTP/1.1 416 "), "{head}");
    assert_eq!(line(&head, "content-range"), Some("bytes */2097152"), "{head}");
}

#[tokio::test]
async fn a_part_of_what_is_being_fetched_is_not_fetched_again() {
    let site = Site::new().await;
    let mut app = site.app("GET /f", "").await;
    let (mut server, _) = site.server().await;
    let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nETag: \"a\"\r\nContent-Length: 10\r\n\r\n";
    server.say(format!("{head}01234")).await;
    app.head().await;
    app.hear("01234").await;
    let mut other = site.app("GET /f", "Range: bytes=3-6\r\nIf-Range: \"a\"\r\n").await;
    let head = other.head().await;
    assert_eq!(line(&head, "Content-Range"), Some("bytes 3-6/10"));
    other.hear("34").await;
    server.say("56789").await;
    other.hear("56").await;
    app.hear("56789").await;
}

#[tokio::test]
async fn what_came_of_an_interrupted_download_is_kept_and_the_rest_is_shared() {
    let site = Site::new().await;
    let mut app = site.app("GET /f", "").await;
    let (mut server, _) = site.server().await;
    let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nETag: \"a\"\r\nContent-Length: 10\r\n\r\n";
    server.say(format!("{head}0123")).await;
    app.head().await;
    app.hear("0123").await;
    app.reset();
    // Hardly anything is missing, so the fetch goes on, but its server gives up.
    server.reset();
    for _ in 0..3 {
        let (server, asked) = site.server().await;
        assert_eq!(line(&asked, "Range"), Some("bytes=4-"), "{asked}");
        server.reset();
    }
    let mut apps = [site.app("GET /f", "").await, site.app("GET /f", "Range: bytes=4-\r\n").await];
    let (mut server, asked) = site.server().await;
    assert_eq!(
        (line(&asked, "Range"), line(&asked, "If-Range")),
        (Some("bytes=4-"), Some("\"a\"")),
        "{asked}"
    );
    server.say(part(4, 10)).await;
    for (app, want) in apps.iter_mut().zip(["0123456789", "456789"]) {
        app.head().await;
        app.hear(want).await;
    }
    assert_eq!(site.hit("GET /f", "").await.1, "0123456789");
}

/// Before, an app that wanted the whole body sent the server four needless requests, and then one for the whole body.
#[tokio::test]
async fn who_wants_all_of_it_shares_the_fetch_of_the_rest_with_who_wants_the_rest() {
    let site = Site::new().await;
    let mut app = site.app("GET /f", "Range: bytes=0-3\r\n").await;
    let (mut server, _) = site.server().await;
    server.say(part(0, 4)).await;
    app.head().await;
    app.hear("0123").await;

    let mut rest = site.app("GET /f", "Range: bytes=4-\r\n").await;
    let (mut server, asked) = site.server().await;
    assert_eq!(line(&asked, "Range"), Some("bytes=4-"), "{asked}");
    server.say(part(4, 10).strip_suffix("6789").unwrap()).await;
    rest.head().await;
    rest.hear("45").await;
    let mut whole = site.app("GET /f", "").await;
    let head = whole.head().await;
    assert!(head.starts_with("HTTP/1.1 200 ") && length(&head) == 10, "{head}");
    whole.hear("012345").await;
    let mut last = site.app("GET /f", "Range: bytes=-7\r\nIf-Range: \"a\"\r\n").await;
    assert_eq!(line(&last.head().await, "Content-Range"), Some("bytes 3-9/10"));
    last.hear("345").await;
    server.say("6789").await;
    for app in [&mut rest, &mut whole, &mut last] {
        app.hear("6789").await;
    }
}

#[tokio::test]
async fn a_part_of_other_content_is_never_combined_with_what_is_stored() {
    for answer in [
        "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nETag: \"b\"\r\nContent-Length: 10\r\n\r\nabcdefghij"
            .to_owned(),
        part(6, 10).replace("\"a\"", "\"b\""),
        part(6, 10).replace("/10", "/11"),
        part(5, 9),
        part(6, 10).replace("ETag", "X-ETag"),
        "HTTP/1.1 416 N\r\nContent-Range: bytes */5\r\nContent-Length: 0\r\n\r\n".to_owned(),
    ] {
        let site = Site::new().await;
        let mut app = site.app("GET /f", "Range: bytes=0-5\r\n").await;
        let (mut server, _) = site.server().await;
        server.say(part(0, 6)).await;
        app.head().await;
        app.hear("012345").await;

        let mut app = site.app("GET /f", "").await;
        let (mut server, asked) = site.server().await;
        assert_eq!(line(&asked, "Range"), Some("bytes=6-"));
        let is_whole = answer.starts_with("HTTP/1.1 200");
        server.say(&answer).await;
        if !is_whole {
            let (mut server, asked) = site.server().await;
            assert_eq!(line(&asked, "Range"), None, "{asked}");
            server.say(FRESH.replace("\"a\"", "\"b\"").replace("0123456789", "abcdefghij")).await;
        }
        assert!(app.head().await.starts_with("HTTP/1.1 200 "));
        app.hear("abcdefghij").await;
        assert_eq!(site.hit("GET /f", "").await.1, "abcdefghij", "{answer}");
    }
}

/// A server that changes its file under a fetch.
#[tokio::test]
async fn a_fetch_that_cannot_go_on_with_the_same_content_is_complete_for_nobody() {
    let site = Site::new().await;
    let mut apps = [site.app("GET /f", "").await, site.app("GET /f", "").await];
    let (mut server, _) = site.server().await;
    let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nETag: \"a\"\r\nContent-Length: 10\r\n\r\n";
    server.say(format!("{head}01234")).await;
    for app in &mut apps {
        app.head().await;
        app.hear("01234").await;
    }
    server.reset();
    for _ in 0..3 {
        let (mut server, _) = site.server().await;
        server.say(part(5, 10).replace("\"a\"", "\"b\"")).await;
    }
    for app in &mut apps {
        assert_eq!(app.rest_before_reset().await, "");
    }
}

/// Before, the app that began the fetch was held up: nothing was read that the disk did not take.
#[tokio::test]
async fn a_body_that_the_disk_does_not_take_reaches_the_app_all_the_same() {
    let lab = Lab::with_limits("cache-size = '300K'").await;
    let proxy = lab.proxy().await;
    let site = Site::with(lab, proxy, Origin::new()).await;
    let mut app = site.app("GET /f", "").await;
    let (mut server, _) = site.server().await;
    server.say("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let piece = "x".repeat(100_000);
    let chunk = format!("186a0\r\n{piece}\r\n");
    for number in 0..30 {
        server.say(&chunk).await;
        if number == 0 {
            app.head().await;
        }
        let mut got = 0;
        while got < piece.len() {
            let mut size = String::new();
            while !size.ends_with("\r\n") {
                size.push_str(&app.exactly(1).await);
            }
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            app.exactly(size + 2).await;
            got += size;
        }
    }
    server.say("0\r\n\r\n").await;
    app.hear("0\r\n\r\n").await;
}

/// A body whose length was not known beforehand took the whole store, or left in it what the app had asked to replace.
#[tokio::test]
async fn what_is_too_large_to_be_stored_displaces_what_it_replaces_and_nothing_else() {
    let lab = Lab::with_limits("cache-size = '1M'").await;
    let proxy = lab.proxy().await;
    let site = Site::with(lab, proxy, Origin::new()).await;
    site.fetch("/f", FRESH).await;
    site.fetch("/g", FRESH).await;
    let mut app = site.app("GET /f", "Cache-Control: no-cache\r\nConnection: close\r\n").await;
    let (mut server, _) = site.server().await;
    server.say("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    server.say(format!("927c0\r\n{}\r\n0\r\n\r\n", "x".repeat(600_000))).await;
    assert!(app.rest().await.matches('x').count() >= 600_000);
    assert_eq!(site.fetch("/f", FRESH).await, "0123456789");
    assert_eq!(site.hit("GET /g", "").await.1, "0123456789");
}

#[tokio::test]
async fn no_length_that_a_server_states_does_any_harm() {
    let site = Site::new().await;
    let two = "10\r\nContent-Length: 11";
    let lengths = ["18446744073709551615", "9223372036854775808", "10, 11", "-1", "1e3", "+3", "0x3", two];
    for (number, length) in lengths.into_iter().enumerate() {
        // A file that an index names is stored under other conditions.
        let fields = if number % 2 == 0 { String::new() } else { named("abc") };
        let mut app = site.app(&format!("GET /{number}"), &fields).await;
        let (mut server, _) = site.server().await;
        server
            .say(format!(
                "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: {length}\r\n\r\nabc"
            ))
            .await;
        server.reset();
        // A refusal, or what came before the end.
        let _ = app.next_head().await;
    }
    assert_eq!(site.fetch("/f", FRESH).await, "0123456789");
    assert_eq!(site.hit("GET /f", "").await.1, "0123456789");
    assert_eq!(site.fetch_named("GET /abc", &named("abc"), &plain("abc")).await, "abc");
}

/// The field with which a client's node says what the file must hash to.
fn named(content: &str) -> String {
    format!("Laneway-Digest: sha256:{}\r\n", sha256(content.as_bytes()))
}

/// A response without a lifetime and a validator, so that only its digest can show that it is still right.
fn plain(content: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{content}", content.len())
}

impl Site {
    /// Has the server answer a request for a file with the digest of `named`.
    async fn fetch_named(&self, line: &str, fields: &str, answer: &str) -> String {
        let mut app = self.node(line, fields).await;
        let (mut server, head) = self.server().await;
        assert!(!head.to_ascii_lowercase().contains("\r\nlaneway-"), "{head}");
        server.say(answer).await;
        let head = app.head().await;
        app.exactly(length(&head)).await
    }

    /// What a node gets without a request to the server.
    async fn hit_named(&self, line: &str, fields: &str) -> (String, String) {
        let mut node = self.node(line, fields).await;
        let head = node.head().await;
        let body = node.exactly(length(&head)).await;
        (head, body)
    }
}

#[tokio::test]
async fn no_app_can_say_what_only_its_node_may_say_to_the_gateway() {
    let site = Site::new().await;
    let fields = format!(
        "laneway-ANONYMOUS: Basic app\r\n{}Laneway-Discard: ?1\r\nLaneway-Scheme: https\r\nLaneway-Pieces: 0 0\r\n",
        named("0123456789")
    );
    let mut app = site.app("GET /a", &fields).await;
    let (mut server, head) = site.server().await;
    let lower = head.to_ascii_lowercase();
    assert!(!lower.contains("authorization") && !lower.contains("\r\nlaneway-"), "{head}");
    server.say(FRESH).await;
    app.head().await;
    app.hear("0123456789").await;
    // The response does not count as proved, and nothing is removed.
    assert_eq!(site.hit("GET /a", &fields).await.1, "0123456789");
    assert_eq!(site.fetch("/b", &plain("something")).await, "something");
}

#[tokio::test]
async fn a_token_counts_over_tls_alone() {
    let site = Site::new().await;
    let mut node = site.node("GET /a", "Laneway-Anonymous: Basic app\r\n").await;
    let (mut server, head) = site.server().await;
    let lower = head.to_ascii_lowercase();
    assert!(!lower.contains("authorization") && !lower.contains("\r\nlaneway-"), "{head}");
    server.say(plain("for all")).await;
    node.head().await;
    node.hear("for all").await;
}

#[tokio::test]
async fn a_file_with_a_proved_digest_answers_for_every_url_and_is_not_validated() {
    let site = Site::new().await;
    let right = "the right file";
    assert_eq!(site.fetch_named("GET /a", &named(right), &plain(right)).await, right);
    for path in ["/a", "/b", "/c?d"] {
        let (head, body) = site.hit_named(&format!("GET {path}"), &named(right)).await;
        assert_eq!(body, right);
        assert!(line(&head, "Cache-Status").unwrap().contains("hit"), "{head}");
    }
    // From memory by now, and a part of it.
    let (head, body) = site.hit_named("GET /b", &format!("{}Range: bytes=4-8\r\n", named(right))).await;
    assert_eq!((line(&head, "Content-Range"), &*body), (Some("bytes 4-8/14"), "right"));
    // Without the digest, or with another one, the server is asked.
    assert_eq!(site.fetch_named("GET /b", "", &plain("what is there now")).await, "what is there now");
    assert_eq!(
        site.fetch_named("GET /a", &named("another file"), &plain("another file")).await,
        "another file"
    );
    assert_eq!(site.lab.telemetry.cache_saved.value(), 4 * 14 - 9);
}

#[tokio::test]
async fn what_was_stored_for_another_url_has_none_of_its_fields() {
    let site = Site::new().await;
    let tagged = "HTTP/1.1 200 OK\r\nETag: \"a\"\r\nLast-Modified: Sun, 06 Nov 1994 08:48:00 GMT\r\n\
                  Content-Type: a/b\r\nRefresh: 0; url=/\r\nLink: </>; rel=x\r\nX-A: b\r\nContent-Length: 4\r\n\r\nfile";
    assert_eq!(site.fetch_named("GET /a", &named("file"), tagged).await, "file");
    let conditions = "If-None-Match: \"a\"\r\nIf-Modified-Since: Sun, 06 Nov 1994 08:48:00 GMT\r\n";
    let (head, _) = site.hit_named("GET /b", &format!("{}{conditions}", named("file"))).await;
    assert!(head.starts_with("HTTP/1.1 200 ") && line(&head, "ETag").is_none(), "{head}");
    assert_eq!(line(&head, "Content-Type"), Some("application/octet-stream"));
    for name in ["Refresh", "Link", "X-A", "Last-Modified"] {
        assert!(line(&head, name).is_none(), "{head}");
    }
    // For its own URL the conditions count.
    let mut app = site.node("GET /a", &format!("{}{conditions}", named("file"))).await;
    assert!(app.head().await.starts_with("HTTP/1.1 304 "));
}

#[tokio::test]
async fn what_shares_a_fetch_by_another_url_gets_none_of_its_fields() {
    let site = Site::new().await;
    let fields = named("file");
    let mut first = site.node("GET /a", &fields).await;
    let (mut server, _) = site.server().await;
    server.say("HTTP/1.1 200 Odd\r\nContent-Type: a/b\r\nLink: x\r\nContent-Length: 4\r\n\r\nfi").await;
    assert_eq!(line(&first.head().await, "Link"), Some("x"));
    let mut second = site.node("GET /b", &fields).await;
    let head = second.head().await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && line(&head, "Link").is_none(), "{head}");
    server.say("le").await;
    first.hear("file").await;
    second.hear("file").await;
}

#[tokio::test]
async fn coded_content_is_never_proved() {
    let site = Site::new().await;
    let coded = plain("file").replacen("\r\n", "\r\nContent-Encoding: gzip\r\n", 1);
    for path in ["GET /a", "GET /b"] {
        assert_eq!(site.fetch_named(path, &named("file"), &coded).await, "file");
    }
    assert_eq!(site.fetch_named("GET /c", &named("file"), &plain("file")).await, "file");
    assert_eq!(site.hit_named("GET /a", &named("file")).await.1, "file");
}

#[tokio::test]
async fn a_manifest_comes_from_its_own_url_alone() {
    let site = Site::new().await;
    let typed = plain("{}").replacen("\r\n", "\r\nContent-Type: a/b\r\n", 1);
    for path in ["GET /v2/a/manifests/x", "GET /v2/b/manifests/x"] {
        assert_eq!(site.fetch_named(path, &named("{}"), &typed).await, "{}");
        assert_eq!(line(&site.hit_named(path, &named("{}")).await.0, "Content-Type"), Some("a/b"));
    }
}

#[tokio::test]
async fn wrong_bytes_under_a_digest_are_not_stored_and_never_displace_the_right_ones() {
    let site = Site::new().await;
    let (right, wrong) = ("the right file", "the wrong one.");
    for fields in ["", "ETag: \"a\"\r\nCache-Control: max-age=60\r\n"] {
        let answer = plain(wrong).replacen("\r\n", &format!("\r\n{fields}"), 1);
        assert_eq!(site.fetch_named("GET /a", &named(right), &answer).await, wrong);
    }
    assert_eq!(site.lab.telemetry.cache.values(), [("miss", 2), ("poisoned", 2)]);
    assert_eq!(site.fetch_named("GET /a", &named(right), &plain(right)).await, right);
    // A node that calls the file wrong still gets it: it is right.
    let discarding = format!("{}Laneway-Discard: ?1\r\n", named(right));
    for path in ["/a", "/b"] {
        assert_eq!(site.hit_named(&format!("GET {path}"), &discarding).await.1, right);
    }
    assert_eq!(site.fetch_named("GET /a", &named("new"), &plain(wrong)).await, wrong);
    assert_eq!(site.hit_named("GET /a", &named(right)).await.1, right);
}

#[tokio::test]
async fn nobody_can_have_a_proved_file_removed() {
    let site = Site::new().await;
    let right = "the right file";
    assert_eq!(site.fetch_named("GET /a", &named(right), &plain(right)).await, right);
    // Without a digest, and with another one, the server is asked for what /a is now.
    let discard = "Laneway-Discard: ?1\r\n";
    assert_eq!(site.fetch_named("GET /a", discard, &plain("now")).await, "now");
    assert_eq!(site.hit_named("GET /a", &named(right)).await.1, right);
    let fields = format!("{}{discard}", named("another file"));
    assert_eq!(site.fetch_named("GET /a", &fields, &plain("no such file")).await, "no such file");
    for _ in 0..3 {
        let fields = format!("{}{discard}", named(right));
        assert_eq!(site.hit_named("GET /b", &fields).await.1, right);
    }
}

#[tokio::test]
async fn a_stored_file_is_proved_once_its_digest_is_known_and_is_not_used_for_another_one() {
    let site = Site::new().await;
    let fresh = |body: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    site.fetch("/a", &fresh("the old file")).await;
    // The stored response is still fresh, but it is another file.
    assert_eq!(site.fetch_named("GET /a", &named("the new one"), &fresh("the new one")).await, "the new one");
    assert_eq!(site.hit_named("GET /a", "").await.1, "the new one");
    site.fetch("/b", &fresh("something")).await;
    assert_eq!(site.hit_named("GET /b", &named("something")).await.1, "something");
    assert_eq!(site.hit_named("GET /elsewhere", &named("something")).await.1, "something");
}

#[tokio::test]
async fn fetches_by_several_urls_of_one_file_are_one() {
    let site = Site::new().await;
    let fields = named("0123456789");
    let mut apps = vec![site.node("GET /a", &fields).await];
    let (mut server, _) = site.server().await;
    server.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234").await;
    for path in ["GET /b", "GET /c", "GET /a"] {
        apps.push(site.node(path, &fields).await);
    }
    for app in &mut apps {
        app.head().await;
        app.hear("01234").await;
    }
    server.say("56789").await;
    for app in &mut apps {
        app.hear("56789").await;
    }
    assert_eq!(site.hit_named("GET /d", &fields).await.1, "0123456789");
}

#[tokio::test]
async fn after_a_fetch_by_another_url_that_fails_or_lies_each_asks_for_its_own() {
    let site = Site::new().await;
    let (right, wrong) = ("the right file", "the wrong one.");
    // The server of /a has no such file.
    let fields = named(right);
    let mut first = site.node("GET /a", &fields).await;
    let (mut server, _) = site.server().await;
    let mut second = site.node("GET /b", &fields).await;
    let dispatched =
        || site.lab.telemetry.connections.values().iter().map(|(_, count)| count).sum::<u64>() >= 2;
    while !dispatched() {
        tokio::task::yield_now().await;
    }
    server.say("HTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\nx").await;
    assert!(first.head().await.starts_with("HTTP/1.1 404 "));
    let (mut own, head) = site.server().await;
    assert!(head.starts_with("GET /b "), "{head}");
    own.say(plain(right)).await;
    second.head().await;
    second.hear(right).await;
    // The file is wrong: from then on nobody shares a fetch of that URL.
    let fields = named("another file..");
    assert_eq!(site.fetch_named("GET /wrong", &fields, &plain(wrong)).await, wrong);
    let mut first = site.node("GET /c", &fields).await;
    let (mut server, _) = site.server().await;
    let mut second = site.node("GET /d", &fields).await;
    let (mut own, _) = site.server().await;
    own.say(plain("another file..")).await;
    second.head().await;
    second.hear("another file..").await;
    server.say(plain("another file..")).await;
    first.head().await;
}

#[tokio::test]
async fn a_fetch_by_another_url_that_stands_still_holds_nobody_for_long() {
    let site = Site::new().await;
    let fields = named("0123456789");
    let mut first = site.node("GET /a", &fields).await;
    let (mut server, _) = site.server().await;
    server.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01").await;
    let mut second = site.node("GET /b", &fields).await;
    assert!(second.rest_before_reset().await.ends_with("\r\n\r\n01"));
    assert_eq!(site.fetch_named("GET /b", &fields, &plain("0123456789")).await, "0123456789");
    server.say("23456789").await;
    first.head().await;
    first.hear("0123456789").await;
}

/// The size of a file that takes a while, and how much of it comes each second: more than counts as standing still.
const LARGE: usize = 4 * 1024 * 1024;
const STEP: usize = 128 * 1024;

/// A file that comes slowly over a fetch for one URL, and two that share it.
struct Slow {
    site: Site,
    text: String,
    /// Asks for /a, and for /b.
    apps: [Peer; 2],
    server: Peer,
    at: usize,
}

impl Slow {
    async fn begin() -> Self {
        let (site, text) = (Site::new().await, "0123456789abcdef".repeat(LARGE / 16));
        let fields = named(&text);
        let first = site.node("GET /a", &fields).await;
        let (mut server, _) = site.server().await;
        server.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n{}", &text[..STEP])).await;
        let second = site.node("GET /b", &fields).await;
        let mut apps = [first, second];
        for app in &mut apps {
            assert_eq!(length(&app.head().await), LARGE);
            assert!(app.exactly(STEP).await == text[..STEP]);
        }
        Self { site, text, apps, server, at: STEP }
    }

    /// Some seconds in which both get some more.
    async fn trickles(&mut self, clock: &Clock, seconds: usize) {
        for _ in 0..seconds {
            let more = &self.text[self.at..self.at + STEP];
            self.server.say(more).await;
            for app in &mut self.apps {
                assert!(app.exactly(STEP).await == more);
            }
            self.at += STEP;
            clock.pass(Duration::from_secs(1)).await;
        }
    }
}

/// The slow fetch held up everybody who asked for that file, although their own server was much faster.
#[tokio::test]
async fn a_fetch_by_another_url_that_trickles_is_left_for_a_server_that_proves_to_be_faster() {
    let clock = Clock::stop();
    let mut slow = Slow::begin().await;
    slow.trickles(&clock, 4).await;
    let (mut own, head) = slow.site.server().await;
    let range = line(&head, "Range").unwrap().trim_start_matches("bytes=").to_owned();
    let (start, end) = range.split_once('-').unwrap();
    let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap());
    assert!(head.starts_with("GET /b ") && end + 1 - start == 1024 * 1024, "{head}");
    let part = &slow.text[start..=end];
    let length = part.len();
    let head = format!("Content-Range: bytes {start}-{end}/{LARGE}\r\nContent-Length: {length}");
    own.say(format!("HTTP/1.1 206 P\r\n{head}\r\n\r\n{part}")).await;
    let Slow { site, text, apps: [mut first, mut second], mut server, at } = slow;
    assert_eq!(second.rest_before_reset().await, "");
    // The node goes on where it is, as after every download that was cut off.
    let fields = format!("{}Range: bytes={at}-\r\n", named(&text));
    let _rest = site.node("GET /b", &fields).await;
    let (_own, head) = site.server().await;
    assert!(head.starts_with("GET /b ") && line(&head, "Range").is_some(), "{head}");
    // The app that asked for that URL still gets the file.
    tokio::join!(server.say(&text[at..]), async { assert!(first.exactly(LARGE - at).await == text[at..]) });
}

#[tokio::test]
async fn a_slow_fetch_is_shared_on_while_no_other_server_proves_to_be_faster() {
    let clock = Clock::stop();
    let mut slow = Slow::begin().await;
    slow.trickles(&clock, 4).await;
    let (mut own, _) = slow.site.server().await;
    own.say("HTTP/1.1 206 P\r\nContent-Length: 1048576\r\n\r\nabc").await;
    delivered(&own).await;
    slow.trickles(&clock, 4).await;
    assert_eq!(own.rest().await, "", "it is not asked for long");
    let Slow { text, apps: [mut first, mut second], mut server, at, site: _site } = slow;
    let (one, other) = (first.exactly(LARGE - at), second.exactly(LARGE - at));
    let (_, one, other) = tokio::join!(server.say(&text[at..]), one, other);
    assert!(one == text[at..] && other == text[at..]);
}

/// A file of which half has come, and no more since.
struct Still {
    clock: Clock,
    site: Site,
    /// The app that began the fetch and has half of the file.
    app: Peer,
    /// The connection over which nothing comes.
    server: Peer,
}

/// Fields by which the rest can be asked for.
const VALIDATED: &str = "ETag: \"a\"\r\nContent-Length: 10\r\n";

impl Still {
    async fn with(fields: &str) -> Self {
        let (clock, site) = (Clock::stop(), Site::new().await);
        let mut app = site.app("GET /f", "").await;
        let (mut server, _) = site.server().await;
        server.say(format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n{fields}\r\n")).await;
        server.say(if fields.contains("chunked") { "5\r\n01234\r\n" } else { "01234" }).await;
        app.head().await;
        app.hear(if fields.contains("chunked") { "5\r\n01234\r\n" } else { "01234" }).await;
        Self { clock, site, app, server }
    }

    async fn pass(&self, seconds: u32) {
        for _ in 0..4 * seconds {
            self.clock.pass(Duration::from_millis(250)).await;
        }
    }
}

/// Such requests waited for 25 s, and then got a 504.
#[tokio::test]
async fn parts_behind_a_fetch_that_stands_still_are_asked_for_by_themselves() {
    let mut still = Still::with(VALIDATED).await;
    // This app asks while its part might still come.
    let mut early = still.site.app("GET /f", "Range: bytes=6-6\r\n").await;
    delivered(&early).await;
    still.pass(1).await;
    let (mut server, asked) = still.site.server().await;
    assert_eq!(line(&asked, "Range"), Some("bytes=6-6"), "{asked}");
    server.say(part(6, 7)).await;
    assert_eq!(line(&early.head().await, "Content-Range"), Some("bytes 6-6/10"));
    early.hear("6").await;
    still.pass(1).await;
    for (range, asks, (start, end), wants) in [
        ("7-7", "7-7", (7, 8), "7"),
        // Only the bytes that the other parts lack.
        ("-2", "8-", (8, 10), "89"),
        ("4-5", "4-5", (4, 6), "45"),
    ] {
        let mut app = still.site.app("GET /f", &format!("Range: bytes={range}\r\n")).await;
        let (mut server, asked) = still.site.server().await;
        assert_eq!(line(&asked, "Range"), Some(&*format!("bytes={asks}")), "{asked}");
        server.say(part(start, end)).await;
        let expected = format!("bytes {start}-{}/10", end - 1);
        assert_eq!(line(&app.head().await, "Content-Range"), Some(&*expected), "{range}");
        app.hear(wants).await;
    }
    // The bytes that have come are there for all.
    let (_, body) = still.site.hit("GET /f", "Range: bytes=1-3\r\n").await;
    assert_eq!(body, "123");
    let mut head = still.site.app("HEAD /f", "").await;
    assert_eq!(length(&head.head().await), 10);
    still.server.say("56789").await;
    still.app.hear("56789").await;
}

#[tokio::test]
async fn the_end_of_a_file_is_asked_for_by_itself_behind_a_fetch_that_stands_still() {
    let still = Still::with(VALIDATED).await;
    still.pass(1).await;
    let mut apps = Vec::new();
    for _ in 0..3 {
        apps.push(still.site.app("GET /f", "Range: bytes=7-\r\n").await);
    }
    // They share one request.
    let (mut server, asked) = still.site.server().await;
    assert_eq!(line(&asked, "Range"), Some("bytes=7-"), "{asked}");
    server.say(part(7, 10)).await;
    for app in &mut apps {
        assert_eq!(line(&app.head().await, "Content-Range"), Some("bytes 7-9/10"));
        app.hear("789").await;
    }
}

#[tokio::test]
async fn a_part_behind_a_fetch_that_trickles_is_asked_for_by_itself() {
    let mut still = Still::with(&VALIDATED.replace("10", "100000")).await;
    for _ in 0..12 {
        still.server.say("x").await;
        still.app.hear("x").await;
        still.clock.pass(Duration::from_millis(250)).await;
    }
    let mut app = still.site.app("GET /f", "Range: bytes=50000-50003\r\n").await;
    let (mut server, asked) = still.site.server().await;
    assert_eq!(line(&asked, "Range"), Some("bytes=50000-50003"), "{asked}");
    server.say("HTTP/1.1 206 P\r\nETag: \"a\"\r\nCache-Control: max-age=60\r\nContent-Range: bytes 50000-50003/100000\r\nContent-Length: 4\r\n\r\nabcd").await;
    app.head().await;
    app.hear("abcd").await;
}

#[tokio::test]
async fn a_server_without_ranges_is_asked_for_all_of_it_behind_a_fetch_that_stands_still() {
    let still = Still::with(VALIDATED).await;
    still.pass(2).await;
    let mut app = still.site.app("GET /f", "Range: bytes=7-8\r\n").await;
    let (mut server, _) = still.site.server().await;
    server.say(FRESH).await;
    let head = app.head().await;
    let expected = if head.starts_with("HTTP/1.1 206 ") { "78" } else { "0123456789" };
    app.hear(expected).await;
}

#[tokio::test]
async fn who_shares_a_fetch_that_stands_still_gets_the_rest_over_another_connection() {
    let mut still = Still::with(VALIDATED).await;
    still.pass(4).await;
    // A lone app waits for the server, as without a cache.
    let mut other = still.site.app("GET /f", "").await;
    other.head().await;
    other.hear("01234").await;
    still.pass(1).await;
    let (mut server, asked) = still.site.server().await;
    assert_eq!(
        (line(&asked, "Range"), line(&asked, "If-Range")),
        (Some("bytes=5-"), Some("\"a\"")),
        "{asked}"
    );
    server.say(part(5, 10)).await;
    for app in [&mut still.app, &mut other] {
        app.hear("56789").await;
    }
    assert_eq!(still.site.hit("GET /f", "").await.1, "0123456789");
}

#[tokio::test]
async fn what_has_come_is_compared_where_a_server_without_ranges_sends_all_of_it_again() {
    sends_all_of_it_again(VALIDATED).await;
}

#[tokio::test]
async fn what_has_come_is_compared_where_nothing_else_says_that_it_is_the_same() {
    sends_all_of_it_again("Content-Length: 10\r\n").await;
}

async fn sends_all_of_it_again(fields: &str) {
    {
        let mut still = Still::with(fields).await;
        let mut other = still.site.app("GET /f", "").await;
        other.head().await;
        other.hear("01234").await;
        still.pass(3).await;
        for (answer, is_same) in [("0123x56789", false), ("01", false), ("0123456789", true)] {
            let (mut server, _) = still.site.server().await;
            server.say(format!("HTTP/1.1 200 OK\r\n{fields}\r\n{answer}")).await;
            if !is_same {
                delivered(&server).await;
                server.reset();
                still.pass(20).await;
            }
        }
        for app in [&mut still.app, &mut other] {
            app.hear("56789").await;
        }
    }
}

#[tokio::test]
async fn nobody_joins_a_fetch_that_stands_still_and_cannot_go_on() {
    let mut still = Still::with("Transfer-Encoding: chunked\r\n").await;
    still.pass(3).await;
    assert_eq!(still.site.fetch("/f", FRESH).await, "0123456789");
    still.server.say("5\r\n56789\r\n0\r\n\r\n").await;
    still.app.hear("5\r\n56789\r\n0\r\n\r\n").await;
}

/// An app that came later waited for a file that the server no longer had.
#[tokio::test]
async fn nobody_joins_a_fetch_that_stands_still_once_the_server_has_something_else() {
    let mut still = Still::with(VALIDATED).await;
    still.pass(4).await;
    let mut other = still.site.app("GET /f", "").await;
    other.head().await;
    other.hear("01234").await;
    still.pass(1).await;
    let (mut server, asked) = still.site.server().await;
    assert_eq!(line(&asked, "If-Range"), Some("\"a\""), "{asked}");
    let answer =
        "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nETag: \"b\"\r\nContent-Length: 5\r\n\r\nabcde";
    server.say(answer).await;
    delivered(&server).await;
    still.pass(1).await;
    assert_eq!(still.site.fetch("/f", answer).await, "abcde");
    // Those who have a part of it get the rest from the first connection alone.
    still.server.say("56789").await;
    for app in [&mut still.app, &mut other] {
        app.hear("56789").await;
    }
    assert_eq!(still.site.hit("GET /f", "").await.1, "abcde");
}

/// RFC 9211 §2.5: `stored` was said of every response that may be stored, also where nothing could be.
#[tokio::test]
async fn a_response_is_said_to_be_stored_only_where_something_can_be() {
    let site = Site::new().await;
    let store = site.lab.store.clone().unwrap();
    let large = "x".repeat(1 << 20);
    let small = FRESH.replace("ETag", "Connection: close\r\nETag");
    let large = small.replace("Content-Length: 10", "Content-Length: 1048576").replace("0123456789", &large);
    let status = async |path: &str, answer: &str| {
        let mut app = site.app(&format!("GET {path}"), "").await;
        let (mut server, _) = site.server().await;
        server.say(answer).await;
        let head = app.head().await;
        app.exactly(length(&head)).await;
        store.slowly(|store| store.flush()).await.unwrap();
        line(&head, "Cache-Status").unwrap().to_owned()
    };
    let (stored, unstored) = ("laneway-test; fwd=uri-miss; stored; ttl=", "laneway-test; fwd=uri-miss; ttl=");
    for (path, answer) in [("/a", &small), ("/b", &large)] {
        let said = status(path, answer).await;
        assert!(said.starts_with(stored), "{said}");
    }
    // A file in the place of the directory.
    let aside = store.directory().with_extension("aside");
    std::fs::rename(store.directory(), &aside).unwrap();
    std::fs::write(store.directory(), "").unwrap();
    status("/c", &small).await;
    assert!(store.fault().is_some());
    let said = status("/d", &small).await;
    assert!(said.starts_with(unstored), "{said}");
    // Each response tries again, and the next one is told.
    std::fs::remove_file(store.directory()).unwrap();
    std::fs::rename(&aside, store.directory()).unwrap();
    status("/e", &small).await;
    for (path, answer) in [("/f", &small), ("/g", &large)] {
        let said = status(path, answer).await;
        assert!(said.starts_with(stored), "{said}");
    }
}

/// A request for something that may be stored got nothing for as long as the disk did not answer.
#[tokio::test]
async fn a_disk_that_hangs_holds_up_neither_what_is_stored_nor_what_is_to_be() {
    let site = Site::new().await;
    let store = site.lab.store.clone().unwrap();
    let large = "x".repeat(1 << 20);
    // Each comes over a connection of its own.
    let small_answer = FRESH.replace("ETag", "Connection: close\r\nETag");
    let large_answer =
        small_answer.replace("Content-Length: 10", "Content-Length: 1048576").replace("0123456789", &large);
    assert_eq!(site.fetch("/small", &small_answer).await, "0123456789");
    store.slowly(|store| store.flush()).await.unwrap();
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let hung: JoinSet<_> = (0..30)
        .map(|_| {
            let (store, gate) = (store.clone(), gate.clone());
            async move { store.blocking(move |_| gate.lock().unwrap().recv().is_err()).await.is_ok() }
        })
        .collect();
    for _ in 0..2 {
        assert_eq!(site.fetch("/small", &small_answer).await, "0123456789");
        assert_eq!(site.fetch("/large", &large_answer).await, large);
    }
    drop(open);
    drop(hung);
    while store.is_hung() {
        tokio::task::yield_now().await;
    }
    assert_eq!(site.fetch("/large", &large_answer).await, large);
    assert_eq!(site.hit("GET /large", "").await.1, large);
    assert_eq!(site.hit("GET /small", "").await.1, "0123456789");
}

/// Anyone who could change the content at its URL took the file from all others.
#[tokio::test]
async fn what_was_proved_stays_when_its_url_changes() {
    let site = Site::new().await;
    let right = "the right file";
    assert_eq!(site.fetch_named("GET /a", &named(right), &plain(right)).await, right);
    for method in ["POST", "PUT", "DELETE"] {
        let mut app = site.app(&format!("{method} /a"), "Content-Length: 0\r\n").await;
        let (mut server, head) = site.server().await;
        assert!(head.starts_with(method), "{head}");
        server.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        app.head().await;
        assert_eq!(site.hit_named("GET /b", &named(right)).await.1, right, "{method}");
        assert_eq!(site.hit_named("GET /a", &named(right)).await.1, right, "{method}");
        // The URL no longer stands for the file.
        let fresh = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 3\r\n\r\nnew";
        assert_eq!(site.fetch("/a", fresh).await, "new", "{method}");
        assert_eq!(site.hit("GET /a", "").await.1, "new", "{method}");
        assert_eq!(site.hit_named("GET /c", &named(right)).await.1, right, "{method}");
    }
    // Nor is it removed by anything else that is stored in its place.
    let other = named("the other file");
    assert_eq!(site.fetch_named("GET /d", &named("file d"), &plain("file d")).await, "file d");
    assert_eq!(site.fetch_named("GET /d", &other, &plain("the other file")).await, "the other file");
    for (content, path) in [("file d", "GET /e"), ("the other file", "GET /f")] {
        assert_eq!(site.hit_named(path, &named(content)).await.1, content);
    }
}
