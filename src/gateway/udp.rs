//! UDP at the gateway: one connected socket for each CONNECT-UDP stream (RFC 9298).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::clients::Client;
use super::egress::Egress;
use super::state::Gateway;
use crate::failure::printable;
use crate::link::datagrams::{Broken, Datagrams, Usage, idle_limit, is_unreachable, readable, receive};
use crate::link::incoming::Incoming;
use crate::link::tunnel::Outbox;
use crate::memory::Tally;
use crate::net::is_too_long;
use crate::pace::Pace;
use crate::telemetry::Telemetry;
use crate::telemetry::record::Record;
use crate::telemetry::refusal::RefusalReason;
use crate::wire::id::NodeId;
use crate::wire::target::Target;

/// How long a server may leave datagrams unanswered before the way out is proved.
const SLOW: Duration = Duration::from_secs(2);
/// Minimum time between two proofs because of one stream: some servers answer rarely.
const SLOW_AGAIN: Duration = Duration::from_secs(30);

/// Why a UDP stream ended.
enum End {
    /// The client ended the stream.
    Client,
    /// No datagram passed within the idle limit.
    Idle,
    /// The stream or its link broke.
    Broken(Broken),
    /// An ICMP error: the server cannot be reached. It ends the stream (RFC 9298 §3.1); the client may open another.
    Server(io::Error),
}

/// What the two directions of one stream share.
struct Relay<'a> {
    socket: &'a UdpSocket,
    traffic: &'a Usage,
    pace: &'a Pace,
    telemetry: &'a Telemetry,
    egress: &'a Egress,
    target: &'a Target,
    by: NodeId,
}

/// Notices that a server does not answer any more.
#[derive(Default)]
struct Unanswered {
    /// How many bytes had come from it when it was last looked at.
    received: u64,
    since: Option<Instant>,
    noted: Option<Instant>,
}

impl Unanswered {
    /// Notes that a datagram is sent when `received` bytes have come so far. Returns whether it is time to prove the way out. A
    /// server that has never answered is a reason only once: it may never answer.
    fn sends(&mut self, received: u64, now: Instant) -> bool {
        if received != self.received {
            (self.received, self.since) = (received, None);
        }
        let since = *self.since.get_or_insert(now);
        let is_due = match self.noted {
            Some(noted) => received > 0 && now >= noted + SLOW_AGAIN,
            None => true,
        };
        let is_slow = is_due && now >= since + SLOW;
        self.noted = if is_slow { Some(now) } else { self.noted };
        is_slow
    }
}

impl Gateway {
    /// Relays datagrams between a client and `target` until either end is gone or both are idle.
    pub(super) async fn datagrams(
        &self,
        mut incoming: Incoming,
        target: &Target,
        client: &Arc<Client>,
        record: &mut Record,
    ) {
        let connected = tokio::select! {
            connected = self.egress.dialer().connect_udp(target) => connected,
            () = incoming.abandoned() => return self.abandon(incoming, record),
        };
        let socket = match connected {
            Ok(socket) => socket,
            Err(failure) => return self.refuse(incoming, &failure, record),
        };
        let Ok(tunnel) = incoming.accept() else {
            return record.ended("the client gave up");
        };
        let traffic = Usage::of(&record.traffic());
        let telemetry = &self.telemetry;
        let (pace, egress) = (&client.pace, &*self.egress);
        let by = client.id;
        let relay = Relay { socket: &socket, traffic: &traffic, pace, telemetry, egress, target, by };
        let (mut outbox, inbox) = (tunnel.outbox, tunnel.inbox);
        let waiting = inbox.tally();
        let end = tokio::select! {
            end = relay.to_client(&mut outbox, waiting) => end,
            end = relay.to_server(Datagrams::new(inbox)) => end,
            () = traffic.idle(idle_limit(target)) => End::Idle,
        };
        if let End::Client | End::Idle = end {
            // Fails only on a stream that has already ended. Every other end resets the stream.
            let _ = outbox.finish();
        }
        record.moved(traffic.moved());
        record.ended(match end {
            End::Client => "closed".to_owned(),
            End::Idle => "idle".to_owned(),
            End::Broken(Broken::Tunnel(error)) => printable(&format!("the tunnel broke: {error}")),
            End::Broken(Broken::Capsule(error)) => {
                let why = format!("the client broke the protocol: {error}");
                return record.refused(RefusalReason::Malformed, why);
            }
            End::Server(error) => format!("the server cannot be reached: {error}"),
        });
    }
}

impl Relay<'_> {
    /// Server to client. While the stream has no room the socket is not read, and the kernel drops the newest datagrams.
    /// The datagrams that wait for room are counted in `waiting`.
    async fn to_client(&self, outbox: &mut Outbox, mut waiting: Tally) -> End {
        let mut limit = Limit::default();
        loop {
            match readable(self.socket).await {
                Err(error) if is_unreachable(&error) => return End::Server(error),
                Err(error) => self.drop_one(&error),
                Ok(()) => {}
            }
            let (batch, error) = receive(self.socket);
            if batch.count > 0 && !limit.admits(self.pace, batch.payload) {
                self.telemetry.udp_dropped.many("paced", batch.count);
            } else if batch.count > 0 {
                self.traffic.received(batch.payload);
                waiting.set(batch.capsules.len());
                if let Err(error) = outbox.send(batch.capsules).await {
                    return End::Broken(error.into());
                }
                waiting.set(0);
            }
            match error {
                Some(error) if is_unreachable(&error) => return End::Server(error),
                Some(error) => self.drop_one(&error),
                None => {}
            }
            tokio::task::consume_budget().await;
        }
    }

    /// Client to server. A datagram that the kernel does not accept at once is dropped: nothing is queued here.
    async fn to_server(&self, mut datagrams: Datagrams) -> End {
        let (mut limit, mut unanswered) = (Limit::default(), Unanswered::default());
        loop {
            let payload = match datagrams.next().await {
                Ok(Some(payload)) => payload,
                Ok(None) => return End::Client,
                Err(error) => return End::Broken(error),
            };
            if !limit.admits(self.pace, payload.len()) {
                self.telemetry.udp_dropped.one("paced");
                continue;
            }
            match self.socket.try_send(&payload) {
                Ok(_) => {
                    self.traffic.sent(payload.len());
                    if unanswered.sends(self.traffic.moved().received, Instant::now()) {
                        self.egress.is_slow(self.target, self.by);
                    }
                }
                Err(error) if is_unreachable(&error) => return End::Server(error),
                Err(error) => self.drop_one(&error),
            }
            tokio::task::consume_budget().await;
        }
    }

    /// Counts a datagram that did not fit the path's MTU, or for which the socket's buffer had no room.
    fn drop_one(&self, error: &io::Error) {
        self.telemetry.udp_dropped.one(if is_too_long(error) { "too-long" } else { "unsent" });
        tracing::debug!(%error, "datagram dropped");
    }
}

/// Enforces the client's rate limit in one direction by dropping: a lost datagram is worth more to an app than a late
/// one.
#[derive(Default)]
struct Limit(Option<Instant>);

impl Limit {
    fn admits(&mut self, pace: &Pace, bytes: usize) -> bool {
        if self.0.is_some_and(|due| Instant::now() < due) {
            return false;
        }
        self.0 = pace.passed(bytes);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_stops_answering_has_the_way_out_proved_and_one_that_never_does_once() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut conversation = Unanswered::default();
        assert!(!conversation.sends(0, start) && !conversation.sends(9, start + ms(1900)));
        assert!(!conversation.sends(9, start + ms(3800)), "it has answered meanwhile");
        assert!(conversation.sends(9, start + ms(3900)));
        assert!(!conversation.sends(9, start + ms(6000)));
        assert!(conversation.sends(9, start + ms(3900) + SLOW_AGAIN));
        let mut monologue = Unanswered::default();
        let noted = (0..1000).filter(|second| monologue.sends(0, start + SLOW * *second)).count();
        assert_eq!(noted, 1);
    }
}
