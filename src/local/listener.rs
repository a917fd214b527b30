//! Accepts the connections of apps and dispatches each to its dialect, which the first byte tells.

use std::sync::Arc;

use super::context::{App, Local, log_hang_up};
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
    Redirected {
        /// The name in an app's first bytes is preferred to the address that it connected to.
        by_name: bool,
    },
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
        let app = App { socket, peer, handshake: local.handshakes.begin() };
        let shared = local.clone();
        local.tasks.spawn(async move {
            // Boxed one by one, so that an idle session holds no memory of how it was opened.
            if let Some(session) = Box::pin(dispatch(&shared, app, apps)).await {
                Box::pin(session.carry(&shared.routes)).await;
            }
            drop(place);
        });
    }
}

/// Serves an app in its dialect, to its end or until it has become a session.
async fn dispatch(local: &Local, app: App, apps: Apps) -> Option<Box<Session>> {
    if let Apps::Redirected { by_name } = apps {
        return transparent::serve(local, app, by_name).await;
    }
    let mut first = [0];
    let peeked = tokio::select! {
        peeked = app.handshake.within(app.socket.peek(&mut first)) => peeked,
        () = local.drain.cancelled() => return None,
    };
    match (peeked, first[0]) {
        (Some(Ok(1)), socks::VERSION) => return socks::serve(local, app).await,
        (Some(Ok(1)), wire::socks4::VERSION) => return socks4::serve(local, app).await,
        (Some(Ok(1)), _) => return http::serve(local, app).await,
        (Some(Ok(_)), _) => {}
        (Some(Err(error)), _) => log_hang_up(&error),
        (None, _) => tracing::debug!(peer = %app.peer, "the app sent nothing"),
    }
    None
}
