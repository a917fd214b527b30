//! Transparent mode as a part of a node: the ports, and the rules that lead there where the node is to keep them.

use std::net::SocketAddr;

use crate::config::Config;
use crate::local::endpoint::Endpoint;
use crate::local::port::Port;
use crate::mark;
use crate::problem::Problem;
use crate::redirect::{self, Rules};
use crate::sys::state::StateDir;

/// In the state directory while the rules of a node are in place: what a killed node leaves behind is known by it.
const FILE: &str = "redirected";

/// Binds the transparent ports, and begins to mark this node's own connections. A node that dials servers itself
/// `serves`: were its connections not marked, they would come back to it.
///
/// # Errors
/// When a port cannot be bound; when a node that serves may not mark.
pub fn bind(config: &Config, serves: bool) -> Result<Vec<Port>, Problem> {
    // Always: the rules may come from 'laneway transparent up', and outlast the node.
    let marked = mark::begin();
    let bind = |address: &SocketAddr| {
        Port::bind(&Endpoint::Tcp(*address), 0o600).map_err(|error| {
            Problem::new(format!("the transparent port cannot listen on {address}"))
                .because(error)
                .hint("--transparent ADDR:PORT chooses another port")
        })
    };
    let ports = config.transparent.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
    match marked {
        Err(error) if serves && !ports.is_empty() => {
            return Err(Problem::new(
                "transparent mode on a gateway would lead its own connections back to it",
            )
            .because(error)
            .hint(
                "give it CAP_NET_ADMIN (AmbientCapabilities= in its unit, or setcap), or use --role client",
            ));
        }
        Err(error) if !ports.is_empty() => tracing::warn!(
            %error, "this node cannot mark its connections: exempt its user, laneway transparent up --user NAME"
        ),
        _ => {}
    }
    Ok(ports)
}

/// The rules of this node, in place until this is dropped.
pub struct Kept {
    state: StateDir,
}

impl Kept {
    /// Puts the rules in place if the node is to keep them; takes those away that a killed node has left, if not.
    ///
    /// # Errors
    /// When they are wanted and cannot be put in place.
    pub fn begin(config: &Config, ports: &[Port], state: &StateDir) -> Result<Option<Self>, Problem> {
        let keep = || Self { state: state.clone() };
        if !config.transparent_rules {
            if state.read(FILE).is_ok_and(|left| left.is_some()) {
                tracing::info!("rules that a killed node has left are removed");
                drop(keep());
            }
            return Ok(None);
        }
        let port = |v4: bool| {
            // The one of all IPv6 addresses takes IPv4 too.
            let takes = |address: &SocketAddr| address.is_ipv4() == v4 || v4 && address.ip().is_unspecified();
            let mut addresses = ports.iter().filter_map(Port::address);
            addresses.find(takes).map(|address| address.port())
        };
        let rules = Rules {
            v4: port(true),
            v6: port(false),
            only: config.transparent_only.clone(),
            except: config.transparent_except.clone(),
            except_private: config.transparent_except_private,
            user: None,
        };
        if let Err(error) = state.write(FILE, b"") {
            tracing::warn!(%error, "rules would not be noticed that a killed node leaves");
        }
        match rules.install() {
            Ok(()) => tracing::info!("software of this machine is led to the transparent port"),
            Err(error) => {
                let _ = state.remove(FILE);
                return Err(error.problem("the rules of --transparent-rules are not installed"));
            }
        }
        Ok(Some(keep()))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        match redirect::remove() {
            Ok(()) => drop(self.state.remove(FILE)),
            Err(error) => tracing::error!(%error, "rules not removed: run 'laneway transparent down'"),
        }
    }
}
