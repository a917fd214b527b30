//! SOCKS4 requests, whole and in pieces, compared with an implementation that has them all at once.

use std::net::{Ipv4Addr, SocketAddr};

use laneway::wire::socks4::{MAX_NAME, MAX_USER, Refusal, Request};
use laneway::wire::target::Target;

/// `data` is what an app sends.
pub fn run(data: &[u8]) {
    let whole = Request::parse(data);
    assert_eq!(whole, reference(data));
    // A result for a prefix stays the same with more bytes.
    let mut read = Vec::new();
    let first = super::input::pieces(data).find_map(|piece| {
        read.extend_from_slice(piece);
        Request::parse(&read).transpose()
    });
    assert_eq!(first, whole.transpose());
}

fn reference(data: &[u8]) -> Result<Option<Request>, Refusal> {
    if data.first().is_some_and(|version| *version != 4) {
        return Err(Refusal::Version);
    }
    if data.get(1).is_some_and(|command| *command != 1) {
        return Err(Refusal::Command);
    }
    if data.len() < 8 {
        return Ok(None);
    }
    let mut fields = data[8..].split(|byte| *byte == 0);
    let user = fields.next().unwrap_or_default();
    if user.len() > MAX_USER {
        return Err(Refusal::User);
    }
    let Some(name) = fields.next() else { return Ok(None) };
    let (port, ip) = (u16::from_be_bytes([data[2], data[3]]), [data[4], data[5], data[6], data[7]]);
    if ip[..3] != [0; 3] || ip[3] == 0 {
        let target = Target::from(SocketAddr::from((Ipv4Addr::from(ip), port)));
        let request = Request { target, length: 9 + user.len() };
        return if port == 0 { Err(Refusal::Target) } else { Ok(Some(request)) };
    }
    if name.len() > MAX_NAME {
        return Err(Refusal::Name);
    }
    if fields.next().is_none() {
        return Ok(None);
    }
    let target = str::from_utf8(name).ok().and_then(|name| Target::new(name, port).ok());
    let length = 10 + user.len() + name.len();
    target.map(|target| Some(Request { target, length })).ok_or(Refusal::Target)
}
