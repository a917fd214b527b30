//! Accepts the connections of apps and dispatches each to its dialect, which the first byte tells.

use std::sync::Arc;

use tokio::net::TcpStream;

use super::context::{App, Local, log_hang_up};
use super::endpoint::AppPeer;
use super::handshakes::Handshake;
use super::port::Port;
use super::session::Session;
use super::{http, socks, socks4, transparent};
use crate::wire;

/// Maximum number of connections of apps at a time; further ones wait in the listen queue.
pub const MOST_CONNECTIONS: usize = 16_384;
/// Maximum number of them that have not sent their request yet.
pub const MOST_HANDSHAKES: usize = 2048;

/// How apps come to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Apps {
    /// They use it as a proxy, in one of the dialects.
    Proxy,
    /// The system redirects their connections here, and they do not know it.
    Redirected,
}

/// Serves `port` until the node drains.
pub async fn run(local: Arc<Local>, port: Port, apps: Apps) {
    loop {
        let accepted = async {
            let place = local.places.clone().acquire_owned().await.expect("the semaphore is never closed");
            (place, port.accept().await)
        };
        let (place, (socket, peer)) = tokio::select! {
            accepted = accepted => accepted,
            () = local.drain.cancelled() => return,
        };
        let handshake = local.handshakes.begin();
        let shared = local.clone();
        local.tasks.spawn(async move {
            // Boxed one by one, so that an idle session holds no memory of how it was opened.
            if let Some(session) = Box::pin(dispatch(&shared, (socket, peer), handshake, apps)).await {
                Box::pin(session.carry(&shared.routes)).await;
            }
            drop(place);
        });
    }
}

/// Waits for the first byte of an app, and serves it to its end or until it has become a session.
async fn dispatch(
    local: &Local,
    (socket, peer): (TcpStream, AppPeer),
    handshake: Handshake,
    apps: Apps,
) -> Option<Box<Session>> {
    let mut first = [0];
    if let Apps::Proxy = apps {
        let peeked = tokio::select! {
            peeked = handshake.within(socket.peek(&mut first)) => peeked,
            () = local.drain.cancelled() => return None,
        };
        match peeked {
            Some(Ok(1)) => {}
            Some(Ok(_)) => return None,
            Some(Err(error)) => {
                log_hang_up(&error);
                return None;
            }
            None => {
                tracing::debug!(%peer, "the app sent nothing");
                return None;
            }
        }
    }
    // Silent connections are few, and need none.
    let account = local.routes.memory.account();
    let app = App { socket, peer, handshake, account: account.clone() };
    let served = async {
        match (apps, first[0]) {
            (Apps::Redirected, _) => transparent::serve(local, app).await,
            (Apps::Proxy, socks::VERSION) => socks::serve(local, app).await,
            (Apps::Proxy, wire::socks4::VERSION) => socks4::serve(local, app).await,
            (Apps::Proxy, _) => http::serve(local, app).await,
        }
    };
    tokio::select! {
        biased;
        session = served => session,
        // A response of which the app has received a part ends with a reset.
        () = account.evicted() => {
            tracing::debug!(%peer, "the connection of an app is closed for want of memory");
            None
        }
    }
}
