use std::net::SocketAddr;

pub(super) fn user_of(_: SocketAddr, _: SocketAddr) -> Option<u32> {
    None
}
