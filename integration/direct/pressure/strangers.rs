//! Strangers without any certificate, and members that were removed, who connect to the link port of the real binary.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use laneway::link::tls;
use laneway::sys::state::StateDir;
use laneway::trust::authority::{Authority, Names, Uses};
use laneway::trust::certificate::Role;
use laneway::trust::code::JoinCode;
use laneway::trust::join::{self, EXPORTER_LABEL, JoinKey};
use laneway::trust::name::WantedName;
use laneway::wire::id::NodeId;
use rustls::ClientConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{MIB, Victim};
use crate::peer::within;

/// As many handshakes as a gateway has in progress for one LAN: 64 from each of 16 addresses.
const ADDRESSES: u8 = 16;
const EACH: usize = 64;

/// The first 48,000 bytes of a ClientHello of 65,280, in records of 16,000.
fn endless_hello() -> Vec<u8> {
    let mut hello = b"\x01\x00\xff\x00\x03\x03".to_vec();
    hello.extend([7; 32]);
    hello.extend(b"\x00\xfe\xfe");
    hello.resize(48_000, 0x13);
    hello.chunks(16_000).flat_map(|part| [b"\x16\x03\x01\x3e\x80", part].concat()).collect()
}

async fn send_from(from: [u8; 4], victim: std::net::SocketAddr, bytes: Vec<u8>) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut stream = socket.connect(victim).await.ok()?;
    // The gateway may close it before it has read all.
    let _ = stream.write_all(&bytes).await;
    Some(stream)
}

#[tokio::test]
async fn long_client_hellos_that_are_never_finished_do_not_fill_the_gateways_memory() {
    laneway::net::raise_open_files();
    let victim = Victim::start("127.0.0.79", &[]).await;
    let mut flood = JoinSet::new();
    for address in 0..ADDRESSES {
        for _ in 0..EACH {
            flood.spawn(send_from([127, 67, 0, address], victim.link, endless_hello()));
        }
    }
    let held = within(flood.join_all()).await;
    victim.has_kept_its_limit().await;
    drop(held);
}

async fn secure(from: [u8; 4], to: SocketAddr, config: Arc<ClientConfig>) -> Option<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    socket.bind((from, 0).into()).unwrap();
    let stream = socket.connect(to).await.ok()?;
    TlsConnector::from(config).connect(tls::server_name(None), stream).await.ok()
}

/// The beginning of a request to join and of another TLS record, as much as is read of either.
async fn begin_to_join(
    from: [u8; 4],
    to: SocketAddr,
    config: Arc<ClientConfig>,
) -> Option<TlsStream<TcpStream>> {
    let mut stream = secure(from, to, config).await?;
    stream.write_all(&[&4096_u32.to_be_bytes()[..], &[b'x'; 4000]].concat()).await.ok()?;
    stream.flush().await.ok()?;
    stream.get_mut().0.write_all(&[&b"\x17\x03\x03\x40\x10"[..], &[b'x'; 5500]].concat()).await.ok()?;
    Some(stream)
}

impl Victim {
    fn authority(&self) -> Authority {
        let state = StateDir::open(self.directory.path().join("state")).unwrap();
        Authority::load(&state).unwrap().unwrap()
    }

    async fn admits(&self, from: [u8; 4], code: &JoinCode) {
        let mut stream = secure(from, self.link, tls::join_client(code)).await.unwrap();
        let exporter = stream.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None).unwrap();
        let (name, key) = (WantedName::Suggested("laptop".into()), JoinKey::temporary().unwrap());
        join::request(&mut stream, &exporter, code, &name, key).await.unwrap();
    }

    /// Checks that those who have proved nothing took no more than a part of what connections may hold.
    fn has_kept_little_for_strangers(&self) {
        let peak = self.memory("VmHWM:");
        let most = self.idle + self.limit * MIB;
        assert!(peak <= most, "{} MiB, and no more than {} may be", peak / MIB, most / MIB);
    }
}

#[tokio::test]
async fn joins_that_are_never_finished_do_not_fill_the_gateways_memory() {
    laneway::net::raise_open_files();
    let victim = Victim::start("127.0.0.65", &[]).await;
    let code = victim.authority().invite(Role::Client, Uses::Any, None, None).unwrap();
    let config = tls::join_client(&code);
    let mut flood = JoinSet::new();
    for address in 0..ADDRESSES {
        for _ in 0..EACH {
            flood.spawn(begin_to_join([127, 68, 0, address], victim.link, config.clone()));
        }
    }
    let held = within(flood.join_all()).await;
    assert!(held.iter().any(Option::is_some), "nobody has got through");
    within(victim.admits([127, 68, 1, 1], &code)).await;
    victim.has_kept_little_for_strangers();
    let _links = victim.begin_questions().await;
    victim.has_kept_its_limit().await;
    drop(held);
}

/// Removes the hostile member, and so many others that the list is long.
fn remove_many(state: &Path) {
    let authority = Authority::load(&StateDir::open(state.to_owned()).unwrap()).unwrap().unwrap();
    let seen: Names =
        (0..1_900_u128).map(|number| (NodeId((number << 100 | 1 << 127).to_be_bytes()), None)).collect();
    let hostile = authority.members().unwrap()[1].id.clone();
    let ids: Vec<_> = seen.keys().map(ToString::to_string).chain([hostile]).collect();
    authority.revoke_all(&ids.iter().map(String::as_str).collect::<Vec<_>>(), &seen).unwrap();
}

#[tokio::test]
async fn removed_members_that_do_not_read_the_proof_do_not_fill_the_gateways_memory() {
    laneway::net::raise_open_files();
    let victim = Victim::start_with("127.0.0.66", &[], remove_many).await;
    let mut config = (*tls::link_client(&victim.hostile).unwrap()).clone();
    config.alpn_protocols = vec![tls::ALPN_REMOVAL.to_vec()];
    config.enable_secret_extraction = false;
    let config = Arc::new(config);
    let mut flood = JoinSet::new();
    for address in 0..ADDRESSES {
        for _ in 0..EACH {
            flood.spawn(secure([127, 69, 0, address], victim.link, config.clone()));
        }
    }
    let held = within(flood.join_all()).await;
    assert!(held.iter().any(Option::is_some), "nobody has got through");
    victim.has_kept_little_for_strangers();
    victim.has_kept_its_limit().await;
    drop(held);
}
