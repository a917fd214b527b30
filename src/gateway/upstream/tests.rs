use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::exchange::read_exact;
use super::*;

fn parent(proxy: &str) -> Parent {
    Parent::new(proxy.parse().unwrap())
}

/// Plays a proxy that reads each request of `turns` and sends its reply, while a client asks it
/// for `target`. Returns the client's outcome and the proxy's end of the connection.
async fn exchange(
    proxy: &str,
    target: &str,
    turns: Vec<(Vec<u8>, Vec<u8>)>,
) -> (Result<TcpStream, Failure>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let proxy = parent(&proxy.replace("HERE", &at.to_string()));
    let target: Target = target.parse().unwrap();
    let limit = Duration::from_secs(10);
    let asking = tokio::spawn(async move {
        let stream = TcpStream::connect(at).await.unwrap();
        proxy.connect(stream, &target, Instant::now() + limit, limit).await
    });
    let (mut peer, _) = listener.accept().await.unwrap();
    for (asked, answer) in turns {
        let mut request = vec![0; asked.len()];
        peer.read_exact(&mut request).await.unwrap();
        assert_eq!(request.escape_ascii().to_string(), asked.escape_ascii().to_string());
        // Byte by byte: a reply need not arrive in one piece.
        for byte in answer {
            peer.write_all(&[byte]).await.unwrap();
        }
    }
    (asking.await.unwrap(), peer)
}

async fn next(stream: TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let read = timeout_at(Instant::now() + Duration::from_secs(60), read_exact(&stream, &mut bytes));
    read.await.expect("it has been sent").unwrap();
    bytes
}

const CONNECT: &str = "CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n";

#[tokio::test]
async fn bytes_after_the_reply_belong_to_the_tunnel() {
    let asked = format!("{CONNECT}Proxy-Authorization: Basic bWU6cEBzczp3\r\n\r\n").into_bytes();
    let answer = b"HTTP/1.1 200 OK\r\nVia: 1.1 it\r\n\r\n\r\nSSH-2.0 hello".to_vec();
    let (stream, _peer) =
        exchange("http://me:p%40ss%3Aw@HERE/", "example.org:443", vec![(asked, answer)]).await;
    assert_eq!(next(stream.unwrap(), 15).await, b"\r\nSSH-2.0 hello");

    let turns = vec![
        (vec![5, 2, 0, 2], vec![5, 2]),
        ([&[1, 2][..], b"me", &[2], b"pw"].concat(), vec![1, 0]),
        (
            [&[5, 1, 0, 3, 11][..], b"example.org", &[1, 187]].concat(),
            [&[5, 0, 0, 3, 2][..], b"it", &[0, 1], b"220 mail"].concat(),
        ),
    ];
    let (stream, _peer) = exchange("socks5://me:pw@HERE", "example.org:443", turns).await;
    assert_eq!(next(stream.unwrap(), 8).await, b"220 mail");
}

#[tokio::test]
async fn the_proxys_failures_are_passed_on() {
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
        let (result, _peer) = exchange("http://HERE", "example.org:443", turns).await;
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
        let (result, _peer) = exchange("socks5://HERE", "192.0.2.1:80", turns).await;
        assert_eq!(result.unwrap_err().kind, kind, "{reply}");
    }
    for method in [0xff, 2] {
        let turns = vec![(vec![5, 1, 0], vec![5, method])];
        let failure = exchange("socks5://HERE", "192.0.2.1:80", turns).await.0.unwrap_err();
        let seen = (failure.kind, failure.http_status(), failure.socks5_reply());
        assert_eq!(seen, (Kind::UpstreamLogin, 502, 1), "{method}");
        assert!(
            failure.sentence.contains("requires a login: on the gateway, give it as --upstream"),
            "{failure}"
        );
    }
    let turns = vec![(vec![5, 2, 0, 2], vec![5, 2]), (b"\x01\x02me\x02pw".to_vec(), vec![1, 1])];
    let failure = exchange("socks5://me:pw@HERE", "192.0.2.1:80", turns).await.0.unwrap_err();
    assert_eq!(failure.kind, Kind::UpstreamLogin);
    assert!(
        failure.sentence.contains("does not take its login: on the gateway, correct USER:PASSWORD@"),
        "{failure}"
    );
}

#[tokio::test]
async fn a_reply_without_an_end_is_given_up() {
    let asked = format!("{CONNECT}\r\n").into_bytes();
    let answer = [&b"HTTP/1.1 200 OK\r\n"[..], &b"X: y\r\n".repeat(12_000)].concat();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let proxy = parent(&format!("http://{at}"));
    let peer = async {
        let (mut peer, _) = listener.accept().await.unwrap();
        peer.read_exact(&mut vec![0; asked.len()]).await.unwrap();
        // The other end closes before everything is sent.
        let _ = peer.write_all(&answer).await;
        peer
    };
    let asking = async {
        let stream = TcpStream::connect(at).await.unwrap();
        let limit = Duration::from_secs(10);
        proxy.connect(stream, &"example.org:443".parse().unwrap(), Instant::now() + limit, limit).await
    };
    let (result, _) = tokio::join!(asking, peer);
    assert_eq!(result.unwrap_err().kind, Kind::BadResponse);
}

#[tokio::test]
async fn a_silent_proxy_is_given_up_at_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = parent(&format!("socks5://{}", listener.local_addr().unwrap()));
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let limit = Duration::from_millis(50);
    let target = "example.org:443".parse().unwrap();
    let deadline = Instant::now() + limit;
    let failure = proxy.connect(stream, &target, deadline, limit).await.unwrap_err();
    assert_eq!(failure.kind, Kind::ConnectTimeout);
    assert!(Instant::now() >= deadline);
}

#[test]
fn a_rejected_login_counts_until_it_is_accepted_and_is_tried_again_rarely() {
    let (target, now): (Target, _) = ("example.org:443".parse().unwrap(), Instant::now());
    let mut login = LoginState::default();
    assert!(login.note(&target, false, now), "it is news");
    assert!(!login.note(&target, false, now), "only once");
    assert!(login.is_rejected());
    assert_eq!(login.due(now + LOGIN_INTERVAL / 2), None);
    assert_eq!(login.due(now + LOGIN_INTERVAL), Some(target.clone()));
    assert!(login.note(&target, true, now + LOGIN_INTERVAL));
    assert!(!login.is_rejected());
    assert_eq!(login.due(now + LOGIN_INTERVAL * 2), None);
}

#[test]
fn a_login_that_is_rejected_for_one_destination_is_checked_with_one_that_was_accepted() {
    let (one, other): (Target, Target) = ("one.org:443".parse().unwrap(), "other.org:443".parse().unwrap());
    let (mut login, now) =
        (LoginState { accepted: Some(one.clone()), ..LoginState::default() }, Instant::now());
    assert!(login.note(&other, false, now));
    assert!(!login.is_rejected(), "the proxy may require another login there");
    assert_eq!(login.due(now), Some(one.clone()));
    login.note(&one, false, now);
    assert!(login.is_rejected(), "the password was changed");
}

#[test]
fn connections_to_one_destination_that_wait_for_the_proxy_leave_others_their_sockets() {
    let (one, other): (Target, Target) = ("one.org:443".parse().unwrap(), "other.org:443".parse().unwrap());
    let upstream = Upstream::default();
    let mut held: Vec<_> = (0..MAX_WAITING).map(|_| upstream.wait(&one).unwrap()).collect();
    assert_eq!(upstream.wait(&one).err().map(|failure| failure.kind), Some(Kind::LimitReached));
    assert!(upstream.wait(&other).is_ok());
    held.pop();
    assert!(upstream.wait(&one).is_ok());
    drop(held);
    assert!(upstream.waiting().is_empty());
}
