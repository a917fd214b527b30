//! The header that a SOCKS5 app puts before a datagram, compared with what fast-socks5 reads.

use fast_socks5::util::target_addr::{TargetAddr, read_address};
use futures_util::FutureExt;
use laneway::wire::socks_udp::{Unusable, parse};
use laneway::wire::target::Target;

/// `data` is a datagram of an app.
pub fn run(data: &[u8]) {
    let parsed = parse(data);
    // The first two are reserved, and ignored.
    let [_, _, fragment, kind, rest @ ..] = data else {
        return assert_eq!(parsed, Err(Unusable::Truncated));
    };
    if *fragment != 0 {
        return assert_eq!(parsed, Err(Unusable::Fragment));
    }
    let mut left = rest;
    let read = read_address(&mut left, *kind).now_or_never().expect("all of it is there");
    let target = read.ok().and_then(|address| match address {
        TargetAddr::Ip(address) => Some(Target::from(address)).filter(|target| target.port != 0),
        TargetAddr::Domain(name, port) => Target::new(&name, port).ok(),
    });
    assert_eq!(parsed.ok(), target.map(|target| (target, data.len() - left.len())));
}
