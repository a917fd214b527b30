//! The way out of the gateway on this machine: what its node knows of it, and whether that holds now.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::timeout;

use super::filtering::{self, Filter};
use super::gateways::reason;
use super::machine::Node;
use super::name_servers::Names;
use super::neighbours;
use super::remedies::{BRING_UP, LOGIN, uplink_up};
use super::report::{Finding, Layer, Verdict};
use crate::config::Config;
use crate::gateway::silence::NOTHING;
use crate::gateway::uplink::one_network::BEYOND;
use crate::mark;
use crate::sys::{connected, tools};
use crate::telemetry::report::answered_last;
use crate::telemetry::snapshot::{Proof, Snapshot, Unreached};
use crate::wire::datagram::Reach;
use crate::wire::target::Target;

/// The age, in seconds, up to which an answer counts as one of this moment.
const FRESH: f64 = 5.0;
/// The deadline for a connection from this machine.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// Whether the node that runs here as a gateway has a way out. An answer that is some seconds old is proved anew: a standby
/// gateway has one of its own only twice a minute.
pub(super) async fn check(
    node: &Node,
    config: &Config,
    names: Option<&Names>,
    filter: Option<&Filter<'_>>,
) -> Option<Finding> {
    let name_servers = names.map(|names| Finding { hint: names.hint(), ..names.finding.clone() });
    let name_servers = name_servers.as_ref();
    let Some(finding) = of_node(&node.seen, name_servers) else {
        let has_no_route = config.gateway.upstream.is_empty() && !connected::reaches_the_world();
        return unproved(&node.seen).filter(|_| has_no_route);
    };
    let mut unreached: Vec<_> =
        node.seen.unreached.iter().filter_map(|fault| fault.server.parse().ok()).collect();
    let old = node.seen.node.proof.as_ref().filter(|proof| proof.ago >= FRESH);
    let finding = match old {
        // Through a proxy of --upstream, a connection of this command says nothing.
        Some(proof) if finding.verdict == Verdict::Ok && config.gateway.upstream.is_empty() => {
            unreached.extend(proof.by.parse::<SocketAddr>().ok());
            anew(proof, name_servers).await.unwrap_or(finding)
        }
        _ => finding,
    };
    let hint = finding.hint.clone();
    let finding = filtering::explain(finding, filter, "tcp", &unreached).await;
    let is_of_the_uplink = finding.hint == hint && hint.is_some_and(|hint| hint.starts_with(BRING_UP));
    Some(match unreached.first().filter(|_| is_of_the_uplink) {
        Some(first) => neighbours::behind_router(finding, *first).await,
        None => finding,
    })
}

/// The finding about a gateway for any destination without a default route, while nothing has proved what it reaches.
fn unproved(seen: &Snapshot) -> Option<Finding> {
    let serves_any = seen.servers.is_empty() && seen.rules.as_ref().is_none_or(|rules| rules.allows_any);
    let is_unproved = seen.node.state.is_some() && seen.node.reach.as_deref() == Some(Reach::Unknown.word());
    (serves_any && is_unproved).then(|| {
        let what = "nothing beyond its networks has answered the gateway on this machine yet, and this machine has no default route: \
                    it serves only what its other routes lead to";
        Finding::skipped(Layer::WayOut, what)
    })
}

/// What the way out is like now, where the last answer came some time ago. `None` where nothing can be asked.
async fn anew(proof: &Proof, name_servers: Option<&Finding>) -> Option<Finding> {
    let last = answered_last(proof);
    let is_named = name_servers.is_some_and(|found| found.verdict == Verdict::Ok);
    let well = |now: &str| {
        let what =
            format!("the gateway on this machine reaches hosts beyond its networks: {last}, and {now}");
        Some(Finding::ok(Layer::WayOut, what))
    };
    let wrong = |because: String| {
        let what =
            format!("the gateway on this machine may have lost its way out: {last}, and does not answer now");
        Finding::wrong(Layer::WayOut, what).because(because)
    };
    let Ok(target) = proof.by.parse::<Target>() else {
        return match name_servers {
            Some(_) if is_named => well("one answers now"),
            Some(found) => {
                Some(wrong("no name server answers this command either".into()).hint(found.hint.clone()?))
            }
            None => None,
        };
    };
    let connected = timeout(CONNECT_DEADLINE, mark::connect_to(&target.to_string())).await;
    match connected.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into())) {
        Ok(_) => well("accepts a connection now"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => well("its machine answers now"),
        Err(_) if is_named => well("a name server answers now"),
        Err(error) => {
            let why = format!("this command cannot connect to {}: {error}", proof.by);
            Some(wrong(why).hint(uplink_up(host_of(&proof.by))))
        }
    }
}

/// Whether the node that runs here as a gateway has a way out, as that node finds. Where a connection to a configured server
/// tells, the gateway's check does. Where only names were tried, the `name_servers` come first.
fn of_node(seen: &Snapshot, name_servers: Option<&Finding>) -> Option<Finding> {
    let is_seen_by_connecting =
        |fault: &Unreached| seen.servers.contains(&fault.server) && fault.reason != NOTHING;
    if seen.node.state.is_none()
        || !seen.servers.is_empty() && seen.unreached.iter().all(is_seen_by_connecting)
    {
        return None;
    }
    let lost = || {
        let what = match &seen.node.proof {
            Some(_) => "the gateway on this machine has lost its way out",
            None => "the gateway on this machine has no way out",
        };
        let finding = Finding::wrong(Layer::WayOut, what);
        let hosts = || seen.unreached.iter().map(|fault| host_of(&fault.server));
        let address = hosts().find(|host| host.parse::<IpAddr>().is_ok());
        let uplink = uplink_up(address.or_else(|| hosts().next()).unwrap_or_default());
        let by_names = name_servers.filter(|found| address.is_none() && found.verdict == Verdict::Wrong);
        let by_names = by_names.and_then(|found| found.hint.clone());
        let upstream = seen.unreached.iter().find(|fault| fault.server.starts_with("--upstream"));
        let page = seen.unreached.iter().find(|fault| fault.server.contains("://"));
        let is_mute = seen.unreached.iter().any(|fault| fault.reason == NOTHING);
        let is_one_network = seen.unreached.iter().any(|fault| fault.server == BEYOND);
        let hint = match (upstream, page) {
            (None, None) if is_one_network && address.is_none() => one_network(),
            (None, None) if is_one_network => format!("{}; {uplink}", one_network()),
            (Some(fault), _) if fault.reason.contains("login") => LOGIN.into(),
            (Some(_), _) => format!("start that proxy, or correct --upstream; if the proxy is up, {uplink}"),
            (None, Some(page)) => format!(
                "'curl -v {}' shows what answers there: correct --probe and --probe-expect if that is right; otherwise {uplink}",
                page.server
            ),
            (None, None) if is_mute => MUTE.into(),
            (None, None) if let Some(hint) = by_names => hint,
            (None, None) => uplink,
        };
        seen.unreached
            .iter()
            .fold(finding, |finding, fault| finding.because(reason("it does not reach ", fault)))
            .hint(hint)
    };
    match seen.node.reach.as_deref()? {
        "reachable" => {
            let last = seen.node.proof.as_ref().map(|proof| format!(": {}", answered_last(proof)));
            let last = last.unwrap_or_default();
            let what = format!("the gateway on this machine reaches hosts beyond its networks{last}");
            Some(Finding::ok(Layer::WayOut, what))
        }
        "unreachable" => Some(lost()),
        _ => None,
    }
}

/// What to do about an uplink over which connections are made, and that carries nothing else.
const MUTE: &str = "look for a box on the way that filters what connections carry, and for large packets that do not pass: an \
                    interface with a smaller MTU (Linux: 'ip link set dev INTERFACE mtu 1280') shows whether it is that";

/// What to do about a gateway for any destination on a machine with one network and no route beyond it.
fn one_network() -> String {
    format!(
        "if this machine is to be a gateway, connect its uplink, or add the default route that '{}' does not show; if it is to serve \
         machines of its own network, name that: 'laneway up --role gateway --allow NETWORK/PREFIX'; otherwise leave out \
         --role gateway",
        tools::ROUTES
    )
}

/// The host of HOST:PORT or of a URL.
fn host_of(server: &str) -> &str {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    authority.rsplit_once(':').map_or(authority, |(host, _)| host).trim_matches(['[', ']'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_lost_its_way_out_says_so_about_its_own_machine() {
        let mut seen = crate::telemetry::snapshot::example();
        seen.servers.clear();
        seen.node.state = Some("withdrawn".into());
        seen.node.reach = Some("unreachable".into());
        seen.unreached = vec![Unreached { server: "10.88.0.100:80".into(), reason: "no route".into() }];
        let finding = of_node(&seen, None).unwrap();
        assert_eq!(finding.verdict, Verdict::Wrong);
        assert_eq!(finding.why, ["it does not reach 10.88.0.100:80: no route"]);
        assert!(finding.hint.unwrap().contains("'ip route get 10.88.0.100'"));
        // With a configured server a connection tells, and the gateway's check makes one; unless something else decides.
        seen.servers = vec!["10.88.0.100:80".into()];
        assert_eq!(of_node(&seen, None), None);
        seen.unreached[0].reason = NOTHING.into();
        assert_eq!(of_node(&seen, None).unwrap().hint.as_deref(), Some(MUTE));
        seen.unreached =
            vec![Unreached { server: "http://10.88.0.100/probe".into(), reason: "404 Not Found".into() }];
        let hint = of_node(&seen, None).unwrap().hint.unwrap();
        assert!(
            hint.contains("curl -v http://10.88.0.100/probe") && hint.contains("--probe-expect"),
            "{hint}"
        );
        seen.servers.clear();
        // The commands that show a route take no name, and names may be all that is wrong.
        seen.unreached = vec![Unreached { server: "web.lab:80".into(), reason: "no answer".into() }];
        let hint = of_node(&seen, None).unwrap().hint.unwrap();
        assert!(hint.contains("'ip route' the route") && !hint.contains("web.lab"), "{hint}");
        let names = Finding::wrong(Layer::NameServers, "none answers").hint("name one");
        assert_eq!(of_node(&seen, Some(&names)).unwrap().hint.as_deref(), Some("name one"));
        seen.unreached = vec![Unreached { server: BEYOND.into(), reason: "no default route".into() }];
        let finding = of_node(&seen, None).unwrap();
        assert_eq!(finding.why, ["it does not reach other networks: no default route"]);
        let hint = finding.hint.unwrap();
        assert!(hint.contains("default route") && hint.contains("--allow NETWORK/PREFIX"), "{hint}");
        seen.node.reach = Some("reachable".into());
        assert_eq!(of_node(&seen, None).unwrap().verdict, Verdict::Ok);
        seen.node.reach = Some("unproved".into());
        assert_eq!(
            (of_node(&seen, None), unproved(&seen).map(|found| found.verdict)),
            (None, Some(Verdict::Skipped))
        );
        seen.node.state = None;
        assert_eq!((of_node(&seen, None), unproved(&seen)), (None, None), "no gateway");
        for (server, host) in [("http://a.example/b:c", "a.example"), ("[fd00::1]:80", "fd00::1")] {
            assert_eq!(host_of(server), host);
        }
    }
}
