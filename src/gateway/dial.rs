//! Connects to the addresses of one destination (Happy Eyeballs, RFC 8305), and says why that failed.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use crate::failure::{Failure, Kind, Side};
use crate::mark;
use crate::wire::target::Target;

/// Delay between the starts of two connection attempts (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Maximum addresses of one name that are tried.
pub(super) const MAX_ADDRESSES: usize = 16;

/// Orders addresses so that the families alternate, beginning with the resolver's choice (RFC 8305 §4).
pub(super) fn interleave(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let first_is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (mut preferred, mut other): (VecDeque<_>, VecDeque<_>) =
        addresses.into_iter().partition(|ip| ip.is_ipv6() == first_is_v6);
    let mut ordered = Vec::new();
    loop {
        let (a, b) = (preferred.pop_front(), other.pop_front());
        if a.is_none() && b.is_none() {
            return ordered;
        }
        ordered.extend(a);
        ordered.extend(b);
    }
}

/// Connects to the first address that accepts (RFC 8305 §5): the next one is tried when an attempt failed or after
/// [`ATTEMPT_DELAY`]; the first established connection wins.
pub(super) async fn race(addresses: VecDeque<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = addresses;
    let mut attempts = FuturesUnordered::new();
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "no address to try");
    loop {
        if let Some(address) = waiting.pop_front() {
            attempts.push(mark::connect(address));
        }
        let delay = sleep_until(Instant::now() + ATTEMPT_DELAY);
        tokio::select! {
            ended = attempts.next() => match ended {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => last = more_telling(last, error),
                None => return Err(last),
            },
            () = delay, if !waiting.is_empty() => {}
        }
    }
}

/// The more specific of two errors: a refusal before a timeout, a timeout before a missing route.
pub(super) fn more_telling(one: io::Error, other: io::Error) -> io::Error {
    let weight = |error: &io::Error| match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => 4,
        io::ErrorKind::TimedOut => 3,
        io::ErrorKind::HostUnreachable => 2,
        io::ErrorKind::AddrNotAvailable => 0,
        _ => 1,
    };
    if weight(&one) > weight(&other) { one } else { other }
}

/// Whether the gateway ran out of descriptors, ports or memory, which is no fault of the destination.
fn is_local_shortage(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(
            Errno::EMFILE
                | Errno::ENFILE
                | Errno::ENOBUFS
                | Errno::ENOMEM
                | Errno::EADDRNOTAVAIL
                | Errno::EAGAIN
        )
    )
}

/// The failure that an app is told when connecting to `target` ended with `error`.
pub(super) fn failure(target: &Target, error: &io::Error) -> Failure {
    if is_local_shortage(error) {
        let sentence = format!("the gateway cannot open a connection to {target}: {error}");
        return Failure::new(Kind::LimitReached, Side::Gateway, sentence);
    }
    let (kind, what) = match error.kind() {
        io::ErrorKind::ConnectionRefused => (Kind::Refused, "refused the connection"),
        io::ErrorKind::TimedOut => (Kind::ConnectTimeout, "did not answer"),
        io::ErrorKind::NetworkUnreachable => (Kind::NetworkUnreachable, "is on a network without a route"),
        io::ErrorKind::HostUnreachable => (Kind::HostUnreachable, "cannot be reached on its network"),
        io::ErrorKind::ConnectionReset => (Kind::Terminated, "reset the connection"),
        _ => (Kind::HostUnreachable, "cannot be connected to"),
    };
    Failure::new(kind, Side::Server, format!("{target} {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_alternate_beginning_with_the_resolvers_choice() {
        let mixed = ips(&["2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        let expected = ips(&["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "192.0.2.3"]);
        assert_eq!(interleave(mixed), expected);
    }

    #[tokio::test]
    async fn a_refusing_address_does_not_hide_a_listening_one() {
        let listener = crate::net::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let good = listener.local_addr().unwrap();
        let bad = SocketAddr::new("127.0.0.2".parse().unwrap(), good.port());
        let stream = race(VecDeque::from([bad, good])).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good);
        assert_eq!(race(VecDeque::from([bad])).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
