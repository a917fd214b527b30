//! An app or a server that follows a script: it says bytes and insists on what it hears.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

/// How long a script waits for a step. Reached only by a test that fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A server whose connections are taken one by one.
pub(crate) struct Origin {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
}

/// One end of a connection.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
}

impl Origin {
    pub(crate) fn new() -> Self {
        Self::at(laneway::net::listen("127.0.0.1:0".parse().unwrap()).unwrap())
    }

    pub(crate) fn at(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    pub(crate) async fn accept(&self) -> Peer {
        let (stream, _) = within(laneway::net::accept(&self.listener)).await;
        stream.set_nodelay(true).unwrap();
        Peer { stream }
    }
}

impl Peer {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = within(TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    pub(crate) async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// False when the connection has ended.
    pub(crate) async fn try_say(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        within(self.stream.write_all(bytes.as_ref())).await.is_ok()
    }

    /// Hears exactly these bytes.
    #[track_caller]
    pub(crate) fn hear(&mut self, expected: &str) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let mut bytes = vec![0; expected.len()];
            let mut heard = 0;
            while heard < bytes.len() && bytes[..heard] == expected.as_bytes()[..heard] {
                match within(self.stream.read(&mut bytes[heard..])).await {
                    Ok(0) => break,
                    Ok(count) => heard += count,
                    Err(error) => panic!("{error} after {:?}, at {place}", text(&bytes[..heard])),
                }
            }
            assert_eq!(text(&bytes[..heard]), expected, "at {place}");
        }
    }

    /// Hears a message head, up to its empty line and not a byte more.
    pub(crate) async fn head(&mut self) -> String {
        text(&self.head_bytes().await)
    }

    /// The head as bytes.
    pub(crate) async fn head_bytes(&mut self) -> Vec<u8> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match within(self.stream.read_u8()).await {
                Ok(byte) => head.push(byte),
                Err(error) => panic!("{error} after {:?}", text(&head)),
            }
        }
        head
    }

    /// Hears a message head; `None` when the connection ends before a head has begun.
    pub(crate) async fn next_head(&mut self) -> Option<String> {
        let ended = matches!(within(self.stream.peek(&mut [0])).await, Ok(0) | Err(_));
        if ended { None } else { Some(self.head().await) }
    }

    /// Hears this many bytes of text.
    pub(crate) async fn exactly(&mut self, length: usize) -> String {
        let mut bytes = vec![0; length];
        within(self.stream.read_exact(&mut bytes)).await.unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// Hears all up to the orderly end.
    pub(crate) async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        let end = within(self.stream.read_to_end(&mut bytes)).await;
        assert!(end.is_ok(), "{end:?} after {:?}", text(&bytes));
        text(&bytes)
    }

    /// Hears what comes before a reset. An orderly end fails the test: it would look like the whole.
    pub(crate) async fn rest_before_reset(&mut self) -> String {
        let mut bytes = Vec::new();
        match within(self.stream.read_to_end(&mut bytes)).await {
            Ok(_) => panic!("an orderly end after {:?}", text(&bytes)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
        text(&bytes)
    }

    /// Hears all up to the end, which may be a reset.
    pub(crate) async fn until_any_end(&mut self, bytes: &mut Vec<u8>) -> std::io::Result<usize> {
        within(self.stream.read_to_end(bytes)).await
    }

    /// Ends its own direction orderly.
    pub(crate) fn end(&self) {
        laneway::net::shutdown_write(&self.stream).unwrap();
    }

    pub(crate) fn reset(self) {
        laneway::net::reset(self.stream);
    }

    /// Says back what it hears, until the end.
    pub(crate) async fn echo(self) {
        let (mut read, mut write) = self.stream.into_split();
        // A test that ends first takes the connection with it.
        let _ = tokio::io::copy(&mut read, &mut write).await;
    }

    /// Sends as long as anybody takes it.
    pub(crate) async fn flood(mut self) -> io::Error {
        let block = vec![b'x'; 64 * 1024];
        loop {
            if let Err(error) = self.stream.write_all(&block).await {
                return error;
            }
        }
    }
}

/// A socket that takes little, so that what is not read waits elsewhere than in the kernel.
pub(crate) fn narrow() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket
}

#[track_caller]
pub(crate) fn within<T>(step: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        match timeout(DEADLINE, step).await {
            Ok(done) => done,
            Err(_) => panic!("nothing happens at {place}"),
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
