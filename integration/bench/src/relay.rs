//! The ceiling's relay: what a plain relay without multiplexing and encryption costs.
//!
//! `copy_bidirectional` with 64 KiB buffers, on Tokio's default runtime. The first of two relays speaks just enough of HTTP
//! CONNECT for an app to have the same conversation with it as with a proxy: it reads the head, answers 200 and connects to
//! the one fixed address. Anything else is passed on from its first byte.

use anyhow::{Context, Result};
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// The first argument that makes this program a relay: `relay LISTEN TO [connect]`.
pub(crate) const ROLE: &str = "relay";

const BUFFER: usize = 64 * 1024;
/// The longest head of a CONNECT request.
const HEAD: usize = 1024;

/// Relays until it is killed.
pub(crate) fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(2).collect();
    let address = |n: usize| -> Result<SocketAddr> {
        arguments.get(n).context("relay LISTEN TO [connect]")?.parse().context("an address")
    };
    let (listen, to) = (address(0)?, address(1)?);
    let answers_connect = arguments.get(2).is_some_and(|word| word == "connect");

    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = listen_on(listen)?;
        loop {
            let (app, _) = listener.accept().await?;
            // A broken connection does not concern the others.
            tokio::spawn(relay(app, to, answers_connect));
        }
    })
}

async fn relay(mut app: TcpStream, to: SocketAddr, answers_connect: bool) -> io::Result<()> {
    app.set_nodelay(true)?;
    let mut onward = Vec::new();
    if answers_connect {
        onward.reserve(HEAD);
        while app.read_buf(&mut onward).await? > 0 && is_unfinished_connect(&onward) {}
        if onward.starts_with(b"CONNECT ") {
            onward.clear();
            app.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        }
    }
    let mut server = TcpStream::connect(to).await?;
    server.set_nodelay(true)?;
    server.write_all(&onward).await?;
    drop(onward);
    copy_bidirectional_with_sizes(&mut app, &mut server, BUFFER, BUFFER).await?;
    Ok(())
}

fn is_unfinished_connect(head: &[u8]) -> bool {
    head.starts_with(b"CONNECT ") && !head.ends_with(b"\r\n\r\n") && head.len() < HEAD
}

/// A listener whose queue holds what a load generator opens at once.
pub(crate) fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}
