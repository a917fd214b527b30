//! Why connections of apps get no further than to the links, in words.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::super::attempts::{Lost, START_THERE};
use super::{Links, Said, locked};
use crate::link::client::Link;
use crate::own_network;
use crate::peers::directory::Gateway;
use crate::telemetry::report;
use crate::wire::datagram::{Reach, State};
use crate::wire::id::NodeId;

/// Maximum number of gateways whose trouble is told at a time.
const MAX_TOLD: usize = 3;
/// How long a gateway must have announced that it serves before what it said on its link is outdated.
const OUTDATED: Duration = Duration::from_secs(5);

impl Links {
    /// Why a new connection would get no further than to the links, as [`Links::trouble`] tells it; `None` while there is a link
    /// to a gateway that has not said that it serves nobody, on a network that this machine is connected to.
    pub fn idle_trouble(&self) -> Option<String> {
        let linked: Vec<_> = self.up.borrow().iter().map(|link| link.address).collect();
        // A link outlives its cable until a ping has stayed unanswered.
        if let Some(own) = own_network::fault(&linked).filter(|_| !linked.is_empty()) {
            return Some(own);
        }
        let now = Instant::now();
        let mut lost = self.withdrawn(now);
        lost.extend(self.said_themselves(now));
        let is_cut_off = |link: &Link| lost.contains_key(&link.gateway.id);
        let is_unserved = self.up.borrow().iter().all(is_cut_off);
        is_unserved.then(|| self.trouble_unless(|| self.unlinked(now)))?
    }

    /// Why no connection gets out, as a sentence: what each gateway without a way out has said, what others announce, and why the
    /// rest was not reached; `None` once a connection got out.
    pub fn trouble(&self) -> Option<String> {
        self.trouble_unless(|| None)
    }

    /// The same. What is `known_otherwise` comes before a failed dial of an address where nobody expects a gateway.
    fn trouble_unless(&self, known_otherwise: impl FnOnce() -> Option<String>) -> Option<String> {
        let now = Instant::now();
        if let Some(own) = self.own_fault(now) {
            return Some(own);
        }
        let mut lost = self.stopped(now);
        lost.extend(self.withdrawn(now));
        lost.extend(self.said_themselves(now));
        let known: Vec<_> = lost.keys().copied().collect();
        let failed = locked(&self.attempts).telling(&known, now);
        let mut told: Vec<String> = lost.into_values().collect();
        told.extend(failed);
        let more = told.len().saturating_sub(MAX_TOLD);
        told.truncate(MAX_TOLD);
        match more {
            _ if told.is_empty() => known_otherwise().or_else(|| locked(&self.attempts).guess(now)),
            0 => Some(told.join("; ")),
            1 => Some(format!("{}; and 1 more gateway", told.join("; "))),
            more => Some(format!("{}; and {more} more gateways", told.join("; "))),
        }
    }

    /// What is known of the gateways while there is no link and no dial has ended that tells why. It has ages, so it is no text
    /// for failures, which are counted by their words.
    fn unlinked(&self, now: Instant) -> Option<String> {
        let mut ages: BTreeMap<NodeId, Duration> = BTreeMap::new();
        let mut present = BTreeSet::new();
        for gateway in self.directory.ranked(now) {
            let Some((id, heard)) = gateway.id.filter(|id| *id != self.own).zip(gateway.heard) else {
                continue;
            };
            let age = now.saturating_duration_since(heard);
            ages.entry(id).and_modify(|last| *last = age.min(*last)).or_insert(age);
            present.extend(gateway.state(now).map(|_| id));
        }
        let name = |id: &NodeId| self.directory.telemetry().names.of(*id);
        let heard = ages.iter().map(|(id, age)| {
            let (name, ago) = (name(id), seconds(*age));
            (format!("{name} (heard {ago} ago)"), present.contains(id))
        });
        in_words(locked(&self.attempts).lost(), &heard.collect::<Vec<_>>(), now)
    }

    /// Why this machine itself reaches no gateway.
    fn own_fault(&self, now: Instant) -> Option<String> {
        let known = self.directory.ranked(now).into_iter().map(|gateway| gateway.link);
        let others: Vec<_> = known.filter(|address| !self.machine.is_this_node(*address)).collect();
        own_network::fault(&others)
    }

    /// The gateways that announce that they serve nobody, and why.
    fn withdrawn(&self, now: Instant) -> BTreeMap<NodeId, String> {
        let known = self.directory.ranked(now);
        let there = known.iter().filter(|gateway| self.is_there(gateway, now));
        self.told(there.filter_map(|gateway| Some((gateway.id?, announces(gateway, now)?))))
    }

    /// What gateways have said on their links, except those that announce since then that they serve.
    fn said_themselves(&self, now: Instant) -> Vec<(NodeId, String)> {
        let known = self.directory.ranked(now);
        let serves = |id: NodeId, said: &Said| {
            known.iter().any(|gateway| {
                let is_new = gateway.heard.is_some_and(|heard| heard > said.at + OUTDATED);
                let serves = matches!(gateway.state(now), Some(State::Active | State::Standby));
                gateway.id == Some(id) && is_new && serves
            })
        };
        let all = locked(&self.without_way_out);
        let said = all.iter().filter(|(id, said)| !serves(**id, said));
        said.map(|(id, said)| (*id, said.why.clone())).collect()
    }

    /// The gateways that are not there any more, and have announced that.
    fn stopped(&self, now: Instant) -> BTreeMap<NodeId, String> {
        let known = self.directory.ranked(now);
        let (there, gone): (Vec<_>, Vec<_>) = known.iter().partition(|gateway| self.is_there(gateway, now));
        let stopped =
            gone.into_iter().filter_map(|gateway| Some((gateway.id?, has_announced(gateway, now)?)));
        // It may have been started again, and have another address.
        self.told(stopped.filter(|(id, _)| there.iter().all(|gateway| gateway.id != Some(*id))))
    }

    /// Whether a gateway is heard, and has not failed to be linked since.
    fn is_there(&self, gateway: &Gateway, now: Instant) -> bool {
        let has_failed = |heard| locked(&self.attempts).has_failed_since(gateway.link, heard);
        gateway.state(now).is_some() && !gateway.heard.is_some_and(has_failed)
    }

    /// One sentence about each of these gateways, without this node.
    fn told(&self, gateways: impl Iterator<Item = (NodeId, String)>) -> BTreeMap<NodeId, String> {
        let mut all = BTreeMap::new();
        for (id, why) in gateways.filter(|(id, _)| *id != self.own) {
            let name = self.directory.telemetry().names.of(id);
            all.entry(id).or_insert_with(|| format!("gateway {name} {why}"));
        }
        all
    }
}

/// What is known while there is no link: which one was `lost`, and which gateways were heard, and whether they may still be
/// there.
fn in_words(lost: Option<&Lost>, heard: &[(String, bool)], now: Instant) -> Option<String> {
    let lost = lost.map(|Lost { gateway, reason, at }| {
        let ago = seconds(now.saturating_duration_since(*at));
        format!("the link to gateway {gateway} was lost {ago} ago ({reason})")
    });
    let present: Vec<_> =
        heard.iter().filter(|(_, is_there)| *is_there).map(|(who, _)| who.clone()).collect();
    let all: Vec<_> = heard.iter().map(|(who, _)| who.clone()).collect();
    let known = match (present.is_empty(), all.is_empty()) {
        (_, true) => None,
        (true, false) => Some(format!("no gateway is heard any more: {}", report::few(&all))),
        (false, false) => Some(format!("no link yet to {}", report::few(&present))),
    };
    let all: Vec<_> = lost.into_iter().chain(known).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

fn seconds(age: Duration) -> String {
    report::age(age.as_secs_f64())
}

/// Why a gateway serves nobody, as it announces; `None` while it serves.
fn announces(gateway: &Gateway, now: Instant) -> Option<String> {
    let reach = gateway.advert.as_ref().map(|advert| advert.reach);
    let why = match gateway.state(now)? {
        State::Active | State::Standby => return None,
        State::Draining => "is about to stop, or in maintenance",
        State::Withdrawn if reach == Some(Reach::Reachable) => {
            "is in maintenance ('laneway drain --undo' there ends it)"
        }
        State::Withdrawn => "announces that it has no way out ('laneway doctor' there says why)",
    };
    Some(why.into())
}

/// What a gateway that is not there any more announced last, if that explains it.
fn has_announced(gateway: &Gateway, now: Instant) -> Option<String> {
    let advert = gateway.advert.as_ref().filter(|advert| advert.state == State::Draining);
    let (_, heard) = advert.zip(gateway.heard)?;
    let ago = seconds(now.saturating_duration_since(heard));
    Some(format!(
        "said {ago} ago that it stops or goes into maintenance, and is not there any more ({START_THERE} starts it)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_told_while_there_is_no_link() {
        let start = Instant::now();
        let now = start + Duration::from_secs(12);
        let lost = Lost { gateway: "g1".into(), reason: "a ping".into(), at: start };
        let (there, gone) =
            (("g1 (heard 0.1 s ago)".to_owned(), true), ("g2 (heard 9.5 s ago)".to_owned(), false));
        for (lost, heard, said) in [
            (None, vec![], None),
            (None, vec![there.clone(), gone.clone()], Some("no link yet to g1 (heard 0.1 s ago)")),
            (None, vec![gone.clone()], Some("no gateway is heard any more: g2 (heard 9.5 s ago)")),
            (Some(&lost), vec![], Some("the link to gateway g1 was lost 12 s ago (a ping)")),
            (
                Some(&lost),
                vec![there],
                Some(
                    "the link to gateway g1 was lost 12 s ago (a ping); no link yet to g1 (heard 0.1 s ago)",
                ),
            ),
        ] {
            assert_eq!(in_words(lost, &heard, now).as_deref(), said);
        }
    }
}
