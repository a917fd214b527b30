//! Links to gateways, and what each gateway reports over its link: its clock, and whether it reaches a server.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::time::{sleep, timeout_at};
use tokio_util::task::TaskTracker;

use super::filtering::Filter;
use super::machine::Node;
use super::neighbours::{Astray, Neighbour};
use super::remedies::{LOGIN, copied_keys, uplink_up};
use super::report::{Finding, Layer};
use super::unlinked::{self, Origin};
use crate::commands::progress;
use crate::failure::{Failure, Kind, Side, with_causes};
use crate::gateway::clients::OPEN_FILES;
use crate::lan::Lan;
use crate::link::client::{DialError, Link};
use crate::link::gateway_info::{self, GatewayInfo};
use crate::link::tls;
use crate::net::{self, Segments};
use crate::sys::neighbour::{ABSENT, ROUTER_IS_THERE};
use crate::telemetry::report::{age, few, left};
use crate::telemetry::snapshot::Unreached;
use crate::trust::clock::CLOCK_FLOOR;
use crate::trust::group::Group;
use crate::trust::membership::Membership;
use crate::wire::id::NodeId;
use crate::wire::target::Target;

/// Maximum gateways that are linked with.
const MAX_GATEWAYS: usize = 16;
/// Maximum addresses of one gateway that are dialled.
const MAX_ADDRESSES: usize = 4;
/// How long to wait for the other addresses of a gateway when there is a link to one.
const GRACE: Duration = Duration::from_secs(1);
/// The time in which a gateway gives up a link whose other end is gone: it asks every 4 s, and waits 15 s for the answer.
const GIVEN_UP: Duration = Duration::from_secs(22);
/// Interval between two questions for a link that is to be given up.
const STEP: Duration = Duration::from_secs(1);
/// Number of round trips of which the median is taken.
const ROUND_TRIPS: usize = 5;
/// Maximum difference between two clocks that are considered equal, in milliseconds.
const MAX_CLOCK_DIFFERENCE: i128 = 60_000;

/// A gateway that a link is to be made to.
pub(super) struct Known {
    pub(super) origin: Origin,
    /// Its addresses, the preferred ones first. A link to one of them is enough.
    pub(super) addresses: Vec<SocketAddr>,
}

impl Known {
    /// A gateway of which nothing but an address is known.
    pub(super) fn at(address: SocketAddr, origin: Origin) -> Self {
        Self { origin, addresses: vec![address] }
    }

    fn id(&self) -> Option<NodeId> {
        match self.origin {
            Origin::Announced(id) => Some(id),
            Origin::Named | Origin::Remembered => None,
        }
    }
}

/// A gateway and the link to it.
pub(super) struct Linked {
    pub(super) link: Link,
    /// What it reports about itself; `None` when it did not answer.
    pub(super) about: Option<GatewayInfo>,
    /// How far its clock is ahead of this machine's, in milliseconds.
    ahead: Option<i128>,
    round_trip: Option<Duration>,
    /// Whether large packets do not pass on the way to it.
    is_narrow: bool,
}

impl Linked {
    pub(super) fn name(&self) -> String {
        format!("{} at {}", self.link.gateway.name, self.link.address)
    }

    /// The finding about the link, to a gateway whose other addresses have `failed`.
    fn described(&self, failed: &[(SocketAddr, DialError)]) -> Finding {
        let far = self
            .round_trip
            .map_or_else(String::new, |time| format!(", round trip {:.2} ms", time.as_secs_f64() * 1000.0));
        let others: Vec<_> = failed.iter().map(|(_, error)| with_causes(error)).collect();
        let others = match others.as_slice() {
            [] => String::new(),
            [one] => format!("; another address of it does not work: {one}"),
            some => format!("; other addresses of it do not work: {}", some.join("; ")),
        };
        let what = format!("{}: TLS 1.3, both sides authenticated{far}{others}", self.name());
        Finding::ok(Layer::Link, what)
    }

    /// The destinations that it allows, if those are not all.
    fn rules(&self) -> String {
        let rules = self.about.as_ref().and_then(|about| about.rules.as_ref());
        match rules.filter(|rules| !rules.allows_any) {
            Some(rules) => {
                format!("; it serves only {}: --allow on it adds destinations", few(&left(rules).0))
            }
            None => String::new(),
        }
    }

    /// Whether it serves nobody because of `laneway drain` on it.
    fn is_in_maintenance(&self) -> bool {
        self.about.as_ref().is_some_and(|about| about.in_maintenance)
    }

    /// The addresses of other machines that have linked with it with this machine's keys. Behind NAT nothing can be told.
    fn twins(&self, own: &HashSet<IpAddr>, node: Option<&Node>) -> Vec<IpAddr> {
        let Some(about) = self.about.as_ref() else { return Vec::new() };
        if !about.asked_from.is_some_and(|ip| own.contains(&ip)) {
            return Vec::new();
        }
        // The link of this machine's node may be from an address that the machine has no more.
        let links = node.iter().flat_map(|node| &node.seen.links);
        let links = links.filter(|link| link.name == *self.link.gateway.name);
        let links: Vec<_> = links.filter_map(|link| link.address.parse::<SocketAddr>().ok()).collect();
        let is_old_own = |ip: &IpAddr| {
            let is_like = |other: &IpAddr| other.is_ipv4() == ip.is_ipv4();
            links.iter().any(|link| is_like(&link.ip()))
                && !about.linked_from.iter().any(|other| own.contains(other) && is_like(other))
        };
        about.linked_from.iter().filter(|ip| !own.contains(ip) && !is_old_own(ip)).copied().collect()
    }

    /// Whether it may be of use to clients, by its own report.
    pub(super) fn may_serve(&self) -> bool {
        !self.is_in_maintenance() && self.reach() != Some("unreachable")
    }

    /// Whether its last probe did not reach this server, which is one of its own.
    pub(super) fn misses(&self, server: &str) -> bool {
        let unreached = self.about.iter().flat_map(|about| &about.unreached);
        unreached.into_iter().any(|fault| fault.server == server)
    }

    /// Whether it reaches a server, by its own report.
    pub(super) fn reach(&self) -> Option<&str> {
        self.about.as_ref()?.reach.as_deref()
    }
}

/// Links with each of these gateways, which have these `names` as far as they are known. Each link is a finding.
pub(super) async fn link(
    group: &Group,
    gateways: &[Known],
    names: &BTreeMap<SocketAddr, String>,
    filter: Option<&Filter<'_>>,
    lans: &[Lan],
    found: &mut Vec<Finding>,
) -> Vec<Linked> {
    let config = match tls::link_client(group) {
        Ok(config) => config,
        Err(error) => {
            let finding =
                Finding::wrong(Layer::Link, "this machine cannot make links").because(error.to_string());
            found.push(finding.hint("move the state directory away and join the group again"));
            return Vec::new();
        }
    };
    let membership = Membership::new(group.clone());
    let tasks = TaskTracker::new();
    let dial = |id, address| Link::dial(address, id, Arc::clone(&config), membership.clone(), &tasks);
    let dial_full =
        |at| Link::dial_with(at, None, Segments::Full, Arc::clone(&config), membership.clone(), &tasks);
    let dials = gateways.iter().take(MAX_GATEWAYS).map(async |known| {
        let (link, failed) = dial_any(known, dial).await;
        let gateway = match link {
            // One that was just slow to answer the first time is not narrow.
            Some(link) if link.segments == Segments::Small => {
                let is_narrow = matches!(dial_full(link.address).await, Err(DialError::Late(_)));
                Some(Linked { is_narrow, ..ask(link).await })
            }
            Some(link) => Some(ask(link).await),
            None => None,
        };
        let neighbour = match failed.first() {
            Some((address, DialError::Connect(..))) if gateway.is_none() => {
                Neighbour::towards(*address).await
            }
            _ => None,
        };
        (known, gateway, failed, neighbour)
    });
    let mut linked = Vec::new();
    for dialled in join_all(dials).await {
        match dialled {
            // Ignores this machine's own node.
            (_, Some(gateway), ..) if gateway.link.gateway.id == group.node.id => {}
            (_, Some(gateway), failed, _) => {
                found.push(gateway.described(&failed));
                found.extend(
                    gateway.is_narrow.then(|| unlinked::narrow(&gateway.name(), gateway.link.address)),
                );
                linked.push(gateway);
            }
            (known, None, failed, neighbour) => {
                let mut failed = failed.iter();
                let Some((address, error)) = failed.next() else { continue };
                let name = names.get(address).map(String::as_str);
                let astray = Astray::find(*address, lans);
                let at = unlinked::At { address: *address, origin: known.origin, name, neighbour, astray };
                let finding = unlinked::explain(&at, error, filter);
                let others: Vec<_> = failed.map(|(_, error)| with_causes(error)).collect();
                found.push(match others.is_empty() {
                    true => finding,
                    false => finding.because(format!("nor at another address of it: {}", others.join("; "))),
                });
            }
        }
    }
    linked
}

/// The link to the first of the addresses of a gateway, in their order, that accepts one; and the addresses that do not, in the
/// same order. All are dialled at the same time.
async fn dial_any<F: Future<Output = Result<Link, DialError>>>(
    known: &Known,
    dial: impl Fn(Option<NodeId>, SocketAddr) -> F,
) -> (Option<Link>, Vec<(SocketAddr, DialError)>) {
    let addresses = known.addresses.iter().take(MAX_ADDRESSES).copied().enumerate();
    let mut waiting: BTreeMap<usize, SocketAddr> = addresses.collect();
    let attempts = waiting.iter().map(|(&place, &address)| {
        let dialling = dial(known.id(), address);
        async move { (place, dialling.await) }
    });
    let mut attempts: FuturesUnordered<_> = attempts.collect();
    let (mut links, mut failed, mut end) = (BTreeMap::new(), BTreeMap::new(), None);
    loop {
        let next = match end {
            Some(end) => timeout_at(end, attempts.next()).await.unwrap_or(None),
            None => attempts.next().await,
        };
        let Some((place, dialled)) = next else { break };
        let Some(address) = waiting.remove(&place) else { continue };
        match dialled {
            Ok(link) => {
                links.insert(place, link);
                end.get_or_insert(tokio::time::Instant::now() + GRACE);
            }
            Err(error) => drop(failed.insert(place, (address, error))),
        }
    }
    failed.extend(waiting.into_iter().map(|(place, address)| (place, (address, DialError::Late(address)))));
    (links.into_values().next(), failed.into_values().collect())
}

async fn ask(link: Link) -> Linked {
    let mut times = Vec::new();
    let (mut about, mut ahead) = (None, None);
    for _ in 0..ROUND_TRIPS {
        let start = Instant::now();
        let Ok(answer) = gateway_info::fetch(&link).await else { break };
        let took = start.elapsed();
        times.push(took);
        // The gateway read its clock about halfway through the round trip.
        let here = now_millis() - i128::try_from(took.as_millis() / 2).unwrap_or_default();
        ahead = Some(i128::from(answer.clock) - here);
        about = Some(answer);
    }
    times.sort();
    let round_trip = times.get(times.len() / 2).copied();
    Linked { link, about, ahead, round_trip, is_narrow: false }
}

fn now_millis() -> i128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::try_from(since.as_millis()).unwrap_or_default()
}

/// Checks that this machine's clock agrees with those of the gateways.
pub(super) fn clocks(linked: &[Linked], found: &mut Vec<Finding>) {
    const SET: &str = "'timedatectl set-ntp true' where there is a time server, else 'date --utc --set=…'";
    if now_millis() < i128::try_from(CLOCK_FLOOR.as_millis()).unwrap_or_default() {
        let what = "this machine's clock shows a time before this program was built";
        found.push(Finding::wrong(Layer::Clock, what).hint(format!("set it: {SET}")));
        return;
    }
    let compared: Vec<_> =
        linked.iter().filter_map(|gateway| Some((gateway.name(), gateway.ahead?))).collect();
    found.extend(compare(&compared, SET));
}

fn compare(gateways: &[(String, i128)], set: &str) -> Vec<Finding> {
    if gateways.is_empty() {
        return vec![Finding::skipped(
            Layer::Clock,
            "there is no gateway to compare this machine's clock with",
        )];
    }
    let wrong: Vec<_> = gateways.iter().filter(|(_, ahead)| ahead.abs() > MAX_CLOCK_DIFFERENCE).collect();
    if wrong.is_empty() {
        let worst = gateways.iter().map(|(_, ahead)| ahead.abs()).max().unwrap_or_default();
        let seconds = worst as f64 / 1000.0;
        let what = format!("this machine's clock and those of the gateways differ by at most {seconds:.1} s");
        return vec![Finding::ok(Layer::Clock, what)];
    }
    // If this machine's clock differs from all of several, it is the wrong one.
    let mine = gateways.len() > 1 && wrong.len() == gateways.len();
    let which = if mine { "on this machine" } else { "on the machine whose clock is wrong" };
    let found = wrong.into_iter().map(|(name, ahead)| {
        let direction = if *ahead > 0 { "behind" } else { "ahead of" };
        // The way there and back takes its time, so that the difference is not known to the second.
        let time = age((ahead.unsigned_abs() as f64 / 60_000.0).round() * 60.0);
        Finding::wrong(Layer::Clock, format!("this machine's clock is {time} {direction} that of {name}"))
            .because("links work regardless, but join codes, HTTPS servers and logs depend on the time")
            .hint(format!("{which}: {set}"))
    });
    found.collect()
}

/// The finding about another machine with the keys of this one, which is called `name`, and on which `node` runs. A link from an
/// address that this machine had a moment ago looks like one of another machine until the gateway gives it up.
pub(super) async fn twins(linked: &mut [Linked], name: &str, node: Option<&Node>) -> Option<Finding> {
    let own = net::own_addresses().unwrap_or_default();
    let end = Instant::now() + GIVEN_UP;
    let mut waiting = None;
    loop {
        let twins: BTreeSet<_> = linked.iter().flat_map(|gateway| gateway.twins(&own, node)).collect();
        if twins.is_empty() {
            return None;
        }
        let at: Vec<_> = twins.iter().map(ToString::to_string).collect();
        let at = at.join(", ");
        if Instant::now() >= end {
            return Some(copied_keys(Layer::Link, name, &format!("this machine and the one at {at}")));
        }
        waiting.get_or_insert_with(|| progress::waiting(format!("watching the link from {at}")));
        sleep(STEP).await;
        for gateway in linked.iter_mut().filter(|gateway| !gateway.twins(&own, node).is_empty()) {
            // Without an answer, what it said before counts.
            if let Ok(about) = gateway_info::fetch(&gateway.link).await {
                gateway.about = Some(about);
            }
        }
    }
}

/// Checks whether each gateway reaches a server, by its own probe, and if not, why. `true` when one may be of use.
pub(super) async fn reach(linked: &[Linked], servers: &[Target], found: &mut Vec<Finding>) -> bool {
    let mut useful = false;
    let all_rest = linked.iter().all(Linked::is_in_maintenance);
    for gateway in linked {
        let name = gateway.name();
        if gateway.is_in_maintenance() {
            let on = &gateway.link.gateway.name;
            let what = format!("{name} is in maintenance: it serves no clients");
            found.push(match all_rest {
                false => Finding::ok(Layer::Gateway, what),
                true => Finding::wrong(Layer::Gateway, what)
                    .because("'laneway drain' was run on it, and no other gateway answers")
                    .hint(format!("on {on}: laneway drain --undo")),
            });
            continue;
        }
        match gateway.reach() {
            Some("reachable") => {
                let rules = gateway.rules();
                let partly = partly(gateway).await;
                let reached = gateway.about.iter().flat_map(|about| &about.servers);
                let reached = reached.filter(|server| partly.is_none() || !gateway.misses(server)).cloned();
                let reached: Vec<_> = reached.collect();
                let what = match reached.is_empty() {
                    true => format!("{name} reaches the outside{rules}"),
                    false => format!("{name} reaches {}{rules}", few(&reached)),
                };
                found.push(Finding::ok(Layer::Gateway, what));
                found.extend(partly);
                useful = true;
            }
            Some("unreachable") => found.push(unreachable(gateway, servers).await),
            Some(_) => {
                let what = format!(
                    "{name} serves any destination, but nothing beyond its networks has answered yet"
                );
                let hint = "a request through it proves its way out; with --probe http://HOST/PATH among its options it proves that by itself";
                found.push(Finding::skipped(Layer::Gateway, what).hint(hint));
                useful = true;
            }
            None => {
                let what = format!("{name} does not report whether it reaches a server");
                found.push(Finding::skipped(Layer::Gateway, what));
                useful = true;
            }
        }
    }
    useful
}

/// The directories in which gateways cannot store anything: they serve all the same, and fetch each file once for each client.
pub(super) fn unused(linked: &[Linked]) -> Vec<Finding> {
    let all = linked.iter().flat_map(|gateway| gateway.about.iter().map(move |about| (gateway, about)));
    let all = all.flat_map(|(gateway, about)| about.unused.iter().map(move |unused| (gateway, unused)));
    all.map(|(gateway, unused)| {
        let what = format!("{} can store nothing in {}: {}", gateway.name(), unused.directory, unused.reason);
        Finding::wrong(Layer::Gateway, what)
            .because("it serves, but what its cache would have is fetched for each client anew")
            .hint(format!("on {}: 'laneway doctor' says what to do", gateway.link.gateway.name))
    })
    .collect()
}

/// The servers of a gateway that it does not reach, although it reaches others.
async fn partly(gateway: &Linked) -> Option<Finding> {
    let about = gateway.about.as_ref()?;
    let is_server = |fault: &&Unreached| about.servers.contains(&fault.server);
    let faults: Vec<&Unreached> = about.unreached.iter().filter(is_server).collect();
    let server: Target = faults.first()?.server.parse().ok()?;
    // None of them is worth a word if the first one is reached meanwhile.
    let failure = gateway.link.open(&server, 0, bytes::Bytes::new()).await.err()?;
    let missed: Vec<_> = faults.iter().map(|fault| fault.server.clone()).collect();
    let finding =
        Finding::wrong(Layer::Gateway, format!("{} does not reach {}", gateway.name(), few(&missed)));
    let on = &*gateway.link.gateway.name;
    let hint = or_mistyped(&server, Some(on), &hint_for(&failure, &server, Some(on)));
    Some(faults.iter().map(|fault| reason("", fault)).fold(finding, Finding::because).hint(hint))
}

/// Asks a gateway whose probes fail to connect to a server, for its reason.
async fn unreachable(gateway: &Linked, servers: &[Target]) -> Finding {
    let (name, on) = (gateway.name(), gateway.link.gateway.name.clone());
    let what = match gateway.about.as_ref().is_some_and(|about| about.servers.is_empty()) {
        true => format!("{name} has no way out"),
        false => format!("{name} does not reach its servers"),
    };
    let mut finding = Finding::wrong(Layer::Gateway, what);
    let reported =
        gateway.about.iter().flat_map(|about| &about.servers).filter_map(|server| server.parse().ok());
    let unreached = gateway.about.iter().flat_map(|about| &about.unreached);
    let mut reasons = unreached.map(|fault| reason("it does not reach ", fault));
    let Some(server) = reported.chain(servers.iter().cloned()).next() else {
        return reasons
            .fold(finding, Finding::because)
            .hint(format!("on {on}: 'laneway doctor' says what to do"));
    };
    match gateway.link.open(&server, 0, bytes::Bytes::new()).await {
        // It does not judge by whether a connection can be made.
        Ok(_) if let Some(first) = reasons.next() => reasons
            .fold(finding.because(first), Finding::because)
            .hint(format!("on {on}: 'laneway doctor' says what to do")),
        Ok(_) => finding
            .because(format!("it reaches {server} now, and will report so in a moment"))
            .hint("try again"),
        Err(failure) => {
            finding = finding.because(cause(&failure, false));
            let named = server.to_string();
            let said = gateway.about.iter().flat_map(|about| &about.unreached);
            let said =
                said.filter(|fault| fault.server == named && !failure.sentence.contains(&fault.reason));
            let said = said.map(|fault| reason("its last attempt to reach ", fault)).next();
            // Its last probe may know more than the answer, which came as soon as the server was slow.
            let failure = match &said {
                Some(said) => Failure { sentence: format!("{}; {said}", failure.sentence), ..failure },
                None => failure,
            };
            let hint = hint_for(&failure, &server, Some(&on));
            finding = said.into_iter().fold(finding, Finding::because);
            let is_its_own = gateway.about.iter().any(|about| about.servers.contains(&server.to_string()));
            finding.hint(if is_its_own { or_mistyped(&server, Some(&on), &hint) } else { hint })
        }
    }
}

/// What to do about a configured `server` of the gateway called `on`, or of this machine, that is not reached: it may be
/// mistyped. Otherwise `hint` helps.
pub(super) fn or_mistyped(server: &Target, on: Option<&str>, hint: &str) -> String {
    let whose = on.map_or_else(|| "this machine's".to_owned(), |name| format!("{name}'s"));
    format!("if {server} is not the server that you mean, correct {whose} --server; otherwise {hint}")
}

/// What a refusal says about the rule that denies a destination, which the hint names.
const DENIED: (&str, &str) = (" is refused by --deny ", ": change that rule there to allow it");

/// The rule that denies a destination, by the reason for the refusal.
fn denying(reason: &str) -> Option<&str> {
    let (_, rest) = reason.split_once(DENIED.0)?;
    rest.split_once(DENIED.1).map(|(rule, _)| rule)
}

/// Why `fault.server` is not reached, after `lead` and the server unless the reason begins with the server itself.
pub(super) fn reason(lead: &str, fault: &Unreached) -> String {
    let reason = fault.reason.trim_end_matches(DENIED.1);
    match reason.starts_with(&fault.server) {
        true => reason.to_owned(),
        false => format!("{lead}{}: {reason}", fault.server),
    }
}

/// The reason for a failure, without what its hint says. `is_here` tells that it happened on this machine.
pub(super) fn cause(failure: &Failure, is_here: bool) -> String {
    let sentence = failure.sentence.trim_end_matches(DENIED.1);
    if is_here { sentence.replace(" there to allow it", " here to allow it") } else { sentence.to_owned() }
}

/// What to do about a connection to `server` that failed, on the gateway called `on` or on this machine.
pub(super) fn hint_for(failure: &Failure, server: &Target, on: Option<&str>) -> String {
    let on = on.map_or_else(|| "on this machine".to_owned(), |name| format!("on {name}"));
    let host = &server.to_string();
    let host = host.rsplit_once(':').map_or(host.as_str(), |(host, _)| host.trim_matches(['[', ']']));
    match failure.kind {
        Kind::Refused => {
            format!(
                "on {host}: start what should listen on port {}; 'ss -ltn' shows the listening ports",
                server.port
            )
        }
        Kind::NameNotFound | Kind::DnsTimeout | Kind::DnsFailed => {
            format!("{on}: make 'getent hosts {host}' find it, by /etc/resolv.conf or a line in /etc/hosts")
        }
        Kind::NameForbidden | Kind::AddressForbidden if let Some(rule) = denying(&failure.sentence) => {
            format!("{on}: remove --deny {rule} (in laneway.toml: from deny), if clients may use {server}")
        }
        Kind::NameForbidden | Kind::AddressForbidden => {
            format!("{on}: change the options of 'laneway up' as the reason says; --allow {server} allows it")
        }
        Kind::NetworkUnreachable if failure.side == Side::Gateway => {
            format!("{on}: correct --upstream in the options of 'laneway up', or start that proxy")
        }
        Kind::NetworkUnreachable => format!("{on}: {}", uplink_up(host)),
        Kind::NoWayOut if ![ABSENT, ROUTER_IS_THERE].iter().any(|why| failure.sentence.contains(why)) => {
            format!(
                "{on}: {}; or switch {host} on, if that is off: 'laneway doctor' there tells which of the two is at fault",
                uplink_up(host)
            )
        }
        Kind::HostUnreachable | Kind::ConnectTimeout | Kind::NoWayOut => format!(
            "switch {host} on or connect it, and let its firewall admit TCP port {}; if nothing else beyond it answers either, {on}: {}",
            server.port,
            uplink_up(host)
        ),
        Kind::UpstreamLogin => format!("{on}: {LOGIN}"),
        Kind::LimitReached if failure.sentence.contains(OPEN_FILES) => {
            format!(
                "{on}: raise the limit on open files of laneway (LimitNOFILE=, ulimit -n), or use fewer connections"
            )
        }
        Kind::LimitReached => {
            format!("{on}: raise --client-tunnels or --client-opens, or use fewer connections")
        }
        _ => format!("{on}: the log of laneway says more"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn a_server_that_is_off_is_not_blamed_on_the_uplink_where_the_gateway_knows_better() {
        let hint = |kind, sentence: String| {
            let failure = Failure::new(kind, Side::Server, sentence);
            hint_for(&failure, &"10.0.0.5:80".parse().unwrap(), Some("g2"))
        };
        assert!(
            hint(Kind::NoWayOut, "10.0.0.5:80 did not answer".into())
                .starts_with("on g2: bring the uplink up")
        );
        for known in [format!("{ABSENT}: it is off"), format!("although 10.0.0.1{ROUTER_IS_THERE}")] {
            assert!(hint(Kind::NoWayOut, known).starts_with("switch 10.0.0.5 on or connect it"));
        }
        assert!(hint(Kind::ConnectTimeout, String::new()).starts_with("switch 10.0.0.5 on or connect it"));
        assert!(hint(Kind::NetworkUnreachable, String::new()).starts_with("on g2: bring the uplink up"));
    }

    #[test]
    fn a_rule_that_denies_is_named_in_the_hint_and_the_server_once_in_the_cause() {
        let said = "10.0.0.5:8000 is refused by --deny 10.0.0.5:8000: change that rule there to allow it";
        let failure = Failure::new(Kind::AddressForbidden, Side::Gateway, said);
        let hint = hint_for(&failure, &"10.0.0.5:8000".parse().unwrap(), Some("g2"));
        assert!(
            hint.starts_with("on g2: remove --deny 10.0.0.5:8000 ") && !hint.contains("--allow"),
            "{hint}"
        );
        let fault = Unreached { server: "10.0.0.5:8000".into(), reason: said.into() };
        assert_eq!(reason("it does not reach ", &fault), "10.0.0.5:8000 is refused by --deny 10.0.0.5:8000");
        assert_eq!(cause(&failure, false), "10.0.0.5:8000 is refused by --deny 10.0.0.5:8000");
        let fault = Unreached { reason: "no route".into(), ..fault };
        assert_eq!(reason("it does not reach ", &fault), "it does not reach 10.0.0.5:8000: no route");
    }

    #[test]
    fn a_clock_is_compared_with_those_of_the_gateways() {
        let gateways =
            |ahead: &[i128]| ahead.iter().map(|ahead| ("g".to_owned(), *ahead)).collect::<Vec<_>>();
        assert_eq!(compare(&[], "")[0].verdict, Verdict::Skipped);
        assert_eq!(compare(&gateways(&[-900, 59_000]), "")[0].verdict, Verdict::Ok);
        let one = compare(&gateways(&[3_599_200, 10]), "ntp");
        assert_eq!(one.len(), 1);
        assert_eq!(one[0].what, "this machine's clock is 1 h 0 min behind that of g");
        assert_eq!(one[0].hint.as_deref(), Some("on the machine whose clock is wrong: ntp"));
        let all = compare(&gateways(&[-3_600_000, -3_600_010]), "ntp");
        assert_eq!(all.len(), 2);
        assert!(all[0].what.contains("ahead of") && all[0].hint.as_deref() == Some("on this machine: ntp"));
    }
}
