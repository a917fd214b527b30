//! Discovery over UDP: which gateways answer a broadcast query, which a unicast one, and which firewall is in the way.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;

use super::firewall::{Firewall, open_commands_elsewhere};
use super::gateways;
use super::machine::Node;
use super::neighbours::Astray;
use super::remedies::{OTHER_GROUP, SHOW_RULES, copied_keys, route_to, start_gateway, with_interface};
use super::report::{Finding, Layer, Verdict};
use crate::commands::ask;
use crate::failure::{Failure, Kind};
use crate::lan::{self, Lan};
use crate::net;
use crate::peers::survey::{Seen, Survey};
use crate::sys::tools;
use crate::telemetry::report::{self, few, unreached};
use crate::telemetry::snapshot::Unreached;
use crate::wire::datagram::State;
use crate::wire::target::Target;

/// Maximum age, in seconds, of a beacon that shows that the running node receives beacons of a gateway.
const RECENT: f64 = 15.0;
/// The time, in seconds, in which a node that receives beacons has received one of each gateway: active ones send several a
/// second, one in a crowd every 16 seconds.
const ACTIVE_HEARD: f64 = 5.0;
const ANY_HEARD: f64 = 40.0;

/// What the findings depend on besides the survey.
pub(super) struct Facts<'a> {
    /// The UDP port of discovery.
    pub(super) port: u16,
    /// This machine's firewall.
    pub(super) firewall: Option<&'a Firewall>,
    /// Whether the firewall lets datagrams of discovery in for certain.
    pub(super) is_open: bool,
    /// The node that runs here.
    pub(super) node: Option<&'a Node>,
    /// Whether gateways are configured by --gateway, which need no discovery.
    pub(super) named: bool,
    /// Whether this machine is a candidate itself.
    pub(super) is_candidate: bool,
    /// The known gateways that were asked by unicast, each as its addresses.
    pub(super) known: &'a [Vec<SocketAddr>],
    /// The networks that discovery is on.
    pub(super) lans: &'a [Lan],
    /// Why this machine does not reach a server of its configuration, if it was tried.
    pub(super) unreached: Option<(Target, Failure)>,
}

impl Facts<'_> {
    /// The firewall, if it may drop datagrams of discovery.
    fn blamed(&self) -> Option<&Firewall> {
        self.firewall.filter(|_| !self.is_open)
    }
}

/// The findings of a survey.
pub(super) fn judge(survey: &Survey, facts: &Facts<'_>) -> Vec<Finding> {
    // What only one version of IP has is not a fault while the other one works.
    let sends_v4 = survey.asked_from.iter().any(SocketAddr::is_ipv4)
        && !survey.not_sent.iter().any(|(to, _)| to.is_ipv4());
    let judged = survey.gateways.iter().map(|seen| (seen, of_gateway(seen, survey, facts)));
    let judged: Vec<_> = judged.collect();
    // A gateway is found if one of its addresses is. IPv6 alone does not make up for IPv4, which nodes prefer.
    let works_at = |of: &Seen| {
        let is_well = |finding: &Finding| finding.verdict == Verdict::Ok;
        let same = judged.iter().filter(|(seen, finding)| seen.id == of.id && is_well(finding));
        let mut links = same.map(|(seen, _)| seen.link);
        links.find(|link| link.is_ipv4() || of.link.is_ipv6())
    };
    let mut found: Vec<_> = [true, false]
        .into_iter()
        .flat_map(|is_v4| not_sent(survey, is_v4, facts))
        .map(|(finding, is_v4)| of_less_use(finding, (!is_v4 && sends_v4).then_some(IPV4_WORKS)))
        .collect();
    // One sentence is enough for the addresses of one gateway that have the same fault.
    let is_repeated = |of: &Seen, finding: &Finding| {
        let mut first = judged.iter().filter(|(seen, _)| seen.id == of.id && seen.link < of.link);
        let is_same = |other: &Finding| other.verdict == Verdict::Wrong && other.why == finding.why;
        finding.verdict == Verdict::Wrong && !finding.why.is_empty() && first.any(|(_, other)| is_same(other))
    };
    let single = judged.iter().filter(|(seen, finding)| !is_repeated(seen, finding));
    let of_gateways = single.map(|(seen, finding)| {
        let works = works_at(seen).map(|link| match (seen.link.is_ipv6(), link.is_ipv4()) {
            (true, true) => IPV4_WORKS.to_owned(),
            _ => format!("it answers at {link}, which is enough"),
        });
        of_less_use(finding.clone(), works.as_deref())
    });
    found.extend(of_gateways);
    if found.iter().all(|finding| finding.verdict == Verdict::Skipped) {
        found.push(no_gateway(survey, facts));
    }
    // The fault that matters comes first.
    found.sort_by_key(|finding| finding.verdict == Verdict::Skipped);
    found.extend(facts.node.and_then(|node| too_many_active(survey, node, facts)));
    if !survey.gateways.is_empty() {
        found.extend(facts.node.into_iter().flat_map(|node| silent(survey, node)));
    }
    if let Some(sentence) = report::other_groups(&other_groups(survey, facts))
        && found.iter().all(|finding| !finding.why.contains(&sentence))
    {
        found.push(Finding::ok(Layer::Discovery, sentence));
    }
    found.extend(same_keys(survey));
    found
}

/// The gateways that the node has heard and that do not answer this command at any address, while others do.
fn silent(survey: &Survey, node: &Node) -> Vec<Finding> {
    let answer: BTreeSet<_> = survey.gateways.iter().map(|seen| seen.id.short()).collect();
    let mut named = BTreeSet::new();
    let heard = node.seen.gateways.iter().filter_map(|gateway| {
        let (id, ago) = (gateway.id.as_ref()?, gateway.heard_ago?);
        (!answer.contains(id) && named.insert(id.clone())).then(|| {
            let who = format!("{} at {}", report::called(gateway), gateway.address);
            let ago = report::age(ago);
            match gateway.last_state.as_deref() == Some(State::Draining.word()) {
                true => Finding::skipped(
                    Layer::Discovery,
                    format!("{who} does not answer: {ago} ago it said that it stops or goes into maintenance"),
                )
                .hint(format!("on that machine: {}", start_gateway(&node.seen.servers))),
                false => Finding::skipped(
                    Layer::Discovery,
                    format!(
                        "{who} does not answer; the node that runs here heard it last {ago} ago: it is off, it hangs, or it was started in \
                         maintenance"
                    ),
                ),
            }
        })
    });
    heard.collect()
}

/// Whether the node that runs here does not hear a gateway of its LAN: this command listens at the same port, and does not hear
/// it now; or the node has not, although it has run long enough.
fn is_deaf(node: &Node, seen: &Seen, survey: &Survey) -> bool {
    if survey.misses(seen.id) {
        return true;
    }
    let since = if seen.advert.state == State::Active { ACTIVE_HEARD } else { ANY_HEARD };
    let announces = matches!(seen.advert.state, State::Active | State::Standby);
    announces && node.seen.node.uptime > since && !hears(node, seen, since.max(RECENT))
}

/// More active gateways than the node here, which is one of them, allows: then one of them does not hear another.
fn too_many_active(survey: &Survey, node: &Node, facts: &Facts<'_>) -> Option<Finding> {
    let most = node.seen.node.most_active.filter(|_| node.seen.node.state.as_deref() == Some("active"))?;
    let others = survey.links().into_iter().filter(|seen| seen.advert.state == State::Active);
    let others: Vec<_> = others.map(|seen| format!("{} at {}", seen.name, seen.link.ip())).collect();
    if others.len() < usize::from(most) {
        return None;
    }
    // One of them may have taken over while this command was listening.
    if ask::about(node.proxy).is_ok_and(|now| now.node.state.as_deref() != Some("active")) {
        return None;
    }
    let port = facts.port;
    let others = few(&others);
    let finding = Finding::wrong(
        Layer::Discovery,
        format!("{others} and this machine are active gateways at the same time, and --active is {most}"),
    )
    .because(format!(
        "they do not hear each other: a firewall drops datagrams to UDP port {port} on one of them"
    ));
    let elsewhere = format!("on {others}: {}", open_commands_elsewhere(port, "udp"));
    Some(finding.hint(match facts.firewall {
        Some(firewall) => format!("here: {}; {elsewhere}", firewall.open_command(port, "udp")),
        None => elsewhere,
    }))
}

/// The machines that announce themselves with the same keys as another one, or as this one.
fn same_keys(survey: &Survey) -> Vec<Finding> {
    let found = survey.twins.iter().map(|twin| {
        let mut at: Vec<_> = twin.addresses.iter().map(ToString::to_string).collect();
        at.extend(twin.is_own.then(|| "this machine".to_owned()));
        copied_keys(Layer::Discovery, &twin.name, &at.join(" and "))
    });
    found.collect()
}

/// The machines of other groups that this command or the node hears.
fn other_groups(survey: &Survey, facts: &Facts<'_>) -> Vec<String> {
    let mut all: BTreeSet<_> = survey.other_groups.iter().map(ToString::to_string).collect();
    all.extend(facts.node.iter().flat_map(|node| node.seen.other_groups.iter().cloned()));
    // The node may have heard them on another LAN a moment ago.
    let members = survey.gateways.iter().map(|seen| net::plain(seen.link).ip().to_string());
    members.for_each(|member| all.retain(|other| *other != member));
    all.into_iter().collect()
}

const IPV4_WORKS: &str = "IPv4 works, which is enough";

/// The finding, as one that is not a fault where something else works.
fn of_less_use(finding: Finding, works: Option<&str>) -> Finding {
    match (finding.verdict, works) {
        (Verdict::Wrong, Some(works)) => {
            Finding::skipped(finding.layer, format!("{}; {works}", finding.what))
        }
        _ => finding,
    }
}

/// The datagrams to addresses of one version of IP that were not sent, in one finding for each error.
fn not_sent(survey: &Survey, is_v4: bool, facts: &Facts<'_>) -> Vec<(Finding, bool)> {
    let mut by_error: BTreeMap<String, Vec<&(SocketAddr, io::Error)>> = BTreeMap::new();
    for failed in survey.not_sent.iter().filter(|(to, _)| to.is_ipv4() == is_v4) {
        by_error.entry(failed.1.to_string()).or_default().push(failed);
    }
    let found = by_error.into_iter().filter_map(|(why, all)| {
        let (first, error) = all.first()?;
        let to: Vec<_> = all.iter().map(|(to, _)| to.to_string()).collect();
        let what = format!("datagrams to {} do not leave this machine", few(&to));
        let finding = Finding::wrong(Layer::Discovery, what).because(why);
        let finding = match facts.firewall {
            // What a firewall drops is not permitted; nor is what a route prohibits.
            _ if error.kind() != io::ErrorKind::PermissionDenied => {
                finding.hint(format!("{} shows whether there is a route", route_to(*first)))
            }
            Some(firewall) => firewalled(finding, firewall, facts.port),
            None => {
                finding.hint(format!("{SHOW_RULES}; {} shows a route that prohibits them", route_to(*first)))
            }
        };
        Some((finding, is_v4))
    });
    found.collect()
}

fn of_gateway(seen: &Seen, survey: &Survey, facts: &Facts<'_>) -> Finding {
    let who = format!("{} at {}, {}", seen.name, seen.link, seen.advert.state.word());
    let millis = |time: std::time::Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
    let cast = if seen.link.is_ipv6() { "multicast" } else { "broadcast" };
    let what = match (seen.by_broadcast, seen.by_unicast) {
        (Some(broadcast), Some(unicast)) => {
            return match facts.node.filter(|node| is_deaf(node, seen, survey)) {
                Some(node) => unheard(&who, node, facts),
                None => {
                    let times = (millis(broadcast), millis(unicast));
                    let what = format!("{who}: answers {cast} ({}) and unicast ({})", times.0, times.1);
                    Finding::ok(Layer::Discovery, what)
                }
            };
        }
        (None, Some(_)) => format!("answers unicast but not {cast}"),
        (Some(_), None) => format!("answers {cast} but not unicast"),
        (None, None) => "sends beacons, but none of its answers arrives".into(),
    };
    let heard = || facts.node.is_some_and(|node| hears(node, seen, RECENT));
    let receives = seen.beacon || !survey.misses(seen.id) && heard();
    // Beside a running node queries leave from another port, so a firewall that admits discovery still drops the answers.
    if survey.port_taken && facts.firewall.is_some() && receives && seen.by_broadcast.is_none() {
        let what = format!("{who}: the node that runs here receives its beacons");
        return Finding::ok(Layer::Discovery, what);
    }
    let finding = Finding::wrong(Layer::Discovery, format!("{who}: {what}"));
    if seen.by_unicast.is_none()
        && let Some(astray) = Astray::find(seen.link, facts.lans)
    {
        return astray.explain(finding);
    }
    let is_it = |(to, _): &&(SocketAddr, io::Error)| to.ip() == seen.link.ip();
    if seen.by_unicast.is_none()
        && let Some((to, error)) = survey.not_sent.iter().find(is_it)
    {
        return finding
            .because(format!("what this machine sends to {} does not leave it: {error}", to.ip()))
            .hint(format!("{} shows the route", route_to(*to)));
    }
    // This machine's firewall may have dropped an answer that it takes for unsolicited, or the query itself.
    let own = facts.blamed().filter(|firewall| seen.by_broadcast.is_none() || firewall.filters_output());
    match own {
        Some(firewall) => firewalled(finding, firewall, facts.port),
        None => {
            let (ip, port) = (seen.link.ip(), facts.port);
            let finding = finding.because(format!(
                "a firewall on {ip}, or between it and this machine, drops datagrams to UDP port {port}"
            ));
            let open = format!("on {ip}: {}", open_commands_elsewhere(port, "udp"));
            let lan = facts.lans.iter().find(|lan| lan.net.contains(&ip));
            match lan.filter(|_| ip.is_ipv4() && seen.by_broadcast.is_none()) {
                // Then the broadcasts of one are none to the other.
                Some(lan) => finding
                    .because(format!(
                        "or its prefix of this LAN is another one than here, where that is {}",
                        lan.net.trunc()
                    ))
                    .hint(format!("{open}; '{}' on both machines shows their prefixes", tools::ADDRESSES)),
                None if seen.by_unicast.is_none() => {
                    finding.because(format!("or another machine has the address {ip}, too")).hint(format!(
                        "{open}; '{}' shows whether it is the hardware of that machine",
                        tools::neighbour(&with_interface(seen.link))
                    ))
                }
                None => finding.hint(open),
            }
        }
    }
}

/// The finding about a gateway that answers this command and that the node does not hear: answers come to a port of this
/// command's own, while announcements and queries come to the port of discovery.
fn unheard(who: &str, node: &Node, facts: &Facts<'_>) -> Finding {
    let what = format!("{who}: it answers this command, but the node that runs here hears nothing from it");
    let finding = Finding::wrong(Layer::Discovery, what);
    let finding = match node.seen.node.state {
        Some(_) => finding
            .because("clients do not find this gateway, and it does not know which other gateways serve"),
        None => finding
            .because("the node uses the gateways that it remembers, and finds no other one when they fail"),
    };
    let port = facts.port;
    match facts.blamed() {
        Some(firewall) => firewalled(finding, firewall, port),
        None => finding
            .because(format!(
                "a firewall on this machine drops datagrams to UDP port {port}, or the node runs with another --lan"
            ))
            .hint(format!("'sudo nft list ruleset' shows the rules; {}", open_commands_elsewhere(port, "udp"))),
    }
}

fn firewalled(finding: Finding, firewall: &Firewall, port: u16) -> Finding {
    let why =
        format!("the firewall of this machine, {}, drops datagrams of UDP port {port}", firewall.name());
    finding.because(why).hint(firewall.open_command(port, "udp"))
}

/// Whether the node that runs here has heard a gateway in these last seconds.
fn hears(node: &Node, seen: &Seen, seconds: f64) -> bool {
    let short = seen.id.short();
    let is_it = |id: &Option<String>| id.as_ref() == Some(&short);
    node.seen
        .gateways
        .iter()
        .any(|gateway| is_it(&gateway.id) && gateway.heard_ago.is_some_and(|ago| ago < seconds))
}

/// The finding when no gateway answers.
fn no_gateway(survey: &Survey, facts: &Facts<'_>) -> Finding {
    if facts.is_candidate {
        return Finding::ok(Layer::Discovery, "no other gateway answers; this machine is one itself");
    }
    if facts.named {
        return Finding::skipped(
            Layer::Discovery,
            "no gateway answers on the LAN; those of --gateway are used",
        );
    }
    let from: Vec<_> = survey.asked_from.iter().map(ToString::to_string).collect();
    let cast = match survey.asked_from.iter().any(SocketAddr::is_ipv6) {
        true => "broadcast and IPv6 multicast",
        false => "broadcast",
    };
    let known = match facts.known.len() {
        0 => "no other address is known that could be asked by unicast".to_owned(),
        1 => "1 known gateway by unicast".to_owned(),
        known => format!("{known} known gateways by unicast"),
    };
    let finding = Finding::wrong(Layer::Discovery, "no gateway of this group answers")
        .because(format!("asked by {cast} from {}; {known}", from.join(", ")));
    let unconnected = lan::unconnected().unwrap_or_default();
    let finding = unconnected.iter().fold(finding, |finding, (interface, net)| {
        finding.because(format!("{interface}, with {net}, is switched off or not connected"))
    });
    if let Some(astray) = facts.known.iter().flatten().find_map(|to| Astray::find(*to, facts.lans)) {
        return astray.explain(finding);
    }
    let links: Vec<_> =
        facts.node.iter().flat_map(|node| &node.seen.links).map(|link| link.name.clone()).collect();
    let finding = match (links.is_empty(), facts.node.is_some_and(|node| node.seen.node.goes_direct)) {
        (false, false) => finding.because(format!(
            "the node that runs here still has its link to {}, but finds no other gateway when that fails",
            few(&links)
        )),
        _ => finding,
    };
    let port = facts.port;
    let others = report::other_groups(&other_groups(survey, facts));
    // A firewall that lets another group's announcements in would let those of this one in.
    let firewall = facts.blamed().filter(|_| others.is_none());
    let hears_others = others.is_some();
    let finding = others.into_iter().fold(finding, Finding::because);
    match (firewall, facts.node.and_then(|node| unreached(&node.seen))) {
        (Some(firewall), _) => firewalled(finding, firewall, port),
        (_, Some(servers)) => {
            let finding = unreached_here(finding, &servers, facts.node);
            finding.hint(to_reach(&servers, facts))
        }
        (_, None) if hears_others => finding.hint(OTHER_GROUP),
        (_, None) => finding.hint(format!(
            "start 'laneway up --server HOST:PORT' on a machine that reaches the server, or 'laneway up --role gateway' on one \
             that is to serve any destination, and open UDP port {port} there; \
             'laneway doctor' there names a firewall that drops it, and '{}' whether it has the same prefix as here. Behind a router, name the gateway here: 'laneway up \
             --gateway HOST:7420'",
            tools::ADDRESSES
        )),
    }
}

/// The findings when no gateway answers although `unreaching` nodes run, which do not announce themselves because they do not
/// reach their servers: that is the fault, and a later finding.
pub(super) fn excused(found: Vec<Finding>, unreaching: &[String]) -> Vec<Finding> {
    let excuse = |finding: Finding| match finding.verdict {
        Verdict::Wrong if finding.layer == Layer::Discovery => {
            let who = match unreaching {
                [one] => format!("{one} runs, but cannot reach its servers, and so does not announce itself"),
                some => format!(
                    "these nodes run, but cannot reach their servers, and so do not announce themselves: {}",
                    few(some)
                ),
            };
            Finding::skipped(Layer::Discovery, format!("{}: {who}", finding.what))
        }
        _ => finding,
    };
    found.into_iter().map(excuse).collect()
}

/// What lets one machine of the group reach the servers, judging by this one's failure.
fn to_reach(servers: &str, facts: &Facts<'_>) -> String {
    let port = facts.port;
    let start = |server: &str| {
        format!(
            "start 'laneway up --server {server}' on a machine that reaches it, and open UDP port {port} and the TCP port \
             of links there"
        )
    };
    let Some((server, failure)) = &facts.unreached else { return start(servers) };
    match failure.kind {
        Kind::Refused | Kind::NameNotFound | Kind::DnsTimeout | Kind::DnsFailed => {
            gateways::or_mistyped(server, None, &gateways::hint_for(failure, server, None))
        }
        _ => gateways::or_mistyped(server, None, &start(&server.to_string())),
    }
}

/// Why the node on this machine does not reach its servers.
fn unreached_here(finding: Finding, servers: &str, node: Option<&Node>) -> Finding {
    let unreached = node.map(|node| node.seen.unreached.as_slice()).unwrap_or_default();
    if unreached.is_empty() {
        return finding.because(format!("the node on this machine does not reach {servers} either"));
    }
    unreached.iter().fold(finding, |finding, fault| {
        let Unreached { server, reason } = fault;
        finding.because(format!("the node on this machine does not reach {server} either: {reason}"))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::report::Verdict;
    use super::*;
    use crate::wire::datagram::{Advert, Reach, Standing, State};
    use crate::wire::id::NodeId;

    fn seen(by_broadcast: bool, by_unicast: bool) -> Seen {
        let time = |answered: bool| answered.then_some(Duration::from_millis(1));
        Seen {
            id: NodeId([1; 16]),
            name: "mill-7".into(),
            link: "10.0.0.21:7420".parse().unwrap(),
            advert: Advert {
                state: State::Active,
                reach: Reach::Reachable,
                link_port: 7420,
                weight: 100,
                load: 0,
                capacity: 1,
                tunnels: 0,
                standing: Standing::default(),
                peers: vec![],
            },
            by_broadcast: time(by_broadcast),
            by_unicast: time(by_unicast),
            beacon: true,
        }
    }

    fn judged(seen: Option<Seen>, port_taken: bool, firewall: Option<&Firewall>) -> Finding {
        let survey = Survey { gateways: seen.into_iter().collect(), port_taken, ..Survey::default() };
        let mut found = judge(&survey, &facts(firewall));
        assert_eq!(found.len(), 1);
        found.remove(0)
    }

    fn facts(firewall: Option<&Firewall>) -> Facts<'_> {
        Facts {
            port: 7420,
            firewall,
            is_open: false,
            node: None,
            named: false,
            is_candidate: false,
            known: &[],
            lans: &[],
            unreached: None,
        }
    }

    #[test]
    fn a_firewall_is_reported_on_the_machine_that_has_it() {
        let ufw = Some(&Firewall::Ufw);
        assert_eq!(judged(Some(seen(true, true)), false, ufw).verdict, Verdict::Ok);
        for (seen, firewall, hint) in [
            (Some(seen(false, true)), ufw, "ufw allow 7420/udp"),
            (Some(seen(false, true)), None, "on 10.0.0.21: 'ufw allow 7420/udp'"),
            // A firewall here that admits answers to broadcasts admits those to unicasts, too.
            (Some(seen(true, false)), ufw, "on 10.0.0.21: "),
            (Some(seen(false, false)), ufw, "ufw allow 7420/udp"),
            (None, ufw, "ufw allow 7420/udp"),
            (None, None, "laneway up --server"),
        ] {
            let finding = judged(seen, false, firewall);
            assert_eq!(finding.verdict, Verdict::Wrong);
            assert!(finding.hint.as_ref().unwrap().contains(hint), "{finding:?}");
        }
    }

    #[test]
    fn datagrams_that_fail_for_one_reason_are_one_fault() {
        let denied = |to: &str| (to.parse().unwrap(), io::Error::from(io::ErrorKind::PermissionDenied));
        let not_sent = ["10.0.0.255:7420", "10.1.0.255:7420", "[ff02::1]:7420"].map(denied).into();
        let survey = Survey { not_sent, gateways: vec![seen(true, true)], ..Survey::default() };
        let found = judge(&survey, &facts(None));
        let wrong: Vec<_> = found.iter().filter(|finding| finding.verdict == Verdict::Wrong).collect();
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert_eq!(wrong[0].what, "datagrams to 10.0.0.255:7420, 10.1.0.255:7420 do not leave this machine");
    }

    #[test]
    fn a_datagram_that_is_not_sent_is_no_fault_of_the_gateway_that_gets_none() {
        let not_sent =
            ["10.0.0.21:7420"].map(|to| (to.parse().unwrap(), io::ErrorKind::PermissionDenied.into()));
        let survey =
            Survey { not_sent: not_sent.into(), gateways: vec![seen(true, false)], ..Survey::default() };
        let found = judge(&survey, &facts(None));
        assert!(found.iter().all(|finding| !finding.why.concat().contains("a firewall on")), "{found:?}");
        assert!(found[0].hint.as_ref().unwrap().contains("a route that prohibits them"), "{found:?}");
    }

    #[test]
    fn one_address_of_a_gateway_that_answers_is_enough() {
        let other = Seen { link: "10.1.0.21:7420".parse().unwrap(), ..seen(false, true) };
        let survey = Survey { gateways: vec![seen(true, true), other], ..Survey::default() };
        let found = judge(&survey, &facts(None));
        let verdicts: Vec<_> = found.iter().map(|finding| finding.verdict).collect();
        assert_eq!(verdicts, [Verdict::Ok, Verdict::Skipped], "{found:?}");
        assert!(found[1].what.ends_with("it answers at 10.0.0.21:7420, which is enough"), "{found:?}");
        // What is wrong with all of them is said once.
        let (mut first, mut second) = (seen(false, true), seen(false, true));
        (first.link, second.link) = ("10.0.0.21:7420".parse().unwrap(), "[fe80::1%2]:7420".parse().unwrap());
        let survey = Survey { gateways: vec![first, second], ..Survey::default() };
        assert_eq!(judge(&survey, &facts(Some(&Firewall::Ufw))).len(), 1);
    }

    #[test]
    fn beside_a_node_a_firewall_that_admits_its_port_is_no_fault() {
        assert_eq!(judged(Some(seen(false, true)), true, Some(&Firewall::Ufw)).verdict, Verdict::Ok);
        assert_eq!(judged(Some(seen(false, true)), true, None).verdict, Verdict::Wrong);
    }
}
