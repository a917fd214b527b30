//! The rules as a table in the syntax of nft.

use std::fmt::Write as _;
use std::time::Duration;

use ipnet::IpNet;

use super::interface::INTERFACE;
use crate::mark;

/// The table, of family `inet`.
pub(super) const TABLE: &str = "laneway";
/// Creates a table where there is none, in front of a text that replaces it. A table with an owner refuses it.
pub(super) const ANY: &str = "table inet laneway; ";
/// How long a table without an owner redirects unless it is installed again.
const LIFETIME: Duration = Duration::from_secs(15);

/// Destinations that are never redirected, IPv4 and IPv6: this machine itself, and addresses valid on one network
/// only.
const LOCAL: [&str; 2] =
    ["127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/4, 255.255.255.255", "::1, fe80::/10, ff00::/8"];
/// Private networks (RFC 1918, RFC 4193) and the shared address space (RFC 6598).
const PRIVATE: [&str; 5] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"];

/// Which connections are redirected, and to which ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The port on 127.0.0.1 for IPv4 connections; `None` leaves them alone.
    pub v4: Option<u16>,
    /// The port on ::1 for IPv6 connections; `None` leaves them alone.
    pub v6: Option<u16>,
    /// Redirect only connections to these networks; empty means all.
    pub only: Vec<IpNet>,
    /// Do not redirect connections to these networks.
    pub except: Vec<IpNet>,
    /// Do not redirect connections to private networks.
    pub except_private: bool,
    /// Redirect also connections to the networks that this machine is connected to.
    pub to_connected: bool,
    /// A user whose connections are left alone. This program's own connections are always left alone.
    pub user: Option<u32>,
}

/// Who has installed a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    /// `laneway transparent up`. The table stays until it is removed.
    Hand,
    /// The node with this process id. The table expires after the node.
    Node(u32),
    /// The node with this process id, with which the kernel removes the table.
    Owner(u32),
}

impl Rules {
    /// The table in the syntax of nft, in one line, on a machine that is connected to these networks. It replaces the old
    /// one atomically, which must exist: [`ANY`].
    pub(super) fn text(&self, maker: Maker, connected: &[IpNet]) -> String {
        let networks = |list: &[IpNet], v4: bool| {
            let family: Vec<_> = list.iter().filter(|net| net.addr().is_ipv4() == v4).copied().collect();
            let texts: Vec<_> = IpNet::aggregate(&family).iter().map(IpNet::to_string).collect();
            texts.join(", ")
        };
        let private = PRIVATE.iter().filter(|_| self.except_private).filter_map(|text| text.parse().ok());
        let connected = connected.iter().filter(|net| self.leaves_alone(net)).copied();
        let except: Vec<IpNet> = self.except.iter().copied().chain(private).chain(connected).collect();
        let mut rules = String::new();
        let mut rule = |text: String| write!(rules, "{text}; ").expect("a string grows");
        rule(format!("meta mark {:#x} return", mark::OWN));
        rule(format!("meta priority 0:{:x} return", mark::CONNECTING));
        if let Some(user) = self.user {
            rule(format!("meta skuid {user} return"));
        }
        rule("fib daddr type local return".into());
        for (v4, protocol, family, port) in [(true, "ip", "ipv4", self.v4), (false, "ip6", "ipv6", self.v6)] {
            let Some(port) = port else { continue };
            rule(format!("{protocol} daddr {{ {} }} return", LOCAL[usize::from(!v4)]));
            let (only, except) = (networks(&self.only, v4), networks(&except, v4));
            if !except.is_empty() {
                rule(format!("{protocol} daddr {{ {except} }} return"));
            }
            match (self.only.is_empty(), only.is_empty()) {
                (true, _) => rule(format!("meta nfproto {family} meta l4proto tcp redirect to :{port}")),
                (_, false) => {
                    rule(format!("{protocol} daddr {{ {only} }} meta l4proto tcp redirect to :{port}"))
                }
                (_, true) => {}
            }
        }
        let (flags, lifetime) = match maker {
            Maker::Hand => ("", String::new()),
            Maker::Owner(_) => ("flags owner; ", String::new()),
            // Without its element the rule leaves all connections alone: a node that is killed does not renew it.
            Maker::Node(_) => {
                let seconds = LIFETIME.as_secs();
                (
                    "",
                    format!(
                        "set redirected {{ type inet_proto; flags timeout; elements = {{ tcp timeout {seconds}s }}; }}; "
                    ),
                )
            }
        };
        let redirected = if lifetime.is_empty() { "tcp" } else { "@redirected" };
        format!(
            "delete table inet {TABLE}; table inet {TABLE} {{ {flags}comment \"{}\"; {lifetime}\
             chain output {{ type nat hook output priority -100; policy accept; \
             meta l4proto != {redirected} return; {rules}}}; \
             chain last {{ type filter hook output priority 0; policy accept; \
             ct status dnat accept; oifname \"{INTERFACE}\" reject with icmpx no-route; }}; }}\n",
            maker.comment()
        )
    }

    /// Whether connections to this network, to which the machine is connected, are left alone. They are not if a part of
    /// it was named for redirection.
    fn leaves_alone(&self, connected: &IpNet) -> bool {
        !self.to_connected && !self.only.iter().any(|only| connected.contains(only))
    }
}

/// The words before the process id in the comment of a node's table.
pub(super) const OF_NODE: &str = "made by laneway, process ";

impl Maker {
    fn comment(self) -> String {
        match self {
            Self::Hand => "made by laneway transparent up; laneway transparent down removes it".into(),
            Self::Node(process) | Self::Owner(process) => format!("{OF_NODE}{process}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HAND: Maker = Maker::Hand;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn own_and_local_connections_are_left_alone_before_anything_is_redirected() {
        let rules = Rules {
            v4: Some(1081),
            v6: Some(1082),
            except: nets(&["10.1.0.0/16", "10.1.2.0/24", "2001:db8::/32"]),
            user: Some(990),
            ..Rules::default()
        };
        let text = rules.text(HAND, &nets(&["192.168.7.0/24"]));
        let place = |words: &str| text.find(words).unwrap_or_else(|| panic!("no {words:?} in {text}"));
        let redirected = place("meta nfproto ipv4 meta l4proto tcp redirect to :1081");
        for exempt in [
            "meta l4proto != tcp return",
            "meta mark 0x6c616e65 return",
            "meta priority 0:5 return",
            "meta skuid 990 return",
            "fib daddr type local return",
            "ip daddr { 127.0.0.0/8,",
            // Overlapping networks are merged, because nft rejects them.
            "ip daddr { 10.1.0.0/16, 192.168.7.0/24 } return",
        ] {
            assert!(place(exempt) < redirected, "{exempt}");
        }
        assert!(
            place("ip6 daddr { 2001:db8::/32 } return") < place("ipv6 meta l4proto tcp redirect to :1082")
        );
        assert!(text.starts_with("delete table inet laneway; table inet laneway { "));
        assert_eq!(text.find('\n'), Some(text.len() - 1), "nft -i takes a line at a time");
        let private = Rules { except_private: true, ..rules }.text(HAND, &[]);
        assert!(private.contains("10.0.0.0/8") && private.contains("fc00::/7"), "{private}");
    }

    #[test]
    fn only_what_was_named_is_redirected() {
        let only = nets(&["10.88.0.0/24"]);
        let text = Rules { v4: Some(1), v6: Some(2), only, ..Rules::default() }.text(HAND, &[]);
        let redirected: Vec<_> = text.split("; ").filter(|rule| rule.contains("redirect")).collect();
        assert_eq!(redirected, ["ip daddr { 10.88.0.0/24 } meta l4proto tcp redirect to :1"]);
    }

    #[test]
    fn a_connected_network_is_redirected_only_if_an_option_or_a_name_says_so() {
        let connected = nets(&["10.77.0.0/24"]);
        let is_exempt = |rules: Rules| {
            Rules { v4: Some(1), ..rules }.text(HAND, &connected).contains("10.77.0.0/24 } return")
        };
        assert!(is_exempt(Rules::default()));
        assert!(is_exempt(Rules { only: nets(&["10.0.0.0/8"]), ..Rules::default() }));
        assert!(!is_exempt(Rules { to_connected: true, ..Rules::default() }));
        for named in ["10.77.0.0/24", "10.77.0.9/32"] {
            assert!(!is_exempt(Rules { only: nets(&[named]), ..Rules::default() }), "{named}");
        }
    }
}
