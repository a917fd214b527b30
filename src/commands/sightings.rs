//! Whom gateways have seen: what they answer to the machine with the group's key, and what it saved of that.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use futures_util::future::join_all;
use tokio_util::task::TaskTracker;

use super::local_port::LocalPort;
use super::{ask, gateways};
use crate::failure::with_causes;
use crate::gateway::served::{self, Seen};
use crate::link::client::Link;
use crate::link::{roster, tls};
use crate::peers::options::PORT;
use crate::peers::remembered;
use crate::problem::Problem;
use crate::sys::state::StateDir;
use crate::trust::authority::{Authority, Names};
use crate::trust::clock;
use crate::trust::group::Group;
use crate::trust::membership::Membership;
use crate::wire::id::NodeId;

/// Maximum gateways that are asked.
const MAX_GATEWAYS: usize = 64;

/// Where gateways are looked for.
#[derive(Debug, clap::Args)]
pub struct Where {
    #[command(flatten)]
    port: LocalPort,
    /// The UDP port of discovery
    #[arg(long, env = "LANEWAY_DISCOVERY_PORT", value_name = "PORT", default_value_t = PORT)]
    discovery_port: u16,
    /// An interface or local address to query on; repeatable [default: all except loopback]
    #[arg(long, env = "LANEWAY_LAN", value_name = "NAME|ADDR", value_delimiter = ',')]
    lan: Vec<String>,
}

/// The members that were seen.
#[derive(Debug, Default)]
pub(super) struct Sightings(BTreeMap<NodeId, Seen>);

impl Sightings {
    /// Those that are saved.
    pub(super) fn saved(state: &StateDir) -> Self {
        let mut seen = Self::default();
        for (id, of) in served::load(state) {
            if let Some(id) = NodeId::parse(&id) {
                seen.note(id, of);
            }
        }
        seen
    }

    /// Who was seen when.
    pub(super) fn members(&self) -> &BTreeMap<NodeId, Seen> {
        &self.0
    }

    /// Their names.
    pub(super) fn names(&self) -> Names {
        self.0.iter().map(|(id, seen)| (*id, seen.name.clone())).collect()
    }

    fn note(&mut self, id: NodeId, seen: Seen) {
        self.0.entry(id).or_default().merge(seen);
    }

    fn save(&self, state: &StateDir) {
        let saved = self.0.iter().map(|(id, of)| (id.to_string(), of.clone())).collect();
        if let Err(error) = served::save(state, &saved) {
            tracing::warn!(
                error = with_causes(&error),
                "the list of the members that were seen cannot be saved"
            );
        }
    }
}

impl Where {
    /// Fails when `--lan` names something that this machine does not have.
    ///
    /// # Errors
    /// A usage problem, with the interfaces that exist.
    pub(super) fn check(&self) -> Result<(), Problem> {
        super::check_lan(&self.lan)
    }

    /// Asks this machine's node, and every gateway that answers on the LAN or is remembered; and saves what they say.
    pub(super) async fn ask(
        &self,
        authority: &Authority,
        group: &Group,
        state: &StateDir,
        seen: &mut Sightings,
    ) {
        self.ask_all(authority, group, state, seen).await;
        seen.save(state);
    }

    async fn ask_all(&self, authority: &Authority, group: &Group, state: &StateDir, seen: &mut Sightings) {
        let mut links: BTreeMap<SocketAddr, Option<NodeId>> = BTreeMap::new();
        if let Ok(node) = self.port.address(Some(state.path())).and_then(ask::snapshot)
            && node.node.id == group.node.id.short()
        {
            seen.note(group.node.id, Seen::now(Some(&group.node.name), Some(&node.node.version)));
            let own = node.node.link.and_then(|link| link.parse::<SocketAddr>().ok());
            links.extend(own.map(|link| (reached(link), Some(group.node.id))));
        }
        let known = remembered::load(state);
        if let Ok(survey) = gateways::look(group, known.clone(), self.discovery_port, &self.lan).await {
            for gateway in &survey.gateways {
                seen.note(gateway.id, Seen::now(Some(&gateway.name), None));
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
        let now = clock::now().as_secs();
        for sighting in join_all(answers).await.into_iter().flatten().flatten() {
            if let Some(id) = NodeId::parse(&sighting.id) {
                let at = now.saturating_sub(sighting.ago);
                seen.note(id, Seen { at, name: sighting.name, version: sighting.version });
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
