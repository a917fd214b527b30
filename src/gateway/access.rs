//! Which destinations this gateway dials. Pure.
//!
//! A destination is judged twice: by what was asked for, before anything is resolved, and by the address that
//! is about to be dialled. Rules are tried in order and the first match decides.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::Deserialize;

use crate::failure::{Failure, Kind, Side};
use crate::wire::target::{Host, Target};

/// A pattern of destinations: `HOST`, `*.DOMAIN`, `ADDRESS`, `CIDR` or `*`, each with an optional `:PORT` or
/// `:PORT-PORT`; IPv6 in brackets when a port follows.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Rule {
    hosts: Hosts,
    ports: (u16, u16),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    Any,
    Name(String),
    Below(String),
    Net(IpNet),
}

/// A pattern that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a rule: write a host, *.domain, address, CIDR or *, each with an optional :port or :port-port, and IPv6 with a port in brackets"
)]
pub struct RuleError(String);

/// The rules of one gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    rules: Vec<(Verdict, Rule)>,
    open: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Allow,
    Deny,
}

impl Access {
    /// Rules from the configuration: what is denied comes first, then the servers, then what is allowed.
    /// With neither servers nor allowed destinations, everything is allowed that is not denied.
    pub fn new(servers: &[Target], allow: &[Rule], deny: &[Rule]) -> Self {
        let denied = deny.iter().map(|rule| (Verdict::Deny, rule.clone()));
        let servers_allowed = servers.iter().map(|server| (Verdict::Allow, Rule::of(server)));
        let allowed = allow.iter().map(|rule| (Verdict::Allow, rule.clone()));
        Self {
            rules: denied.chain(servers_allowed).chain(allowed).collect(),
            open: servers.is_empty() && allow.is_empty(),
        }
    }

    /// Judges what was asked for. A name that no rule mentions passes when its addresses may still decide.
    ///
    /// # Errors
    /// [`Kind::NameForbidden`], or [`Kind::AddressForbidden`] for an address.
    pub fn judge_name(&self, target: &Target) -> Result<(), Failure> {
        let name = match &target.host {
            Host::Address(ip) => return self.judge_address(target, *ip),
            Host::Name(name) => name,
        };
        for (verdict, rule) in &self.rules {
            if !rule.has_port(target.port) {
                continue;
            }
            match (verdict, rule.matches_name(name)) {
                (Verdict::Allow, Some(true)) => return Ok(()),
                (Verdict::Deny, Some(true)) => return Err(refused(Kind::NameForbidden, target, None)),
                // An allowed network may hold the address; a denied one is judged again with it.
                (Verdict::Allow, None) => return Ok(()),
                (Verdict::Deny, None) | (_, Some(false)) => {}
            }
        }
        if self.open { Ok(()) } else { Err(refused(Kind::NameForbidden, target, None)) }
    }

    /// Judges a name whose addresses somebody else resolves, so that they cannot be judged: it passes where a rule names
    /// it, or where everything is allowed. Names that mean this machine are refused.
    ///
    /// # Errors
    /// [`Kind::NameForbidden`].
    pub fn judge_name_alone(&self, target: &Target) -> Result<(), Failure> {
        let Host::Name(name) = &target.host else { return self.judge_name(target) };
        let is_local = name == "localhost" || name.ends_with(".localhost");
        let first = self
            .rules
            .iter()
            .find(|(_, rule)| rule.has_port(target.port) && rule.matches_name(name) == Some(true));
        let allowed = first.map_or(self.open, |(verdict, _)| *verdict == Verdict::Allow);
        if allowed && !is_local { Ok(()) } else { Err(refused(Kind::NameForbidden, target, None)) }
    }

    /// Judges a question to the gateway's name servers by the name or address that it is about: one that no connection
    /// could be for, to whatever port, is not asked.
    ///
    /// # Errors
    /// [`Kind::NameForbidden`].
    pub fn judge_question(&self, subject: &Host) -> Result<(), Failure> {
        let refused = || {
            let sentence = format!("the gateway's rules refuse questions about {subject}");
            Err(Failure::new(Kind::NameForbidden, Side::Gateway, sentence))
        };
        for (verdict, rule) in &self.rules {
            let matches = match subject {
                Host::Name(name) => rule.matches_name(name),
                Host::Address(ip) => Some(rule.matches_ip(plain(*ip))),
            };
            match (verdict, matches) {
                // Its address may be in an allowed network.
                (Verdict::Allow, Some(true) | None) => return Ok(()),
                (Verdict::Deny, Some(true)) if rule.has_every_port() => return refused(),
                _ => {}
            }
        }
        if self.open { Ok(()) } else { refused() }
    }

    /// Judges the address that is about to be dialled for `target`.
    ///
    /// # Errors
    /// [`Kind::AddressForbidden`].
    pub fn judge_address(&self, target: &Target, ip: IpAddr) -> Result<(), Failure> {
        let ip = plain(ip);
        let forbidden = || refused(Kind::AddressForbidden, target, Some(ip));
        let name = match &target.host {
            Host::Name(name) => Some(name.as_str()),
            Host::Address(_) => None,
        };
        let applies = |rule: &Rule| {
            rule.has_port(target.port)
                && (rule.matches_ip(ip) || name.is_some_and(|name| rule.matches_name(name) == Some(true)))
        };
        let first = self.rules.iter().find(|(_, rule)| applies(rule));
        let allowed = first.map_or(self.open, |(verdict, _)| *verdict == Verdict::Allow);
        if !allowed {
            return Err(forbidden());
        }
        let named = || {
            let names = |(verdict, rule): &&(Verdict, Rule)| {
                *verdict == Verdict::Allow && rule.has_port(target.port) && rule.names(ip)
            };
            self.rules.iter().find(names).is_some()
        };
        if is_special(ip) && !named() { Err(forbidden()) } else { Ok(()) }
    }

    /// Judges an address that [`Access::judge_address`] has passed by the machine's `own` addresses: what listens on
    /// them trusts this machine, so they are dialled only when a rule names just that address.
    ///
    /// # Errors
    /// [`Kind::AddressForbidden`].
    pub fn judge_own(&self, target: &Target, ip: IpAddr, own: &HashSet<IpAddr>) -> Result<(), Failure> {
        let ip = plain(ip);
        let is_own = own.contains(&ip) || embedded_v4(ip).is_some_and(|ip| own.contains(&IpAddr::V4(ip)));
        let named = || {
            self.rules.iter().any(|(verdict, rule)| {
                *verdict == Verdict::Allow && rule.has_port(target.port) && rule.is_just(ip)
            })
        };
        // What is special besides has been judged with those.
        if !is_own || is_special(ip) || named() {
            return Ok(());
        }
        let sentence = format!("the gateway's rules refuse {target}: {ip} is the gateway's own address");
        Err(Failure::new(Kind::AddressForbidden, Side::Gateway, sentence))
    }
}

/// Addresses that mean the gateway itself, its own link or nobody: never dialled unless a rule names them.
fn is_special(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_special_v4(ip),
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_unicast_link_local()
                || is_local_nat64(ip)
                || embedded_v4(ip.into()).is_some_and(is_special_v4)
        }
    }
}

/// 64:ff9b:1::/48, for NAT64 within one network (RFC 8215). Where the IPv4 address lies in it is the network's own
/// business (RFC 6052 §2.2), so that nobody else can say whether it is a forbidden one.
fn is_local_nat64(ip: Ipv6Addr) -> bool {
    ip.segments()[..3] == [0x64, 0xff9b, 1]
}

/// The IPv4 address that some IPv6 addresses lead to: IPv4-compatible (::/96), NAT64 (64:ff9b::/96, RFC 6052, and the
/// usual form of 64:ff9b:1::/48) and 6to4 (2002::/16, RFC 3056).
fn embedded_v4(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else { return None };
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x64, 0xff9b, 1, _, _, _, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => None,
    }
}

fn is_special_v4(ip: Ipv4Addr) -> bool {
    let [first, ..] = ip.octets();
    first == 0 || ip.is_loopback() || ip.is_link_local() || first >= 224
}

fn plain(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

fn refused(kind: Kind, target: &Target, ip: Option<IpAddr>) -> Failure {
    let sentence = match ip {
        Some(ip) if target.host != Host::Address(ip) => {
            format!("the gateway's rules refuse {target}: it resolves to {ip}")
        }
        _ => format!("the gateway's rules refuse {target}"),
    };
    Failure::new(kind, Side::Gateway, sentence)
}

impl Rule {
    fn of(server: &Target) -> Self {
        let hosts = match &server.host {
            Host::Name(name) => Hosts::Name(name.clone()),
            Host::Address(ip) => Hosts::Net(IpNet::from(*ip)),
        };
        Self { hosts, ports: (server.port, server.port) }
    }

    fn has_port(&self, port: u16) -> bool {
        (self.ports.0..=self.ports.1).contains(&port)
    }

    /// Whether the rule is about this target as it was asked for.
    pub fn covers(&self, target: &Target) -> bool {
        self.has_port(target.port)
            && match &target.host {
                Host::Name(name) => self.matches_name(name) == Some(true),
                Host::Address(ip) => self.matches_ip(plain(*ip)),
            }
    }

    fn has_every_port(&self) -> bool {
        self.ports.0 <= 1 && self.ports.1 == u16::MAX
    }

    /// Whether the rule is about this name; `None` when only its address can tell.
    fn matches_name(&self, name: &str) -> Option<bool> {
        match &self.hosts {
            Hosts::Any => Some(true),
            Hosts::Name(rule) => Some(rule == name),
            Hosts::Below(domain) => Some(
                name.strip_suffix(domain.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            ),
            Hosts::Net(_) => None,
        }
    }

    fn matches_ip(&self, ip: IpAddr) -> bool {
        match &self.hosts {
            Hosts::Any => true,
            Hosts::Net(net) => {
                net.contains(&ip) || embedded_v4(ip).is_some_and(|ip| net.contains(&IpAddr::V4(ip)))
            }
            Hosts::Name(_) | Hosts::Below(_) => false,
        }
    }

    /// Whether the rule means just this address: a network of loopback or link-local addresses counts, the
    /// whole internet does not.
    fn names(&self, ip: IpAddr) -> bool {
        let Hosts::Net(net) = &self.hosts else { return false };
        // Both ends of 0.0.0.0/0 are special too: only within one special block do the ends speak for the rest.
        // An IPv4 address inside an IPv6 one has its first octet after 96 bits at most.
        let within_one_block = match net {
            IpNet::V4(net) => net.prefix_len() >= 8,
            IpNet::V6(net) => {
                let first = net.network();
                net.prefix_len() >= 104
                    || first.is_multicast()
                    || first.is_unicast_link_local()
                    || net.prefix_len() >= 48 && is_local_nat64(first)
            }
        };
        net.contains(&ip) && within_one_block && is_special(net.network()) && is_special(net.broadcast())
    }

    /// Whether the rule is about this one address.
    fn is_just(&self, ip: IpAddr) -> bool {
        matches!(&self.hosts, Hosts::Net(net) if *net == IpNet::from(ip))
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let error = || RuleError(text.to_owned());
        let (host, ports) = split_ports(text);
        let ports = match ports {
            None => (1, u16::MAX),
            Some(ports) => {
                let (low, high) = ports.split_once('-').unwrap_or((ports, ports));
                let low = low.parse().map_err(|_gone: std::num::ParseIntError| error())?;
                let high = high.parse().map_err(|_gone: std::num::ParseIntError| error())?;
                if low == 0 || low > high {
                    return Err(error());
                }
                (low, high)
            }
        };
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        let hosts = if host == "*" {
            Hosts::Any
        } else if let Ok(net) = bare.parse::<IpNet>() {
            Hosts::Net(net.trunc())
        } else if let Ok(ip) = bare.parse::<IpAddr>() {
            Hosts::Net(ip.into())
        } else if let Some(domain) = host.strip_prefix("*.") {
            match Host::parse(domain) {
                Ok(Host::Name(domain)) => Hosts::Below(domain),
                _ => return Err(error()),
            }
        } else {
            match Host::parse(host) {
                Ok(Host::Name(name)) => Hosts::Name(name),
                _ => return Err(error()),
            }
        };
        Ok(Self { hosts, ports })
    }
}

impl TryFrom<String> for Rule {
    type Error = RuleError;

    fn try_from(text: String) -> Result<Self, RuleError> {
        text.parse()
    }
}

/// Splits `HOST:PORTS`; the colons of a bare IPv6 address are not that.
fn split_ports(text: &str) -> (&str, Option<&str>) {
    if text.parse::<Ipv6Addr>().is_ok() || text.parse::<ipnet::Ipv6Net>().is_ok() {
        return (text, None);
    }
    match text.rsplit_once(':') {
        Some((host, ports)) if !ports.ends_with(']') => (host, Some(ports)),
        _ => (text, None),
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hosts {
            Hosts::Any => f.write_str("*")?,
            Hosts::Name(name) => f.write_str(name)?,
            Hosts::Below(domain) => write!(f, "*.{domain}")?,
            Hosts::Net(IpNet::V4(net)) => write!(f, "{net}")?,
            Hosts::Net(IpNet::V6(net)) => write!(f, "[{net}]")?,
        }
        match self.ports {
            (1, u16::MAX) => Ok(()),
            (low, high) if low == high => write!(f, ":{low}"),
            (low, high) => write!(f, ":{low}-{high}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_refused_when_no_connection_could_be_for_it() {
        let rules =
            |texts: &[&str]| -> Vec<Rule> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let judge = |allow: &[&str], deny: &[&str], subject: &str| {
            let access = Access::new(&[], &rules(allow), &rules(deny));
            access.judge_question(&Host::parse(subject).unwrap()).is_ok()
        };
        assert!(judge(&[], &[], "example.org"));
        assert!(!judge(&[], &["*.example.org"], "www.example.org"));
        assert!(judge(&[], &["*.example.org:25"], "www.example.org"), "other ports are allowed");
        assert!(judge(&["example.org:443"], &[], "example.org"));
        assert!(!judge(&["example.org:443"], &[], "example.com"));
        assert!(judge(&["example.org:443", "10.0.0.0/8"], &[], "example.com"), "it may be in the network");
        assert!(judge(&["10.0.0.0/8"], &[], "10.0.0.1") && !judge(&["10.0.0.0/8"], &[], "192.0.2.1"));
        assert!(!judge(&[], &["*"], "example.org"));
    }

    #[test]
    fn a_name_that_somebody_else_resolves_is_judged_by_rules_that_name_it() {
        let rules =
            |texts: &[&str]| -> Vec<Rule> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let judge = |allow: &[&str], deny: &[&str], target: &str| {
            let access = Access::new(&[], &rules(allow), &rules(deny));
            access.judge_name_alone(&target.parse().unwrap()).is_ok()
        };
        assert!(judge(&[], &[], "example.org:443"));
        assert!(judge(&["*.example.org:443"], &[], "www.example.org:443"));
        assert!(!judge(&["*.example.org:443"], &[], "www.example.org:80"));
        assert!(!judge(&["10.0.0.0/8"], &[], "example.org:443"), "its address cannot be judged");
        assert!(!judge(&["*"], &["example.org"], "example.org:443"));
        for local in ["localhost:80", "db.localhost:80"] {
            assert!(!judge(&["*", "localhost"], &[], local), "{local}");
        }
    }
    use proptest::prelude::*;

    fn rules(texts: &[&str]) -> Vec<Rule> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn target(text: &str) -> Target {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn without_rules_everything_is_allowed_but_the_gateway_itself() {
        let access = Access::new(&[], &[], &[]);
        assert!(access.judge_name(&target("example.org:443")).is_ok());
        assert!(access.judge_address(&target("example.org:443"), ip("192.168.1.1")).is_ok());
        for special in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a00:1",
            "64:ff9b:1:fffe:aaaa::1",
        ] {
            let failure = access.judge_address(&target("rebound.example:80"), ip(special)).unwrap_err();
            assert_eq!(failure.kind, Kind::AddressForbidden, "{special}");
        }
        assert!(access.judge_name(&target("127.0.0.1:80")).is_err());
    }

    #[test]
    fn with_servers_only_those_are_allowed() {
        let access = Access::new(&[target("10.0.0.5:80"), target("files.corp:443")], &[], &[]);
        assert!(access.judge_name(&target("10.0.0.5:80")).is_ok());
        assert!(access.judge_name(&target("10.0.0.5:81")).is_err());
        assert!(access.judge_name(&target("files.corp:443")).is_ok());
        assert!(access.judge_address(&target("files.corp:443"), ip("10.1.1.1")).is_ok());
        assert!(access.judge_name(&target("other.corp:443")).is_err());
    }

    #[test]
    fn a_denied_address_is_refused_behind_any_name() {
        let access = Access::new(&[], &rules(&["*.corp"]), &rules(&["10.0.0.0/8"]));
        assert!(access.judge_name(&target("a.corp:80")).is_ok());
        assert!(access.judge_address(&target("a.corp:80"), ip("192.0.2.1")).is_ok());
        assert!(access.judge_address(&target("a.corp:80"), ip("10.2.3.4")).is_err());
        assert!(access.judge_address(&target("a.corp:80"), ip("::ffff:10.2.3.4")).is_err());
    }

    #[test]
    fn a_name_may_pass_by_its_address_and_is_judged_again_with_it() {
        let access = Access::new(&[], &rules(&["10.0.0.0/8:80"]), &[]);
        assert!(access.judge_name(&target("any.name:80")).is_ok());
        assert!(access.judge_address(&target("any.name:80"), ip("10.0.0.1")).is_ok());
        assert!(access.judge_address(&target("any.name:80"), ip("11.0.0.1")).is_err());
        assert!(access.judge_name(&target("any.name:81")).is_err());
    }

    #[test]
    fn loopback_is_dialled_only_when_a_rule_names_it() {
        let named = Access::new(&[target("127.0.0.1:8080")], &[], &[]);
        assert!(named.judge_name(&target("127.0.0.1:8080")).is_ok());
        assert!(named.judge_name(&target("127.0.0.1:8081")).is_err());
        let network = Access::new(&[], &rules(&["127.0.0.0/8"]), &[]);
        assert!(network.judge_name(&target("127.0.0.1:1")).is_ok());
        for wide in ["*", "0.0.0.0/0"] {
            assert!(Access::new(&[], &rules(&[wide]), &[]).judge_name(&target("127.0.0.1:1")).is_err());
        }
        for wide in ["::/0", "::/96", "64:ff9b::/96"] {
            let access = Access::new(&[], &rules(&[wide]), &[]);
            for target in [target("[::1]:1"), target("[64:ff9b::7f00:1]:1"), target("[fe80::1]:1")] {
                assert!(access.judge_name(&target).is_err(), "{wide} {target}");
            }
        }
        for (narrow, address) in
            [("::1", "[::1]:1"), ("fe80::/10", "[fe80::1]:1"), ("64:ff9b:1::/48", "[64:ff9b:1::a00:1]:1")]
        {
            assert!(Access::new(&[], &rules(&[narrow]), &[]).judge_name(&target(address)).is_ok());
        }
        let by_name = Access::new(&[target("localhost:80")], &[], &[]);
        assert!(by_name.judge_address(&target("localhost:80"), ip("127.0.0.1")).is_err());
    }

    #[test]
    fn the_gateways_own_addresses_are_dialled_only_when_a_rule_is_about_just_that_one() {
        let own = HashSet::from([ip("192.0.2.7"), ip("2001:db8::7"), ip("127.0.0.1")]);
        let forms = [
            "192.0.2.7",
            "2001:db8::7",
            "::ffff:192.0.2.7",
            "::192.0.2.7",
            "2002:c000:207::1",
            "64:ff9b::c000:207",
        ];
        let open = Access::new(&[], &[], &[]);
        for wide in [open.clone(), Access::new(&[], &rules(&["*", "192.0.2.0/24", "2001:db8::/32"]), &[])] {
            for form in forms {
                let failure = wide.judge_own(&target("rebound.example:80"), ip(form), &own).unwrap_err();
                assert_eq!((failure.kind, failure.side), (Kind::AddressForbidden, Side::Gateway), "{form}");
            }
            assert!(wide.judge_own(&target("192.0.2.8:80"), ip("192.0.2.8"), &own).is_ok());
        }
        // Only the address that is named, in the form and on the port in which it is named.
        let named = Access::new(&[target("192.0.2.7:80")], &rules(&["[2001:db8::7]"]), &[]);
        let judge = |text: &str| named.judge_own(&target(text), target(text).address().unwrap().ip(), &own);
        assert!(judge("192.0.2.7:80").is_ok() && judge("[::ffff:192.0.2.7]:80").is_ok());
        assert!(judge("[2001:db8::7]:443").is_ok());
        assert!(judge("192.0.2.7:81").is_err() && judge("[64:ff9b::c000:207]:80").is_err());
        // Loopback is judged as such.
        let loopback = Access::new(&[], &rules(&["127.0.0.0/8"]), &[]);
        assert!(loopback.judge_own(&target("127.0.0.1:1"), ip("127.0.0.1"), &own).is_ok());
    }

    #[test]
    fn a_domain_pattern_is_not_a_suffix_match() {
        let access = Access::new(&[], &rules(&["*.corp"]), &[]);
        assert!(access.judge_name(&target("a.b.corp:80")).is_ok());
        assert!(access.judge_name(&target("corp:80")).is_err());
        assert!(access.judge_name(&target("evilcorp:80")).is_err());
    }

    #[test]
    fn rules_read_back_and_nonsense_is_refused() {
        for text in ["*", "*:443", "a.b:1-2", "*.a.b:80", "10.0.0.0/8:80", "[fd00::/8]:443"] {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
        }
        assert_eq!("fd00::/8".parse::<Rule>().unwrap().to_string(), "[fd00::/8]");
        for text in ["", "a b", "a:0", "a:2-1", "a:x", "a:", "*a", "10.0.0.0/33", "[::1", "a:1:2"] {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_rule_or_an_error(text in "\\PC{0,40}") {
            if let Ok(rule) = text.parse::<Rule>() {
                prop_assert_eq!(rule.to_string().parse::<Rule>(), Ok(rule));
            }
        }
    }
}
