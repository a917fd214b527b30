//! This system has no socket filters.

use std::io;

use socket2::SockRef;

pub(super) fn drop_where(_: &SockRef<'_>, _: u32, _: u8) -> io::Result<()> {
    Ok(())
}

pub(super) fn drop_nothing(_: &SockRef<'_>) -> io::Result<()> {
    Ok(())
}
