//! The page's event stream: server-sent events (the EventSource interface of HTML), one snapshot a second until the
//! reader leaves or the node drains.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use hyper::body::Frame;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::telemetry::snapshot::Snapshot;

/// The media type of the stream.
pub(super) const TYPE: &str = "text/event-stream";
/// Interval between two snapshots. Each also shows that the node is alive.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a browser waits before it reconnects after the stream broke, in milliseconds.
const RETRY: &str = "retry: 1000\n\n";

/// The frames of one reader's response, which holds `place` until it is dropped.
pub(super) fn stream(
    snapshot: Arc<dyn Fn() -> Snapshot + Send + Sync>,
    drain: CancellationToken,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send {
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    stream::unfold((tick, drain, place, RETRY), move |(mut tick, drain, place, preamble)| {
        let snapshot = snapshot.clone();
        async move {
            tokio::select! {
                () = drain.cancelled() => return None,
                _ = tick.tick() => {}
            }
            let event = format!("{preamble}data: {}\n\n", json(&snapshot()));
            Some((Ok(Frame::data(event.into())), (tick, drain, place, "")))
        }
    })
}

/// One line of JSON.
pub(super) fn json(snapshot: &Snapshot) -> String {
    serde_json::to_string(snapshot).expect("it holds no map, so every key is text")
}
