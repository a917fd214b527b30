//! Which of the packets that a node lives by the rules of this machine's firewall drop for certain, in either direction.

use std::net::SocketAddr;

use ipnet::IpNet;

use super::firewall::{self, Firewall};
use super::legacy;
use super::machine::Node;
use super::neighbours;
use super::report::{Finding, Layer, Verdict};
use super::ruleset::{Direction, Packet, Ruleset, Stop};
use crate::config::Config;
use crate::lan::{self, Lan};
use crate::net;
use crate::peers::options::PORT;

/// A port that no part of laneway has: what passes from there and not from its own port is dropped because of that port.
const OTHER_PORT: u16 = 49_999;

/// How the places of firewalld's chains begin.
const FIREWALLD: &str = "inet firewalld ";

/// The rules of this machine, and the networks on which it meets other machines.
pub(super) struct Filter<'a> {
    rules: Ruleset,
    firewall: Firewall,
    lans: &'a [Lan],
}

/// A packet on which something depends.
struct Needed<'a> {
    packet: Packet<'a>,
    /// What happens where it is dropped.
    effect: &'static str,
}

/// What keeps packets from passing.
pub(super) struct Drop {
    /// Which packets these are: `incoming packets to TCP port 7420`.
    what: String,
    /// Whether their senders are told.
    rejects: bool,
    interface: String,
    /// The firewall, and which chain of it.
    chain: String,
    /// The command that lets them pass.
    command: String,
}

impl Drop {
    /// What happens to them.
    fn verb(&self) -> &'static str {
        if self.rejects { "rejects" } else { "drops" }
    }

    /// Why, with the name of the chain.
    fn why(&self) -> String {
        format!("{} {} them", self.chain, self.verb())
    }

    /// The finding, with this machine's firewall as the reason. A firewall that rejects packets answers in place of the other
    /// machine.
    pub(super) fn explain(self, finding: Finding) -> Finding {
        finding
            .because(format!("the firewall of this machine {} {}", self.verb(), self.what))
            .because(self.why())
            .hint(self.command)
    }
}

impl<'a> Filter<'a> {
    /// The rules in force; `None` without a firewall, or where only root could read them.
    pub(super) fn new(firewall: Option<&Firewall>, lans: &'a [Lan]) -> Option<Self> {
        let (firewall, rules) = firewall.cloned().zip(Firewall::rules())?;
        let services = std::fs::read_to_string("/etc/services").unwrap_or_default();
        Some(Self { rules: Ruleset::parse(&rules, &services), firewall, lans })
    }

    /// Whether datagrams of discovery pass for certain, on every LAN and in both directions.
    pub(super) fn admits_discovery(&self, port: u16) -> bool {
        let lans = self.lans.iter().filter(|lan| is_v4(lan));
        lans.flat_map(|lan| datagrams(lan, port)).all(|needed| self.rules.admits(&needed.packet))
    }

    /// The findings about the packets of a gateway, and of its links at the port `link`.
    fn of_gateway(&self, link: u16, discovery: u16) -> Vec<Finding> {
        self.findings(|lan| {
            let effect = "no client can make a link to this gateway";
            let asked = Packet { to_port: Some(link), ..arriving(lan, "tcp") };
            let answer = Packet { from_port: Some(link), is_answer: true, ..leaving(lan, "tcp") };
            let links = [asked, answer].map(|packet| Needed { packet, effect });
            links.into_iter().chain(datagrams(lan, discovery)).collect()
        })
    }

    /// The findings about queries of a node that do not leave its machine, where this command's queries from another port do.
    fn of_node(&self, discovery: u16) -> Vec<Finding> {
        let is_by_port = |needed: &Needed<'_>| {
            let other = Packet { from_port: Some(OTHER_PORT), ..needed.packet };
            needed.packet.direction == Direction::Out && self.rules.stops(&other).is_none()
        };
        let effect = "the node that runs here cannot ask for gateways";
        self.findings(|lan| {
            let needed = datagrams(lan, discovery).filter(is_by_port);
            needed.map(|needed| Needed { effect, ..needed }).collect()
        })
    }

    /// What drops the packets of a link from this machine to `gateway`.
    pub(super) fn of_link(&self, gateway: SocketAddr) -> Option<Drop> {
        let lan = self.lans.iter().find(|lan| lan.net.contains(&gateway.ip()))?;
        let (there, port) = (IpNet::from(gateway.ip()), Some(gateway.port()));
        let asked = Packet { to_port: port, to: there, ..leaving(lan, "tcp") };
        let answer = Packet { from_port: port, from: there, is_answer: true, ..arriving(lan, "tcp") };
        [asked, answer].iter().find_map(|packet| self.dropped(packet))
    }

    /// What drops the packets of `protocol` from this machine to `destination`, on whatever network that is.
    pub(super) fn of_destination(&self, protocol: &str, destination: SocketAddr) -> Option<Drop> {
        let own = net::own_address_to(destination)?;
        let all = lan::interfaces().ok()?;
        let (interface, _) = all.iter().find(|(_, addresses)| addresses.contains(&own))?;
        self.dropped(&Packet {
            direction: Direction::Out,
            protocol,
            from_port: None,
            to_port: Some(destination.port()),
            interface,
            from: IpNet::from(own),
            to: IpNet::from(destination.ip()),
            is_broadcast: false,
            is_answer: false,
        })
    }

    /// The firewall, if it may drop packets of a link from this machine to `gateway`.
    pub(super) fn doubted(&self, gateway: SocketAddr) -> Option<&Firewall> {
        let lan = self.lans.iter().find(|lan| lan.net.contains(&gateway.ip()))?;
        let asked = Packet { to_port: Some(gateway.port()), ..leaving(lan, "tcp") };
        (!self.rules.admits(&asked)).then_some(&self.firewall)
    }

    /// One finding for each kind of packet that is dropped. If another network lets it pass, the drop may be meant: an uplink is
    /// a network like others. With both versions of IP, a gateway is of use by either, so only IPv4 counts.
    fn findings(&self, needed: impl Fn(&'a Lan) -> Vec<Needed<'a>>) -> Vec<Finding> {
        let has_v4 = self.lans.iter().any(is_v4);
        let lans = self.lans.iter().filter(|lan| !has_v4 || is_v4(lan));
        let judge = |Needed { packet, effect }: Needed<'_>| (self.dropped(&packet), effect);
        let judged: Vec<Vec<_>> =
            lans.clone().map(|lan| needed(lan).into_iter().map(judge).collect()).collect();
        let passes = |what: &str| {
            let drops = |of_lan: &Vec<(Option<Drop>, _)>| {
                of_lan.iter().any(|(found, _)| found.as_ref().is_some_and(|found| found.what == what))
            };
            lans.clone()
                .zip(&judged)
                .find(|(_, of_lan)| !drops(of_lan))
                .map(|(lan, _)| lan.interface.as_str())
        };
        let mut known = Vec::new();
        let mut found = Vec::new();
        let all = judged.iter().flatten().filter_map(|(found, effect)| Some((found.as_ref()?, effect)));
        for (drop, effect) in all {
            let (why, verb, Drop { what, interface, command, .. }) = (drop.why(), drop.verb(), drop);
            if known.contains(&what) {
                continue;
            }
            known.push(what);
            let fault = format!("the firewall of this machine {verb} {what} on {interface}");
            found.push(match passes(what) {
                None => {
                    Finding::wrong(Layer::Firewall, format!("{fault}: {effect}")).because(why).hint(command)
                }
                Some(other) => {
                    let meant =
                        format!("{fault}, and not on {other}: as it should be if all members are there");
                    Finding::skipped(Layer::Firewall, meant)
                        .because(why)
                        .hint(format!("otherwise: {command}"))
                }
            });
        }
        found
    }

    fn dropped(&self, packet: &Packet<'_>) -> Option<Drop> {
        let Stop { chain, rejects } = self.rules.stops(packet)?;
        // Which end tells the packet from others.
        let is_by_source = match packet.direction {
            Direction::In => packet.is_answer,
            Direction::Out => packet.from_port.is_some(),
        };
        let (end, key, port) = match is_by_source {
            true => ("from", "sport", packet.from_port?),
            false => ("to", "dport", packet.to_port?),
        };
        let (protocol, arrives) = (packet.protocol, packet.direction == Direction::In);
        let way = if arrives { "incoming" } else { "outgoing" };
        let command = match &self.firewall {
            Firewall::Ufw if is_of_ufw(chain) => {
                let way = if arrives { "in" } else { "out" };
                format!("ufw prepend allow {way} proto {protocol} {end} any port {port}")
            }
            Firewall::Firewalld if chain.starts_with(FIREWALLD) && arrives && !is_by_source => {
                self.firewall.open_command(port, protocol)
            }
            _ => firewall::open_chain(chain, protocol, key, port),
        };
        let chain = match legacy::Chain::at(chain) {
            Some(legacy) => format!("{}: the chain '{}'", legacy.program, legacy.name),
            None => format!("{}: the chain '{chain}'", self.firewall.name()),
        };
        Some(Drop {
            what: format!("{way} packets {end} {} port {port}", protocol.to_uppercase()),
            rejects,
            interface: packet.interface.to_owned(),
            chain,
            command,
        })
    }
}

/// The finding that something does not answer by `protocol`, with the reason if that is on this machine or beside it: its
/// firewall drops what is sent to one of `destinations`, or nobody is there.
pub(super) async fn explain(
    finding: Finding,
    filter: Option<&Filter<'_>>,
    protocol: &str,
    destinations: &[SocketAddr],
) -> Finding {
    if finding.verdict != Verdict::Wrong {
        return finding;
    }
    let dropped = |filter: &Filter<'_>| {
        destinations.iter().find_map(|destination| filter.of_destination(protocol, *destination))
    };
    match filter.and_then(dropped) {
        Some(drop) => drop.explain(finding),
        None => neighbours::explain(finding, destinations.iter().copied()).await,
    }
}

/// Whether a base chain is one of those that ufw fills.
fn is_of_ufw(chain: &str) -> bool {
    if let Some(legacy) = legacy::Chain::at(chain) {
        return legacy.table == "filter" && ["INPUT", "OUTPUT"].contains(&legacy.name);
    }
    ["ip filter INPUT", "ip filter OUTPUT", "ip6 filter INPUT", "ip6 filter OUTPUT"].contains(&chain)
}

/// The findings about the firewall of a machine, whose rules the packets of its node have to pass.
pub(super) fn check(
    filter: &Filter<'_>,
    config: &Config,
    is_gateway: bool,
    node: Option<&Node>,
) -> Vec<Finding> {
    let discovery = config.peers.discovery_port;
    if !is_gateway {
        return node.map(|_| filter.of_node(discovery)).unwrap_or_default();
    }
    let running = node.and_then(|node| node.seen.node.link.as_deref()?.parse().ok());
    let link = running.or(config.gateway.link).map_or(PORT, |address: SocketAddr| address.port());
    filter.of_gateway(link, discovery)
}

/// The datagrams by which nodes find gateways: to this machine, to all, and those that this machine sends.
fn datagrams(lan: &Lan, port: u16) -> impl Iterator<Item = Needed<'_>> {
    let all = lan.everybody(port).ip();
    let ports = |packet| Packet { from_port: Some(port), to_port: Some(port), ..packet };
    let arriving = ports(arriving(lan, "udp"));
    let leaving = ports(leaving(lan, "udp"));
    let broadcast = |packet| Packet { to: IpNet::from(all), is_broadcast: true, ..packet };
    [
        (arriving, "clients and other gateways do not find this gateway"),
        (broadcast(arriving), "clients and other gateways do not find this gateway"),
        (leaving, "clients and other gateways do not find this gateway"),
        (broadcast(leaving), "clients and other gateways do not hear this gateway"),
    ]
    .into_iter()
    .map(|(packet, effect)| Needed { packet, effect })
}

/// The first packet of another machine to this one.
fn arriving<'a>(lan: &'a Lan, protocol: &'a str) -> Packet<'a> {
    Packet {
        direction: Direction::In,
        protocol,
        from_port: None,
        to_port: None,
        interface: &lan.interface,
        from: lan.net,
        to: IpNet::from(lan.net.addr()),
        is_broadcast: false,
        is_answer: false,
    }
}

/// The first packet of this machine to another one.
fn leaving<'a>(lan: &'a Lan, protocol: &'a str) -> Packet<'a> {
    let Packet { from, to, .. } = arriving(lan, protocol);
    Packet { direction: Direction::Out, from: to, to: from, ..arriving(lan, protocol) }
}

fn is_v4(lan: &Lan) -> bool {
    lan.net.addr().is_ipv4()
}
