//! Access rules: how they are parsed, and that no set of them allows a dangerous destination by accident.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use laneway::gateway::access::{Access, Rule};
use laneway::wire::target::{Host, Target};

/// `data` is text: lines of `allow RULE`, `deny RULE` and `server TARGET`, then lines of `TARGET ADDRESS`, each of
/// which is judged by what came before it.
pub fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let mut rules = Rules::default();
    for (word, rest) in text.lines().filter_map(|line| line.split_once(' ')) {
        match (word, rest.parse::<Rule>(), rest.parse::<Target>()) {
            ("allow", Ok(rule), _) => rules.allow.push(read_again(rule)),
            ("deny", Ok(rule), _) => rules.deny.push(read_again(rule)),
            ("server", _, Ok(server)) => rules.servers.push(server),
            _ => {
                if let (Ok(target), Ok(ip)) = (word.parse(), rest.parse()) {
                    rules.check(&target, ip);
                }
            }
        }
    }
}

fn read_again(rule: Rule) -> Rule {
    assert_eq!(rule.to_string().parse().as_ref(), Ok(&rule));
    rule
}

#[derive(Default)]
struct Rules {
    servers: Vec<Target>,
    allow: Vec<Rule>,
    deny: Vec<Rule>,
}

impl Rules {
    fn check(&self, target: &Target, ip: IpAddr) {
        let access = Access::new(&self.servers, &self.allow, &self.deny);
        let by_name = access.judge_name(target).is_ok();
        let dialled = if let Host::Address(ip) = target.host { ip } else { ip };
        let by_address = access.judge_address(target, dialled).is_ok();
        assert!(by_name || !by_address, "an address passes under a name that does not");

        if let IpAddr::V4(v4) = dialled {
            let mapped = access.judge_address(target, v4.to_ipv6_mapped().into()).is_ok();
            assert_eq!(mapped, by_address, "the mapped form is judged otherwise");
        }
        if by_address && leads(dialled).into_iter().any(is_special) {
            let servers = self.servers.iter().map(|server| server.host.to_string());
            let allowed = self.allow.iter().map(Rule::to_string);
            let named =
                servers.chain(allowed).any(|rule| rule.starts_with(|c: char| c.is_ascii_digit() || c == '['));
            assert!(named, "{dialled} is dialled and no rule is about an address");
        }
        for last in 0..self.deny.len() {
            let fewer = Access::new(&self.servers, &self.allow, &self.deny[..last]);
            assert!(!by_address || fewer.judge_address(target, dialled).is_ok(), "a denial allows");
        }
        let none = Access::new(&self.servers, &self.allow, &["*".parse().expect("a rule")]);
        assert!(none.judge_name(target).is_err() && none.judge_address(target, dialled).is_err());
    }
}

/// The address, and the IPv4 address that it may embed: mapped, compatible, NAT64 (RFC 6052) or 6to4 (RFC 3056).
fn leads(ip: IpAddr) -> Vec<IpAddr> {
    let IpAddr::V6(v6) = ip else { return vec![ip] };
    let bytes = v6.octets();
    let inner = match bytes {
        [0x20, 0x02, a, b, c, d, ..] => Some([a, b, c, d]),
        _ if v6.to_bits() >> 32 == 0 || v6.to_bits() >> 32 == 0xffff => bytes.last_chunk().copied(),
        _ if v6.to_bits() >> 32 == 0x0064_ff9b << 64 => bytes.last_chunk().copied(),
        _ => None,
    };
    inner.map(|inner| IpAddr::from(Ipv4Addr::from(inner))).into_iter().chain([ip]).collect()
}

fn is_special(ip: IpAddr) -> bool {
    let within_v4 =
        |ip: Ipv4Addr, net: u32, length: u32| ip.to_bits() >> (32 - length) == net >> (32 - length);
    let within_v6 =
        |ip: Ipv6Addr, net: u128, length: u32| ip.to_bits() >> (128 - length) == net >> (128 - length);
    match ip {
        IpAddr::V4(ip) => [(0, 8), (0x7f00_0000, 8), (0xa9fe_0000, 16), (0xe000_0000, 4), (0xf000_0000, 4)]
            .into_iter()
            .any(|(net, length)| within_v4(ip, net, length)),
        IpAddr::V6(ip) => [(0, 128), (1, 128), (0xfe80 << 112, 10), (0xff << 120, 8)]
            .into_iter()
            .any(|(net, length)| within_v6(ip, net, length)),
    }
}
