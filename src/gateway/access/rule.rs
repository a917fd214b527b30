//! One access rule: a pattern of destinations.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

use super::addresses::{embedded_v4, is_local_nat64, is_special, plain};
use crate::wire::target::{Host, Target, is_nearly_address, without_dot};

/// A pattern of destinations: `HOST`, `*.DOMAIN`, `ADDRESS`, `CIDR` or `*`, each with an optional `:PORT` or
/// `:PORT-PORT`; IPv6 in brackets when a port follows.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// The text is not a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a rule: write a host, *.domain, address (IPv4 as four numbers up to 255), CIDR or *, each with an optional :port or :port-port, and IPv6 with a port in brackets"
)]
pub struct RuleError(String);

impl Rule {
    /// The rule that covers just this server.
    pub(super) fn of(server: &Target) -> Self {
        let hosts = match &server.host {
            Host::Name(name) => Hosts::Name(without_dot(name).to_owned()),
            Host::Address(ip) => Hosts::Net(IpNet::from(*ip)),
        };
        Self { hosts, ports: (server.port, server.port) }
    }

    pub(super) fn has_port(&self, port: u16) -> bool {
        (self.ports.0..=self.ports.1).contains(&port)
    }

    /// Whether the rule matches this target as the client asked for it.
    pub fn covers(&self, target: &Target) -> bool {
        self.has_port(target.port)
            && match &target.host {
                Host::Name(name) => self.matches_name(name) == Some(true),
                Host::Address(ip) => self.matches_ip(plain(*ip)),
            }
    }

    /// Whether the rule matches every destination.
    pub(super) fn is_any(&self) -> bool {
        self.hosts == Hosts::Any && self.has_every_port()
    }

    pub(super) fn has_every_port(&self) -> bool {
        self.ports.0 <= 1 && self.ports.1 == u16::MAX
    }

    /// Whether the rule matches this name; `None` when that depends on its address.
    pub(super) fn matches_name(&self, name: &str) -> Option<bool> {
        let name = without_dot(name);
        match &self.hosts {
            Hosts::Any => Some(true),
            Hosts::Name(rule) => Some(rule == name),
            Hosts::Below(domain) => Some(
                name.strip_suffix(domain.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            ),
            Hosts::Net(_) => None,
        }
    }

    pub(super) fn matches_ip(&self, ip: IpAddr) -> bool {
        match &self.hosts {
            Hosts::Any => true,
            Hosts::Net(net) => {
                net.contains(&ip) || embedded_v4(ip).is_some_and(|ip| net.contains(&IpAddr::V4(ip)))
            }
            Hosts::Name(_) | Hosts::Below(_) => false,
        }
    }

    /// Whether the rule names this special address: a network of only such addresses does (loopback, link-local), a
    /// wider one such as 0.0.0.0/0 does not.
    pub(super) fn names(&self, ip: IpAddr) -> bool {
        let Hosts::Net(net) = &self.hosts else { return false };
        // Both ends of 0.0.0.0/0 are special too, so checking the ends suffices only within one special block. An
        // embedded IPv4 address has its first octet after at most 96 bits.
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

    /// Whether the rule names exactly this one address.
    pub(super) fn is_just(&self, ip: IpAddr) -> bool {
        matches!(&self.hosts, Hosts::Net(net) if *net == IpNet::from(ip))
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let error = || RuleError(text.to_owned());
        let (host, ports) = split_ports(text);
        let ports_given = ports.is_some();
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
        // A missing digit of an IPv6 address must not become a port: fe80:::1.
        if ports_given && host.contains(':') && !host.starts_with('[') {
            return Err(error());
        }
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        let hosts = if host == "*" {
            Hosts::Any
        } else if let Ok(net) = bare.parse::<IpNet>() {
            Hosts::Net(net.trunc())
        } else if let Ok(ip) = bare.parse::<IpAddr>() {
            Hosts::Net(ip.into())
        } else if let Some(domain) = host.strip_prefix("*.") {
            match Host::parse(domain) {
                Ok(Host::Name(domain)) => Hosts::Below(without_dot(&domain).to_owned()),
                _ => return Err(error()),
            }
        } else {
            match Host::parse(host) {
                Ok(Host::Name(name)) if !is_nearly_address(&name) => {
                    Hosts::Name(without_dot(&name).to_owned())
                }
                _ => return Err(error()),
            }
        };
        Ok(Self { hosts, ports })
    }
}

/// Splits `HOST:PORTS`. The colons of a bare IPv6 address separate nothing.
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
            Hosts::Net(net) if net.prefix_len() == net.max_prefix_len() => match net.addr() {
                IpAddr::V4(ip) => write!(f, "{ip}")?,
                IpAddr::V6(ip) => write!(f, "[{ip}]")?,
            },
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_domain_pattern_is_not_a_suffix_match() {
        let rule: Rule = "*.corp".parse().unwrap();
        assert_eq!(rule.matches_name("a.b.corp"), Some(true));
        assert_eq!(rule.matches_name("corp"), Some(false));
        assert_eq!(rule.matches_name("evilcorp"), Some(false));
        for text in ["printer", "printer."] {
            let rule: Rule = text.parse().unwrap();
            assert_eq!(
                (rule.matches_name("printer"), rule.matches_name("printer.")),
                (Some(true), Some(true))
            );
        }
    }

    #[test]
    fn a_shown_rule_parses_again_and_nonsense_is_refused() {
        for text in [
            "*",
            "*:443",
            "a.b:1-2",
            "*.a.b:80",
            "10.0.0.0/8:80",
            "10.0.0.5:80",
            "[fd00::/8]:443",
            "[fd00::5]:443",
        ] {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
        }
        assert_eq!("fd00::/8".parse::<Rule>().unwrap().to_string(), "[fd00::/8]");
        for text in ["", "a b", "a:0", "a:2-1", "a:x", "a:", "*a", "10.0.0.0/33", "[::1", "a:1:2"] {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
        // Texts that look like addresses but are none, or are addresses only to some software.
        for text in [
            "10.0.0.256",
            "10.0.0.256:80",
            "1.2.3.4.5",
            "10.1",
            "010.0.0.1",
            "0x0a000001",
            "*.256",
            "10.0.0/24",
            "10.0.0.l",
            "10.0.0.1-5",
            "10.0.0.0-24:80",
            "fe80:::1",
            "2001:db8:::80",
            "::1:99999",
        ] {
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
