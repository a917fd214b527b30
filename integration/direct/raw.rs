//! A member of the group that writes HTTP/2 frames by hand (RFC 9113 §4): what no library would let it do.

use std::net::SocketAddr;
use std::sync::Arc;

use laneway::link::tls::{link_client, link_server, server_name};
use laneway::trust::group::Group;
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::lab::Lab;
use crate::peer::within;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// SETTINGS_INITIAL_WINDOW_SIZE.
const WINDOW: [u8; 2] = [0, 4];
/// SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 8441 §3), set.
const EXTENDED_CONNECT: [u8; 6] = [0, 8, 0, 0, 0, 1];
/// The window for each stream if the test says nothing else.
const DEFAULT_WINDOW: u32 = 65_535;

/// One end of a link, both directions apart.
pub(crate) struct Raw {
    pub(crate) input: Input,
    pub(crate) output: Output,
}

pub(crate) struct Input(ReadHalf<TlsStream<TcpStream>>);

pub(crate) struct Output(WriteHalf<TlsStream<TcpStream>>);

/// A frame as it came in.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A gateway that awaits one link.
pub(crate) struct RawGateway {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    pub(crate) address: SocketAddr,
}

/// A frame to be written.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// CONNECT, in literals of HPACK without the table (RFC 7541 §6.2.2).
pub(crate) fn connect(stream: u32, target: SocketAddr) -> Vec<u8> {
    let authority = target.to_string();
    let length = u8::try_from(authority.len()).unwrap();
    let block = [b"\x02\x07CONNECT\x01".as_slice(), &[length], authority.as_bytes()].concat();
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// A stream of plain requests to a server.
pub(crate) fn connect_http(stream: u32, target: &laneway::wire::target::Target) -> Vec<u8> {
    connect_http_with(stream, target, &[])
}

/// A stream of plain requests, over which large bodies may come in pieces.
pub(crate) fn connect_http_in_pieces(stream: u32, target: &laneway::wire::target::Target) -> Vec<u8> {
    let offer = format!("{stream:016x} 9");
    let length = u8::try_from(offer.len()).unwrap();
    let field = [b"\x00\x0elaneway-pieces".as_slice(), &[length], offer.as_bytes()].concat();
    connect_http_with(stream, target, &field)
}

/// A stream of plain requests that the gateway sends to the server over TLS.
pub(crate) fn connect_https(stream: u32, target: &laneway::wire::target::Target) -> Vec<u8> {
    connect_http_with(stream, target, b"\x00\x0elaneway-scheme\x05https")
}

fn connect_http_with(stream: u32, target: &laneway::wire::target::Target, field: &[u8]) -> Vec<u8> {
    let authority = target.to_string();
    let length = u8::try_from(authority.len()).unwrap();
    let alpn = b"\x00\x04alpn\x0ahttp%2F1.1";
    let block = [b"\x02\x07CONNECT\x01".as_slice(), &[length], authority.as_bytes(), alpn, field].concat();
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// A request without a tunnel, by method (an index of RFC 7541, appendix A) and path.
pub(crate) fn request(stream: u32, flags: u8, method: u8, path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).unwrap();
    let block = [&[method, 0x87, 0x01, 1, b'g', 0x04, length][..], path.as_bytes()].concat();
    frame(HEADERS, END_HEADERS | flags, stream, &block)
}

/// CONNECT-UDP to a port of 127.0.0.1 (RFC 9298 §3.4).
pub(crate) fn connect_udp(stream: u32, port: u16) -> Vec<u8> {
    let path = format!("/.well-known/masque/udp/127.0.0.1/{port}/");
    let length = u8::try_from(path.len()).unwrap();
    let protocol = b"\x00\x09:protocol\x0bconnect-udp";
    let block =
        [b"\x02\x07CONNECT\x87\x01\x01g\x04".as_slice(), &[length], path.as_bytes(), protocol].concat();
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// `:status: 200` (RFC 7541, appendix A).
pub(crate) fn established(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &[0x88])
}

pub(crate) fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

impl Raw {
    /// A link of `member` to the gateway of `lab`, that has proved itself.
    pub(crate) async fn connect(lab: &Lab, member: &Group) -> Self {
        Self::with_window(lab, member, DEFAULT_WINDOW).await
    }

    /// As `connect`, granting this window for each stream.
    pub(crate) async fn with_window(lab: &Lab, member: &Group, window: u32) -> Self {
        Self::to(lab.link_address, member, window).await
    }

    /// A link of `member` to the gateway of its group that listens there.
    pub(crate) async fn to(gateway: SocketAddr, member: &Group, window: u32) -> Self {
        Self::by(gateway, link_client(member).unwrap(), window).await
    }

    /// A link to whatever listens there, by this configuration.
    pub(crate) async fn by(gateway: SocketAddr, config: Arc<ClientConfig>, window: u32) -> Self {
        let tcp = TcpStream::connect(gateway).await.unwrap();
        let connector = TlsConnector::from(config);
        let tls = connector.connect(server_name(None), tcp).await.unwrap();
        let settings = frame(SETTINGS, 0, 0, &[&WINDOW[..], &window.to_be_bytes()].concat());
        Self::begin(tls.into(), &[PREFACE, &settings].concat()).await
    }

    async fn begin(tls: TlsStream<TcpStream>, preface: &[u8]) -> Self {
        let (input, output) = split(tls);
        let mut raw = Self { input: Input(input), output: Output(output) };
        raw.output.say(preface).await;
        raw.output.say(frame(SETTINGS, ACK, 0, &[])).await;
        raw
    }

    /// The next frame of this kind. Pings before it are answered: the link ends when they are not, and a busy machine
    /// needs longer than that.
    pub(crate) async fn next(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.input.frame().await.expect("the link ended");
            if frame.kind == kind {
                return frame;
            }
            if (frame.kind, frame.flags) == (PING, 0) {
                self.output.say(self::frame(PING, ACK, 0, &frame.payload)).await;
            }
        }
    }

    /// Checks that the link is alive, and so has taken in everything before. Returns what came meanwhile.
    pub(crate) async fn ping(&mut self) -> Vec<Frame> {
        self.output.say(frame(PING, 0, 0, b"tell me!")).await;
        let mut frames = Vec::new();
        loop {
            let frame = self.input.frame().await.expect("the link ended");
            match (frame.kind, frame.flags) {
                (PING, ACK) if frame.payload == b"tell me!" => return frames,
                (PING, 0) => self.output.say(self::frame(PING, ACK, 0, &frame.payload)).await,
                (GOAWAY, _) => panic!("the link ends: {}", String::from_utf8_lossy(&frame.payload[8..])),
                _ => frames.push(frame),
            }
        }
    }
}

impl Input {
    /// The next frame; none when the link has ended.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        within(self.0.read_exact(&mut head)).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        within(self.0.read_exact(&mut payload)).await.ok()?;
        Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    /// The next frame of this kind.
    pub(crate) async fn next(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.frame().await.expect("the link ended");
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Reads all there is to read, as long as the link stands.
    pub(crate) async fn swallow(mut self) {
        while self.frame().await.is_some() {}
    }
}

impl Output {
    pub(crate) async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        assert!(self.try_say(bytes).await, "the link ended");
    }

    /// False when the link has ended.
    pub(crate) async fn try_say(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let said = async {
            self.0.write_all(bytes.as_ref()).await?;
            self.0.flush().await
        };
        said.await.is_ok()
    }
}

impl RawGateway {
    /// A gateway with the certificate of `member`.
    pub(crate) fn new(member: &Group) -> Self {
        Self::at(laneway::net::listen("127.0.0.1:0".parse().unwrap()).unwrap(), member)
    }

    /// As `new`, on this socket.
    pub(crate) fn at(listener: TcpListener, member: &Group) -> Self {
        let address = listener.local_addr().unwrap();
        Self { listener, acceptor: link_server(member).unwrap().into(), address }
    }

    /// Takes a link, and answers the ping that it proves itself by.
    pub(crate) async fn accept(&self) -> Raw {
        let (tcp, _) = laneway::net::accept(&self.listener).await;
        let mut tls = self.acceptor.accept(tcp).await.unwrap();
        let mut preface = [0; 24];
        tls.read_exact(&mut preface).await.unwrap();
        assert_eq!(preface, PREFACE);
        let mut raw = Raw::begin(tls.into(), &frame(SETTINGS, 0, 0, &EXTENDED_CONNECT)).await;
        let ping = raw.next(PING).await;
        raw.output.say(frame(PING, ACK, 0, &ping.payload)).await;
        raw
    }
}
