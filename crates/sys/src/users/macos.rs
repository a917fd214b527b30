use std::net::SocketAddr;

use super::names::judge;
use super::whose::Whose;
use crate::port_holder::Protocol;
use crate::port_holder::lsof::held;

/// Asked for each connection, which is too often for another program.
pub(super) fn user_of(_: SocketAddr, _: SocketAddr) -> Option<u32> {
    None
}

pub(super) fn who_listens(address: SocketAddr) -> Option<u32> {
    held(Protocol::Tcp, address.port())?.user
}

pub(super) fn who_receives(port: u16) -> Option<u32> {
    held(Protocol::Udp, port)?.user
}

/// lsof shows the sockets of other users to root only.
pub(super) fn whose(address: SocketAddr) -> Whose {
    who_listens(address).map_or(Whose::Untold, |user| judge(user, None))
}
