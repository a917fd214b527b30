use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// A listener that reads `asked` and says `answer`, in turn; and the outcome of asking it for `target`.
async fn meet(
    proxy: &str,
    target: &str,
    turns: Vec<(Vec<u8>, Vec<u8>)>,
) -> (Result<TcpStream, Failure>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let proxy: Proxy = proxy.replace("HERE", &at.to_string()).parse().unwrap();
    let target: Target = target.parse().unwrap();
    let limit = Duration::from_secs(10);
    let asking = tokio::spawn(async move {
        let stream = TcpStream::connect(at).await.unwrap();
        proxy.connect(stream, &target, Instant::now() + limit, limit, &AtomicBool::new(false)).await
    });
    let (mut peer, _) = listener.accept().await.unwrap();
    for (asked, answer) in turns {
        let mut heard = vec![0; asked.len()];
        peer.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard.escape_ascii().to_string(), asked.escape_ascii().to_string());
        // Byte by byte at first: no answer arrives whole by right.
        for byte in answer {
            peer.write_all(&[byte]).await.unwrap();
        }
    }
    (asking.await.unwrap(), peer)
}

async fn next(stream: TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let read = timeout_at(Instant::now() + Duration::from_secs(60), read_exact(&stream, &mut bytes));
    read.await.expect("it has been said").unwrap();
    bytes
}

const CONNECT: &str = "CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n";

#[tokio::test]
async fn what_follows_the_answer_belongs_to_the_tunnel() {
    let asked = format!("{CONNECT}Proxy-Authorization: Basic bWU6cEBzczp3\r\n\r\n").into_bytes();
    let answer = b"HTTP/1.1 200 OK\r\nVia: 1.1 it\r\n\r\n\r\nSSH-2.0 hello".to_vec();
    let (stream, _peer) = meet("http://me:p%40ss%3Aw@HERE/", "example.org:443", vec![(asked, answer)]).await;
    assert_eq!(next(stream.unwrap(), 15).await, b"\r\nSSH-2.0 hello");

    let turns = vec![
        (vec![5, 2, 0, 2], vec![5, 2]),
        ([&[1, 2][..], b"me", &[2], b"pw"].concat(), vec![1, 0]),
        (
            [&[5, 1, 0, 3, 11][..], b"example.org", &[1, 187]].concat(),
            [&[5, 0, 0, 3, 2][..], b"it", &[0, 1], b"220 mail"].concat(),
        ),
    ];
    let (stream, _peer) = meet("socks5://me:pw@HERE", "example.org:443", turns).await;
    assert_eq!(next(stream.unwrap(), 8).await, b"220 mail");
}

#[tokio::test]
async fn what_the_proxy_says_is_told_truthfully() {
    let asked = format!("{CONNECT}\r\n").into_bytes();
    for (answer, kind, side) in [
        ("407 Proxy Authentication Required", Kind::UpstreamLogin, Side::Gateway),
        ("403 Forbidden", Kind::NameForbidden, Side::Gateway),
        ("502 Bad Gateway", Kind::HostUnreachable, Side::Server),
        ("504 Gateway Timeout", Kind::ConnectTimeout, Side::Server),
        ("503 No\r\nX-Squid-Error: ERR_CONNECT_FAIL 111", Kind::Refused, Side::Server),
        ("503 No\r\nX-Squid-Error: ERR_DNS_FAIL 0", Kind::NameNotFound, Side::Server),
        ("301 Moved", Kind::BadResponse, Side::Gateway),
        ("nonsense", Kind::BadResponse, Side::Gateway),
    ] {
        let turns = vec![(asked.clone(), format!("HTTP/1.1 {answer}\r\n\r\n").into_bytes())];
        let (result, _peer) = meet("http://HERE", "example.org:443", turns).await;
        let failure = result.unwrap_err();
        assert_eq!((failure.kind, failure.side), (kind, side), "{answer}: {failure}");
        assert!(!failure.blames_gateway());
    }
    for (reply, kind) in [
        (1, Kind::HostUnreachable),
        (2, Kind::NameForbidden),
        (3, Kind::NetworkUnreachable),
        (5, Kind::Refused),
        (6, Kind::ConnectTimeout),
        (99, Kind::BadResponse),
    ] {
        let request = vec![5, 1, 0, 1, 192, 0, 2, 1, 0, 80];
        let turns = vec![(vec![5, 1, 0], vec![5, 0]), (request, vec![5, reply, 0, 1])];
        let (result, _peer) = meet("socks5://HERE", "192.0.2.1:80", turns).await;
        assert_eq!(result.unwrap_err().kind, kind, "{reply}");
    }
    let turns = vec![(vec![5, 1, 0], vec![5, 0xff])];
    let failure = meet("socks5://HERE", "192.0.2.1:80", turns).await.0.unwrap_err();
    assert_eq!((failure.kind, failure.http_status(), failure.socks5_reply()), (Kind::UpstreamLogin, 502, 1));
    assert!(
        failure.sentence.contains("on the gateway, give it as --upstream with USER:PASSWORD@"),
        "{failure}"
    );
}

#[tokio::test]
async fn an_answer_without_an_end_is_left() {
    let asked = format!("{CONNECT}\r\n").into_bytes();
    let answer = [&b"HTTP/1.1 200 OK\r\n"[..], &b"X: y\r\n".repeat(12_000)].concat();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let proxy: Proxy = format!("http://{at}").parse().unwrap();
    let peer = async {
        let (mut peer, _) = listener.accept().await.unwrap();
        peer.read_exact(&mut vec![0; asked.len()]).await.unwrap();
        // It is left before it has said everything.
        let _ = peer.write_all(&answer).await;
        peer
    };
    let asking = async {
        let stream = TcpStream::connect(at).await.unwrap();
        let limit = Duration::from_secs(10);
        proxy
            .connect(
                stream,
                &"example.org:443".parse().unwrap(),
                Instant::now() + limit,
                limit,
                &AtomicBool::new(false),
            )
            .await
    };
    let (result, _) = tokio::join!(asking, peer);
    assert_eq!(result.unwrap_err().kind, Kind::BadResponse);
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_says_nothing_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy: Proxy = format!("socks5://{}", listener.local_addr().unwrap()).parse().unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let limit = Duration::from_secs(10);
    let target = "example.org:443".parse().unwrap();
    let failure = proxy
        .connect(stream, &target, Instant::now() + limit, limit, &AtomicBool::new(false))
        .await
        .unwrap_err();
    assert_eq!(failure.kind, Kind::ConnectTimeout);
}

#[test]
fn a_proxy_is_read_and_its_login_never_shown() {
    for (text, shown) in [
        ("http://10.0.0.1:3128", "http://10.0.0.1:3128"),
        ("HTTP://me:secret@Proxy.corp:8080/", "http://proxy.corp:8080"),
        ("socks5h://me:s%3Acret%25@[2001:db8::1]:1080", "socks5://[2001:db8::1]:1080"),
    ] {
        let proxy: Proxy = text.parse().unwrap();
        assert_eq!(proxy.to_string(), shown);
        let all = format!("{proxy} {proxy:?} {:?}", vec![proxy.clone()]);
        assert!(!all.contains("cret") && !all.contains("me"), "{all}");
    }
    for text in [
        "10.0.0.1:3128",
        "https://10.0.0.1:3128",
        "http://10.0.0.1",
        "http://10.0.0.1:3128/path",
        "http://me@10.0.0.1:3128",
        "http://me:@10.0.0.1:3128",
        "http://me:se:cret@10.0.0.1:3128",
        "http://me:%0d%0aX@10.0.0.1:3128",
        "http://me:%zz@10.0.0.1:3128",
    ] {
        let error = text.parse::<Proxy>().unwrap_err().to_string();
        assert!(!error.contains("cret"), "{error}");
    }
}

/// As a person would have to write it.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

proptest! {
    #[test]
    fn any_text_is_a_proxy_or_none_and_what_is_shown_of_it_reads_back(
        scheme in prop::sample::select(vec!["http", "socks5", "https", ""]), rest in "[a-z0-9:/@.%?#\\[\\]é-]{0,30}",
    ) {
        if let Ok(proxy) = format!("{scheme}://{rest}").parse::<Proxy>() {
            let shown: Proxy = proxy.to_string().parse().unwrap();
            prop_assert_eq!((&shown.at, shown.dialect), (&proxy.at, proxy.dialect));
            prop_assert!(shown.login.is_none());
        }
    }

    #[test]
    fn any_login_is_read_as_it_was_meant(user in "[^:\\pC]{1,60}", password in "[^\\pC]{1,60}") {
        let proxy: Proxy = format!("http://{}:{}@h:1", encoded(&user), encoded(&password)).parse().unwrap();
        let is_meant = proxy.login == Some(Login { user, password });
        prop_assert!(is_meant);
    }
}
