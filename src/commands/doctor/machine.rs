//! The layers of this machine alone: its group, its networks, its ports.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use super::firewall;
use super::remedies::{REMOVED, connect_cable};
use super::report::{Finding, Layer};
use crate::commands::ask::{self, NoStatus};
use crate::commands::local_port::of_another_user;
use crate::commands::{beside, hung, removal};
use crate::config::{Config, RoleSetting};
use crate::failure;
use crate::lan::{self, Lan, LanSocket};
use crate::local::endpoint::Endpoint;
use crate::peers::options::PORT;
use crate::problem::Problem;
use crate::redirect::{self, Leftover};
use crate::sys::port_holder::{self, Protocol};
use crate::sys::service::registration;
use crate::sys::state::{StateDir, quoted};
use crate::sys::{tools, users};
use crate::telemetry::report::{self, few};
use crate::telemetry::snapshot::Snapshot;
use crate::trust::group::{self, Group};

/// How a node is started again.
pub(super) const RESTART: &str =
    "start it again: 'systemctl restart laneway', or Ctrl-C in its terminal and the same command once more";

/// The node that runs here.
pub(super) struct Node {
    /// The address of its local port.
    pub(super) proxy: SocketAddr,
    /// Its status.
    pub(super) seen: Snapshot,
}

impl Node {
    /// Whether it is a candidate, even if it reaches no server at the moment.
    pub(super) fn is_candidate(&self) -> bool {
        // One that was configured as a gateway has no state in its first moments.
        self.seen.node.state.is_some() || self.seen.node.setting == RoleSetting::Gateway.word()
    }
}

/// What is known of this machine's node before its ports are looked at.
#[derive(Clone, Copy, Default)]
pub(super) struct InstalledNode<'a> {
    /// The group that this command has the keys of.
    pub(super) group: Option<&'a Group>,
    /// Where the node listens that runs with these keys.
    pub(super) running: Option<&'a [SocketAddr]>,
}

/// Checks the membership of this machine: its group, and whether the group has removed it.
pub(super) async fn member(
    state: Result<StateDir, Problem>,
    found: &mut Vec<Finding>,
) -> (Option<Group>, bool) {
    let state = match state {
        Ok(state) => state,
        Err(problem) => return (group(Err(problem), found), false),
    };
    let Some(group) = group(Ok(&state), found) else { return (None, false) };
    match removed(&state, &group).await {
        Some(removed) => {
            *found = vec![removed];
            (None, true)
        }
        None => (Some(group), false),
    }
}

fn group(state: Result<&StateDir, Problem>, found: &mut Vec<Finding>) -> Option<Group> {
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

/// The finding about a machine that its group has removed.
async fn removed(state: &StateDir, group: &Group) -> Option<Finding> {
    let is_removed = group.update.revokes(group.node.id) || removal::is_removed(state, group).await;
    is_removed.then(|| {
        Finding::wrong(Layer::Group, format!("this machine was removed from the group {}", group.name))
            .because("no other machine of the group accepts it any more")
            .hint(REMOVED)
    })
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

/// The findings about interfaces that have an address, and no cable. Where gateways are found by others, a client needs none of
/// them.
pub(super) fn without_carrier(config: &Config, lans: &[Lan], is_gateway: bool) -> Vec<Finding> {
    // Without any LAN, the finding about that names them.
    let dark = if lans.is_empty() {
        Vec::new()
    } else {
        lan::without_carrier(&config.peers.lan).unwrap_or_default()
    };
    let found = dark.into_iter().map(|(interface, net)| {
        let what =
            format!("{interface} has {net}, and no carrier: its cable is out, or what it leads to is off");
        match is_gateway {
            true => Finding::wrong(Layer::Interfaces, what)
                .because("this gateway reaches nothing behind it, and nothing there reaches this gateway")
                .hint(connect_cable()),
            false => Finding::skipped(Layer::Interfaces, what),
        }
    });
    found.collect()
}

fn no_lan(config: &Config) -> Finding {
    if !config.peers.gateway.is_empty() {
        let what = "no network to discover on; the gateways of --gateway are used";
        return Finding::skipped(Layer::Interfaces, what);
    }
    let mut finding = Finding::wrong(Layer::Interfaces, "there is no network to discover gateways on");
    let mut silent = lan::without_broadcast().unwrap_or_default();
    silent.retain(|(_, net)| net.addr() != redirect::DUMMY);
    for (interface, net) in &silent {
        finding = finding.because(format!("{interface} has {net}, which has no broadcast address"));
    }
    let unconnected = lan::unconnected().unwrap_or_default();
    for (interface, net) in &unconnected {
        finding = finding.because(format!("{interface} has {net}, and is switched off or not connected"));
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
        None => finding.hint(match unconnected.first() {
            Some((interface, _)) => format!(
                "connect its cable, or switch it on: '{}' does that; '{}' shows how it is",
                tools::switch_on(interface),
                tools::ADDRESSES
            ),
            None => format!(
                "give an interface that is up an address of the LAN, if DHCP gives none, or bring up one that has an address: '{}' shows \
                 them",
                tools::ADDRESSES
            ),
        }),
    }
}

/// Checks the local ports. Returns the node that runs here, if there is one. A node with other keys than `own` is another
/// user's, and no more than a program that has the port.
pub(super) fn ports(
    config: &Config,
    own: InstalledNode<'_>,
    lans: &[Lan],
    may_serve: bool,
    found: &mut Vec<Finding>,
) -> Option<Node> {
    found.extend(redirection());
    let (mut node, mut is_explained) = (None, false);
    for endpoint in &config.local.proxy {
        let Endpoint::Tcp(address) = endpoint else { continue };
        let is_own = own.running.is_some_and(|running| running.contains(address));
        let Proxy { finding, node: running, hangs } = proxy_port(ask::reachable(*address), is_own);
        is_explained |= hangs;
        match (own.group, running) {
            (Some(own), Some(running)) if running.seen.node.id != own.node.id.short() => {
                is_explained = true;
                found.push(not_ours(own, &running));
            }
            (_, running) => {
                found.push(finding);
                node = node.or(running);
            }
        }
    }
    // The other ports are that node's as well.
    if node.is_some() || is_explained {
        return node;
    }
    let discovery = config.peers.discovery_port;
    let is_taken = |lan: &&Lan| {
        LanSocket::unicast(lan, discovery).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    };
    let others: Vec<_> = lans.iter().filter(is_taken).map(|lan| lan.own(discovery)).collect();
    found.extend(taken(
        Protocol::Udp,
        &others,
        &format!("do without discovery: {}", beside::WITHOUT_DISCOVERY),
    ));
    if may_serve {
        let address = config.gateway.link.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], PORT)));
        if address.port() != 0
            && TcpListener::bind(address).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
        {
            found.extend(taken(
                Protocol::Tcp,
                &[address],
                "choose another port: add '--link 0.0.0.0:7421' to the options of 'laneway up' (in laneway.toml: link = \"0.0.0.0:7421\")",
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

/// What is found at a port of the local proxy.
struct Proxy {
    finding: Finding,
    /// The node that answers there.
    node: Option<Node>,
    /// Whether a node listens there that does not answer.
    hangs: bool,
}

impl From<Finding> for Proxy {
    fn from(finding: Finding) -> Self {
        Self { finding, node: None, hangs: false }
    }
}

/// Checks a port of the local proxy. `is_own` tells that a node with the keys of this command listens there.
fn proxy_port(address: SocketAddr, is_own: bool) -> Proxy {
    let error = match ask::about(address) {
        Ok(seen) => {
            let what = format!("{address}: the node {} runs here, {}", seen.node.name, settings(&seen));
            let stranger = of_another_user(address).filter(|_| !is_own);
            let finding = match stranger {
                Some(problem) => Finding::problem(Layer::Ports, problem),
                None => Finding::ok(Layer::Ports, what),
            };
            return Proxy { finding, node: Some(Node { proxy: address, seen }), hangs: false };
        }
        Err(NoStatus::Nobody(_)) => {
            let free = TcpListener::bind(address);
            return Proxy::from(match free {
                Ok(_) => Finding::ok(Layer::Ports, format!("{address} is free")),
                Err(error) => {
                    Finding::wrong(Layer::Ports, format!("the local proxy cannot listen on {address}"))
                        .because(error.to_string())
                        .hint("name an address of this machine: '--proxy 127.0.0.1:1080' in the options of 'laneway up'")
                }
            });
        }
        Err(error) => error,
    };
    if let NoStatus::Silent = error
        && let Some(problem) = hung::at(address, ask::DEADLINE)
    {
        return Proxy { hangs: true, ..Finding::problem(Layer::Ports, problem).into() };
    }
    match error.problem(address) {
        problem if is_own => {
            let what = format!("the node that runs here does not answer on {address}");
            let finding =
                problem.parts().1.into_iter().fold(Finding::wrong(Layer::Ports, what), Finding::because);
            Proxy { hangs: true, ..finding.hint(RESTART).into() }
        }
        _ => {
            let other = ask::other_port(address);
            taken(Protocol::Tcp, &[address], &other)
                .map_or_else(|| Finding::ok(Layer::Ports, format!("{address} is free")).into(), Proxy::from)
        }
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
            beside::own_ports()
        ))
}

/// The settings of a running node that decide what it does, which may differ from those that this command finds.
fn settings(seen: &Snapshot) -> String {
    let servers = if seen.servers.is_empty() { "none".into() } else { seen.servers.join(", ") };
    let rules = seen.rules.as_ref().and_then(report::rules).map(|rules| format!("; {rules}"));
    format!("role {}, servers {servers}{}", seen.node.setting, rules.unwrap_or_default())
}

/// The finding about ports that another program has, if there are any. `other` is what helps where it cannot be stopped.
fn taken(protocol: Protocol, addresses: &[SocketAddr], other: &str) -> Option<Finding> {
    let address = *addresses.first()?;
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
    let as_node = format!(
        "name its local port with 'laneway doctor --proxy ADDR:PORT'; a second node beside it needs ports of its own: {}",
        beside::own_ports()
    );
    let hint: String = match &holder {
        Some((name, _)) if name == registration::NAME => {
            format!("to look at the node that runs here, {as_node}")
        }
        Some(_) => format!("stop that program, or {other}"),
        None if other_user.is_some() => format!("if that is a node, {as_node}. Otherwise {other}"),
        None => other.to_owned(),
    };
    let all: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let verb = if all.len() == 1 { "is" } else { "are" };
    let what = format!("{name} {} {verb} in use, but not by this machine's laneway node", few(&all));
    Some(Finding::wrong(Layer::Ports, what).because(format!("used by {why}")).hint(hint))
}
