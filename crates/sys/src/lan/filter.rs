//! Socket filters (Linux, networking/filter.rst).

use std::io;

use socket2::{SockFilter, SockRef};

// Instructions of a socket filter (Linux, networking/filter.rst).
const LOAD_BYTE: u16 = 0x30;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

pub(super) fn drop_where(socket: &SockRef<'_>, at: u32, byte: u8) -> io::Result<()> {
    socket.attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, at),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, byte.into()),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

/// Accepts every datagram, by a filter of its own: a system that emulates Linux may attach filters but not detach them.
pub(super) fn drop_nothing(socket: &SockRef<'_>) -> io::Result<()> {
    socket.attach_filter(&[SockFilter::new(RETURN, 0, 0, u32::MAX)])
}
