//! Which gateway is dialled next, and when. Pure: no locks, no I/O and no clock; what is known and the time go in, a
//! gateway to dial or a time to wait for comes out.
//!
//! Aims at [`LINKS`] links to different gateways: the best one, and a warm standby. Without any link, active
//! gateways and those that the user named are dialled at once, others after a moment in which an active one may still
//! be heard; a dial that hangs is hedged by another one beside it. With a link, one gateway is dialled at a time.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::pauses::{Fault, Pauses};
use crate::net::Segments;
use crate::peers::directory::{Gateway, Source};
use crate::wire::datagram::State;
use crate::wire::id::NodeId;

/// Number of links: the one in use, and the standby.
const LINKS: usize = 2;
/// Maximum number of links. Each linked gateway in doubt adds one, so that two gateways that carry nothing do not keep a client
/// from all others; once as many are in doubt, others come first ([`doubted_last`]). A large download uses as many as there are.
const MAX_LINKS: usize = 6;
/// How long more links are kept after a large download has asked for them.
const MORE: Duration = Duration::from_secs(60);
/// Maximum number of dials under way. More than [`LINKS`], so that a better gateway that is found while dials hang
/// need not wait for them.
const MAX_DIALS: usize = 4;
/// How long to wait for an active gateway before a standby is dialled.
const ACTIVE_WINDOW: Duration = Duration::from_millis(150);
/// How long a dial may take before the next gateway is dialled beside it.
const HEDGE_DELAY: Duration = Duration::from_millis(250);
/// Maximum number of addresses whose gateway is remembered.
const MAX_IDENTITIES: usize = 1024;
/// How long a gateway's proof at an address holds although only another one is heard there. A member that sends from another's
/// address costs one dial in this time.
const PROOF: Duration = Duration::from_secs(60);
/// Maximum time between two decisions, whatever there is to wait for.
const RECHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The facts about a known gateway that dialling depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KnownGateway {
    /// Its id; `None` for an address that has only been named.
    pub(super) id: Option<NodeId>,
    /// The only gateway that was heard lately at the address, by its own word.
    pub(super) announced: Option<NodeId>,
    /// The address at which it accepts links.
    pub(super) address: SocketAddr,
    /// The state that it announced lately.
    pub(super) state: Option<State>,
    /// It has announced itself at some time.
    pub(super) was_heard: bool,
    /// The user named it.
    pub(super) is_static: bool,
    /// It left a link unanswered lately.
    pub(super) is_suspect: bool,
}

/// The facts about an open link that dialling depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UpLink {
    /// The address at which its gateway accepts links.
    pub(super) address: SocketAddr,
    /// Its gateway.
    pub(super) gateway: NodeId,
    /// It must be replaced by another link to the same gateway before its stream ids run out.
    pub(super) is_exhausted: bool,
}

/// What a decision is based on.
pub(super) struct Situation<'a> {
    /// The known gateways, best first.
    pub(super) ranked: &'a [KnownGateway],
    /// The links that are up.
    pub(super) links: &'a [UpLink],
    /// Whether a node has been removed from the group.
    pub(super) is_revoked: &'a dyn Fn(NodeId) -> bool,
    /// The time of the decision.
    pub(super) now: Instant,
}

impl Situation<'_> {
    /// Whether there is a link to a gateway that is not leaving.
    fn is_served(&self) -> bool {
        let is_leaving = |link: &UpLink| {
            self.ranked.iter().any(|gateway| gateway.id == Some(link.gateway) && gateway.is_leaving())
        };
        !self.links.iter().all(is_leaving)
    }
}

/// A decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Dial this gateway now. Its end is reported by [`Dialing::succeeded`] or [`Dialing::failed`].
    Dial(KnownGateway),
    /// Decide again at this time, or when something has changed.
    WaitUntil(Instant),
}

/// What is to become of one gateway.
enum Verdict {
    /// It is not to be dialled.
    Skip,
    /// It has a link, or is being dialled.
    HasPlace,
    /// It has failed and is left alone until then.
    PausedUntil(Instant),
    /// It is to be dialled then.
    DueAt(Instant),
}

/// The state of dialling.
pub(super) struct Dialing {
    own: NodeId,
    pauses: Pauses,
    /// The gateways that have answered at an address, and when; one gateway may have several addresses.
    identities: HashMap<SocketAddr, (NodeId, Instant)>,
    /// The addresses that are being dialled.
    under_way: Vec<SocketAddr>,
    /// When the last link was lost, or the search began.
    alone_since: Instant,
    last_dial: Instant,
    /// The number of links to aim at.
    wanted: usize,
    /// Until when as many links are wanted as there may be.
    more_until: Option<Instant>,
}

impl KnownGateway {
    /// The facts about `gateway` at the time `now`.
    pub(super) fn of(gateway: &Gateway, now: Instant) -> Self {
        Self {
            id: gateway.id,
            announced: gateway.announced,
            address: gateway.link,
            state: gateway.state(now),
            was_heard: gateway.heard.is_some(),
            is_static: gateway.source == Source::Static,
            is_suspect: gateway.suspect_until(now).is_some(),
        }
    }

    /// It has announced that it is about to stop, or that it cannot reach the server.
    fn is_leaving(&self) -> bool {
        matches!(self.state, Some(State::Draining | State::Withdrawn))
    }

    fn is_active(&self) -> bool {
        self.state == Some(State::Active)
    }
}

impl Dialing {
    /// Dialling for the node `own`, which is never dialled.
    pub(super) fn new(own: NodeId, now: Instant) -> Self {
        Self {
            own,
            pauses: Pauses::default(),
            identities: HashMap::new(),
            under_way: Vec::new(),
            alone_since: now,
            last_dial: now,
            wanted: LINKS,
            more_until: None,
        }
    }

    /// Sets and returns the number of links to aim at while `doubted` of the linked gateways are in doubt.
    pub(super) fn aim(&mut self, doubted: usize, now: Instant) -> usize {
        self.more_until = self.more_until.filter(|until| now < *until);
        self.wanted = if self.more_until.is_some() { MAX_LINKS } else { (LINKS + doubted).min(MAX_LINKS) };
        self.wanted
    }

    /// Aims at as many links as there may be, for a while: a large download comes over all of them. Returns whether that is new.
    pub(super) fn want_more(&mut self, now: Instant) -> bool {
        let is_new = self.more_until.is_none_or(|until| now >= until);
        self.more_until = Some(now + MORE);
        is_new
    }

    /// Begins a search. Dials of an earlier one have been dropped.
    pub(super) fn begin(&mut self, now: Instant) {
        self.under_way.clear();
        (self.alone_since, self.last_dial) = (now, now);
    }

    /// The next step. A gateway to dial counts as being dialled from now on.
    pub(super) fn next(&mut self, situation: &Situation<'_>) -> Step {
        let now = situation.now;
        self.forget_replaced(situation);
        if !situation.links.is_empty() {
            self.alone_since = now;
        }
        let mut wake = now + RECHECK_INTERVAL;
        if self.under_way.len() >= MAX_DIALS {
            return Step::WaitUntil(wake);
        }
        let mut places = self.wanted;
        for gateway in self.in_order(situation) {
            if places == 0 {
                break;
            }
            match self.judge(gateway, situation) {
                Verdict::Skip => {}
                Verdict::HasPlace => places -= 1,
                Verdict::PausedUntil(until) => wake = wake.min(until),
                Verdict::DueAt(due) if due <= now => {
                    self.under_way.push(gateway.address);
                    self.last_dial = now;
                    return Step::Dial(gateway.clone());
                }
                Verdict::DueAt(due) => return Step::WaitUntil(wake.min(due)),
            }
        }
        Step::WaitUntil(wake)
    }

    /// Forgets who has answered at an address where another gateway may be now: the one that answered is no longer a member, or
    /// only another one has been heard there since.
    fn forget_replaced(&mut self, situation: &Situation<'_>) {
        self.identities.retain(|_, (id, _)| !(situation.is_revoked)(*id));
        for gateway in situation.ranked {
            let Some(announced) = gateway.announced else { continue };
            let proved = self.identities.get(&gateway.address);
            if proved.is_some_and(|(id, at)| *id != announced && situation.now >= *at + PROOF) {
                self.identities.remove(&gateway.address);
            }
        }
    }

    /// The gateways in the order in which they are tried. A gateway takes one place, however many addresses it has: its
    /// other addresses come last, and only while there is no link.
    fn in_order<'a>(&self, situation: &Situation<'a>) -> Vec<&'a KnownGateway> {
        let ranked = situation.ranked;
        let dialled = ranked.iter().filter(|gateway| self.is_under_way(gateway));
        let mut placed: Vec<_> = dialled.filter_map(|gateway| self.identity(gateway)).collect();
        let (mut first, mut others) = (Vec::new(), Vec::new());
        for gateway in ranked {
            let id = self.identity(gateway);
            if !self.is_under_way(gateway) && id.is_some_and(|id| placed.contains(&id)) {
                others.push(gateway);
                continue;
            }
            first.push(gateway);
            let is_linked = self.is_linked(gateway, situation.links, false);
            if is_linked || self.paused_until(gateway, situation.now).is_none() {
                placed.extend(id);
            }
        }
        if situation.links.is_empty() {
            first.append(&mut others);
        }
        first
    }

    fn judge(&self, gateway: &KnownGateway, situation: &Situation<'_>) -> Verdict {
        let (links, now) = (situation.links, situation.now);
        if self.identity(gateway).is_some_and(|id| id == self.own || (situation.is_revoked)(id)) {
            return Verdict::Skip;
        }
        if self.is_linked(gateway, links, false) || self.is_under_way(gateway) {
            return Verdict::HasPlace;
        }
        // An exhausted link is replaced by another one to the same gateway, also while that is leaving.
        let replaces = self.is_linked(gateway, links, true);
        let is_unknown = !gateway.was_heard && gateway.id.is_none();
        // While no gateway serves, a link to each shows at once when one dies.
        let is_of_no_use = || gateway.is_leaving() && situation.is_served();
        if !links.is_empty() && !replaces && (is_unknown || is_of_no_use()) {
            return Verdict::Skip;
        }
        if let Some(until) = self.paused_until(gateway, now) {
            return Verdict::PausedUntil(until);
        }
        let is_eager = gateway.is_active() || gateway.is_static;
        Verdict::DueAt(match (links.is_empty(), self.under_way.is_empty()) {
            (true, true) if is_eager => now,
            (true, true) => self.alone_since + ACTIVE_WINDOW,
            (true, false) => self.last_dial + HEDGE_DELAY,
            (false, true) => now,
            (false, false) => now + RECHECK_INTERVAL,
        })
    }

    /// Notes that a dial succeeded: `gateway` has proved itself at `address`.
    pub(super) fn succeeded(&mut self, address: SocketAddr, gateway: NodeId, now: Instant) {
        self.ended(address);
        // Its other addresses may be dialled again too.
        let others =
            self.identities.iter().filter(|(_, (id, _))| *id == gateway).map(|(address, _)| *address);
        others.chain([address]).for_each(|address| self.pauses.forgive(address, now));
        if self.identities.len() >= MAX_IDENTITIES {
            // The next dials find them out again.
            self.identities.clear();
        }
        self.identities.insert(address, (gateway, now));
    }

    /// Notes that a dial failed. Returns how many dials of this address have failed in a row.
    pub(super) fn failed(&mut self, address: SocketAddr, fault: Fault, now: Instant) -> u32 {
        self.ended(address);
        self.pauses.add(address, fault, now)
    }

    fn ended(&mut self, address: SocketAddr) {
        self.under_way.retain(|other| *other != address);
    }

    /// Ends all pauses: the network may be another one now.
    pub(super) fn forget_pauses(&mut self) {
        self.pauses.clear();
    }

    /// The segment size to dial with.
    pub(super) fn segments(&self, address: SocketAddr) -> Segments {
        self.pauses.segments(address)
    }

    /// Until when the gateway is left alone after it has failed.
    pub(super) fn paused_until(&self, gateway: &KnownGateway, now: Instant) -> Option<Instant> {
        self.pauses.left(gateway.address, gateway.announced, gateway.state.is_some(), now)
    }

    /// Whether to search the LAN for gateways: there is no link, and no gateway from which one may be expected.
    pub(super) fn needs_search(&self, situation: &Situation<'_>) -> bool {
        let is_promising = |gateway: &KnownGateway| {
            gateway.is_active() && !gateway.is_suspect && self.paused_until(gateway, situation.now).is_none()
        };
        situation.links.is_empty() && !situation.ranked.iter().any(is_promising)
    }

    /// The gateway at an address, as it announced itself or as it proved.
    fn identity(&self, gateway: &KnownGateway) -> Option<NodeId> {
        gateway.id.or_else(|| self.identities.get(&gateway.address).map(|(id, _)| *id))
    }

    fn is_under_way(&self, gateway: &KnownGateway) -> bool {
        self.under_way.contains(&gateway.address)
    }

    /// Whether there is a link to the gateway that is exhausted, or that is not.
    fn is_linked(&self, gateway: &KnownGateway, links: &[UpLink], exhausted: bool) -> bool {
        let id = self.identity(gateway);
        let mut links = links.iter().filter(|link| link.is_exhausted == exhausted);
        links.any(|link| link.address == gateway.address || Some(link.gateway) == id)
    }
}

/// Moves a gateway's link-local address behind its other addresses that are heard: a member linked by one can be named only to
/// members on the same network, and would give no pieces to others.
pub(super) fn link_local_last(known: &mut [KnownGateway]) {
    let is_link_local =
        |gateway: &KnownGateway| matches!(gateway.address.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    for first in 0..known.len() {
        if !is_link_local(&known[first]) || known[first].id.is_none() || known[first].state.is_none() {
            continue;
        }
        let (id, state) = (known[first].id, known[first].state);
        let is_better = |other: &KnownGateway| {
            other.id == id && other.state.is_some() && !other.is_suspect && !is_link_local(other)
        };
        if let Some(better) = known[first + 1..].iter().position(is_better) {
            known[first..=first + 1 + better].rotate_right(1);
            // The gateway's latest state, which may not have come from this address yet.
            known[first].state = state;
        }
    }
}

/// Moves gateways that were not heard lately and are on none of this machine's networks behind the others that were not heard:
/// mostly they are addresses of uplinks, which another gateway named and only gateways reach. A gateway that the user named may
/// be behind a router, so it keeps its place.
pub(super) fn near_first(ranked: &mut [KnownGateway], shares_network: &dyn Fn(IpAddr) -> bool) {
    let is_unheard = |gateway: &KnownGateway| gateway.state.is_none() && !gateway.is_static;
    let places: Vec<_> = (0..ranked.len()).filter(|place| is_unheard(&ranked[*place])).collect();
    let mut unheard: Vec<_> = places.iter().map(|place| ranked[*place].clone()).collect();
    unheard.sort_by_key(|gateway| !shares_network(gateway.address.ip()));
    places.into_iter().zip(unheard).for_each(|(place, gateway)| ranked[place] = gateway);
}

/// Moves gateways in doubt behind all others once they are as many as there may be links: otherwise they would keep this client
/// from the others. If every gateway is in doubt, as while the only server is down, nothing changes.
pub(super) fn doubted_last(ranked: &mut [KnownGateway], is_doubted: &dyn Fn(NodeId) -> bool) {
    let doubted: HashSet<_> =
        ranked.iter().filter_map(|gateway| gateway.id).filter(|id| is_doubted(*id)).collect();
    if doubted.len() >= MAX_LINKS {
        ranked.sort_by_key(|gateway| gateway.id.is_some_and(|id| doubted.contains(&id)));
    }
}

/// Moves the gateways that are leaving and have said why behind all others. Each of them is dialled again and again, and the
/// others are to have a chance to say something else.
pub(super) fn leaving_last(ranked: &mut [KnownGateway], has_said_why: &dyn Fn(NodeId) -> bool) {
    ranked.sort_by_key(|gateway| gateway.is_leaving() && gateway.id.is_some_and(has_said_why));
}

/// The place of a link in the order of use: whether its gateway is leaving, so that such links come last, and the gateway's rank.
pub(super) fn place(link: UpLink, ranked: &[KnownGateway]) -> (bool, usize) {
    let is_its = |gateway: &KnownGateway| gateway.address == link.address || gateway.id == Some(link.gateway);
    let position = ranked.iter().position(is_its);
    let is_leaving = position.is_some_and(|position| ranked[position].is_leaving());
    (is_leaving, position.unwrap_or(usize::MAX))
}

/// How many of the links, in the order of [`place`], are kept if `wanted` are wanted: a link to a leaving gateway only if it is
/// the last one.
pub(super) fn kept(places: &[(bool, usize)], wanted: usize) -> usize {
    let staying = places.iter().position(|(is_leaving, _)| *is_leaving).unwrap_or(wanted);
    staying.clamp(1, wanted).min(places.len())
}

#[cfg(test)]
mod tests;
