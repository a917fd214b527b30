//! Which local proxy a command uses, and whether the node of this machine listens there.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::ask::{self, NoStatus, reachable};
use super::beside;
use crate::config::proxies::{Fault, Proxies, configured_proxies};
use crate::control;
use crate::failure::printable;
use crate::problem::Problem;
use crate::sys::state::{StateDir, quoted};
use crate::telemetry::snapshot::NodeSeen;
use crate::trust::group::Group;

/// The option that names the local proxy. In all methods `state` is the state directory that was named, if any.
#[derive(Clone, Debug, clap::Args)]
pub struct LocalPort {
    /// The local proxy of the node [default: that of the running node of this state directory, else as configured in the
    /// file, else 127.0.0.1:1080]
    #[arg(long, env = "LANEWAY_PROXY", value_name = "ADDR:PORT")]
    proxy: Option<SocketAddr>,
}

/// Why software must not be pointed to a local proxy.
pub(super) enum Unusable {
    /// Nothing listens there.
    Nobody(Problem),
    /// What listens there is another program, or a node of another group.
    Other(Problem),
}

impl Unusable {
    /// What a command says that cannot go on.
    pub(super) fn problem(self) -> Problem {
        match self {
            Self::Nobody(problem) | Self::Other(problem) => problem,
        }
    }
}

impl LocalPort {
    /// The TCP addresses where the local proxy listens: the one that was named, else those of the running node of the state
    /// directory, else the configured ones. A configuration that is not valid is a warning on standard error.
    ///
    /// # Errors
    /// When it listens on unix sockets only.
    pub(crate) fn endpoints(&self, state: Option<&Path>) -> Result<Vec<SocketAddr>, Problem> {
        let (addresses, fault) = self.found(state);
        if let Some(fault) = fault {
            // With standard error closed there is nobody to warn.
            let _ = writeln!(io::stderr(), "{}", fault.warning());
        }
        if addresses.is_empty() {
            return Err(Problem::usage("the local proxy listens on unix sockets only")
                .hint("let it listen on 127.0.0.1:1080 too, or name a port with --proxy ADDR:PORT"));
        }
        Ok(addresses)
    }

    /// The address at which software on this machine reaches the local proxy, with the same warning.
    ///
    /// # Errors
    /// When it listens on unix sockets only.
    pub fn address(&self, state: Option<&Path>) -> Result<SocketAddr, Problem> {
        Ok(reachable(self.endpoints(state)?[0]))
    }

    /// The same without any message: `None` when it listens on unix sockets only.
    pub fn address_silently(&self, state: Option<&Path>) -> Option<SocketAddr> {
        self.found(state).0.first().copied().map(reachable)
    }

    /// Whether the user has named the address.
    pub(super) fn is_named(&self) -> bool {
        self.proxy.is_some()
    }

    /// Whether software may be pointed to this address: the node of this machine's group listens there, or, where the user
    /// has named the address or is in no group, any node.
    pub(super) fn check(&self, state: Option<&Path>, address: SocketAddr) -> Result<(), Unusable> {
        let directory = directory(state);
        let running = directory.as_deref().and_then(control::running_proxies).unwrap_or_default();
        if running.into_iter().any(|own| reachable(own) == address) {
            return Ok(());
        }
        let node = match ask::about(address) {
            Ok(seen) => seen.node,
            // It tells its own machine nothing at this address, but it is a node.
            Err(NoStatus::Reserved) => return Ok(()),
            Err(error @ NoStatus::Nobody(_)) => return Err(Unusable::Nobody(error.problem(address))),
            Err(error) => return Err(Unusable::Other(error.problem(address))),
        };
        let own = directory.filter(|_| self.proxy.is_none()).and_then(|directory| member(&directory));
        match own {
            Some(own) if own.node.id.short() != node.id => {
                Err(Unusable::Other(of_another_group(address, &node, &own)))
            }
            _ => Ok(()),
        }
    }

    fn found(&self, state: Option<&Path>) -> (Vec<SocketAddr>, Option<Fault>) {
        if let Some(address) = self.proxy {
            return (vec![address], None);
        }
        let Proxies { addresses, fault } = configured_proxies(None);
        let running = directory(state).as_deref().and_then(control::running_proxies);
        (running.unwrap_or(addresses), fault)
    }
}

/// The state directory of a command.
fn directory(state: Option<&Path>) -> Option<PathBuf> {
    state.map(Path::to_owned).or_else(|| StateDir::default_path().ok())
}

/// The group whose member this directory is of, as far as this user can tell.
fn member(directory: &Path) -> Option<Group> {
    let state = beside::holds_group(directory).then(|| StateDir::open(directory).ok())??;
    Group::load(&state).ok().flatten()
}

fn of_another_group(address: SocketAddr, node: &NodeSeen, own: &Group) -> Problem {
    let (name, group) = (printable(&node.name), printable(&node.group));
    let directory = printable(&quoted(Path::new(&node.directory)));
    Problem::new(format!(
        "the node on {address} is '{name}' of the group '{group}', and not '{}' of the group '{}'",
        own.node.name, own.name
    ))
    .after(Problem::new(format!("its state directory is {directory}, and no node runs with yours")))
    .hint(format!(
        "to use that node, name it: --proxy {address}; to start your own beside it: {}",
        beside::OWN_PORTS
    ))
}
