//! The page's stream: server-sent events (the EventSource interface of HTML), one snapshot a second until the reader or
//! the node goes.

use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::SEALED;
use crate::local::listener::{Local, quiet};
use crate::net;
use crate::telemetry::snapshot::Snapshot;

/// The media type of the stream.
pub(super) const TYPE: &str = "text/event-stream";
/// Between two snapshots. Each is a sign of life, too.
const INTERVAL: Duration = Duration::from_secs(1);
/// How much of it waits in the system for its reader, in bytes: who stalls is noticed after a few snapshots.
const QUEUED: usize = 64 * 1024;
/// How long one snapshot may take to be read.
const DEADLINE: Duration = Duration::from_secs(5);

/// Sends snapshots for as long as they are read.
pub(super) async fn follow(local: &Local, socket: &TcpStream) {
    // Without it only more waits.
    let _ = SockRef::from(socket).set_send_buffer_size(QUEUED);
    let mut head = format!("HTTP/1.1 200 OK\r\nContent-Type: {TYPE}\r\nConnection: close\r\n");
    SEALED.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    // How soon a browser comes back when the stream has broken, in milliseconds.
    let mut next = head + "\r\nretry: 1000\n\n";
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = local.drain.cancelled() => return,
        }
        next += &format!("data: {}\n\n", json(&(local.page.look)()));
        match timeout(DEADLINE, net::write_all(socket, next.as_bytes())).await {
            Ok(Ok(())) => next.clear(),
            Ok(Err(error)) => return quiet(&error),
            Err(_) => return tracing::debug!("nobody reads the events"),
        }
    }
}

/// One line of JSON.
pub(super) fn json(snapshot: &Snapshot) -> String {
    serde_json::to_string(snapshot).expect("no map, so no key that is not text")
}
