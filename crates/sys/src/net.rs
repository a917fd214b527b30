//! TCP and UDP sockets and their options. The LANs are in `lan.rs`.
//!
//! | socket | no delay | keep-alive | other options |
//! | --- | --- | --- | --- |
//! | local port, TCP ([`listen`], inherited by accepted connections) | yes | 45 to 104 s ([`keep_alive`]) | |
//! | local port, unix | – | – (the peer is a process of this machine) | |
//! | gateway to server, gateway to upstream proxy | yes | the same, for a tunnel once it is 4 s old | user timeout of the system: a line that is down for minutes must not end a connection that would survive it without a proxy |
//! | link, both ends ([`tune_link`]) | yes | the same, beside PING | user timeout 15 s, 128 KiB of unsent data, bounded retransmission timeout |
//! | to name servers by TCP | yes | – (lives for seconds) | |
//! | UDP, gateway to server ([`connect_udp`]) | – | – | never fragmented (RFC 9000 §14) |
//! | UDP, local port to app | – | – | may be fragmented: the SOCKS header makes each datagram longer than the server sent it |
//! | UDP, DNS | – | – | at most 4,096 bytes; larger answers go by TCP |
//!
//! What only one operating system has is in the submodules.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_vendor = "apple")]
mod macos;
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
mod other;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
pub(crate) mod windows;

use std::collections::HashSet;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use ipnet::IpNet;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::runtime::{Builder, Runtime};

#[cfg(target_os = "linux")]
use self::linux as options;
#[cfg(target_vendor = "apple")]
use self::macos as options;
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
use self::other as options;
pub use self::system::Handle;
#[cfg(unix)]
use self::unix as system;
#[cfg(windows)]
use self::windows as system;
use crate::blocking;
use crate::interface::Interface;
use crate::interfaces;

/// The ports of FTP and Telnet: an urgent byte marks the command that aborts a transfer (RFC 959 §4.1.3), or the point up to
/// which output is discarded (RFC 854, "Synch").
const URGENT_PORTS: [u16; 2] = [21, 23];
/// Segment size in bytes that fits the minimum IPv6 MTU with all headers (RFC 8200 §5).
const SMALL_SEGMENT: u32 = 1200;
/// How long a connection is idle before its first keepalive probe, at least; over how many seconds connections are spread; and
/// the pause between unanswered probes, of which most systems send nine.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(45);
const KEEPALIVE_SPREAD: u32 = 60;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// This many connections that a listener accepts in a row may have the same keepalive times.
const ACCEPTED_ALIKE: u32 = 64;
/// How long [`linger`] reads and discards data.
const LINGER: Duration = Duration::from_secs(3);
/// Size of one read of [`linger`], in bytes.
const LINGER_READ: usize = 64 * 1024;
/// Maximum number of reads before a connection with unread data is closed: 4 MiB, as much as a receive buffer holds by default.
const MOST_DISCARDED: usize = 64;
/// Pause of an accept loop that has run out of descriptors: long enough not to spin, short enough not to be noticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Maximum number of connections that wait to be accepted.
pub const BACKLOG: i32 = 4096;

/// Number of task polls after which a runtime checks for new events. A poll may move half a megabyte, so with tokio's
/// default of 61 a new connection would wait for tens of megabytes; a check costs a microsecond.
const POLLS_BETWEEN_LOOKS: u32 = 4;

/// Creates a single-threaded runtime, so that all work on a connection stays on one processor. What blocks runs elsewhere
/// ([`blocking`]).
///
/// # Errors
/// The operating system's error.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().event_interval(POLLS_BETWEEN_LOOKS).enable_all().build()
}

/// All addresses of all interfaces of this machine, loopback included.
///
/// # Errors
/// When the operating system cannot list its interfaces.
pub fn own_addresses() -> io::Result<HashSet<IpAddr>> {
    Ok(interfaces::all()?.into_iter().map(|interface| interface.net.addr()).collect())
}

/// The address from which this machine sends to `destination`; `None` without a route. Nothing is sent.
pub fn own_address_to(destination: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match destination {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind((any, 0)).ok()?;
    socket.connect(destination).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// The networks of all interfaces, each as an address of this machine with its prefix length.
///
/// # Errors
/// When the operating system cannot list its interfaces.
pub fn own_networks() -> io::Result<Vec<IpNet>> {
    Ok(interfaces::all()?.into_iter().map(|interface| interface.net).collect())
}

/// Binds a TCP listener. An IPv6 wildcard address also accepts IPv4 where the system supports it.
///
/// # Errors
/// The operating system's error, without the address, which the caller knows.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    system::claim(&socket)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // Accepted connections inherit these options.
    socket.set_tcp_nodelay(true)?;
    keep_alive(&socket);
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Reads the available bytes, at most `most`; 0 means that the peer has sent FIN. A read that returns
/// less than `most` has emptied the socket, so it also clears the readiness: the next data is a new event, and no
/// further read is needed to find that out.
///
/// # Errors
/// The operating system's error; `WouldBlock` when nothing is available.
pub fn try_read(stream: &TcpStream, buffer: &mut impl BufMut, most: usize) -> io::Result<usize> {
    try_read_with(stream, buffer, most, false)
}

/// As [`try_read`]; where urgent data is kept ([`keep_urgent`]), a read also stops in front of it, so only a read that finds
/// nothing has emptied the socket.
///
/// # Errors
/// As [`try_read`].
pub fn try_read_with(
    stream: &TcpStream,
    buffer: &mut impl BufMut,
    most: usize,
    keeps_urgent: bool,
) -> io::Result<usize> {
    let mut taken = None;
    let read = stream.try_io(Interest::READABLE, || {
        let count = stream.try_read_buf(&mut buffer.limit(most))?;
        taken = Some(count);
        if count == most || keeps_urgent { Ok(count) } else { Err(io::ErrorKind::WouldBlock.into()) }
    });
    taken.map_or(read, Ok)
}

/// Accepts the next connection and never fails: connections that died in the queue are skipped, and when descriptors
/// or memory run out, it waits and tries again.
pub async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // The next ones inherit other times.
    if COUNT.fetch_add(1, Relaxed).is_multiple_of(ACCEPTED_ALIKE) {
        keep_alive(listener);
    }
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, plain(peer)),
            Err(error) => wait_out(&error).await,
        }
    }
}

/// Handles an error of `accept`: returns at once if it concerns one connection, otherwise after a pause. Of the latter, one a
/// minute is logged: whoever connects again and again while descriptors are short does not fill the log.
pub(crate) async fn wait_out(error: &io::Error) {
    static TOLD: Mutex<Option<Instant>> = Mutex::new(None);
    if is_of_one_connection(error) {
        return;
    }
    if is_due(&mut TOLD.lock().unwrap_or_else(PoisonError::into_inner), Instant::now()) {
        tracing::warn!(%error, "no connection can be accepted for now");
    }
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// Whether the last line is a minute old; notes that another one is logged then.
fn is_due(told: &mut Option<Instant>, now: Instant) -> bool {
    let is_due = told.is_none_or(|told| now.saturating_duration_since(told) >= Duration::from_secs(60));
    if is_due {
        *told = Some(now);
    }
    is_due
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// A UDP socket that receives from `peer` only, reports ICMP errors for what it sends there, and never fragments: a
/// datagram that exceeds the path's MTU is not sent. Protocols that measure the path rely on that (RFC 9000 §14).
///
/// # Errors
/// The operating system's error: connecting looks up a route but sends nothing.
pub async fn connect_udp(peer: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr =
        if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    if let Err(error) = options::never_fragment(&socket, peer.is_ipv4()) {
        tracing::debug!(%error, "datagrams may be fragmented");
    }
    socket.connect(peer).await?;
    // Registers the socket's readiness with tokio; otherwise the first non-blocking send would fail.
    socket.writable().await?;
    Ok(socket)
}

/// Whether a datagram was not sent, or did not arrive, because it exceeds the path's MTU.
pub fn is_too_long(error: &io::Error) -> bool {
    system::is_too_long(error)
}

/// Whether this process or machine ran out of descriptors, ports or memory, which is not a fault of the other end.
pub fn is_local_shortage(error: &io::Error) -> bool {
    system::is_local_shortage(error)
}

/// Enables keepalive, so that an idle connection fails within four minutes after the peer's machine has vanished.
///
/// Linux rounds such timers to two seconds, and drops all but the first thousand packets that come at the same time: of ten
/// thousand connections that were made at once, some would lose each of their probes, and fail. So they begin at different times.
pub fn keep_alive<'a>(socket: impl Into<SockRef<'a>>) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let idle = KEEPALIVE_IDLE + Duration::from_secs((COUNT.fetch_add(1, Relaxed) % KEEPALIVE_SPREAD).into());
    let often = TcpKeepalive::new().with_time(idle).with_interval(KEEPALIVE_INTERVAL);
    // If this fails, a dead connection only lasts longer.
    let _ = socket.into().set_tcp_keepalive(&often);
}

/// Sets the options of a connection that may last: no delay, and keepalive.
pub fn tune_stream(stream: &TcpStream) {
    // Fails only on a connection that is already gone, which the first write reports.
    let _ = stream.set_nodelay(true);
    keep_alive(stream);
}

/// Keeps urgent data (RFC 9293 §3.8.5) in its place among the other data of a connection to this port of a server, if the
/// port's protocol needs that. Otherwise the system takes the urgent byte out: some software sends one only to test whether the
/// other end is there, and that byte must not come between others. Returns whether it is kept.
pub fn keep_urgent(stream: &TcpStream, port: u16) -> bool {
    URGENT_PORTS.contains(&port) && SockRef::from(stream).set_out_of_band_inline(true).is_ok()
}

/// Limits how long sent data may stay unacknowledged (RFC 5482) before the connection fails with a timeout; `None` for the
/// usual minutes. Data that the peer has no room for counts too. Only Linux has it.
pub fn limit_unacknowledged(stream: &TcpStream, limit: Option<Duration>) {
    options::limit_unacknowledged(stream, limit);
}

/// For how long the peer's machine has acknowledged nothing, while retransmitted data waits for an acknowledgement. `None`
/// while none does, and where the system does not tell. Data that the peer has no room for is not sent, and does not count.
pub fn unacknowledged(stream: &TcpStream) -> Option<Duration> {
    options::unacknowledged(stream)
}

/// Whether the peer's machine has acknowledged everything that was sent; `None` where the system does not tell.
pub fn is_acknowledged(stream: &TcpStream) -> Option<bool> {
    options::is_acknowledged(stream)
}

/// How many bytes of data the peer's machine has acknowledged so far; 0 where the system does not tell.
pub fn acknowledged(stream: &TcpStream) -> u64 {
    options::acknowledged(stream)
}

/// For how long nothing has come on a connection; `None` where the system does not tell.
pub fn unheard(stream: &TcpStream) -> Option<Duration> {
    options::unheard(stream)
}

/// For how long nothing was sent on a connection; `None` where the system does not tell.
pub fn quiet(stream: &TcpStream) -> Option<Duration> {
    options::quiet(stream)
}

/// Maximum segment size of a connection, in both directions (RFC 9293 §3.7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segments {
    /// As large as the system assumes the path allows.
    Full,
    /// Small enough to pass everywhere: the path may have a smaller MTU without reporting it (RFC 2923 §2.1).
    Small,
}

impl Segments {
    /// Applies the limit to a socket before it connects. Where the system cannot, segments stay full-sized.
    pub fn limit(self, socket: &TcpSocket) {
        if self == Self::Small {
            system::limit_segments(socket, SMALL_SEGMENT);
        }
    }
}

/// Sets the options of a link's TCP connection: those of [`tune_stream`], a bound on unsent data, and failure within
/// seconds when the peer does not acknowledge. Options that the system lacks are skipped.
pub fn tune_link(stream: &TcpStream) {
    tune_stream(stream);
    options::tune_link(stream);
}

/// Waits for data and reads at most `most` bytes; 0 means that the peer has sent FIN. Reserves space in
/// `buffer` only once data has arrived. Counts in the task's budget, so that a peer which always has something to read
/// does not keep the thread to itself.
///
/// # Errors
/// The operating system's error.
pub async fn read_some(stream: &TcpStream, buffer: &mut BytesMut, most: usize) -> io::Result<usize> {
    tokio::task::consume_budget().await;
    loop {
        stream.readable().await?;
        buffer.reserve(most);
        match try_read(stream, buffer, most) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

/// Writes all of `bytes`.
///
/// # Errors
/// The operating system's error.
pub async fn write_all(stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    write_all_vectored(stream, &mut [IoSlice::new(bytes)]).await
}

/// Writes all of `pieces` with as few system calls as possible. Counts in the task's budget, as [`read_some`] does.
///
/// # Errors
/// The operating system's error.
pub async fn write_all_vectored(stream: &TcpStream, mut pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
    tokio::task::consume_budget().await;
    IoSlice::advance_slices(&mut pieces, 0);
    while !pieces.is_empty() {
        match stream.try_write_vectored(pieces) {
            Ok(count) => IoSlice::advance_slices(&mut pieces, count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether this system can redirect connections to a node, and tell it where they were going.
pub const HAS_REDIRECTION: bool = cfg!(target_os = "linux");

/// The original destination of a connection that the system has redirected here (SO_ORIGINAL_DST, Linux). `None` if
/// the app connected to this socket directly.
pub fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let own = plain(stream.local_addr().ok()?);
    let original = options::original(&SockRef::from(stream), own.is_ipv4()).ok()?;
    let original = plain(original.as_socket()?);
    (original != own).then_some(original)
}

/// Resets a connection, so that the app does not take its end for an orderly close.
pub fn reset(stream: TcpStream) {
    reset_on_drop(&stream);
    drop(stream);
}

/// Makes every later drop of the connection, including the end of this process, reset it: a transfer that was cut off
/// must not look complete. [`end_orderly`] undoes this.
pub fn reset_on_drop(stream: &TcpStream) {
    options::keep_options_settable(stream);
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Makes the connection close with FIN again.
pub fn end_orderly(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(None);
}

/// Closes a connection that has nothing more to receive, without losing what was written to it: the system goes on
/// sending that, and answers what still arrives with a reset. A close with unread data would discard both. A peer that
/// sends faster than this reads is not waited for.
pub fn close_unread(stream: TcpStream) {
    end_orderly(&stream);
    let mut rest = BytesMut::new();
    for _ in 0..MOST_DISCARDED {
        if !try_read(&stream, &mut rest, LINGER_READ).is_ok_and(|count| count > 0) {
            break;
        }
        rest.clear();
    }
    drop(stream);
}

/// Sends FIN, then reads and discards data until the peer closes too, for a bounded time. Closing with unread bytes
/// would reset the connection and could destroy the last response (RFC 9112 §9.6).
pub async fn linger(stream: &TcpStream) {
    let drain = async {
        shutdown_write(stream)?;
        loop {
            tokio::task::consume_budget().await;
            stream.readable().await?;
            // Not held while the next bytes are waited for: thousands of connections may end like this at a time.
            let mut rest = BytesMut::with_capacity(LINGER_READ);
            match try_read(stream, &mut rest, LINGER_READ) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    if let Ok(Err(error)) = tokio::time::timeout(LINGER, drain).await {
        tracing::debug!(%error, "the peer hung up");
    }
}

/// Sends FIN: the peer sees an orderly close while the other direction stays open.
///
/// # Errors
/// When the connection is already gone.
pub fn shutdown_write(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).shutdown(std::net::Shutdown::Write)
}

/// The number of files and connections that this process may have open; `None` where the system has no such limit.
pub fn open_files_limit() -> Option<u64> {
    system::open_files_limit()
}

/// The part of the descriptors that are not reserved from which on the rest is for connections only.
const CROWDED_PART: u64 = 3;
/// The first descriptor that is reserved.
static RESERVED: AtomicU64 = AtomicU64::new(u64::MAX);

/// Reserves the descriptors from this one on for those who do not ask [`unless_reserved`]. The system always gives the lowest
/// that is free, so whoever gets one of these has nothing else left.
pub fn reserve_files(first: u64) {
    RESERVED.store(first, Relaxed);
}

/// What was opened, unless its descriptor is reserved: then it is closed.
///
/// # Errors
/// That of a process that has too many open files ([`is_local_shortage`]).
pub fn unless_reserved<S: Handle>(opened: S) -> io::Result<S> {
    unless_from(RESERVED.load(Relaxed), opened)
}

/// As [`unless_reserved`], for what is done without where a third of the other descriptors is in use.
///
/// # Errors
/// Those of [`unless_reserved`].
pub fn unless_crowded<S: Handle>(opened: S) -> io::Result<S> {
    unless_from(RESERVED.load(Relaxed) / CROWDED_PART, opened)
}

fn unless_from<S: Handle>(first: u64, opened: S) -> io::Result<S> {
    if system::descriptor(&opened) < first { Ok(opened) } else { Err(system::too_many_files()) }
}

/// Raises this process's limit on open files to the hard limit, because each tunnel needs a descriptor on each side.
pub fn raise_open_files() {
    system::raise_open_files();
}

/// The index of the interface with this name.
pub fn interface_index(name: &str) -> Option<u32> {
    interfaces::index_of(name)
}

/// A free port beside one that is taken, on the same address: one of the next ports, else any.
pub fn free_port_beside(taken: SocketAddr) -> SocketAddr {
    let next = (1..=20).filter_map(|more| taken.port().checked_add(more));
    let mut others = next.map(|port| SocketAddr::new(taken.ip(), port));
    others
        .find(|address| std::net::TcpListener::bind(address).is_ok())
        .unwrap_or_else(|| SocketAddr::new(taken.ip(), 0))
}

/// The index of the interface to whose network this address belongs; `None` for one beyond a router.
pub fn interface_beside(address: SocketAddr) -> Option<u32> {
    if let SocketAddr::V6(v6) = address
        && v6.ip().is_unicast_link_local()
    {
        return Some(v6.scope_id());
    }
    let leads = |entry: &Interface| entry.is_up && !entry.is_loopback && entry.net.contains(&address.ip());
    let entries = interfaces::all().ok()?.into_iter().filter(leads);
    interface_index(&entries.max_by_key(|entry| entry.net.prefix_len())?.name)
}

/// The name of the interface with this index, as the scope of a link-local address has it.
pub fn interface_name(index: u32) -> Option<String> {
    interfaces::names().ok()?.into_iter().find(|name| index != 0 && interfaces::index_of(name) == Some(index))
}

/// The machine's host name, or `node` if it has none.
pub fn host_name() -> String {
    system::host_name().filter(|name| !name.is_empty()).unwrap_or_else(|| "node".into())
}

/// Converts an IPv4-mapped IPv6 address (RFC 4291 §2.5.5.2), as a dual-stack socket reports it, to the IPv4 address.
pub fn plain(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(ip) => SocketAddr::new(ip.into(), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

/// The addresses of a host and port, written as one, as the C library finds them.
///
/// # Errors
/// Why it finds none, in words about the name.
pub async fn lookup(target: &str) -> io::Result<Vec<SocketAddr>> {
    let target = target.to_owned();
    let found = blocking::run(move || target.to_socket_addrs().map(Iterator::collect)).await?;
    found.map_err(|error| io::Error::new(error.kind(), not_found(&error.to_string()).to_owned()))
}

/// What the C library says of a name that it does not find, in other words.
fn not_found(said: &str) -> &str {
    let why = said.strip_prefix("failed to lookup address information: ").unwrap_or(said);
    match why {
        "Name or service not known"
        | "No address associated with hostname"
        | "nodename nor servname provided, or not known" => {
            "neither the name servers nor the hosts file of this machine know this name"
        }
        "Temporary failure in name resolution" => {
            "no name server of this machine has answered, or those that did refused or failed"
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_nothing_can_be_accepted_is_logged_once_a_minute() {
        let (mut told, begun) = (None, Instant::now());
        let lines = (0..600).filter(|second| is_due(&mut told, begun + Duration::from_secs(*second)));
        assert_eq!(lines.count(), 10);
    }

    #[cfg(unix)]
    #[test]
    fn what_gets_a_reserved_descriptor_is_refused_as_where_none_is_left() {
        let open = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(unless_from(u64::MAX, open()).is_ok());
        let number = system::descriptor(&open());
        let error = unless_from(number.min(3), open()).unwrap_err();
        assert!(is_local_shortage(&error), "{error}");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn connections_of_the_same_time_are_not_probed_at_the_same_time() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let to = listener.local_addr().unwrap();
        let (mut dialled, mut accepted) = (HashSet::new(), HashSet::new());
        for _ in 0..5 * ACCEPTED_ALIKE {
            let (stream, (other, _)) = tokio::join!(TcpStream::connect(to), accept(&listener));
            let stream = stream.unwrap();
            keep_alive(&stream);
            dialled.insert(SockRef::from(&stream).tcp_keepalive_time().unwrap());
            accepted.insert(SockRef::from(&other).tcp_keepalive_time().unwrap());
        }
        // The test runs beside others, which count as well.
        assert!(dialled.len() > 40 && accepted.len() > 3, "{dialled:?} {accepted:?}");
        let longest = KEEPALIVE_IDLE + Duration::from_secs(KEEPALIVE_SPREAD.into());
        assert!(dialled.iter().all(|time| (KEEPALIVE_IDLE..longest).contains(time)), "{dialled:?}");
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_said_to_have_none_without_the_words_of_the_library() {
        assert_eq!(lookup("127.0.0.1:7").await.unwrap(), ["127.0.0.1:7".parse().unwrap()]);
        let said = lookup("a..b:1").await.unwrap_err().to_string();
        assert!(!said.contains("failed to lookup address information"), "{said}");
        assert_eq!(
            not_found("failed to lookup address information: Temporary failure in name resolution"),
            "no name server of this machine has answered, or those that did refused or failed"
        );
    }

    #[tokio::test]
    async fn reads_and_writes_that_never_have_to_wait_let_other_tasks_run() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = accept(&listener).await;
        let turns = Arc::new(AtomicUsize::new(0));
        let counted = turns.clone();
        let other = tokio::spawn(async move {
            loop {
                counted.fetch_add(1, Relaxed);
                tokio::task::yield_now().await;
            }
        });
        for _ in 0..1000 {
            write_all(&client, b"x").await.unwrap();
        }
        let while_writing = turns.swap(0, Relaxed);
        assert!(while_writing >= 5, "{while_writing} turns during 1,000 writes");
        server.readable().await.unwrap();
        turns.store(0, Relaxed);
        let mut buffer = BytesMut::new();
        for _ in 0..1000 {
            assert_eq!(read_some(&server, &mut buffer, 1).await.unwrap(), 1);
        }
        assert!(turns.load(Relaxed) >= 5, "{} turns during 1,000 reads", turns.load(Relaxed));
        other.abort();
    }

    #[tokio::test]
    async fn a_reset_connection_is_an_error_at_the_other_end_and_never_an_end() {
        use tokio::io::AsyncReadExt;
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = accept(&listener).await;
        reset(server);
        let error = client.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
