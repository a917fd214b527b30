//! Collects what the node shows of itself: the facts of each part, in one [`Snapshot`].

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::cache::store::{MostUsed, Size};
use crate::failure::printable;
use crate::link::client::Link;
use crate::local::endpoint::Endpoint;
use crate::net;
use crate::peers::candidate;
use crate::peers::directory::{Gateway, Source};
use crate::shared::Shared;
use crate::telemetry::snapshot::{
    Counted, FileSeen, FrontSeen, GatewaySeen, LinkSeen, Memory, NodeSeen, PeersSeen, Snapshot, Spread,
    StoreSeen,
};
use crate::trust::certificate::Role;
use crate::wire::target::Target;
use crate::{gateway, local};

/// Maximum number of gateways, clients and destinations that are shown.
const MOST_GATEWAYS: usize = 64;
const MOST_CLIENTS: usize = 64;
const MOST_DESTINATIONS: usize = 20;
/// Maximum number of events that are shown.
const MOST_EVENTS: usize = 60;

/// The parts of the node that a snapshot is collected from.
pub struct View {
    /// What all parts share.
    pub shared: Shared,
    /// The client side.
    pub client: local::bound::Facts,
    /// The gateway.
    pub gateway: gateway::bound::Facts,
    /// The role in its configuration.
    pub setting: &'static str,
    /// The UDP port of discovery, and the interfaces and local addresses that its configuration names for it.
    pub discovery: (u16, Vec<String>),
    /// The part of its configuration that is about gateways of the group, if it looks for any.
    pub candidate: Option<watch::Receiver<candidate::Options>>,
    /// When the node started.
    pub started: Started,
    /// The directory of its keys and group state.
    pub directory: String,
}

/// A start time by both clocks: the system clock to show it, the monotonic clock to compute the uptime.
#[derive(Clone, Copy, Debug)]
pub struct Started(Instant, SystemTime);

impl Started {
    /// The current time.
    pub fn now() -> Self {
        Self(Instant::now(), SystemTime::now())
    }
}

impl View {
    /// The current state of the node.
    pub fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        let links = self.client.links.up().borrow().clone();
        let (counts, clients) = self.gateway.served.busiest(MOST_CLIENTS);
        let telemetry = &self.shared.telemetry;
        let trouble = self.client.links.idle_trouble();
        let in_use = trouble.is_none() && !*self.client.is_gateway.borrow();
        let words = |values: Vec<(&'static str, u64)>| {
            values.into_iter().map(|(word, count)| Counted::new(word, "", count)).collect()
        };
        let pairs = |values: Vec<((&'static str, &'static str), u64)>| {
            values.into_iter().map(|((what, side), count)| Counted::new(what, side, count)).collect()
        };
        let refused = telemetry.refused.values().into_iter();
        let happened = telemetry.happened.values().into_iter();
        Snapshot {
            at: u64::try_from(since_1970(SystemTime::now()).as_millis()).unwrap_or(u64::MAX),
            node: self.node(now),
            servers: self.gateway.servers.borrow().iter().map(Target::to_string).collect(),
            rules: self.gateway.rules(),
            unreached: self.gateway.unreached(),
            gateways: self.gateways(&links, in_use, now),
            links: links
                .iter()
                .enumerate()
                .map(|(place, link)| link_seen(place == 0 && in_use, link))
                .collect(),
            clients,
            clients_in_all: counts.links,
            clients_silent: counts.silent,
            apps: telemetry.apps.usage(MOST_DESTINATIONS),
            served: telemetry.served.usage(MOST_DESTINATIONS),
            history: telemetry.history.samples(),
            memory: Memory {
                used: self.shared.memory.used() as u64,
                limit: self.shared.memory.limit() as u64,
                largest: self.shared.memory.largest() as u64,
            },
            connections: words(telemetry.connections.values()),
            failures: pairs(telemetry.failures.values()),
            failed: telemetry.failed.latest(),
            rescued: words(telemetry.rescued.values()),
            cut: words(telemetry.cut.values()),
            spread: Spread { downloads: telemetry.spread.0.value(), bytes: telemetry.spread.1.value() },
            refused: refused
                .map(|((dialect, reason), count)| Counted::new(reason.word(), dialect, count))
                .collect(),
            udp_dropped: words(telemetry.udp_dropped.values()),
            questions: words(telemetry.questions.values()),
            answers: pairs(telemetry.answers.values()),
            cache: words(telemetry.cache.values()),
            cache_saved: telemetry.cache_saved.value(),
            peers: self.peers(words(telemetry.pieces.values())),
            fronts: self.fronts(),
            fronts_checked: telemetry
                .fronts
                .values()
                .into_iter()
                .map(|((front, result), count)| Counted::new(result, front, count))
                .collect(),
            cache_store: self.shared.cache.as_ref().map(|store| store_seen(store.size())),
            unused: self.shared.unused.now(),
            refused_configuration: telemetry.refused_configuration(),
            cache_top: self.shared.cache.iter().flat_map(|store| store.most_used()).map(file_seen).collect(),
            happened: happened.map(|(what, count)| Counted::new(what.word(), "", count)).collect(),
            datagrams: self.datagrams(),
            discovery_dropped: words(telemetry.discovery.dropped.values()),
            other_groups: self.other_groups(&links, now),
            discovery_signatures: telemetry.discovery.signatures.value(),
            trouble,
            events: telemetry.journal.latest(MOST_EVENTS),
        }
    }

    fn peers(&self, pieces: Vec<Counted>) -> PeersSeen {
        let telemetry = &self.shared.telemetry;
        PeersSeen {
            pieces,
            received: telemetry.peer_received.value(),
            served: telemetry.peer_served.value(),
            store: self.shared.holdings.as_ref().map(|holdings| store_seen(holdings.size())),
        }
    }

    fn fronts(&self) -> Vec<FrontSeen> {
        let fronts = self.client.fronts.borrow();
        let seen = fronts.upstreams().iter();
        seen.map(|front| FrontSeen { name: front.key(), url: front.url.to_string() }).collect()
    }

    fn node(&self, now: Instant) -> NodeSeen {
        let announced = self.shared.announced.borrow();
        let advert = announced.as_ref().map(|announcement| &announcement.advert);
        let group = self.shared.membership.group();
        let role = match group.node.role {
            Role::Client => "client",
            Role::Gateway => "gateway",
        };
        NodeSeen {
            name: group.node.name.clone(),
            id: group.node.id.short(),
            group: group.name.clone(),
            role: role.into(),
            setting: self.setting.into(),
            discovery_port: Some(self.discovery.0),
            lan: self.discovery.1.clone(),
            state: advert.map(|advert| advert.state.word().into()),
            most_active: self.candidate.as_ref().map(|options| options.borrow().selection.active),
            reach: advert.map(|advert| advert.reach.word().into()),
            proof: self.gateway.egress.as_ref().and_then(|egress| egress.proof()),
            goes_direct: *self.client.is_gateway.borrow(),
            is_draining: self.shared.drain.is_cancelled(),
            in_maintenance: self.shared.activity.is_in_maintenance(),
            is_removed: self.shared.membership.is_removed(),
            load: advert.map(|advert| f64::from(advert.load) / 1000.0),
            capacity: advert.map(|advert| bits(advert.capacity)),
            version: env!("CARGO_PKG_VERSION").into(),
            started: since_1970(self.started.1).as_secs_f64(),
            uptime: now.duration_since(self.started.0).as_secs_f64(),
            proxy: self.client.proxy.iter().map(Endpoint::to_string).collect(),
            needs_login: self.client.logins.are_needed(),
            link: self.gateway.link.map(|address| address.to_string()),
            directory: self.directory.clone(),
        }
    }

    /// `in_use` when new connections go over the first link.
    fn gateways(&self, links: &[Link], in_use: bool, now: Instant) -> Vec<GatewaySeen> {
        let link_to = |gateway: &Gateway| {
            links.iter().find(|link| link.address == gateway.link || Some(link.gateway.id) == gateway.id)
        };
        // The user may list all gateways on all machines, so this node may know addresses of its own.
        let id = self.shared.membership.group().node.id;
        let is_other =
            |gateway: &Gateway| gateway.id != Some(id) && !self.shared.own.is_this_node(gateway.link);
        // An address of an earlier run is one to try, and may never have been a gateway's: that of the machine that admitted this
        // one.
        let is_searching = links.is_empty() && !*self.client.is_gateway.borrow();
        let is_listed = |gateway: &Gateway| {
            gateway.source != Source::Remembered
                || link_to(gateway).is_some()
                || is_searching && !self.client.links.found_no_gateway(gateway.link)
        };
        let ranked = self.shared.directory.ranked(now).into_iter();
        let ranked = ranked.filter(is_other).filter(is_listed).collect();
        let ranked = one_each(ranked, links, now);
        let seen = ranked.iter().take(MOST_GATEWAYS).map(|(gateway, others)| {
            let link = link_to(gateway);
            let state = gateway.state(now);
            // The last announcement of a silent gateway is out of date.
            let last_advert = gateway.advert.as_ref();
            let advert = last_advert.filter(|_| state.is_some());
            let round_trip = link.and_then(|link| link.state.round_trip()).or(gateway.round_trip);
            let id = gateway.id.or(link.map(|link| link.gateway.id)).or(gateway.announced);
            let used = links.first().filter(|_| in_use);
            GatewaySeen {
                id: id.map(|id| id.short()),
                name: id.and_then(|id| self.shared.telemetry.names.known(id)),
                address: gateway.link.to_string(),
                other_addresses: others.iter().map(SocketAddr::to_string).collect(),
                state: match (state, link) {
                    (Some(state), _) => state.word(),
                    // Behind a router only its link is heard of.
                    (None, Some(_)) => "linked",
                    (None, None) => "silent",
                }
                .into(),
                last_state: last_advert.filter(|_| state.is_none()).map(|advert| advert.state.word().into()),
                is_used: used.zip(link).is_some_and(|(used, link)| used.gateway.id == link.gateway.id),
                is_suspect: gateway.suspect_until(now).is_some() || link.is_some_and(Link::is_suspect),
                paused_for: self.client.links.paused_for(gateway, now).map(|left| left.as_secs_f64()),
                reach: advert.map(|advert| advert.reach.word().into()),
                load: advert.map(|advert| f64::from(advert.load) / 1000.0),
                capacity: advert.map(|advert| bits(advert.capacity)),
                weight: advert.map(|advert| advert.weight),
                tunnels: advert.map(|advert| advert.tunnels),
                round_trip: round_trip.map(|time| time.as_secs_f64()),
                heard_ago: gateway.heard.map(|heard| now.saturating_duration_since(heard).as_secs_f64()),
                source: word_of(gateway.source).into(),
            }
        });
        seen.collect()
    }

    /// The machines of other groups on the networks of this machine, which may have been carried from another LAN a moment ago;
    /// without the addresses of gateways that are heard or linked.
    fn other_groups(&self, links: &[Link], now: Instant) -> Vec<String> {
        let known = self.shared.directory.ranked(now);
        let is_there = |gateway: &&Gateway| {
            gateway.state(now).is_some() || links.iter().any(|link| Some(link.gateway.id) == gateway.id)
        };
        let members = known.iter().filter(is_there).map(|gateway| gateway.link);
        let members = members.chain(links.iter().map(|link| link.address));
        let members: BTreeSet<IpAddr> = members.map(|address| net::plain(address).ip()).collect();
        let others = self.shared.telemetry.discovery.other_groups.present(now).into_iter();
        let others = others.filter(|ip| !members.contains(ip) && self.shared.own.shares_network_with(*ip));
        others.map(|ip| ip.to_string()).collect()
    }

    fn datagrams(&self) -> Vec<Counted> {
        let said = &self.shared.telemetry.discovery;
        [
            ("query", "sent", &said.queries),
            ("offer", "sent", &said.offers),
            ("beacon", "sent", &said.beacons),
            ("query", "heard", &said.queries_heard),
            ("offer", "heard", &said.offers_heard),
            ("beacon", "heard", &said.beacons_heard),
        ]
        .map(|(what, side, count)| Counted::new(what, side, count.value()))
        .into()
    }
}

/// Each gateway once, in the same order, with its best-ranked entry of those that are heard and its other addresses. The
/// address is the one that it is linked at, otherwise that of the entry.
fn one_each(ranked: Vec<Gateway>, links: &[Link], now: Instant) -> Vec<(Gateway, Vec<SocketAddr>)> {
    let is_linked = |gateway: &Gateway| links.iter().any(|link| link.address == gateway.link);
    let mut each: Vec<(Gateway, Vec<SocketAddr>)> = Vec::new();
    for gateway in ranked {
        let known = each.iter_mut().find(|(known, _)| known.id.is_some() && known.id == gateway.id);
        match known {
            None => each.push((gateway, Vec::new())),
            Some((known, others)) => {
                let mut other = gateway;
                // An address that others named ranks before one at which the gateway says that it has withdrawn.
                if known.state(now).is_none() && other.state(now).is_some() {
                    std::mem::swap(known, &mut other);
                }
                if is_linked(&other) && !is_linked(known) {
                    std::mem::swap(&mut known.link, &mut other.link);
                }
                others.push(other.link);
            }
        }
    }
    each
}

fn link_seen(in_use: bool, link: &Link) -> LinkSeen {
    let (sent, received) = link.state.moved();
    let state = match in_use {
        _ if link.is_suspect() => "suspect",
        true => "active",
        false => "standby",
    };
    LinkSeen {
        id: link.gateway.id.short(),
        name: link.gateway.name.to_string(),
        address: link.address.to_string(),
        state: state.into(),
        age: link.state.age().as_secs_f64(),
        tunnels: link.state.tunnels(),
        sent,
        received,
        round_trip: link.state.round_trip().map(|time| time.as_secs_f64()),
    }
}

fn store_seen(size: Size) -> StoreSeen {
    StoreSeen { entries: size.entries as u64, bytes: size.bytes, limit: size.limit, is_hung: size.is_hung }
}

fn file_seen(MostUsed { uri, used, .. }: MostUsed) -> FileSeen {
    // A server's path may contain anything.
    FileSeen { url: printable(&uri), hits: used.hits, saved: used.saved, machines: used.members }
}

fn word_of(source: Source) -> &'static str {
    match source {
        Source::Heard => "heard",
        Source::Named => "named",
        Source::Static => "static",
        Source::Remembered => "remembered",
    }
}

/// Converts Mbit/s, the announced unit, to bit/s.
fn bits(capacity: u32) -> u64 {
    u64::from(capacity) * 1_000_000
}

fn since_1970(time: SystemTime) -> std::time::Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::directory::Directory;
    use crate::wire::datagram::{Advert, Peer, Reach, Standing, State};
    use crate::wire::id::NodeId;

    #[test]
    fn a_withdrawn_gateway_is_shown_as_it_is_heard_and_not_by_an_address_that_another_named() {
        let (directory, now) = (Directory::default(), Instant::now());
        let [heard, named, other] = [1, 2, 3].map(|n| SocketAddr::from(([10, 0, 0, n], 7420)));
        let [withdrawn, active] = [1, 2].map(|n| NodeId([n; 16]));
        let says = |state, peers| Advert {
            state,
            reach: Reach::Reachable,
            link_port: 7420,
            weight: 100,
            load: 0,
            capacity: 1,
            tunnels: 0,
            standing: Standing::default(),
            peers,
        };
        let peers = vec![Peer { id: withdrawn, link: named, state: State::Withdrawn }];
        directory.beaconed(active, other, says(State::Active, peers), (1, 1), now);
        directory.beaconed(withdrawn, heard, says(State::Withdrawn, Vec::new()), (1, 1), now);
        let each = one_each(directory.ranked(now), &[], now);
        let (shown, others) = each.iter().find(|(gateway, _)| gateway.id == Some(withdrawn)).unwrap();
        assert_eq!((shown.link, shown.state(now)), (heard, Some(State::Withdrawn)));
        assert_eq!((each.len(), &others[..]), (2, &[named][..]));
    }
}
