//! Services on s1 beside the web server: uploads, two kinds of echo, and a name server that knows no name.
//!
//! Threads of the test process serve it, on sockets that were made on s1.

use super::Lab;
use super::origin::sha256;
use super::wait::PATIENCE;
use nix::sys::socket::{Shutdown, shutdown};
use std::io::{self, BufRead, BufReader, Read, Write, copy, sink};
use std::net::{self, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Answers a PUT or POST with the SHA-256 of its body, in hexadecimal.
pub(crate) const UPLOAD: SocketAddr = on_server(8080);
/// Reads to the end, answers with the number of bytes as decimal text, and closes.
pub(crate) const COUNT: SocketAddr = on_server(8081);
/// Sends back what it receives.
pub(crate) const ECHO: SocketAddr = on_server(8082);
/// A port on which nothing listens.
pub(crate) const REFUSED: SocketAddr = on_server(8089);

const fn on_server(port: u16) -> SocketAddr {
    SocketAddr::new(net::IpAddr::V4(Ipv4Addr::new(10, 88, 0, 100)), port)
}

/// Interval at which the name server checks whether the trial has ended.
const LOOK_UP: Duration = Duration::from_millis(100);

/// Serves one connection.
type Service = fn(TcpStream) -> io::Result<()>;

/// The services on s1; dropping it closes their ports.
pub(crate) struct Receiver {
    listeners: Vec<TcpListener>,
    ended: Arc<AtomicBool>,
}

impl Lab {
    /// Starts the services. They accept connections when this returns.
    pub(crate) fn receiver(&self) -> Receiver {
        let services: [(SocketAddr, Service); 3] =
            [(UPLOAD, receive_upload), (COUNT, count_bytes), (ECHO, send_back)];
        let ended = Arc::new(AtomicBool::new(false));
        let mut listeners = Vec::new();
        for (address, serve) in services {
            let listener = self.server.inside(|| TcpListener::bind(address)).unwrap();
            listeners.push(listener.try_clone().unwrap());
            thread::spawn(move || {
                // Until the listener is shut down.
                while let Ok((stream, _)) = listener.accept() {
                    // Errors are seen by the trial at its own end.
                    thread::spawn(move || {
                        stream.set_read_timeout(Some(PATIENCE)).and_then(|()| serve(stream))
                    });
                }
            });
        }

        let names = self.server.inside(|| UdpSocket::bind(on_server(53))).unwrap();
        names.set_read_timeout(Some(LOOK_UP)).unwrap();
        let over = ended.clone();
        thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                answer_query(&names);
            }
        });
        Receiver { listeners, ended }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for listener in &self.listeners {
            let _ = shutdown(listener.as_raw_fd(), Shutdown::Both);
        }
    }
}

fn count_bytes(mut stream: TcpStream) -> io::Result<()> {
    let count = copy(&mut stream, &mut sink())?;
    write!(stream, "{count}")
}

fn send_back(stream: TcpStream) -> io::Result<()> {
    copy(&mut &stream, &mut &stream)?;
    stream.shutdown(net::Shutdown::Write)
}

/// One request, with a body by Content-Length or chunked (RFC 9112 §6 and §7.1).
fn receive_upload(stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(&stream);
    let mut head = String::new();
    while reader.read_line(&mut head)? > 2 {}
    let head = head.to_ascii_lowercase();
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);

    if field("expect:") == Some("100-continue") {
        (&stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let mut body = Vec::new();
    if field("transfer-encoding:") == Some("chunked") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            (&mut reader).take(size).read_to_end(&mut body)?;
            // The end of the chunk; after the last one, the end of the (empty) trailer.
            line.clear();
            reader.read_line(&mut line)?;
            if size == 0 {
                break;
            }
        }
    } else {
        let length = field("content-length:").unwrap_or("0").parse().map_err(io::Error::other)?;
        (&mut reader).take(length).read_to_end(&mut body)?;
    }
    let hash = sha256(&body);
    write!(&stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{hash}", hash.len())
}

/// Answers that the name does not exist (RFC 1035 §4.1: the same id and question, QR and RA set, RCODE 3).
fn answer_query(socket: &UdpSocket) {
    let mut message = [0; 512];
    let Ok((length, client)) = socket.recv_from(&mut message) else { return };
    if length < 12 {
        return;
    }
    let mut end = 12;
    while message[end] != 0 && end < length {
        end += usize::from(message[end]) + 1;
    }
    // The root label, the type and the class end the question; an EDNS record that follows it is left out.
    let end = (end + 5).min(length);
    message[2] = 0x80 | (message[2] & 0x01);
    message[3] = 0x80 | 3;
    message[6..12].fill(0);
    let _ = socket.send_to(&message[..end], client);
}
