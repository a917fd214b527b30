//! What the rules of nftables do with a packet that arrives at this machine, as far as the output of `nft list ruleset` tells.
//! What this does not know may match or not, so that it only says what is certain.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

/// Maximum depth of jumps; the kernel has 16 (`NFT_JUMP_STACK_SIZE`).
const MAX_JUMPS: u8 = 16;

/// The first packet of another machine on a LAN.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    /// `tcp` or `udp`.
    pub(super) protocol: &'a str,
    /// Its destination port.
    pub(super) port: u16,
    /// The interface at which it arrives.
    pub(super) interface: &'a str,
    /// The network that its source is in.
    pub(super) from: IpNet,
    /// Its destination.
    pub(super) to: IpAddr,
    /// Whether all machines of the LAN receive it.
    pub(super) is_broadcast: bool,
}

/// The chains and sets of all tables, by family, table and name, as `inet filter input`.
#[derive(Debug, Default)]
pub(super) struct Ruleset {
    chains: BTreeMap<String, Chain>,
    sets: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Default)]
struct Chain {
    /// Whether it sees each packet that arrives.
    is_base: bool,
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
    /// It goes on to the next rule.
    goes_on: bool,
    /// It goes on after the rule that led to this chain.
    returns: bool,
}

impl Fates {
    const UNKNOWN: Self = Self { accepted: true, dropped: true, goes_on: true, returns: true };

    fn or(self, other: Self) -> Self {
        Self {
            accepted: self.accepted || other.accepted,
            dropped: self.dropped || other.dropped,
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
    /// Reads the output of `nft list ruleset`.
    pub(super) fn parse(text: &str) -> Self {
        let (mut all, mut table, mut place) = (Self::default(), String::new(), None);
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
                    chain.is_base = rest.contains("hook input") || rest.contains("hook prerouting");
                    chain.is_base &= rest.starts_with("filter");
                    chain.drops = rest.contains("policy drop");
                } else if !line.is_empty() {
                    chain.rules.push(words(line));
                }
            }
        }
        all
    }

    /// The chain that drops the packet for certain.
    pub(super) fn drops(&self, packet: &Packet<'_>) -> Option<&str> {
        let dropping = self.fates(packet).into_iter().find(|(_, fates)| !fates.accepted);
        dropping.map(|(place, _)| place)
    }

    /// Whether the packet passes for certain.
    pub(super) fn admits(&self, packet: &Packet<'_>) -> bool {
        !self.fates(packet).iter().any(|(_, fates)| fates.dropped)
    }

    /// What each base chain does with the packet: it accepts or drops it.
    fn fates(&self, packet: &Packet<'_>) -> Vec<(&str, Fates)> {
        let sees = |place: &str| match place.split(' ').next() {
            Some("ip") => packet.to.is_ipv4(),
            Some("ip6") => packet.to.is_ipv6(),
            family => family == Some("inet"),
        };
        let base = self.chains.iter().filter(|(place, chain)| chain.is_base && sees(place));
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
        const ON: Fates = Fates { accepted: false, dropped: false, goes_on: true, returns: false };
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
                        // What is not known takes words up to the verdict.
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
            "drop" | "reject" => Fates { dropped: true, ..none },
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
                None => key.is(value, packet),
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

/// What a rule looks at.
#[derive(Clone, Copy, Debug)]
enum Key {
    State,
    Status,
    Interface,
    Source,
    Destination,
    Protocol,
    Port,
    Family,
    Cast,
    Unknown,
}

/// The key that these words begin with, whether the packet is of the kind that has it, and the words after it.
fn key<'a>(words: &'a [String], packet: &Packet<'_>) -> Option<(Key, bool, &'a [String])> {
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    let is_v6 = packet.to.is_ipv6();
    let (key, has_it, length) = match (word(0), word(1)) {
        ("ct", "state") => (Key::State, true, 2),
        ("ct", "status") => (Key::Status, true, 2),
        ("iif" | "iifname", _) => (Key::Interface, true, 1),
        ("meta", "iif" | "iifname") => (Key::Interface, true, 2),
        ("meta", "l4proto") => (Key::Protocol, true, 2),
        ("meta", "nfproto") => (Key::Family, true, 2),
        ("meta", "pkttype") => (Key::Cast, true, 2),
        ("pkttype", _) => (Key::Cast, true, 1),
        ("fib", "daddr") if word(2) == "type" => (Key::Cast, true, 3),
        (family @ ("ip" | "ip6"), "saddr") => (Key::Source, (family == "ip6") == is_v6, 2),
        (family @ ("ip" | "ip6"), "daddr") => (Key::Destination, (family == "ip6") == is_v6, 2),
        ("ip", "protocol") => (Key::Protocol, !is_v6, 2),
        ("ip6", "nexthdr") => (Key::Protocol, is_v6, 2),
        ("th", "dport") => (Key::Port, true, 2),
        (protocol @ ("tcp" | "udp"), "dport") => (Key::Port, protocol == packet.protocol, 2),
        (protocol @ ("tcp" | "udp"), "sport") => (Key::Unknown, protocol == packet.protocol, 2),
        ("icmp" | "icmpv6", "type" | "code") => (Key::Unknown, false, 2),
        _ => return None,
    };
    Some((key, has_it, &words[length..]))
}

impl Key {
    /// Whether its value in the packet is this one.
    fn is(self, value: &str, packet: &Packet<'_>) -> Truth {
        let value = value.trim_matches('"');
        match self {
            Self::Unknown => Truth::Maybe,
            Self::State => Truth::of(value == "new"),
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
            Self::Family => Truth::of((value == "ipv6") == packet.to.is_ipv6()),
            Self::Cast => Truth::of(match value {
                "broadcast" | "multicast" => packet.is_broadcast,
                "local" | "unicast" | "host" => !packet.is_broadcast,
                _ => false,
            }),
            Self::Port => {
                let (first, last) = value.split_once('-').unwrap_or((value, value));
                match (first.parse::<u16>(), last.parse::<u16>()) {
                    (Ok(first), Ok(last)) => Truth::of((first..=last).contains(&packet.port)),
                    // A name of a service: none has the port of laneway.
                    _ => Truth::No,
                }
            }
            Self::Destination => match range(value) {
                Some((first, last)) => Truth::of((first..=last).contains(&packet.to)),
                None => Truth::Maybe,
            },
            Self::Source => match range(value) {
                Some((first, last)) => {
                    let net = packet.from;
                    match (first <= net.network(), last >= net.broadcast()) {
                        (true, true) => Truth::Yes,
                        _ if last < net.network() || first > net.broadcast() => Truth::No,
                        // Some machines of the LAN, and not others.
                        _ => Truth::Maybe,
                    }
                }
                None => Truth::Maybe,
            },
        }
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
mod tests {
    use super::*;

    /// The chains that drop the first packet to a gateway's TCP port 7420.
    fn tcp(rules: &str) -> Option<String> {
        let (rules, packet) = (Ruleset::parse(rules), packet());
        let dropped = rules.drops(&packet).map(str::to_owned);
        assert!(dropped.is_none() || !rules.admits(&packet), "it cannot be both");
        dropped
    }

    fn packet() -> Packet<'static> {
        Packet {
            protocol: "tcp",
            port: 7420,
            interface: "eth1",
            from: "10.77.0.21/24".parse().unwrap(),
            to: "10.77.0.21".parse().unwrap(),
            is_broadcast: false,
        }
    }

    /// A table with these rules in its chain of incoming packets.
    fn input(policy: &str, rules: &str) -> String {
        format!(
            "table inet t {{\n\tset s {{\n\t\ttype inet_service\n\t\telements = {{ 22, 80,\n\t\t\t     7420 }}\n\t}}\n\n\tchain x \
             {{\n\t\ttcp dport 7420 accept\n\t\treturn\n\t}}\n\n\tchain input {{\n\t\ttype filter hook input priority filter; \
             policy {policy};\n\t\t{rules}\n\t}}\n}}\n"
        )
    }

    #[test]
    fn what_is_dropped_for_certain_is_told() {
        for (policy, rules) in [
            ("accept", "tcp dport 7420 drop"),
            ("accept", "tcp dport { 80, 7000-8000 } counter packets 3 bytes 180 reject with tcp reset"),
            ("accept", "tcp dport @s drop"),
            ("accept", "iifname \"eth*\" ip saddr 10.0.0.0/8 drop"),
            ("accept", "tcp dport != 22 log prefix \"no , drop {\" level info drop"),
            ("accept", "tcp dport vmap { 22 : accept, 7420 : drop }"),
            ("accept", "udp dport 7420 accept\n\t\tmeta l4proto tcp drop"),
            ("drop", ""),
            ("drop", "ct state established,related accept\n\t\tiif \"lo\" accept\n\t\ttcp dport 22 accept"),
            ("drop", "ct state vmap { invalid : drop, established : accept }\n\t\tudp dport 7420 accept"),
            (
                "drop",
                "ip saddr 192.168.0.0/16 accept\n\t\tip6 saddr fe80::/10 accept\n\t\tudp dport 7420 jump x",
            ),
            ("drop", "icmp type echo-request accept\n\t\tfib daddr type broadcast accept"),
            ("drop", "tcp dport 7420 ct state != new accept"),
            ("drop", "ct status dnat accept"),
        ] {
            assert_eq!(tcp(&input(policy, rules)).as_deref(), Some("inet t input"), "{policy}: {rules}");
        }
    }

    #[test]
    fn what_passes_or_is_uncertain_is_not_told() {
        for (policy, rules) in [
            ("accept", ""),
            ("accept", "udp dport 7420 drop\n\t\tiifname \"eth0\" drop\n\t\tip saddr 10.1.0.0/16 drop"),
            ("drop", "tcp dport 7420 accept"),
            ("drop", "jump x"),
            ("drop", "goto x"),
            ("drop", "tcp dport { 22, 7420 } ct state new limit rate 25/second accept"),
            ("drop", "ip saddr 10.77.0.16/30 accept"),
            ("drop", "meta mark 0x00000001 accept"),
            ("drop", "xt match \"multiport\" accept"),
            ("accept", "tcp flags & (fin | syn) == syn drop"),
            ("drop", "jump unknown"),
        ] {
            assert_eq!(tcp(&input(policy, rules)), None, "{policy}: {rules}");
        }
        for (policy, rules, admits) in [
            ("accept", "", true),
            ("drop", "tcp dport 7420 accept", true),
            ("drop", "ct state invalid drop\n\t\tlimit rate 3/minute accept\n\t\tjump x", true),
            ("drop", "tcp dport 7420 limit rate 25/second accept", false),
            ("accept", "meta mark 0x00000001 drop", false),
        ] {
            assert_eq!(Ruleset::parse(&input(policy, rules)).admits(&packet()), admits, "{policy}: {rules}");
        }
        let forward = input("drop", "").replace("hook input", "hook forward");
        assert_eq!(tcp(&forward), None);
        assert_eq!(tcp(&input("drop", "").replace("inet t", "ip6 t")), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in "(?s).{0,200}", rules in "[a-z0-9 {},:@!=\"/.-]{0,80}") {
            tcp(&text);
            tcp(&input("drop", &rules));
        }
    }
}
