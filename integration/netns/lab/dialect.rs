//! Clients of the local proxy that speak its dialects byte by byte, to see what programs hide: reply codes, headers, half-close.

use super::Host;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};

/// The local proxy of every node.
pub(crate) const PROXY: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 1), 1080));

/// The head of an HTTP response.
pub(crate) struct Head {
    pub(crate) status: u16,
    /// In lower case, one field a line.
    fields: String,
}

impl Head {
    /// The value of the first field with this name (in lower case).
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let value = |line| str::strip_prefix(line, name)?.strip_prefix(':');
        self.fields.lines().find_map(value).map(str::trim)
    }
}

/// SOCKS5 CONNECT (RFC 1928 §4): the connection to the proxy, and its reply code.
pub(crate) fn socks5(host: &Host, target: &str, port: u16) -> (TcpStream, u8) {
    let mut stream = host.connect(PROXY).unwrap();
    let mut method = [0; 2];
    stream.write_all(&[5, 1, 0]).unwrap();
    stream.read_exact(&mut method).unwrap();
    assert_eq!(method, [5, 0], "the method without a password");

    let mut request = vec![5, 1, 0];
    match target.parse::<Ipv4Addr>() {
        Ok(address) => {
            request.push(1);
            request.extend(address.octets());
        }
        Err(_) => {
            request.extend([3, u8::try_from(target.len()).unwrap()]);
            request.extend(target.bytes());
        }
    }
    request.extend(port.to_be_bytes());
    stream.write_all(&request).unwrap();

    let mut reply = [0; 4];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!((reply[0], reply[2]), (5, 0), "version and reserved byte");
    let mut bound = vec![0; if reply[3] == 4 { 18 } else { 6 }];
    stream.read_exact(&mut bound).unwrap();
    (stream, reply[1])
}

/// HTTP CONNECT (RFC 9110 §9.3.6): the connection to the proxy, and the head of its answer.
pub(crate) fn connect(host: &Host, authority: &str) -> (TcpStream, Head) {
    request(host, &format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"))
}

/// GET with the absolute form of the target, as proxies get it (RFC 9112 §3.2.2).
pub(crate) fn get(host: &Host, authority: &str, path: &str) -> (TcpStream, Head) {
    request(
        host,
        &format!("GET http://{authority}{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n"),
    )
}

fn request(host: &Host, text: &str) -> (TcpStream, Head) {
    let mut stream = host.connect(PROXY).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let head = read_head(&mut stream);
    (stream, head)
}

/// Reads the head of a response and nothing that follows it.
pub(crate) fn read_head(stream: &mut TcpStream) -> Head {
    // One byte at a time, because the reader must not consume what belongs to the tunnel.
    let mut reader = BufReader::with_capacity(1, stream);
    let (mut first, mut fields) = (String::new(), String::new());
    reader.read_line(&mut first).unwrap();
    while reader.read_line(&mut fields).unwrap() > 2 {}
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    Head {
        status: status.unwrap_or_else(|| panic!("not a status line: {first:?}")),
        fields: fields.to_lowercase(),
    }
}
