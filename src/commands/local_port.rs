//! Which local proxy a command uses, and whether the node of this machine listens there.

use std::fmt;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::ask::{self, NoStatus, reachable};
use super::beside;
use super::named_proxy::NamedProxy;
use crate::config::proxies::{Fault, Proxies, configured_proxies};
use crate::control;
use crate::failure::printable;
use crate::problem::Problem;
use crate::secret::secret;
use crate::sys::state::{StateDir, quoted};
use crate::sys::users::{self, Whose};
use crate::telemetry::snapshot::NodeSeen;
use crate::trust::group::Group;

/// The option that names the local proxy. In all methods `state` is the state directory that was named, if any.
#[derive(Clone, Debug, clap::Args)]
pub struct LocalPort {
    /// The local proxy of the node, with a login as http://NAME:PASSWORD@ADDR:PORT if it asks for one [default: that of the
    /// running node of this state directory, else as configured in the file, else 127.0.0.1:1080]
    #[arg(
        long,
        env = "LANEWAY_PROXY",
        value_name = "ADDR:PORT",
        hide_env_values = true,
        value_parser = secret::<NamedProxy>()
    )]
    proxy: Option<NamedProxy>,
}

/// Why software must not be pointed to a local proxy.
pub(super) enum Unusable {
    /// Nothing listens there.
    Nobody(Problem),
    /// What listens there does not answer, is another program, a node of another group, or a program of another user.
    Other(Problem),
}

impl Unusable {
    /// The problem of a command that cannot go on.
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

    /// As `address`, without any message: `None` when it listens on unix sockets only.
    pub fn address_silently(&self, state: Option<&Path>) -> Option<SocketAddr> {
        self.found(state).0.first().copied().map(reachable)
    }

    /// Whether the user has named the address.
    pub(super) fn is_named(&self) -> bool {
        self.proxy.is_some()
    }

    /// What a URL has to lead software to this address, with the login that was named, if any.
    pub(super) fn authority(&self, address: impl fmt::Display) -> String {
        self.proxy.as_ref().map_or_else(|| address.to_string(), |proxy| proxy.authority(&address))
    }

    /// What to do about the local proxy at this address if it asks for a login, and none was named. `None` also where nobody
    /// answers that.
    pub(super) fn lacks_login(&self, address: SocketAddr) -> Option<Problem> {
        let is_named = self.proxy.as_ref().is_some_and(NamedProxy::has_login);
        let needs_login = !is_named && ask::about(address).is_ok_and(|seen| seen.node.needs_login);
        needs_login.then(|| {
            Problem::new(format!("the local proxy on {address} asks for a login, and none was named"))
                .after(Problem::new("software gets status 407 there, or is refused by SOCKS"))
                .hint(format!(
                    "name one of --proxy-logins: --proxy http://NAME:PASSWORD@{address}, or the same in LANEWAY_PROXY for this command \
                     alone, where the list of processes does not show it"
                ))
        })
    }

    /// Whether software may be pointed to this address: a node answers there that belongs to this user or to the machine. It is
    /// the node of this machine's group or, where the user has named the address or is in no group, any node.
    pub(super) fn check(&self, state: Option<&Path>, address: SocketAddr) -> Result<(), Unusable> {
        let directory = directory(state);
        let running = directory.as_deref().and_then(control::running_proxies).unwrap_or_default();
        let is_own = running.into_iter().any(|own| reachable(own) == address);
        let node = match ask::about(address) {
            Ok(seen) => Some(seen.node),
            // It tells its own machine nothing at this address, but it is a node.
            Err(NoStatus::Reserved) => None,
            // The keys of this directory prove it a node, if of another version.
            Err(NoStatus::Unknown(_)) if is_own => None,
            Err(error @ NoStatus::Nobody(_)) => return Err(Unusable::Nobody(error.problem(address))),
            Err(error) => return Err(Unusable::Other(error.problem(address))),
        };
        // Every program can answer like a node.
        if let Some(problem) = of_another_user(address) {
            return Err(Unusable::Other(problem));
        }
        let own =
            directory.filter(|_| !is_own && self.proxy.is_none()).and_then(|directory| member(&directory));
        match (own, node) {
            (Some(own), Some(node)) if own.node.id.short() != node.id => {
                Err(Unusable::Other(of_another_group(address, &node, &own)))
            }
            _ => Ok(()),
        }
    }

    fn found(&self, state: Option<&Path>) -> (Vec<SocketAddr>, Option<Fault>) {
        if let Some(proxy) = &self.proxy {
            return (vec![proxy.address], None);
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

/// The group that this directory belongs to, as far as this user can tell.
fn member(directory: &Path) -> Option<Group> {
    let state = beside::holds_group(directory).then(|| StateDir::open(directory).ok())??;
    Group::load(&state).ok().flatten()
}

/// The problem of software that uses a program which belongs neither to this user nor to the machine. `None` also where the
/// system does not tell whose it is.
pub(super) fn of_another_user(address: SocketAddr) -> Option<Problem> {
    let trust = "if you know that it is the node of this machine, add --no-check";
    let (what, why, hint) = match users::whose(address) {
        Whose::Own | Whose::Machine | Whose::Elsewhere | Whose::Untold => return None,
        Whose::Other(name) => (
            format!("the program that answers on {address} belongs to the user {}", printable(&name)),
            "that user could read what software sends through it, and answer in place of the servers",
            format!(
                "start a node of your own beside it: {}; or if you trust that user, add --no-check",
                beside::own_ports()
            ),
        ),
        Whose::Unmapped => (
            format!("the owner of the program that answers on {address} is not known"),
            "its user has no number in this container: it may be root of the machine, or anybody else",
            trust.to_owned(),
        ),
        Whose::Nobody => (
            format!("the program that answers on {address} is not known"),
            "as far as this network shows, no program listens there",
            trust.to_owned(),
        ),
    };
    Some(Problem::new(what).after(Problem::new(why)).hint(hint))
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
        beside::own_ports()
    ))
}
