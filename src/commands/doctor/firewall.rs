//! This machine's own firewall, as far as it can be seen, and the command that lets a port through it.

use std::path::Path;
use std::process::{Command, Stdio};

/// What filters datagrams and connections here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Firewall {
    /// Ubuntu's front end.
    Ufw,
    /// Red Hat's daemon.
    Firewalld,
    /// Chains of nftables that can drop: family, table, name, and their hook.
    Nft(Vec<Chain>),
}

/// One base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    place: String,
    hook: Hook,
}

/// Where a chain judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    Input,
    Output,
}

impl Firewall {
    /// The one that is in force here; none where there is none, or where only root could tell.
    pub(super) fn found() -> Option<Self> {
        let ufw = || std::fs::read_to_string("/etc/ufw/ufw.conf").is_ok_and(|text| ufw_is_on(&text));
        let Some(rules) = says("nft", &["list", "ruleset"]) else {
            // Who may not see the rules can still see whose they are.
            let firewalld = Path::new("/run/firewalld").exists();
            return ufw().then_some(Self::Ufw).or(firewalld.then_some(Self::Firewalld));
        };
        let legacy = says("iptables-legacy", &["-S"]).unwrap_or_default();
        let chains = chains(&rules);
        if [&rules, &legacy].iter().any(|rules| rules.contains("ufw-")) && ufw() {
            return Some(Self::Ufw);
        }
        if rules.contains("table inet firewalld") {
            return Some(Self::Firewalld);
        }
        (!chains.is_empty()).then_some(Self::Nft(chains))
    }

    /// What it is called.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Ufw => "ufw".into(),
            Self::Firewalld => "firewalld".into(),
            Self::Nft(chains) => {
                let places: Vec<_> = chains.iter().map(|chain| chain.place.as_str()).collect();
                format!("nftables ({})", places.join(", "))
            }
        }
    }

    /// Whether it is known to judge what goes out.
    pub(super) fn judges_output(&self) -> bool {
        matches!(self, Self::Nft(chains) if chains.iter().any(|chain| chain.hook == Hook::Output))
    }

    /// The command that lets `port` of `protocol` (`udp` or `tcp`) in, and out where that is judged.
    pub(super) fn opens(&self, port: u16, protocol: &str) -> String {
        match self {
            Self::Ufw => format!("ufw allow {port}/{protocol}"),
            Self::Firewalld => {
                format!("firewall-cmd --permanent --add-port={port}/{protocol} && firewall-cmd --reload")
            }
            Self::Nft(chains) => {
                let rules = chains.iter().map(|chain| {
                    // What goes out to nodes, and what they are answered from.
                    let both = match chain.hook {
                        Hook::Input => vec!["dport"],
                        Hook::Output => vec!["dport", "sport"],
                    };
                    let insert =
                        |end| format!("nft insert rule {} {protocol} {end} {port} accept", chain.place);
                    both.into_iter().map(insert).collect::<Vec<_>>().join(" && ")
                });
                rules.collect::<Vec<_>>().join(" && ")
            }
        }
    }
}

/// What to do on a machine whose firewall cannot be seen from here.
pub(super) fn opens_elsewhere(port: u16, protocol: &str) -> String {
    format!(
        "'ufw allow {port}/{protocol}', or 'firewall-cmd --permanent --add-port={port}/{protocol} && firewall-cmd \
         --reload', or a rule of nft '{protocol} dport {port} accept'"
    )
}

fn ufw_is_on(configuration: &str) -> bool {
    configuration.lines().any(|line| line.trim().eq_ignore_ascii_case("ENABLED=yes"))
}

/// What a program prints, when it succeeds.
pub(super) fn says(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    let output = command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The base chains of `nft list ruleset` that judge what comes in or goes out, and drop or reject some of it.
fn chains(ruleset: &str) -> Vec<Chain> {
    let (mut found, mut table, mut name) = (Vec::new(), "", "");
    let (mut hook, mut drops) = (None, false);
    for line in ruleset.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("table ") {
            table = rest.trim_end_matches('{').trim();
        } else if let Some(rest) = line.strip_prefix("chain ") {
            (name, hook, drops) = (rest.trim_end_matches('{').trim(), None, false);
        } else if line == "}" {
            // Of a chain; a table's own brace finds no hook.
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
    fn the_chains_that_drop_are_found_and_opened() {
        let firewall = Firewall::Nft(chains(RULESET));
        assert_eq!(firewall.name(), "nftables (inet firewall input, ip open out)");
        assert_eq!(
            firewall.opens(7420, "udp"),
            "nft insert rule inet firewall input udp dport 7420 accept && nft insert rule ip open out udp dport 7420 \
             accept && nft insert rule ip open out udp sport 7420 accept"
        );
        assert_eq!(chains(""), []);
    }

    #[test]
    fn ufw_is_named_only_where_it_is_on() {
        assert!(ufw_is_on("# comment\nENABLED=yes\nLOGLEVEL=low\n"));
        assert!(!ufw_is_on("ENABLED=no\n"));
    }
}
