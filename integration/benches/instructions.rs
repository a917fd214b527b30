//! The cost of the hot paths in instructions: `scripts/instructions.sh` counts them under valgrind and compares them
//! with `instructions.txt`. A run repeats a path `COUNT` times, so that two runs give the cost of one repetition.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

#[path = "../direct/lab.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod lab;

use std::hint::black_box;
use std::net::SocketAddr;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use lab::Lab;
use laneway::net;
use laneway::wire::datagram::{
    Advert, AnnouncedName, Datagram, DatagramSigner, Keys, Message, Peer, Reach, Received, STATEMENT_SIZE,
    Sequence, Standing, State, Way,
};
use laneway::wire::id::{GroupId, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const MIB: usize = 1024 * 1024;
/// The option of a gateway without a cache.
const NO_CACHE: &str = "no-cache = true";
/// The field of a response that may be stored.
const FRESH: &[u8] = b"Cache-Control: max-age=600\r\n";

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (Some(path), Some(Ok(count))) = (arguments.next(), arguments.next().map(|count| count.parse()))
    else {
        // Without arguments, as started by `cargo bench`: checks that every path works.
        for path in ["download", "upload", "tunnel", "uncached", "passed", "unshared", "miss", "hit", "offer"]
        {
            run(path, 2);
        }
        return;
    };
    run(&path, count);
}

fn run(path: &str, count: usize) {
    let runtime = net::runtime().unwrap();
    match path {
        "download" => runtime.block_on(download(count)),
        "upload" => runtime.block_on(upload(count)),
        "tunnel" => runtime.block_on(tunnels(count)),
        // Plain requests: through a gateway without a cache; for a response that is known not to be shared; for new URIs with
        // a response that cannot be stored, and with one that can; for a stored response.
        "uncached" => runtime.block_on(requests(count, NO_CACHE, &[], |_| 0)),
        "passed" => runtime.block_on(requests(count, "", &[], |_| 0)),
        "unshared" => runtime.block_on(requests(count, "", &[], |at| at)),
        "miss" => runtime.block_on(requests(count, "", FRESH, |at| at)),
        "hit" => runtime.block_on(requests(count, "", FRESH, |_| 0)),
        "offer" => offers(count),
        _ => panic!("no path is called {path}"),
    }
}

/// MiB from the server to the app, through gateway and client, which are both in this process.
async fn download(count: usize) {
    let (mut app, mut server) = opened().await;
    let block = vec![7; MIB];
    let sending = async {
        for _ in 0..count {
            server.write_all(&block).await.unwrap();
        }
    };
    tokio::join!(sending, receive(&mut app, count * MIB));
}

/// MiB from the app to the server.
async fn upload(count: usize) {
    let (mut app, mut server) = opened().await;
    let block = vec![7; MIB];
    let sending = async {
        for _ in 0..count {
            app.write_all(&block).await.unwrap();
        }
    };
    tokio::join!(sending, receive(&mut server, count * MIB));
}

/// Tunnels, one after the other: opened, a byte each way, closed.
async fn tunnels(count: usize) {
    let (lab, listener) = (Lab::new().await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    let (proxy, server) = (lab.proxy().await, listener.local_addr().unwrap());
    let serving = async {
        for _ in 0..count {
            let (mut one, _) = listener.accept().await.unwrap();
            let byte = one.read_u8().await.unwrap();
            one.write_all(&[byte]).await.unwrap();
            assert_eq!(one.read(&mut [0]).await.unwrap(), 0);
        }
    };
    let asking = async {
        for _ in 0..count {
            let mut app = connect(proxy.address, server).await;
            app.write_all(b"?").await.unwrap();
            assert_eq!(app.read_u8().await.unwrap(), b'?');
            app.shutdown().await.unwrap();
            assert_eq!(app.read(&mut [0]).await.unwrap(), 0);
        }
    };
    tokio::join!(serving, asking);
}

/// Plain requests of one app, one after the other on one connection, each for the URI of the number that `uri` gives. The server
/// answers with two bytes and the field `lifetime`.
async fn requests(count: usize, options: &str, lifetime: &[u8], uri: impl Fn(usize) -> usize) {
    let options = format!("client-tunnels = 4294967295\nclient-opens = 4294967295\n{options}");
    let (lab, listener) = (Lab::with_limits(&options).await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    let (proxy, server) = (lab.proxy().await, listener.local_addr().unwrap());
    let answer = [&b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"[..], lifetime, b"\r\nok"].concat();
    let serving = async {
        loop {
            let (mut one, _) = listener.accept().await.unwrap();
            while receive_until(&mut one, b"\r\n\r\n").await {
                one.write_all(&answer).await.unwrap();
            }
        }
    };
    let asking = async {
        let mut app = TcpStream::connect(proxy.address).await.unwrap();
        for at in 0..count {
            let request = format!("GET http://{server}/{} HTTP/1.1\r\nHost: {server}\r\n\r\n", uri(at));
            app.write_all(request.as_bytes()).await.unwrap();
            assert!(receive_until(&mut app, b"\r\n\r\nok").await);
        }
    };
    tokio::select! {
        () = serving => {}
        () = asking => {}
    }
}

/// Whether what comes ends with `end`, before the connection does.
async fn receive_until(stream: &mut TcpStream, end: &[u8]) -> bool {
    let mut received = Vec::with_capacity(1024);
    while !received.ends_with(end) {
        if stream.read_buf(&mut received).await.unwrap() == 0 {
            return false;
        }
    }
    true
}

async fn opened() -> (TcpStream, TcpStream) {
    let (lab, listener) = (Lab::new().await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    let (proxy, server) = (lab.proxy().await, listener.local_addr().unwrap());
    let (app, server) = tokio::join!(connect(proxy.address, server), listener.accept());
    // They live as long as the process.
    std::mem::forget((lab, proxy));
    (app, server.unwrap().0)
}

async fn connect(proxy: SocketAddr, server: SocketAddr) -> TcpStream {
    let mut app = TcpStream::connect(proxy).await.unwrap();
    app.write_all(format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = [0; b"HTTP/1.1 200 Connection established\r\n\r\n".len()];
    app.read_exact(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    app
}

async fn receive(stream: &mut TcpStream, mut count: usize) {
    let mut buffer = vec![0; 128 * 1024];
    while count > 0 {
        let heard = stream.read(&mut buffer).await.unwrap();
        assert!(heard > 0 && buffer[..heard].iter().step_by(4096).all(|byte| *byte == 7));
        count -= heard;
    }
}

/// An offer, verified and read.
fn offers(count: usize) {
    let (group, keys) = (GroupId([1; 8]), Keys::new(&[2; 32]));
    let way = Way { from: "10.0.0.8:7420".parse().unwrap(), to: "10.0.0.9:7420".parse().unwrap() };
    let peer = Peer { id: NodeId([4; 16]), link: "10.0.0.7:7420".parse().unwrap(), state: State::Standby };
    let advert = Advert {
        state: State::Active,
        reach: Reach::Reachable,
        link_port: 7420,
        weight: 100,
        load: 10,
        capacity: 1000,
        tunnels: 3,
        standing: Standing::default(),
        peers: vec![peer; 4],
    };
    let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap();
    let public_key: &[u8; 32] = pair.public_key().as_ref().try_into().unwrap();
    let signer =
        DatagramSigner::new(key.as_ref(), [0; STATEMENT_SIZE], AnnouncedName::new("mill-7")).unwrap();
    let message = Message::Offer { nonce: [5; 16], sequence: Sequence { boot: 1, counter: 1 }, advert };
    let datagram = Datagram { group, epoch: 1, sender: NodeId([3; 16]), message };
    let bytes = datagram.encode(&keys, way, Some(&signer));
    for _ in 0..count {
        let Ok(Received::Signed(offer)) = Datagram::decode(black_box(&bytes), group, &keys, way) else {
            panic!("not an offer");
        };
        offer.verify(public_key).unwrap();
    }
}
