//! One link, seen from the gateway: each tunnel is dialled and relayed as a task of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::clients::{Admitted, Client, Clients};
use super::egress::Egress;
use super::guests::Guests;
use crate::copy::Moved;
use crate::failure::{Failure, Kind, Side, printable};
use crate::link::handshake::Proved;
use crate::link::news;
use crate::link::relay::{Progress, outcome, relay};
use crate::link::server::{Asked, Incoming, ServerLink};
use crate::memory::Budget;
use crate::net;
use crate::peers::candidate::{Activity, Announcement};
use crate::telemetry::Telemetry;
use crate::telemetry::journal::Happening;
use crate::telemetry::record::Record;
use crate::trust::board::Board;
use crate::wire::id::NodeId;

/// What all links of this gateway share.
pub struct Gateway {
    /// The way out.
    pub egress: Arc<Egress>,
    /// Counts what is open.
    pub activity: Arc<Activity>,
    /// What each client has of this gateway.
    pub clients: Clients,
    /// Whose links it serves.
    pub guests: Guests,
    /// Where its connections are counted.
    pub telemetry: Arc<Telemetry>,
    /// What all tunnels may hold.
    pub memory: Arc<Budget>,
    /// This node.
    pub id: NodeId,
    /// The name of this node in Proxy-Status.
    pub name: String,
    /// When it is cancelled, links take no more tunnels and end with their last one.
    pub drain: CancellationToken,
    /// What is known of the group: whom to serve no longer.
    pub board: Arc<Board>,
    /// What this node tells the LAN of itself as a candidate.
    pub announced: watch::Receiver<Option<Announcement>>,
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
        let (client, held) = (id.short(), self.clients.client(id));
        tracing::info!(client, name = &*link.client.name, %address, "link accepted");
        self.telemetry.note(
            Happening::LinkUp,
            &link.client.name,
            format!("a client linked to this node from {address}"),
        );
        let guest = self.guests.enter(link.client.clone(), address, link.pulse().clone());
        let mut tunnels = JoinSet::new();
        let mut exchanges = JoinSet::new();
        let mut begun = 0;
        let mut draining = false;
        let mut revoked = std::pin::pin!(self.board.until_revoked(id));
        let reason = loop {
            tokio::select! {
                next = link.next() => match next {
                    Some(Ok(incoming)) => match incoming.asked {
                        Ok(Asked::News) if begun < EXCHANGES && !draining => {
                            begun += 1;
                            if let Ok(tunnel) = incoming.accept() {
                                exchanges.spawn(news::serve(tunnel, self.board.clone(), id));
                            }
                        }
                        Ok(Asked::About) => self.about(incoming, &held),
                        Ok(Asked::Speed(direction)) if !draining => {
                            let admitted = self.clients.admit_measurement(&held);
                            exchanges.spawn(self.clone().speed(incoming, direction, held.clone(), admitted));
                        }
                        Ok(Asked::Name) => {
                            let admitted = self.admit(id, &held);
                            tunnels.spawn(self.clone().name(Box::new(incoming), admitted));
                        }
                        _ => {
                            let admitted = self.admit(id, &held);
                            let incoming = Box::new(incoming);
                            tunnels.spawn(self.clone().tunnel(incoming, client.clone(), held.clone(), admitted));
                        }
                    },
                    Some(Err(reason)) => break printable(&reason),
                    None => break "closed".to_owned(),
                },
                Some(ended) = tunnels.join_next() => if let Err(error) = ended {
                    tracing::error!(%error, "a tunnel's task failed");
                },
                Some(ended) = exchanges.join_next() => if let Err(error) = ended
                    && error.is_panic()
                {
                    tracing::error!(%error, "an exchange with a client failed");
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
        drop((link, exchanges, guest));
        while tunnels.join_next().await.is_some() {}
        self.telemetry.note(Happening::LinkLost, &client, format!("the link of a client ended: {reason}"));
        tracing::info!(client, %address, reason, "link ended");
    }

    /// A gateway never carries a tunnel on over a link of its own, so a path is no longer than client, gateway and
    /// server; the one way in which it could close is a node that is its own client.
    fn admit(&self, member: NodeId, client: &Arc<Client>) -> Result<Admitted, Failure> {
        if member == self.id {
            let sentence = "the connection came back to the gateway that sent it";
            return Err(Failure::new(Kind::Loop, Side::Gateway, sentence));
        }
        if self.memory.is_short() {
            let sentence = "the gateway has no memory left for another connection";
            return Err(Failure::new(Kind::LimitReached, Side::Gateway, sentence));
        }
        self.clients.admit(client)
    }

    async fn tunnel(
        self: Arc<Self>,
        mut incoming: Box<Incoming>,
        name: String,
        client: Arc<Client>,
        admitted: Result<Admitted, Failure>,
    ) {
        let mut record = Record::of_client(&self.telemetry, incoming.connection_id, "link", name);
        let target = match incoming.asked.clone() {
            Ok(Asked::Tunnel(target) | Asked::Udp(target)) => target,
            Ok(Asked::News | Asked::Name | Asked::About | Asked::Speed(_)) => {
                let failure = Failure::new(Kind::LimitReached, Side::Gateway, "asked too often, or too late");
                return self.refuse(*incoming, &failure, &mut record);
            }
            Err(failure) => return self.refuse(*incoming, &failure, &mut record),
        };
        record.aims_at(&target);
        let _admitted = match admitted {
            Ok(admitted) => admitted,
            Err(failure) => return self.refuse(*incoming, &failure, &mut record),
        };
        let _open = self.activity.open_tunnel();
        incoming.charge_to(self.memory.account());
        if let Ok(Asked::Udp(_)) = incoming.asked {
            return Box::pin(self.datagrams(*incoming, &target, &client, &mut record)).await;
        }
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
        let traffic = record.traffic();
        let progress = Progress::of_server(&traffic).paced_by(&client.pace);
        let result = relay(&socket, tunnel, &progress, None).await;
        if result.is_err() {
            net::reset(socket);
        }
        // Seen from the app, as all records are: what came off the link went to the server.
        let moved = progress.moved();
        record.moved(Moved { sent: moved.received, received: moved.sent });
        record.ended(outcome(&result));
    }

    pub(super) fn refuse(&self, incoming: Incoming, failure: &Failure, record: &mut Record) {
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
