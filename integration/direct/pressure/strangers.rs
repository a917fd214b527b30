//! Strangers without any certificate, who connect to the link port of the real binary.

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use super::Victim;
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
