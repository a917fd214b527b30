//! Whether the group has removed this machine, for commands that sign with the group's key: the key still signs, but nobody hears
//! of it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use super::ask;
use crate::config::proxies::configured_proxies;
use crate::control;
use crate::link::client::{DialError, Link};
use crate::link::tls;
use crate::peers::remembered;
use crate::problem::Problem;
use crate::sys::state::StateDir;
use crate::trust::group::Group;
use crate::trust::membership::Membership;

/// How long gateways may take to answer.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long the others may take once one of them has accepted a link.
const OTHERS: Duration = Duration::from_millis(500);
/// Maximum gateways that are asked.
const MAX_GATEWAYS: usize = 16;

/// Refuses to sign on a machine that was removed from the group.
///
/// # Errors
/// That it was.
pub(super) async fn refuse(state: &StateDir) -> Result<(), Problem> {
    match Group::load(state) {
        Ok(Some(group)) if is_removed(state, &group).await => Err(problem(&group)),
        _ => Ok(()),
    }
}

/// What is told on a machine that was removed from the group.
pub(super) fn problem(group: &Group) -> Problem {
    Problem::new(format!("this machine was removed from the group '{}'", group.name))
        .after(Problem::new(
            "no member accepts its links, so nobody hears of what it signs, although it still holds the group's key",
        ))
        .hint(
            "run this on another machine with the group's key. If there is none, make this one a member again: 'laneway ca \
             export FILE', 'laneway leave --yes', 'laneway ca import FILE', and 'laneway up' with the options that it had",
        )
}

/// What is told where this machine is to join a group: that it was removed from the one whose keys it still has. `None` when it
/// was not.
pub(super) async fn before_joining(state: &StateDir) -> Option<Problem> {
    let group = Group::load(state).ok()??;
    is_removed(state, &group).await.then(|| {
        Problem::usage(format!("this machine was removed from the group '{}', and still has its keys", group.name))
            .hint("run 'laneway leave --yes', which stops its node and deletes the old keys; then run this line again")
    })
}

/// Whether the group has removed this machine. It is not sent the update that says so: gateways that it knows prove it when they
/// refuse its link. One that does is enough, whatever others have not heard yet or do not say.
pub(super) async fn is_removed(state: &StateDir, group: &Group) -> bool {
    let membership = Membership::of_node(group.clone(), state);
    if membership.is_removed() {
        return true;
    }
    let Ok(config) = tls::link_client(group) else { return false };
    let tasks = TaskTracker::new();
    let known = known(state, group).into_iter().take(MAX_GATEWAYS);
    let mut dials: FuturesUnordered<_> =
        known.map(|address| Link::dial(address, None, config.clone(), membership.clone(), &tasks)).collect();
    let mut until = Instant::now() + DEADLINE;
    while let Ok(Some(dialled)) = timeout_at(until, dials.next()).await {
        match dialled {
            Ok(link) => {
                link.retire();
                until = until.min(Instant::now() + OTHERS);
            }
            Err(DialError::Removed(_)) => return true,
            Err(_) => {}
        }
    }
    false
}

/// The gateways that this machine has used before, and those that its node knows.
fn known(state: &StateDir, group: &Group) -> BTreeSet<SocketAddr> {
    let mut known: BTreeSet<_> = remembered::load(state).into_iter().collect();
    let running =
        control::running_proxies(state.path()).unwrap_or_else(|| configured_proxies(None).addresses);
    let proxy = running.first().copied();
    if let Some(node) = proxy.and_then(|proxy| ask::snapshot(ask::reachable(proxy)).ok())
        && node.node.id == group.node.id.short()
    {
        known.extend(node.gateways.iter().filter_map(|gateway| gateway.address.parse::<SocketAddr>().ok()));
    }
    known
}
