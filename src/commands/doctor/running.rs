//! What keeps the node that runs here from its work although it runs: what it was told, and where it listens.

use std::net::SocketAddr;
use std::path::Path;

use ipnet::IpNet;

use super::machine::{Node, RESTART};
use super::report::{Finding, Layer};
use crate::commands::{ask, hung};
use crate::config::Config;
use crate::lan::{self, Lan};
use crate::net;
use crate::sys::port_holder::{self, Protocol};
use crate::sys::service::registration::{self, Status};
use crate::sys::state::{StateDir, quoted};

/// The finding about a machine where no node answers. `is_running` tells that one runs; `directory` is that of its keys;
/// `may_serve` that only an option, which its configuration lacks, keeps it from being a gateway.
pub(super) fn absent(is_running: bool, directory: Option<&Path>, may_serve: bool) -> Finding {
    if is_running {
        let what = "the node that runs here listens on unix sockets only: this command cannot ask it";
        return Finding::skipped(Layer::Node, what).hint("let it listen on --proxy 127.0.0.1:1080 as well");
    }
    let default = StateDir::default_path().ok();
    let option = directory.filter(|directory| Some(*directory) != default.as_deref());
    let option = option.map(|directory| format!(" --state {}", quoted(directory))).unwrap_or_default();
    let gateway = match may_serve {
        true => "; a gateway needs its --server HOST:PORT or --role gateway as well",
        false => "",
    };
    let hint = match registration::status() {
        Ok(Status::Stopped { .. }) => "start the service: 'laneway service start'".to_owned(),
        _ if ask::is_of_the_machine() => {
            format!(
                "the machine's is root's: 'sudo laneway service start', or 'sudo laneway up' in a terminal, starts it{gateway}"
            )
        }
        _ => format!(
            "'laneway up{option}' starts one in this terminal, 'laneway service install{option}' one that starts with the \
             machine{gateway}"
        ),
    };
    Finding::wrong(Layer::Node, "no node runs on this machine, so its software has no way out").hint(hint)
}

/// The finding about a node that can open hardly any file or connection more.
pub(super) fn crowded(node: &Node) -> Option<Finding> {
    let program = port_holder::find(Protocol::Tcp, node.proxy)?;
    let (why, hint) = hung::crowded(&program)?;
    let what = "the node that runs here accepts hardly any connection more";
    Some(Finding::wrong(Layer::Node, what).because(why).hint(hint))
}

/// The finding about a machine in maintenance.
pub(super) fn maintenance(node: Option<&Node>, asked: bool) -> Option<Finding> {
    let is_so = node.map_or(asked, |node| node.seen.node.in_maintenance);
    is_so.then(|| {
        let what = match node {
            Some(_) => "this machine is in maintenance: it serves no clients",
            None => "this machine is in maintenance: a node that starts here serves no clients",
        };
        Finding::wrong(Layer::Gateway, what)
            .because("'laneway drain' was run here; that lasts through restarts")
            .hint("laneway drain --undo")
    })
}

/// The finding about a node that has no link to a gateway, although this command has one.
pub(super) fn without_link(node: &Node, linked: &[String]) -> Option<Finding> {
    let seen = &node.seen;
    let idle = seen.node.goes_direct || seen.node.is_draining || !seen.links.is_empty();
    if idle || linked.is_empty() {
        return None;
    }
    let what = format!("this command can link to {}, but the node that runs here has not", linked.join(", "));
    let missing = lan::unknown(&seen.node.lan).unwrap_or_default();
    if !missing.is_empty() {
        let existing = lan::interfaces().map(|all| lan::listed(&all)).unwrap_or_default();
        let why = format!("its --lan names {}, which this machine does not have", missing.join(", "));
        let hint = format!("start it again without that, or with one of this machine: {existing}");
        return Some(Finding::wrong(Layer::Link, what).because(why).hint(hint));
    }
    let why = seen.trouble.clone().unwrap_or_else(|| "no gateway has answered it yet".into());
    let hint = format!(
        "{RESTART}. If that does not help, give it the --lan, --gateway and --discovery-port of this command"
    );
    Some(Finding::wrong(Layer::Link, what).because(why).hint(hint))
}

/// The finding about a gateway whose link port is where no other machine of its LANs reaches it.
pub(super) fn link_address(node: &Node, lans: &[Lan]) -> Option<Finding> {
    let link: SocketAddr = node.seen.node.link.as_deref()?.parse().ok()?;
    node.seen.node.state.as_ref()?;
    let ip = net::plain(link).ip();
    if ip.is_unspecified() || lans.is_empty() || lans.iter().any(|lan| lan.net.contains(&ip)) {
        return None;
    }
    let what =
        format!("the gateway on this machine accepts links on {link}, which no machine of its LANs reaches");
    let places: Vec<_> = lans.iter().map(|lan| format!("{} ({})", lan.net.addr(), lan.interface)).collect();
    let best = lans.iter().find(|lan| matches!(lan.net, IpNet::V4(_))).or(lans.first())?;
    Some(
        Finding::wrong(Layer::Ports, what)
            .because(format!(
                "--link names that address; discovery announces the gateway on {}",
                places.join(", ")
            ))
            .hint(format!(
                "start it without --link, or with '--link {}' (in laneway.toml: link = \"{}\")",
                best.own(link.port()),
                best.own(link.port())
            )),
    )
}

/// The files of a gateway's configuration that it goes without. A client does not read them.
pub(super) fn unusable_files(config: &Config, is_gateway: bool) -> Vec<Finding> {
    let unusable = if is_gateway { config.unusable_files() } else { Vec::new() };
    unusable.into_iter().map(|problem| Finding::problem(Layer::Node, problem)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_the_node_was_told_and_that_does_not_exist_is_named() {
        let mut seen = crate::telemetry::snapshot::example();
        seen.links.clear();
        seen.node.goes_direct = false;
        let mut node = Node { proxy: "127.0.0.1:1080".parse().unwrap(), seen };
        let linked = ["g1".to_owned()];
        assert!(!without_link(&node, &linked).unwrap().why[0].contains("--lan"));
        node.seen.node.lan = vec!["none0".into()];
        let finding = without_link(&node, &linked).unwrap();
        assert_eq!(finding.why, ["its --lan names none0, which this machine does not have"]);
    }
}
