//! The node that runs on this machine already, for commands that need its group: whose it is, and which command reaches
//! its state.

use std::io;
use std::path::{Path, PathBuf};

use super::ask;
use crate::config::PROXY_PORT;
use crate::config::proxies::configured_proxies;
use crate::failure::printable;
use crate::net;
use crate::problem::Problem;
use crate::shared;
use crate::sys::state::{StateDir, StateError, quoted};
use crate::sys::{paths, users};
use crate::telemetry::snapshot::Snapshot;
use crate::trust::group::Group;

/// The command of a node where another program has the port of discovery, which is the same on all machines.
pub(super) const WITHOUT_DISCOVERY: &str =
    "'laneway up --lan 127.0.0.1 --gateway HOST:7420', with a gateway of its group as HOST";

/// The command of a node beside another one on the same machine. Discovery has one port on all machines, which only one node of a
/// machine can have on its LAN, so the other one names a gateway.
pub(super) fn own_ports() -> String {
    let proxy = net::free_port_beside(([127, 0, 0, 1], PROXY_PORT).into());
    format!(
        "'laneway up --proxy {proxy} --lan 127.0.0.1 --gateway HOST:7420', with a gateway of its group as HOST"
    )
}

/// What there is on this machine beside the state directory of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Beside {
    /// A node that answers on its local proxy.
    Node {
        /// Its name in the group.
        name: String,
        /// The group's name.
        group: String,
        /// The user id of its process, as the system tells it.
        user: Option<u32>,
        /// Its state directory, as it says.
        directory: PathBuf,
    },
    /// The state directory of root, which only root can read.
    OfRoot(PathBuf),
}

impl Beside {
    /// What runs here: the node on the configured local proxy, else root's state if this user is another one.
    fn find() -> Option<Self> {
        Self::node().or_else(|| {
            let path = paths::machine_state().filter(|_| !paths::is_administrator())?;
            // With DynamicUser= it is a link into a directory that only root can enter.
            path.symlink_metadata().is_ok().then_some(Self::OfRoot(path))
        })
    }

    fn node() -> Option<Self> {
        let proxy = ask::reachable(*configured_proxies(None).addresses.first()?);
        let Snapshot { node, .. } = ask::snapshot(proxy).ok()?;
        let user = users::who_listens(proxy);
        Some(Self::Node { name: node.name, group: node.group, user, directory: node.directory.into() })
    }

    /// Who and what it is.
    fn what(&self) -> String {
        match self {
            Self::Node { name, group, user, .. } => {
                let user = user.map_or_else(
                    || "of another user".into(),
                    |user| format!("of the user {}", users::name_of(user)),
                );
                format!("a node {user} runs here, '{}' of the group '{}'", printable(name), printable(group))
            }
            Self::OfRoot(path) => {
                format!(
                    "root may be in a group on this machine: {} is there, and only root can read it",
                    quoted(path)
                )
            }
        }
    }

    /// The command that was typed, for its state.
    fn command(&self) -> String {
        let words: Vec<_> = std::env::args().skip(1).map(|word| quoted(Path::new(&word))).collect();
        let name = if words.is_empty() { "doctor".to_owned() } else { printable(&words.join(" ")) };
        let sudo = if paths::is_administrator() { "" } else { "sudo " };
        match self {
            Self::Node { directory, .. }
                if Some(directory) != paths::machine_state().as_ref()
                    && !directory.as_os_str().is_empty() =>
            {
                format!("{sudo}laneway {name} --state {}", printable(&quoted(directory)))
            }
            _ => format!("{sudo}laneway {name}"),
        }
    }
}

/// The state directory for a command that looks at this machine's group or changes it: the one that is named, else the
/// default one, else that of the node that this user runs here. One that is missing is not made.
///
/// # Errors
/// When it cannot be used.
pub fn state_directory(named: Option<&Path>) -> Result<StateDir, Problem> {
    if let Some(named) = named {
        return Ok(StateDir::existing(named)?);
    }
    let default = StateDir::default_path();
    if !default.as_deref().is_ok_and(holds_group)
        && let Some(Beside::Node { user, directory, .. }) = Beside::node()
        && user.is_some()
        && user == users::own()
        // Both the process and the directory are this user's: nobody else can name a directory here.
        && users::owner_of(&directory) == user
        && holds_group(&directory)
    {
        return Ok(StateDir::open(directory)?);
    }
    default.and_then(StateDir::existing).map_err(|error| {
        // A user without a home asks about the node of another user.
        match Beside::find().filter(|_| is_out_of_reach(&error)) {
            Some(beside) => Problem::usage(error.to_string())
                .because(io::Error::other(beside.what()))
                .hint(format!("run '{}'", beside.command())),
            None => error.into(),
        }
    })
}

/// Whether this user has no home directory, or one that they may not enter.
fn is_out_of_reach(error: &StateError) -> bool {
    match error {
        StateError::NoHome => true,
        StateError::Io { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
        _ => false,
    }
}

/// Whether this user sees a group in the directory.
pub fn holds_group(directory: &Path) -> bool {
    directory.join("group.json").exists()
}

/// The group that this machine is a member of.
///
/// # Errors
/// When it is in no group, as far as this user can tell: then the command that can tell.
pub fn group(state: &StateDir) -> Result<Group, Problem> {
    match lost(state).or_else(|| elsewhere(state)) {
        Some(problem) => Err(problem),
        None => shared::group(state),
    }
}

/// The problem of a running node whose directory holds no group any more: it goes on with what it has in memory, but cannot
/// start again. `None` unless that is the directory of this command.
pub(super) fn lost(state: &StateDir) -> Option<Problem> {
    let is_gone = |directory: &Path| {
        let file = directory.join("group.json").symlink_metadata();
        file.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    if !is_gone(state.path()) {
        return None;
    }
    let Beside::Node { name, group, directory, .. } = Beside::node()? else { return None };
    let is_named = state.path() != StateDir::default_path().ok()?;
    if !is_gone(&directory) || is_named && directory != state.path() {
        return None;
    }
    let (name, group, place) = (printable(&name), printable(&group), printable(&quoted(&directory)));
    let option = match Some(&directory) == paths::machine_state().as_ref() || !is_named {
        true => String::new(),
        false => format!(" --state {place}"),
    };
    let what = format!("the keys of '{name}', the node that runs here, are gone: {place} holds no group");
    Some(
        Problem::new(what)
            .after(Problem::new(
                "the directory was removed or emptied while the node runs: it goes on with the keys in its memory, and cannot \
                 start again",
            ))
            .hint(format!(
                "stop the node, with 'systemctl stop laneway' or Ctrl-C in its terminal; then put a copy of the directory \
                 back, or join again with a line from 'laneway invite' on the machine with the key of the group \
                 '{group}'{}. If this was that machine: 'laneway ca import FILE{option}' with the file of 'laneway ca \
                 export'",
                match option.is_empty() {
                    true => String::new(),
                    false => format!(", with{option}"),
                }
            )),
    )
}

/// The problem of a command whose directory holds no group, while there is one elsewhere on this machine. `None` unless the
/// directory is the default one: whoever names another means that one.
pub(super) fn elsewhere(state: &StateDir) -> Option<Problem> {
    if holds_group(state.path()) || StateDir::default_path().ok()? != state.path() {
        return None;
    }
    let beside = Beside::find()?;
    let what = format!("{} holds no group", quoted(state.path()));
    let reason = io::Error::other(beside.what());
    Some(Problem::usage(what).because(reason).hint(format!("run '{}'", beside.command())))
}

/// Refuses to make this machine a member a second time, unless the directory was named for that and no node goes on there without
/// its keys.
///
/// # Errors
/// When a node runs here, or root may have one.
pub fn refuse_second_node(named: Option<&Path>) -> Result<(), Problem> {
    let state = named.map_or_else(StateDir::default_path, |named| Ok(named.to_owned()));
    if let Some(problem) = state.and_then(StateDir::existing).ok().as_ref().and_then(lost) {
        return Err(problem);
    }
    if named.is_some() || holds_group(&StateDir::default_path()?) {
        return Ok(());
    }
    match Beside::find() {
        Some(beside) => Err(second_node(&beside)?),
        None => Ok(()),
    }
}

/// Refuses to start a node without a group while another one runs here, which all users can use.
///
/// # Errors
/// When one runs here.
pub fn refuse_beside_node(state: &StateDir) -> Result<(), Problem> {
    let has_own = holds_group(state.path()) || lost(state).is_some();
    if has_own || StateDir::default_path()? != state.path() {
        return Ok(());
    }
    match Beside::node() {
        Some(beside) => Err(second_node(&beside)?),
        None => Ok(()),
    }
}

/// Whether this user can make the directory: they own one above it, which nobody without a home does.
fn can_be_made(directory: &Path) -> bool {
    let above = directory.ancestors().find(|above| above.exists());
    above.is_some_and(|above| users::owner_of(above) == users::own())
}

/// The problem of a user who wants a node of their own.
fn second_node(beside: &Beside) -> Result<Problem, Problem> {
    let own = StateDir::default_path()?;
    let own = if can_be_made(&own) { quoted(&own) } else { "DIR".into() };
    let of_it = match (beside, std::env::args().nth(1).as_deref()) {
        (_, Some("ca")) => format!("'{}' is for that one", beside.command()),
        (Beside::Node { .. }, _) => "'laneway status' shows it, and 'laneway run -- CMD' uses it".to_owned(),
        (Beside::OfRoot(_), _) => "'sudo laneway doctor' tells".to_owned(),
    };
    let needs = match beside {
        Beside::Node { .. } => "it needs",
        Beside::OfRoot(_) => "where root's node runs, it needs",
    };
    let hint = format!(
        "{of_it}. For a node of this user's own, add --state {own} to 'laneway init' or 'laneway join CODE'; {needs} ports of its \
         own: {}",
        own_ports()
    );
    Ok(Problem::usage(beside.what()).hint(hint))
}
