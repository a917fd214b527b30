//! What a node does with the datagrams that it receives.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::bounds::{ASKS, REPORTS, RISES};
use super::{Discovery, link_address, locked};
use crate::candidate::Announcement;
use crate::keyring::{Keyring, OTHER_GROUP};
use crate::selection::SILENCE;
use crate::verifier::{Arrival, Refusal};
use laneway_limits::limited;
use laneway_sys::blocking;
use laneway_sys::lan::{LanSocket, ReceivedFrom};
use laneway_sys::net;
use laneway_telemetry::journal::Happening;
use laneway_wire::datagram::{
    Advert, Datagram, MAX_LEADING_INTERVAL_MILLIS, Message, QUERY_MARK, Reach, Received, State, Unverified,
    Way, invite_asked_for,
};
use laneway_wire::id::NodeId;

impl Discovery {
    /// Verifies and handles one datagram. `unicast` tells that it was sent to this node alone.
    pub(super) async fn handle(
        &self,
        bytes: &[u8],
        received: ReceivedFrom,
        unicast: bool,
        socket: &LanSocket,
    ) {
        if let Some(invite) = invite_asked_for(bytes) {
            return self.answer_join(bytes, invite, received.from, socket).await;
        }
        // Needed where the kernel has no filter.
        let is_query = bytes.get(QUERY_MARK.0) == Some(&QUERY_MARK.1);
        if is_query && self.announcements.borrow().is_none() {
            return;
        }
        let keyring = self.keyring();
        let way = Way { from: received.from, to: socket.own };
        let datagram = match keyring.decode(bytes, way) {
            Ok(datagram) => datagram,
            Err(reason) => {
                if reason == OTHER_GROUP {
                    self.note_other_group(received.from, socket);
                }
                return self.drop_for(reason);
            }
        };
        self.directory.telemetry().discovery.other_groups.forget(net::plain(received.from).ip());
        let (sender, is_own) = (datagram.sender(), datagram.sender() == self.options.id);
        match datagram {
            Received::Signed(unverified) if is_own => self.hear_own(&keyring, *unverified).await,
            Received::Signed(unverified) => self.hear(&keyring, *unverified, received.from, socket).await,
            Received::Unsigned(_) if is_own => {}
            Received::Unsigned(_) if keyring.group.update.revokes(sender) => {
                self.drop_for(Refusal::Revoked.word());
            }
            Received::Unsigned(Datagram { epoch, message: Message::Query { nonce }, .. }) => {
                self.answer(&keyring, epoch, nonce, received.from, unicast, socket).await;
            }
            Received::Unsigned(_) => {}
        }
    }

    /// Handles an offer or a beacon.
    async fn hear(&self, keyring: &Keyring, unverified: Unverified, from: SocketAddr, socket: &LanSocket) {
        let (now, sender, nonce) = (Instant::now(), unverified.sender(), unverified.answers());
        let counts = &self.directory.telemetry().discovery;
        let asked = match nonce {
            Some(nonce) => match locked(&self.queries).open(&nonce, sender, from) {
                Some(sent) => Some(sent),
                None => return self.drop_for("unasked"),
            },
            None => None,
        };
        let arrival = Arrival { from, asked, now };
        let verified = {
            let mut verifier = locked(&self.verifier);
            let before = verifier.signatures();
            let verified = verifier.verify(unverified, keyring, arrival);
            counts.signatures.many(verifier.signatures() - before);
            verified
        };
        let verified = match verified {
            Ok(verified) => verified,
            Err(refusal) => return self.refuse(refusal, sender, from, socket).await,
        };
        let names = &self.directory.telemetry().names;
        verified.name.text().into_iter().for_each(|name| names.learn_announced(sender, name));
        if verified.went_back {
            limited!(
                info,
                sender,
                gateway = names.of(sender),
                "the gateway's runs are counted anew: its state directory is older"
            );
            self.directory.went_back(sender);
        }
        let epoch = verified.datagram.epoch;
        match verified.datagram.message {
            Message::Offer { nonce, advert, .. } => {
                counts.offers_heard.one();
                if locked(&self.queries).answered(&nonce, sender, from)
                    && let Some(asked) = asked
                {
                    let link = link_address(from, advert.link_port);
                    self.note_lag(keyring, sender, epoch, link);
                    tracing::debug!(gateway = names.of(sender), address = %link, "offer received");
                    self.directory.offered(sender, link, advert, now.saturating_duration_since(asked), now);
                }
            }
            Message::Beacon { sequence, advert } => {
                counts.beacons_heard.one();
                let link = link_address(from, advert.link_port);
                self.note_lag(keyring, sender, epoch, link);
                let is_candidate = self.announcements.borrow().is_some();
                if !verified.is_confirmed && needs_confirmation(&advert, is_candidate) {
                    self.drop_for("unconfirmed");
                    return self.ask(sender, Duration::ZERO, from, socket).await;
                }
                self.directory.beaconed(sender, link, advert, (sequence.boot, sequence.counter), now);
            }
            _ => {}
        }
    }

    /// Handles an offer or a beacon with this node's own id. Nearly all are echoes of its own broadcasts.
    async fn hear_own(&self, keyring: &Keyring, unverified: Unverified) {
        let (boot, own) = (unverified.sequence().boot, &self.options.boot);
        if boot <= own.number() {
            return;
        }
        if !RISES.take(&mut locked(&self.bounds).rises, Instant::now()) {
            return self.drop_for(Refusal::Limited.word());
        }
        let Ok(stated) = laneway_trust::statement::Statement::read(keyring.group.signer.statement()) else {
            return;
        };
        if unverified.verify(&stated.public_key).is_err() {
            return self.drop_for(Refusal::Signature.word());
        }
        tracing::warn!(
            boot,
            "a later run of this node was heard: its state directory was restored, or another machine uses a copy of it"
        );
        let own = own.clone();
        drop(blocking::run_with_state(move || own.rise_above(boot)).await);
    }

    /// Counts a refused announcement, and reports an offence. A gateway that seems to repeat itself after a silence may
    /// have started again with a smaller number: it is asked.
    async fn refuse(&self, refusal: Refusal, sender: NodeId, from: SocketAddr, socket: &LanSocket) {
        self.drop_for(refusal.word());
        if matches!(refusal, Refusal::OldRun | Refusal::Replayed) {
            self.ask(sender, SILENCE, from, socket).await;
        }
        if refusal.is_offence() && REPORTS.take(&mut locked(&self.bounds).reports, Instant::now()) {
            let (node, reason) = (self.directory.telemetry().names.of(sender), refusal.word());
            tracing::warn!(node, id = %sender.short(), %from, reason, "announcement refused: only a member of the group can have sent it");
            let text = format!("an announcement from {from} was refused: {reason}");
            self.directory.telemetry().note(Happening::Refused, node, text);
        }
    }

    /// Asks the sender of a beacon for an offer, which proves that the beacon is of its current run.
    async fn ask(&self, sender: NodeId, silent_for: Duration, from: SocketAddr, socket: &LanSocket) {
        let now = Instant::now();
        if !locked(&self.verifier).may_ask(sender, silent_for, now)
            || !ASKS.take(&mut locked(&self.bounds).asks, now)
        {
            return;
        }
        let Some(nonce) = locked(&self.queries).begin(now) else { return };
        self.send(socket, Message::Query { nonce }, from).await;
    }

    /// Answers a query.
    async fn answer(
        &self,
        keyring: &Keyring,
        epoch: u64,
        nonce: [u8; 16],
        from: SocketAddr,
        unicast: bool,
        socket: &LanSocket,
    ) {
        self.directory.telemetry().discovery.queries_heard.one();
        let announcement = self.announcements.borrow().clone();
        if let Some(Announcement { advert, answers_one_in, .. }) = announcement
            && (unicast || number(&nonce).is_multiple_of(answers_one_in))
        {
            if !locked(&self.limits).admit_member(from, Instant::now()) {
                return self.drop_for("limited");
            }
            tracing::debug!(client = %from, epoch, "query answered");
            let offer = Message::Offer { nonce, sequence: self.sequence(), advert };
            // In the query's epoch: a node that missed an update has no later key.
            self.send_in(keyring, epoch, socket, offer, from).await;
        }
    }

    /// Reports a gateway whose datagrams show that it missed a group update, so that the update is sent to it.
    fn note_lag(&self, keyring: &Keyring, sender: NodeId, epoch: u64, link: SocketAddr) {
        if epoch < keyring.group.update.epoch()
            && let Some(behind) = &self.options.behind
        {
            // If the channel is full, its next datagram reports it.
            let _ = behind.try_send((sender, link));
        }
    }

    /// Answers a joiner that knows the invite's secret.
    async fn answer_join(&self, bytes: &[u8], invite: [u8; 8], from: SocketAddr, socket: &LanSocket) {
        let Some((responder, link_port)) = &self.options.joins else { return };
        let (group, now) = (self.options.membership.group(), Instant::now());
        let Some(keys) = responder.keys(&invite, now) else { return };
        let query = Datagram::decode(bytes, group.id, &keys, Way { from, to: socket.own });
        let Ok(Received::Unsigned(Datagram { message: Message::JoinQuery { nonce, .. }, .. })) = query else {
            return;
        };
        // Checked after the verification, so that strangers cannot use up the limit.
        if !locked(&self.limits).admit_joiner(from, now) {
            return;
        }
        let offer = Datagram {
            group: group.id,
            epoch: group.update.epoch(),
            sender: self.options.id,
            message: Message::JoinOffer { nonce, link_port: *link_port },
        };
        let offer = offer.encode(&keys, Way { from: socket.own, to: from }, None);
        if let Err(error) = socket.send(&offer, from).await {
            tracing::debug!(to = %from, %error, "join offer not sent");
        }
    }

    /// Notes a machine of another group, and logs it once.
    fn note_other_group(&self, from: SocketAddr, socket: &LanSocket) {
        let ip = net::plain(from).ip();
        let others = &self.directory.telemetry().discovery.other_groups;
        if ip != net::plain(socket.own).ip() && others.note(ip, Instant::now()) {
            tracing::info!(%from, "another group is on this LAN: its machines are ignored, and 'laneway status' shows them");
        }
    }

    /// Counts a datagram that is dropped.
    fn drop_for(&self, reason: &'static str) {
        self.directory.telemetry().discovery.dropped.one(reason);
    }
}

/// Whether an announcement would do harm if its run were over, so that its sender is asked first. To a client, that is one
/// by which a gateway does not serve; that a gateway serves is proved by its link. To a candidate, it is also one of a
/// gateway to which it would leave the role: one that has it, or is in line for it, and so beacons often. Of the many
/// others, mostly never asked, only those count that bring their uplink up, because others wait for them.
fn needs_confirmation(advert: &Advert, is_candidate: bool) -> bool {
    let is_in_line = advert.standing.interval <= MAX_LEADING_INTERVAL_MILLIS;
    match advert.state {
        State::Draining | State::Withdrawn => true,
        State::Active => is_candidate,
        State::Standby => is_candidate && (is_in_line || advert.reach == Reach::Unreachable),
    }
}

/// A number that differs for each query. A retransmission has a new nonce, so that other nodes answer it.
fn number(nonce: &[u8; 16]) -> u32 {
    u32::from_be_bytes([nonce[0], nonce[1], nonce[2], nonce[3]])
}
