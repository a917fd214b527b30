//! `laneway members`: who is in the group, when each member was seen last, and with which version.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;
use tokio_util::task::TaskTracker;

use super::ask;
use super::local_port::LocalPort;
use super::{authority, beside, gateways, progress, removal, say};
use crate::failure::with_causes;
use crate::gateway::served::{self, Seen};
use crate::link::client::Link;
use crate::link::{roster, tls};
use crate::peers::options::PORT;
use crate::peers::remembered;
use crate::problem::Problem;
use crate::sys::state::StateDir;
use crate::telemetry::report::age;
use crate::trust::authority::{Authority, Member};
use crate::trust::clock;
use crate::trust::departures;
use crate::trust::group::{Group, Role};
use crate::trust::membership::Membership;
use crate::wire::id::NodeId;

/// Maximum gateways that are asked.
const MAX_GATEWAYS: usize = 64;
/// A member that was seen within this time counts as present, in seconds.
const PRESENT: u64 = 60;

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
    port: LocalPort,
    /// The UDP port of discovery
    #[arg(long, env = "LANEWAY_DISCOVERY_PORT", value_name = "PORT", default_value_t = PORT)]
    discovery_port: u16,
    /// An interface or local address to query on; repeatable [default: all except loopback]
    #[arg(long, env = "LANEWAY_LAN", value_name = "NAME|ADDR", value_delimiter = ',')]
    lan: Vec<String>,
}

/// One member.
#[derive(Debug, Serialize)]
struct Row {
    /// Its name; none for one that another machine with the group's key admitted.
    name: Option<String>,
    id: String,
    role: Option<Role>,
    /// `member`, `leaving`, `left` or `removed`.
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
        super::check_lan(&self.lan)?;
        let mut seen: BTreeMap<NodeId, Seen> = BTreeMap::new();
        for (id, of) in served::load(&state) {
            if let Some(id) = NodeId::parse(&id) {
                seen.entry(id).or_default().merge(of);
            }
        }
        if !self.offline {
            let _waiting = (!self.json).then(|| progress::waiting("asking the gateways whom they have seen"));
            self.ask(&authority, &group, &state, &mut seen).await;
            let saved = seen.iter().map(|(id, of)| (id.to_string(), of.clone())).collect();
            if let Err(error) = served::save(&state, &saved) {
                tracing::warn!(
                    error = with_causes(&error),
                    "the list of the members that were seen cannot be saved"
                );
            }
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
        let rows = rows(authority.members()?, &group, &departures::saved(&state, &group), &seen);
        if self.json {
            let line = serde_json::to_string(&rows);
            say(line.map_err(|error| Problem::new("the list cannot be written").because(error))?);
        } else {
            print(&rows);
        }
        Ok(())
    }

    /// Asks this machine's node, and every gateway that answers on the LAN or is remembered.
    async fn ask(
        &self,
        authority: &Authority,
        group: &Group,
        state: &StateDir,
        seen: &mut BTreeMap<NodeId, Seen>,
    ) {
        let now = clock::now().as_secs();
        let mut note = |id: NodeId, at: u64, version: Option<String>| {
            seen.entry(id).or_default().merge(Seen { at, version });
        };
        let mut links: BTreeMap<SocketAddr, Option<NodeId>> = BTreeMap::new();
        if let Ok(node) = self.port.address(Some(state.path())).and_then(ask::snapshot)
            && node.node.id == group.node.id.short()
        {
            note(group.node.id, now, Some(node.node.version));
            let own = node.node.link.and_then(|link| link.parse::<SocketAddr>().ok());
            links.extend(own.map(|link| (reached(link), Some(group.node.id))));
        }
        let known = remembered::load(state);
        if let Ok(survey) = gateways::look(group, known.clone(), self.discovery_port, &self.lan).await {
            for gateway in &survey.gateways {
                note(gateway.id, now, None);
            }
            links.extend(survey.links().into_iter().map(|seen| (seen.link, Some(seen.id))));
        }
        for address in known {
            links.entry(address).or_insert(None);
        }
        let (Ok(config), membership) = (tls::link_client(group), Membership::new(group.clone())) else {
            return;
        };
        let tasks = TaskTracker::new();
        let answers = links.into_iter().take(MAX_GATEWAYS).map(|(address, id)| {
            let (config, membership, tasks) = (config.clone(), membership.clone(), tasks.clone());
            async move {
                let link = Link::dial(address, id, config, membership, &tasks).await.ok()?;
                let permit = authority.permit(group.node.id, link.gateway.id).ok()?;
                let answer = roster::fetch(&link, &permit).await.ok();
                link.retire();
                answer
            }
        });
        for sighting in join_all(answers).await.into_iter().flatten().flatten() {
            if let Some(id) = NodeId::parse(&sighting.id) {
                note(id, now.saturating_sub(sighting.ago), sighting.version);
            }
        }
    }
}

/// Where this machine's own link port is reached from here.
fn reached(link: SocketAddr) -> SocketAddr {
    match link.ip().is_unspecified() {
        true => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), link.port()),
        false => link,
    }
}

fn rows(
    members: Vec<Member>,
    group: &Group,
    leaving: &BTreeSet<NodeId>,
    seen: &BTreeMap<NodeId, Seen>,
) -> Vec<Row> {
    let mut unlisted: BTreeSet<NodeId> = group.update.revoked().clone();
    let of = |id: &str| NodeId::parse(id).and_then(|id| seen.get(&id)).cloned();
    let mut rows: Vec<Row> = Vec::new();
    for member in members {
        let id = NodeId::parse(&member.id);
        let is_removed = id.is_some_and(|id| unlisted.remove(&id));
        let seen = of(&member.id);
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
    let others = unlisted.into_iter().map(|id| Row {
        name: None,
        id: id.to_string(),
        role: None,
        state: "removed",
        joined: None,
        left: None,
        last_seen: None,
        version: None,
        is_this_machine: false,
    });
    rows.extend(others);
    rows
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
        let is_member = row.state == "member";
        let seen = row.last_seen.map(|at| match now.saturating_sub(at) {
            // One that has left was there at the most.
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
