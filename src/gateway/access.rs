//! Which destinations this gateway dials. Pure.
//!
//! A destination is checked twice: as the client asked for it, before anything is resolved, and by each address that is
//! about to be dialled. Rules are tried in order and the first match decides.

mod addresses;
mod refusal;
mod rule;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use crate::failure::{Failure, Kind, Side};
use crate::telemetry::snapshot::RulesSeen;
use crate::wire::target::{Host, Target, without_dot};
use addresses::{embedded_v4, is_special, plain};
use refusal::Why;
pub use rule::{Rule, RuleError};

/// Maximum number of rules of each kind that are shown.
const MAX_SHOWN: usize = 64;

/// Names that hosts files give to the machine itself.
const LOCAL_NAMES: [&str; 6] = [
    "localhost",
    "localhost.localdomain",
    "localhost6",
    "localhost6.localdomain6",
    "ip6-localhost",
    "ip6-loopback",
];

/// The rules of one gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    rules: Vec<(Verdict, Rule)>,
    /// Whether unmatched destinations are allowed.
    open: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Allow,
    Deny,
}

impl Access {
    /// Rules in the order of precedence: `deny`, then the servers, then `allow`. With neither servers nor `allow`, everything
    /// is allowed that is not denied.
    pub fn new(servers: &[Target], allow: &[Rule], deny: &[Rule]) -> Self {
        let denied = deny.iter().map(|rule| (Verdict::Deny, rule.clone()));
        let servers_allowed = servers.iter().map(|server| (Verdict::Allow, Rule::of(server)));
        let allowed = allow.iter().map(|rule| (Verdict::Allow, rule.clone()));
        Self {
            rules: denied.chain(servers_allowed).chain(allowed).collect(),
            open: servers.is_empty() && allow.is_empty(),
        }
    }

    /// The rules, as they are shown.
    pub fn seen(&self) -> RulesSeen {
        let shown = |wanted: Verdict| {
            let rules = self.rules.iter().filter(|(verdict, _)| *verdict == wanted);
            rules.take(MAX_SHOWN).map(|(_, rule)| rule.to_string()).collect()
        };
        let is_any = |(verdict, rule): &(Verdict, Rule)| *verdict == Verdict::Allow && rule.is_any();
        RulesSeen {
            allows_any: self.open || self.rules.iter().any(is_any),
            allowed: shown(Verdict::Allow),
            denied: shown(Verdict::Deny),
        }
    }

    /// Checks the target that the client asked for. A name passes when an allowed network may contain its address.
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
                (Verdict::Deny, Some(true)) => return Err(self.refused(target, None, Why::Denied(rule))),
                // An allowed network may contain the address. Both kinds are checked again once it is resolved.
                (Verdict::Allow, None) => return Ok(()),
                (Verdict::Deny, None) | (_, Some(false)) => {}
            }
        }
        if self.open { Ok(()) } else { Err(self.refused(target, None, Why::NotAllowed)) }
    }

    /// Checks a name that an upstream proxy resolves, so that its addresses cannot be checked: it passes if a rule allows
    /// the name itself, or if everything is allowed. Names of the local machine are refused.
    ///
    /// # Errors
    /// [`Kind::NameForbidden`].
    pub fn judge_name_alone(&self, target: &Target) -> Result<(), Failure> {
        let Host::Name(name) = &target.host else { return self.judge_name(target) };
        let plain = without_dot(name);
        if LOCAL_NAMES.contains(&plain) || plain.ends_with(".localhost") {
            return Err(self.refused(target, None, Why::LocalName));
        }
        let first = self
            .rules
            .iter()
            .find(|(_, rule)| rule.has_port(target.port) && rule.matches_name(name) == Some(true));
        match first {
            Some((Verdict::Deny, rule)) => Err(self.refused(target, None, Why::Denied(rule))),
            Some((Verdict::Allow, _)) => Ok(()),
            None if self.open => Ok(()),
            None => Err(self.refused(target, None, Why::NotNamed)),
        }
    }

    /// Checks a DNS query by the name or address that it asks about: refused if no connection to it could be allowed,
    /// whatever the port.
    ///
    /// # Errors
    /// [`Kind::NameForbidden`].
    pub fn judge_question(&self, subject: &Host) -> Result<(), Failure> {
        let refused = |why: Why<'_>| {
            let sentence = why.sentence(&subject.to_string(), &subject.to_string(), self.open);
            Err(Failure::new(Kind::NameForbidden, Side::Gateway, sentence))
        };
        for (verdict, rule) in &self.rules {
            let matches = match subject {
                Host::Name(name) => rule.matches_name(name),
                Host::Address(ip) => Some(rule.matches_ip(plain(*ip))),
            };
            match (verdict, matches) {
                // An allowed network may contain its address.
                (Verdict::Allow, Some(true) | None) => return Ok(()),
                (Verdict::Deny, Some(true)) if rule.has_every_port() => return refused(Why::Denied(rule)),
                _ => {}
            }
        }
        if self.open { Ok(()) } else { refused(Why::NotAllowed) }
    }

    /// Checks an address that is about to be dialled for `target`.
    ///
    /// # Errors
    /// [`Kind::AddressForbidden`].
    pub fn judge_address(&self, target: &Target, ip: IpAddr) -> Result<(), Failure> {
        let ip = plain(ip);
        let refused = |why: Why<'_>| Err(self.refused(target, Some(ip), why));
        let name = match &target.host {
            Host::Name(name) => Some(name.as_str()),
            Host::Address(_) => None,
        };
        let applies = |rule: &Rule| {
            rule.has_port(target.port)
                && (rule.matches_ip(ip) || name.is_some_and(|name| rule.matches_name(name) == Some(true)))
        };
        match self.rules.iter().find(|(_, rule)| applies(rule)) {
            Some((Verdict::Deny, rule)) => return refused(Why::Denied(rule)),
            // A rule that merely covers a special address would not allow it.
            None if !self.open => {
                return refused(if is_special(ip) { Why::Special } else { Why::NotAllowed });
            }
            Some((Verdict::Allow, _)) | None => {}
        }
        let named = || {
            let names = |(verdict, rule): &&(Verdict, Rule)| {
                *verdict == Verdict::Allow && rule.has_port(target.port) && rule.names(ip)
            };
            self.rules.iter().find(names).is_some()
        };
        if is_special(ip) && !named() { refused(Why::Special) } else { Ok(()) }
    }

    /// Checks an address that [`Access::judge_address`] allowed against the machine's `own` addresses. Software that
    /// listens on those may trust this machine, so they are dialled only when a rule names exactly that address.
    ///
    /// # Errors
    /// [`Kind::AddressForbidden`].
    pub fn judge_own(&self, target: &Target, ip: IpAddr, own: &HashSet<IpAddr>) -> Result<(), Failure> {
        let ip = plain(ip);
        let is_own = own.contains(&ip) || embedded_v4(ip).is_some_and(|ip| own.contains(&IpAddr::V4(ip)));
        // Special addresses such as loopback have been checked with the rules that name them.
        if !is_own || is_special(ip) || self.has_rule_for(target, ip) {
            return Ok(());
        }
        Err(self.refused(target, Some(ip), Why::Own))
    }

    /// Checks an address at which a gateway of the group accepts links. Links nested in tunnels would carry one member's bytes
    /// across the same machines many times, and what the member does there would be held against the gateway that dials. So such
    /// an address is dialled only when a rule names exactly it.
    ///
    /// # Errors
    /// [`Kind::AddressForbidden`].
    pub fn judge_link(&self, target: &Target, ip: IpAddr) -> Result<(), Failure> {
        let ip = plain(ip);
        if self.has_rule_for(target, ip) { Ok(()) } else { Err(self.refused(target, Some(ip), Why::Link)) }
    }

    /// Whether a rule allows exactly this address of `target`.
    fn has_rule_for(&self, target: &Target, ip: IpAddr) -> bool {
        self.rules.iter().any(|(verdict, rule)| {
            *verdict == Verdict::Allow && rule.has_port(target.port) && rule.is_just(ip)
        })
    }

    /// The refusal of `target`, or of the address `ip` that it resolves to.
    fn refused(&self, target: &Target, ip: Option<IpAddr>, why: Why<'_>) -> Failure {
        let kind = if ip.is_some() { Kind::AddressForbidden } else { Kind::NameForbidden };
        let subject = match ip {
            Some(ip) if target.host != Host::Address(ip) => format!("{target}, which is {ip} here,"),
            _ => target.to_string(),
        };
        let allowing = match (ip, why) {
            (Some(ip), Why::Special | Why::Own | Why::Link) => SocketAddr::new(ip, target.port).to_string(),
            _ => target.to_string(),
        };
        Failure::new(kind, Side::Gateway, why.sentence(&subject, &allowing, self.open))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_refusal_names_the_option_that_refused_and_the_one_that_allows() {
        let judge = |server: &[&str], allow: &[&str], deny: &[&str], asked: &str, resolved: Option<&str>| {
            let servers: Vec<_> = server.iter().map(|text| target(text)).collect();
            let access = Access::new(&servers, &rules(allow), &rules(deny));
            let own = HashSet::from([ip("192.0.2.7")]);
            let judged = access.judge_name(&target(asked)).and_then(|()| {
                let Some(found) = resolved.map(ip) else { return Ok(()) };
                access.judge_address(&target(asked), found)?;
                access.judge_own(&target(asked), found, &own)
            });
            judged.unwrap_err().sentence
        };
        assert_eq!(
            judge(&["10.0.0.5:80"], &[], &[], "pypi.org:443", None),
            "pypi.org:443 is not in --server or --allow: add --allow pypi.org:443 there to allow it"
        );
        assert_eq!(
            judge(&[], &["192.0.2.0/24"], &[], "a.example:443", Some("10.1.2.3")),
            "a.example:443, which is 10.1.2.3 here, is not in --server or --allow: add --allow a.example:443 there to \
             allow it"
        );
        assert_eq!(
            judge(&[], &[], &["10.0.0.0/8"], "10.1.2.3:22", None),
            "10.1.2.3:22 is refused by --deny 10.0.0.0/8: change that rule there to allow it"
        );
        assert_eq!(
            judge(&[], &[], &["*.corp:1-1024"], "db.corp:22", None),
            "db.corp:22 is refused by --deny *.corp:1-1024: change that rule there to allow it"
        );
        // On a gateway without rules, the first one would close all other destinations.
        assert_eq!(
            judge(&[], &[], &[], "127.0.0.1:80", None),
            "127.0.0.1:80 is a loopback, link-local or other special address, allowed only by a rule that names it: \
             add --allow 127.0.0.1:80 --allow '*' there to allow it"
        );
        assert_eq!(
            judge(&[], &["*"], &[], "gw.example:80", Some("192.0.2.7")),
            "gw.example:80, which is 192.0.2.7 here, is the gateway's own address, allowed only by a rule for it \
             alone: add --allow 192.0.2.7:80 there to allow it"
        );
    }

    #[test]
    fn what_the_hint_of_a_refusal_adds_allows_the_destination() {
        let own = HashSet::from([ip("192.0.2.7")]);
        for (asked, resolved) in [
            ("pypi.org:443", "198.51.100.1"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[fe80::1]:80", "fe80::1"),
            ("gw.example:80", "192.0.2.7"),
            ("192.0.2.7:80", "192.0.2.7"),
        ] {
            let judge = |allow: &[Rule]| {
                let access = Access::new(&[target("10.0.0.5:80")], allow, &[]);
                access.judge_name(&target(asked))?;
                access.judge_address(&target(asked), ip(resolved))?;
                access.judge_own(&target(asked), ip(resolved), &own)
            };
            let mut allow = Vec::new();
            // The name first, then the address that it stands for.
            while let Err(failure) = judge(&allow) {
                let rule = failure.sentence.split("--allow ").last().unwrap().split(' ').next().unwrap();
                assert!(allow.len() < 2, "{asked}: {failure}");
                allow.push(rule.parse().unwrap());
            }
        }
    }

    #[test]
    fn where_a_gateway_accepts_links_is_dialled_only_by_a_rule_for_that_address() {
        let judge = |allow: &[&str], asked: &str| {
            Access::new(&[], &rules(allow), &[]).judge_link(&target(asked), ip("10.77.0.22"))
        };
        for allow in [&[][..], &["*"], &["10.77.0.0/24:7420"], &["10.77.0.22:80"], &["gw.example:7420"]] {
            let refusal = judge(allow, "gw.example:7420").unwrap_err();
            assert_eq!(refusal.kind, Kind::AddressForbidden, "{allow:?}");
            assert!(refusal.sentence.contains("add --allow 10.77.0.22:7420"), "{refusal}");
        }
        assert!(judge(&["10.77.0.22:7420"], "gw.example:7420").is_ok());
        assert!(judge(&["10.77.0.22"], "10.77.0.22:7420").is_ok());
    }

    #[test]
    fn what_is_shown_of_the_rules_says_whether_other_destinations_are_closed() {
        let seen =
            |server: &[Target], allow: &[&str]| Access::new(server, &rules(allow), &rules(&["*:25"])).seen();
        assert!(seen(&[], &[]).allows_any && seen(&[target("10.0.0.5:80")], &["*"]).allows_any);
        let closed = seen(&[target("10.0.0.5:80")], &["*:443"]);
        assert!(!closed.allows_any);
        assert_eq!(
            (closed.allowed, closed.denied),
            (vec!["10.0.0.5:80".into(), "*:443".into()], vec!["*:25".into()])
        );
    }

    #[test]
    fn a_question_is_refused_when_no_connection_could_be_for_it() {
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
        let judge = |allow: &[&str], deny: &[&str], target: &str| {
            let access = Access::new(&[], &rules(allow), &rules(deny));
            access.judge_name_alone(&target.parse().unwrap()).is_ok()
        };
        assert!(judge(&[], &[], "example.org:443"));
        assert!(judge(&["*.example.org:443"], &[], "www.example.org:443"));
        assert!(!judge(&["*.example.org:443"], &[], "www.example.org:80"));
        assert!(!judge(&["10.0.0.0/8"], &[], "example.org:443"), "its address cannot be judged");
        assert!(!judge(&["*"], &["example.org"], "example.org:443"));
        for local in
            ["localhost:80", "LOCALHOST.:80", "db.localhost:80", "db.localhost.:80", "ip6-localhost:80"]
        {
            assert!(!judge(&["*", "localhost"], &[], local), "{local}");
        }
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
            "::ffff:0:127.0.0.1",
            "2001:0:102:304:0:0:80ff:fffe",
            "2001:db8::5efe:127.0.0.1",
            "2001:db8::200:5efe:127.0.0.1",
        ] {
            let failure = access.judge_address(&target("rebound.example:80"), ip(special)).unwrap_err();
            assert_eq!(failure.kind, Kind::AddressForbidden, "{special}");
        }
        assert!(access.judge_name(&target("127.0.0.1:80")).is_err());
    }

    #[test]
    fn the_metadata_services_of_clouds_are_dialled_only_when_a_rule_names_their_address() {
        for metadata in [
            "169.254.169.254",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "fd00:c1::a9fe:a9fe",
            "fd00:42::42",
            "fd00:a9fe:a9fe::1",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "::ffff:168.63.129.16",
            "64:ff9b::6464:64c8",
            "2002:c000:c0::1",
        ] {
            let judge = |allow: &[&str]| {
                let access = Access::new(&[], &rules(allow), &[]);
                access.judge_address(&target("rebound.example:80"), ip(metadata)).is_ok()
            };
            assert!(!judge(&[]) && !judge(&["*"]) && !judge(&["0.0.0.0/0", "::/0"]), "{metadata}");
            let named = plain(ip(metadata)).to_string();
            assert!(judge(&["*", &named]), "{metadata}");
        }
        let open = Access::new(&[], &[], &[]);
        for neighbour in ["fd00:ec2::253", "100.100.100.201", "168.63.129.17", "192.0.0.193"] {
            assert!(open.judge_address(&target("a.example:80"), ip(neighbour)).is_ok(), "{neighbour}");
        }
    }

    #[test]
    fn no_form_of_an_address_passes_as_a_name() {
        let denied = Access::new(&[], &[], &rules(&["127.0.0.0/8", "10.0.0.0/8"]));
        for text in [
            "127.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "127.0.0.1.",
            "\u{ff11}\u{ff12}\u{ff17}.0.0.1",
            "[::ffff:127.0.0.1]",
            "[::127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "10.1",
            "0xa000001",
            "[::ffff:10.0.0.1]",
            "[64:ff9b::a00:1]",
        ] {
            let target = target(&format!("{text}:80"));
            // With an upstream proxy a name would be passed on unresolved.
            for judged in [denied.judge_name(&target), denied.judge_name_alone(&target)] {
                assert_eq!(judged.unwrap_err().kind, Kind::AddressForbidden, "{text}");
            }
            let subject = denied.judge_question(&target.host);
            assert_eq!(subject.unwrap_err().kind, Kind::NameForbidden, "{text}");
        }
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
}
