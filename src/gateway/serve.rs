//! One link, seen from the gateway: each tunnel is dialled and relayed as a task of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::egress::Egress;
use crate::failure::{Failure, printable};
use crate::link::handshake::Proved;
use crate::link::news;
use crate::link::relay::{Progress, outcome, relay};
use crate::link::server::{Incoming, ServerLink};
use crate::net;
use crate::peers::candidate::Activity;
use crate::telemetry::record::Record;
use crate::trust::board::Board;

/// What all links of this gateway share.
pub struct Gateway {
    /// The way out.
    pub egress: Arc<Egress>,
    /// Counts what is open.
    pub activity: Arc<Activity>,
    /// The name of this node in Proxy-Status.
    pub name: String,
    /// When it is cancelled, links take no more tunnels and end with their last one.
    pub drain: CancellationToken,
    /// What is known of the group: whom to serve no longer.
    pub board: Arc<Board>,
}

/// How often one link may begin to exchange news: a client does it once.
const EXCHANGES: usize = 4;

impl Gateway {
    /// Serves one link until it ends.
    pub async fn serve(self: Arc<Self>, proved: Proved, address: SocketAddr) {
        let mut link = match ServerLink::accept(proved).await {
            Ok(link) => link,
            Err(error) => return tracing::debug!(%address, %error, "no link"),
        };
        let id = link.client.id;
        let client = id.short();
        tracing::info!(client, %address, "link accepted");
        let mut tunnels = JoinSet::new();
        let mut exchanges = JoinSet::new();
        let mut begun = 0;
        let mut draining = false;
        let mut revoked = std::pin::pin!(self.board.until_revoked(id));
        let reason = loop {
            tokio::select! {
                next = link.next() => match next {
                    Some(Ok(incoming)) if incoming.is_news && begun < EXCHANGES && !draining => {
                        begun += 1;
                        if let Ok(tunnel) = incoming.accept() {
                            exchanges.spawn(news::serve(tunnel, self.board.clone(), id));
                        }
                    }
                    Some(Ok(incoming)) => {
                        tunnels.spawn(self.clone().tunnel(Box::new(incoming), client.clone()));
                    }
                    Some(Err(reason)) => break printable(&reason),
                    None => break "closed".to_owned(),
                },
                Some(ended) = tunnels.join_next() => if let Err(error) = ended {
                    tracing::error!(%error, "a tunnel's task failed");
                },
                Some(ended) = exchanges.join_next() => if let Err(error) = ended
                    && error.is_panic()
                {
                    tracing::error!(%error, "an exchange of news failed");
                },
                () = &mut revoked => {
                    tracing::warn!(client, %address, "a link is cut: the client was removed from the group");
                    break "the client was removed from the group".to_owned();
                }
                () = self.drain.cancelled(), if !draining => {
                    draining = true;
                    // They last as long as the link does.
                    exchanges.abort_all();
                    link.drain();
                }
            }
        };
        // The tunnels of a link that has ended find out by themselves; they are waited for, so that each
        // is recorded.
        drop((link, exchanges));
        while tunnels.join_next().await.is_some() {}
        tracing::info!(client, %address, reason, "link ended");
    }

    async fn tunnel(self: Arc<Self>, mut incoming: Box<Incoming>, client: String) {
        let mut record = Record::new(incoming.connection_id, "link", client);
        let target = match incoming.target.clone() {
            Ok(target) => target,
            Err(failure) => return self.refuse(*incoming, &failure, &mut record),
        };
        record.target = target.to_string();
        let _open = self.activity.open_tunnel();
        let connected = tokio::select! {
            // Boxed, so that the tunnel does not hold its room.
            connected = Box::pin(self.egress.connect(&target)) => connected,
            () = incoming.abandoned() => return record.ended("the client gave up"),
        };
        let socket = match connected {
            Ok(socket) => socket,
            Err(failure) => return self.refuse(*incoming, &failure, &mut record),
        };
        let Ok(tunnel) = incoming.accept() else {
            return record.ended("the client gave up");
        };
        let progress = Progress::counted_in(&self.activity.bytes);
        let result = relay(&socket, tunnel, &progress, None).await;
        if result.is_err() {
            net::reset(socket);
        }
        // Seen from the app, as all records are: what came off the link went to the server.
        let moved = progress.moved();
        record.moved(moved.received, moved.sent);
        record.ended(outcome(&result));
    }

    fn refuse(&self, incoming: Incoming, failure: &Failure, record: &mut Record) {
        record.failed(failure);
        incoming.refuse(failure, &self.name);
    }
}

impl Activity {
    /// Counts one tunnel as open until the guard is dropped.
    fn open_tunnel(self: &Arc<Self>) -> OpenTunnel {
        self.tunnels.fetch_add(1, Ordering::Relaxed);
        OpenTunnel(self.clone())
    }
}

struct OpenTunnel(Arc<Activity>);

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.0.tunnels.fetch_sub(1, Ordering::Relaxed);
    }
}
