//! The last answer on an app's connection.

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::context::log_hang_up;
use super::handshakes::HANDSHAKE;
use crate::net;

/// Sends the last answer of a connection and closes it so that the answer arrives, whatever the app has sent meanwhile.
pub(super) async fn send_last(socket: TcpStream, answer: &[u8]) {
    match timeout(HANDSHAKE, net::write_all(&socket, answer)).await {
        Ok(Ok(())) => net::linger(&socket).await,
        Ok(Err(error)) => log_hang_up(&error),
        Err(_) => tracing::debug!("the app does not read its answer"),
    }
}
