use std::io;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{SockAddr, SockRef};
use tokio::net::{TcpStream, UdpSocket};

/// Sets the options of a link that only this system has: a bound on unsent data. It has nothing like the user timeout, so
/// a peer that is gone is noticed by PING.
pub(super) fn tune_link(stream: &TcpStream) {
    let _ = setsockopt(stream, options::MostUnsent, &options::LINK_NOTSENT_LOWAT);
}

/// This system has no such limit.
pub(super) fn limit_unacknowledged(_: &TcpStream, _: Option<Duration>) {}

/// This system is not asked.
pub(super) fn unacknowledged(_: &TcpStream) -> Option<Duration> {
    None
}

pub(super) fn is_acknowledged(_: &TcpStream) -> Option<bool> {
    None
}

pub(super) fn acknowledged(_: &TcpStream) -> u64 {
    0
}

pub(super) fn unheard(_: &TcpStream) -> Option<Duration> {
    None
}

pub(super) fn quiet(_: &TcpStream) -> Option<Duration> {
    None
}

/// Lets the options of a connection still be set when both directions have ended. By default the system refuses that
/// (EINVAL), and a connection that was to be reset on drop would be reset with data that is not sent yet.
pub(super) fn keep_options_settable(stream: &TcpStream) {
    let _ = setsockopt(stream, options::Extensions, &options::SETTABLE_AFTER_SHUTDOWN);
}

/// Sets "don't fragment" on all datagrams.
pub(super) fn never_fragment(socket: &UdpSocket, v4: bool) -> io::Result<()> {
    if v4 {
        setsockopt(socket, sockopt::IpDontFrag, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv6DontFrag, &true)?;
    }
    Ok(())
}

pub(super) fn original(_: &SockRef<'_>, _: bool) -> io::Result<SockAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Socket options that neither nix nor socket2 defines.
mod options {
    use nix::{libc, setsockopt_impl, sockopt_impl};

    /// Maximum unsent data, in bytes, that the kernel buffers for a link, as on Linux.
    pub(super) const LINK_NOTSENT_LOWAT: libc::c_int = 128 * 1024;
    /// `SONPX_SETOPTSHUT` of `sys/socket.h`, as flag and as mask.
    pub(super) const SETTABLE_AFTER_SHUTDOWN: SocketExtensions = SocketExtensions { flags: 1, mask: 1 };
    /// From `netinet/tcp.h`.
    const TCP_NOTSENT_LOWAT: libc::c_int = 0x201;

    /// `struct so_np_extensions` of `sys/socket.h`.
    #[derive(Clone, Copy, Debug)]
    #[repr(C)]
    #[allow(unreachable_pub, reason = "the macro makes an option public, and so its value")]
    pub struct SocketExtensions {
        flags: u32,
        mask: u32,
    }

    sockopt_impl!(
        /// Bound on unsent data, in bytes.
        MostUnsent,
        SetOnly,
        libc::IPPROTO_TCP,
        TCP_NOTSENT_LOWAT,
        libc::c_int
    );

    sockopt_impl!(
        /// What this system alone can do with a socket.
        Extensions,
        SetOnly,
        libc::SOL_SOCKET,
        libc::SO_NP_EXTENSIONS,
        SocketExtensions
    );
}
