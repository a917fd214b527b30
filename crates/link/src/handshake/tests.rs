//! This end against rustls' own: whatever is sent arrives, key changes and farewells included, and nothing
//! that was altered does.

use super::*;
use crate::connection::Connection;
use crate::settings;
use crate::tls::{ALPN_LINK, join_client, link_client, link_server, server_name};
use laneway_sys::state::StateDir;
use laneway_trust::authority::{Authority, Uses};
use laneway_trust::certificate::Role;
use laneway_trust::code::JoinCode;
use laneway_trust::group::Group;
use tokio::net::TcpListener;
use tokio_rustls::{TlsAcceptor, TlsConnector};

fn group() -> Group {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(directory.path().join("state")).unwrap();
    Authority::create(&state, "office", "first").unwrap()
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap());
    let (near, far) = tokio::join!(near, listener.accept());
    (near.unwrap(), far.unwrap().0)
}

async fn our_server(socket: TcpStream, group: &Group) -> io::Result<Proved> {
    Hello::read(socket).await?.accept(link_server(group).unwrap()).await
}

async fn our_client(socket: TcpStream, group: &Group) -> io::Result<Proved> {
    connect(socket, link_client(group).unwrap(), server_name(None)).await
}

/// Bytes that depend on where they are.
fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect()
}

/// Sends all sizes both ways at once, and says farewell.
async fn exchange<Near, Far>(near: Near, far: Far)
where
    Near: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    Far: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    const ALL: usize = 3_000_000;
    async fn one<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(stream: S) {
        let (mut read, mut write) = tokio::io::split(stream);
        let sending = async {
            let all = bytes(ALL);
            let (mut at, mut size) = (0, 1);
            while at < ALL {
                let end = (at + size).min(ALL);
                write.write_all(&all[at..end]).await.unwrap();
                write.flush().await.unwrap();
                (at, size) = (end, (size * 3) % 200_003 + 1);
            }
            write.shutdown().await.unwrap();
        };
        let receiving = async {
            let mut all = Vec::new();
            read.read_to_end(&mut all).await.unwrap();
            assert!(all == bytes(ALL), "{} bytes arrived", all.len());
        };
        tokio::join!(sending, receiving);
    }
    tokio::join!(one(near), one(far));
}

#[tokio::test]
async fn our_client_speaks_with_a_rustls_server() {
    let group = group();
    let (near, far) = sockets().await;
    let acceptor = TlsAcceptor::from(link_server(&group).unwrap());
    let (near, far) = tokio::join!(our_client(near, &group), acceptor.accept(far));
    exchange(near.unwrap().stream, far.unwrap()).await;
}

#[tokio::test]
async fn our_server_speaks_with_a_rustls_client_that_does_not_wait() {
    let group = group();
    let (near, far) = sockets().await;
    let connector = TlsConnector::from(link_client(&group).unwrap());
    let eager = async {
        let mut near = connector.connect(server_name(None), near).await.unwrap();
        // So that part of it comes with the end of the handshake.
        near.write_all(&bytes(40_000)).await.unwrap();
        near.flush().await.unwrap();
        near
    };
    let (near, far) = tokio::join!(eager, our_server(far, &group));
    let mut far = far.unwrap();
    assert_eq!(far.certificates.len(), group.chain.len());
    let mut early = vec![0; 40_000];
    far.stream.read_exact(&mut early).await.unwrap();
    assert!(early == bytes(40_000));
    exchange(near, far.stream).await;
}

#[tokio::test]
async fn keys_change_under_way() {
    let group = group();
    let (near, far) = sockets().await;
    let acceptor = TlsAcceptor::from(link_server(&group).unwrap());
    let (near, far) = tokio::join!(our_client(near, &group), acceptor.accept(far));
    let (mut near, mut far) = (near.unwrap().stream, far.unwrap());
    let records = near.change_keys_after(5);
    // RFC 8446 §5.5: 2^24.5 records of AES-GCM.
    assert!((1 << 20..=23_726_566).contains(&records), "{records}");
    for round in 0..20 {
        // rustls asks for a change of our key with each of its own.
        far.get_mut().1.refresh_traffic_keys().unwrap();
        let sent = bytes(1000 * round + 1);
        let mut heard = vec![0; sent.len()];
        let there = async {
            far.write_all(&sent).await.unwrap();
            far.flush().await.unwrap();
        };
        tokio::join!(there, async { near.read_exact(&mut heard).await.unwrap() });
        assert!(heard == sent);
        let back = async {
            near.write_all(&sent).await.unwrap();
            near.flush().await.unwrap();
        };
        tokio::join!(back, async { far.read_exact(&mut heard).await.unwrap() });
        assert!(heard == sent);
    }
    exchange(near, far).await;
}

#[tokio::test]
async fn strangers_refuse_each_other_and_say_why() {
    let (ours, theirs) = (group(), group());
    let (near, far) = sockets().await;
    let (near, far) = tokio::join!(our_client(near, &ours), our_server(far, &theirs));
    let (near, far) = (near.err().unwrap().to_string(), far.err().unwrap().to_string());
    assert!(near.contains("invalid peer certificate"), "{near}");
    assert!(far.contains("received fatal alert"), "{far}");
}

#[tokio::test]
async fn a_client_without_certificate_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(directory.path().join("state")).unwrap();
    let group = Authority::create(&state, "office", "first").unwrap();
    let authority = Authority::load(&state).unwrap().unwrap();
    let code = authority.invite(Role::Client, Uses::Any, None, None).unwrap();
    let mut config = ClientConfig::clone(&join_client(&code));
    config.alpn_protocols = vec![ALPN_LINK.to_vec()];
    config.enable_secret_extraction = true;
    let (near, far) = sockets().await;
    let near = connect(near, Arc::new(config), server_name(None));
    let (near, far) = tokio::join!(near, our_server(far, &group));
    assert!(far.err().unwrap().to_string().contains("no certificate"));
    let told = near.unwrap().stream.read_u8().await.unwrap_err().to_string();
    assert!(told.contains("CertificateRequired"), "{told}");
}

#[tokio::test]
async fn a_peer_that_changes_its_key_all_the_time_is_refused() {
    let group = group();
    let (near, far) = sockets().await;
    let acceptor = TlsAcceptor::from(link_server(&group).unwrap());
    let (near, far) = tokio::join!(our_client(near, &group), acceptor.accept(far));
    let (mut near, mut far) = (near.unwrap().stream, far.unwrap());
    let flood = async {
        for _ in 0..33 {
            far.get_mut().1.refresh_traffic_keys().unwrap();
        }
        far.flush().await.unwrap();
        far.read_u8().await.unwrap_err().to_string()
    };
    let (told, error) = tokio::join!(flood, near.read_u8());
    assert!(error.unwrap_err().to_string().contains("too many records without data"));
    assert!(told.contains("UnexpectedMessage"), "{told}");
}

#[tokio::test]
async fn a_farewell_is_answered_at_once() {
    let group = group();
    let (near, far) = sockets().await;
    let connector = TlsConnector::from(link_client(&group).unwrap());
    let (near, far) = tokio::join!(connector.connect(server_name(None), near), our_server(far, &group));
    let (mut near, far) = (near.unwrap(), far.unwrap().stream);
    let mut link = Connection::server(far, settings::config());
    let ours = async {
        near.shutdown().await.unwrap();
        // rustls takes an end without close_notify for an error.
        let mut heard = Vec::new();
        near.read_to_end(&mut heard).await.unwrap();
    };
    let (theirs, ()) = tokio::join!(std::future::poll_fn(|cx| link.poll_drive(cx)), ours);
    assert!(theirs.is_ok(), "{theirs:?}");
}

#[tokio::test]
async fn an_end_without_farewell_is_no_end() {
    let group = group();
    let (near, far) = sockets().await;
    let (near, far) = tokio::join!(our_client(near, &group), our_server(far, &group));
    let (near, mut far) = (near.unwrap().stream, far.unwrap().stream);
    drop(near);
    let error = far.read_u8().await.unwrap_err();
    assert!(matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset), "{error}");
}

#[tokio::test]
async fn a_flipped_bit_ends_it_and_nothing_wrong_arrives() {
    let group = group();
    let whole = bytes(400_000);
    for flip in [7_000usize, 90_001, 250_000, 390_000] {
        let (near, relay_near) = sockets().await;
        let (relay_far, far) = sockets().await;
        let relay = async {
            let (mut from_near, mut to_near) = relay_near.into_split();
            let (mut from_far, mut to_far) = relay_far.into_split();
            let forth = async {
                let (mut seen, mut buffer) = (0, vec![0; 8192]);
                loop {
                    let count = from_near.read(&mut buffer).await.unwrap_or(0);
                    if count == 0 {
                        break;
                    }
                    if (seen..seen + count).contains(&flip) {
                        buffer[flip - seen] ^= 0x10;
                    }
                    seen += count;
                    if to_far.write_all(&buffer[..count]).await.is_err() {
                        break;
                    }
                }
                drop(to_far);
            };
            tokio::join!(forth, async { drop(tokio::io::copy(&mut from_far, &mut to_near).await) });
        };
        let ends = async {
            let (near, far) = tokio::join!(our_client(near, &group), our_server(far, &group));
            let (mut near, mut far) = (near.unwrap().stream, far.unwrap().stream);
            let sending = async {
                let _ = near.write_all(&whole).await;
                let _ = near.flush().await;
                // The other end says why.
                near.read_u8().await.unwrap_err()
            };
            let receiving = async {
                let (mut heard, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
                let error = loop {
                    match far.read(&mut buffer).await {
                        Ok(count) => heard.extend_from_slice(&buffer[..count]),
                        Err(error) => break error,
                    }
                };
                drop(far);
                (heard, error)
            };
            let (told, (heard, error)) = tokio::join!(sending, receiving);
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
            assert!(heard.len() < flip && heard[..] == whole[..heard.len()], "{}", heard.len());
            told
        };
        tokio::join!(relay, ends);
    }
}

/// Anyone who connects may ask to join, and send any number of bytes.
#[tokio::test]
async fn protocols_of_few_messages_take_in_few_bytes() {
    let (mut near, far) = sockets().await;
    let (group, sent) = (group(), 256 * 1024);
    let code = JoinCode::new(group.ca_key, [0; 8], [0; 16], 0);
    let mut client = rustls::ClientConnection::new(join_client(&code), server_name(None)).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    near.write_all(&hello).await.unwrap();
    let hello = Hello::read(far).await.unwrap();
    let sending = async move {
        // The other end stops reading.
        let _ = near.write_all(&vec![0; sent]).await;
        near
    };
    let receiving = async {
        let mut taken = Vec::new();
        hello.into_bounded().read_to_end(&mut taken).await.unwrap();
        taken.len()
    };
    let (near, taken) = tokio::join!(tokio::spawn(sending), receiving);
    assert_eq!(taken, MAX_HELLO + MAX_FLIGHT);
    drop(near);
}
