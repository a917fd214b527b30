mod tcp_info;

use std::io;
use std::time::Duration;

use nix::sys::socket::setsockopt;
use socket2::{SockAddr, SockRef};
use tokio::net::{TcpStream, UdpSocket};

use tcp_info::TcpInfo;

/// How long data on a link may stay unacknowledged before the peer counts as gone (RFC 5482). Without packet loss,
/// pings detect this sooner. At 20 % loss, five attempts in a row fail every other minute, which must not end the link.
const LINK_USER_TIMEOUT: Duration = Duration::from_secs(15);
/// Upper bound of the retransmission timeout on a link. By default the timeout doubles after each attempt; at 20 %
/// packet loss, nearly all the time is then spent waiting. The bound makes such links 30 times as fast.
const LINK_LONGEST_RETRY: Duration = Duration::from_secs(1);
/// Maximum unsent data, in bytes, that the kernel buffers for a link. More would only make small requests wait behind
/// it.
const LINK_NOTSENT_LOWAT: u32 = 128 * 1024;

/// Sets the options of a link that only this system has.
pub(super) fn tune_link(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_user_timeout(Some(LINK_USER_TIMEOUT));
    let _ = socket.set_tcp_notsent_lowat(LINK_NOTSENT_LOWAT);
    let longest = i32::try_from(LINK_LONGEST_RETRY.as_millis()).unwrap_or(i32::MAX);
    let _ = setsockopt(stream, options::LongestRetry, &longest);
    // Linear timeouts: the first few retransmission timeouts do not grow at all.
    let _ = socket.set_tcp_thin_linear_timeouts(true);
}

pub(super) fn limit_unacknowledged(stream: &TcpStream, limit: Option<Duration>) {
    // Fails only on a connection that is already gone, which the next read reports.
    let _ = SockRef::from(stream).set_tcp_user_timeout(Some(limit.unwrap_or_default()));
}

/// Data counts as unacknowledged only once it was retransmitted this often: an acknowledgement may be lost, or late.
const RETRIES: u8 = 2;

pub(super) fn unacknowledged(stream: &TcpStream) -> Option<Duration> {
    let info = TcpInfo::of(stream)?;
    // Data that this machine itself drops on the way out was never sent. The system then sends window probes, which a
    // peer without room answers.
    let is_so = info.unacknowledged > 0 && info.retries >= RETRIES || info.probes >= RETRIES;
    is_so.then(|| Duration::from_millis(info.last_acknowledgement.into()))
}

pub(super) fn is_acknowledged(stream: &TcpStream) -> Option<bool> {
    let info = TcpInfo::of(stream)?;
    Some(info.unacknowledged == 0 && info.retries == 0 && info.probes == 0)
}

/// The acknowledgement of the handshake counts as one byte.
pub(super) fn acknowledged(stream: &TcpStream) -> u64 {
    TcpInfo::of(stream).map_or(0, |info| info.acknowledged.saturating_sub(1))
}

pub(super) fn unheard(stream: &TcpStream) -> Option<Duration> {
    let info = TcpInfo::of(stream)?;
    Some(Duration::from_millis(info.last_received.into()))
}

pub(super) fn quiet(stream: &TcpStream) -> Option<Duration> {
    let info = TcpInfo::of(stream)?;
    Some(Duration::from_millis(info.last_sent.into()))
}

/// This system sets options of a connection whose directions have ended.
pub(super) fn keep_options_settable(_: &TcpStream) {}

/// Sets "don't fragment" on all datagrams. The system's own idea of the path's MTU is not used: the peers measure it,
/// and a forged ICMP message must not shrink it.
pub(super) fn never_fragment(socket: &UdpSocket, v4: bool) -> io::Result<()> {
    if v4 {
        setsockopt(socket, options::MtuDiscovery, &nix::libc::IP_PMTUDISC_PROBE)?;
    } else {
        setsockopt(socket, options::MtuDiscoveryV6, &nix::libc::IPV6_PMTUDISC_PROBE)?;
    }
    Ok(())
}

/// The destination before the system redirected the connection.
pub(super) fn original(socket: &SockRef<'_>, v4: bool) -> io::Result<SockAddr> {
    if v4 { socket.original_dst_v4() } else { socket.original_dst_v6() }
}

/// Socket options that neither nix nor socket2 defines yet.
mod options {
    use nix::{getsockopt_impl, libc, setsockopt_impl, sockopt_impl};

    /// From `linux/tcp.h`, since Linux 6.15.
    const TCP_RTO_MAX_MS: libc::c_int = 44;

    sockopt_impl!(
        /// Upper bound of the retransmission timeout (RFC 6298 §2.5) in milliseconds, at least 1,000.
        LongestRetry,
        Both,
        libc::IPPROTO_TCP,
        TCP_RTO_MAX_MS,
        libc::c_int
    );

    sockopt_impl!(
        /// What the system does with datagrams that exceed the path's MTU (ip(7)).
        MtuDiscovery,
        Both,
        libc::IPPROTO_IP,
        libc::IP_MTU_DISCOVER,
        libc::c_int
    );

    sockopt_impl!(
        /// The same option for IPv6 (ipv6(7)).
        MtuDiscoveryV6,
        Both,
        libc::IPPROTO_IPV6,
        libc::IPV6_MTU_DISCOVER,
        libc::c_int
    );
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;

    use super::*;
    use crate::net::{connect_udp, listen, tune_link};

    #[tokio::test]
    async fn datagrams_to_a_server_are_never_fragmented() {
        let socket = connect_udp("127.0.0.1:9".parse().unwrap()).await.unwrap();
        let mode = getsockopt(&socket, options::MtuDiscovery).unwrap();
        assert_eq!(mode, nix::libc::IP_PMTUDISC_PROBE);
        let socket = connect_udp("[::1]:9".parse().unwrap()).await.unwrap();
        let mode = getsockopt(&socket, options::MtuDiscoveryV6).unwrap();
        assert_eq!(mode, nix::libc::IPV6_PMTUDISC_PROBE);
    }

    #[tokio::test]
    async fn a_link_tries_again_every_second_where_the_system_can() {
        use nix::errno::Errno;
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let link = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tune_link(&link);
        assert!(SockRef::from(&link).tcp_thin_linear_timeouts().unwrap());
        let retry = getsockopt(&link, options::LongestRetry);
        assert!(matches!(retry, Ok(1000) | Err(Errno::ENOPROTOOPT)), "{retry:?}");
    }

    #[tokio::test]
    async fn what_a_peer_acknowledges_or_has_no_room_for_is_not_unacknowledged() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert_eq!(unacknowledged(&stream), None, "nothing was sent");
        let info = TcpInfo::of(&stream).unwrap();
        assert_eq!((info.unacknowledged, info.retries), (0, 0));
        assert_eq!(is_acknowledged(&stream), Some(true));
        assert_eq!(acknowledged(&stream), 0, "the handshake is no data");
        // Nobody reads.
        let mut sent = 0;
        while let Ok(count) = stream.try_write(&[0; 64 * 1024]) {
            sent += count;
        }
        assert!(sent > 0);
        assert_eq!(unacknowledged(&stream), None);
        assert!(acknowledged(&stream) > 0);
    }
}
