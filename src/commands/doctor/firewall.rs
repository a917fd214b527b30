//! This machine's firewall, as far as it can be seen, and the command that opens a port in it.

use std::collections::BTreeMap;
use std::path::Path;

use super::legacy;
use super::program::output_of;

/// The name of laneway's rules in the firewall of Windows.
const RULE: &str = "laneway";

/// The firewall of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::commands) enum Firewall {
    /// ufw, Ubuntu's front end.
    Ufw,
    /// firewalld, Red Hat's daemon.
    Firewalld,
    /// The firewall of Windows, without a rule for laneway.
    Windows,
    /// nftables chains that may drop packets.
    Nft(Vec<Chain>),
}

/// One base chain of nftables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::commands) struct Chain {
    /// Family, table and chain name, as nft takes them.
    place: String,
    hook: Hook,
}

/// The hook of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    Input,
    Output,
}

impl Firewall {
    /// The firewall that is active here; `None` when there is none, or when only root could tell.
    pub(in crate::commands) fn detect() -> Option<Self> {
        let ufw = || std::fs::read_to_string("/etc/ufw/ufw.conf").is_ok_and(|text| ufw_is_enabled(&text));
        let Some(rules) = Self::rules() else {
            // Without the privilege to read the rules, the front end can still be recognised.
            let firewalld = Path::new("/run/firewalld").exists();
            let known = ufw().then_some(Self::Ufw).or(firewalld.then_some(Self::Firewalld));
            return known.or_else(|| windows_lets_in().filter(|lets_in| !lets_in).map(|_| Self::Windows));
        };
        let chains = chains(&rules);
        if rules.contains("ufw-") && ufw() {
            return Some(Self::Ufw);
        }
        if rules.contains("table inet firewalld") {
            return Some(Self::Firewalld);
        }
        (!chains.is_empty()).then_some(Self::Nft(chains))
    }

    /// The rules of nftables and of iptables-legacy, as `nft list ruleset` prints them; `None` where only root could tell.
    pub(super) fn rules() -> Option<String> {
        let legacy = legacy::rules();
        match output_of("nft", &["list", "ruleset"]) {
            Some(rules) => Some(rules + &legacy),
            None => Some(legacy).filter(|legacy| !legacy.is_empty()),
        }
    }

    /// Its name.
    pub(in crate::commands) fn name(&self) -> String {
        match self {
            Self::Ufw => "ufw".into(),
            Self::Firewalld => "firewalld".into(),
            Self::Windows => format!("Windows Defender Firewall (it has no rule '{RULE}')"),
            Self::Nft(chains) => {
                let mut of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
                for Chain { place, .. } in chains {
                    let (program, place) = legacy::Chain::at(place)
                        .map_or(("nftables", place.as_str()), |chain| (chain.program, chain.name));
                    of.entry(program).or_default().push(place);
                }
                let each =
                    of.into_iter().map(|(program, places)| format!("{program} ({})", places.join(", ")));
                each.collect::<Vec<_>>().join(" and ")
            }
        }
    }

    /// Whether it is known to filter outgoing packets.
    pub(super) fn filters_output(&self) -> bool {
        matches!(self, Self::Nft(chains) if chains.iter().any(|chain| chain.hook == Hook::Output))
    }

    /// The command that opens `port` of `protocol` (`udp` or `tcp`) for incoming packets, and for outgoing ones where those
    /// are filtered.
    pub(in crate::commands) fn open_command(&self, port: u16, protocol: &str) -> String {
        match self {
            Self::Ufw => format!("ufw allow {port}/{protocol}"),
            Self::Firewalld => {
                format!("firewall-cmd --permanent --add-port={port}/{protocol} && firewall-cmd --reload")
            }
            Self::Windows => format!(
                "netsh advfirewall firewall add rule name={RULE} dir=in action=allow protocol={} localport={port}",
                protocol.to_ascii_uppercase()
            ),
            Self::Nft(chains) => {
                let rules = chains.iter().map(|chain| {
                    // What goes out to nodes, and what they are answered from.
                    let both = match chain.hook {
                        Hook::Input => vec!["dport"],
                        Hook::Output => vec!["dport", "sport"],
                    };
                    let insert = |end| open_chain(&chain.place, protocol, end, port);
                    both.into_iter().map(insert).collect::<Vec<_>>().join(" && ")
                });
                rules.collect::<Vec<_>>().join(" && ")
            }
        }
    }
}

/// The command that lets packets of `protocol` pass a base chain whose `end`, `dport` or `sport`, is this port.
pub(super) fn open_chain(place: &str, protocol: &str, end: &str, port: u16) -> String {
    match legacy::Chain::at(place) {
        Some(chain) => chain.open_command(protocol, end, port),
        None => format!("nft insert rule {place} {protocol} {end} {port} accept"),
    }
}

/// The commands that open a port on a machine whose firewall cannot be seen from here.
pub(in crate::commands) fn open_commands_elsewhere(port: u16, protocol: &str) -> String {
    format!(
        "'ufw allow {port}/{protocol}', 'firewall-cmd --permanent --add-port={port}/{protocol} && firewall-cmd --reload', \
         or 'nft insert rule inet filter input {protocol} dport {port} accept' with the table and chain of 'nft list \
         ruleset'"
    )
}

/// Whether the firewall of Windows lets laneway in; `None` where there is none, or it is off. Read from the registry: what
/// `netsh` prints is in the language of the user.
pub(super) fn windows_lets_in() -> Option<bool> {
    const POLICY: &str = r"HKLM\SYSTEM\CurrentControlSet\Services\SharedAccess\Parameters\FirewallPolicy";
    let is_on = output_of("reg", &["query", &format!(r"{POLICY}\StandardProfile"), "/v", "EnableFirewall"])?;
    is_on.contains("0x1").then(|| {
        output_of("reg", &["query", &format!(r"{POLICY}\FirewallRules")])
            .is_some_and(|rules| has_rule(&rules))
    })
}

/// Whether one of the rules, in the form of the registry, is laneway's, is active and lets packets in.
fn has_rule(rules: &str) -> bool {
    let name = format!("|Name={RULE}|");
    let wanted = [&name, "|Action=Allow|", "|Active=TRUE|", "|Dir=In|"];
    rules.lines().any(|rule| wanted.iter().all(|field| rule.contains(field)))
}

fn ufw_is_enabled(configuration: &str) -> bool {
    configuration.lines().any(|line| line.trim().eq_ignore_ascii_case("ENABLED=yes"))
}

/// The base chains in the output of `nft list ruleset` that filter incoming or outgoing packets and may drop some.
fn chains(ruleset: &str) -> Vec<Chain> {
    let (mut found, mut table, mut name) = (Vec::new(), "", "");
    let (mut hook, mut drops) = (None, false);
    for line in ruleset.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("table ") {
            table = rest.trim_end_matches('{').trim();
        } else if let Some(rest) = line.strip_prefix("chain ") {
            (name, hook, drops) = (rest.trim_end_matches('{').trim(), None, false);
        } else if line == "}" {
            // The end of a chain; at the end of a table no hook is set.
            if let Some(hook) = hook.take().filter(|_| drops) {
                found.push(Chain { place: format!("{table} {name}"), hook });
            }
        } else {
            if line.starts_with("type filter hook input") {
                hook = Some(Hook::Input);
            } else if line.starts_with("type filter hook output") {
                hook = Some(Hook::Output);
            }
            drops |= line.split([' ', ';']).any(|word| matches!(word, "drop" | "reject" | "jump" | "goto"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULESET: &str = "table inet firewall {\n\tset s {\n\t\ttype ipv4_addr\n\t}\n\n\tchain input {\n\t\ttype filter hook \
        input priority filter; policy drop;\n\t\tiif \"lo\" accept\n\t}\n\n\tchain forward {\n\t\ttype filter hook forward \
        priority filter; policy drop;\n\t}\n}\ntable ip nat {\n\tchain POSTROUTING {\n\t\ttype nat hook postrouting \
        priority srcnat; policy accept;\n\t}\n}\ntable ip open {\n\tchain input {\n\t\ttype filter hook input priority 0; \
        policy accept;\n\t\tcounter\n\t}\n\tchain out {\n\t\ttype filter hook output priority 0; policy accept;\n\t\tudp \
        dport 7420 drop\n\t}\n}\n";

    #[test]
    fn chains_that_drop_are_found_and_opened() {
        let firewall = Firewall::Nft(chains(RULESET));
        assert_eq!(firewall.name(), "nftables (inet firewall input, ip open out)");
        assert_eq!(
            firewall.open_command(7420, "udp"),
            "nft insert rule inet firewall input udp dport 7420 accept && nft insert rule ip open out udp dport 7420 \
             accept && nft insert rule ip open out udp sport 7420 accept"
        );
        let legacy = "table ip iptables-legacy/filter {\nchain INPUT {\ntype filter hook input priority filter; policy drop;\n}\n}\n";
        let firewall = Firewall::Nft(chains(&format!("{RULESET}{legacy}")));
        assert_eq!(
            firewall.name(),
            "iptables-legacy (INPUT) and nftables (inet firewall input, ip open out)"
        );
        let command = firewall.open_command(7420, "udp");
        assert!(command.ends_with(" && iptables-legacy -I INPUT -p udp --dport 7420 -j ACCEPT"), "{command}");
        assert_eq!(chains(""), []);
        assert_eq!(
            Firewall::Windows.open_command(7420, "udp"),
            "netsh advfirewall firewall add rule name=laneway dir=in action=allow protocol=UDP localport=7420"
        );
    }

    #[test]
    fn a_rule_of_windows_counts_only_if_it_is_active_and_lets_packets_in() {
        let rule = |action: &str, active: &str, name: &str| {
            format!(
                "    {{5B1D}}    REG_SZ    v2.31|Action={action}|Active={active}|Dir=In|App=C:\\laneway.exe|Name={name}|\r\n"
            )
        };
        assert!(has_rule(&(rule("Allow", "TRUE", "other") + &rule("Allow", "TRUE", "laneway"))));
        for rules in [
            rule("Block", "TRUE", "laneway"),
            rule("Allow", "FALSE", "laneway"),
            rule("Allow", "TRUE", "laneway-old"),
            String::new(),
        ] {
            assert!(!has_rule(&rules), "{rules}");
        }
    }

    #[test]
    fn ufw_is_reported_only_when_it_is_enabled() {
        assert!(ufw_is_enabled("# comment\nENABLED=yes\nLOGLEVEL=low\n"));
        assert!(!ufw_is_enabled("ENABLED=no\n"));
    }
}
