//! UDP: who answers a broadcast, who a question to it alone, and who stands in between.

use std::io;
use std::net::SocketAddr;

use super::firewall::{Firewall, opens_elsewhere};
use super::machine::Node;
use super::report::{Finding, Layer};
use crate::peers::survey::{Seen, Survey};
use crate::telemetry::report::unreached;

/// A gateway that the running node heard within so many seconds is heard.
const LATELY: f64 = 15.0;

/// What the judgement rests on besides the survey.
pub(super) struct Facts<'a> {
    /// The UDP port of discovery.
    pub(super) port: u16,
    /// This machine's firewall.
    pub(super) firewall: Option<&'a Firewall>,
    /// The node that runs here.
    pub(super) node: Option<&'a Node>,
    /// Gateways were named, which need no discovery.
    pub(super) named: bool,
    /// This machine is a way out itself.
    pub(super) serves: bool,
    /// Gateways that were asked alone because they are known.
    pub(super) known: usize,
}

/// Judges a survey.
pub(super) fn judge(survey: &Survey, facts: &Facts<'_>) -> Vec<Finding> {
    let mut found: Vec<_> = survey.not_sent.iter().map(|(to, error)| not_sent(*to, error, facts)).collect();
    found.extend(survey.gateways.iter().map(|seen| of_gateway(seen, survey, facts)));
    if found.is_empty() {
        found.push(nobody(survey, facts));
    }
    found
}

fn not_sent(to: SocketAddr, error: &io::Error, facts: &Facts<'_>) -> Finding {
    let finding = Finding::wrong(Layer::Discovery, format!("a datagram to {to} does not leave this machine"))
        .because(error.to_string());
    match facts.firewall {
        Some(firewall) => firewalled(finding, firewall, facts.port),
        None if error.kind() == io::ErrorKind::PermissionDenied => {
            finding.hint("as root 'nft list ruleset' shows the rule that drops what goes out")
        }
        None => finding.hint(format!("'ip route get {}' shows whether there is a way", to.ip())),
    }
}

fn of_gateway(seen: &Seen, survey: &Survey, facts: &Facts<'_>) -> Finding {
    let who = format!("{} at {}, {}", seen.id.short(), seen.link, seen.advert.state.word());
    let millis = |time: std::time::Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
    let what = match (seen.by_broadcast, seen.by_unicast) {
        (Some(all), Some(alone)) => {
            let what = format!("{who}: answers broadcast ({}) and unicast ({})", millis(all), millis(alone));
            return Finding::ok(Layer::Discovery, what);
        }
        (None, Some(_)) => "answers unicast, and no broadcast",
        (Some(_), None) => "answers broadcast, and no unicast",
        (None, None) => "sends beacons, and no answer of it arrives",
    };
    let hears = seen.beacon || facts.node.is_some_and(|node| hears(node, seen));
    // Beside a node the questions leave from another port: a firewall that lets discovery in drops their answers.
    if survey.port_taken && facts.firewall.is_some() && hears && seen.by_broadcast.is_none() {
        let what = format!("{who}: heard by the node that runs here");
        return Finding::ok(Layer::Discovery, what);
    }
    let finding = Finding::wrong(Layer::Discovery, format!("{who}: {what}"));
    // What a firewall here may have done: not let an answer in that it takes for a stranger's, or a question out.
    let own = facts.firewall.filter(|firewall| seen.by_broadcast.is_none() || firewall.judges_output());
    match own {
        Some(firewall) => firewalled(finding, firewall, facts.port),
        None => {
            let (ip, port) = (seen.link.ip(), facts.port);
            finding
                .because(format!(
                    "a firewall on {ip}, or what is in between, drops datagrams to UDP port {port}"
                ))
                .hint(format!("on {ip}: {}", opens_elsewhere(port, "udp")))
        }
    }
}

fn firewalled(finding: Finding, firewall: &Firewall, port: u16) -> Finding {
    let why =
        format!("the firewall of this machine, {}, drops datagrams of UDP port {port}", firewall.name());
    finding.because(why).hint(firewall.opens(port, "udp"))
}

fn hears(node: &Node, seen: &Seen) -> bool {
    let short = seen.id.short();
    let is_it = |id: &Option<String>| id.as_ref() == Some(&short);
    node.seen
        .gateways
        .iter()
        .any(|gateway| is_it(&gateway.id) && gateway.heard_ago.is_some_and(|ago| ago < LATELY))
}

fn nobody(survey: &Survey, facts: &Facts<'_>) -> Finding {
    if facts.serves {
        return Finding::ok(Layer::Discovery, "no other gateway answers; this machine is one itself");
    }
    if facts.named {
        return Finding::skipped(
            Layer::Discovery,
            "nobody answers on the LAN; the gateways of --gateway are used",
        );
    }
    let from: Vec<_> = survey.asked_from.iter().map(ToString::to_string).collect();
    let finding = Finding::wrong(Layer::Discovery, "no gateway of this group answers").because(format!(
        "asked by broadcast from {}, and {} known gateways alone",
        from.join(", "),
        facts.known
    ));
    let port = facts.port;
    match (facts.firewall, facts.node.and_then(|node| unreached(&node.seen))) {
        (Some(firewall), _) => firewalled(finding, firewall, port),
        (None, Some(servers)) => finding.because(format!("the node here is no gateway to {servers} either")).hint(format!(
            "bring an uplink up on one machine: 'ip -brief address' shows the interfaces, 'ip route' the ways; there start \
             'laneway up --server HOST:PORT', and let UDP port {port} in"
        )),
        (None, None) => finding.hint(format!(
            "on a machine that reaches the server start 'laneway up --server HOST:PORT', and let UDP port {port} in there: \
             {}; behind a router, name it here: 'laneway up --gateway HOST:7420'",
            opens_elsewhere(port, "udp")
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::report::Verdict;
    use super::*;
    use crate::wire::datagram::{Advert, Reach, Standing, State};
    use crate::wire::id::NodeId;

    fn seen(by_broadcast: bool, by_unicast: bool) -> Seen {
        let time = |answered: bool| answered.then_some(Duration::from_millis(1));
        Seen {
            id: NodeId([1; 16]),
            link: "10.0.0.21:7420".parse().unwrap(),
            advert: Advert {
                state: State::Active,
                reach: Reach::Reachable,
                link_port: 7420,
                weight: 100,
                load: 0,
                capacity: 1,
                tunnels: 0,
                standing: Standing::default(),
                peers: vec![],
            },
            by_broadcast: time(by_broadcast),
            by_unicast: time(by_unicast),
            beacon: true,
        }
    }

    fn judged(seen: Option<Seen>, port_taken: bool, firewall: Option<&Firewall>) -> Finding {
        let survey = Survey { gateways: seen.into_iter().collect(), port_taken, ..Survey::default() };
        let facts = Facts { port: 7420, firewall, node: None, named: false, serves: false, known: 0 };
        let mut found = judge(&survey, &facts);
        assert_eq!(found.len(), 1);
        found.remove(0)
    }

    #[test]
    fn a_firewall_is_blamed_on_the_machine_that_has_it() {
        let ufw = Some(&Firewall::Ufw);
        assert_eq!(judged(Some(seen(true, true)), false, ufw).verdict, Verdict::Ok);
        for (seen, firewall, hint) in [
            (Some(seen(false, true)), ufw, "ufw allow 7420/udp"),
            (Some(seen(false, true)), None, "on 10.0.0.21: 'ufw allow 7420/udp'"),
            // What comes in as an answer to a broadcast comes in as one to a question, too.
            (Some(seen(true, false)), ufw, "on 10.0.0.21: "),
            (Some(seen(false, false)), ufw, "ufw allow 7420/udp"),
            (None, ufw, "ufw allow 7420/udp"),
            (None, None, "laneway up --server"),
        ] {
            let finding = judged(seen, false, firewall);
            assert_eq!(finding.verdict, Verdict::Wrong);
            assert!(finding.hint.as_ref().unwrap().contains(hint), "{finding:?}");
        }
    }

    #[test]
    fn beside_a_node_a_firewall_that_lets_its_port_in_is_no_fault() {
        assert_eq!(judged(Some(seen(false, true)), true, Some(&Firewall::Ufw)).verdict, Verdict::Ok);
        assert_eq!(judged(Some(seen(false, true)), true, None).verdict, Verdict::Wrong);
    }
}
