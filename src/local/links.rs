//! Keeps this node linked: to the best gateway, and to the next one as a warm standby. One task dials, as `dialing.rs`
//! decides; all connections use the links that are up.

mod trouble;
mod unheard;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::select_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::sleep_until;
use tokio_util::task::TaskTracker;

use super::attempts::{self, Attempt, Attempts, Cause, Lost};
use super::clock_jumps;
use super::dialing::{self, Dialing, KnownGateway, Situation, Step, UpLink};
use super::outcomes::Outcomes;
use super::pauses::Fault;
use crate::failure::with_causes;
use crate::limited;
use crate::limits::lines::NOBODY;
use crate::link::alive::LinkState;
use crate::link::client::{DialError, Link};
use crate::link::tls::{Credentials, PeerIdentity};
use crate::link::updates;
use crate::own_addresses::OwnAddresses;
use crate::peers::directory::{Directory, Gateway};
use crate::telemetry::journal::Happening;
use crate::wire::datagram::{Reach, State};
use crate::wire::id::NodeId;
use crate::wire::sharing::Offer;

/// Maximum number of gateways without a way out that are remembered.
const MAX_WITHOUT_WAY_OUT: usize = 1024;
/// How long gateways are linked although this node is one itself, after its own way out gave no answer.
const BESIDE: Duration = Duration::from_secs(30);

/// What a gateway has said on its link of why it takes no connections.
struct Said {
    address: SocketAddr,
    why: String,
    at: Instant,
}

/// Called with a gateway's address when a link to it is up, to remember it.
pub type Remember = dyn Fn(SocketAddr) + Send + Sync;

/// The links of this node as a client.
// fields: what it is made with, and what the dialling task and all connections note
pub struct Links {
    own: NodeId,
    directory: Arc<Directory>,
    credentials: Arc<Credentials>,
    tasks: TaskTracker,
    remember: Box<Remember>,
    up: watch::Sender<Vec<Link>>,
    dialing: Mutex<Dialing>,
    /// What connections met through each gateway.
    pub(super) outcomes: Outcomes,
    /// The dials that failed since the last link came up, and the link that was lost.
    attempts: Mutex<Attempts>,
    /// The gateways that have no way out, or are in maintenance, with what each one said. They are dialled again and again, and
    /// nothing of that is news.
    without_way_out: Mutex<BTreeMap<NodeId, Said>>,
    /// Until when links are wanted although this node is a gateway.
    beside: watch::Sender<Option<Instant>>,
    machine: Arc<OwnAddresses>,
    /// What this node offers its gateways: to take bodies in pieces.
    offer: Option<Offer>,
}

impl Links {
    /// The links of the node `own` on this `machine`, to gateways in `directory`, authenticated by `credentials`.
    pub fn new(
        own: NodeId,
        directory: Arc<Directory>,
        credentials: Arc<Credentials>,
        tasks: TaskTracker,
        remember: Box<Remember>,
        (machine, offer): (Arc<OwnAddresses>, Option<Offer>),
    ) -> Arc<Self> {
        Arc::new(Self {
            own,
            outcomes: Outcomes::new(directory.clone()),
            directory,
            credentials,
            tasks,
            remember,
            up: watch::Sender::new(Vec::new()),
            dialing: Mutex::new(Dialing::new(own, Instant::now())),
            attempts: Mutex::default(),
            without_way_out: Mutex::default(),
            beside: watch::Sender::new(None),
            machine,
            offer,
        })
    }

    /// The links that are up, the one to use first in front, and their changes.
    pub fn up(&self) -> watch::Receiver<Vec<Link>> {
        self.up.subscribe()
    }

    /// The link with this state.
    pub(super) fn with_state(&self, state: &Arc<LinkState>) -> Option<Link> {
        self.up.borrow().iter().find(|link| Arc::ptr_eq(&link.state, state)).cloned()
    }

    /// Whether there is another gateway than `gateway`, with a link or without.
    pub(super) fn has_others(&self, gateway: NodeId) -> bool {
        let now = Instant::now();
        let is_offered = |other: &Gateway| {
            let is_other = other.id.is_some_and(|id| id != gateway && id != self.own);
            is_other
                && other.state(now).is_some_and(|state| !matches!(state, State::Draining | State::Withdrawn))
        };
        self.up.borrow().iter().any(|link| link.gateway.id != gateway)
            || self.directory.ranked(now).iter().any(is_offered)
    }

    /// Has more gateways linked for a while, over all of which a large download comes.
    pub(super) fn want_more(&self) {
        if locked(&self.dialing).want_more(Instant::now()) {
            self.directory.look_again();
        }
    }

    /// Whether there is a gateway besides this node.
    pub(super) fn has_any(&self) -> bool {
        self.has_others(self.own)
    }

    /// Has gateways linked for a while although this node is one itself: its own way out gives no answer.
    pub(super) fn want_beside(&self) {
        self.beside.send_replace(Some(Instant::now() + BESIDE));
    }

    /// Whether this node was removed from the group: no gateway will ever accept it.
    pub(super) fn is_removed(&self) -> bool {
        self.credentials.membership.is_removed()
    }

    /// Whether a node was removed from the group.
    pub fn is_revoked(&self, id: NodeId) -> bool {
        self.credentials.membership.revokes(id)
    }

    /// How long a gateway is still left alone after it has failed.
    pub fn paused_for(&self, gateway: &Gateway, now: Instant) -> Option<Duration> {
        let until = locked(&self.dialing).paused_until(&KnownGateway::of(gateway, now), now)?;
        Some(until.saturating_duration_since(now))
    }

    /// Whether the last dial of this address found that it accepts no links, and none has come up since.
    pub fn found_no_gateway(&self, address: SocketAddr) -> bool {
        locked(&self.attempts).found_no_gateway(address)
    }

    /// Notes that the gateway at `address` never answered a request to connect, although it answers pings. A gateway that
    /// works gives up in less time and says so. The more requests it leaves unanswered, the longer it is ranked behind others.
    pub(super) fn left_unanswered(&self, address: SocketAddr) {
        self.directory.suspect(address, Instant::now());
    }

    /// Notes that a connection got out through this gateway.
    pub(super) fn has_way_out(&self, gateway: &PeerIdentity) {
        if locked(&self.without_way_out).remove(&gateway.id).is_some() {
            limited!(info, gateway.id, gateway = &*gateway.name, "the gateway has a way out again");
        }
    }

    /// Whether nothing has changed since this gateway was dialled last, in vain.
    fn is_tried_again(&self, gateway: &KnownGateway) -> bool {
        gateway.id.is_some_and(|id| self.is_without_way_out(id))
            || locked(&self.attempts).knows(gateway.address)
    }

    /// Whether this gateway, at `address`, has said that it does not reach the outside any more.
    pub(super) fn has_lost_way_out(&self, id: NodeId, address: SocketAddr) -> bool {
        let now = Instant::now();
        let says_so = |gateway: Gateway| {
            let reach = gateway.advert.as_ref().map(|advert| advert.reach);
            gateway.id == Some(id)
                && gateway.state(now) == Some(State::Withdrawn)
                && reach == Some(Reach::Unreachable)
        };
        self.is_without_way_out(id) || self.directory.at(address).is_some_and(says_so)
    }

    fn is_without_way_out(&self, id: NodeId) -> bool {
        locked(&self.without_way_out).contains_key(&id)
    }

    /// After this machine has slept, or its clock was set, the network may be another one: every link must prove at once
    /// that its gateway is alive, and no gateway is paused any more.
    pub async fn watch_clock(self: Arc<Self>) {
        clock_jumps::watch(|| {
            tracing::info!("the clock jumped: every link is proved again");
            self.up.borrow().iter().for_each(|link| link.state.want_proof());
            locked(&self.dialing).forget_pauses();
        })
        .await;
    }

    /// Dials, orders and replaces links while `needed` is true; ends when its sender is dropped.
    pub async fn run(self: Arc<Self>, mut needed: watch::Receiver<bool>) {
        let mut beside = self.beside.subscribe();
        loop {
            let is_now = |until: &Option<Instant>| until.is_some_and(|until| Instant::now() < until);
            tokio::select! {
                biased;
                needed = needed.wait_for(|needed| *needed) => if needed.is_err() { return },
                Ok(_) = beside.wait_for(is_now) => {}
            }
            tokio::select! {
                () = self.keep_linked() => {}
                () = self.ask_unheard() => {}
                () = until_unneeded(&mut needed, &mut beside) => {}
            }
            self.directory.want(false);
            self.up.send_replace(Vec::new()).iter().for_each(Link::retire);
        }
    }

    async fn keep_linked(&self) {
        let mut changes = self.directory.changes();
        let mut dials = FuturesUnordered::new();
        let mut suspects: Vec<SocketAddr> = Vec::new();
        locked(&self.dialing).begin(Instant::now());
        locked(&self.attempts).forget_lost();
        loop {
            self.report_suspects(&mut suspects);
            changes.borrow_and_update();
            let now = Instant::now();
            let ranked = self.ranked(now);
            let links = self.order(&ranked, now);
            let wake = match self.next_step(&ranked, &links, now) {
                Step::Dial(gateway) => {
                    if links.is_empty() && !self.is_tried_again(&gateway) {
                        let name = self.called(&gateway);
                        let state = gateway.state.map_or("not heard", State::word);
                        limited!(info, gateway.id, gateway = name, address = %gateway.address, state, "gateway chosen");
                    }
                    dials.push(self.dial(gateway));
                    continue;
                }
                Step::WaitUntil(wake) => wake,
            };
            let lost = async {
                match links.is_empty() {
                    true => std::future::pending().await,
                    false => drop(select_all(links.iter().map(|link| Box::pin(link.changed()))).await),
                }
            };
            tokio::select! {
                Some(link) = dials.next(), if !dials.is_empty() => link.into_iter().for_each(|link| self.add(link)),
                Ok(()) = changes.changed() => {}
                () = lost => {}
                () = sleep_until(wake.into()) => {}
            }
        }
    }

    /// The known gateways in the order in which they are dialled.
    fn ranked(&self, now: Instant) -> Vec<KnownGateway> {
        self.directory.forget(&|id| self.is_revoked(id));
        let known = self.directory.ranked(now);
        let mut known: Vec<_> = known.iter().map(|gateway| KnownGateway::of(gateway, now)).collect();
        dialing::link_local_last(&mut known);
        dialing::near_first(&mut known, &|ip| self.machine.shares_network_with(ip));
        dialing::doubted_last(&mut known, &|id| self.outcomes.doubts(id));
        dialing::leaving_last(&mut known, &|id| self.is_without_way_out(id));
        known
    }

    /// What logs call a gateway.
    fn called(&self, gateway: &KnownGateway) -> String {
        gateway.id.map_or_else(|| "unknown".into(), |id| self.directory.telemetry().names.of(id))
    }

    /// Decides what to do next, and whether discovery searches the LAN meanwhile.
    fn next_step(&self, ranked: &[KnownGateway], links: &[Link], now: Instant) -> Step {
        let links: Vec<_> = links.iter().map(up_link).collect();
        let is_revoked = &|id| self.credentials.membership.revokes(id);
        let situation = Situation { ranked, links: &links, is_revoked, now };
        let mut dialing = locked(&self.dialing);
        dialing.aim(links.iter().filter(|link| self.outcomes.doubts(link.gateway)).count(), now);
        self.directory.want(dialing.needs_search(&situation));
        dialing.next(&situation)
    }

    /// Reports to the directory which gateways have become suspect, and which have proved to be alive.
    fn report_suspects(&self, suspects: &mut Vec<SocketAddr>) {
        for link in self.up.borrow().iter() {
            let known = suspects.contains(&link.address);
            if !link.is_suspect() {
                suspects.retain(|address| *address != link.address);
                self.directory.proved(link.address, Instant::now());
            } else if !known {
                suspects.push(link.address);
                let (id, gateway) = (link.gateway.id, &*link.gateway.name);
                limited!(info, id, gateway, address = %link.address, "gateway suspect");
                let text = format!("a ping is unanswered ({})", link.address);
                self.directory.telemetry().note_about(id, Happening::Suspect, gateway, text);
                self.directory.suspect(link.address, Instant::now());
            }
        }
    }

    /// Removes links that cannot be used any more, sorts the others by the ranking, and retires those that are too many.
    /// A retired link keeps its open tunnels.
    fn order(&self, ranked: &[KnownGateway], now: Instant) -> Vec<Link> {
        let place = |link: &Link| dialing::place(up_link(link), ranked);
        self.up.send_if_modified(|links| {
            let before: Vec<_> = links.iter().map(|link| link.address).collect();
            links.extract_if(.., |link| !link.is_usable()).for_each(|lost| self.note_lost(&lost));
            links.sort_by_key(place);
            let places: Vec<_> = links.iter().map(place).collect();
            let doubted = links.iter().filter(|link| self.outcomes.doubts(link.gateway.id)).count();
            let wanted = locked(&self.dialing).aim(doubted, now);
            links.drain(dialing::kept(&places, wanted)..).for_each(|left| left.retire());
            if let (Some(first), Some(old)) = (links.first(), before.first())
                && first.address != *old
                && !self.is_without_way_out(first.gateway.id)
            {
                let (id, gateway) = (first.gateway.id, &*first.gateway.name);
                limited!(info, id, gateway, address = %first.address, "gateway in use");
                let text = format!("connections go over this gateway ({})", first.address);
                self.directory.telemetry().note_about(id, Happening::InUse, gateway, text);
            }
            links.iter().map(|link| link.address).ne(before)
        });
        self.up.borrow().clone()
    }

    fn note_lost(&self, link: &Link) {
        if self.is_without_way_out(link.gateway.id) {
            return;
        }
        let reason = link.end().unwrap_or("it takes no new connections");
        let text = format!("the link to {} is out of use: {reason}", link.address);
        let (id, gateway) = (link.gateway.id, &*link.gateway.name);
        let (name, reason, at) = (gateway.to_owned(), reason.to_owned(), Instant::now());
        locked(&self.attempts).note_lost(Lost { gateway: name, reason, at });
        self.directory.telemetry().note_about(id, Happening::LinkLost, gateway, text);
    }

    /// Adds a new link, unless its gateway has one already or is this node itself.
    fn add(&self, link: Link) {
        let same = |other: &Link| other.gateway.id == link.gateway.id;
        let is_linked = self.up.borrow().iter().any(|other| same(other) && !other.state.is_exhausted());
        if link.gateway.id == self.own || is_linked {
            return link.retire();
        }
        let standby = !self.up.borrow().is_empty();
        let what = if standby { "standby link up" } else { "link up" };
        let (id, gateway) = (link.gateway.id, &*link.gateway.name);
        if self.is_without_way_out(id) {
            tracing::debug!(gateway, address = %link.address, "{what} again");
        } else {
            limited!(info, (id, standby), gateway, id = %id.short(), address = %link.address, "{what}");
            let text = format!("{what} ({})", link.address);
            self.directory.telemetry().note_about(id, Happening::LinkUp, gateway, text);
        }
        // One that takes no connections says nothing about the others.
        match self.is_without_way_out(id) {
            true => locked(&self.attempts).forget(id),
            false => locked(&self.attempts).clear(),
        }
        (self.remember)(link.address);
        self.tasks.spawn(updates::follow(link.clone(), self.credentials.membership.clone()));
        self.up.send_modify(|links| {
            // The exhausted link that it replaces; the tunnels of that one go on until they end.
            links.extract_if(.., |old| old.gateway.id == link.gateway.id).for_each(|old| old.retire());
            links.push(link);
        });
    }

    /// Dials a gateway, and notes the outcome.
    async fn dial(&self, gateway: KnownGateway) -> Option<Link> {
        let address = gateway.address;
        let config = match self.credentials.client() {
            Ok(config) => config,
            Err(error) => {
                limited!(error, NOBODY, error = with_causes(&error), "links cannot be dialled");
                let fault = Fault { distrust: true, silent: true, ..Fault::default() };
                locked(&self.dialing).failed(address, fault, Instant::now());
                return None;
            }
        };
        let membership = self.credentials.membership.clone();
        let segments = locked(&self.dialing).segments(address);
        match Link::dial_with(address, gateway.id, segments, config, membership, &self.tasks).await {
            Ok(mut link) => {
                link.offer = self.offer;
                locked(&self.dialing).succeeded(address, link.gateway.id, Instant::now());
                self.directory.telemetry().names.learn(link.gateway.id, &link.gateway.name);
                Some(link)
            }
            Err(error) => {
                self.note_failure(&gateway, error);
                None
            }
        }
    }

    /// Retires a link whose gateway says `why` it cannot reach the outside, and leaves that gateway alone for a moment.
    pub(super) fn leave_alone(&self, link: &Link, why: &str) {
        self.note_said(link, why);
        link.retire();
        locked(&self.dialing).failed(link.address, Fault::default(), Instant::now());
    }

    /// Notes `why` the gateway of a link says that it takes no connections.
    fn note_said(&self, link: &Link, why: &str) {
        let (gateway, mut without) = (&link.gateway, locked(&self.without_way_out));
        if without.len() >= MAX_WITHOUT_WAY_OUT {
            without.clear();
        }
        let said = Said { address: link.address, why: why.to_owned(), at: Instant::now() };
        if without.insert(gateway.id, said).is_none() {
            limited!(
                info,
                gateway.id,
                gateway = &*gateway.name,
                reason = why,
                "the gateway takes no connections: they wait for another"
            );
            let text = format!("it takes no connections ({}): {why}", link.address);
            self.directory.telemetry().note_about(gateway.id, Happening::LinkLost, &gateway.name, text);
        }
    }

    fn note_failure(&self, gateway: &KnownGateway, error: DialError) {
        let (address, now) = (gateway.address, Instant::now());
        let is_heard = self.directory.at(address).is_some_and(|gateway| gateway.state(now).is_some());
        let fault = Fault {
            distrust: is_distrust(&error),
            unanswered: matches!(error, DialError::Late(_)),
            silent: !is_heard,
            expected: gateway.announced.or(gateway.id),
        };
        let reason = with_causes(&error);
        let telemetry = self.directory.telemetry();
        let name = gateway.id.and_then(|id| telemetry.names.known(id));
        if locked(&self.dialing).failed(address, fault, now) == 1 {
            let who = self.called(gateway);
            // Somebody named it, so somebody can correct it.
            match gateway.is_static && gateway.id.is_none() {
                true => {
                    limited!(warn, address, %address, reason, "no link to a gateway that --gateway names")
                }
                // Unknown ones share a limit: a gateway may name many addresses.
                false => limited!(info, gateway.id, gateway = who, %address, reason, "no link"),
            }
            let text = format!("no link: {reason}");
            telemetry.note_about(gateway.id, Happening::Refused, name.as_deref().unwrap_or_default(), text);
        } else {
            tracing::debug!(%address, reason, "no link again");
        }
        let sentence = attempts::in_words(name.as_deref(), &error, &reason);
        // What it said over its last link is out of date.
        locked(&self.without_way_out).retain(|_, last| last.address != address);
        locked(&self.attempts).add(Attempt {
            address,
            gateway: gateway.id,
            cause: Cause::of(&error),
            is_expected: is_heard || gateway.was_heard || gateway.is_static,
            sentence,
            at: now,
        });
    }
}

/// Whether the gateway does not trust this node, or this node does not trust it.
fn is_distrust(error: &DialError) -> bool {
    match error {
        DialError::Trust(..)
        | DialError::Certificate(..)
        | DialError::Refused(..)
        | DialError::Removed(..)
        | DialError::Unproved(..)
        | DialError::Left(..)
        | DialError::Protocol(..) => true,
        DialError::Late(..) | DialError::Connect(..) | DialError::Cut(..) | DialError::NotAGateway(..) => {
            false
        }
    }
}

/// Waits until links are neither needed nor wanted beside this node's own way out.
async fn until_unneeded(needed: &mut watch::Receiver<bool>, beside: &mut watch::Receiver<Option<Instant>>) {
    loop {
        if needed.wait_for(|needed| !needed).await.is_err() {
            return;
        }
        let until = beside.borrow_and_update().filter(|until| Instant::now() < *until);
        let Some(until) = until else { return };
        tokio::select! {
            () = sleep_until(until.into()) => {}
            Ok(()) = beside.changed() => {}
            Ok(()) = needed.changed() => {}
        }
    }
}

fn up_link(link: &Link) -> UpLink {
    UpLink { address: link.address, gateway: link.gateway.id, is_exhausted: link.state.is_exhausted() }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
