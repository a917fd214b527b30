//! Servers on s1 whose behaviour a trial defines: threads of the test process, on sockets that were made on s1.

use super::Lab;
use super::wait::PATIENCE;
use nix::sys::socket::{Shutdown, shutdown};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::thread;

/// The port that every gateway of the lab may dial, and probes.
pub(crate) const PORT: u16 = 80;

/// A TCP server; dropping it closes its port.
pub(crate) struct Server {
    listener: TcpListener,
    /// Where each connection came from, the oldest first.
    from: Arc<Mutex<Vec<Ipv4Addr>>>,
}

/// A web server that records its requests.
pub(crate) struct Web {
    _server: Server,
    asked: Arc<Mutex<Vec<Request>>>,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    /// In lower case, one field a line.
    fields: String,
    /// The gateway's address on the outside network.
    pub(crate) from: Ipv4Addr,
    /// 1 for the first request for this path, and so on.
    pub(crate) turn: usize,
}

impl Request {
    /// The start of `Range: bytes=START-`.
    pub(crate) fn start(&self) -> Option<usize> {
        self.field("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }

    /// The value of the first field with this name (in lower case).
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let value = |line| str::strip_prefix(line, name)?.strip_prefix(':');
        self.fields.lines().find_map(value).map(str::trim)
    }
}

impl Lab {
    /// Serves each TCP connection to `port` of s1 with `serve`, which gets the number of connections before it.
    pub(crate) fn serve(
        &self,
        port: u16,
        serve: impl Fn(usize, TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Server {
        self.serve_at(SocketAddr::from((self.server.address(), port)), serve)
    }

    /// As [`Lab::serve`], on another host: s1 with a second address.
    pub(crate) fn second(
        &self,
        address: Ipv4Addr,
        port: u16,
        serve: impl Fn(usize, TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Server {
        self.server.ip(&format!("address add {address}/24 dev out"));
        self.serve_at((address, port).into(), serve)
    }

    fn serve_at(
        &self,
        address: SocketAddr,
        serve: impl Fn(usize, TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Server {
        let listener = self.server.inside(|| TcpListener::bind(address)).unwrap();
        let (accepting, serve) = (listener.try_clone().unwrap(), Arc::new(serve));
        let from = Arc::new(Mutex::new(Vec::new()));
        let seen = from.clone();
        thread::spawn(move || {
            // Until the listener is shut down.
            while let Ok((stream, peer)) = accepting.accept() {
                let IpAddr::V4(peer) = peer.ip() else { continue };
                let before = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(peer);
                    seen.len() - 1
                };
                let serve = serve.clone();
                // Errors are seen by the trial at its own end.
                thread::spawn(move || {
                    stream.set_read_timeout(Some(PATIENCE)).and_then(|()| serve(before, stream))
                });
            }
        });
        Server { listener, from }
    }

    /// Serves one request on each connection to the web port with `answer`, which writes the response; then closes.
    pub(crate) fn web(
        &self,
        answer: impl Fn(&Request, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Web {
        let asked = Arc::new(Mutex::new(Vec::<Request>::new()));
        let seen = asked.clone();
        let server = self.serve(PORT, move |_, mut stream| {
            let Some((path, fields)) = read_request(&stream)? else { return Ok(()) };
            let IpAddr::V4(from) = stream.peer_addr()?.ip() else { return Ok(()) };
            let asked = {
                let mut seen = seen.lock().unwrap();
                let turn = seen.iter().filter(|other| other.path == path).count() + 1;
                let asked = Request { path, fields, from, turn };
                seen.push(asked.clone());
                asked
            };
            answer(&asked, &mut stream)
        });
        Web { _server: server, asked }
    }
}

impl Server {
    /// Where the connections came from so far.
    pub(crate) fn from(&self) -> Vec<Ipv4Addr> {
        self.from.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
    }
}

impl Web {
    /// The requests for `path` so far.
    pub(crate) fn asked(&self, path: &str) -> Vec<Request> {
        self.asked.lock().unwrap().iter().filter(|asked| asked.path == path).cloned().collect()
    }
}

/// Path and fields of a request, after its body has been read. `None` when the peer connected without sending
/// a request.
fn read_request(stream: &TcpStream) -> io::Result<Option<(String, String)>> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut fields) = (String::new(), String::new());
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    while reader.read_line(&mut fields)? > 2 {}
    let fields = fields.to_ascii_lowercase();
    let length = fields.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length = length.map_or(Ok(0), |length| length.trim().parse()).map_err(io::Error::other)?;
    io::copy(&mut reader.take(length), &mut io::sink())?;
    Ok(first.split(' ').nth(1).map(|path| (path.to_owned(), fields)))
}

/// Answers with the source of the request and its path: the gateway's outside address, a space, the path.
pub(crate) fn who(asked: &Request, stream: &mut TcpStream) -> io::Result<()> {
    let body = format!("{} {}", asked.from, asked.path);
    let length = body.len();
    // One write, so that a client receives all of it or nothing.
    let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    stream.write_all(response.as_bytes())
}

/// The size of a block of [`blocks`], in bytes.
pub(crate) const BLOCK: usize = 1 << 20;

/// Answers a request for `/large` with `count` blocks, or with the rest of them from the start of its range, and any other like
/// [`who`].
pub(crate) fn blocks(asked: &Request, stream: &mut TcpStream, block: &[u8], count: usize) -> io::Result<()> {
    if asked.path != "/large" {
        return who(asked, stream);
    }
    let (start, length) = (asked.start().unwrap_or(0), count * BLOCK);
    let status = match asked.start() {
        None => "200 OK".to_owned(),
        Some(start) => format!("206 P\r\nContent-Range: bytes {start}-{}/{length}", length - 1),
    };
    let rest = length - start;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {rest}\r\nETag: \"l\"\r\nConnection: close\r\n\r\n"
    )?;
    let mut skip = start % BLOCK;
    for number in start / BLOCK..count {
        stream.write_all(&numbered(block, number)[skip..])?;
        skip = 0;
    }
    Ok(())
}

/// A block of [`blocks`]: all are equal except for their first bytes, the block's number.
pub(crate) fn numbered(block: &[u8], number: usize) -> Vec<u8> {
    let mut block = block.to_vec();
    block[..8].copy_from_slice(&(number as u64).to_le_bytes());
    block
}

/// Waits until the peer closes.
pub(crate) fn wait_for_the_end(stream: &mut TcpStream) -> io::Result<()> {
    io::copy(stream, &mut io::sink()).map(drop)
}
