use std::net::SocketAddr;

use crate::port_holder::Protocol;
use crate::port_holder::lsof::held;

/// Asked for each connection, which is too often for another program.
pub(super) fn user_of(_: SocketAddr, _: SocketAddr) -> Option<u32> {
    None
}

pub(super) fn who_listens(port: u16) -> Option<u32> {
    held(Protocol::Tcp, port)?.user
}

pub(super) fn who_receives(port: u16) -> Option<u32> {
    held(Protocol::Udp, port)?.user
}
