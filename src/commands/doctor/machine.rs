//! The layers of this machine alone: its group, its networks, its ports.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use super::firewall;
use super::remedies::{LOGIN, REMOVED, uplink_up};
use super::report::{Finding, Layer, Verdict};
use crate::commands::ask::{self, NoStatus};
use crate::commands::local_port::of_another_user;
use crate::commands::{beside, hung};
use crate::config::{Config, RoleSetting};
use crate::failure;
use crate::gateway::silence::NOTHING;
use crate::lan::{self, Lan, LanSocket};
use crate::local::endpoint::Endpoint;
use crate::peers::options::PORT;
use crate::problem::Problem;
use crate::redirect::{self, Leftover};
use crate::sys::port_holder::{self, Protocol};
use crate::sys::state::{StateDir, quoted};
use crate::sys::{tools, users};
use crate::telemetry::report::{self, answered_last};
use crate::telemetry::snapshot::{Snapshot, Unreached};
use crate::trust::group::{self, Group};

/// How a node is started again.
const RESTART: &str =
    "start it again: 'systemctl restart laneway', or Ctrl-C in its terminal and 'laneway up'";
/// The deadline for a connection to a local port.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// The node that runs here.
pub(super) struct Node {
    /// The address of its local port.
    pub(super) proxy: SocketAddr,
    /// Its status.
    pub(super) seen: Snapshot,
}

/// What is known of this machine's node before its ports are looked at.
#[derive(Clone, Copy, Default)]
pub(super) struct Own<'a> {
    /// The group that this command has the keys of.
    pub(super) group: Option<&'a Group>,
    /// Where the node listens that runs with these keys.
    pub(super) running: Option<&'a [SocketAddr]>,
}

/// Checks the membership of this machine.
pub(super) fn group(state: Result<&StateDir, Problem>, found: &mut Vec<Finding>) -> Option<Group> {
    if let Ok(state) = &state
        && let Some(problem) = beside::lost(state)
    {
        found.push(Finding::problem(Layer::Group, problem));
        return None;
    }
    if let Ok(state) = &state
        && let Some(problem) = beside::elsewhere(state)
    {
        let (what, why, hint) = problem.parts();
        found.push(Finding { why, hint, ..Finding::skipped(Layer::Group, what) });
        return None;
    }
    let place = state.as_ref().map_or_else(|_| String::new(), |state| quoted(state.path()));
    let group = match state.and_then(crate::shared::group) {
        Ok(group) => group,
        Err(problem) => {
            found.push(Finding::problem(Layer::Group, problem));
            return None;
        }
    };
    let node = &group.node;
    if group.update.revokes(node.id) {
        found.push(
            Finding::wrong(Layer::Group, format!("this machine was removed from the group {}", group.name))
                .hint(REMOVED),
        );
        return None;
    }
    let role = match node.role {
        group::Role::Gateway => "may be a gateway",
        group::Role::Client => "is a client only",
    };
    found.push(Finding::ok(
        Layer::Group,
        format!(
            "{}: this machine is {} ({}), its certificate is valid, it {role}; its keys are in {place}",
            group.name,
            node.name,
            node.id.short()
        ),
    ));
    Some(group)
}

/// Checks that the certificate permits the configured role.
pub(super) fn role(config: &Config, group: &Group, found: &mut Vec<Finding>) {
    if config.node.role == RoleSetting::Gateway && group.node.role == group::Role::Client {
        found.push(
            Finding::wrong(Layer::Group, "--role gateway: this machine was admitted as a client only")
                .hint(crate::shared::CLIENT_ONLY),
        );
    }
}

/// Checks the networks to discover on, and returns them.
pub(super) fn interfaces(config: &Config, found: &mut Vec<Finding>) -> Vec<Lan> {
    let lans = match lan::lans(&config.peers.lan) {
        Ok(lans) => lans,
        Err(error) => {
            let problem = Problem::new("this machine's interfaces cannot be listed").because(error);
            found.push(Finding::problem(Layer::Interfaces, problem));
            return Vec::new();
        }
    };
    for lan in &lans {
        let everybody = lan.everybody(config.peers.discovery_port).ip();
        let cast = if everybody.is_ipv6() { "multicast" } else { "broadcast" };
        found.push(Finding::ok(
            Layer::Interfaces,
            format!("{}: {}, {cast} {everybody}", lan.interface, lan.net),
        ));
    }
    if lans.is_empty() {
        found.push(no_lan(config));
    }
    lans
}

fn no_lan(config: &Config) -> Finding {
    if !config.peers.gateway.is_empty() {
        let what = "no network to discover on; the gateways of --gateway are used";
        return Finding::skipped(Layer::Interfaces, what);
    }
    let mut finding = Finding::wrong(Layer::Interfaces, "there is no network to discover gateways on");
    let silent = lan::without_broadcast().unwrap_or_default();
    for (interface, net) in &silent {
        finding = finding.because(format!("{interface} has {net}, which has no broadcast address"));
    }
    let up = lan::lans(&[]).map_or(0, |lans| lans.len());
    match silent.first() {
        _ if up > 0 => finding.hint(format!(
            "--lan names no address of this machine that is up: '{}' shows them",
            tools::ADDRESSES
        )),
        Some((interface, net)) => finding.hint(format!(
            "if that is a LAN, give it the LAN's prefix, like 'ip addr add {}/24 broadcast + dev {interface}'; else name \
             the gateway: 'laneway up --gateway HOST:{PORT}'",
            net.addr()
        )),
        None => finding
            .hint(format!("bring up an interface that has an address: '{}' shows them", tools::ADDRESSES)),
    }
}

/// Checks the local ports. Returns the node that runs here, if there is one. A node with other keys than `own` is another
/// user's, and no more than a program that has the port.
pub(super) fn ports(
    config: &Config,
    own: Own<'_>,
    lans: &[Lan],
    may_serve: bool,
    found: &mut Vec<Finding>,
) -> Option<Node> {
    found.extend(redirection());
    let mut node = None;
    for endpoint in &config.local.proxy {
        let Endpoint::Tcp(address) = endpoint else { continue };
        let is_own = own.running.is_some_and(|running| running.contains(address));
        let (finding, running) = proxy_port(ask::reachable(*address), is_own);
        match (own.group, running) {
            (Some(own), Some(running)) if running.seen.node.id != own.node.id.short() => {
                found.push(not_ours(own, &running));
            }
            (_, running) => {
                found.push(finding);
                node = node.or(running);
            }
        }
    }
    if node.is_some() {
        return node;
    }
    for lan in lans {
        if let Err(error) = LanSocket::unicast(lan, config.peers.discovery_port)
            && error.kind() == io::ErrorKind::AddrInUse
        {
            found.push(taken(
                Protocol::Udp,
                lan.own(config.peers.discovery_port),
                "choose another port, the same on all machines: 'laneway up --discovery-port N'",
            ));
        }
    }
    if may_serve {
        let address = config.gateway.link.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], PORT)));
        if address.port() != 0
            && TcpListener::bind(address).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
        {
            found.push(taken(
                Protocol::Tcp,
                address,
                "choose another port: 'laneway up --link 0.0.0.0:7421' (in laneway.toml: link = \"0.0.0.0:7421\")",
            ));
        }
    }
    None
}

/// What the firewall of Windows does with other machines' packets. Those of other systems are looked at where something
/// does not arrive.
pub(super) fn firewall(discovery: u16, may_serve: bool) -> Option<Finding> {
    let program = std::env::current_exe().ok()?;
    let add = format!(
        "in a terminal of an administrator: netsh advfirewall firewall add rule name=laneway dir=in action=allow \
         program=\"{}\"",
        program.display()
    );
    Some(match firewall::windows_lets_in()? {
        true => Finding::ok(Layer::Firewall, "Windows Defender Firewall has the rule 'laneway' for incoming packets"),
        false if may_serve => Finding::wrong(
            Layer::Firewall,
            format!("Windows Defender Firewall has no rule 'laneway': clients reach neither UDP {discovery} nor the links"),
        )
        .hint(add),
        // Windows lets answers to a broadcast in for some seconds, but no announcement.
        false => Finding::skipped(
            Layer::Firewall,
            "Windows Defender Firewall has no rule 'laneway': gateways are heard only when this machine asks",
        )
        .hint(add),
    })
}

/// Whether the node that runs here as a gateway has a way out, as that node finds. Where a connection to a configured server tells,
/// the gateway's check does. Where only names were tried, the `name_servers` come first.
pub(super) fn way_out(seen: &Snapshot, name_servers: Option<&Finding>) -> Option<Finding> {
    let is_seen_by_connecting =
        |fault: &Unreached| seen.servers.contains(&fault.server) && fault.reason != NOTHING;
    if seen.node.state.is_none()
        || !seen.servers.is_empty() && seen.unreached.iter().all(is_seen_by_connecting)
    {
        return None;
    }
    let lost = || {
        let finding = Finding::wrong(Layer::WayOut, "the gateway on this machine has lost its way out");
        let reason = |fault: &Unreached| format!("it does not reach {}: {}", fault.server, fault.reason);
        let hosts = || seen.unreached.iter().map(|fault| host_of(&fault.server));
        let address = hosts().find(|host| host.parse::<IpAddr>().is_ok());
        let uplink = uplink_up(address.or_else(|| hosts().next()).unwrap_or_default());
        let by_names = name_servers.filter(|found| address.is_none() && found.verdict == Verdict::Wrong);
        let by_names = by_names.and_then(|found| found.hint.clone());
        let upstream = seen.unreached.iter().find(|fault| fault.server.starts_with("--upstream"));
        let page = seen.unreached.iter().find(|fault| fault.server.contains("://"));
        let is_mute = seen.unreached.iter().any(|fault| fault.reason == NOTHING);
        let hint = match (upstream, page) {
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
        seen.unreached.iter().fold(finding, |finding, fault| finding.because(reason(fault))).hint(hint)
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

/// The host of HOST:PORT or of a URL.
fn host_of(server: &str) -> &str {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    authority.rsplit_once(':').map_or(authority, |(host, _)| host).trim_matches(['[', ']'])
}

/// What the rules of transparent mode do here, if there are any.
fn redirection() -> Option<Finding> {
    let leftover = match redirect::leftover() {
        Some(leftover) => leftover,
        None => {
            let ports = redirect::installed().ok()??.ports;
            let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
            let what =
                format!("connections of this machine's software are redirected to port {}", ports.join(", "));
            return Some(Finding::ok(Layer::Ports, what));
        }
    };
    let what = leftover.to_string();
    Some(match leftover {
        Leftover::Interface => Finding::ok(Layer::Ports, what).hint(Leftover::HINT),
        Leftover::Unknown => Finding::skipped(Layer::Ports, what).hint(Leftover::HINT),
        Leftover::Rules(_) => Finding::wrong(Layer::Ports, what).hint(Leftover::HINT),
    })
}

/// Checks a port of the local proxy. `is_own` tells that a node with the keys of this command listens there.
fn proxy_port(address: SocketAddr, is_own: bool) -> (Finding, Option<Node>) {
    if TcpStream::connect_timeout(&address, CONNECT_DEADLINE).is_err() {
        let finding = match TcpListener::bind(address) {
            Ok(_) => Finding::ok(Layer::Ports, format!("{address} is free")),
            Err(error) => Finding::wrong(Layer::Ports, format!("the local proxy cannot listen on {address}"))
                .because(error.to_string())
                .hint("name an address of this machine: 'laneway up --proxy 127.0.0.1:1080'"),
        };
        return (finding, None);
    }
    let error = match ask::about(address) {
        Ok(seen) => {
            let what = format!("{address}: the node {} runs here, {}", seen.node.name, settings(&seen));
            let stranger = of_another_user(address).filter(|_| !is_own);
            let finding = match stranger {
                Some(problem) => Finding::problem(Layer::Ports, problem),
                None => Finding::ok(Layer::Ports, what),
            };
            return (finding, Some(Node { proxy: address, seen }));
        }
        Err(error) => error,
    };
    if let NoStatus::Silent = error
        && let Some(problem) = hung::at(address, ask::DEADLINE)
    {
        return (Finding::problem(Layer::Ports, problem), None);
    }
    match error.problem(address) {
        problem if is_own => {
            let what = format!("the node that runs here does not answer on {address}");
            let finding =
                problem.parts().1.into_iter().fold(Finding::wrong(Layer::Ports, what), Finding::because);
            (finding.hint(RESTART), None)
        }
        _ => (taken(Protocol::Tcp, address, &ask::other_port(address)), None),
    }
}

/// The finding about a node that has the local port and is not the one whose keys this command has.
fn not_ours(own: &Group, running: &Node) -> Finding {
    let Snapshot { node, .. } = &running.seen;
    let user = users::who_listens(running.proxy).map(users::name_of);
    let user = user.map_or_else(String::new, |user| format!(" of the user {}", failure::printable(&user)));
    let (name, group) = (failure::printable(&node.name), failure::printable(&node.group));
    let what = format!(
        "{}: the node{user} that runs here is '{name}' of the group '{group}', and not '{}' of the group '{}'",
        running.proxy, own.node.name, own.name
    );
    Finding::wrong(Layer::Ports, what)
        .because("software that uses this port goes through that node, while this command has the keys of the other one")
        .hint(format!(
            "look at that node with 'laneway doctor --state {}' as its user. To run the other one beside it, give it ports \
             of its own: {}",
            failure::printable(&quoted(Path::new(&node.directory))),
            beside::OWN_PORTS
        ))
}

/// The settings of a running node that decide what it does, which may differ from those that this command finds.
fn settings(seen: &Snapshot) -> String {
    let servers = if seen.servers.is_empty() { "none".into() } else { seen.servers.join(", ") };
    let rules = seen.rules.as_ref().and_then(report::rules).map(|rules| format!("; {rules}"));
    format!("role {}, servers {servers}{}", seen.node.setting, rules.unwrap_or_default())
}

fn taken(protocol: Protocol, address: SocketAddr, other: &str) -> Finding {
    let name = match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    };
    let holder = port_holder::find(protocol, address);
    let holder = holder.map(|program| (failure::printable(&program.name), program.process));
    let user = match protocol {
        Protocol::Tcp => users::who_listens(ask::reachable(address)),
        Protocol::Udp => users::who_receives(address.port()),
    };
    let other_user = user.filter(|user| Some(*user) != users::own()).map(users::name_of);
    let why = match (&holder, &other_user) {
        (Some((name, process)), _) => format!("{name} (process {process})"),
        (None, Some(user)) => format!("a program of the user {}", failure::printable(user)),
        (None, None) => format!("another program, which '{}' shows to an administrator", tools::PORTS),
    };
    let hint: String = match &holder {
        Some((name, _)) if name == "laneway" => {
            "a node runs here with another local port: name it with 'laneway doctor --proxy ADDR:PORT'".into()
        }
        Some(_) => format!("stop that program, or {other}"),
        None if other_user.is_some() => {
            format!(
                "if that is a node, name its local port with 'laneway doctor --proxy ADDR:PORT'; otherwise {other}"
            )
        }
        None => other.to_owned(),
    };
    let what = format!("{name} {address} is in use, but not by this machine's laneway node");
    Finding::wrong(Layer::Ports, what).because(format!("it is used by {why}")).hint(hint)
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
        let finding = way_out(&seen, None).unwrap();
        assert_eq!(finding.verdict, Verdict::Wrong);
        assert_eq!(finding.why, ["it does not reach 10.88.0.100:80: no route"]);
        assert!(finding.hint.unwrap().contains("'ip route get 10.88.0.100'"));
        // With a configured server a connection tells, and the gateway's check makes one; unless something else decides.
        seen.servers = vec!["10.88.0.100:80".into()];
        assert_eq!(way_out(&seen, None), None);
        seen.unreached[0].reason = NOTHING.into();
        assert_eq!(way_out(&seen, None).unwrap().hint.as_deref(), Some(MUTE));
        seen.unreached =
            vec![Unreached { server: "http://10.88.0.100/probe".into(), reason: "404 Not Found".into() }];
        let hint = way_out(&seen, None).unwrap().hint.unwrap();
        assert!(
            hint.contains("curl -v http://10.88.0.100/probe") && hint.contains("--probe-expect"),
            "{hint}"
        );
        seen.servers.clear();
        // The commands that show a route take no name, and names may be all that is wrong.
        seen.unreached = vec![Unreached { server: "web.lab:80".into(), reason: "no answer".into() }];
        let hint = way_out(&seen, None).unwrap().hint.unwrap();
        assert!(hint.contains("'ip route' the route") && !hint.contains("web.lab"), "{hint}");
        let names = Finding::wrong(Layer::NameServers, "none answers").hint("name one");
        assert_eq!(way_out(&seen, Some(&names)).unwrap().hint.as_deref(), Some("name one"));
        seen.node.reach = Some("reachable".into());
        assert_eq!(way_out(&seen, None).unwrap().verdict, Verdict::Ok);
        seen.node.state = None;
        assert_eq!(way_out(&seen, None), None, "no gateway");
        for (server, host) in [("http://a.example/b:c", "a.example"), ("[fd00::1]:80", "fd00::1")] {
            assert_eq!(host_of(server), host);
        }
    }
}
