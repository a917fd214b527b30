//! What the operating system gives: TCP and UDP sockets and their options. The LANs are in `lan.rs`.
//!
//! Everything that only one operating system has stays behind the functions of this file.

use std::collections::HashSet;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use nix::ifaddrs::getifaddrs;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
#[cfg(target_os = "linux")]
use nix::sys::socket::setsockopt;
use nix::sys::socket::{SockaddrLike, SockaddrStorage};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket, UnixListener, UnixStream};
use tokio::runtime::{Builder, Runtime};

/// Data of a link that is not acknowledged for so long means that the peer is gone (RFC 5482). Pings find that out
/// sooner where nothing is lost; where a fifth of all packets is, five attempts in a row fail every other minute.
const LINK_USER_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest pause between two attempts to send what is not acknowledged. By itself it doubles each time, and where a
/// fifth of all packets is lost nearly all the time goes by in such pauses: this makes those lines 30 times as fast.
const LINK_LONGEST_RETRY: Duration = Duration::from_secs(1);
/// A segment that the smallest MTU of IPv6 carries with every header (RFC 8200 §5), in bytes.
const SMALL_SEGMENT: u32 = 1200;
/// How much unsent data the kernel holds for a link: more only makes small requests wait behind it.
const LINK_NOTSENT_LOWAT: u32 = 128 * 1024;
/// How long [`linger`] reads what nobody wants.
const LINGER: Duration = Duration::from_secs(3);
/// One read of that.
const LINGER_READ: usize = 64 * 1024;
/// Pause of an accept loop that ran out of descriptors: long enough not to spin, short enough not to be
/// felt.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many connections wait to be accepted.
pub const BACKLOG: i32 = 4096;

/// A runtime looks for new events each time that it has polled so many tasks. A poll may move half a megabyte, so
/// with tokio's 61 a new connection would wait for tens of megabytes; a look costs a microsecond.
const POLLS_BETWEEN_LOOKS: u32 = 4;

/// A runtime of one thread: what moves bytes stays on one processor.
///
/// # Errors
/// What the system says.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().event_interval(POLLS_BETWEEN_LOOKS).enable_all().build()
}

/// Every address of every interface of this machine, loopback included.
///
/// # Errors
/// When the operating system does not list its interfaces.
pub fn own_addresses() -> io::Result<HashSet<IpAddr>> {
    let entries = getifaddrs().map_err(io::Error::from)?;
    Ok(entries.filter_map(|entry| Some(ip_of(entry.address.as_ref()?)?.0)).collect())
}

/// Binds a TCP listener. An IPv6 wildcard listens to IPv4 too where the system can.
///
/// # Errors
/// What the system says, naming nothing: the caller knows the address.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // Whatever is accepted inherits it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Reads what is there, at most `most` bytes; 0 is the orderly end. A read that had more room than there were bytes has
/// taken all of them: what comes now is an event of its own, and nobody has to read again to find that out.
///
/// # Errors
/// Those of the system; `WouldBlock` when there is nothing.
pub fn try_read(stream: &TcpStream, buffer: &mut impl BufMut, most: usize) -> io::Result<usize> {
    let mut taken = None;
    let read = stream.try_io(Interest::READABLE, || {
        let count = stream.try_read_buf(&mut buffer.limit(most))?;
        taken = Some(count);
        if count == most { Ok(count) } else { Err(io::ErrorKind::WouldBlock.into()) }
    });
    taken.map_or(read, Ok)
}

/// Accepts the next connection, whatever it takes: a connection that died in the queue is skipped, and
/// a lack of descriptors or memory is waited out.
pub async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    let mut told = false;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, plain(peer)),
            Err(error) => wait_out(&error, &mut told).await,
        }
    }
}

/// The same for a unix socket, with the number of the user who connects, where the system tells it. The stream is
/// handled as one of TCP from here on: reading, writing, peeking and half-closing are the same. Only a reset is not:
/// who closes such a socket can but end it.
pub async fn accept_unix(listener: &UnixListener) -> (TcpStream, Option<u32>) {
    let as_tcp = |stream: UnixStream| {
        let user = stream.peer_cred().ok().map(|credentials| credentials.uid());
        let stream = std::net::TcpStream::from(OwnedFd::from(stream.into_std()?));
        Ok((TcpStream::from_std(stream)?, user))
    };
    let mut told = false;
    loop {
        match listener.accept().await.and_then(|(stream, _)| as_tcp(stream)) {
            Ok(accepted) => return accepted,
            Err(error) => wait_out(&error, &mut told).await,
        }
    }
}

async fn wait_out(error: &io::Error, told: &mut bool) {
    if is_of_one_connection(error) {
        return;
    }
    if !std::mem::replace(told, true) {
        tracing::warn!(%error, "accept pauses");
    }
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// A UDP socket that hears `peer` alone, and learns from ICMP what becomes of what it sends there.
///
/// # Errors
/// What the system says: it looks for a route, and sends nothing.
pub async fn connect_udp(peer: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr =
        if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(peer).await?;
    // Known to tokio from now on, so that a first attempt to send without waiting does not fail for nothing.
    socket.writable().await?;
    Ok(socket)
}

/// Finds out within minutes when the machine at the other end of a connection over which nothing is said has vanished.
pub fn keep_alive(stream: &TcpStream) {
    let often = TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15));
    // Without it the connection only lasts longer.
    let _ = SockRef::from(stream).set_tcp_keepalive(&often);
}

/// How large the segments of a connection may be, in both directions (RFC 9293 §3.7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segments {
    /// As large as the system takes the path for.
    Full,
    /// So small that they pass everywhere: on the way there may be a smaller MTU, and nobody who says so (RFC 2923 §2.1).
    Small,
}

impl Segments {
    /// Prepares a socket that is about to connect. Where the system cannot, segments are full.
    pub fn limit(self, socket: &TcpSocket) {
        if self == Self::Small {
            let _ = SockRef::from(socket).set_tcp_mss(SMALL_SEGMENT);
        }
    }
}

/// Prepares a TCP connection for a link: no delay, a bound on unsent data, death within seconds when the
/// peer does not acknowledge. An option that the system lacks is left out.
pub fn tune_link(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    #[cfg(target_os = "linux")]
    {
        let _ = socket.set_tcp_user_timeout(Some(LINK_USER_TIMEOUT));
        let _ = socket.set_tcp_notsent_lowat(LINK_NOTSENT_LOWAT);
        let longest = i32::try_from(LINK_LONGEST_RETRY.as_millis()).unwrap_or(i32::MAX);
        let _ = setsockopt(stream, options::LongestRetry, &longest);
        // The first of those pauses do not grow at all.
        let _ = socket.set_tcp_thin_linear_timeouts(true);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (socket, LINK_USER_TIMEOUT, LINK_NOTSENT_LOWAT, LINK_LONGEST_RETRY);
}

/// What neither of the libraries names yet.
#[cfg(target_os = "linux")]
mod options {
    use nix::{getsockopt_impl, libc, setsockopt_impl, sockopt_impl};

    /// `linux/tcp.h`, since 6.15.
    const TCP_RTO_MAX_MS: libc::c_int = 44;

    sockopt_impl!(
        /// The bound of the retransmission timeout (RFC 6298 §2.5), in milliseconds, 1,000 at least.
        LongestRetry,
        Both,
        libc::IPPROTO_TCP,
        TCP_RTO_MAX_MS,
        libc::c_int
    );
}

/// Reads what is there, at most `most` bytes, and waits when there is nothing; takes room in `buffer` only once
/// there is. 0 is the orderly end.
///
/// # Errors
/// What the system says.
pub async fn read_some(stream: &TcpStream, buffer: &mut BytesMut, most: usize) -> io::Result<usize> {
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
/// What the system says.
pub async fn write_all(stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    write_all_vectored(stream, &mut [IoSlice::new(bytes)]).await
}

/// Writes all of `pieces`, in as few system calls as it takes.
///
/// # Errors
/// What the system says.
pub async fn write_all_vectored(stream: &TcpStream, mut pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
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

/// Where the app believed to connect to whose connection the system has led here (SO_ORIGINAL_DST, Linux). `None` for one
/// that was made to this socket itself.
pub fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let own = plain(stream.local_addr().ok()?);
    let original = original(&SockRef::from(stream), own.is_ipv4()).ok()?;
    let original = plain(original.as_socket()?);
    (original != own).then_some(original)
}

#[cfg(target_os = "linux")]
fn original(socket: &SockRef<'_>, v4: bool) -> io::Result<SockAddr> {
    if v4 { socket.original_dst_v4() } else { socket.original_dst_v6() }
}

#[cfg(not(target_os = "linux"))]
fn original(_: &SockRef<'_>, _: bool) -> io::Result<SockAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Closes a connection with a reset, which no app can mistake for an orderly end.
pub fn reset(stream: TcpStream) {
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop(stream);
}

/// From now on, whatever ends this process or drops the connection resets it: a transfer that was cut off must
/// not look complete. Undone by [`end_orderly`].
pub fn reset_on_drop(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// The connection may end with FIN again.
pub fn end_orderly(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(None);
}

/// Sends FIN, and reads what the peer still sends until it ends too, for a bounded time: closing over unread bytes
/// would reset the connection and could take the last answer with it (RFC 9112 §9.6).
pub async fn linger(stream: &TcpStream) {
    let drain = async {
        shutdown_write(stream)?;
        let mut rest = BytesMut::new();
        while read_some(stream, &mut rest, LINGER_READ).await? > 0 {
            rest.clear();
        }
        Ok::<_, io::Error>(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(LINGER, drain).await {
        tracing::debug!(%error, "the peer hung up");
    }
}

/// Sends FIN: the peer reads an orderly end while the other direction stays open.
///
/// # Errors
/// When the connection is gone already.
pub fn shutdown_write(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).shutdown(std::net::Shutdown::Write)
}

/// Raises this process's limit on open files to what the system permits: a tunnel is a descriptor on
/// each side.
pub fn raise_open_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// The machine's host name, or `node` when it has none.
pub fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "node".into())
}

/// An IPv4-mapped IPv6 address (RFC 4291 §2.5.5.2), as a dual-stack socket reports it, as the IPv4 address
/// that it is.
pub fn plain(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(ip) => SocketAddr::new(ip.into(), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

pub(crate) fn ip_of(address: &SockaddrStorage) -> Option<(IpAddr, u32)> {
    match socket_address(address)? {
        SocketAddr::V4(v4) => Some((v4.ip().to_owned().into(), 0)),
        SocketAddr::V6(v6) => Some((v6.ip().to_owned().into(), v6.scope_id())),
    }
}

pub(crate) fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    match address.family()? {
        nix::sys::socket::AddressFamily::Inet => {
            let v4 = address.as_sockaddr_in()?;
            Some(SocketAddr::new(v4.ip().into(), v4.port()))
        }
        nix::sys::socket::AddressFamily::Inet6 => {
            let v6 = address.as_sockaddr_in6()?;
            Some(SocketAddrV6::new(v6.ip(), v6.port(), 0, v6.scope_id()).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_link_tries_again_every_second_where_the_system_can() {
        use nix::errno::Errno;
        use nix::sys::socket::getsockopt;
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let link = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tune_link(&link);
        assert!(SockRef::from(&link).tcp_thin_linear_timeouts().unwrap());
        let retry = getsockopt(&link, options::LongestRetry);
        assert!(matches!(retry, Ok(1000) | Err(Errno::ENOPROTOOPT)), "{retry:?}");
    }
}
