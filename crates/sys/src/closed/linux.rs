use std::net::SocketAddr;

use tokio::io::Interest;
use tokio::net::TcpStream;

use super::other_end::OtherEnd;
use crate::inet_diag::find;
use crate::net::{original_destination, plain};

/// Waits until the other end has ended its sending direction. False when the connection has failed.
pub(super) async fn until_it_ends(stream: &TcpStream) -> bool {
    // The interest in priority data includes the end of the receiving direction, but not readable data.
    stream.ready(Interest::PRIORITY | Interest::ERROR).await.is_ok_and(|ready| !ready.is_error())
}

pub(super) fn tcp_other_end(stream: &TcpStream, peer: SocketAddr) -> OtherEnd {
    let Ok(own) = stream.local_addr().map(plain) else { return OtherEnd::Unknown };
    // A redirected app is connected to another address, as it believes.
    let original = original_destination(stream).unwrap_or(own);
    match find(peer, original) {
        Ok(Some(found)) if found.is_held && found.reads => OtherEnd::Open,
        Ok(Some(_)) => OtherEnd::Closed,
        // Loopback addresses are of this network namespace, so the socket would be found, provided that the system finds
        // any.
        Ok(None) if peer.ip().is_loopback() && find(own, peer).is_ok_and(|found| found.is_some()) => {
            OtherEnd::Closed
        }
        Ok(None) | Err(_) => OtherEnd::Unknown,
    }
}
