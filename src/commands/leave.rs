//! `laneway leave`: this machine leaves its group. Its node stops, the group hears it in the machine's own words, and its keys
//! are removed.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::{ask, beside, drain, gateways, hung, progress, say};
use crate::control;
use crate::gateway::options::CACHE;
use crate::gateway::served;
use crate::link::client::{DialError, Link};
use crate::link::{tls, updates};
use crate::peers::options::{self, PORT};
use crate::peers::{boot, remembered};
use crate::problem::Problem;
use crate::sharing::DIRECTORY;
use crate::sys::state::{StateDir, quoted};
use crate::trust::authority::{Authority, Copies};
use crate::trust::group::{self, Group};
use crate::trust::leaving::Resignation;
use crate::trust::membership::Membership;
use crate::wire::id::NodeId;
use crate::wire::target::Target;

/// What is said where the group's only key is removed.
const WITHOUT_KEY: &str = "The group's only key is removed with them: nobody can admit or remove machines any more. For a new group, run \
     'laneway init' on one machine, and 'laneway leave --force --yes' and 'laneway join' with its code on the others.";
/// What is said where a copy of the group's key is removed.
const WITHOUT_THIS_KEY: &str = "The group's key is removed from this machine. It is still in the file that 'laneway ca export' wrote, and on a \
     machine where that was imported ('laneway ca import FILE'): without it nobody can admit or remove machines.";
/// Number of gateways that are told: any one of them passes it on.
const ENOUGH: usize = 4;
/// How long a running node may take to follow.
const NOTICE: Duration = Duration::from_secs(10);
/// Interval between two looks at the stopping node.
const INTERVAL: Duration = Duration::from_millis(100);

/// `laneway leave`
#[derive(Debug, clap::Args)]
pub struct Leave {
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    /// Leave even if no gateway can be told, or if this machine holds the only copy of the group's key
    #[arg(long)]
    force: bool,
    /// Tell this gateway as well; repeatable [default: those that answer on the LAN, and those that were used before]
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = options::gateway)]
    gateway: Vec<Target>,
    /// The UDP port of discovery
    #[arg(long, env = "LANEWAY_DISCOVERY_PORT", value_name = "PORT", default_value_t = PORT)]
    discovery_port: u16,
    /// An interface or local address to query on; repeatable [default: all except loopback]
    #[arg(long, env = "LANEWAY_LAN", value_name = "NAME|ADDR", value_delimiter = ',')]
    lan: Vec<String>,
}

impl Leave {
    /// Leaves.
    ///
    /// # Errors
    /// When this machine is in no group or holds its only key, when nobody can be told, or when the node or its files cannot be
    /// removed.
    pub async fn run(self, state: StateDir) -> Result<(), Problem> {
        let group = member(&state)?;
        super::check_lan(&self.lan)?;
        warn_of_the_last_gateway(&state);
        let guarded = self.guard_the_key(&state);
        if guarded.is_ok() {
            self.confirm(&group)?;
        }
        let membership = Membership::new(group.clone());
        let resignation = Resignation::sign(&group)
            .map_err(|error| Problem::new("this machine cannot sign that it leaves").because(error))?;
        membership.note_departures(vec![resignation]);
        let found = match membership.group().update.revokes(group.node.id) {
            true => Round { is_removed: true, ..Round::default() },
            false => that_answer(&group, &membership, self.gateways(&group, &state).await?).await,
        };
        if let Err(problem) = guarded {
            // If another machine with the key removed this one, it does not hold the only copy.
            if !found.is_removed {
                return Err(problem);
            }
            self.confirm(&group)?;
        }
        if found.is_removed && found.answering.is_empty() {
            return after_removal(&group, &state).await;
        }
        let Round { answering: gateways, is_known: was_known, .. } = found;
        if gateways.is_empty() && !was_known && !self.force {
            return Err(nobody(&group));
        }
        stop_node(&state).await?;
        let Told { names: told, is_known } = tell(&group, &membership, gateways).await;
        let is_known = is_known || was_known;
        if told.is_empty() && !is_known && !self.force {
            // The machine stays a member.
            control::stay(&state)?;
            return Err(Problem::new("the node has stopped, but this machine is still in the group")
                .after(nobody(&group)));
        }
        let held_the_only_key = holds_the_only_key(&state)?;
        let held_its_key = Authority::load(&state)?.is_some();
        forget(&state)?;
        say(format_args!("This machine has left the group '{}', and its keys are removed.", group.name));
        if held_the_only_key {
            say(WITHOUT_KEY);
            return Ok(());
        }
        if held_its_key {
            say(WITHOUT_THIS_KEY);
        }
        let name = &group.node.name;
        match told.as_slice() {
            [] if is_known => say(format_args!(
                "A gateway says that the group knows it already, and accepts no link of '{name}' any more."
            )),
            [] => say(format_args!(
                "Nobody was told: run 'laneway revoke {name}' on the machine with the group's key."
            )),
            told => say(format_args!(
                "Told: {}. {} no link of '{name}' any more. Within a minute the others refuse it too, and the machine with the \
                 group's key lists it as left.",
                told.join(", "),
                if told.len() == 1 { "It accepts" } else { "They accept" },
            )),
        }
        Ok(())
    }

    /// Refuses to remove the only copy of the group's key.
    fn guard_the_key(&self, state: &StateDir) -> Result<(), Problem> {
        if Authority::load(state)?.is_none() || self.force {
            return Ok(());
        }
        let copy = "'laneway ca export FILE' here, 'laneway ca import FILE' on another member, then leave";
        match Authority::copies(state) {
            Copies::Exported => Ok(()),
            Copies::OnlyHere => Err(Problem::usage("this machine holds the only copy of the group's key")
                .after(Problem::usage("without it nobody can admit or remove machines any more"))
                .hint(format!("{copy}; 'laneway leave --force --yes' leaves anyway"))),
            Copies::Imported => Err(Problem::usage(
                "this machine holds the group's key, which was imported here",
            )
            .after(Problem::usage("it cannot tell whether the machine that exported the key still has it"))
            .hint(format!(
                "if 'laneway members' works on another machine, that has the key: 'laneway leave --force \
                 --yes'. Otherwise {copy}"
            ))),
        }
    }

    fn confirm(&self, group: &Group) -> Result<(), Problem> {
        if self.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            return Err(Problem::usage("leaving a group has to be confirmed")
                .after(Problem::usage("standard input is not a terminal"))
                .hint("laneway leave --yes"));
        }
        let mut out = io::stdout();
        let asked =
            format!("Leave the group '{}' and delete the keys of '{}'? [y/N] ", group.name, group.node.name);
        let _ = out.write_all(asked.as_bytes()).and_then(|()| out.flush());
        let mut answer = String::new();
        let _ = io::stdin().read_line(&mut answer);
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(Problem::new("not confirmed: this machine stays in the group")),
        }
    }

    /// The gateways that can be told.
    async fn gateways(
        &self,
        group: &Group,
        state: &StateDir,
    ) -> Result<BTreeMap<SocketAddr, Option<NodeId>>, Problem> {
        let mut found = gateways::named(&self.gateway).await?;
        let _waiting = progress::waiting("looking for gateways to tell");
        let known = remembered::load(state);
        if let Ok(survey) = gateways::look(group, known.clone(), self.discovery_port, &self.lan).await {
            found.extend(survey.links().into_iter().map(|seen| (seen.link, Some(seen.id))));
        }
        for address in known {
            found.entry(address).or_insert(None);
        }
        found.retain(|_, id| *id != Some(group.node.id));
        Ok(found)
    }
}

/// The group that this machine leaves.
fn member(state: &StateDir) -> Result<Group, Problem> {
    if !beside::holds_group(state.path())
        && beside::lost(state).is_none()
        && beside::elsewhere(state).is_none()
    {
        return Err(Problem::usage("this machine is in no group, so there is none to leave")
            .after(Problem::usage(format!("{} holds none", quoted(state.path()))))
            .hint("'laneway leave --state DIR' leaves that of another directory"));
    }
    beside::group(state)
}

/// Warns if the node of this machine is the only gateway that could serve.
fn warn_of_the_last_gateway(state: &StateDir) {
    let proxies = control::running_proxies(state.path()).unwrap_or_default();
    let seen = proxies.into_iter().find_map(|proxy| ask::snapshot(ask::reachable(proxy)).ok());
    let serves = seen.filter(|seen| seen.node.state.as_deref().is_some_and(drain::could_serve));
    serves.iter().for_each(drain::warn_of_the_last_gateway);
}

/// Whether the group's key is here and was never copied.
fn holds_the_only_key(state: &StateDir) -> Result<bool, Problem> {
    Ok(Authority::load(state)?.is_some() && matches!(Authority::copies(state), Copies::OnlyHere))
}

fn nobody(group: &Group) -> Problem {
    let name = &group.node.name;
    Problem::new("no gateway of the group can be told")
        .after(Problem::new("none answers: this machine would stay on the list of members"))
        .hint(format!(
            "start one, or name it with --gateway HOST:PORT. To leave without telling any: 'laneway leave --force --yes', \
             and 'laneway revoke {name}' on the machine with the group's key"
        ))
}

/// Has the node of this machine stop in good order, and waits for its end.
async fn stop_node(state: &StateDir) -> Result<(), Problem> {
    control::ask_to_leave(state)?;
    if !control::is_running(state)? {
        return Ok(());
    }
    let _waiting = progress::waiting("the node of this machine drains and stops");
    while control::is_running(state)? {
        // The node follows until it ends, however long its connections take.
        if !control::follows(state, NOTICE)? && control::is_running(state)? {
            // The machine stays a member.
            control::stay(state)?;
            return Err(hung::with(state, NOTICE, ""));
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(())
}

/// Deletes the keys of a machine that the group has already removed. The group needs no notice of it.
async fn after_removal(group: &Group, state: &StateDir) -> Result<(), Problem> {
    stop_node(state).await?;
    forget(state)?;
    say(format_args!(
        "This machine had been removed from the group '{}' before. Its keys are deleted. To join again, run 'laneway invite' on the \
         machine with the group's key, and the line that it prints here.",
        group.name
    ));
    Ok(())
}

/// What a round of links to gateways found.
#[derive(Default)]
struct Round {
    answering: BTreeMap<SocketAddr, Option<NodeId>>,
    /// The group has removed this machine: a gateway has shown the authority's signature.
    is_removed: bool,
    /// A gateway says that this machine has left or was removed. The authority has not signed that before it hears of it.
    is_known: bool,
}

/// Those gateways that accept a link, until there are enough: the node keeps running if there is none.
async fn that_answer(
    group: &Group,
    membership: &Arc<Membership>,
    gateways: BTreeMap<SocketAddr, Option<NodeId>>,
) -> Round {
    let mut found = Round::default();
    let Ok(config) = tls::link_client(group) else { return found };
    let tasks = TaskTracker::new();
    for (address, id) in gateways {
        match Link::dial(address, id, config.clone(), membership.clone(), &tasks).await {
            Ok(link) => {
                let known = found.answering.values().any(|other| *other == Some(link.gateway.id));
                if !known && link.gateway.id != group.node.id {
                    found.answering.insert(address, Some(link.gateway.id));
                }
                link.retire();
            }
            Err(DialError::Removed(_)) => found.is_removed = true,
            Err(error) => found.is_known |= matches!(error, DialError::Unproved(_)),
        }
        if found.answering.len() >= ENOUGH {
            break;
        }
    }
    found
}

/// Who knows that this machine leaves.
#[derive(Default)]
struct Told {
    /// The gateways that were told.
    names: Vec<String>,
    /// A gateway refuses this machine, because it has heard of it from another one, or the group has removed it.
    is_known: bool,
}

/// Tells gateways until enough of them know.
async fn tell(
    group: &Group,
    membership: &Arc<Membership>,
    gateways: BTreeMap<SocketAddr, Option<NodeId>>,
) -> Told {
    let mut told = Told::default();
    let Ok(config) = tls::link_client(group) else { return told };
    let tasks = TaskTracker::new();
    for (address, id) in gateways {
        let link = match Link::dial(address, id, config.clone(), membership.clone(), &tasks).await {
            Ok(link) => link,
            Err(error) => {
                told.is_known |= matches!(error, DialError::Removed(_) | DialError::Unproved(_));
                continue;
            }
        };
        let name = link.gateway.name.to_string();
        if updates::tell(&link, membership).await.is_ok() && !told.names.contains(&name) {
            told.names.push(name);
        }
        link.retire();
    }
    told
}

/// Removes all that this program keeps in the state directory, the membership first.
fn forget(state: &StateDir) -> Result<(), Problem> {
    group::forget(state)?;
    for file in [served::FILE, remembered::FILE, boot::FILE] {
        state.remove(file)?;
    }
    // The keys matter more than what was stored, which may be a file system of its own.
    for directory in [CACHE, DIRECTORY].map(|name| state.file(name)) {
        if let Err(error) = std::fs::remove_dir_all(&directory)
            && error.kind() != io::ErrorKind::NotFound
        {
            let _ = writeln!(io::stderr(), "warning: {} is not removed: {error}", quoted(&directory));
        }
    }
    control::forget(state)?;
    // To other users, a directory of root's is a sign that this machine is in a group.
    Ok(state.remove_if_empty()?)
}
