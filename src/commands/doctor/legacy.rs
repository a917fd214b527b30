//! The rules of iptables-legacy, which are beside those of nftables and which `nft list ruleset` does not show.

use std::fmt::Write as _;

use super::program::output_of;

/// The programs that may read them, for IPv4 and IPv6. Before version 1.8 they have the shorter name.
const PROGRAMS: [[&str; 2]; 2] = [["iptables-legacy", "iptables"], ["ip6tables-legacy", "ip6tables"]];
/// The tables in use, to root alone (Linux). Without a look at them, the programs would load the tables into the kernel.
const IN_USE: [&str; 2] = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];
/// The tables whose rules may drop packets.
const FILTERING: [&str; 4] = ["raw", "mangle", "filter", "security"];
/// Targets after which the next rule is evaluated (iptables-extensions(8)).
const GO_ON: &str = "AUDIT CHECKSUM CLASSIFY CONNMARK CONNSECMARK CT DSCP ECN HL IDLETIMER LOG MARK NFLOG NOTRACK SET TCPMSS TOS TRACE \
                     TTL ULOG";
/// Modules that match by nothing but their options, which [`rule`] knows. Most others say something by their name alone.
const PLAIN: &str = "addrtype comment conntrack icmp multiport pkttype state tcp udp";
/// A word that nft does not have: what it means is not known, so that it may match or not.
const UNKNOWN: &str = "unknown";

/// A chain of iptables-legacy in the place of one of nftables, as `ip iptables-legacy/filter INPUT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain<'a> {
    /// The program that changes it.
    pub(super) program: &'a str,
    pub(super) table: &'a str,
    pub(super) name: &'a str,
}

impl<'a> Chain<'a> {
    /// The chain at this place, if that is one of iptables-legacy.
    pub(super) fn at(place: &'a str) -> Option<Self> {
        let (_family, rest) = place.split_once(' ')?;
        let (table, name) = rest.split_once(' ')?;
        let (program, table) = table.split_once('/')?;
        PROGRAMS.iter().flatten().any(|known| *known == program).then_some(Self { program, table, name })
    }

    /// The command that lets packets of `protocol` pass whose `end`, `dport` or `sport`, is this port.
    pub(super) fn open_command(&self, protocol: &str, end: &str, port: u16) -> String {
        let Self { program, table, name } = self;
        let table = if *table == "filter" { String::new() } else { format!(" -t {table}") };
        format!("{program}{table} -I {name} -p {protocol} --{end} {port} -j ACCEPT")
    }
}

/// The rules in force, as `nft list ruleset` would print them; empty where there are none, or only root could tell.
pub(super) fn rules() -> String {
    let mut all = String::new();
    for (is_v6, (in_use, programs)) in [false, true].into_iter().zip(IN_USE.iter().zip(&PROGRAMS)) {
        let in_use = std::fs::read_to_string(in_use).unwrap_or_default();
        if !in_use.lines().any(|table| FILTERING.contains(&table)) {
            continue;
        }
        let saved = programs.iter().filter(|program| is_legacy(program));
        let saved = saved.filter_map(|program| Some((program, output_of(&format!("{program}-save"), &[])?)));
        if let Some((program, saved)) = saved.into_iter().next() {
            all += &in_words_of_nft(&saved, program, is_v6);
        }
    }
    all
}

/// Whether this program, if it is there, has the rules of iptables-legacy: `iptables` may have those of nftables.
fn is_legacy(program: &str) -> bool {
    output_of(program, &["-V"]).is_some_and(|version| !version.contains("nf_tables"))
}

/// What `iptables-save` prints, in the words of nft. `program` is the one that changes it.
fn in_words_of_nft(saved: &str, program: &str, is_v6: bool) -> String {
    let mut all = String::new();
    let mut lines = saved.lines();
    while let Some(line) = lines.next() {
        let Some(table) = line.strip_prefix('*').filter(|table| FILTERING.contains(table)) else { continue };
        let body: Vec<_> = lines.by_ref().take_while(|line| *line != "COMMIT").collect();
        let chains = body.iter().filter_map(|line| line.strip_prefix(':')?.split_once(' '));
        let chains: Vec<(&str, &str)> = chains.collect();
        let family = if is_v6 { "ip6" } else { "ip" };
        let _ = writeln!(all, "table {family} {program}/{table} {{");
        for (name, policy) in &chains {
            let _ = writeln!(all, "chain {name} {{");
            if !policy.starts_with('-') {
                let drop = if policy.starts_with("DROP") { "drop" } else { "accept" };
                let hook = name.to_lowercase();
                let _ = writeln!(all, "type filter hook {hook} priority filter; policy {drop};");
            }
            let own = body.iter().map(|line| words(line));
            for words in own.filter(|words| words.len() > 2 && words[0] == "-A" && words[1] == *name) {
                let _ = writeln!(all, "{}", rule(&words[2..], family, &chains));
            }
            all += "}\n";
        }
        all += "}\n";
    }
    all
}

/// One rule.
fn rule(words: &[String], family: &str, chains: &[(&str, &str)]) -> String {
    let (mut all, mut negation) = (Vec::new(), "");
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        if word == "!" {
            negation = "!= ";
            continue;
        }
        if matches!(word, "-j" | "-g") {
            all.push(verdict(word, words.next().unwrap_or_default(), chains));
            // What follows are options of the target.
            break;
        }
        if !word.starts_with('-') {
            // More values of an option that is not known.
            continue;
        }
        let key = match word {
            "-i" => "iifname".to_owned(),
            "-o" => "oifname".to_owned(),
            "-s" => format!("{family} saddr"),
            "-d" => format!("{family} daddr"),
            "-p" => "meta l4proto".to_owned(),
            "--dport" | "--dports" => "th dport".to_owned(),
            "--sport" | "--sports" => "th sport".to_owned(),
            "--ctstate" | "--state" => "ct state".to_owned(),
            "--dst-type" => "fib daddr type".to_owned(),
            "--pkt-type" => "meta pkttype".to_owned(),
            "--comment" => {
                words.next();
                continue;
            }
            "-m" => {
                if !is_among(words.next().unwrap_or_default(), PLAIN) {
                    all.push(UNKNOWN.into());
                }
                continue;
            }
            _ => {
                all.push(UNKNOWN.into());
                negation = "";
                continue;
            }
        };
        let value = words.next().unwrap_or_default();
        match (word, value) {
            ("-p", "all") => {}
            _ => all.push(format!("{key} {negation}{}", self::value(word, value))),
        }
        negation = "";
    }
    all.join(" ")
}

fn is_among(word: &str, list: &str) -> bool {
    list.split(' ').any(|other| other == word)
}

/// The value of an option.
fn value(option: &str, value: &str) -> String {
    match option {
        "-i" | "-o" => match value.strip_suffix('+') {
            Some(beginning) => format!("\"{beginning}*\""),
            None => format!("\"{value}\""),
        },
        "--dport" | "--sport" => value.replace(':', "-"),
        "--dports" | "--sports" => format!("{{ {} }}", value.replace(':', "-")),
        "--ctstate" | "--state" | "--dst-type" | "--pkt-type" => value.to_lowercase(),
        _ => value.to_owned(),
    }
}

/// What a rule leads to, by `-j` or `-g`.
fn verdict(option: &str, target: &str, chains: &[(&str, &str)]) -> String {
    let lead = if option == "-g" { "goto" } else { "jump" };
    match target {
        _ if chains.iter().any(|(name, _)| *name == target) => format!("{lead} {target}"),
        "ACCEPT" | "DROP" | "REJECT" | "RETURN" | "QUEUE" => target.to_lowercase(),
        "NFQUEUE" => "queue".into(),
        target if is_among(target, GO_ON) => String::new(),
        // There is no chain of that name, so that anything may happen.
        target => format!("jump {target}"),
    }
}

/// The words of a line, in which texts with blanks are in quotes.
fn words(line: &str) -> Vec<String> {
    let (mut all, mut word, mut is_quoted) = (Vec::new(), String::new(), false);
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' if is_quoted => word.extend(characters.next()),
            '"' => is_quoted = !is_quoted,
            ' ' if !is_quoted => all.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    all.push(word);
    all
}

#[cfg(test)]
mod tests {
    use super::super::ruleset::{Direction, Packet, Ruleset};
    use super::*;

    /// What `iptables-legacy-save` prints with these rules.
    fn saved(policy: &str, rules: &str) -> String {
        format!(
            "# Generated by iptables-save v1.8.9 on Sun Nov 29 20:35:07 2026\n*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p \
             tcp -j REDIRECT --to-ports 1\nCOMMIT\n*filter\n:INPUT {policy} [3:180]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT \
             [0:0]\n:ufw-user - [0:0]\n{rules}\n-A ufw-user -p tcp -m tcp --dport 7420 -j ACCEPT\nCOMMIT\n# Completed\n"
        )
    }

    fn ruleset(policy: &str, rules: &str) -> Ruleset {
        Ruleset::parse(&in_words_of_nft(&saved(policy, rules), "iptables-legacy", false), "")
    }

    fn packet() -> Packet<'static> {
        Packet {
            direction: Direction::In,
            protocol: "tcp",
            from_port: None,
            to_port: Some(7420),
            interface: "eth1",
            from: "10.77.0.21/24".parse().unwrap(),
            to: "10.77.0.21/32".parse().unwrap(),
            is_broadcast: false,
            is_answer: false,
        }
    }

    #[test]
    fn what_they_drop_for_certain_is_told() {
        for (policy, rules) in [
            ("DROP", ""),
            ("ACCEPT", "-A INPUT -p tcp -m tcp --dport 7420 -j DROP"),
            (
                "ACCEPT",
                "-A INPUT -m comment --comment \"no  \\\"-j ACCEPT\" -p tcp -m tcp --dport 7000:8000 -j DROP",
            ),
            ("ACCEPT", "-A INPUT -s 10.0.0.0/8 ! -i lo -p tcp -m multiport --dports 80,7420:7430 -j DROP"),
            (
                "ACCEPT",
                "-A INPUT -i eth+ -m conntrack --ctstate INVALID,NEW -j REJECT --reject-with tcp-reset",
            ),
            ("ACCEPT", "-A INPUT -j LOG --log-prefix \"a -j ACCEPT \"\n-A INPUT ! -p udp -j DROP"),
            (
                "DROP",
                "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A INPUT -i lo -j ACCEPT",
            ),
            ("DROP", "-A INPUT -m addrtype --dst-type BROADCAST -j ACCEPT\n-A INPUT -p icmp -j ACCEPT"),
            ("DROP", "-A INPUT -p tcp -m tcp ! --dport 7420 -j ACCEPT"),
        ] {
            let rules = ruleset(policy, rules);
            let stop = rules.stops(&packet()).unwrap_or_else(|| panic!("{policy}: {rules:?}"));
            assert_eq!(stop.chain, "ip iptables-legacy/filter INPUT");
        }
    }

    #[test]
    fn what_passes_or_is_uncertain_is_not_told() {
        for (policy, rules, admits) in [
            ("ACCEPT", "", true),
            ("ACCEPT", "-A INPUT -p udp -m udp --dport 7420 -j DROP\n-A INPUT -i eth0 -j DROP", true),
            ("DROP", "-A INPUT -j ufw-user", true),
            ("DROP", "-A INPUT -p tcp -g ufw-user", true),
            (
                "ACCEPT",
                "-A INPUT -s 192.168.0.0/16 -j DROP\n-A INPUT -j MARK --set-xmark 0x3/0xffffffff",
                true,
            ),
            ("DROP", "-A INPUT -m set --match-set lan src -j ACCEPT", false),
            ("ACCEPT", "-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN FIN -j DROP", false),
            ("ACCEPT", "-A INPUT -m limit --limit 3/min -j DROP", false),
            ("ACCEPT", "-A INPUT -j SYNPROXY --mss 1460", false),
            ("ACCEPT", "-A INPUT -m mark ! --mark 0x3 -p tcp -j DROP", false),
        ] {
            let rules = ruleset(policy, rules);
            assert_eq!(rules.stops(&packet()), None, "{policy}: {rules:?}");
            assert_eq!(rules.admits(&packet()), admits, "{policy}: {rules:?}");
        }
    }

    #[test]
    fn a_chain_is_changed_by_its_own_program() {
        let chain = |place| Chain::at(place).map(|chain| chain.open_command("tcp", "dport", 7420));
        assert_eq!(
            chain("ip iptables-legacy/filter INPUT").as_deref(),
            Some("iptables-legacy -I INPUT -p tcp --dport 7420 -j ACCEPT")
        );
        assert_eq!(
            chain("ip6 ip6tables/mangle PREROUTING").as_deref(),
            Some("ip6tables -t mangle -I PREROUTING -p tcp --dport 7420 -j ACCEPT")
        );
        for place in ["ip filter INPUT", "inet a/b c", "inet", ""] {
            assert_eq!(chain(place), None, "{place}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in "(?s).{0,200}", rules in "(-[A-Za-z]|--[a-z]{1,6}|!|[A-Z]{1,5}|[ \"\\\\:,]){0,30}") {
            in_words_of_nft(&text, "iptables", false);
            ruleset("ACCEPT", &format!("-A INPUT {rules}"));
        }
    }
}
