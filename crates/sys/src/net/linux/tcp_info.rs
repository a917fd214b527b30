//! What the system knows of a connection (`TCP_INFO`, tcp(7)).
#![allow(unsafe_code, reason = "nix panics where a system writes less of it than was asked for")]

use std::mem::size_of_val;
use std::os::fd::AsRawFd as _;

use nix::libc;
use tokio::net::TcpStream;

/// Some of the fields of `struct tcp_info` of `linux/tcp.h`, in the order of every version of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct TcpInfo {
    /// How often the oldest data was sent again because a timer expired.
    pub(super) retries: u8,
    /// How often it was asked for room without an answer.
    pub(super) probes: u8,
    /// The number of segments that are sent and not acknowledged.
    pub(super) unacknowledged: u32,
    /// Milliseconds since data was last sent.
    pub(super) last_sent: u32,
    /// Milliseconds since data last came.
    pub(super) last_received: u32,
    /// Milliseconds since the last acknowledgement came.
    pub(super) last_acknowledgement: u32,
    /// The number of bytes that were acknowledged, of which the handshake is one; 0 before Linux 4.1.
    pub(super) acknowledged: u64,
}

/// The number of 32-bit words up to the last field that every version has, and that is read.
const FIRST_WORDS: usize = 15;
/// The number of words up to the last field that is read at all.
const WORDS: usize = 32;

impl TcpInfo {
    /// None for a connection that is gone, and where the system does not tell: user-mode QEMU takes every option of TCP for a
    /// number, and writes four bytes.
    pub(super) fn of(stream: &TcpStream) -> Option<Self> {
        let mut words = [0_u32; WORDS];
        let mut length = libc::socklen_t::try_from(size_of_val(&words)).ok()?;
        let (level, option) = (libc::IPPROTO_TCP, libc::TCP_INFO);
        // SAFETY: the socket is open as long as `stream` is borrowed, and the system writes at most `length` bytes, which is the
        // size of `words`. Any bytes are valid in it.
        let result = unsafe {
            libc::getsockopt(stream.as_raw_fd(), level, option, words.as_mut_ptr().cast(), &raw mut length)
        };
        (result == 0).then(|| Self::parse(&words, length as usize))?
    }

    /// The fields in `length` bytes that the system has written.
    fn parse(words: &[u32; WORDS], length: usize) -> Option<Self> {
        let [_, _, retries, probes] = words[0].to_ne_bytes();
        (length >= size_of_val(&words[..FIRST_WORDS])).then_some(Self {
            retries,
            probes,
            unacknowledged: words[6],
            last_sent: words[11],
            last_received: words[13],
            last_acknowledgement: words[14],
            // What the system has not written is 0. The order of the two words is that of the machine.
            acknowledged: {
                let [low, high] = if cfg!(target_endian = "little") { [30, 31] } else { [31, 30] };
                u64::from(words[high]) << 32 | u64::from(words[low])
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_bytes_than_the_fields_take_tell_nothing() {
        let mut words = [0; WORDS];
        words[0] = u32::from_ne_bytes([1, 0, 2, 3]);
        (words[6], words[11], words[13], words[14]) = (4, 5, 6, 7);
        let info = TcpInfo::parse(&words, 60).unwrap();
        assert_eq!(info.acknowledged, 0);
        assert_eq!((info.retries, info.probes, info.unacknowledged), (2, 3, 4));
        assert_eq!((info.last_sent, info.last_received, info.last_acknowledgement), (5, 6, 7));
        assert!([0, 4, 59].iter().all(|length| TcpInfo::parse(&words, *length).is_none()));
    }
}
