//! `laneway members`: who is in the group, when each member was seen last, and with which version.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::sightings::{Sightings, Where};
use super::{authority, beside, progress, removal, say};
use crate::gateway::served::Seen;
use crate::problem::Problem;
use crate::sys::state::StateDir;
use crate::telemetry::report::age;
use crate::trust::authority::Member;
use crate::trust::clock;
use crate::trust::departures;
use crate::trust::group::{Group, Role};
use crate::wire::id::NodeId;

/// A member that was seen within this time counts as present, in seconds.
const PRESENT: u64 = 60;

/// The state of a member that gateways have seen and that is not in this machine's list.
const UNLISTED: &str = "unlisted";

/// `laneway members`
#[derive(Debug, clap::Args)]
pub struct Members {
    /// Print the list as one line of JSON; times are in seconds since 1970, and what is unknown is null
    #[arg(long)]
    json: bool,
    /// Ask no gateway: show what this machine has heard before
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    gateways: Where,
}

/// One member.
#[derive(Debug, Serialize)]
struct Row {
    /// Its name; none if it is not in the list and was not seen with one.
    name: Option<String>,
    id: String,
    role: Option<Role>,
    /// `member`, `leaving`, `left`, `removed` or [`UNLISTED`].
    state: &'static str,
    /// When it joined.
    joined: Option<u64>,
    /// When it left by itself.
    left: Option<u64>,
    /// When a gateway saw it last; none if none has said so.
    last_seen: Option<u64>,
    /// The version of its program when it was seen with one.
    version: Option<String>,
    /// Whether it is the machine that prints this.
    is_this_machine: bool,
}

impl Members {
    /// Lists the members.
    ///
    /// # Errors
    /// When this machine does not hold the authority.
    pub async fn run(self, state: StateDir) -> Result<(), Problem> {
        let authority = authority::load(&state)?;
        let group = beside::group(&state)?;
        self.gateways.check()?;
        let mut seen = Sightings::saved(&state);
        if !self.offline {
            let _waiting = (!self.json).then(|| progress::waiting("asking the gateways whom they have seen"));
            self.gateways.ask(&authority, &group, &state, &mut seen).await;
        }
        let is_removed = match self.offline {
            true => group.update.revokes(group.node.id),
            false => removal::is_removed(&state, &group).await,
        };
        if is_removed {
            let (what, why, hint) = removal::problem(&group).parts();
            let warning = format!("warning: {what}; this list is what it was before\n");
            let causes: String = why.iter().map(|why| format!("caused by: {why}\n")).collect();
            let hint = hint.map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
            // With standard error closed there is nobody to warn.
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("{warning}{causes}{hint}").as_bytes(),
            );
        }
        let rows = rows(authority.members()?, &group, &departures::saved(&state, &group), seen.members());
        if self.json {
            let line = serde_json::to_string(&rows);
            say(line.map_err(|error| Problem::new("the list cannot be written").because(error))?);
        } else {
            print(&rows);
        }
        Ok(())
    }
}

fn rows(
    members: Vec<Member>,
    group: &Group,
    leaving: &BTreeSet<NodeId>,
    seen: &BTreeMap<NodeId, Seen>,
) -> Vec<Row> {
    // Other machines may have admitted and removed members, and this one may have joined after the backup that it imported.
    let mut unlisted: BTreeSet<NodeId> = group.update.revoked().iter().chain(seen.keys()).copied().collect();
    unlisted.insert(group.node.id);
    let mut rows: Vec<Row> = Vec::new();
    for member in members {
        let id = NodeId::parse(&member.id);
        let is_removed = id.is_some_and(|id| group.update.revokes(id));
        let seen = id.and_then(|id| {
            unlisted.remove(&id);
            seen.get(&id).cloned()
        });
        rows.push(Row {
            is_this_machine: id == Some(group.node.id),
            name: Some(member.name),
            role: Some(member.role),
            state: match (is_removed, member.left, member.removed) {
                (_, Some(_), None) => "left",
                (true, ..) => "removed",
                _ if id.is_some_and(|id| leaving.contains(&id)) => "leaving",
                (false, ..) => "member",
            },
            joined: Some(member.joined),
            left: member.left,
            last_seen: seen.as_ref().map(|seen| seen.at),
            version: seen.and_then(|seen| seen.version),
            id: member.id,
        });
    }
    rows.extend(unlisted.into_iter().map(|id| unlisted_row(id, group, leaving, seen.get(&id))));
    rows
}

/// A machine that this machine's list does not have.
fn unlisted_row(id: NodeId, group: &Group, leaving: &BTreeSet<NodeId>, seen: Option<&Seen>) -> Row {
    let own = Some(&group.node).filter(|own| own.id == id);
    Row {
        name: own.map(|own| own.name.clone()).or_else(|| seen?.name.clone()),
        id: id.to_string(),
        role: own.map(|own| own.role),
        state: match own {
            _ if group.update.revokes(id) => "removed",
            _ if leaving.contains(&id) => "leaving",
            Some(_) => "member",
            None => UNLISTED,
        },
        joined: None,
        left: None,
        last_seen: seen.map(|seen| seen.at),
        version: seen.and_then(|seen| seen.version.clone()),
        is_this_machine: own.is_some(),
    }
}

fn print(rows: &[Row]) {
    let line = |name: &str, id: &str, role: &str, version: &str, seen: &str, state: &str| {
        let id = &id[..8.min(id.len())];
        say(format!("{name:<24} {id:<10} {role:<17} {version:<10} {seen:<16} {state}").trim_end());
    };
    line("NAME", "ID", "ADMITTED AS", "VERSION", "LAST SEEN", "");
    let now = clock::now().as_secs();
    for row in rows {
        let role = row.role.map(|role| match role {
            Role::Gateway => "gateway or client",
            Role::Client => "client only",
        });
        let is_member = ["member", UNLISTED].contains(&row.state);
        let seen = row.last_seen.map(|at| match now.saturating_sub(at) {
            // One that has left may have been there just before.
            ..PRESENT if is_member => "now".to_owned(),
            ago => format!("{} ago", age(Duration::from_secs(ago).as_secs_f64())),
        });
        line(
            row.name.as_deref().unwrap_or("?"),
            &row.id,
            role.unwrap_or("?"),
            row.version.as_deref().unwrap_or("-"),
            seen.as_deref().unwrap_or("-"),
            if row.state == "member" { "" } else { row.state },
        );
    }
    if rows.iter().any(|row| row.state == UNLISTED) {
        say(
            "\nunlisted: not in the list of this machine. It joined after the backup that was imported here, or by a code of another \
             machine with the group's key. 'laneway revoke ID' removes it.",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::authority::Authority;

    #[test]
    fn who_has_said_that_it_leaves_is_leaving_until_it_has_left() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path().join("state")).unwrap();
        let group = Authority::create(&state, "lan", "first").unwrap();
        let mut members = authority::load(&state).unwrap().members().unwrap();
        let shown = |members: &[Member], leaving: &BTreeSet<NodeId>| {
            rows(members.to_vec(), &group, leaving, &BTreeMap::new())[0].state
        };
        let leaving = BTreeSet::from([group.node.id]);
        assert_eq!(shown(&members, &BTreeSet::new()), "member");
        assert_eq!(shown(&members, &leaving), "leaving");
        members[0].left = Some(1);
        assert_eq!(shown(&members, &leaving), "left");
    }

    #[test]
    fn whom_only_gateways_know_is_listed_with_the_name_that_they_saw() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path().join("state")).unwrap();
        let group = Authority::create(&state, "lan", "first").unwrap();
        let authority = authority::load(&state).unwrap();
        let [late, nameless, old] = [7, 8, 9].map(|first| NodeId([first; 16]));
        authority.revoke(&old.to_string()).unwrap();
        let group = Group::load(&state).unwrap().unwrap_or(group);
        let name = |name: &str| Some(name.to_owned());
        let of = |name| Seen { at: 100, name, version: None };
        let seen = BTreeMap::from([(late, of(name("c10"))), (nameless, of(None)), (old, of(name("c9")))]);
        let rows = |members, leaving: &[NodeId]| -> Vec<_> {
            let leaving = leaving.iter().copied().collect();
            let rows = rows(members, &group, &leaving, &seen).into_iter();
            rows.map(|row| (row.name, row.state, row.last_seen)).collect()
        };
        // An imported list lacks the machine that imported it, too, if that was a member before.
        let shown = rows(Vec::new(), &[nameless]);
        for row in [
            (name("first"), "member", None),
            (name("c10"), UNLISTED, Some(100)),
            (None, "leaving", Some(100)),
            (name("c9"), "removed", Some(100)),
        ] {
            assert!(shown.contains(&row), "no {row:?} in {shown:?}");
        }
        assert_eq!(shown.len(), 4);
        assert_eq!(rows(authority.members().unwrap(), &[]).len(), 4);
    }
}
