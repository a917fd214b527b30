//! Connects to the addresses of one destination (Happy Eyeballs, RFC 8305), and says why that failed.

use std::cmp::Ordering;
use std::collections::{HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::descriptors::Descriptors;
use crate::failure::{Failure, Kind, Side};
use crate::sys::neighbour;
use crate::wire::target::Target;
use crate::{mark, net};

/// Delay between the starts of two connection attempts (RFC 8305 §5). Many addresses shorten it, so that all of them are
/// tried in time.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// The shortest delay between two starts (RFC 8305 §5). With even more addresses several attempts start together.
const MIN_ATTEMPT_DELAY: Duration = Duration::from_millis(10);
/// How long to wait for addresses that a name server has not sent yet once all others have failed: some name servers never answer
/// questions for one family.
pub(super) const LATE_PATIENCE: Duration = Duration::from_secs(1);
/// Maximum number of attempts that are open at a time, so that one name does not use up the gateway's descriptors.
const MAX_OPEN_ATTEMPTS: usize = 64;
/// Maximum size of the addresses of one name, in bytes: 1,024 IPv4 or 256 IPv6 addresses.
const MAX_ADDRESS_BYTES: usize = 4096;

/// A connection that was made, without keepalive.
pub struct Dialled {
    /// The connection.
    pub stream: TcpStream,
    /// The address at its other end: the server's, or the upstream proxy's.
    pub peer: SocketAddr,
}

/// The addresses of one destination.
#[derive(Default)]
pub(super) struct Addresses<'a> {
    /// Those that are known.
    pub(super) known: Vec<SocketAddr>,
    /// Those that a name server has not answered with yet (RFC 8305 §3).
    pub(super) later: Option<BoxFuture<'a, Vec<SocketAddr>>>,
}

/// The first addresses that fit into [`MAX_ADDRESS_BYTES`], each once.
pub(super) fn bounded(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let (mut bytes, mut seen) = (0, HashSet::new());
    addresses.retain(|ip| {
        bytes += if ip.is_ipv4() { 4 } else { 16 };
        bytes <= MAX_ADDRESS_BYTES && seen.insert(*ip)
    });
    addresses
}

/// Orders addresses so that the families alternate, beginning with the preferred one (RFC 8305 §4). Within a family the
/// name server's order stays.
pub(super) fn interleave(addresses: impl IntoIterator<Item = SocketAddr>) -> VecDeque<SocketAddr> {
    let (mut six, mut four): (VecDeque<_>, VecDeque<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6());
    six.make_contiguous().sort_by(|one, other| by_precedence(one.ip(), other.ip()));
    let six_first = six.front().is_some_and(|six| precedence(six.ip()) > V4_PRECEDENCE);
    let (mut preferred, mut other) = if six_first { (six, four) } else { (std::mem::take(&mut four), six) };
    let mut ordered = VecDeque::new();
    loop {
        let (a, b) = (preferred.pop_front(), other.pop_front());
        if a.is_none() && b.is_none() {
            return ordered;
        }
        ordered.extend(a);
        ordered.extend(b);
    }
}

/// The precedence of IPv4 (RFC 6724 §2.1).
const V4_PRECEDENCE: u8 = 35;

/// The precedence of an address (RFC 6724 §2.1): which of two destinations is tried first.
fn precedence(ip: IpAddr) -> u8 {
    let IpAddr::V6(ip) = ip else { return V4_PRECEDENCE };
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => 50,
        [0, 0, 0, 0, 0, 0xffff, ..] => V4_PRECEDENCE,
        [0x2002, ..] => 30,
        [0x2001, 0, ..] => 5,
        [first, ..] if first & 0xfe00 == 0xfc00 => 3,
        [first, ..] if first & 0xffc0 == 0xfec0 => 1,
        [0, 0, 0, 0, 0, 0, ..] => 1,
        _ => 40,
    }
}

fn by_precedence(one: IpAddr, other: IpAddr) -> Ordering {
    precedence(other).cmp(&precedence(one))
}

/// How the remaining addresses are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Schedule {
    /// Number of attempts that start together.
    together: usize,
    /// The delay after them.
    delay: Duration,
    /// How long each of them may last; `None` until the deadline.
    patience: Option<Duration>,
}

impl Schedule {
    /// The next starts for `waiting` addresses, the last of which must start within `left`.
    fn of(waiting: usize, left: Duration) -> Self {
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX).max(1);
        let share = (left / waiting).min(ATTEMPT_DELAY);
        let together = if share >= MIN_ATTEMPT_DELAY {
            1
        } else {
            waiting
                .div_ceil(u32::try_from(left.as_millis() / MIN_ATTEMPT_DELAY.as_millis()).unwrap_or(0).max(1))
        };
        let delay = share.max(MIN_ATTEMPT_DELAY);
        let most = u32::try_from(MAX_OPEN_ATTEMPTS).unwrap_or(u32::MAX);
        let patience = (waiting > most).then(|| delay * (most / together).max(1));
        Self { together: usize::try_from(together).unwrap_or(1), delay, patience }
    }
}

/// Connects to the first address that accepts (RFC 8305 §5), within `limit`. The next address is tried when an attempt
/// has failed, or after a delay that lets all of them start within half of `limit`; the first established connection
/// wins.
///
/// # Errors
/// The most telling error of all attempts; [`io::ErrorKind::TimedOut`] at `limit`, unless an address has refused.
pub(super) async fn race(addresses: Addresses<'_>, limit: Duration) -> io::Result<Dialled> {
    let Addresses { known, mut later } = addresses;
    let (deadline, half) = (Instant::now() + limit, Instant::now() + limit / 2);
    let mut waiting = interleave(known);
    let mut attempts = FuturesUnordered::new();
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "no address to try");
    let mut due = Instant::now();
    loop {
        let now = Instant::now();
        if now >= due && !waiting.is_empty() {
            let schedule = Schedule::of(waiting.len(), half.saturating_duration_since(now));
            let until = schedule.patience.map(|patience| now + patience);
            due = now + schedule.delay;
            for _ in 0..schedule.together {
                let place = further().try_acquire().ok();
                if place.is_none() && !attempts.is_empty() {
                    due = now + ATTEMPT_DELAY;
                    break;
                }
                let Some(address) = waiting.pop_front() else { break };
                attempts.push(attempt(address, until, place.filter(|_| !attempts.is_empty())));
            }
        }
        let is_idle = attempts.is_empty() && waiting.is_empty();
        if is_idle && later.is_none() {
            return Err(last);
        }
        tokio::select! {
            Some(ended) = attempts.next(), if !attempts.is_empty() => match ended {
                Ok(dialled) => return Ok(dialled),
                Err(error) => {
                    last = more_telling(last, error);
                    due = Instant::now();
                }
            },
            () = sleep_until(due), if !waiting.is_empty() => {}
            more = async { later.as_mut().expect("there are addresses to come").await }, if later.is_some() => {
                later = None;
                waiting = interleave(waiting.into_iter().chain(more));
            }
            () = sleep(LATE_PATIENCE), if is_idle && last.kind() != io::ErrorKind::AddrNotAvailable => return Err(last),
            () = sleep_until(deadline) => return Err(more_telling(last, io::ErrorKind::TimedOut.into())),
        }
    }
}

/// Places for attempts of all races, except for the first of each, which takes the descriptor of the tunnel.
fn further() -> &'static Semaphore {
    static FURTHER: OnceLock<Semaphore> = OnceLock::new();
    FURTHER.get_or_init(|| {
        let most = Descriptors::of(net::open_files_limit()).handshakes;
        Semaphore::new(most.min(Semaphore::MAX_PERMITS))
    })
}

/// Makes one connection, with TCP_NODELAY. Without `until` it may take as long as the race.
async fn attempt(
    address: SocketAddr,
    until: Option<Instant>,
    _place: Option<SemaphorePermit<'static>>,
) -> io::Result<Dialled> {
    let connecting = mark::connect(address);
    let connected = match until {
        Some(until) => match timeout_at(until, connecting).await {
            Ok(connected) => connected,
            Err(_late) => return Err(io::ErrorKind::TimedOut.into()),
        },
        None => connecting.await,
    };
    let stream = connected.map_err(|error| neighbour::in_words(address, error))?;
    // Fails only on a connection that is already gone, which the first write reports.
    let _ = stream.set_nodelay(true);
    // A connection to the unspecified address goes to this machine.
    let peer = if address.ip().is_unspecified() { stream.peer_addr()? } else { address };
    Ok(Dialled { stream, peer })
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

/// The failure that an app is told when connecting to `target` ended with `error`.
pub(super) fn failure(target: &Target, error: &io::Error) -> Failure {
    if net::is_local_shortage(error) {
        let sentence = format!("the gateway cannot open a connection to {target}: {error}");
        return Failure::new(Kind::LimitReached, Side::Gateway, sentence);
    }
    let (kind, what) = match error.kind() {
        io::ErrorKind::ConnectionRefused => (Kind::Refused, "refused the connection"),
        io::ErrorKind::TimedOut => (Kind::ConnectTimeout, "did not answer"),
        io::ErrorKind::NetworkUnreachable => {
            (Kind::NetworkUnreachable, "cannot be reached: there is no route to it")
        }
        io::ErrorKind::HostUnreachable if let Some(why) = error.get_ref() => {
            let sentence = format!("{target} cannot be reached: {why}");
            return Failure::new(Kind::HostUnreachable, Side::Server, sentence);
        }
        io::ErrorKind::HostUnreachable => (Kind::HostUnreachable, "cannot be reached on its network"),
        io::ErrorKind::ConnectionReset => (Kind::Terminated, "reset the connection"),
        _ => (Kind::HostUnreachable, "cannot be connected to"),
    };
    Failure::new(kind, Side::Server, format!("{target} {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 1)).collect()
    }

    fn known(known: impl Into<Vec<SocketAddr>>) -> Addresses<'static> {
        Addresses { known: known.into(), later: None }
    }

    #[test]
    fn families_alternate_beginning_with_the_preferred_one() {
        for (mixed, expected) in [
            (
                &["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2"][..],
                &["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "192.0.2.3"][..],
            ),
            (&["fd00::1", "192.0.2.1"], &["192.0.2.1", "fd00::1"]),
            (&["2002:c000:201::1", "2001:db8::1"], &["2001:db8::1", "2002:c000:201::1"]),
        ] {
            assert_eq!(Vec::from(interleave(addresses(mixed))), addresses(expected));
        }
    }

    #[test]
    fn all_addresses_of_a_name_start_within_half_of_the_limit_whatever_their_number() {
        for limit in [Duration::from_secs(1), Duration::from_secs(10)] {
            for count in [1, 2, 17, 40, 100, 500, 1024] {
                let (mut waiting, mut elapsed) = (count, Duration::ZERO);
                let (mut open, half) = (Vec::new(), limit / 2);
                while waiting > 0 {
                    let schedule = Schedule::of(waiting, half.saturating_sub(elapsed));
                    assert!(schedule.delay >= MIN_ATTEMPT_DELAY && schedule.delay <= ATTEMPT_DELAY);
                    open.retain(|until| *until > elapsed);
                    let end = elapsed + schedule.patience.unwrap_or(limit);
                    open.extend(std::iter::repeat_n(end, schedule.together.min(waiting)));
                    assert!(open.len() <= 2 * MAX_OPEN_ATTEMPTS, "{count} in {limit:?}: {}", open.len());
                    waiting = waiting.saturating_sub(schedule.together);
                    if waiting > 0 {
                        elapsed += schedule.delay;
                    }
                }
                assert!(elapsed <= half + MIN_ATTEMPT_DELAY, "{count} in {limit:?}: {elapsed:?}");
            }
        }
    }

    #[test]
    fn the_addresses_of_one_name_are_bounded_in_bytes() {
        let four: Vec<IpAddr> = (0..2000_u32).map(|number| IpAddr::from(number.to_be_bytes())).collect();
        assert_eq!(bounded(four).len(), 1024);
        let six: Vec<IpAddr> = (0..2000_u128).map(|number| IpAddr::from(number.to_be_bytes())).collect();
        assert_eq!(bounded(six).len(), 256);
        let same = vec![IpAddr::from([10, 0, 0, 1]); 240];
        assert_eq!(bounded(same), [IpAddr::from([10, 0, 0, 1])]);
    }

    #[test]
    fn a_host_is_said_to_be_absent_where_that_is_known() {
        let target: Target = "10.0.0.5:80".parse().unwrap();
        let said = |error: io::Error| failure(&target, &error).sentence;
        let kind = io::ErrorKind::HostUnreachable;
        assert_eq!(said(kind.into()), "10.0.0.5:80 cannot be reached on its network");
        let absent = io::Error::new(kind, "nobody answers at this address");
        assert_eq!(said(absent), "10.0.0.5:80 cannot be reached: nobody answers at this address");
    }

    #[tokio::test]
    async fn a_refusing_address_does_not_hide_a_listening_one() {
        let listener = crate::net::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let good = listener.local_addr().unwrap();
        let bad = SocketAddr::new("127.0.0.2".parse().unwrap(), good.port());
        let limit = Duration::from_secs(60);
        let refused = async |addresses| race(addresses, limit * 60).await.err().unwrap();
        let Dialled { stream, peer } = race(known([bad, good]), limit).await.unwrap();
        assert_eq!((stream.peer_addr().unwrap(), peer), (good, good));
        assert!(stream.nodelay().unwrap());
        let refused_alone = refused(known([bad])).await;
        assert_eq!(refused_alone.kind(), io::ErrorKind::ConnectionRefused);
        // Addresses that never come are not waited for, once the others have failed.
        let never: BoxFuture<'_, _> = Box::pin(std::future::pending());
        let refused = refused(Addresses { known: vec![bad], later: Some(never) }).await;
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        // An address that a name server tells later.
        let later: BoxFuture<'_, _> = Box::pin(async move {
            tokio::task::yield_now().await;
            vec![good]
        });
        let dialled = race(Addresses { known: vec![bad], later: Some(later) }, limit).await.unwrap();
        assert_eq!(dialled.peer, good);
    }
}
