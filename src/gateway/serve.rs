//! One link at the gateway: each of its requests runs as a task of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::{JoinError, JoinSet};

use super::clients::{Admitted, Client, MAX_LINKS};
use super::diagnostics::speed;
use super::dial::Dialled;
use super::follower::Follower;
use super::state::Gateway;
use crate::failure::{Failure, Kind, Side, printable};
use crate::limited;
use crate::link::handshake::Proved;
use crate::link::incoming::Incoming;
use crate::link::relay::{Broken, Progress, outcome, relay};
use crate::link::request::RequestKind;
use crate::link::server::ServerLink;
use crate::link::tls::{self, PeerIdentity};
use crate::link::tunnel::Tunnel;
use crate::link::unanswered::Seen;
use crate::link::updates;
use crate::memory;
use crate::net;
use crate::peers::candidate::Activity;
use crate::telemetry::journal::Happening;
use crate::telemetry::record::Record;
use crate::telemetry::traffic::Moved;
use crate::wire::target::Target;

/// Maximum exchanges of group updates that one link may begin. A client needs one.
const MAX_UPDATE_EXCHANGES: usize = 4;

/// One link and the tasks of its requests.
struct Session {
    gateway: Arc<Gateway>,
    /// The client at the other end.
    peer: PeerIdentity,
    client: Arc<Client>,
    /// Where the link comes from.
    from: SocketAddr,
    /// Tunnels and name queries. They outlive the link until each has been recorded.
    tunnels: JoinSet<()>,
    /// Exchanges of group updates and measurements. They end with the link, or when the node drains.
    exchanges: JoinSet<()>,
    update_exchanges_begun: usize,
    draining: bool,
    /// The link was made while this gateway was in maintenance.
    is_late: bool,
}

impl Gateway {
    /// Serves one link until it ends.
    pub async fn serve(self: Arc<Self>, proved: Proved, address: SocketAddr) {
        let identity = match tls::peer(&proved.certificates) {
            Ok(identity) => identity,
            Err(error) => return tracing::debug!(%address, %error, "the client has no laneway certificate"),
        };
        // Its certificate is on the revocation list only once the authority has heard that it leaves.
        if self.membership.revokes(identity.id) {
            tracing::debug!(%address, client = &*identity.name, "no link: the client has left the group");
            return proved.stream.refuse_revoked().await;
        }
        let mut maintenance = self.activity.maintenance();
        let is_late = *maintenance.borrow_and_update();
        let mut session = Session::new(self.clone(), identity.clone(), address, is_late);
        // From here on the link counts for its client, however far it gets.
        let place = session.client.enter();
        let account = session.client.memory.account(memory::Kind::Link);
        let accepted = tokio::select! {
            accepted = ServerLink::accept(proved, identity, &account) => accepted,
            () = place.superseded() => return tracing::debug!(%address, "no link: the client has made newer ones"),
            () = account.evicted() => return tracing::debug!(%address, "no link: out of memory"),
        };
        let mut link = match accepted {
            Ok(link) => link,
            Err(error) => return tracing::debug!(%address, %error, "no link"),
        };
        let (client, id) = (&*link.client.name.clone(), link.client.id);
        limited!(info, id, client, id = %id.short(), %address, "link accepted");
        let text = format!("a client linked to this node from {address}");
        self.telemetry.note_about(id, Happening::LinkUp, client, text);
        let served = self.served.enter(link.client.clone(), address, link.state().clone());
        let mut revoked = std::pin::pin!(self.membership.until_revoked(session.peer.id));
        let reason = loop {
            tokio::select! {
                next = link.next() => match next {
                    Some(Ok(incoming)) => session.dispatch(incoming),
                    Some(Err(reason)) => break printable(&reason),
                    None => break "closed".to_owned(),
                },
                Some(ended) = session.tunnels.join_next() => log_failed_task("a tunnel", ended),
                Some(ended) = session.exchanges.join_next() => log_failed_task("an exchange with a client", ended),
                () = &mut revoked => {
                    limited!(warn, id, client, %address, "link closed: the client was removed from the group");
                    break "the client was removed from the group".to_owned();
                }
                () = place.superseded() => {
                    limited!(warn, id, client, %address, "link closed: the client has made more than {MAX_LINKS}");
                    break "the client has made more links than it may have".to_owned();
                }
                () = account.evicted() => {
                    limited!(warn, id, client, %address, "link closed: it holds more memory than the gateway has");
                    break "out of memory".to_owned();
                }
                () = self.drain.cancelled(), if !session.draining => session.drain(&mut link),
                // The clients move to another gateway, and what is open here may finish.
                Ok(()) = maintenance.changed(), if !session.draining => if *maintenance.borrow_and_update() {
                    session.drain(&mut link);
                },
            }
        };
        let Session { mut tunnels, exchanges, .. } = session;
        // The end of the link ends its tunnels. They are awaited, so that each one is recorded.
        drop((link, exchanges, served));
        while tunnels.join_next().await.is_some() {}
        self.swarms.forget(id);
        let text = format!("the link of a client ended: {reason}");
        self.telemetry.note_about(id, Happening::LinkLost, client, text);
        limited!(info, id, client, %address, reason, "link ended");
    }
}

/// Logs a task that panicked; tasks that were aborted are no failures.
fn log_failed_task(task: &str, ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        limited!(error, task, task, %error, "a task of a link failed");
    }
}

impl Session {
    fn new(gateway: Arc<Gateway>, peer: PeerIdentity, from: SocketAddr, is_late: bool) -> Self {
        let client = gateway.clients.client(peer.id, &gateway.memory);
        Self {
            gateway,
            peer,
            client,
            from: net::plain(from),
            tunnels: JoinSet::new(),
            exchanges: JoinSet::new(),
            update_exchanges_begun: 0,
            draining: false,
            is_late,
        }
    }

    /// Takes no more requests. What is open may finish.
    fn drain(&mut self, link: &mut ServerLink) {
        self.draining = true;
        // Left alone they would keep the link open.
        self.exchanges.abort_all();
        link.drain();
    }

    fn admit(&self) -> Result<Admitted, Failure> {
        match self.is_late {
            true => self.gateway.admit_late(self.peer.id, &self.client),
            false => self.gateway.admit(self.peer.id, &self.client),
        }
    }

    /// Starts the task of one request. One that is refused gets its answer at once: tasks run only after everything
    /// that the client has sent meanwhile is dispatched. For the same reason a request is charged before its task runs, so
    /// that the next one is admitted only if there is memory for it, too.
    fn dispatch(&mut self, mut incoming: Incoming) {
        // Each task that has ended keeps its memory until it is joined.
        while let Some(ended) = self.tunnels.try_join_next() {
            log_failed_task("a tunnel", ended);
        }
        let gateway = self.gateway.clone();
        match incoming.kind.clone() {
            Ok(RequestKind::Updates)
                if self.update_exchanges_begun < MAX_UPDATE_EXCHANGES && !self.draining =>
            {
                self.update_exchanges_begun += 1;
                gateway.served.see(self.peer.id, Some(&self.peer.name), incoming.version.as_deref());
                incoming.charge_to(self.client.memory.account(memory::Kind::Tunnel));
                if let Ok(tunnel) = incoming.accept() {
                    self.exchanges.spawn(updates::serve(
                        tunnel,
                        gateway.membership.clone(),
                        self.peer.clone(),
                    ));
                }
            }
            Ok(RequestKind::Info) => match gateway.admit_own(&self.client) {
                Ok(admitted) => {
                    drop(self.tunnels.spawn(gateway.about(self.charged(incoming), self.peer.id, admitted)))
                }
                Err(failure) => incoming.refuse(&failure, &gateway.name),
            },
            Ok(RequestKind::Members) => {
                let ca_key = gateway.membership.group().ca_key;
                let permit = incoming.permit.take();
                if !permit.is_some_and(|permit| permit.is_valid(&ca_key, self.peer.id, gateway.id)) {
                    let sentence = "only the machine with the group's key may ask which members were seen";
                    let failure = Failure::new(Kind::NameForbidden, Side::Gateway, sentence);
                    return incoming.refuse(&failure, &gateway.name);
                }
                match gateway.admit_own(&self.client) {
                    Ok(admitted) => {
                        drop(self.tunnels.spawn(gateway.roster(self.charged(incoming), admitted)))
                    }
                    Err(failure) => incoming.refuse(&failure, &gateway.name),
                }
            }
            Ok(RequestKind::Speed(direction)) if !self.draining => {
                match gateway.admit_measurement(&self.client) {
                    Ok(admitted) => {
                        let incoming = self.charged(incoming);
                        self.exchanges.spawn(speed(incoming, direction, self.client.clone(), admitted));
                    }
                    Err(failure) => incoming.refuse(&failure, &gateway.name),
                }
            }
            Ok(RequestKind::Resolve) => match self.admit() {
                Ok(admitted) => drop(self.tunnels.spawn(gateway.resolve(self.charged(incoming), admitted))),
                Err(failure) => incoming.refuse(&failure, &gateway.name),
            },
            Ok(RequestKind::Tunnel(target) | RequestKind::Http { target, .. } | RequestKind::Udp(target)) => {
                let mut record = self.record(&incoming);
                record.aims_at(&target);
                match self.admit() {
                    Ok(admitted) => self.carry(incoming, target, record, admitted),
                    Err(failure) => gateway.refuse(incoming, &failure, &mut record),
                }
            }
            Ok(RequestKind::Piece(_)) => incoming.answer_missing(false),
            Ok(RequestKind::Updates | RequestKind::Speed(_)) => {
                let sentence = "too many such requests on this link, or the gateway is draining";
                let failure = Failure::new(Kind::LimitReached, Side::Gateway, sentence);
                let mut record = self.record(&incoming);
                gateway.refuse(incoming, &failure, &mut record);
            }
            Err(failure) => {
                let mut record = self.record(&incoming);
                gateway.refuse(incoming, &failure, &mut record);
            }
        }
    }

    /// Starts the task of a tunnel, a UDP stream or a plain request.
    fn carry(&mut self, incoming: Incoming, target: Target, mut record: Record, admitted: Admitted) {
        let (gateway, incoming, client) = (self.gateway.clone(), self.charged(incoming), self.client.clone());
        // An async function keeps two copies of each of its arguments, so this one gets references.
        self.tunnels.spawn(async move {
            gateway.tunnel(incoming, &target, &client, &mut record).await;
            drop(admitted);
        });
    }

    /// The request, charged to an account of its own.
    fn charged(&self, mut incoming: Incoming) -> Box<Incoming> {
        incoming.charge_to(self.client.memory.account(memory::Kind::Tunnel));
        incoming.from = Some(self.from);
        Box::new(incoming)
    }

    /// The record of a request.
    fn record(&self, incoming: &Incoming) -> Record {
        Record::of_client(&self.gateway.telemetry, incoming.connection_id, "link", self.peer.name.to_string())
    }
}

impl Gateway {
    /// Connects one tunnel, or UDP stream, to its destination and relays until either end closes.
    async fn tunnel(
        self: &Arc<Self>,
        mut incoming: Box<Incoming>,
        target: &Target,
        client: &Arc<Client>,
        record: &mut Record,
    ) {
        let _open = OpenTunnel::count(&self.activity);
        if let Ok(RequestKind::Udp(_)) = incoming.kind {
            return Box::pin(self.datagrams(*incoming, target, client, record)).await;
        }
        if let (Ok(RequestKind::Http { waits, is_secure, .. }), Some(cache)) =
            (&incoming.kind, self.cache.clone())
        {
            let asked = (target.clone(), *waits, *is_secure);
            return Box::pin(self.clone().requests(cache, incoming, asked, client, record)).await;
        }
        if matches!(incoming.kind, Ok(RequestKind::Http { is_secure: true, .. })) {
            let sentence = "the gateway has no cache, which fronts need: because of --no-cache, or 'laneway doctor' on it \
                            says why its directory cannot be used";
            let failure = Failure::new(Kind::Unsupported, Side::Gateway, sentence);
            return self.refuse(*incoming, &failure, record);
        }
        let connected = tokio::select! {
            // Boxed: otherwise the future of an idle tunnel keeps the room of the dial.
            connected = Box::pin(self.egress.connect(target, client.id)) => connected,
            () = incoming.abandoned() => return self.abandon(*incoming, record),
        };
        let Dialled { stream: socket, peer } = match connected {
            Ok(dialled) => dialled,
            Err(failure) => return self.refuse(*incoming, &failure, record),
        };
        let Ok(mut tunnel) = accept(incoming) else {
            return record.ended("the client gave up");
        };
        let traffic = record.traffic();
        let follower = Follower::new(&self.egress, target, client.id, peer);
        let watch = |seen: Seen<'_>| follower.sees(seen);
        let progress = Progress::of_server(&traffic).paced_by(&client.pace).watched_by(&watch);
        let progress = progress.with_urgent(net::keep_urgent(&socket, target.port));
        let result = relay(&socket, &mut tunnel, &progress, None).await;
        drop(tunnel);
        // Records count from the app's side: bytes received from the link were sent to the server.
        let moved = progress.moved();
        if moved.sent > 0 {
            follower.ended(&socket);
        }
        match &result {
            Ok(()) => {}
            // All that the app sent was written to the server, and may still be on its way there.
            Err(Broken::Unwanted(_)) => net::close_unread(socket),
            Err(_) => net::reset(socket),
        }
        record.moved(Moved { sent: moved.received, received: moved.sent });
        record.ended(outcome(&result));
    }
}

/// Accepts a request, and frees its box, which would otherwise last as long as the tunnel.
fn accept(incoming: Box<Incoming>) -> Result<Tunnel, crate::link::http2::Error> {
    incoming.accept()
}

/// One open tunnel in [`Activity`], until it is dropped.
struct OpenTunnel(Arc<Activity>);

impl OpenTunnel {
    fn count(activity: &Arc<Activity>) -> Self {
        activity.tunnels.fetch_add(1, Ordering::Relaxed);
        Self(activity.clone())
    }
}

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.0.tunnels.fetch_sub(1, Ordering::Relaxed);
    }
}
