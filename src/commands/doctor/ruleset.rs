//! What the rules of nftables do with a packet that arrives at this machine or leaves it, as far as the output of `nft list
//! ruleset` tells. A match that is not known here may apply or not, so only what is certain is said.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::services::Services;

/// Maximum depth of jumps; the kernel has 16 (`NFT_JUMP_STACK_SIZE`).
const MAX_JUMPS: u8 = 16;

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// It arrives at this machine.
    In,
    /// It leaves this machine.
    Out,
}

/// A packet between this machine and others on a LAN.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub(super) direction: Direction,
    /// `tcp` or `udp`.
    pub(super) protocol: &'a str,
    /// Its source port; `None` for any.
    pub(super) from_port: Option<u16>,
    /// Its destination port; `None` for any.
    pub(super) to_port: Option<u16>,
    /// The interface at which it arrives, or by which it leaves.
    pub(super) interface: &'a str,
    /// The address or the network that its source is in.
    pub(super) from: IpNet,
    /// The address or the network that its destination is in.
    pub(super) to: IpNet,
    /// Whether it is for all machines of the LAN.
    pub(super) is_broadcast: bool,
    /// Whether it belongs to a connection that is established.
    pub(super) is_answer: bool,
}

/// What keeps a packet from passing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stop<'a> {
    /// The base chain, with its family and table.
    pub(super) chain: &'a str,
    /// Whether the sender is told, at once.
    pub(super) rejects: bool,
}

/// The chains and sets of all tables, by family, table and name, as `inet filter input`.
#[derive(Debug, Default)]
pub(super) struct Ruleset {
    chains: BTreeMap<String, Chain>,
    sets: BTreeMap<String, Vec<String>>,
    services: Services,
}

#[derive(Debug, Default)]
struct Chain {
    /// Which packets it sees; `None` for a chain that rules lead to.
    base: Option<Direction>,
    /// The policy of a base chain.
    drops: bool,
    rules: Vec<Vec<String>>,
}

/// Whether something holds for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    Yes,
    No,
    Maybe,
}

/// What may become of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Fates {
    accepted: bool,
    dropped: bool,
    /// It is dropped, and its sender is told.
    rejected: bool,
    /// It goes on to the next rule.
    goes_on: bool,
    /// It goes on after the rule that led to this chain.
    returns: bool,
}

impl Fates {
    const UNKNOWN: Self =
        Self { accepted: true, dropped: true, rejected: true, goes_on: true, returns: true };

    fn or(self, other: Self) -> Self {
        Self {
            accepted: self.accepted || other.accepted,
            dropped: self.dropped || other.dropped,
            rejected: self.rejected || other.rejected,
            goes_on: self.goes_on || other.goes_on,
            returns: self.returns || other.returns,
        }
    }
}

impl Truth {
    fn of(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Maybe,
        }
    }

    fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Maybe => Self::Maybe,
        }
    }
}

impl Ruleset {
    /// Reads the output of `nft list ruleset`, and /etc/services, in which nft finds the names of ports (services(5)).
    pub(super) fn parse(text: &str, services: &str) -> Self {
        let (mut all, mut table, mut place) =
            (Self { services: Services::read(services), ..Self::default() }, String::new(), None);
        let mut lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        while let Some(line) = lines.next() {
            let opened = line.strip_suffix('{').map(str::trim);
            if let Some(name) = opened.and_then(|line| line.strip_prefix("table ")) {
                (table, place) = (name.to_owned(), None);
            } else if let Some(name) = opened.and_then(|line| line.strip_prefix("chain ")) {
                place = Some(format!("{table} {name}"));
                all.chains.insert(format!("{table} {name}"), Chain::default());
            } else if let Some(name) = opened.and_then(|line| line.strip_prefix("set ")) {
                let body: Vec<_> = lines.by_ref().take_while(|line| *line != "}").collect();
                let elements = body.join(" ").split_once("elements = ").map(|(_, all)| words(all));
                all.sets.insert(format!("{table} {name}"), elements.unwrap_or_default());
            } else if line == "}" {
                place = None;
            } else if let Some(chain) = place.as_ref().and_then(|place| all.chains.get_mut(place)) {
                if let Some(rest) = line.strip_prefix("type ") {
                    chain.base = direction(rest);
                    chain.drops = rest.contains("policy drop");
                } else if !line.is_empty() {
                    chain.rules.push(words(line));
                }
            }
        }
        all
    }

    /// What keeps the packet from passing for certain.
    pub(super) fn stops(&self, packet: &Packet<'_>) -> Option<Stop<'_>> {
        let stopping = self.fates(packet).into_iter().find(|(_, fates)| !fates.accepted);
        stopping.map(|(chain, fates)| Stop { chain, rejects: fates.rejected && !fates.dropped })
    }

    /// Whether the packet passes for certain.
    pub(super) fn admits(&self, packet: &Packet<'_>) -> bool {
        !self.fates(packet).iter().any(|(_, fates)| fates.dropped || fates.rejected)
    }

    /// What each base chain does with the packet: it accepts or drops it.
    fn fates(&self, packet: &Packet<'_>) -> Vec<(&str, Fates)> {
        let sees = |place: &str| match place.split(' ').next() {
            Some("ip") => packet.to.addr().is_ipv4(),
            Some("ip6") => packet.to.addr().is_ipv6(),
            family => family == Some("inet"),
        };
        let base =
            self.chains.iter().filter(|(place, chain)| chain.base == Some(packet.direction) && sees(place));
        let each = base.map(|(place, chain)| {
            let mut fates = self.walk(place, packet, 0);
            let ends = fates.goes_on || fates.returns;
            fates.dropped |= ends && chain.drops;
            fates.accepted |= ends && !chain.drops;
            (place.as_str(), fates)
        });
        each.collect()
    }

    /// What the chain does with the packet.
    fn walk(&self, place: &str, packet: &Packet<'_>, depth: u8) -> Fates {
        let Some(chain) = self.chains.get(place).filter(|_| depth < MAX_JUMPS) else { return Fates::UNKNOWN };
        let table = place.rsplit_once(' ').map_or("", |(table, _)| table);
        let mut all = Fates::default();
        for rule in &chain.rules {
            let fates = self.judge(rule, table, packet, depth);
            all = all.or(Fates { goes_on: false, ..fates });
            if !fates.goes_on {
                return all;
            }
        }
        Fates { goes_on: true, ..all }
    }

    /// What one rule does with the packet.
    fn judge(&self, rule: &[String], table: &str, packet: &Packet<'_>, depth: u8) -> Fates {
        const ON: Fates =
            Fates { accepted: false, dropped: false, rejected: false, goes_on: true, returns: false };
        let (mut matches, mut rest) = (Truth::Yes, rule);
        while let Some((word, after)) = rest.split_first() {
            if let Some(fates) = self.verdict(rest, table, packet, depth) {
                return match matches {
                    Truth::Yes => fates,
                    Truth::No => ON,
                    Truth::Maybe => fates.or(ON),
                };
            }
            rest = match word.as_str() {
                "counter" if after.first().is_some_and(|word| word == "packets") => {
                    &after[4.min(after.len())..]
                }
                "counter" => after,
                "log" | "comment" => without_statement(after),
                _ => {
                    let Some((key, has_it, more)) = key(rest, packet) else {
                        // An unknown match takes the words up to the verdict.
                        matches = matches.and(Truth::Maybe);
                        rest = after;
                        continue;
                    };
                    matches = matches.and(Truth::of(has_it));
                    let (negated, more) = match more.split_first() {
                        Some((word, more)) if word == "!=" => (true, more),
                        Some((word, more)) if word == "==" => (false, more),
                        _ => (false, more),
                    };
                    if more.first().is_some_and(|word| word == "vmap") {
                        return match matches {
                            Truth::No => ON,
                            Truth::Yes => self.map(key, &more[1..], table, packet, depth),
                            Truth::Maybe => self.map(key, &more[1..], table, packet, depth).or(ON),
                        };
                    }
                    let (elements, more) = elements(more);
                    let found = self.is_among(key, &elements, table, packet);
                    matches = matches.and(if negated { found.not() } else { found });
                    more
                }
            };
            if matches == Truth::No {
                return ON;
            }
        }
        ON
    }

    /// The verdict that these words begin with.
    fn verdict(&self, words: &[String], table: &str, packet: &Packet<'_>, depth: u8) -> Option<Fates> {
        let none = Fates::default();
        let target = || {
            let name = words.get(1).map_or("", String::as_str);
            self.walk(&format!("{table} {name}"), packet, depth + 1)
        };
        Some(match words.first()?.as_str() {
            "accept" => Fates { accepted: true, ..none },
            "drop" => Fates { dropped: true, ..none },
            "reject" => Fates { rejected: true, ..none },
            "return" => Fates { returns: true, ..none },
            "continue" => Fates { goes_on: true, ..none },
            "queue" => Fates { accepted: true, dropped: true, ..none },
            "jump" => {
                let fates = target();
                Fates { goes_on: fates.goes_on || fates.returns, returns: false, ..fates }
            }
            "goto" => {
                let fates = target();
                Fates { returns: fates.goes_on || fates.returns, goes_on: false, ..fates }
            }
            _ => return None,
        })
    }

    /// What a verdict map does with the packet: its elements are `{ VALUE : VERDICT, … }`.
    fn map(&self, key: Key, rest: &[String], table: &str, packet: &Packet<'_>, depth: u8) -> Fates {
        if rest.first().is_none_or(|word| word != "{") {
            return Fates::UNKNOWN;
        }
        let inside: Vec<_> = rest[1..].iter().take_while(|word| *word != "}").cloned().collect();
        let mut all = Fates::default();
        for element in inside.split(|word| word == ",") {
            let mut parts = element.splitn(2, |word| word == ":");
            let (Some(value), Some(verdict)) = (parts.next(), parts.next()) else { return Fates::UNKNOWN };
            let found = self.is_among(key, value, table, packet);
            let fates = self.verdict(verdict, table, packet, depth).unwrap_or(Fates::UNKNOWN);
            match found {
                Truth::No => {}
                Truth::Yes => return all.or(fates),
                Truth::Maybe => all = all.or(fates),
            }
        }
        Fates { goes_on: true, ..all }
    }

    /// Whether the packet's `key` is one of these values.
    fn is_among(&self, key: Key, values: &[String], table: &str, packet: &Packet<'_>) -> Truth {
        let mut found = Truth::No;
        for value in values.iter().filter(|value| *value != ",") {
            let one = match value.strip_prefix('@') {
                None => key.is(value, packet, &self.services),
                Some(name) => match self.sets.get(&format!("{table} {name}")) {
                    None => Truth::Maybe,
                    Some(set) => {
                        let (inside, _) = elements(set);
                        self.is_among(key, &inside, "", packet)
                    }
                },
            };
            match one {
                Truth::Yes => return Truth::Yes,
                Truth::Maybe => found = Truth::Maybe,
                Truth::No => {}
            }
        }
        found
    }
}

/// The packets that a base chain of this type sees.
fn direction(kind: &str) -> Option<Direction> {
    let hooks = |hooks: [&str; 2]| hooks.iter().any(|hook| kind.contains(&format!("hook {hook} ")));
    let filters = kind.starts_with("filter") || kind.starts_with("route");
    match (hooks(["input", "prerouting"]), hooks(["output", "postrouting"])) {
        (true, _) if filters => Some(Direction::In),
        (_, true) if filters => Some(Direction::Out),
        _ => None,
    }
}

/// What a rule looks at.
#[derive(Clone, Copy, Debug)]
enum Key {
    State,
    Status,
    Interface,
    Source,
    Destination,
    Protocol,
    SourcePort,
    Port,
    Family,
    Cast,
    AddressType,
    Unknown,
}

/// The key that these words begin with, whether the packet is of the kind that has it, and the words after it.
fn key<'a>(words: &'a [String], packet: &Packet<'_>) -> Option<(Key, bool, &'a [String])> {
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    let (is_v6, arrives) = (packet.to.addr().is_ipv6(), packet.direction == Direction::In);
    let (key, has_it, length) = match (word(0), word(1)) {
        ("ct", "state") => (Key::State, true, 2),
        ("ct", "status") => (Key::Status, true, 2),
        ("iif" | "iifname", _) => (Key::Interface, arrives, 1),
        ("oif" | "oifname", _) => (Key::Interface, !arrives, 1),
        ("meta", "iif" | "iifname") => (Key::Interface, arrives, 2),
        ("meta", "oif" | "oifname") => (Key::Interface, !arrives, 2),
        ("meta", "l4proto") => (Key::Protocol, true, 2),
        ("meta", "nfproto") => (Key::Family, true, 2),
        ("meta", "pkttype") => (Key::Cast, true, 2),
        ("pkttype", _) => (Key::Cast, true, 1),
        ("fib", "daddr") if word(2) == "type" => (Key::AddressType, true, 3),
        (family @ ("ip" | "ip6"), "saddr") => (Key::Source, (family == "ip6") == is_v6, 2),
        (family @ ("ip" | "ip6"), "daddr") => (Key::Destination, (family == "ip6") == is_v6, 2),
        ("ip", "protocol") => (Key::Protocol, !is_v6, 2),
        ("ip6", "nexthdr") => (Key::Protocol, is_v6, 2),
        ("th", "dport") => (Key::Port, true, 2),
        ("th", "sport") => (Key::SourcePort, true, 2),
        (protocol @ ("tcp" | "udp"), "dport") => (Key::Port, protocol == packet.protocol, 2),
        (protocol @ ("tcp" | "udp"), "sport") => (Key::SourcePort, protocol == packet.protocol, 2),
        ("icmp" | "icmpv6", "type" | "code") => (Key::Unknown, false, 2),
        _ => return None,
    };
    Some((key, has_it, &words[length..]))
}

impl Key {
    /// Whether its value in the packet is this one.
    fn is(self, value: &str, packet: &Packet<'_>, services: &Services) -> Truth {
        let value = value.trim_matches('"');
        match self {
            Self::Unknown => Truth::Maybe,
            Self::State => Truth::of(value == if packet.is_answer { "established" } else { "new" }),
            Self::Status if packet.is_answer => Truth::Maybe,
            // Neither an answer, nor is its address translated.
            Self::Status => Truth::No,
            Self::Interface => Truth::of(match value.strip_suffix('*') {
                Some(beginning) => packet.interface.starts_with(beginning),
                None => packet.interface == value,
            }),
            Self::Protocol => match value {
                "6" => Truth::of(packet.protocol == "tcp"),
                "17" => Truth::of(packet.protocol == "udp"),
                name => Truth::of(packet.protocol == name),
            },
            Self::Family => Truth::of((value == "ipv6") == packet.to.addr().is_ipv6()),
            // The kernel notes it only of packets that arrive.
            Self::Cast if packet.direction == Direction::Out => Truth::Maybe,
            Self::Cast | Self::AddressType => Truth::of(match value {
                "broadcast" | "multicast" => packet.is_broadcast,
                "local" | "host" => !packet.is_broadcast && packet.direction == Direction::In,
                "unicast" => !packet.is_broadcast,
                _ => false,
            }),
            Self::Port => is_port(value, packet.to_port, services),
            Self::SourcePort => is_port(value, packet.from_port, services),
            Self::Destination => is_within(value, packet.to),
            Self::Source => is_within(value, packet.from),
        }
    }
}

/// Whether a port, or any if it is `None`, is among those of a value.
fn is_port(value: &str, port: Option<u16>, services: &Services) -> Truth {
    match (services.ports(value), port) {
        (Some((first, last)), Some(port)) => Truth::of((first..=last).contains(&port)),
        _ => Truth::Maybe,
    }
}

/// Whether all addresses of `net` are among those of `value`; some of them may be.
fn is_within(value: &str, net: IpNet) -> Truth {
    let Some((first, last)) = range(value) else { return Truth::Maybe };
    match (first <= net.network(), last >= net.broadcast()) {
        (true, true) => Truth::Yes,
        _ if last < net.network() || first > net.broadcast() => Truth::No,
        _ => Truth::Maybe,
    }
}

/// The first and the last address of `ADDRESS`, `NET/LENGTH` or `FIRST-LAST`.
fn range(value: &str) -> Option<(IpAddr, IpAddr)> {
    if let Some((first, last)) = value.split_once('-') {
        return Some((first.parse().ok()?, last.parse().ok()?));
    }
    let net: IpNet = value.parse().ok().or_else(|| value.parse::<IpAddr>().ok().map(IpNet::from))?;
    Some((net.network(), net.broadcast()))
}

/// The values at the beginning of these words, one, several with commas or a set in braces, and the words after them.
fn elements(words: &[String]) -> (Vec<String>, &[String]) {
    match words.split_first() {
        Some((word, rest)) if word == "{" => {
            let end = rest.iter().position(|word| word == "}").unwrap_or(rest.len());
            (rest[..end].to_vec(), &rest[(end + 1).min(rest.len())..])
        }
        _ => {
            let mut end = words.len().min(1);
            while words.get(end).is_some_and(|word| word == ",") && end + 1 < words.len() {
                end += 2;
            }
            (words[..end].to_vec(), &words[end..])
        }
    }
}

/// The words after the options of `log` or the text of `comment`.
fn without_statement(words: &[String]) -> &[String] {
    let mut rest = words;
    while let Some((word, after)) = rest.split_first() {
        rest = match word.as_str() {
            "prefix" | "level" | "group" | "flags" | "snaplen" | "queue-threshold" => {
                &after[1.min(after.len())..]
            }
            text if text.starts_with('"') => after,
            _ => return rest,
        };
    }
    rest
}

/// The words of a line; braces, colons and commas between them are words of their own, and a quoted text is one word.
fn words(line: &str) -> Vec<String> {
    let (mut all, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        quoted ^= c == '"';
        if quoted || !(c.is_whitespace() || matches!(c, ',' | '{' | '}')) {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            all.push(std::mem::take(&mut word));
        }
        if !c.is_whitespace() {
            all.push(c.to_string());
        }
    }
    if !word.is_empty() {
        all.push(word);
    }
    all
}

#[cfg(test)]
mod tests;
